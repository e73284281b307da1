//! Procfiles: `name: command line` per process type, as Heroku and foreman read them.

use super::text::shell_command;
use super::{Section, Stack, Unreadable};

/// The port of the first process type, and the step to the next: foreman's.
const PORT_FIRST: u32 = 5000;
const PORT_STEP: u32 = 100;

/// Reads one. `directory` is where it lies: the working directory of its processes.
///
/// # Errors
/// A line that is no process type.
pub fn import(text: &str, directory: &str) -> Result<Stack, Unreadable> {
    let mut stack = Stack::default();
    let mut port = PORT_FIRST;
    for (line, written) in (1_u32..).zip(text.lines()) {
        let written = written.trim();
        if written.is_empty() || written.starts_with('#') {
            continue;
        }
        let entry = written.split_once(':').map(|(n, c)| (n.trim(), c.trim()));
        let name_of = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let (name, command) = match entry {
            Some((name, command))
                if !name.is_empty() && name.chars().all(name_of) && !command.is_empty() =>
            {
                (name, command)
            }
            _ => {
                return Err(Unreadable {
                    line,
                    reason: format!("not `name: command`: {written}"),
                });
            }
        };
        let about = format!("process type \"{name}\"");
        if name == "release" {
            stack.note(
                line,
                &about,
                "runs once per deployment, not all the time; left out",
            );
            continue;
        }
        let mut watcher = Section::new(format!("watcher:{name}"));
        watcher.set("cmd", shell_command(command));
        watcher.set("working_dir", directory);
        watcher.set("copy_env", "True");
        stack.push(line, watcher);
        let mut environment = Section::new(format!("env:{name}"));
        environment.set("PORT", port.to_string());
        stack.push(line, environment);
        port = port.saturating_add(PORT_STEP);
    }
    if !stack.sections.is_empty() {
        stack.note(
            0,
            ".env",
            "foreman reads this file for every process: say `env_file = .env` where it is needed",
        );
    }
    Ok(stack)
}

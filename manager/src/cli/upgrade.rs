//! `kingpole upgrade`: the manager or the process kernel becomes another program, in place.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use kingpole_protocol::places::KERNEL_SOCKET;
use serde_json::{Value, json};

use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::kernel::unreachable_socket;
use super::run::kernel_program;
use super::{print, print_json};
use crate::shells::control::upgrade::{Accepted, Wanted};
use crate::shells::place::{Living, living_manager};
use crate::shells::upgrade::{PATIENCE, Report};

/// How long the kernel may rehearse and change; it gives up on its own long before.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a manager may take to rehearse and to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two looks at how far it is.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What the kernel's door shows when it waits for a line.
const PROMPT: &[u8] = b"\n> ";

/// Most bytes of an answer of the kernel's door.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const EXPLANATION: &str = "\
say what is to be replaced:
  kingpole upgrade --manager [PATH]   the manager goes on as PATH, or as what is installed now
  kingpole upgrade --kernel [PATH]    the process kernel goes on as PATH, or as the kingpole-kernel
                                      beside this program
Add --check to rehearse only. Processes, sockets and output are not touched by either; if anything
is wrong, what runs goes on.";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Replace the manager's program; without PATH by what is installed now
    #[arg(long, value_name = "PATH", num_args = 0..=1, conflicts_with = "kernel")]
    manager: Option<Option<PathBuf>>,
    /// Replace the process kernel's program; without PATH by the one beside this program
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    kernel: Option<Option<PathBuf>>,
    /// Only rehearse, and say what would be carried
    #[arg(long)]
    check: bool,
    /// How long the new manager may take until it is healthy: 10, 1.5s, 500ms, 2m
    #[arg(long, value_name = "TIME", value_parser = super::change::parse_duration)]
    patience: Option<Duration>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    match (&arguments.manager, &arguments.kernel) {
        (Some(program), _) => upgrade_manager(arguments, program.as_deref(), dir),
        (None, Some(program)) => upgrade_kernel(arguments, program.as_deref(), dir),
        (None, None) => Err(Failure::new(Exit::Usage, EXPLANATION)),
    }
}

/// How it went, in one shape for both.
fn conclude(arguments: &Arguments, done: bool, message: &str, details: Value) -> Outcome {
    if arguments.json {
        let what = if arguments.manager.is_some() {
            "manager"
        } else {
            "kernel"
        };
        let mut outcome = json!({
            "upgraded": what, "check": arguments.check, "done": done, "message": message,
        });
        if let (Some(outcome), Value::Object(details)) = (outcome.as_object_mut(), details) {
            outcome.extend(details);
        }
        print_json(&outcome)?;
        return Ok(if done { Exit::Done } else { Exit::Failed });
    }
    match done {
        true => {
            print(&format!("{message}\n"))?;
            Ok(Exit::Done)
        }
        false => Err(Failure::failed(message)),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn upgrade_manager(arguments: &Arguments, program: Option<&Path>, dir: &Path) -> Outcome {
    let client = ManagerClient::new(dir)?;
    let patience = arguments.patience.unwrap_or(PATIENCE);
    let wanted = Wanted {
        program: program.map(absolute),
        check: arguments.check,
        patience_ms: Some(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)),
    };
    let before = client.get("/v1/upgrade")?;
    let answer = match client.post("/v1/upgrade", &wanted, Patience::For(LEAVE_TIMEOUT)) {
        Ok(answer) => answer,
        Err(Failure {
            exit: Exit::Failed,
            message: Some(message),
        }) => return conclude(arguments, false, &message, json!({})),
        Err(failure) => return Err(failure),
    };
    let accepted: Accepted = serde_json::from_value(answer).map_err(|error| {
        Failure::failed(format!("the manager's answer is not understood: {error}"))
    })?;
    let (program, ready) = (&accepted.going.program, &accepted.going.ready);
    if arguments.check {
        let message = format!(
            "{} is good: release {} reads {} watchers, and {} processes in the process kernel; \
             nothing has happened",
            program.display(),
            ready.release,
            ready.watchers,
            ready.processes
        );
        return conclude(
            arguments,
            true,
            &message,
            json!({ "release": ready.release }),
        );
    }
    if !arguments.json {
        print(&format!(
            "{} is ready (release {}); the manager changes\n",
            program.display(),
            ready.release
        ))?;
    }
    let place = Place {
        dir,
        pid: &before["manager"]["pid"],
    };
    let report = follow(&client, &place, accepted.going.attempt, patience)?;
    let details = serde_json::to_value(&report).unwrap_or_default();
    let (from, to, took) = (&report.from, &report.to, report.took_ms);
    match &report.reason {
        None => {
            let message = format!("manager {from} became {to}; nobody acted for {took} ms");
            conclude(arguments, true, &message, details)
        }
        Some(reason) => {
            let message = format!("manager {to} goes on: {reason}");
            conclude(arguments, false, &message, details)
        }
    }
}

/// Where the manager is that changes.
struct Place<'a> {
    dir: &'a Path,
    pid: &'a Value,
}

/// Asks until somebody knows how the attempt went.
fn follow(
    client: &ManagerClient,
    place: &Place<'_>,
    attempt: u64,
    patience: Duration,
) -> Result<Report, Failure> {
    let deadline = Instant::now() + patience + LEAVE_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = client.get_within("/v1/upgrade", left);
        let report = seen.as_ref().ok().and_then(|answer| {
            let report = serde_json::from_value::<Report>(answer["last"].clone()).ok()?;
            (report.attempt == attempt).then_some(report)
        });
        let ended = || Failure::failed("the manager ended before it had changed; see its log");
        match (report, seen) {
            (Some(report), _) => return Ok(report),
            // Killed: the process is not there any more, or another one has its place.
            (None, Ok(answer)) if answer["manager"]["pid"] != *place.pid => return Err(ended()),
            (None, Err(_)) if living_manager(place.dir) == Living::No => return Err(ended()),
            (None, Err(failure)) if Instant::now() >= deadline => return Err(failure),
            (None, Ok(_)) if Instant::now() >= deadline => {
                return Err(Failure::new(
                    Exit::Unfinished,
                    "the manager does not say how the upgrade went; see its log",
                ));
            }
            // The one before still answers, or was cut off in the middle of that.
            (None, _) => std::thread::sleep(LOOK_PAUSE),
        }
    }
}

fn upgrade_kernel(arguments: &Arguments, program: Option<&Path>, dir: &Path) -> Outcome {
    let program = absolute(&program.map_or_else(kernel_program, Path::to_owned));
    let socket = dir.join(KERNEL_SOCKET);
    let check = if arguments.check { "--check " } else { "" };
    let line = format!("upgrade {check}{}\n", quote(&program.display().to_string()));
    let since = Instant::now();
    let answer = ask_door(&socket, &line).map_err(|error| unreachable_socket(&socket, &error))?;
    let took = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let details = json!({ "program": program.display().to_string(), "took_ms": took });
    match answer.strip_prefix("Error:") {
        Some(reason) => conclude(arguments, false, reason.trim(), details),
        None => conclude(arguments, true, &answer, details),
    }
}

/// As the door takes a word with spaces in it.
fn quote(word: &str) -> String {
    let mut quoted = String::new();
    for letter in word.chars() {
        if letter.is_whitespace() || letter == '\\' {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted
}

/// Says one line at the kernel's door, and gives back what it answers.
fn ask_door(socket: &Path, line: &str) -> std::io::Result<String> {
    let mut door = UnixStream::connect(socket)?;
    door.set_read_timeout(Some(KERNEL_TIMEOUT))?;
    door.set_write_timeout(Some(KERNEL_TIMEOUT))?;
    let _greeting = until_prompt(&mut door)?;
    door.write_all(line.as_bytes())?;
    Ok(until_prompt(&mut door)?.trim().to_owned())
}

fn until_prompt(door: &mut UnixStream) -> std::io::Result<String> {
    let mut said = Vec::new();
    while !said.ends_with(PROMPT) {
        let mut part = [0; 1024];
        let count = door.read(&mut part)?;
        if count == 0 || said.len() > ANSWER_BYTES_MAX {
            let text = String::from_utf8_lossy(&said).trim().to_owned();
            return Err(std::io::Error::other(format!(
                "it closed the connection after {text:?}"
            )));
        }
        said.extend_from_slice(&part[..count]);
    }
    said.truncate(said.len() - PROMPT.len());
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_it_explains() {
        let arguments = Arguments {
            manager: None,
            kernel: None,
            check: false,
            patience: None,
            json: false,
        };
        let failure = run(&arguments, Path::new("/nowhere")).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let message = failure.message.unwrap();
        assert!(message.contains("--manager") && message.contains("--kernel"));
    }

    #[test]
    fn a_path_with_spaces_stays_one_word() {
        assert_eq!(quote("/opt/my kernel\\x"), "/opt/my\\ kernel\\\\x");
    }
}

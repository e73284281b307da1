//! `kingpole signal`: processes get a signal.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{print, print_json};
use crate::command::{Answer, Command, Selection, SignalRequest};
use crate::config::model::SignalNumber;
use crate::engine::{Pid, SignalTarget};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which signal (HUP, SIGHUP, 1), and names of watchers, or patterns such as 'web*'; circusctl's
    /// order NAME [PID] SIGNAL is understood too
    #[arg(value_names = ["SIGNAL", "NAME"], required = true, num_args = 2..)]
    words: Vec<String>,
    /// Only the process with this pid
    #[arg(long)]
    pid: Option<u32>,
    /// Only the process of this worker id
    #[arg(long)]
    worker: Option<u32>,
    /// Only this direct child of the process with the pid
    #[arg(long, value_name = "PID", requires = "pid", conflicts_with = "target")]
    child: Option<u32>,
    /// How wide it is spread from each process
    #[arg(long, value_enum, default_value_t = Target::Process)]
    target: Target,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The process alone
    Process,
    /// Its process group
    Group,
    /// Itself and all that descends from it
    Tree,
    /// All that descends from it, without itself
    Descendants,
    /// Its direct children, without itself
    Children,
}

pub(super) fn parse_signal(text: &str) -> Result<SignalNumber, String> {
    SignalNumber::parse(text).ok_or_else(|| "no such signal; write HUP, SIGHUP or 1".to_owned())
}

/// Which signal is meant for whom, and the pid if it stands there.
fn meaning(mut words: Vec<String>) -> Result<(SignalNumber, Vec<String>, Option<u32>), Failure> {
    if let Some(signal) = words.first().and_then(|word| SignalNumber::parse(word)) {
        words.remove(0);
        return Ok((signal, words, None));
    }
    let Some(signal) = words.last().and_then(|word| SignalNumber::parse(word)) else {
        let first = words.first().map_or("", String::as_str);
        let text = format!("{first:?} is no signal; write HUP, SIGHUP or 1, and then names");
        return Err(Failure::new(Exit::Usage, text));
    };
    words.pop();
    let pid = words.get(1).and_then(|word| word.parse().ok());
    if words.len() == 2 && pid.is_some() {
        words.pop();
        return Ok((signal, words, pid));
    }
    Ok((signal, words, None))
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let (signal, names, pid) = meaning(arguments.words)?;
    let request = SignalRequest {
        selection: Selection {
            watchers: names,
            ..Selection::default()
        },
        signal: signal.0,
        pid: arguments.pid.or(pid),
        worker: arguments.worker,
        child_pid: arguments.child,
        target: match arguments.target {
            Target::Process => SignalTarget::Process,
            Target::Group => SignalTarget::Group,
            Target::Tree => SignalTarget::Tree,
            Target::Descendants => SignalTarget::Descendants,
            Target::Children => SignalTarget::Children,
        },
    };
    let client = ManagerClient::new(dir)?;
    let answer = client.command(&Command::Signal(request), Patience::Usual)?;
    let Answer::Signaled { pids } = &answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    if arguments.json {
        return print_json(&answer);
    }
    if pids.is_empty() {
        return Err(Failure::failed(
            "no process is running there, so none was signalled",
        ));
    }
    let pids: Vec<String> = pids.iter().map(Pid::to_string).collect();
    print(&format!("signalled: {}\n", pids.join(" ")))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<(i32, String, Option<u32>), Failure> {
        let words = words.split(' ').map(str::to_owned).collect();
        meaning(words).map(|(signal, names, pid)| (signal.0, names.join(" "), pid))
    }

    #[test]
    fn both_orders_are_understood() {
        assert_eq!(read("HUP web db"), Ok((1, "web db".to_owned(), None)));
        assert_eq!(read("9 web"), Ok((9, "web".to_owned(), None)));
        assert_eq!(read("web hup"), Ok((1, "web".to_owned(), None)));
        assert_eq!(read("web 4711 15"), Ok((15, "web".to_owned(), Some(4711))));
        let refused = read("web db").unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.message.unwrap().contains("\"web\" is no signal"));
    }
}

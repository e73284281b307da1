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
    /// Which signal: HUP, SIGHUP, 1
    #[arg(value_parser = parse_signal)]
    signal: SignalNumber,
    /// Names of watchers, or patterns such as 'web*'
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
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

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let request = SignalRequest {
        selection: Selection {
            watchers: arguments.names,
            ..Selection::default()
        },
        signal: arguments.signal.0,
        pid: arguments.pid,
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

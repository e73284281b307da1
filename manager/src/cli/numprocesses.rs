//! `kingpole numprocesses`: how many processes are alive.

use std::path::Path;

use clap::Args;

use super::change::Watchers;
use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{print, print_json};
use crate::command::{Answer, Command};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole numprocesses web")]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let command = Command::NumProcesses(arguments.watchers.selection());
    let answer = ManagerClient::new(dir)?.command(&command, Patience::Usual)?;
    let Answer::Number { number } = answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    if arguments.json {
        return print_json(&number);
    }
    print(&format!("{number}\n"))?;
    Ok(Exit::Done)
}

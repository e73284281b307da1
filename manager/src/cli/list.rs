//! `kingpole list`: names of watchers.

use std::path::Path;

use clap::Args;

use super::change::Watchers;
use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{print, print_json};
use crate::command::{Answer, Command};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let command = Command::List(arguments.watchers.selection());
    let answer = ManagerClient::new(dir)?.command(&command, Patience::Usual)?;
    let Answer::List { watchers } = &answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    if arguments.json {
        return print_json(watchers);
    }
    let lines: String = watchers.iter().map(|name| format!("{name}\n")).collect();
    print(&lines)?;
    Ok(Exit::Done)
}

//! `kingpole options`: all options of a watcher.

use std::path::Path;

use clap::Args;

use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::options_args::describe;
use super::{print, print_json};
use crate::command::{Answer, Command, GetOptions};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole options web")]
pub(super) struct Arguments {
    /// Name of the watcher
    #[arg(value_name = "NAME")]
    watcher: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let request = GetOptions {
        watcher: arguments.watcher,
        keys: Vec::new(),
    };
    show(&Command::Options(request), arguments.json, dir)
}

/// Asks for options and shows them.
pub(super) fn show(command: &Command, json: bool, dir: &Path) -> Outcome {
    let answer = ManagerClient::new(dir)?.command(command, Patience::Usual)?;
    let Answer::Options { options } = &answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    if json {
        return print_json(options);
    }
    print(&describe(options))?;
    Ok(Exit::Done)
}

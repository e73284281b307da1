//! `kingpole start`: watchers shall run.

use std::path::Path;

use clap::Args;

use super::change::{Waiting, Watchers, send};
use super::failure::Outcome;
use crate::command::{Change, Command};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments { watchers, waiting } = arguments;
    let change = Change {
        selection: watchers.selection(),
        wait: waiting.wait(),
    };
    send(&Command::Start(change), &waiting, dir)
}

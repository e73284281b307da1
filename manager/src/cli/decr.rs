//! `kingpole decr`: watchers shall have fewer processes.

use std::path::Path;

use clap::Args;

use super::change::{SomeWatchers, Waiting, send};
use super::failure::Outcome;
use crate::command::{Command, Step};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: SomeWatchers,
    /// By how many
    #[arg(long, default_value_t = 1)]
    by: u32,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments {
        watchers,
        by,
        waiting,
    } = arguments;
    let step = Step {
        selection: watchers.selection(),
        by,
        wait: waiting.wait(),
    };
    send(&Command::Decr(step), &waiting, dir)
}

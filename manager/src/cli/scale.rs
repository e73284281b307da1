//! `kingpole scale`: watchers shall have so many processes.

use std::path::Path;

use clap::Args;

use super::change::{SomeWatchers, Waiting, send};
use super::failure::Outcome;
use crate::command::{Command, Scale};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole scale 4 web --wait")]
pub(super) struct Arguments {
    /// How many processes each shall have
    #[arg(value_name = "NUMBER")]
    numprocesses: u32,
    #[command(flatten)]
    watchers: SomeWatchers,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments {
        numprocesses,
        watchers,
        waiting,
    } = arguments;
    let request = Scale {
        selection: watchers.selection(),
        numprocesses,
        wait: waiting.wait(),
    };
    send(&Command::Scale(request), &waiting, dir)
}

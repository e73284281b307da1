//! `kingpole rm`: watchers go.

use std::path::Path;

use clap::Args;

use super::change::{SomeWatchers, Waiting, send};
use super::failure::Outcome;
use crate::command::{Command, Remove, Stopping};

#[derive(Debug, Args)]
#[command(
    after_help = "A watcher of the file stays away until the file says something else about it, or \
quit.\n\nExamples:\n  kingpole rm tick --wait\n  kingpole rm web --nostop"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: SomeWatchers,
    /// Let their processes run on until they end by themselves
    #[arg(long)]
    nostop: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let request = Remove {
        selection: arguments.watchers.selection(),
        stopping: Stopping::from(arguments.nostop),
        wait: arguments.waiting.wait(),
    };
    send(&Command::Rm(request), &arguments.waiting, dir)
}

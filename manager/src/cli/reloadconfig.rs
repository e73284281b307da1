//! `kingpole reloadconfig`: the configuration file is read again.

use std::path::Path;

use clap::Args;

use super::change::{Waiting, send};
use super::failure::Outcome;
use crate::command::{Command, ReloadConfig};

#[derive(Debug, Args)]
#[command(
    after_help = "Exactly what changed in the file is done: watchers that are new are started, those \
that are gone are stopped, and only processes that would be started otherwise are restarted.\n\nExamples:\n  \
kingpole reloadconfig --dry-run\n  kingpole reloadconfig --wait"
)]
pub(super) struct Arguments {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments { dry_run, waiting } = arguments;
    let wait = waiting.wait();
    send(
        &Command::ReloadConfig(ReloadConfig { dry_run, wait }),
        &waiting,
        dir,
    )
}

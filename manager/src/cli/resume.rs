//! `kingpole resume`: processes are started again.

use std::path::Path;

use clap::Args;

use super::change::{ChangeArguments, send};
use super::failure::Outcome;
use crate::command::Command;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kingpole resume web\n  kingpole resume 'web*'")]
pub(super) struct Arguments {
    #[command(flatten)]
    change: ChangeArguments,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let (change, waiting) = arguments.change.change();
    send(&Command::Resume(change), &waiting, dir)
}

//! `kingpole suspend`: no processes are started.

use std::path::Path;

use clap::Args;

use super::change::{ChangeArguments, send};
use super::failure::Outcome;
use crate::command::Command;

#[derive(Debug, Args)]
#[command(
    after_help = "What runs runs on, and what ends is not replaced, also under later managers.\n\nExamples:\n  kingpole suspend web\n  kingpole suspend 'web*'"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    change: ChangeArguments,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let (change, waiting) = arguments.change.change();
    send(&Command::Suspend(change), &waiting, dir)
}

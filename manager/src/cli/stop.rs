//! `kingpole stop`: watchers shall not run until somebody starts them.

use std::path::Path;

pub(super) use super::change::ChangeArguments as Arguments;
use super::change::send;
use super::failure::Outcome;
use crate::command::Command;

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let (change, waiting) = arguments.change();
    send(&Command::Stop(change), &waiting, dir)
}

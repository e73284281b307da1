//! `kingpole incr`: watchers shall have more processes.

use std::path::Path;

pub(super) use super::change::StepArguments as Arguments;
use super::change::send;
use super::failure::Outcome;
use crate::command::Command;

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let (step, waiting) = arguments.step();
    send(&Command::Incr(step), &waiting, dir)
}

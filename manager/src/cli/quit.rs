//! `kingpole quit`: the manager leaves and takes along what is not `use_papa`.

use std::path::Path;

use clap::Args;

use super::change::{Waiting, send};
use super::failure::Outcome;
use crate::command::{Command, End};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let end = End {
        wait: arguments.waiting.wait(),
    };
    send(&Command::Quit(end), &arguments.waiting, dir)
}

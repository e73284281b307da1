//! `kingpole globaloptions`: options of the manager.

use std::path::Path;

use clap::Args;

use super::failure::Outcome;
use super::options;
use crate::command::{Command, GlobalOptions};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole globaloptions endpoint")]
pub(super) struct Arguments {
    /// Only this one
    #[arg(value_name = "OPTION")]
    option: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments { option, json } = arguments;
    options::show(&Command::GlobalOptions(GlobalOptions { option }), json, dir)
}

//! `kingpole get`: some options of a watcher.

use std::path::Path;

use clap::Args;

use super::failure::Outcome;
use super::options;
use crate::command::{Command, GetOptions};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole get web cmd numprocesses")]
pub(super) struct Arguments {
    /// Name of the watcher
    #[arg(value_name = "NAME")]
    watcher: String,
    /// Which options
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments {
        watcher,
        keys,
        json,
    } = arguments;
    options::show(&Command::Get(GetOptions { watcher, keys }), json, dir)
}

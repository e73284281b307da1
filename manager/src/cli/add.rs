//! `kingpole add`: a watcher that no file knows.

use std::path::Path;

use clap::Args;

use super::change::{Waiting, send};
use super::failure::Outcome;
use super::options_args::{OptionArguments, parse_pair};
use crate::command::{Add, Command};
use crate::config::words;

#[derive(Debug, Args)]
#[command(
    after_help = "It stays until it is removed, also for later managers.\n\nExamples:\n  kingpole add \
--start tick -- sh -c 'while sleep 1; do date; done'\n  kingpole add web --set numprocesses=3 --set \
copy_env=true -- ./serve"
)]
pub(super) struct Arguments {
    /// Name of the new watcher
    #[arg(value_name = "NAME")]
    name: String,
    /// What to run, word for word
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
    /// Start it at once
    #[arg(long)]
    start: bool,
    /// Further options, as in a section [watcher:NAME]
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    options: Vec<(String, String)>,
    #[command(flatten)]
    more: OptionArguments,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let mut options = arguments.more.with(arguments.options);
    let quoted: Vec<String> = arguments
        .command
        .iter()
        .map(|it| words::quote(it))
        .collect();
    options.insert("cmd".to_owned(), quoted.join(" ").into());
    let request = Add {
        name: arguments.name,
        options,
        start: arguments.start,
        wait: arguments.waiting.wait(),
        ..Add::default()
    };
    send(&Command::Add(request), &arguments.waiting, dir)
}

//! `kingpole rollback`: an earlier version of a watcher is rolled out again.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::change::parse_duration;
use super::failure::Outcome;
use super::rolling::{self, Following, Pace};
use crate::command::{Caller, Command, Rollback, Wait};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kingpole rollback web
  kingpole history web
  kingpole rollback web 3 --timeout 30")]
pub(super) struct Arguments {
    /// Name of the watcher
    #[arg(value_name = "NAME")]
    name: String,
    /// Number of the version, as history shows it; the one before the current one if none is given
    #[arg(id = "to", value_name = "VERSION")]
    version: Option<u64>,
    #[command(flatten)]
    pace: Pace,
    /// Each new process has so long to become ready [default: ready_timeout, 60]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    following: Following,
    /// Print a line of JSON for each change
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let request = Rollback {
        watcher: arguments.name,
        version: arguments.version,
        pace: arguments.pace.options(arguments.timeout),
        wait: Wait::No,
        by: Caller::default(),
    };
    rolling::run(
        &Command::Rollback(request),
        &arguments.following,
        arguments.json,
        dir,
    )
}

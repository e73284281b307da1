//! `kingpole profile`: one process more of a watcher, with other variables, for a while.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::change::{Waiting, parse_duration, send};
use super::failure::Outcome;
use super::options_args::parse_pair;
use crate::command::{Add, Command};

#[derive(Debug, Args)]
#[command(
    after_help = "It is a watcher NAME-profile: with the same command, user and sockets, so that it serves its part of the \
requests, and with its own output, which is not written to log files. When the time is over it is stopped as the others would \
be, also by a later manager; end it earlier with kingpole rm NAME-profile.

Examples:
  kingpole profile web --env PYTHONPROFILEIMPORTTIME=1 --seconds 30
  kingpole logs -f web-profile"
)]
pub(super) struct Arguments {
    /// Name of the watcher
    #[arg(value_name = "NAME")]
    name: String,
    /// A variable of its environment besides those of the others (repeat it for several)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// How long it runs: 60, 90s, 2m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60")]
    seconds: Duration,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let lifetime = u64::try_from(arguments.seconds.as_millis()).unwrap_or(u64::MAX);
    let env: BTreeMap<String, String> = arguments.env.into_iter().collect();
    let request = Add {
        wait: arguments.waiting.wait(),
        ..Add::profile(&arguments.name, env, lifetime)
    };
    send(&Command::Add(request), &arguments.waiting, dir)
}

//! `kingpole deploy`: a new version of a watcher, rolled out like a reload, and taken back if it does
//! not work.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::change::parse_duration;
use super::failure::Outcome;
use super::options_args::parse_pair;
use super::rolling::{self, Following, Pace};
use crate::command::{Caller, Command, Deploy, Wait};

#[derive(Debug, Args)]
#[command(
    after_help = "Processes of the new version replace the old ones while never fewer than \
--min-active are ready. At the first that does not become ready within --timeout all is put back, the \
options too. What is deployed holds until the file says something else, also for later managers.

Examples:
  kingpole deploy web --cmd '/srv/web-2.1/bin/serve --fd 3'
  kingpole deploy web --env RELEASE=2.1 --env COLOUR=blue --timeout 30
  kingpole deploy web working_dir=/srv/web-2.1 --min-active 2
  kingpole history web
  kingpole rollback web"
)]
pub(super) struct Arguments {
    /// Name of the watcher
    #[arg(value_name = "NAME")]
    name: String,
    /// Further options and their values, as with set
    #[arg(value_name = "KEY=VALUE", value_parser = parse_pair)]
    options: Vec<(String, String)>,
    /// What its processes are started with
    #[arg(long, value_name = "COMMAND")]
    cmd: Option<String>,
    /// Add a variable to their environment, or change it (repeat it for several)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
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
    let given = arguments.options.into_iter();
    let cmd = arguments.cmd.map(|cmd| ("cmd".to_owned(), cmd));
    let options: BTreeMap<String, Value> = given
        .chain(cmd)
        .map(|(key, text)| (key, Value::String(text)))
        .collect();
    let request = Deploy {
        watcher: arguments.name,
        options,
        env: arguments.env.into_iter().collect(),
        pace: arguments.pace.options(arguments.timeout),
        wait: Wait::No,
        by: Caller::default(),
    };
    rolling::run(
        &Command::Deploy(request),
        &arguments.following,
        arguments.json,
        dir,
    )
}

//! `kingpole kill`: processes of watchers are stopped and replaced.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::change::{SomeWatchers, Waiting, parse_duration, send};
use super::failure::Outcome;
use super::signal::parse_signal;
use crate::command::{Command, KillRequest};
use crate::config::model::SignalNumber;

#[derive(Debug, Args)]
#[command(
    after_help = "They are asked as the watcher stops its processes, killed after the graceful \
timeout, and replaced.\n\nExamples:\n  kingpole kill web --pid 4102\n  kingpole kill web --signal QUIT \
--graceful-timeout 5s --wait"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: SomeWatchers,
    /// Only the process with this pid
    #[arg(long)]
    pid: Option<u32>,
    /// Only the process of this worker id
    #[arg(long)]
    worker: Option<u32>,
    /// Signal instead of the watcher's stop_signal: HUP, SIGHUP, 1
    #[arg(long, value_parser = parse_signal)]
    signal: Option<SignalNumber>,
    /// Time instead of the watcher's graceful_timeout: 10, 1.5s, 500ms, 2m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    graceful_timeout: Option<Duration>,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let timeout = arguments.graceful_timeout;
    let request = KillRequest {
        selection: arguments.watchers.selection(),
        pid: arguments.pid,
        worker: arguments.worker,
        signal: arguments.signal.map(|signal| signal.0),
        graceful_timeout_ms: timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        wait: arguments.waiting.wait(),
    };
    send(&Command::Kill(request), &arguments.waiting, dir)
}

//! `kingpole reload`: processes are replaced without an interruption.

use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::change::{Waiting, Watchers, parse_duration, send};
use super::failure::Outcome;
use super::rolling::{self, Following, Pace};
use crate::command::{Caller, Command, Reload, ReloadMethod, Roll, RollOptions, Wait};

#[derive(Debug, Args)]
#[command(
    after_help = "With --rolling, which --min-active, --max-surge, --skew, --force, --workers and --dry-run \
imply, never fewer than --min-active processes are ready, and it is waited for. It stops at the first \
process that does not become ready within --timeout, puts back what it replaced, and says why.

Examples:
  kingpole reload web
  kingpole reload web --rolling
  kingpole reload web api --min-active 2 --max-surge 2 --timeout 30
  kingpole reload web --max-surge 0 --min-active 1 --skew 2
  kingpole reload 'web*' --rolling --dry-run"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// How processes are replaced
    #[arg(long, value_enum, default_value_t = Method::Graceful, conflicts_with = "rolling")]
    method: Method,
    /// Replace processes while enough of them are ready, and stop at the first that does not
    /// become ready
    #[arg(long)]
    rolling: bool,
    #[command(flatten)]
    pace: Pace,
    /// Rolling: replace only so many of the oldest processes
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
    /// Rolling: each new process has so long to become ready [default: ready_timeout, 60]; else: wait at most so
    /// long (implies --wait)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    following: Following,
    /// Print the answer as JSON; of a rolling run a line for each change
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Start all new ones, then stop the old ones; SIGHUP to watchers with send_hup
    Graceful,
    /// One after the other
    Sequential,
    /// Stop all old ones, then start new ones
    Terminate,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let Arguments {
        watchers,
        method,
        rolling,
        pace,
        workers,
        dry_run,
        wait,
        timeout,
        following,
        json,
    } = arguments;
    let selection = watchers.selection();
    if rolling || dry_run || pace.is_given() || workers.is_some() || following.is_given() {
        let request = Roll {
            selection,
            options: RollOptions {
                workers,
                ..pace.options(timeout)
            },
            dry_run,
            wait: Wait::No,
            by: Caller::default(),
        };
        return rolling::run(&Command::Roll(request), &following, json, dir);
    }
    let method = match method {
        Method::Graceful => ReloadMethod::Graceful,
        Method::Sequential => ReloadMethod::Sequential,
        Method::Terminate => ReloadMethod::Terminate,
    };
    let waiting = Waiting::new(wait, timeout, json);
    let reload = Reload {
        selection,
        method,
        wait: waiting.wait(),
    };
    send(&Command::Reload(reload), &waiting, dir)
}

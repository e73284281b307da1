//! `kingpole reload`: processes are replaced without an interruption.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::change::{Waiting, Watchers, send};
use super::failure::Outcome;
use crate::command::{Command, Reload, ReloadMethod};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// How processes are replaced
    #[arg(long, value_enum, default_value_t = Method::Graceful)]
    method: Method,
    #[command(flatten)]
    waiting: Waiting,
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
        waiting,
    } = arguments;
    let method = match method {
        Method::Graceful => ReloadMethod::Graceful,
        Method::Sequential => ReloadMethod::Sequential,
        Method::Terminate => ReloadMethod::Terminate,
    };
    let reload = Reload {
        selection: watchers.selection(),
        method,
        wait: waiting.wait(),
    };
    send(&Command::Reload(reload), &waiting, dir)
}

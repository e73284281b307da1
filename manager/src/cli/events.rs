//! `kingpole events`: what happened lately, and what goes on happening.

use std::path::Path;

use clap::Args;
use serde::Deserialize;

use super::client::{ManagerClient, encode_query};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;
use crate::shells::control::wire::EventLine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Names of watchers, or patterns such as 'web*'; all when none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// How many recent events to begin with; the manager keeps its last 1024
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    lines: usize,
    /// Leave after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// What the manager sends.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Received {
    Event(Box<EventLine>),
    Dropped { dropped: u64 },
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut path = format!("/v1/events?count={}", arguments.lines);
    if arguments.follow {
        path.push_str("&follow=1");
    }
    for name in &arguments.names {
        path.push_str("&name=");
        path.push_str(&encode_query(name));
    }
    let result = ManagerClient::new(dir)?.lines(&path, |line| {
        let received = serde_json::from_slice(line).map_err(|error| {
            Failure::failed(format!("the manager's answer is not understood: {error}"))
        })?;
        let text = match &received {
            Received::Event(event) => show(event),
            Received::Dropped { dropped } => format!("{dropped} events were too many to be told"),
        };
        if arguments.json {
            print(&format!("{}\n", String::from_utf8_lossy(line)))?;
        } else {
            print(&format!("{text}\n"))?;
        }
        if matches!(received, Received::Event(_)) {
            left -= 1;
        }
        if left == 0 {
            return Err(Failure::new(Exit::Done, ""));
        }
        Ok(())
    });
    match result {
        Err(failure) if left == 0 => {
            drop(failure);
            Ok(Exit::Done)
        }
        Err(failure) => Err(failure),
        Ok(()) if arguments.follow => Err(Failure::new(
            Exit::NotRunning,
            "the manager has ended; events go on with the next one",
        )),
        Ok(()) => Ok(Exit::Done),
    }
}

fn show(event: &EventLine) -> String {
    let mut text = format!("{}  {}  {}", event.time, event.watcher, event.action);
    let mut add = |what: String| {
        text.push(' ');
        text.push_str(&what);
    };
    if let Some(pid) = event.pid {
        add(format!("pid {pid}"));
    }
    if let Some(code) = event.exit_code {
        add(match code {
            0.. => format!("exit status {code}"),
            _ => format!("signal {}", code.unsigned_abs()),
        });
    }
    if let Some(hook) = &event.hook {
        add(hook.clone());
    }
    if let Some(error) = &event.error {
        add(format!("({error})"));
    }
    text
}

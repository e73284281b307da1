//! `kingpole events`: what happened lately, and what goes on happening.

use std::path::Path;

use clap::Args;
use serde::Deserialize;

use super::client::{ManagerClient, Part, encode_query};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::following::{Course, follow};
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
    let mut newest_ns = 0;
    let mut tell = |course: Course, line: &[u8]| {
        let received = serde_json::from_slice(line).map_err(|error| {
            Failure::failed(format!("the manager's answer is not understood: {error}"))
        })?;
        if let Received::Event(event) = &received {
            // The next manager tells all that it knows; what happened before is known.
            if course == Course::Again && event.time_ns <= newest_ns {
                return Ok(());
            }
            newest_ns = newest_ns.max(event.time_ns);
        }
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
    };
    let client = ManagerClient::new(dir)?;
    let result = if arguments.follow {
        let path = |course| match course {
            Course::First => query(arguments, arguments.lines),
            Course::Again => query(arguments, EVENTS_MAX),
        };
        follow(&client, path, |course, part| match part {
            Part::Reached | Part::Begins => Ok(()),
            Part::Line(line) => tell(course, line),
        })
    } else {
        client.lines(&query(arguments, arguments.lines), |line| {
            tell(Course::First, line)
        })
    };
    match result {
        // Said by `tell` itself: that was the last one that was wanted.
        Err(failure) if failure.exit == Exit::Done => Ok(Exit::Done),
        Err(failure) => Err(failure),
        Ok(()) => Ok(Exit::Done),
    }
}

/// As many as a manager keeps.
const EVENTS_MAX: usize = 1024;

fn query(arguments: &Arguments, count: usize) -> String {
    let mut path = format!("/v1/events?count={count}");
    if arguments.follow {
        path.push_str("&follow=1");
    }
    for name in &arguments.names {
        path.push_str("&name=");
        path.push_str(&encode_query(name));
    }
    path
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

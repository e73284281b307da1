//! `kingpole logs`: what processes wrote.

use std::path::Path;

use clap::Args;
use jiff::civil::{DateTime, Time};
use jiff::{Timestamp, Zoned};
use kingpole_protocol::record::Stream;

use super::change::parse_duration;
use super::client::{ManagerClient, Part, encode_query};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::following::{Course, LINES_AGAIN, Shown, follow};
use super::print;
use crate::shells::console::{Color, Renderer};
use crate::shells::control::wire::LogEntry;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Names of watchers, or patterns such as 'web*'; all when none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what they write from now on
    #[arg(short, long)]
    follow: bool,
    /// How many recent lines to begin with
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    lines: usize,
    /// Only lines from then on: a time ago (10m, 2h) or a moment (2026-11-21T10:30, 10:30)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Only standard error
    #[arg(long)]
    stderr: bool,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let path = |lines: usize| query(arguments, lines);
    let mut renderer = Renderer::new(Color::for_stdout(), 0);
    let mut tell = |entry: LogEntry| {
        if arguments.json {
            let text = serde_json::to_string(&entry)
                .map_err(|error| Failure::failed(format!("a line cannot be written: {error}")))?;
            return print(&format!("{text}\n"));
        }
        let mut out = Vec::new();
        show(&mut renderer, &mut out, entry);
        print(&String::from_utf8_lossy(&out))
    };
    let client = ManagerClient::new(dir)?;
    if !arguments.follow {
        client.lines(&path(arguments.lines), |line| tell(read(line)?))?;
        return Ok(Exit::Done);
    }
    let is_whole = arguments.grep.is_none() && arguments.since.is_none();
    let mut shown = Shown::default();
    let path = |course| match course {
        Course::First => path(arguments.lines),
        Course::Again => path(LINES_AGAIN),
    };
    follow(&client, path, |course, part| {
        let line = match part {
            Part::Reached => return Ok(()),
            Part::Begins => {
                shown.begin_again();
                return Ok(());
            }
            Part::Line(line) => line,
        };
        let entries = shown.take(course, read(line)?, is_whole);
        entries.into_iter().try_for_each(&mut tell)
    })?;
    Ok(Exit::Done)
}

fn read(line: &[u8]) -> Result<LogEntry, Failure> {
    serde_json::from_slice(line).map_err(|error| {
        Failure::failed(format!("the manager's answer is not understood: {error}"))
    })
}

fn query(arguments: &Arguments, lines: usize) -> String {
    let mut path = format!("/v1/logs?lines={lines}");
    if arguments.follow {
        path.push_str("&follow=1");
    }
    if let Some(since) = arguments.since {
        path.push_str(&format!("&since_ns={since}"));
    }
    if arguments.stderr {
        path.push_str("&stream=stderr");
    }
    if let Some(grep) = &arguments.grep {
        path.push_str("&grep=");
        path.push_str(&encode_query(grep));
    }
    for name in &arguments.names {
        path.push_str("&name=");
        path.push_str(&encode_query(name));
    }
    path
}

/// A time in nanoseconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    let now = Zoned::now();
    let nanos = |time: Timestamp| {
        u64::try_from(time.as_nanosecond()).map_err(|_| format!("{text:?} is before 1970"))
    };
    if let Ok(ago) = parse_duration(text) {
        return nanos(
            now.timestamp()
                .saturating_sub(ago)
                .unwrap_or(Timestamp::UNIX_EPOCH),
        );
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return nanos(time);
    }
    let zone = now.time_zone().clone();
    let local = text.parse::<DateTime>().or_else(|_| {
        let time = text.parse::<Time>();
        time.map(|time| now.date().to_datetime(time))
    });
    let zoned = local.and_then(|local| local.to_zoned(zone));
    let zoned = zoned
        .map_err(|_| format!("{text:?} is no time; write 10m, 2h, 10:30 or 2026-11-21T10:30"))?;
    nanos(zoned.timestamp())
}

/// Adds an entry as its reader shall see it.
pub(super) fn show(renderer: &mut Renderer, out: &mut Vec<u8>, entry: LogEntry) {
    let stream = |name: &str| match name {
        "stderr" => Stream::Stderr,
        _ => Stream::Stdout,
    };
    match entry {
        LogEntry::Line {
            time_ns,
            watcher,
            worker,
            stream: name,
            text,
            ..
        } => {
            let origin = format!("{watcher}.{worker}");
            renderer.line(out, Some(time_ns), &origin, stream(&name), text.as_bytes());
        }
        LogEntry::Stored {
            watcher,
            stream: name,
            time_ns,
            text,
            ..
        } => {
            renderer.line(out, time_ns, &watcher, stream(&name), text.as_bytes());
        }
        LogEntry::Gap {
            watcher,
            worker,
            stream: name,
            lost_bytes,
            ..
        } => {
            let origin = format!("{watcher}.{worker}");
            renderer.gap(out, &origin, stream(&name), lost_bytes);
        }
        LogEntry::Unseen {
            watcher,
            worker,
            stream: name,
            unseen_bytes,
            ..
        } => {
            let origin = format!("{watcher}.{worker}");
            let text = format!(
                "... {unseen_bytes} bytes between two managers are not shown: dropped, or in the log file"
            );
            renderer.line(out, None, &origin, stream(&name), text.as_bytes());
        }
        LogEntry::Dropped { dropped } => renderer.dropped(out, dropped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ago_and_moments_are_understood() {
        let now = u64::try_from(Timestamp::now().as_nanosecond()).expect("after 1970");
        let ago = now - since("10m").expect("a time");
        assert!((590_000_000_000..=600_000_000_000).contains(&ago), "{ago}");
        assert_eq!(since("2026-11-21T02:32:30Z"), Ok(1_795_228_350_000_000_000));
        assert!(since("2026-11-21T10:30").is_ok() && since("10:30").is_ok());
        assert!(since("soon").unwrap_err().contains("10m"));
    }
}

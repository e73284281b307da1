//! `GET /v1/logs`: what children wrote, and what they go on writing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;

use super::error::ControlError;
use super::parameters::{self, Follow};
use super::stored::{self, Asked, LogFile};
use super::stream::{Gone, Lines, lines};
use super::wire::LogEntry;
use super::{Control, Stay, left};
use crate::config::pattern;
use crate::shells::console::unfinished;
use crate::shells::history::{Entry, Follower, History, Line};
use kingpole_protocol::record::Stream;
use regex_lite::Regex;
use tokio::sync::watch;

/// Lines that are shown when the client does not say how many.
const LINES_DEFAULT: usize = 20;

/// Lines that are put in order together.
const ROUND_LINES: usize = 1000;

/// What a client asked for.
#[derive(Debug)]
struct Wanted {
    patterns: Vec<String>,
    lines: usize,
    follow: Follow,
    since_ns: Option<u64>,
    stream: Option<Stream>,
    grep: Option<Regex>,
}

impl Wanted {
    fn read(query: Vec<(String, String)>) -> Result<Self, ControlError> {
        let mut wanted = Self {
            patterns: Vec::new(),
            lines: LINES_DEFAULT,
            follow: Follow::No,
            since_ns: None,
            stream: None,
            grep: None,
        };
        for (key, value) in query {
            match key.as_str() {
                "name" => wanted.patterns.push(value.to_lowercase()),
                "lines" => wanted.lines = parameters::number("lines", &value)?,
                "follow" => wanted.follow = Follow::read(&value)?,
                "since_ns" => {
                    wanted.since_ns = Some(value.parse().map_err(|_| {
                        let text = format!("since_ns={value}: nanoseconds since 1970 are needed");
                        ControlError::invalid(text)
                    })?);
                }
                "stream" => wanted.stream = Some(stream(&value)?),
                "grep" => {
                    wanted.grep = Some(Regex::new(&value).map_err(|error| {
                        ControlError::invalid(format!("grep={value}: {error}"))
                    })?);
                }
                _ => {
                    let known = ["name", "lines", "follow", "since_ns", "stream", "grep"];
                    return Err(parameters::unknown(&key, &known));
                }
            }
        }
        Ok(wanted)
    }

    fn watcher(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.patterns.is_empty() || self.patterns.iter().any(|p| pattern::matches(p, &name))
    }

    fn text(&self, text: &str) -> bool {
        self.grep.as_ref().is_none_or(|grep| grep.is_match(text))
    }

    fn source(&self, watcher: &str, stream: Stream) -> bool {
        self.stream.is_none_or(|wanted| wanted == stream) && self.watcher(watcher)
    }

    fn line(&self, line: &Line) -> bool {
        self.since_ns.is_none_or(|since| line.time_ns >= since)
            && self.source(&line.origin.watcher, line.stream)
            && (self.grep.is_none() || self.text(&String::from_utf8_lossy(&line.text)))
    }
}

fn stream(value: &str) -> Result<Stream, ControlError> {
    let found = Stream::ALL
        .into_iter()
        .find(|stream| stream.name() == value);
    found
        .ok_or_else(|| ControlError::invalid(format!("stream={value}: stdout or stderr is needed")))
}

pub(super) async fn get(
    State(control): State<Control>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ControlError> {
    let wanted = Arc::new(Wanted::read(query)?);
    let configuration = control.configuration.borrow().clone();
    let known: BTreeSet<String> = configuration.watchers.iter().map(|w| w.key()).collect();
    for wanted_name in &wanted.patterns {
        let known = known.iter().any(|name| pattern::matches(wanted_name, name));
        // A watcher that was removed may have left lines behind.
        let one = |line: &Line| pattern::matches(wanted_name, &line.origin.watcher.to_lowercase());
        if !known && control.history.last(1, one).0.is_empty() {
            return Err(ControlError::unknown_watcher(wanted_name));
        }
    }
    let (recent, follower) = control.history.last(wanted.lines, |line| wanted.line(line));
    let missing = wanted.lines.saturating_sub(recent.len());
    let files = stored::files(&configuration, |watcher, stream| {
        wanted.source(watcher, stream)
    });
    let history = control.history.clone();
    let stay = control.stay.clone();
    let stored = tokio::task::spawn_blocking({
        let (history, wanted) = (history.clone(), Arc::clone(&wanted));
        move || older(&files, &history, missing, &wanted)
    });
    let (sink, response) = lines();
    tokio::spawn(async move {
        let stored = stored.await.unwrap_or_default();
        // An error says that the reader is gone, which is how most of these end.
        let _ = write(sink, &wanted, stored, recent, &history, follower, stay).await;
    });
    Ok(response)
}

/// Lines that may be written while files are read, and were remembered before.
const LINES_MEANWHILE: usize = 10_000;

fn older(files: &[LogFile], history: &History, missing: usize, wanted: &Wanted) -> Vec<LogEntry> {
    if missing == 0 {
        return Vec::new();
    }
    let asked = Asked {
        count: missing,
        since_ns: wanted.since_ns,
        text: &|text| wanted.text(text),
    };
    let count = wanted.lines.saturating_add(LINES_MEANWHILE);
    let recent = || history.last(count, |line| wanted.line(line)).0;
    stored::older(files, recent, &asked)
}

/// Lines of all children by the kernel's time. Those of one child stay in their order, also when the
/// clock was set back between them.
fn merge(lines: &mut [Line]) {
    let mut latest: HashMap<(u32, u32), u64> = HashMap::new();
    let mut times: Vec<u64> = Vec::with_capacity(lines.len());
    for line in lines.iter() {
        let known = latest
            .entry((line.origin.pid, line.origin.worker))
            .or_default();
        *known = line.time_ns.max(*known);
        times.push(*known);
    }
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|at| times[*at]);
    let sorted: Vec<Line> = order.into_iter().map(|at| lines[at].clone()).collect();
    lines.clone_from_slice(&sorted);
}

/// Sends what came together.
async fn tell(sink: &mut Lines, round: &mut Vec<Line>) -> Result<(), Gone> {
    merge(round);
    for line in round.drain(..) {
        sink.write(&LogEntry::from(&line)).await?;
    }
    Ok(())
}

async fn write(
    mut sink: Lines,
    wanted: &Wanted,
    stored: Vec<LogEntry>,
    mut recent: Vec<Line>,
    history: &History,
    mut follower: Follower,
    mut stay: watch::Receiver<Stay>,
) -> Result<(), Gone> {
    for entry in &stored {
        sink.write(entry).await?;
    }
    merge(&mut recent);
    for line in &recent {
        sink.write(&LogEntry::from(line)).await?;
    }
    sink.flush().await?;
    drop((stored, recent));
    if wanted.follow == Follow::No {
        return Ok(());
    }
    let mut grown = history.watch();
    loop {
        grown.mark_unchanged();
        let last_round = *stay.borrow() != Stay::Yes;
        let mut round = Vec::new();
        while let Some(entry) = history.next(&mut follower) {
            match entry {
                Entry::Line(line) if wanted.line(&line) => {
                    round.push(line);
                    if round.len() >= ROUND_LINES {
                        tell(&mut sink, &mut round).await?;
                    }
                }
                Entry::Line(_) => {}
                Entry::Gap {
                    origin,
                    stream,
                    bytes,
                } if wanted.source(&origin.watcher, stream) => {
                    tell(&mut sink, &mut round).await?;
                    sink.write(&LogEntry::gap(&origin, stream, bytes)).await?;
                }
                Entry::Gap { .. } => {}
                Entry::Dropped(dropped) => {
                    tell(&mut sink, &mut round).await?;
                    sink.write(&LogEntry::Dropped { dropped }).await?;
                }
            }
        }
        tell(&mut sink, &mut round).await?;
        sink.flush().await?;
        if last_round {
            return Ok(());
        }
        tokio::select! {
            () = left(&mut stay) => {}
            changed = grown.changed() => if changed.is_err() { return Ok(()) },
            () = unfinished(&mut follower) => {}
            () = sink.gone() => return Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shells::history::Origin;

    #[test]
    fn lines_are_merged_by_time_and_one_childs_lines_stay_in_order() {
        let line = |pid: u32, time_ns: u64| Line {
            origin: Arc::new(Origin {
                watcher: "w".to_owned(),
                worker: pid,
                pid,
            }),
            stream: Stream::Stdout,
            time_ns,
            text: Box::default(),
            process: u64::from(pid),
            span: 0..0,
        };
        // The clock was set back before the third line of process 1.
        let mut lines = vec![
            line(1, 10),
            line(1, 30),
            line(1, 5),
            line(2, 20),
            line(2, 40),
        ];
        merge(&mut lines);
        let order: Vec<_> = lines
            .iter()
            .map(|line| (line.origin.pid, line.time_ns))
            .collect();
        assert_eq!(order, [(1, 10), (2, 20), (1, 30), (1, 5), (2, 40)]);
    }
}

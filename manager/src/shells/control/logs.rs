//! `GET /v1/logs`: what children wrote, and what they go on writing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use axum::extract::{Query, State};
use axum::response::Response;

use super::error::ControlError;
use super::stream::{Gone, Lines, lines};
use super::tail::{last_lines, older_than};
use super::wire::LogEntry;
use super::{Control, Stay, left, parameters};
use crate::config::model::{Configuration, StreamConfig};
use crate::config::pattern;
use crate::shells::console::unfinished;
use crate::shells::history::{Entry, Follower, History, Line};
use kingpole_protocol::record::Stream;
use tokio::sync::watch;

/// Lines that are shown when the client does not say how many.
const LINES_DEFAULT: usize = 20;

/// Whether the body ends with the lines that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

/// What a client asked for.
#[derive(Debug)]
struct Wanted {
    patterns: Vec<String>,
    lines: usize,
    follow: Follow,
}

impl Wanted {
    fn read(query: Vec<(String, String)>) -> Result<Self, ControlError> {
        let mut wanted = Self {
            patterns: Vec::new(),
            lines: LINES_DEFAULT,
            follow: Follow::No,
        };
        for (key, value) in query {
            match key.as_str() {
                "name" => wanted.patterns.push(value.to_lowercase()),
                "lines" => {
                    wanted.lines = value.parse().map_err(|_| {
                        ControlError::invalid(format!("lines={value}: a number is needed"))
                    })?;
                }
                "follow" => wanted.follow = follow(&value)?,
                _ => return Err(parameters::unknown(&key, &["name", "lines", "follow"])),
            }
        }
        Ok(wanted)
    }

    fn watcher(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.patterns.is_empty() || self.patterns.iter().any(|p| pattern::matches(p, &name))
    }

    fn line(&self, line: &Line) -> bool {
        self.watcher(&line.origin.watcher)
    }
}

fn follow(value: &str) -> Result<Follow, ControlError> {
    match value {
        "1" | "true" | "" => Ok(Follow::Yes),
        "0" | "false" => Ok(Follow::No),
        _ => Err(ControlError::invalid(format!(
            "follow={value}: 1 or 0 is needed"
        ))),
    }
}

pub(super) async fn get(
    State(control): State<Control>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ControlError> {
    let wanted = Wanted::read(query)?;
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
    let files = files(&configuration, &wanted);
    let history = control.history.clone();
    let stay = control.stay.clone();
    let stored = tokio::task::spawn_blocking({
        let recent = recent.clone();
        move || stored(files, &recent, missing)
    });
    let (sink, response) = lines();
    tokio::spawn(async move {
        let stored = stored.await.unwrap_or_default();
        // An error says that the reader is gone, which is how most of these end.
        let _ = write(sink, &wanted, stored, recent, &history, follower, stay).await;
    });
    Ok(response)
}

/// Which file each wanted stream is kept in.
fn files(configuration: &Configuration, wanted: &Wanted) -> Vec<(String, Stream, PathBuf)> {
    let mut files: Vec<(String, Stream, PathBuf)> = Vec::new();
    for watcher in configuration
        .watchers
        .iter()
        .filter(|w| wanted.watcher(&w.name))
    {
        for (stream, config) in [
            (Stream::Stdout, &watcher.stdout_stream),
            (Stream::Stderr, &watcher.stderr_stream),
        ] {
            if let StreamConfig::File(file) = config {
                // Both streams in one file: it is shown once.
                if files.iter().all(|(_, _, path)| *path != file.filename) {
                    files.push((watcher.name.clone(), stream, file.filename.clone()));
                }
            }
        }
    }
    files
}

/// Older lines from files, `missing` of them at most in all.
fn stored(files: Vec<(String, Stream, PathBuf)>, recent: &[Line], missing: usize) -> Vec<LogEntry> {
    let share = missing.div_ceil(files.len().max(1));
    let mut entries = Vec::new();
    for (watcher, stream, path) in files {
        if share == 0 {
            break;
        }
        // A file that is not there yet has nothing to tell.
        let Ok(lines) = last_lines(&path) else {
            continue;
        };
        let of_watcher = |line: &&Line| line.origin.watcher == watcher;
        let known = recent.iter().filter(of_watcher).map(|line| &*line.text);
        let older = older_than(lines, known);
        let from = older.len().saturating_sub(share);
        entries.extend(older[from..].iter().map(|text| LogEntry::Stored {
            watcher: watcher.clone(),
            stream: stream.name().to_owned(),
            file: path.display().to_string(),
            text: String::from_utf8_lossy(text).into_owned(),
        }));
    }
    entries
}

async fn write(
    mut sink: Lines,
    wanted: &Wanted,
    stored: Vec<LogEntry>,
    recent: Vec<Line>,
    history: &History,
    mut follower: Follower,
    mut stay: watch::Receiver<Stay>,
) -> Result<(), Gone> {
    for entry in &stored {
        sink.write(entry).await?;
    }
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
        let last_round = *stay.borrow() == Stay::No;
        while let Some(entry) = history.next(&mut follower) {
            match entry {
                Entry::Line(line) if wanted.line(&line) => {
                    sink.write(&LogEntry::from(&line)).await?;
                }
                Entry::Line(_) => {}
                Entry::Gap {
                    origin,
                    stream,
                    bytes,
                } if wanted.watcher(&origin.watcher) => {
                    sink.write(&LogEntry::gap(&origin, stream, bytes)).await?;
                }
                Entry::Gap { .. } => {}
                Entry::Dropped(dropped) => sink.write(&LogEntry::Dropped { dropped }).await?,
            }
        }
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

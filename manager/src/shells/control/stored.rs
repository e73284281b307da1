//! Lines from log files, older than what the manager remembers, with their times where they have any.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use kingpole_protocol::record::Stream;
use serde_json::Value;

use super::tail::last_lines;
use super::wire::LogEntry;
use crate::config::model::{Configuration, LineFormat, StreamConfig};
use crate::shells::history::Line;

/// Rotated files that are looked into besides the newest.
const ROTATED_MAX: usize = 16;

/// A log file, as configured.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    watcher: String,
    stream: Stream,
    path: PathBuf,
    lines: LineFormat,
}

/// The file of each wanted stream. One that two streams share is named once.
pub(super) fn files(
    configuration: &Configuration,
    wanted: impl Fn(&str, Stream) -> bool,
) -> Vec<LogFile> {
    let mut files: Vec<LogFile> = Vec::new();
    for watcher in &configuration.watchers {
        for (stream, config) in [
            (Stream::Stdout, &watcher.stdout_stream),
            (Stream::Stderr, &watcher.stderr_stream),
        ] {
            let (path, lines) = match config {
                StreamConfig::File(file) => (&file.filename, &file.lines),
                StreamConfig::WatchedFile { filename, lines } => (filename, lines),
                StreamConfig::TimedRotatingFile(file) => (&file.filename, &file.lines),
                StreamConfig::Unconfigured
                | StreamConfig::Stdout { .. }
                | StreamConfig::FancyStdout { .. }
                | StreamConfig::Command { .. }
                | StreamConfig::Syslog { .. }
                | StreamConfig::Journal { .. } => continue,
            };
            if wanted(&watcher.name, stream) && files.iter().all(|file| file.path != *path) {
                files.push(LogFile {
                    watcher: watcher.name.clone(),
                    stream,
                    path: path.clone(),
                    lines: lines.clone(),
                });
            }
        }
    }
    files
}

/// What is asked of stored lines.
pub(super) struct Asked<'a> {
    /// So many in all at most.
    pub(super) count: usize,
    /// Only lines that are known to be from then on.
    pub(super) since_ns: Option<u64>,
    /// Only lines whose text says yes.
    pub(super) text: &'a (dyn Fn(&str) -> bool + Sync),
}

/// Lines that are older than `recent`, in the order of their times; those without a time first.
///
/// `recent` is called after the files were read: a line is remembered before it is stored, so whatever
/// comes later than the first of what is remembered is among its answer.
pub(super) fn older(
    files: &[LogFile],
    recent: impl FnOnce() -> Vec<Line>,
    asked: &Asked<'_>,
) -> Vec<LogEntry> {
    let share = asked.count.div_ceil(files.len().max(1));
    // A file that is not there yet has nothing to tell.
    let newest = |file: &LogFile| last_lines(&file.path).unwrap_or_default();
    let newest: Vec<_> = files.iter().map(newest).collect();
    let recent = recent();
    let mut entries = Vec::new();
    for (file, newest) in files.iter().zip(newest) {
        entries.extend(of_file(file, newest, &recent, asked, share));
    }
    entries.sort_by_key(|(time_ns, _)| *time_ns);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// The last `share` wanted lines of a file and of what was rotated away from it.
fn of_file(
    file: &LogFile,
    newest: Vec<Vec<u8>>,
    recent: &[Line],
    asked: &Asked<'_>,
    share: usize,
) -> Vec<(Option<u64>, LogEntry)> {
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    for line in recent
        .iter()
        .filter(|line| line.origin.watcher == file.watcher)
    {
        *known.entry(&*line.text).or_default() += 1;
    }
    let mut found = Vec::new();
    let mut newest = Some(newest);
    for path in newest_first(&file.path) {
        if found.len() >= share {
            break;
        }
        let lines = newest.take().map_or_else(|| last_lines(&path), Ok);
        let Ok(lines) = lines else {
            continue;
        };
        for bytes in lines.iter().rev() {
            let line = file.parse(bytes);
            // Each line that is remembered is struck out once, from the file's end on.
            if let Some(count) = known
                .get_mut(line.text.as_bytes())
                .filter(|count| **count > 0)
            {
                *count -= 1;
                continue;
            }
            let late_enough = asked
                .since_ns
                .is_none_or(|since| line.time_ns.is_some_and(|time| time >= since));
            if late_enough && (asked.text)(&line.text) && found.len() < share {
                let entry = LogEntry::Stored {
                    watcher: file.watcher.clone(),
                    stream: line.stream.unwrap_or(file.stream).name().to_owned(),
                    file: path.display().to_string(),
                    time_ns: line.time_ns,
                    text: String::from_utf8_lossy(bytes).into_owned(),
                };
                found.push((line.time_ns, entry));
            }
        }
    }
    found.reverse();
    found
}

/// The file and what was rotated away from it, by when it was written.
fn newest_first(base: &Path) -> Vec<PathBuf> {
    let mut all = vec![base.to_owned()];
    let (Some(directory), Some(name)) = (base.parent(), base.file_name()) else {
        return all;
    };
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut old: Vec<_> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let behind = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            behind.is_some_and(|text| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|byte| byte.is_ascii_digit() || byte == b'.')
            })
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    old.sort();
    all.extend(
        old.into_iter()
            .rev()
            .take(ROTATED_MAX)
            .map(|(_, path)| path),
    );
    all
}

/// A stored line, taken apart.
struct Parsed {
    time_ns: Option<u64>,
    stream: Option<Stream>,
    text: String,
}

impl LogFile {
    fn parse(&self, bytes: &[u8]) -> Parsed {
        let whole = || Parsed {
            time_ns: None,
            stream: None,
            text: String::from_utf8_lossy(bytes).into_owned(),
        };
        match &self.lines {
            LineFormat::Raw => whole(),
            LineFormat::Json => json(bytes).unwrap_or_else(whole),
            LineFormat::Timed(pattern) => timed(pattern, bytes).unwrap_or_else(whole),
        }
    }
}

fn json(bytes: &[u8]) -> Option<Parsed> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let time: Timestamp = value.get("time")?.as_str()?.parse().ok()?;
    let stream = match value.get("stream")?.as_str()? {
        "stderr" => Stream::Stderr,
        _ => Stream::Stdout,
    };
    let text = value
        .get("text")
        .or_else(|| value.get("notice"))?
        .as_str()?;
    Some(Parsed {
        time_ns: u64::try_from(time.as_nanosecond()).ok(),
        stream: Some(stream),
        text: text.to_owned(),
    })
}

/// `TIME [PID] | TEXT`
fn timed(pattern: &str, bytes: &[u8]) -> Option<Parsed> {
    let line = String::from_utf8_lossy(bytes);
    let (prefix, text) = line
        .split_once("] | ")
        .or_else(|| line.split_once("] +| "))?;
    let (time, _) = prefix.rsplit_once(" [")?;
    let time_ns = strtime::parse(pattern, time).ok().and_then(|parsed| {
        let zoned = match parsed.to_zoned() {
            Ok(zoned) => zoned,
            Err(_) => parsed
                .to_datetime()
                .ok()?
                .to_zoned(TimeZone::system())
                .ok()?,
        };
        u64::try_from(zoned.timestamp().as_nanosecond()).ok()
    });
    Some(Parsed {
        time_ns,
        stream: None,
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, lines: LineFormat) -> LogFile {
        LogFile {
            watcher: "w".to_owned(),
            stream: Stream::Stdout,
            path,
            lines,
        }
    }

    fn texts(entries: Vec<LogEntry>) -> Vec<String> {
        let text = |entry| match entry {
            LogEntry::Stored { text, .. } => text,
            other => panic!("{other:?}"),
        };
        entries.into_iter().map(text).collect()
    }

    #[test]
    fn rotated_files_come_before_and_files_are_merged_by_time() {
        let directory = tempfile::tempdir().expect("made");
        let (a, b) = (
            directory.path().join("a.log"),
            directory.path().join("b.log"),
        );
        let json = |second: u32, text: &str| {
            format!(
                "{{\"time\":\"2026-11-21T02:32:{second:02}.5+00:00\",\"pid\":1,\
                 \"stream\":\"stdout\",\"text\":\"{text}\"}}\n"
            )
        };
        let old = directory.path().join("a.log.1");
        std::fs::write(&old, json(10, "a1") + &json(20, "a2")).expect("written");
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        let handle = std::fs::File::options()
            .write(true)
            .open(&old)
            .expect("there");
        handle.set_modified(earlier).expect("set");
        std::fs::write(&a, json(40, "a3")).expect("written");
        std::fs::write(&b, json(30, "b1") + &json(50, "b2")).expect("written");
        let files = [file(a, LineFormat::Json), file(b, LineFormat::Json)];
        let every = |_: &str| true;
        let asked = |count, since_ns| Asked {
            count,
            since_ns,
            text: &every,
        };
        let all = texts(older(&files, Vec::new, &asked(20, None)));
        let order: Vec<usize> = ["a1", "a2", "b1", "a3", "b2"]
            .iter()
            .map(|text| {
                all.iter()
                    .position(|line| line.contains(text))
                    .expect("there")
            })
            .collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        let since = Some(1_795_228_355_000_000_000);
        assert_eq!(texts(older(&files, Vec::new, &asked(20, since))).len(), 2);
        let only = |text: &str| text.ends_with('2');
        let asked = Asked {
            count: 20,
            since_ns: None,
            text: &only,
        };
        assert_eq!(texts(older(&files, Vec::new, &asked)).len(), 2);
    }

    #[test]
    fn times_are_read_back_as_they_were_written() {
        let line = timed(
            "%Y-%m-%d %H:%M:%S %z",
            b"2026-11-21 02:32:30 +0100 [7] | a | b",
        );
        let line = line.expect("parsed");
        assert_eq!(line.time_ns, Some(1_795_224_750_000_000_000));
        assert_eq!(line.text, "a | b");
        let line = timed("%H", b"02 [7] | x").expect("parsed");
        assert_eq!((line.time_ns, line.text.as_str()), (None, "x"));
        assert!(timed("%H", b"no prefix").is_none());
    }
}

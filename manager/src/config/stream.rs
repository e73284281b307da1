//! The options `stdout_stream.*` and `stderr_stream.*` of a watcher (reference, section 9).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::defaults;
use super::ini::{IniEntry, quoted};
use super::keys::{self, Support};
use super::model::{FileStreamConfig, StreamConfig, TimedRotatingFileStreamConfig};
use super::section::{Reader, Written};
use super::suggest;

/// Which of the two streams.
#[derive(Clone, Copy)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// What stands before the dot of the stream's options.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Stdout => "stdout_stream",
            Self::Stderr => "stderr_stream",
        }
    }
}

/// Reads one stream of a watcher.
pub(super) fn read(reader: &mut Reader<'_>, output: Output) -> StreamConfig {
    if let Some(written) = reader.written(output.key()) {
        let problem = format!(
            "needs an option behind it, such as {}.filename",
            output.key()
        );
        reader.error(written.entry, &problem);
    }
    let options: BTreeMap<&str, Written<'_>> = reader
        .with_prefix(&format!("{}.", output.key()))
        .into_iter()
        .collect();
    let Some(first) = options.values().next() else {
        return StreamConfig::Unconfigured;
    };
    let class = match (options.get("class"), options.get("filename")) {
        (Some(class), _) => class.value.clone(),
        (None, Some(_)) => "FileStream".to_owned(),
        (None, None) => {
            reader.error(
                first.entry,
                &format!("needs {}.filename or a class", output.key()),
            );
            return StreamConfig::Unconfigured;
        }
    };
    let short = class.strip_prefix("circus.stream.").unwrap_or(&class);
    let class_entry = options
        .get("class")
        .map_or(first.entry, |written| written.entry);
    let Some((name, takes, support)) = keys::STREAM_CLASSES
        .iter()
        .find(|(name, ..)| *name == short)
    else {
        return other(reader, class_entry, &class, &options);
    };
    if let Support::NotYet(instead) = support {
        reader.warn(
            class_entry,
            &format!("{name} is not supported yet: {instead}"),
        );
    }
    warn_options(reader, name, takes, &options);
    let text = |key: &str| {
        options
            .get(key)
            .map(|w| w.value.clone())
            .filter(|v| !v.is_empty())
    };
    let key = |option: &str| format!("{}.{option}", output.key());
    match *name {
        "FileStream" => match filename(reader, output, class_entry, &options) {
            Some(filename) => {
                StreamConfig::File(file(reader, output, filename, text("time_format")))
            }
            None => StreamConfig::Unconfigured,
        },
        "WatchedFileStream" => match filename(reader, output, class_entry, &options) {
            Some(filename) => StreamConfig::WatchedFile {
                filename,
                time_format: text("time_format"),
            },
            None => StreamConfig::Unconfigured,
        },
        "TimedRotatingFileStream" => {
            let Some(filename) = filename(reader, output, class_entry, &options) else {
                return StreamConfig::Unconfigured;
            };
            let when = reader.parsed(&key("rotate_when"), "one of S M H D MIDNIGHT W0..W6", when);
            if when.is_none() && !options.contains_key("rotate_when") {
                reader.error(class_entry, &format!("needs {}", key("rotate_when")));
            }
            StreamConfig::TimedRotatingFile(TimedRotatingFileStreamConfig {
                filename,
                backup_count: count(reader, &key("backup_count"), 0),
                time_format: text("time_format"),
                rotate_when: when.unwrap_or_else(|| "MIDNIGHT".to_owned()),
                rotate_interval: count(reader, &key("rotate_interval"), 1),
                utc: text("utc").is_some(),
            })
        }
        "StdoutStream" => StreamConfig::Stdout,
        "FancyStdoutStream" => StreamConfig::FancyStdout {
            color: text("color"),
            time_format: text("time_format")
                .unwrap_or_else(|| defaults::FANCY_TIME_FORMAT.to_owned()),
        },
        _ => StreamConfig::Other {
            name: class.clone(),
            options: raw(&options),
        },
    }
}

fn file(
    reader: &mut Reader<'_>,
    output: Output,
    filename: PathBuf,
    time_format: Option<String>,
) -> FileStreamConfig {
    let key = |option: &str| format!("{}.{option}", output.key());
    let max_bytes = reader
        .integer(&key("max_bytes"), 0..=i64::MAX)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|bytes| *bytes > 0);
    let backup_count = count(reader, &key("backup_count"), 0);
    if max_bytes.is_some()
        && backup_count == 0
        && let Some(written) = reader.written(&key("max_bytes"))
    {
        let problem = format!(
            "has no effect while {} is 0: the file grows",
            key("backup_count")
        );
        reader.warn(written.entry, &problem);
    }
    FileStreamConfig {
        filename,
        max_bytes,
        backup_count,
        time_format,
    }
}

/// The file's name. Circus writes to a temporary file without one, which nobody could find.
fn filename(
    reader: &mut Reader<'_>,
    output: Output,
    class: &IniEntry,
    options: &BTreeMap<&str, Written<'_>>,
) -> Option<PathBuf> {
    match options.get("filename") {
        Some(written) if !written.value.is_empty() => Some(PathBuf::from(&written.value)),
        Some(written) => {
            reader.error(written.entry, "is empty");
            None
        }
        None => {
            let problem = format!(
                "needs {}.filename; its output goes to no file",
                output.key()
            );
            reader.warn(class, &problem);
            None
        }
    }
}

fn other(
    reader: &mut Reader<'_>,
    class_entry: &IniEntry,
    class: &str,
    options: &BTreeMap<&str, Written<'_>>,
) -> StreamConfig {
    let names = keys::STREAM_CLASSES.iter().map(|(name, ..)| *name);
    match suggest::nearest(class, names) {
        Some(meant) if !class.contains('.') => {
            let problem = format!("is no stream: {}; did you mean {meant}?", quoted(class));
            reader.error(class_entry, &problem);
        }
        _ if class.contains('.') => {
            let instead = "its output passes through the manager's own";
            let problem = format!("is a class of Python's, which is not run: {instead}");
            reader.warn(class_entry, &problem);
        }
        _ => reader.error(class_entry, &format!("is no stream: {}", quoted(class))),
    }
    StreamConfig::Other {
        name: class.to_owned(),
        options: raw(options),
    }
}

fn raw(options: &BTreeMap<&str, Written<'_>>) -> BTreeMap<String, String> {
    let without_class = options.iter().filter(|(key, _)| **key != "class");
    without_class
        .map(|(key, written)| ((*key).to_owned(), written.value.clone()))
        .collect()
}

fn warn_options(
    reader: &mut Reader<'_>,
    class: &str,
    takes: &[&str],
    options: &BTreeMap<&str, Written<'_>>,
) {
    for (option, written) in options {
        if *option == "class" || takes.contains(option) {
            continue;
        }
        let problem = match keys::find(keys::STREAM, option).map(|key| key.support) {
            Some(Support::Ignored(why)) => format!("is ignored: {why}"),
            Some(_) => format!("has no effect on a {class}"),
            None => match suggest::nearest(option, takes.iter().copied()) {
                Some(meant) => format!("is unknown; did you mean {meant}?"),
                None => "is unknown and has no effect".to_owned(),
            },
        };
        reader.warn(written.entry, &problem);
    }
}

fn count(reader: &mut Reader<'_>, key: &str, default: u32) -> u32 {
    let number = reader.integer(key, i64::from(default)..=i64::from(u32::MAX));
    number
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(default)
}

/// The upper-cased unit, if it is one.
fn when(text: &str) -> Option<String> {
    let upper = text.to_uppercase();
    let known = [
        "S", "M", "H", "D", "MIDNIGHT", "W0", "W1", "W2", "W3", "W4", "W5", "W6",
    ];
    known.contains(&upper.as_str()).then_some(upper)
}

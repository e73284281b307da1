//! The options `stdout_stream.*` and `stderr_stream.*` of a watcher (reference, section 9).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::defaults;
use super::ini::{IniEntry, quoted};
use super::keys::{self, Support};
use super::model::{
    FileStreamConfig, LineFormat, StreamColor, StreamConfig, TimedRotatingFileStreamConfig,
};
use super::section::{Reader, Written};
use super::suggest;
use super::words;

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
    let Some((name, takes, _)) = keys::STREAM_CLASSES
        .iter()
        .find(|(name, ..)| *name == short)
    else {
        refuse(reader, class_entry, &class);
        return StreamConfig::Unconfigured;
    };
    warn_options(reader, name, takes, &options);
    let mut stream = Stream {
        reader,
        output,
        class: class_entry,
        options: &options,
    };
    stream.read(name).unwrap_or(StreamConfig::Unconfigured)
}

/// One stream's options while they are read.
struct Stream<'r, 'd, 'o> {
    reader: &'r mut Reader<'d>,
    output: Output,
    class: &'o IniEntry,
    options: &'o BTreeMap<&'d str, Written<'d>>,
}

impl Stream<'_, '_, '_> {
    fn key(&self, option: &str) -> String {
        format!("{}.{option}", self.output.key())
    }

    fn text(&self, option: &str) -> Option<String> {
        let written = self.options.get(option)?;
        Some(written.value.clone()).filter(|value| !value.is_empty())
    }

    /// Nothing when an option is missing without which there is no such stream.
    fn read(&mut self, class: &str) -> Option<StreamConfig> {
        Some(match class {
            "FileStream" => StreamConfig::File(self.file()?),
            "WatchedFileStream" => StreamConfig::WatchedFile {
                filename: self.filename()?,
                lines: self.lines(),
            },
            "TimedRotatingFileStream" => StreamConfig::TimedRotatingFile(self.timed()?),
            "StdoutStream" => StreamConfig::Stdout {
                lines: self.lines(),
            },
            "FancyStdoutStream" => StreamConfig::FancyStdout {
                color: self.color(),
                time_format: self
                    .text("time_format")
                    .unwrap_or_else(|| defaults::FANCY_TIME_FORMAT.to_owned()),
            },
            "CommandStream" => StreamConfig::Command {
                command: self.command()?,
                lines: self.lines(),
            },
            "SyslogStream" => {
                let key = self.key("facility");
                let facility = self.reader.parsed(
                    &key,
                    "a facility of syslog such as daemon or local0",
                    facility,
                );
                StreamConfig::Syslog {
                    address: self.address(defaults::SYSLOG_SOCKET),
                    facility: facility.unwrap_or(defaults::SYSLOG_FACILITY),
                    ident: self.text("ident"),
                }
            }
            "JournalStream" => StreamConfig::Journal {
                address: self.address(defaults::JOURNAL_SOCKET),
                ident: self.text("ident"),
            },
            _ => return None,
        })
    }

    fn lines(&mut self) -> LineFormat {
        let key = self.key("format");
        let json = self.reader.parsed(&key, "raw or json", |text| match text {
            "raw" => Some(false),
            "json" => Some(true),
            _ => None,
        });
        let time_format = self.text("time_format");
        if json != Some(true) {
            return time_format.map_or(LineFormat::Raw, LineFormat::Timed);
        }
        if let Some(written) = self.options.get("time_format") {
            let problem = "has no effect on JSON, which has its own times";
            self.reader.warn(written.entry, problem);
        }
        LineFormat::Json
    }

    fn file(&mut self) -> Option<FileStreamConfig> {
        let filename = self.filename()?;
        let max_bytes = self
            .reader
            .integer(&self.key("max_bytes"), 0..=i64::MAX)
            .and_then(|bytes| u64::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0);
        let backup_count = self.count("backup_count", 0);
        let truncate = self.reader.boolean(&self.key("truncate"), false);
        if max_bytes.is_some()
            && backup_count == 0
            && !truncate
            && let Some(written) = self.reader.written(&self.key("max_bytes"))
        {
            let problem = format!(
                "has no effect while {} is 0: the file grows ({} = true empties it)",
                self.key("backup_count"),
                self.key("truncate")
            );
            self.reader.warn(written.entry, &problem);
        }
        if truncate
            && (backup_count > 0 || max_bytes.is_none())
            && let Some(written) = self.reader.written(&self.key("truncate"))
        {
            let problem = "has no effect: it needs max_bytes, and no backup_count";
            self.reader.warn(written.entry, problem);
        }
        Some(FileStreamConfig {
            filename,
            max_bytes,
            backup_count,
            truncate,
            lines: self.lines(),
        })
    }

    fn timed(&mut self) -> Option<TimedRotatingFileStreamConfig> {
        let filename = self.filename()?;
        let key = self.key("rotate_when");
        let when = self
            .reader
            .parsed(&key, "one of S M H D MIDNIGHT W0..W6", when);
        if when.is_none() && !self.options.contains_key("rotate_when") {
            self.reader.error(self.class, &format!("needs {key}"));
        }
        Some(TimedRotatingFileStreamConfig {
            filename,
            backup_count: self.count("backup_count", 0),
            rotate_when: when.unwrap_or_else(|| "MIDNIGHT".to_owned()),
            rotate_interval: self.count("rotate_interval", 1),
            utc: self.text("utc").is_some(),
            lines: self.lines(),
        })
    }

    /// Circus takes any other word for a random colour.
    fn color(&mut self) -> Option<StreamColor> {
        let names = ["red", "green", "yellow", "blue", "magenta", "cyan", "white"];
        let written = self.options.get("color")?;
        let at = names.iter().position(|name| *name == written.value);
        if at.is_none() {
            let problem = format!("is none of {}: it is chosen by name", names.join(" "));
            self.reader.warn(written.entry, &problem);
        }
        StreamColor::ALL.get(at?).copied()
    }

    fn command(&mut self) -> Option<String> {
        let key = self.key("command");
        match self.options.get("command") {
            None => {
                self.reader.error(self.class, &format!("needs {key}"));
                None
            }
            Some(written) => match words::split(&written.value) {
                Ok(words) if !words.is_empty() => Some(written.value.clone()),
                Ok(_) => {
                    self.reader.error(written.entry, "is empty");
                    None
                }
                Err(error) => {
                    self.reader.error(written.entry, &error.to_string());
                    None
                }
            },
        }
    }

    fn address(&self, default: &str) -> PathBuf {
        PathBuf::from(self.text("address").as_deref().unwrap_or(default))
    }

    /// The file's name. Circus writes to a temporary file without one, which nobody could find.
    fn filename(&mut self) -> Option<PathBuf> {
        match self.options.get("filename") {
            Some(written) if !written.value.is_empty() => Some(PathBuf::from(&written.value)),
            Some(written) => {
                self.reader.error(written.entry, "is empty");
                None
            }
            None => {
                let key = self.key("filename");
                let problem = format!("needs {key}; its output goes to no file");
                self.reader.warn(self.class, &problem);
                None
            }
        }
    }

    fn count(&mut self, option: &str, default: u32) -> u32 {
        let key = self.key(option);
        let number = self
            .reader
            .integer(&key, i64::from(default)..=i64::from(u32::MAX));
        number
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(default)
    }
}

/// A class that is not there is not guessed at: output that nobody expects where it goes is as good
/// as lost.
fn refuse(reader: &mut Reader<'_>, entry: &IniEntry, class: &str) {
    let names = keys::STREAM_CLASSES.iter().map(|(name, ..)| *name);
    let known: Vec<&str> = names.clone().collect();
    let short = class.rsplit(['.', ':']).next().unwrap_or(class);
    let problem = match suggest::nearest(short, names) {
        Some(meant) if !class.contains('.') => {
            format!("is no stream: {}; did you mean {meant}?", quoted(class))
        }
        _ if class.contains('.') || class == "QueueStream" => format!(
            "is a class of Python's, which is not run: {}; give the lines to a program of yours \
             with class = CommandStream and command = ..., or use one of {}",
            quoted(class),
            known.join(" ")
        ),
        _ => format!(
            "is no stream: {}; use one of {}",
            quoted(class),
            known.join(" ")
        ),
    };
    reader.error(entry, &problem);
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

/// The upper-cased unit, if it is one.
fn when(text: &str) -> Option<String> {
    let upper = text.to_uppercase();
    let known = [
        "S", "M", "H", "D", "MIDNIGHT", "W0", "W1", "W2", "W3", "W4", "W5", "W6",
    ];
    known.contains(&upper.as_str()).then_some(upper)
}

/// The number of a facility by its name (syslog(3)) or number.
pub(super) fn facility(text: &str) -> Option<u8> {
    const NAMES: [&str; 24] = [
        "kern",
        "user",
        "mail",
        "daemon",
        "auth",
        "syslog",
        "lpr",
        "news",
        "uucp",
        "cron",
        "authpriv",
        "ftp",
        "ntp",
        "security",
        "console",
        "solaris-cron",
        "local0",
        "local1",
        "local2",
        "local3",
        "local4",
        "local5",
        "local6",
        "local7",
    ];
    let lower = text.to_lowercase();
    let named = NAMES.iter().position(|name| *name == lower);
    let number = named.or_else(|| text.parse().ok())?;
    u8::try_from(number).ok().filter(|number| *number < 24)
}

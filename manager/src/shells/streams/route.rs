//! From a stream's configuration to a sink.

use crate::config::model::{LineFormat, StreamColor, StreamConfig, TimedRotatingFileStreamConfig};
use crate::shells::console::Color;
use crate::streams::format::Style;
use crate::streams::rotate::Backups;
use crate::streams::schedule::{Clock, Schedule, Unit};
use crate::streams::sink::{Rotation, SinkSpec};
use crate::streams::target::{CommandLine, JournalAddress, SyslogAddress, Target};
use kingpole_protocol::record::Stream;
use std::path::{Path, PathBuf};

/// Where a stream of this watcher goes.
pub(super) fn sink(config: &StreamConfig, stream: Stream, watcher: &str, color: Color) -> SinkSpec {
    let file = |filename: &Path, lines: &LineFormat, rotation| SinkSpec {
        target: Target::File(normal(filename)),
        style: style(lines),
        rotation,
    };
    let passing = |target: Target, style: Style| SinkSpec {
        target,
        style,
        rotation: None,
    };
    let ident = |ident: &Option<String>| ident.clone().unwrap_or_else(|| watcher.to_owned());
    match config {
        StreamConfig::File(config) => {
            let rotation = config.max_bytes.map(|max_bytes| {
                if config.truncate && config.backup_count == 0 {
                    return Rotation::Empty { max_bytes };
                }
                let backups = Backups(config.backup_count);
                Rotation::Size { max_bytes, backups }
            });
            file(&config.filename, &config.lines, rotation)
        }
        // Every file is looked at before it is written to, so that this one is like any other.
        StreamConfig::WatchedFile { filename, lines } => file(filename, lines, None),
        StreamConfig::TimedRotatingFile(timed) => {
            let rotation = schedule(timed).map(Rotation::Time);
            file(&timed.filename, &timed.lines, rotation)
        }
        StreamConfig::Stdout { lines } => stdout(style(lines)),
        StreamConfig::FancyStdout {
            color: wanted,
            time_format,
        } => stdout(match color {
            Color::Yes => {
                let color = wanted.unwrap_or_else(|| color_of(watcher));
                // Circus's order is that of terminals, whose first colour is black.
                Style::Colored(color as u8 + 1, time_format.clone())
            }
            Color::No => Style::Prefixed(time_format.clone()),
        }),
        StreamConfig::Command { command, lines } => {
            let style = style(lines);
            let line = CommandLine {
                command: command.clone(),
                style: style.clone(),
            };
            passing(Target::Command(line), style)
        }
        StreamConfig::Syslog {
            address,
            facility,
            ident: name,
        } => {
            let address = SyslogAddress {
                socket: address.clone(),
                facility: *facility,
                ident: ident(name),
            };
            passing(Target::Syslog(address), Style::Labelled)
        }
        StreamConfig::Journal {
            address,
            ident: name,
        } => {
            let address = JournalAddress {
                socket: address.clone(),
                ident: ident(name),
            };
            passing(Target::Journal(address), Style::Labelled)
        }
        StreamConfig::Unconfigured => match stream {
            Stream::Stdout => stdout(Style::Raw),
            Stream::Stderr => passing(Target::ErrorConsole, Style::Raw),
        },
    }
}

fn stdout(style: Style) -> SinkSpec {
    let target = match &style {
        Style::Raw => Target::Console,
        other => Target::StyledConsole(other.clone()),
    };
    SinkSpec {
        target,
        style,
        rotation: None,
    }
}

fn style(lines: &LineFormat) -> Style {
    match lines {
        LineFormat::Raw => Style::Raw,
        LineFormat::Timed(pattern) => Style::Prefixed(pattern.clone()),
        LineFormat::Json => Style::Json,
    }
}

/// The configuration's reader lets no other unit pass.
fn schedule(timed: &TimedRotatingFileStreamConfig) -> Option<Schedule> {
    Some(Schedule {
        unit: Unit::from_name(&timed.rotate_when)?,
        count: timed.rotate_interval,
        clock: if timed.utc { Clock::Utc } else { Clock::Local },
        keep: timed.backup_count,
    })
}

/// Circus takes a random colour; this one is the same after a restart.
fn color_of(watcher: &str) -> StreamColor {
    let hash = xxhash_rust::xxh3::xxh3_64(watcher.as_bytes());
    let at = (hash % StreamColor::ALL.len() as u64) as usize;
    StreamColor::ALL
        .get(at)
        .copied()
        .unwrap_or(StreamColor::White)
}

/// One file has one name, whatever way leads to its directory. The last part may be a link: it is
/// the operator's to say where the file is.
fn normal(filename: &Path) -> PathBuf {
    let absolute = std::path::absolute(filename).unwrap_or_else(|_| filename.to_owned());
    let directory = absolute
        .parent()
        .and_then(|directory| directory.canonicalize().ok());
    match (directory, absolute.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => absolute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ways_to_one_file_are_one_sink() {
        let directory = tempfile::tempdir().expect("made");
        let real = directory.path().join("real");
        std::fs::create_dir(&real).expect("made");
        std::os::unix::fs::symlink(&real, directory.path().join("link")).expect("made");
        let through = normal(&directory.path().join("link/../link/a.log"));
        assert_eq!(through, normal(&real.join("a.log")));
        // Not there yet: taken as it is written.
        let missing = directory.path().join("missing/a.log");
        assert_eq!(normal(&missing), missing);
    }

    #[test]
    fn without_a_stream_both_of_them_go_where_the_managers_own_go() {
        let unconfigured = StreamConfig::Unconfigured;
        let sinks = Stream::ALL.map(|stream| sink(&unconfigured, stream, "w", Color::No).target);
        assert_eq!(sinks, [Target::Console, Target::ErrorConsole]);
    }

    #[test]
    fn fancy_lines_have_the_watchers_colour_where_colours_are_wanted() {
        let fancy = |color| StreamConfig::FancyStdout {
            color,
            time_format: "%S".to_owned(),
        };
        let red = sink(
            &fancy(Some(StreamColor::Red)),
            Stream::Stdout,
            "w",
            Color::Yes,
        );
        assert_eq!(red.style, Style::Colored(1, "%S".to_owned()));
        assert_eq!(red.target, Target::StyledConsole(red.style.clone()));
        let own = |name| sink(&fancy(None), Stream::Stderr, name, Color::Yes).style;
        assert_eq!(own("web"), own("web"));
        let plain = sink(&fancy(None), Stream::Stdout, "w", Color::No);
        assert_eq!(plain.style, Style::Prefixed("%S".to_owned()));
    }
}

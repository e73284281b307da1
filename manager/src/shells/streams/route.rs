//! From a stream's configuration to a sink.

use crate::config::model::{FileStreamConfig, StreamConfig};
use crate::streams::disk::Target;
use crate::streams::format::Style;
use crate::streams::rotate::Backups;
use crate::streams::sink::{Rotation, SinkSpec};
use kingpole_protocol::record::Stream;
use std::path::{Path, PathBuf};

/// Where a stream goes. A class that is not supported yet (the configuration's reader has said so)
/// does the nearest that is: its lines are kept, unrotated and plain.
pub(super) fn sink(config: &StreamConfig, stream: Stream) -> SinkSpec {
    let file = |filename: &Path, time_format: Option<&String>, rotation| SinkSpec {
        target: Target::File(normal(filename)),
        style: time_format.map_or(Style::Raw, |format| Style::Prefixed(format.clone())),
        rotation,
    };
    let console = |target: Target, style: Style| SinkSpec {
        target,
        style,
        rotation: None,
    };
    match config {
        StreamConfig::File(FileStreamConfig {
            filename,
            max_bytes,
            backup_count,
            time_format,
        }) => {
            let rotation = max_bytes.map(|max_bytes| Rotation {
                max_bytes,
                backups: Backups(*backup_count),
            });
            file(filename, time_format.as_ref(), rotation)
        }
        StreamConfig::WatchedFile {
            filename,
            time_format,
        } => file(filename, time_format.as_ref(), None),
        StreamConfig::TimedRotatingFile(timed) => {
            file(&timed.filename, timed.time_format.as_ref(), None)
        }
        StreamConfig::Stdout | StreamConfig::FancyStdout { .. } | StreamConfig::Other { .. } => {
            console(Target::Console, Style::Raw)
        }
        StreamConfig::Unconfigured => match stream {
            Stream::Stdout => console(Target::Console, Style::Raw),
            Stream::Stderr => console(Target::ErrorConsole, Style::Raw),
        },
    }
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
        let sinks = Stream::ALL.map(|stream| sink(&StreamConfig::Unconfigured, stream).target);
        assert_eq!(sinks, [Target::Console, Target::ErrorConsole]);
    }
}

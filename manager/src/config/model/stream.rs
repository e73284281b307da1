//! What happens to output.

use std::path::PathBuf;

use serde::Serialize;

/// What happens to one output of a watcher.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum StreamConfig {
    /// No stream configured: the output passes through the manager's own standard output or error.
    Unconfigured,
    /// Appended to a file that may be rotated by size.
    File(FileStreamConfig),
    /// Appended to a file that something else may rotate.
    WatchedFile {
        /// Path of the file.
        filename: PathBuf,
        /// How lines look.
        lines: LineFormat,
    },
    /// Appended to a file that is rotated by time.
    TimedRotatingFile(TimedRotatingFileStreamConfig),
    /// Copied to the manager's standard output.
    Stdout {
        /// How lines look.
        lines: LineFormat,
    },
    /// Copied to the manager's standard output with colours and times.
    FancyStdout {
        /// One of Circus's seven colours; one by the watcher's name when absent.
        color: Option<StreamColor>,
        /// strftime format of the time.
        time_format: String,
    },
    /// Written to a program's standard input (ours).
    Command {
        /// Its words.
        command: String,
        /// How lines look.
        lines: LineFormat,
    },
    /// Sent to the system's log (ours).
    Syslog {
        /// Its datagram socket.
        address: PathBuf,
        /// Facility number, 0 to 23.
        facility: u8,
        /// What messages say they are from; the watcher's name when absent.
        ident: Option<String>,
    },
    /// Sent to the journal (ours).
    Journal {
        /// Its datagram socket.
        address: PathBuf,
        /// What entries say they are from; the watcher's name when absent.
        ident: Option<String>,
    },
}

/// How the lines of a stream look.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// As they were written.
    Raw,
    /// Behind a time of this strftime format, and the process id.
    Timed(String),
    /// As objects of JSON (ours).
    Json,
}

/// Circus's seven colours, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "colours")]
pub enum StreamColor {
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
    White,
}

impl StreamColor {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Red,
        Self::Green,
        Self::Yellow,
        Self::Blue,
        Self::Magenta,
        Self::Cyan,
        Self::White,
    ];
}

/// A plain log file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileStreamConfig {
    /// Path of the file as written; relative to the manager's working directory.
    pub filename: PathBuf,
    /// Size at which it is rotated; `None` for never.
    pub max_bytes: Option<u64>,
    /// How many rotated files are kept. With none the file keeps growing, as in Circus.
    pub backup_count: u32,
    /// Whether a file that is full and has no backups is made empty instead of growing (ours).
    pub truncate: bool,
    /// How lines look.
    pub lines: LineFormat,
}

/// A log file that is rotated by time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimedRotatingFileStreamConfig {
    /// Path of the file as written.
    pub filename: PathBuf,
    /// How many rotated files are kept; zero for all.
    pub backup_count: u32,
    /// Unit of the interval, in upper case: S M H D MIDNIGHT W0..W6.
    pub rotate_when: String,
    /// How many units.
    pub rotate_interval: u32,
    /// Whether times are in UTC.
    pub utc: bool,
    /// How lines look.
    pub lines: LineFormat,
}

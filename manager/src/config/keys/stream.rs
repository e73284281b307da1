//! Options of streams, and the classes that know them.

use super::{Key, Support, ignored, key, ours};

/// Options behind `stdout_stream.` and `stderr_stream.`.
pub const STREAM: &[Key] = &[
    key(
        "class",
        "name",
        "FileStream",
        "kind of stream; without it, `filename` is needed",
    ),
    key("filename", "path", "", "file to append to"),
    key(
        "max_bytes",
        "int",
        "0",
        "size at which the file is rotated; 0 for never",
    ),
    key(
        "backup_count",
        "int",
        "0",
        "how many rotated files are kept",
    ),
    key(
        "time_format",
        "strftime",
        "",
        "puts time and process id before each line",
    ),
    key(
        "rotate_when",
        "S M H D MIDNIGHT W0..W6",
        "required",
        "unit of TimedRotatingFileStream",
    ),
    key("rotate_interval", "int", "1", "how many units"),
    key("utc", "text", "", "any text: times of rotation in UTC"),
    key(
        "color",
        "name",
        "by the watcher's name",
        "colour of FancyStdoutStream: red green yellow blue magenta cyan white",
    ),
    ours(
        "format",
        "raw json",
        "raw",
        "json: an object for each line, with time, name, pid and stream",
    ),
    ours(
        "truncate",
        "bool",
        "false",
        "empties a full file that has no `backup_count`, instead of letting it grow",
    ),
    ours(
        "command",
        "command line",
        "required",
        "program of CommandStream; it reads lines from its standard input",
    ),
    ours(
        "address",
        "path",
        "/dev/log, /run/systemd/journal/socket",
        "datagram socket of SyslogStream and JournalStream",
    ),
    ours(
        "facility",
        "name or number",
        "daemon",
        "facility of SyslogStream: user, daemon, local0 and so on",
    ),
    ours(
        "ident",
        "text",
        "the watcher's name",
        "sender of messages to the system's log or the journal",
    ),
    ignored("refresh_time", "text", "Circus has deprecated it"),
];

/// The options of all streams that mean something for a class.
pub const STREAM_CLASSES: &[(&str, &[&str], Support)] = &[
    (
        "FileStream",
        &[
            "filename",
            "max_bytes",
            "backup_count",
            "truncate",
            "time_format",
            "format",
        ],
        Support::Full,
    ),
    (
        "WatchedFileStream",
        &["filename", "time_format", "format"],
        Support::Full,
    ),
    (
        "TimedRotatingFileStream",
        &[
            "filename",
            "backup_count",
            "time_format",
            "rotate_when",
            "rotate_interval",
            "utc",
            "format",
        ],
        Support::Full,
    ),
    ("StdoutStream", &["format"], Support::Full),
    (
        "FancyStdoutStream",
        &["color", "time_format"],
        Support::Full,
    ),
    (
        "CommandStream",
        &["command", "time_format", "format"],
        Support::Ours,
    ),
    (
        "SyslogStream",
        &["address", "facility", "ident"],
        Support::Ours,
    ),
    ("JournalStream", &["address", "ident"], Support::Ours),
];

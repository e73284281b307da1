//! Where output goes: files, consoles, and programs that take it over.
//!
//! Must not know how any of them is reached.

use super::format::Style;
use std::path::{Path, PathBuf};

/// Where a sink's bytes go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Standard output of the manager.
    Console,
    /// Standard error of the manager.
    ErrorConsole,
    /// Standard output of the manager, for lines that look different from the plain ones: each look
    /// is a sink of its own.
    StyledConsole(Style),
    /// The file of this absolute, normalised path.
    File(PathBuf),
    /// The standard input of a program that the manager keeps running.
    Command(CommandLine),
    /// The system's log, as datagrams of RFC 3164 lines.
    Syslog(SyslogAddress),
    /// The journal, in its own protocol.
    Journal(JournalAddress),
}

/// A program that is given lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandLine {
    /// As in the configuration: words, without a shell.
    pub command: String,
    /// How lines look to it: two looks are two programs.
    pub style: Style,
}

/// A system log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyslogAddress {
    /// Its datagram socket.
    pub socket: PathBuf,
    /// Facility number, 0 to 23.
    pub facility: u8,
    /// What lines say they are from.
    pub ident: String,
}

/// A journal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalAddress {
    /// Its datagram socket.
    pub socket: PathBuf,
    /// What entries say they are from.
    pub ident: String,
}

/// What can be known of a target's contents afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// A file system decides; see [`super::disk::FileKind`].
    Path,
    /// People look at it now, so unfinished lines must not wait long; what cannot be written is
    /// thrown away.
    Console,
    /// Somebody else stores it. It is waited for, and opened anew after a failure.
    Service,
}

impl Target {
    /// The path, or what to call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Console | Self::StyledConsole(_) => Path::new("standard output"),
            Self::ErrorConsole => Path::new("standard error"),
            Self::File(path) => path,
            Self::Command(line) => Path::new(&line.command),
            Self::Syslog(address) => &address.socket,
            Self::Journal(address) => &address.socket,
        }
    }

    pub(super) fn nature(&self) -> Nature {
        match self {
            Self::Console | Self::ErrorConsole | Self::StyledConsole(_) => Nature::Console,
            Self::File(_) => Nature::Path,
            Self::Command(_) | Self::Syslog(_) | Self::Journal(_) => Nature::Service,
        }
    }
}

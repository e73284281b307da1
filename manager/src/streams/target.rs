//! Where output goes: files, consoles, and programs that take it over.
//!
//! Must not know how any of them is reached.

use super::format::Style;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// The way to a sink, shared by all sources that take it. Sinks are told apart by its address: comparing the paths of 400 sources
/// with that of each sink, several times for each batch, took a tenth of what 200 children with a line every 10 ms cost, and a
/// path of its own for each source 0.2 KB for each child.
#[derive(Debug, Clone)]
pub(super) struct Route(Arc<Target>);

impl Route {
    pub(super) fn new(target: Target) -> Self {
        Self(Arc::new(target))
    }

    /// Where it leads.
    pub(super) fn target(&self) -> &Target {
        &self.0
    }

    /// The same for all that lead to the same sink, as long as that is there.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether both lead to the same sink.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
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

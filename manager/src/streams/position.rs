//! Where in a child's output something stands.
//!
//! Must not know about files, batches or the kernel's messages.

use kingpole_protocol::record::Stream;
use kingpole_protocol::{ProcessId, Sequence};
use std::fmt;

/// A child process across kernels: ids begin again when a kernel starts with fresh state, so the
/// kernel's instance number goes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// The kernel's id of the process.
    pub process: ProcessId,
    /// The kernel's instance number.
    pub epoch: u64,
}

impl fmt::Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process)
    }
}

/// One stream of one child: what is routed to a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Whose.
    pub child: Child,
    /// Which of its two streams.
    pub stream: Stream,
}

impl Source {
    /// Both streams of a child, stdout first.
    #[must_use]
    pub fn both(child: Child) -> [Self; 2] {
        Stream::ALL.map(|stream| Self { child, stream })
    }
}

/// Whether what comes next begins a line or goes on with one that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Joint {
    /// The next unit begins a line.
    #[default]
    Fresh,
    /// The next unit continues a line of which a fragment has been written.
    Continues,
}

/// A place in a source: everything before it has been handled.
///
/// It is kept in its lowest form: behind the last record that was consumed, not before the next
/// record of the same stream, which may be many records of the other stream later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Record that holds the next byte, or the one behind the last that was consumed.
    pub sequence: Sequence,
    /// Bytes of that record that have been handled; 0 when it is untouched.
    pub offset: u32,
    /// The same place counted in bytes of the stream since the child began.
    pub at: u64,
    /// Whether a line is open here.
    pub joint: Joint,
}

impl Position {
    /// The beginning of a child's stream.
    pub const START: Self = Self {
        sequence: Sequence(1),
        offset: 0,
        at: 0,
        joint: Joint::Fresh,
    };

    /// The later of two places of one source.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if (other.at, other.sequence, other.offset) > (self.at, self.sequence, self.offset) {
            other
        } else {
            self
        }
    }
}

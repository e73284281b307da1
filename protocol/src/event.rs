//! What the kernel says by itself. The request id of an event is 0.
//!
//! Output has a kind of its own, [`OUTPUT_KIND`], whose body is raw: see [`crate::record`].

use crate::frame::messages;
use crate::ids::{Fence, ProcessId, Sequence};
use crate::record::Stream;
use crate::status::{End, ProcessInfo};
use serde::{Deserialize, Serialize};

/// Kind of the frames that carry output records.
pub const OUTPUT_KIND: u16 = 0x4000;

/// A process was started by anyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStarted {
    /// Which.
    pub process: ProcessInfo,
}

/// A process ended. Its output may still be coming.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnded {
    /// Which.
    pub process: ProcessId,
    /// How.
    pub end: End,
}

/// A process is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRemoved {
    /// Which.
    pub process: ProcessId,
}

/// Records that a follower had not been sent are gone: dropped because the buffer was full, or
/// acknowledged by somebody else.
///
/// A reader knows how many bytes of each stream it has; the difference to the offsets here is what
/// it misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose.
    pub process: ProcessId,
    /// First record missing.
    pub from: Sequence,
    /// First record not missing; the follower is sent this one next.
    pub to: Sequence,
    /// Offset within stdout of the first byte not missing.
    pub stdout_offset: u64,
    /// Offset within stderr of the first byte not missing.
    pub stderr_offset: u64,
}

/// A stream of a followed process can bring no more, and all its records have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnded {
    /// Whose.
    pub process: ProcessId,
    /// Which stream.
    pub stream: Stream,
    /// The number that the next record would get: everything before it has been sent.
    pub next: Sequence,
    /// Bytes that the stream brought in all.
    pub bytes: u64,
}

/// Somebody else took this session's lease; its number is void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseLost {
    /// Its name.
    pub name: String,
    /// The number that was this session's.
    pub lease: Fence,
}

/// The kernel closes this session, or itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// For people.
    pub reason: String,
}

messages! {
    /// Any event but output.
    Event {
        /// A process was started.
        ProcessStarted = 0x4001,
        /// A process ended.
        ProcessEnded = 0x4002,
        /// A process is forgotten.
        ProcessRemoved = 0x4003,
        /// Records are missing.
        Gap = 0x4010,
        /// A stream is complete.
        StreamEnded = 0x4011,
        /// The lease is gone.
        LeaseLost = 0x4020,
        /// The session ends.
        Goodbye = 0x4030,
    }
}

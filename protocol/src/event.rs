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

/// The file of a followed process's ring, to read output in place: see [`crate::request::FollowMapped`].
/// Its descriptor travels with the first byte of this frame, whose header says 1 descriptor; it is
/// open for reading only. [`crate::ring`] has the layout. It takes the place of whatever was passed
/// for this process before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPassed {
    /// Whose.
    pub process: ProcessId,
    /// The file's inode number: no other ring that exists has the same.
    pub ring: u64,
    /// Bytes for records.
    pub data_bytes: u64,
}

/// Records lie in a ring that was passed. They take credit as if they had been sent.
///
/// Whether they still lie there is for the reader to find out: it copies them, and looks then
/// at where the ring's oldest record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedOutput {
    /// Whose.
    pub process: ProcessId,
    /// In which file, see [`RingPassed::ring`].
    pub ring: u64,
    /// Position of the first one. Positions only ever grow; modulo the data bytes of the ring they
    /// are offsets in the file.
    pub position: u64,
    /// Bytes of all of them, headers and padding included.
    pub bytes: u64,
    /// Number of the first one.
    pub from: Sequence,
    /// Number of the record behind the last one.
    pub next: Sequence,
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
        /// The file of a ring.
        RingPassed = 0x4012,
        /// Where records lie.
        MappedOutput = 0x4013,
        /// The lease is gone.
        LeaseLost = 0x4020,
        /// The session ends.
        Goodbye = 0x4030,
    }
}

//! What the kernel tells about what it holds. Plain data, frozen in version 1.

use crate::bytes::ByteString;
use crate::ids::{Fence, ProcessId, Sequence};
use crate::spec::SocketSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One child process, running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Never used again.
    pub process: ProcessId,
    /// As spawned.
    pub name: String,
    /// What the client gave to make a repeated spawn harmless.
    pub key: String,
    /// Linux's number; meaningless once it has ended.
    pub pid: i32,
    /// When it was started, nanoseconds since 1970.
    pub started_ns: u64,
    /// Its arguments after replacement of socket numbers. The environment is not told.
    pub arguments: Vec<ByteString>,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// As spawned.
    pub labels: BTreeMap<String, String>,
    /// How it ended, if it has.
    pub end: Option<End>,
    /// Its output buffer.
    pub output: OutputInfo,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Exit code or signal.
    pub status: EndStatus,
    /// When the kernel saw it, nanoseconds since 1970.
    pub time_ns: u64,
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in Linux, microseconds.
    pub system_us: u64,
    /// Largest resident set, KiB.
    pub max_rss_kib: u64,
}

/// Exit code or signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndStatus {
    /// It exited with this code (0 to 255).
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// A core file was written.
        core_dumped: bool,
    },
    /// Somebody else collected it, and Linux cannot tell any more.
    Unknown,
}

impl EndStatus {
    /// Papa's and Circus's single number: the exit code, or minus the signal; 0 if unknown.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled { signal, .. } => signal.saturating_neg(),
            Self::Unknown => 0,
        }
    }
}

/// State of a process's output buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputInfo {
    /// Room for records, bytes; 0 when nothing is captured.
    pub capacity_bytes: u64,
    /// In use by records, headers included.
    pub used_bytes: u64,
    /// Oldest record still kept; equals `next` when none is.
    pub oldest: Sequence,
    /// Number that the next record will get.
    pub next: Sequence,
    /// Everything read from stdout so far, bytes.
    pub stdout_bytes: u64,
    /// Everything read from stderr so far, bytes.
    pub stderr_bytes: u64,
    /// Records dropped because the buffer was full.
    pub dropped_records: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// Stdout can bring no more (closed, or never captured).
    pub stdout_ended: bool,
    /// Stderr can bring no more (closed, or never captured).
    pub stderr_ended: bool,
}

/// One socket that the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketInfo {
    /// As asked for, but with the real port.
    pub spec: SocketSpec,
    /// The kernel's descriptor number, which children that are passed the socket see too; absent
    /// with `reuseport`.
    pub fileno: Option<i32>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueInfo {
    /// Its name.
    pub key: String,
    /// Its bytes.
    pub value: ByteString,
}

/// One connected client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Counted from 1.
    pub session: u64,
    /// What it called itself; empty for text sessions.
    pub client: String,
    /// Whether it speaks frames.
    pub framed: bool,
    /// `unix` or the peer's address and port.
    pub peer: String,
    /// The peer's user id.
    pub uid: u32,
    /// The peer's process id, 0 if not known (TCP).
    pub pid: i32,
    /// When it connected, nanoseconds since 1970.
    pub connected_ns: u64,
    /// Bytes that wait to be read by it.
    pub queued_bytes: u64,
    /// Processes whose output it follows.
    pub following: u32,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Its name.
    pub name: String,
    /// The number that its holder's requests carry.
    pub fence: Fence,
    /// The session that holds it; 0 when that has gone.
    pub session: u64,
    /// What the holder called itself.
    pub client: String,
    /// When it was taken, nanoseconds since 1970.
    pub taken_ns: u64,
}

/// The kernel in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Its release.
    pub release: String,
    /// Its process id.
    pub pid: i32,
    /// The guard's process id, 0 without one.
    pub guard_pid: i32,
    /// See [`crate::hello::Welcome::generation`].
    pub generation: u64,
    /// See [`crate::hello::Welcome::epoch`].
    pub epoch: u64,
    /// See [`crate::hello::Welcome::instance`].
    pub instance: u64,
    /// When the state was created, nanoseconds since 1970.
    pub started_ns: u64,
    /// Now, by the kernel's clock, nanoseconds since 1970.
    pub now_ns: u64,
    /// Processes that run.
    pub processes_running: u64,
    /// Processes that have ended and are kept.
    pub processes_ended: u64,
    /// Sockets held.
    pub sockets: u64,
    /// Values held.
    pub values: u64,
    /// Bytes in keys and values.
    pub values_bytes: u64,
    /// Sessions, this one included.
    pub sessions: u64,
    /// Leases.
    pub leases: u64,
    /// Unread output of all processes, record headers included.
    pub output_bytes: u64,
    /// Room for output of all processes.
    pub output_capacity_bytes: u64,
    /// Resident memory of the kernel process, KiB (shared memory in use included).
    pub resident_kib: u64,
    /// Descriptors open in the kernel.
    pub descriptors: u64,
    /// Most descriptors it may open.
    pub descriptors_limit: u64,
}

//! What a client asks. Every request is answered by exactly one reply with its request id, in
//! order, except [`Grant`], which has none.

use crate::bytes::ByteString;
use crate::frame::messages;
use crate::hello::Hello;
use crate::ids::{Fence, ProcessId, Sequence};
use crate::spec::{ProcessSpec, SocketSpec};
use serde::{Deserialize, Serialize};

/// Are you there? Answered by [`crate::reply::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {}

/// What do you hold, in numbers? Answered by [`crate::status::KernelStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {}

/// Lists processes by growing id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListProcesses {
    /// Only ids greater than this; 0 begins.
    pub after: ProcessId,
    /// At most so many; [`crate::limits::LIST_PAGE_MAX`] bounds it. A reply may carry fewer.
    pub limit: u32,
}

/// Lists sockets by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSockets {
    /// Only names greater than this; empty begins.
    pub after: String,
    /// As in [`ListProcesses::limit`].
    pub limit: u32,
}

/// Lists values by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListValues {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys greater than this; empty begins.
    pub after: String,
    /// As in [`ListProcesses::limit`].
    pub limit: u32,
}

/// Lists connected sessions by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSessions {
    /// Only numbers greater than this; 0 begins.
    pub after: u64,
    /// As in [`ListProcesses::limit`].
    pub limit: u32,
}

/// Lists leases by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLeases {
    /// Only names greater than this; empty begins.
    pub after: String,
    /// As in [`ListProcesses::limit`].
    pub limit: u32,
}

/// Starts a process. Answered by [`crate::reply::Spawned`] once it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// Chosen by the client, 1 to 255 bytes, unique per wanted process: repeating a request whose
    /// answer was lost answers with the process that the first one started.
    pub key: String,
    /// What to start.
    pub spec: ProcessSpec,
}

/// Sends a signal through a pidfd, so that a recycled process id is never hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// To whom.
    pub process: ProcessId,
    /// Linux's number; 0 only checks.
    pub signal: i32,
    /// How far it reaches.
    pub target: SignalTarget,
}

/// How far a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalTarget {
    /// The process alone.
    Process,
    /// Its process group, itself included.
    Group,
    /// The process and everything that descends from it, in whatever session.
    Tree,
    /// Everything that descends from it, without itself.
    Descendants,
    /// Its direct children, without itself.
    Children,
}

/// Stores values and acknowledges, as one step that a crash cannot cut: first the values, then the
/// acknowledgements. Nothing happens if any part is refused, except that processes which are not
/// there any more are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Values to set or remove.
    pub values: Vec<ValueChange>,
    /// Output that needs not be kept any longer.
    pub outputs: Vec<OutputAcknowledgement>,
    /// Ends that need not be kept any longer. The process is forgotten once its output is read to
    /// the end and acknowledged too.
    pub ends: Vec<ProcessId>,
}

/// One change of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueChange {
    /// Which.
    pub key: String,
    /// New bytes, or `None` to remove it.
    pub value: Option<ByteString>,
}

/// Everything up to a sequence number has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputAcknowledgement {
    /// Whose.
    pub process: ProcessId,
    /// The last record that needs not be kept.
    pub through: Sequence,
}

/// Reads one value. Answered by [`crate::reply::Value`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetValue {
    /// Which.
    pub key: String,
}

/// Forgets a process with whatever output is left: at once if it has ended, else at its end.
/// It is not signalled, and what it writes from now on is thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Which.
    pub process: ProcessId,
}

/// Makes a socket, or finds the one that was made with equal options. Answered by
/// [`crate::reply::SocketMade`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeSocket {
    /// What to make.
    pub spec: SocketSpec,
}

/// Closes a socket and removes its path. Processes that have it keep theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseSocket {
    /// Which.
    pub name: String,
}

/// Asks for the descriptor of a socket that the kernel holds, to use it beside the kernel: what waits
/// in it is kept while nobody is there. Unix sessions only. Answered by
/// [`crate::reply::SocketPassed`], or refused: as `unsupported` where descriptors cannot travel, as
/// `invalid` when the kernel keeps no descriptor of it (`reuseport`), as `pending` while earlier
/// answers have not been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSocket {
    /// Which.
    pub name: String,
}

/// Takes a lease. Answered by [`crate::reply::LeaseTaken`] with its fencing number, or refused
/// while a connected session holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeLease {
    /// Which.
    pub name: String,
    /// Not [`Fence::NONE`]: take it only if this is still its number, and keep the number (after a
    /// reconnect).
    pub resume: Fence,
    /// Take it from a connected session too; that one is told.
    pub take_over: bool,
}

/// Gives a lease back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseLease {
    /// Its number.
    pub lease: Fence,
}

/// Sends the output of a process from a record on, as frames of kind
/// [`crate::event::OUTPUT_KIND`], until [`Unfollow`]. A second request moves the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Whose.
    pub process: ProcessId,
    /// First record wanted; 0 stands for the oldest kept.
    pub from: Sequence,
    /// How many bytes of records (headers and padding included) may be sent before the next
    /// [`Grant`]. A record is sent while credit is above zero, so it may be overdrawn by one record.
    pub credit_bytes: u64,
}

/// As [`Follow`], for a client that reads rings in place: where there is much at a time, the kernel
/// passes the file of the ring ([`crate::event::RingPassed`]) and says where records lie
/// ([`crate::event::MappedOutput`]); little goes as frames of kind [`crate::event::OUTPUT_KIND`], and
/// after an upgrade of the kernel everything does, until this is asked again. Unix sessions only; refused as
/// `unsupported` elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowMapped {
    /// Whose.
    pub process: ProcessId,
    /// As in [`Follow`].
    pub from: Sequence,
    /// As in [`Follow`]; records that are read in place take as much.
    pub credit_bytes: u64,
}

/// Adds credit to a [`Follow`] or [`FollowMapped`]. Not answered; its request id is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whose.
    pub process: ProcessId,
    /// How much.
    pub credit_bytes: u64,
}

/// Ends a [`Follow`] or [`FollowMapped`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfollow {
    /// Whose.
    pub process: ProcessId,
}

/// Sends [`crate::event::ProcessStarted`], [`crate::event::ProcessEnded`] and
/// [`crate::event::ProcessRemoved`] for every process from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {}

/// Ends the kernel if it holds no process, socket or value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitIfIdle {}

messages! {
    /// Any request.
    #[expect(clippy::large_enum_variant, reason = "lives briefly, one at a time")]
    Request {
        /// First frame.
        Hello = 0x0001,
        /// Are you there?
        Ping = 0x0002,
        /// The kernel in numbers.
        Status = 0x0003,
        /// Processes.
        ListProcesses = 0x0010,
        /// Sockets.
        ListSockets = 0x0011,
        /// Values.
        ListValues = 0x0012,
        /// Sessions.
        ListSessions = 0x0013,
        /// Leases.
        ListLeases = 0x0014,
        /// Start a process.
        Spawn = 0x0020,
        /// Signal a process.
        Signal = 0x0021,
        /// Forget a process.
        Remove = 0x0022,
        /// Values and acknowledgements.
        Commit = 0x0030,
        /// Read a value.
        GetValue = 0x0031,
        /// Make a socket.
        MakeSocket = 0x0040,
        /// Close a socket.
        CloseSocket = 0x0041,
        /// Ask for a socket's descriptor.
        FetchSocket = 0x0042,
        /// Take a lease.
        TakeLease = 0x0050,
        /// Give a lease back.
        ReleaseLease = 0x0051,
        /// Send output.
        Follow = 0x0060,
        /// More credit for output.
        Grant = 0x0061,
        /// Send output no longer.
        Unfollow = 0x0062,
        /// Tell about processes.
        Subscribe = 0x0063,
        /// Say where output lies.
        FollowMapped = 0x0064,
        /// End if nothing is held.
        ExitIfIdle = 0x0070,
    }
}

//! What the kernel answers.

use crate::bytes::ByteString;
use crate::error::ErrorReply;
use crate::frame::messages;
use crate::hello::Welcome;
use crate::ids::Fence;
use crate::status::{KernelStatus, LeaseInfo, ProcessInfo, SessionInfo, SocketInfo, ValueInfo};
use serde::{Deserialize, Serialize};

/// It is done; there is nothing more to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// A page of processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// By growing id.
    pub items: Vec<ProcessInfo>,
    /// Ask again, after the last one.
    pub more: bool,
}

/// A page of sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// By name.
    pub items: Vec<SocketInfo>,
    /// Ask again, after the last one.
    pub more: bool,
}

/// A page of values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// By key.
    pub items: Vec<ValueInfo>,
    /// Ask again, after the last one.
    pub more: bool,
}

/// A page of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// By number.
    pub items: Vec<SessionInfo>,
    /// Ask again, after the last one.
    pub more: bool,
}

/// A page of leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// By name.
    pub items: Vec<LeaseInfo>,
    /// Ask again, after the last one.
    pub more: bool,
}

/// A process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// What runs (or, with `existed`, may have ended since).
    pub process: ProcessInfo,
    /// An earlier request with the same key had started it.
    pub existed: bool,
}

/// Signals were sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signalled {
    /// To how many processes.
    pub count: u32,
}

/// The bytes of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// `None` when it is not set.
    pub value: Option<ByteString>,
}

/// A socket is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketMade {
    /// With the real port.
    pub socket: SocketInfo,
    /// It was there already.
    pub existed: bool,
}

/// A socket's descriptor. It travels with the first byte of this frame, whose header says 1
/// descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPassed {
    /// What it is.
    pub socket: SocketInfo,
    /// Whether clients find it: always for ports; for a path, whether the file there is still this
    /// socket's, and not gone or replaced by another.
    pub reachable: bool,
}

/// A lease is held by this session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTaken {
    /// What requests carry from now on.
    pub fence: Fence,
}

messages! {
    /// Any reply.
    Reply {
        /// Refused; nothing has changed.
        ErrorReply = 0x8000,
        /// Answer to hello.
        Welcome = 0x8001,
        /// Done.
        Done = 0x8002,
        /// Answer to status.
        KernelStatus = 0x8003,
        /// Processes.
        Processes = 0x8010,
        /// Sockets.
        Sockets = 0x8011,
        /// Values.
        Values = 0x8012,
        /// Sessions.
        Sessions = 0x8013,
        /// Leases.
        Leases = 0x8014,
        /// A process runs.
        Spawned = 0x8020,
        /// Signals were sent.
        Signalled = 0x8021,
        /// A value.
        Value = 0x8031,
        /// A socket is held.
        SocketMade = 0x8040,
        /// A socket's descriptor.
        SocketPassed = 0x8041,
        /// A lease is held.
        LeaseTaken = 0x8050,
    }
}

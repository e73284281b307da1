//! What a client asks the kernel to make: processes and sockets. Plain data, frozen in version 1.

use crate::bytes::ByteString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything about a child process that is decided before it starts.
///
/// Nothing is inherited from the kernel: environment, descriptors, limits and signal dispositions
/// are exactly what stands here. The child always gets a session of its own (`setsid`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Unique among the running processes; see [`crate::names::check_name`].
    pub name: String,
    /// Arguments, the program's own name first. `$(socket.NAME.fileno)` and `$(socket.NAME.port)`
    /// are replaced anywhere in them, and the sockets named are passed to the child.
    pub arguments: Vec<ByteString>,
    /// What to execute when it is not `arguments[0]`.
    pub program: Option<ByteString>,
    /// Directories, separated by `:`, in which a program without a slash is looked up. Empty: the
    /// kernel's default of `/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin`.
    pub search_path: ByteString,
    /// The child's whole environment, in order.
    pub environment: Vec<(ByteString, ByteString)>,
    /// Absolute; empty means `/`.
    pub working_directory: ByteString,
    /// File mode mask; the kernel's own (027) when absent.
    pub umask: Option<u32>,
    /// Who the child runs as; the kernel's own user when absent.
    pub user: Option<UserSpec>,
    /// Resource limits that differ from the kernel's own.
    pub limits: Vec<LimitSpec>,
    /// What descriptor 0 is.
    pub stdin: StdinSpec,
    /// What descriptor 1 is.
    pub stdout: OutputSpec,
    /// What descriptor 2 is.
    pub stderr: OutputSpec,
    /// How many bytes of unread output to keep, record headers included; 0 stands for
    /// [`crate::limits::OUTPUT_BUFFER_BYTES_DEFAULT`]. Rounded up to whole pages.
    pub buffer_bytes: u64,
    /// What happens when that is full.
    pub overflow: Overflow,
    /// Sockets to pass as `LISTEN_FDS` does: descriptors 3, 4 ... in this order, with
    /// `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` added to the environment.
    pub listen: Vec<String>,
    /// For whoever spawned it, to recognise it by; the kernel does not look at them.
    pub labels: BTreeMap<String, String>,
}

/// Numeric, because the kernel does not read user databases for frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups, exactly these.
    pub groups: Vec<u32>,
}

/// One resource limit (`setrlimit(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSpec {
    /// Linux's number, such as 7 for `RLIMIT_NOFILE` on x86-64.
    pub resource: u32,
    /// `u64::MAX` is infinity.
    pub soft: u64,
    /// `u64::MAX` is infinity.
    pub hard: u64,
}

/// What a child reads from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinSpec {
    /// `/dev/null`.
    #[default]
    Null,
    /// A socket of the kernel, by name (FastCGI style).
    Socket(String),
}

/// Where a child's output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputSpec {
    /// Through a pipe into the child's output buffer.
    #[default]
    Capture,
    /// `/dev/null`.
    Null,
    /// For stderr: wherever stdout goes.
    SameAsStdout,
}

/// What happens when a child writes more than its buffer holds and nobody acknowledges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// The oldest records go; readers get a gap.
    #[default]
    DropOldest,
    /// The kernel stops reading: the child's writes wait.
    Block,
}

/// A socket for the kernel to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSpec {
    /// Unique among sockets.
    pub name: String,
    /// Where it is.
    pub address: SocketAddress,
    /// What kind it is.
    pub kind: SocketKind,
    /// Length of the queue of connections that wait (stream and seqpacket).
    pub backlog: u32,
    /// Network interface to bind to (`SO_BINDTODEVICE`); inet only.
    pub interface: Option<String>,
    /// The kernel keeps no socket open; every process that uses it gets a fresh one, bound with
    /// `SO_REUSEPORT`.
    pub reuseport: bool,
}

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketAddress {
    /// A path.
    Unix {
        /// Absolute. A file that is there already is replaced.
        path: ByteString,
        /// File mode mask while binding.
        umask: Option<u32>,
    },
    /// IPv4.
    Inet {
        /// Numeric, or `localhost`.
        host: String,
        /// 0 lets Linux pick.
        port: u16,
    },
    /// IPv6.
    Inet6 {
        /// Numeric, or `localhost`.
        host: String,
        /// 0 lets Linux pick.
        port: u16,
    },
}

/// Type of a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// `SOCK_STREAM`, listening.
    #[default]
    Stream,
    /// `SOCK_DGRAM`. Bound to a path, each message comes with who sent it (`SO_PASSCRED`), if the
    /// reader asks.
    Datagram,
    /// `SOCK_SEQPACKET`, listening (unix only).
    SeqPacket,
}

//! Sockets that the kernel holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::Location;

/// Section `[socket:NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SocketConfig {
    /// Name, lower-cased.
    pub name: String,
    /// Place of the section header.
    pub origin: Location,
    /// Where it is bound.
    pub address: SocketAddress,
    /// What flows through it.
    pub kind: SocketKind,
    /// Protocol name as written; always that which the kind has anyway.
    pub proto: Option<String>,
    /// Length of the queue of connections.
    pub backlog: u32,
    /// Network interface it is bound to.
    pub interface: Option<String>,
    /// A fresh socket with SO_REUSEPORT for each process.
    pub so_reuseport: bool,
    /// Whether it is blocking in the children, if that is written; it is made so otherwise, and stays as
    /// programs leave it.
    pub blocking: Option<Blocking>,
    /// Written in the file; every managed socket is held by the kernel anyway.
    pub use_papa: bool,
    /// Keys that nobody knows, as written.
    pub other: BTreeMap<String, String>,
}

impl SocketConfig {
    /// Its name in the kernel, as Circus named it in Papa.
    #[must_use]
    pub fn kernel_socket_name(&self) -> String {
        format!("{}{}", crate::config::KERNEL_NAME_PREFIX, self.name)
    }
}

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "family")]
pub enum SocketAddress {
    /// A path.
    Unix {
        /// As written; relative to the manager's working directory.
        path: PathBuf,
        /// Umask while it is bound.
        umask: u32,
        /// Whether an existing socket file is replaced.
        replace: bool,
    },
    /// Host and port.
    Inet {
        /// Name or number, as written.
        host: String,
        /// Zero for one the system chooses.
        port: u16,
        /// Which address of the host is taken.
        version: IpVersion,
    },
}

/// Which kind of internet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IpVersion {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// Whether processes wait in accept(2) and the like, or are told at once that there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "bool")]
pub enum Blocking {
    /// They wait.
    Yes,
    /// They do not: `O_NONBLOCK`.
    No,
}

impl From<Blocking> for bool {
    fn from(blocking: Blocking) -> Self {
        blocking == Blocking::Yes
    }
}

/// What flows through a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketKind {
    /// Connections with a stream of bytes; listening.
    Stream,
    /// Single messages.
    Dgram,
    /// Connections with messages; listening.
    Seqpacket,
    /// Raw packets.
    Raw,
    /// Reliable messages.
    Rdm,
}

//! What stands in the journal: everything of variable size that must survive the kernel.
//!
//! These are mirror types with permanent numbers. A released one is frozen: what changes gets a new
//! number, and every later kernel reads the old ones.

use crate::state::{Lease, Process, Socket, State};
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::codec::{self, CodecError};
use kingpole_protocol::ids::{Fence, ProcessId};
use kingpole_protocol::request::ValueChange;
use kingpole_protocol::spec::{Overflow, SocketSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When and as what the state began, and the counters that only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Tells this state from every other.
    pub instance: u64,
    /// Nanoseconds since 1970.
    pub started_ns: u64,
    /// Newest fencing number given out.
    pub newest_fence: Fence,
    /// Newest number of a held socket.
    pub newest_socket: u64,
}

/// A process. Its environment is not kept: it may hold secrets, and nobody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// Its number.
    pub process: ProcessId,
    /// Its slot.
    pub slot: u64,
    /// See [`kingpole_protocol::status::ProcessInfo`].
    pub key: String,
    /// Likewise.
    pub name: String,
    /// After replacement of socket numbers.
    pub arguments: Vec<ByteString>,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// As spawned.
    pub labels: BTreeMap<String, String>,
    /// Room for output, bytes; 0 without a ring.
    pub buffer_bytes: u64,
    /// What happens when that is full.
    pub overflow: Overflow,
}

/// A process is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Which.
    pub process: ProcessId,
}

/// Values that changed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValuesChanged {
    /// In order.
    pub changes: Vec<ValueChange>,
}

/// A socket is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketMade {
    /// Its number in the guard's table; 0 when none is kept open.
    pub number: u64,
    /// Descriptor number in the kernel, which children see too; -1 for none.
    pub fileno: i32,
    /// With the real port.
    pub spec: SocketSpec,
    /// The port that was asked for.
    pub asked_port: u16,
}

/// A socket is not held any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketClosed {
    /// Its name.
    pub name: String,
}

/// A lease was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTaken {
    /// Its name.
    pub name: String,
    /// Its number.
    pub fence: Fence,
    /// What the holder called itself.
    pub client: String,
    /// Nanoseconds since 1970.
    pub taken_ns: u64,
}

/// A lease was given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReleased {
    /// Its name.
    pub name: String,
}

macro_rules! entries {
    ($($(#[$doc:meta])* $name:ident = $kind:literal,)*) => {
        /// One record of the journal.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Entry {
            $($(#[$doc])* $name($name),)*
        }

        impl Entry {
            /// Its permanent number.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $kind,)* }
            }

            /// Whether this build knows records of this number.
            #[must_use]
            pub fn is_known(kind: u16) -> bool {
                [$($kind),*].contains(&kind)
            }

            /// Its bytes.
            ///
            /// # Errors
            /// It is too long.
            pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
                match self { $(Self::$name(entry) => codec::encode(entry),)* }
            }

            /// Reads a record back; `None` when this build does not know its number.
            ///
            /// # Errors
            /// The bytes are no such record.
            pub fn decode(kind: u16, bytes: &[u8]) -> Result<Option<Self>, CodecError> {
                match kind {
                    $($kind => codec::decode(bytes).map(|entry| Some(Self::$name(entry))),)*
                    _ => Ok(None),
                }
            }
        }
    };
}

entries! {
    /// The beginning.
    Origin = 1,
    /// A process.
    Spawned = 2,
    /// One less.
    Removed = 3,
    /// Values.
    ValuesChanged = 4,
    /// A socket.
    SocketMade = 5,
    /// One less.
    SocketClosed = 6,
    /// A lease.
    LeaseTaken = 7,
    /// One less.
    LeaseReleased = 8,
}

/// The whole state as few records: what a compacted journal holds.
pub fn snapshot(state: &State) -> impl Iterator<Item = Entry> {
    let origin = Entry::Origin(Origin {
        instance: state.about.instance,
        started_ns: state.about.started_ns,
        newest_fence: state.newest_fence,
        newest_socket: state.newest_socket,
    });
    let values = state.values.iter().map(|(key, value)| {
        let change = ValueChange {
            key: key.clone(),
            value: Some(value.clone()),
        };
        Entry::ValuesChanged(ValuesChanged {
            changes: vec![change],
        })
    });
    std::iter::once(origin)
        .chain(
            state
                .processes
                .values()
                .map(|process| Entry::Spawned(spawned(process))),
        )
        .chain(
            state
                .sockets
                .values()
                .map(|socket| Entry::SocketMade(socket_made(socket))),
        )
        .chain(
            state
                .leases
                .iter()
                .map(|(name, lease)| Entry::LeaseTaken(lease_taken(name, lease))),
        )
        .chain(values)
}

fn spawned(process: &Process) -> Spawned {
    Spawned {
        process: process.id,
        slot: u64::from(process.slot.number()),
        key: process.key.clone(),
        name: process.name.clone(),
        arguments: process.arguments.clone(),
        uid: process.uid,
        gid: process.gid,
        labels: process.labels.clone(),
        buffer_bytes: process.output.capacity_bytes,
        overflow: process.output.overflow,
    }
}

/// The record of a socket.
#[must_use]
pub fn socket_made(socket: &Socket) -> SocketMade {
    SocketMade {
        number: socket.number,
        fileno: socket.info.fileno.unwrap_or(-1),
        spec: socket.info.spec.clone(),
        asked_port: socket.asked_port,
    }
}

/// The record of a lease.
#[must_use]
pub fn lease_taken(name: &str, lease: &Lease) -> LeaseTaken {
    LeaseTaken {
        name: name.to_owned(),
        fence: lease.fence,
        client: lease.client.clone(),
        taken_ns: lease.taken_ns,
    }
}

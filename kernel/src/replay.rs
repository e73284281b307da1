//! From the journal back to what it remembers. Pure but for reading the journal's memory.

use crate::entry::{Entry, LeaseTaken, Origin, SocketMade, Spawned};
use crate::memory::Journal;
use crate::memory::journal::{RecordKind, ReplayError, Replayed};
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::codec::CodecError;
use kingpole_protocol::ids::ProcessId;
use std::collections::BTreeMap;
use thiserror::Error;

/// What the journal says, all of it applied in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The beginning, with the newest counters; `None` in the journal of a first start.
    pub origin: Option<Origin>,
    /// Processes that were not removed, with the bytes of their records.
    pub processes: BTreeMap<ProcessId, (Spawned, u64)>,
    /// Sockets that were not closed, with the bytes of their records.
    pub sockets: BTreeMap<String, (SocketMade, u64)>,
    /// Values.
    pub values: BTreeMap<String, ByteString>,
    /// Leases that were not given back.
    pub leases: BTreeMap<String, LeaseTaken>,
    /// Records of a later kernel that need not be understood but must be kept.
    pub carried: Vec<(RecordKind, Vec<u8>)>,
}

/// The journal cannot be read.
#[derive(Debug, Error)]
pub enum RememberError {
    /// It is damaged, or only a later kernel understands it.
    #[error(transparent)]
    Journal(#[from] ReplayError),
    /// A record is not what its number says.
    #[error("the journal's record of kind {kind} makes no sense: {source}")]
    Record {
        /// Its number.
        kind: u32,
        /// Why.
        source: CodecError,
    },
}

/// Reads the whole journal.
///
/// # Errors
/// See [`RememberError`].
pub fn remember(journal: &Journal) -> Result<Remembered, RememberError> {
    let mut remembered = Remembered::default();
    let is_known = |kind: RecordKind| u16::try_from(kind.number()).is_ok_and(Entry::is_known);
    for record in journal.replay(is_known) {
        let record = match record? {
            Replayed::Known(record) => record,
            Replayed::CarryAlong(record) => {
                remembered
                    .carried
                    .push((record.kind, record.payload.to_vec()));
                continue;
            }
        };
        let kind = record.kind.number();
        let entry = Entry::decode(u16::try_from(kind).unwrap_or(u16::MAX), record.payload);
        let bytes = u64::try_from(record.payload.len()).unwrap_or(u64::MAX);
        match entry {
            Ok(Some(entry)) => remembered.apply(entry, bytes),
            Ok(None) => {}
            Err(source) => return Err(RememberError::Record { kind, source }),
        }
    }
    Ok(remembered)
}

impl Remembered {
    fn apply(&mut self, entry: Entry, bytes: u64) {
        match entry {
            Entry::Origin(origin) => self.origin = Some(origin),
            Entry::Spawned(spawned) => {
                self.processes.insert(spawned.process, (spawned, bytes));
            }
            Entry::Removed(removed) => {
                self.processes.remove(&removed.process);
            }
            Entry::ValuesChanged(values) => {
                for change in values.changes {
                    match change.value {
                        Some(value) => self.values.insert(change.key, value),
                        None => self.values.remove(&change.key),
                    };
                }
            }
            Entry::SocketMade(socket) => {
                if let Some(origin) = &mut self.origin {
                    origin.newest_socket = origin.newest_socket.max(socket.number);
                }
                self.sockets
                    .insert(socket.spec.name.clone(), (socket, bytes));
            }
            Entry::SocketClosed(closed) => {
                self.sockets.remove(&closed.name);
            }
            Entry::LeaseTaken(lease) => {
                if let Some(origin) = &mut self.origin {
                    origin.newest_fence = origin.newest_fence.max(lease.fence);
                }
                self.leases.insert(lease.name.clone(), lease);
            }
            Entry::LeaseReleased(released) => {
                self.leases.remove(&released.name);
            }
        }
    }
}

#[cfg(test)]
mod tests;

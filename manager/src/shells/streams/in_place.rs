//! Output that is read in place: from the kernel's rings, instead of having it sent.
//!
//! Whatever is wrong with that ends in following the process anew, from the first record that was not
//! got: then the kernel sends it, announces it again, or says exactly what is missing. Must not know
//! what becomes of output.

use super::session::Notice;
use crate::shells::history::Records as Shared;
use crate::streams::feed::Chunk;
use kingpole_protocol::client::connection::Incoming;
use kingpole_protocol::client::{Copied, Descriptors, MappedRing, MappedRingError};
use kingpole_protocol::event::{Event, MappedOutput};
use kingpole_protocol::hello::capability;
use kingpole_protocol::record::{OutputFrame, RECORD_HEADER_BYTES, RecordHeader, Records};
use kingpole_protocol::{ProcessId, Sequence};
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Rings that are kept open: each is a descriptor, and memory of the kernel's that a forgotten process no
/// longer needs. It passes no more either.
const RINGS_MAX: usize = 256;

/// Frames of at least so many bytes would have been announced by a kernel that remembers that it was asked to; one
/// that was upgraded does not.
const LARGE_BYTES: usize = 16 << 10;

/// So much in large frames, and it is asked again; twice as much the next time.
const ASKED_AGAIN_BYTES: u64 = 1 << 20;

/// How output is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Sent as bytes.
    Sent,
    /// Announced, where there is much of it.
    InPlace,
}

/// A process that has to be followed anew.
#[derive(Debug)]
pub(super) struct Anew {
    /// From this record on.
    pub(super) from: Sequence,
    pub(super) access: Access,
    /// What was said of it since, for the case that it is not there any more.
    pub(super) said: Vec<Event>,
}

/// What comes in large frames although it was asked for in place.
#[derive(Debug, Clone, Copy)]
struct Sent {
    bytes: u64,
    patience: u64,
}

/// What a session knows about reading in place.
#[derive(Debug)]
pub(super) struct InPlace {
    offered: Access,
    rings: BTreeMap<ProcessId, MappedRing>,
    anew: BTreeMap<ProcessId, Anew>,
    sent: BTreeMap<ProcessId, Sent>,
}

/// What the kernel can do at most.
pub(super) const WANTED: u64 = capability::DESCRIPTORS | capability::MAPPED_OUTPUT;

impl InPlace {
    /// As agreed on.
    pub(super) fn agreed(capabilities: u64) -> Self {
        let offered = match capabilities & WANTED == WANTED {
            true => Access::InPlace,
            false => Access::Sent,
        };
        Self {
            offered,
            rings: BTreeMap::new(),
            anew: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    /// How output is to be asked for.
    pub(super) fn access(&self) -> Access {
        self.offered
    }

    /// The kernel has become one that does not know it.
    pub(super) fn not_offered(&mut self) {
        self.offered = Access::Sent;
    }

    /// A process is followed anew, or not any more: what was passed for it counts no longer.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.rings.remove(&process);
    }

    /// Nothing more will come of it.
    pub(super) fn forget_all(&mut self, process: ProcessId) {
        self.forget(process);
        self.sent.remove(&process);
    }

    /// A process that has to be followed anew. It stays noted until [`Self::followed`]: what arrives of it until
    /// then is from before.
    pub(super) fn next_anew(&self) -> Option<(ProcessId, Sequence, Access)> {
        let (process, anew) = self.anew.first_key_value()?;
        let access = match self.offered {
            Access::InPlace => anew.access,
            Access::Sent => Access::Sent,
        };
        Some((*process, anew.from, access))
    }

    /// It is.
    pub(super) fn followed(&mut self, process: ProcessId) -> Option<Anew> {
        self.anew.remove(&process)
    }

    /// What something that the kernel said means to the log writer.
    ///
    /// # Errors
    /// The session is over.
    pub(super) fn handle(
        &mut self,
        socket: &UnixStream,
        descriptors: &mut Descriptors,
        incoming: Incoming<'_>,
        notices: &mut VecDeque<Notice>,
    ) -> Result<(), MappedRingError> {
        match incoming {
            Incoming::Output(output) => {
                if !self.anew.contains_key(&output.process) {
                    notices.push_back(notice_of(&output));
                    self.count(&output);
                }
            }
            Incoming::Event(Event::RingPassed(passed)) => {
                // Without one, or with one too many, the first announcement shows that it is not there.
                if let Some(descriptor) = descriptors.pop_front()
                    && !self.anew.contains_key(&passed.process)
                    && self.rings.len() < RINGS_MAX
                    && let Ok(ring) = MappedRing::new(descriptor, &passed)
                {
                    self.rings.insert(passed.process, ring);
                }
            }
            Incoming::Event(Event::MappedOutput(output)) => {
                if !self.anew.contains_key(&output.process) {
                    notices.extend(self.copy(socket, &output)?);
                }
            }
            Incoming::Event(event) => {
                let about = match &event {
                    Event::Gap(gap) => Some(gap.process),
                    Event::StreamEnded(ended) => Some(ended.process),
                    _ => None,
                };
                match about.and_then(|process| self.anew.get_mut(&process)) {
                    Some(anew) => anew.said.push(event),
                    None => notices.push_back(Notice::Event(event)),
                }
            }
            Incoming::Reply { .. } | Incoming::Welcome(_) => {}
        }
        Ok(())
    }

    fn copy(
        &mut self,
        socket: &UnixStream,
        output: &MappedOutput,
    ) -> Result<Option<Notice>, MappedRingError> {
        let mut bytes = Vec::new();
        let copied = match self.rings.get(&output.process) {
            Some(ring) => ring.copy(socket, output, &mut bytes),
            None => Err(MappedRingError::NotARing),
        };
        let access = match copied {
            Ok(Copied::Whole) => {
                let records = shared(Arc::new(bytes));
                return Ok(Some(Notice::Output(output.process, records, output.bytes)));
            }
            Ok(Copied::Overtaken) => Access::InPlace,
            Err(MappedRingError::SessionOver) => return Err(MappedRingError::SessionOver),
            // Whatever it is, sent bytes do without.
            Err(_) => Access::Sent,
        };
        self.follow_anew(output.process, output.from, access);
        Ok(None)
    }

    fn follow_anew(&mut self, process: ProcessId, from: Sequence, access: Access) {
        self.forget(process);
        let said = Vec::new();
        let anew = Anew { from, access, said };
        self.anew.insert(process, anew);
    }

    /// Notes what was sent and might have been announced.
    fn count(&mut self, output: &OutputFrame<'_>) {
        if self.offered == Access::Sent || output.credit_bytes() < LARGE_BYTES {
            return;
        }
        let Some(last) = output.records().last() else {
            return;
        };
        let fresh = Sent {
            bytes: 0,
            patience: ASKED_AGAIN_BYTES,
        };
        let sent = self.sent.entry(output.process).or_insert(fresh);
        sent.bytes += output.credit_bytes() as u64;
        if sent.bytes >= sent.patience {
            sent.bytes = 0;
            sent.patience = sent.patience.saturating_mul(2);
            let from = last.header.sequence.next();
            self.follow_anew(output.process, from, Access::InPlace);
        }
    }
}

/// Records as they lie in a block, which they share.
fn shared(block: Arc<Vec<u8>>) -> Shared {
    let mut from = 0;
    let mut records = Vec::new();
    for record in Records::new(&block) {
        let header = record.header;
        let data_at = from + RECORD_HEADER_BYTES;
        records.push((header.stream, chunk(&header, &block, data_at)));
        from += RecordHeader::padded_bytes(header.length);
    }
    Arc::new(records)
}

fn chunk(header: &RecordHeader, block: &Arc<Vec<u8>>, from: usize) -> Chunk {
    let (time_ns, at) = (header.time_ns, header.stream_offset);
    let length = header.length as usize;
    Chunk::new(
        header.sequence,
        time_ns,
        at,
        Arc::clone(block),
        from,
        length,
    )
}

fn notice_of(output: &OutputFrame<'_>) -> Notice {
    // One block for the whole frame: its records share it.
    let mut block = Vec::with_capacity(output.credit_bytes());
    for record in output.records() {
        block.extend_from_slice(record.data);
    }
    let block = Arc::new(block);
    let mut from = 0;
    let mut records = Vec::new();
    for record in output.records() {
        let header = record.header;
        records.push((header.stream, chunk(&header, &block, from)));
        from += record.data.len();
    }
    let credit = output.credit_bytes() as u64;
    Notice::Output(output.process, Arc::new(records), credit)
}

#[cfg(test)]
mod tests;

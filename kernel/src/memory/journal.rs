//! The journal: everything of variable size that must survive the kernel, as a log of records.
//!
//! Two halves. Records are appended to the active one; when it has grown past what is alive, the
//! caller writes a snapshot into the idle one and a single store makes that the active one. What
//! the records mean is the caller's; this module only promises that a record is there or not.
//!
//! A change that must be all or nothing is one record. Answer the client after `append` returned.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use thiserror::Error;

use super::check::check_bytes;
use super::layout::{JOURNAL_MAGIC, JournalHeaderWords, LAYOUT_VERSION, PAGE};
use super::state_memory::{MemoryError, StateMemory};
use crate::crash::crash_point;
use crate::sys::mapping::Mapping;
use crate::sys::memfd::{create_sealed, punch_hole};

/// Bytes of a half. Sparse: only what is written takes memory.
const HALF_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes in front of the first record of a half.
const RECORDS_OFFSET: u64 = 64;
/// Bytes in front of a payload.
const RECORD_HEADER_BYTES: u64 = 16;
/// Set in the kind of a record that a reader must not carry along unread.
const MUST_UNDERSTAND: u32 = 1 << 31;
/// Kept free for records that give space back (removals), so that a full journal can be emptied.
const RESERVE_BYTES: u64 = 1024 * 1024;
/// Below this, compacting is not worth it.
const COMPACT_BYTES_MIN: u64 = 60 * 1024;

/// What is alive (values, leases, labels, parameters of processes and sockets) may take this much:
/// with it, a half filled to the compaction mark (twice that) still has room for any record.
pub const LIVE_BYTES_MAX: u64 = 24 * 1024 * 1024;
/// Longest payload of one record.
pub const PAYLOAD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a record is about; numbers are given out by the decision core and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKind(u32);

impl RecordKind {
    /// A kind that a kernel which does not know it may carry along unread.
    #[must_use]
    pub const fn optional(number: u16) -> Self {
        Self(number as u32)
    }

    /// A kind without which the rest means something else: a kernel that does not know it must
    /// refuse.
    #[must_use]
    pub const fn must_understand(number: u16) -> Self {
        Self(number as u32 | MUST_UNDERSTAND)
    }

    /// Whether a kernel that does not know it must refuse.
    #[must_use]
    pub const fn is_must_understand(self) -> bool {
        self.0 & MUST_UNDERSTAND != 0
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & !MUST_UNDERSTAND
    }
}

/// Whether a record may use the last bytes of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It adds something: refused when the journal is nearly full.
    Growth,
    /// It removes something, or records what has happened already: may use the reserve.
    Upkeep,
}

/// Whether to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Not yet.
    Low,
    /// [`Journal::compact`] pays now.
    Compact,
}

/// One record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRecord<'a> {
    /// What it is about.
    pub kind: RecordKind,
    /// Its content.
    pub payload: &'a [u8],
}

/// A record was not stored, or the journal cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// No room. Compact and try once more; if it is still full, refuse what was asked.
    #[error("the journal is full ({used} of {room} bytes): remove values, sockets or processes")]
    Full {
        /// Bytes in use.
        used: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a journal record of {bytes} bytes is too long (at most {PAYLOAD_BYTES_MAX})")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// A record makes no sense.
    #[error("the journal is damaged at byte {offset} of half {half}")]
    Damaged {
        /// 0 or 1.
        half: u64,
        /// Where in it.
        offset: u64,
    },
}

/// The mapped journal file.
#[derive(Debug)]
pub struct Journal {
    fd: OwnedFd,
    mapping: Mapping,
    half_bytes: u64,
    /// Which half is active, as in the state file.
    active: u64,
    /// Bytes of records in the active half, as in its head word.
    used: u64,
    /// Bytes the last snapshot took: what was alive then.
    live: u64,
}

impl Journal {
    /// Makes an empty one for a fresh state file.
    ///
    /// # Errors
    /// The memory file cannot be made or mapped.
    pub fn create(state: &StateMemory) -> Result<Self, MemoryError> {
        Self::create_sized(state, HALF_BYTES)
    }

    pub(super) fn create_sized(state: &StateMemory, half: u64) -> Result<Self, MemoryError> {
        let bytes = half.saturating_mul(2).saturating_add(PAGE);
        let fd = create_sealed("kingpole-journal", bytes)
            .map_err(MemoryError::call("journal", "make"))?;
        let mapping = Mapping::new(&fd).map_err(MemoryError::call("journal", "map"))?;
        let header = header(&mapping)?;
        header.half_bytes.store(half, Ordering::Relaxed);
        header
            .version
            .store(u64::from(LAYOUT_VERSION), Ordering::Relaxed);
        header.magic.store(JOURNAL_MAGIC, Ordering::Release);
        state.journal_active().store(0, Ordering::Release);
        Ok(Self {
            fd,
            mapping,
            half_bytes: half,
            active: 0,
            used: 0,
            live: 0,
        })
    }

    /// Maps the journal that belongs to `state`. Read it with [`Journal::records`].
    ///
    /// # Errors
    /// Not a sealed journal of this layout, or its head lies outside.
    pub fn open(fd: OwnedFd, state: &StateMemory) -> Result<Self, MemoryError> {
        let mapping = Mapping::new(&fd).map_err(MemoryError::call("journal", "map"))?;
        let unusable = |reason: String| MemoryError::unusable("journal", reason);
        let header = header(&mapping)?;
        if header.magic.load(Ordering::Acquire) != JOURNAL_MAGIC {
            return Err(unusable("it does not start with KPJOURN1".to_owned()));
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != u64::from(LAYOUT_VERSION) {
            return Err(unusable(format!(
                "layout version {version}, not {LAYOUT_VERSION}"
            )));
        }
        let half_bytes = header.half_bytes.load(Ordering::Relaxed);
        let wanted = half_bytes
            .checked_mul(2)
            .and_then(|both| both.checked_add(PAGE));
        if wanted != Some(mapping.len() as u64)
            || !half_bytes.is_multiple_of(PAGE)
            || half_bytes == 0
        {
            return Err(unusable(format!(
                "halves of {half_bytes} bytes do not fit it"
            )));
        }
        let active = state.journal_active().load(Ordering::Acquire);
        let mut journal = Self {
            fd,
            mapping,
            half_bytes,
            active,
            used: 0,
            live: 0,
        };
        let used = journal
            .head_word(active & 1)
            .map_or(u64::MAX, |w| w.load(Ordering::Acquire));
        if used > journal.room() || !used.is_multiple_of(8) {
            return Err(unusable(format!("its head word is {used}")));
        }
        journal.used = used;
        Ok(journal)
    }

    /// The file, to hand to the guard or a successor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes of records in the active half.
    #[must_use]
    pub const fn used_bytes(&self) -> u64 {
        self.used
    }

    /// Whether compacting pays: past 60 KB and twice what was alive last time.
    #[must_use]
    pub const fn fill(&self) -> Fill {
        if self.used > COMPACT_BYTES_MIN.saturating_add(self.live.saturating_mul(2)) {
            Fill::Compact
        } else {
            Fill::Low
        }
    }

    /// Adds one record, wholly or not at all. After it returned, no kill takes it back.
    ///
    /// # Errors
    /// No room, or too long; nothing was stored then.
    pub fn append(
        &mut self,
        kind: RecordKind,
        payload: &[u8],
        purpose: Purpose,
    ) -> Result<Fill, JournalError> {
        let reserve = match purpose {
            Purpose::Growth => RESERVE_BYTES.min(self.half_bytes / 8),
            Purpose::Upkeep => 0,
        };
        let half = self.active & 1;
        self.used = self.write_record(half, self.used, kind, payload, reserve)?;
        crash_point("journal: before head");
        self.store_head(half, self.used)?;
        crash_point("journal: after head");
        Ok(self.fill())
    }

    /// The records of the active half, oldest first. Ends after the first error.
    pub fn records(&self) -> JournalRecords<'_> {
        JournalRecords {
            journal: self,
            half: self.active & 1,
            next: 0,
            end: self.used,
        }
    }

    /// The records, with those that this kernel does not know sorted out by `is_known`.
    ///
    /// # Errors
    /// Damage, or a kind that must be understood and is not: then nothing may be served.
    pub fn replay<'a>(
        &'a self,
        is_known: impl Fn(RecordKind) -> bool + 'a,
    ) -> impl Iterator<Item = Result<Replayed<'a>, ReplayError>> + 'a {
        self.records().map(move |record| match record {
            Ok(record) if is_known(record.kind) => Ok(Replayed::Known(record)),
            Ok(record) if record.kind.is_must_understand() => Err(ReplayError::NotUnderstood {
                kind: record.kind.number(),
            }),
            Ok(record) => Ok(Replayed::CarryAlong(record)),
            Err(error) => Err(ReplayError::Journal(error)),
        })
    }

    /// Writes what `snapshot` appends into the idle half, then makes that half the active one.
    /// Until the very last store the old half is valid.
    ///
    /// # Errors
    /// The snapshot does not fit or `snapshot` gave an error: the old half stays active.
    pub fn compact(
        &mut self,
        state: &StateMemory,
        snapshot: impl FnOnce(&mut Snapshot<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let idle = (self.active & 1) ^ 1;
        crash_point("compaction: before");
        self.store_head(idle, 0)?;
        let mut writer = Snapshot {
            journal: self,
            half: idle,
            used: 0,
        };
        snapshot(&mut writer)?;
        let used = writer.used;
        crash_point("compaction: half");
        self.store_head(idle, used)?;
        crash_point("compaction: before flip");
        // The generation counts up by one, and its low bit is the half.
        let active = ((self.active >> 1).wrapping_add(1) << 1) | idle;
        state.journal_active().store(active, Ordering::Release);
        crash_point("compaction: after flip");
        let old = self.used;
        self.active = active;
        self.used = used;
        self.live = used;
        self.give_back(idle ^ 1, old);
        Ok(())
    }

    /// The old half's memory goes back when there is a lot of it. Failing to is no error: it is
    /// overwritten one day.
    fn give_back(&self, half: u64, used: u64) {
        let from = self.half_offset(half).saturating_add(PAGE);
        let bytes = used
            .next_multiple_of(PAGE)
            .min(self.half_bytes.saturating_sub(PAGE));
        if used > COMPACT_BYTES_MIN.saturating_mul(4) {
            let _: Result<(), Errno> = punch_hole(&self.fd, from, bytes);
        }
    }

    const fn half_offset(&self, half: u64) -> u64 {
        PAGE.saturating_add((half & 1).saturating_mul(self.half_bytes))
    }

    /// Bytes for records in a half.
    const fn room(&self) -> u64 {
        self.half_bytes.saturating_sub(RECORDS_OFFSET)
    }

    fn head_word(&self, half: u64) -> Option<&AtomicU64> {
        self.mapping
            .words::<AtomicU64>(self.half_offset(half) as usize, 1)?
            .first()
    }

    fn store_head(&self, half: u64, used: u64) -> Result<(), JournalError> {
        let word = self
            .head_word(half)
            .ok_or(JournalError::Damaged { half, offset: 0 })?;
        word.store(used, Ordering::Release);
        Ok(())
    }

    /// Writes a record at `used` and gives where the next one goes. Changes no head word.
    fn write_record(
        &mut self,
        half: u64,
        used: u64,
        kind: RecordKind,
        payload: &[u8],
        reserve: u64,
    ) -> Result<u64, JournalError> {
        let bytes = payload.len() as u64;
        let length = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= PAYLOAD_BYTES_MAX)
            .ok_or(JournalError::TooLong { bytes })?;
        let span = record_span(bytes);
        let room = self.room();
        let full = JournalError::Full { used, room };
        let next = used.saturating_add(span);
        if next.saturating_add(reserve) > room {
            return Err(full);
        }
        let at = self
            .half_offset(half)
            .saturating_add(RECORDS_OFFSET)
            .saturating_add(used);
        let range = self
            .mapping
            .bytes_mut(at as usize, span as usize)
            .ok_or(full.clone())?;
        let (header, rest) = range
            .split_at_mut_checked(RECORD_HEADER_BYTES as usize)
            .ok_or(full)?;
        let check = record_check(length, kind, payload).to_le_bytes();
        let fields = [&length.to_le_bytes()[..], &kind.0.to_le_bytes(), &check];
        for (to, from) in header.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        crash_point("journal: half record");
        for (to, from) in rest.iter_mut().zip(payload) {
            *to = *from;
        }
        Ok(next)
    }

    fn record_at(&self, half: u64, offset: u64, end: u64) -> Option<(JournalRecord<'_>, u64)> {
        let at = self
            .half_offset(half)
            .checked_add(RECORDS_OFFSET)?
            .checked_add(offset)?;
        let header = self
            .mapping
            .bytes(at as usize, RECORD_HEADER_BYTES as usize)?;
        let (length, rest) = header.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (check, _) = rest.split_first_chunk::<8>()?;
        let (length, kind) = (
            u32::from_le_bytes(*length),
            RecordKind(u32::from_le_bytes(*kind)),
        );
        let next = offset.checked_add(record_span(u64::from(length)))?;
        if next > end {
            return None;
        }
        let from = at.checked_add(RECORD_HEADER_BYTES)? as usize;
        let payload = self.mapping.bytes(from, length as usize)?;
        let is_sound = u64::from_le_bytes(*check) == record_check(length, kind, payload);
        is_sound.then_some((JournalRecord { kind, payload }, next))
    }
}

/// A replayed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed<'a> {
    /// Of a kind that is known.
    Known(JournalRecord<'a>),
    /// Of an unknown kind that need not be understood: keep it, and put it into every snapshot.
    CarryAlong(JournalRecord<'a>),
}

/// The journal cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// Written by a newer kernel, in a way this one must not guess at.
    #[error("the journal holds records of kind {kind}, which only a newer kernel understands")]
    NotUnderstood {
        /// The kind's number.
        kind: u32,
    },
    /// It is damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Writes a snapshot during [`Journal::compact`].
#[derive(Debug)]
pub struct Snapshot<'a> {
    journal: &'a mut Journal,
    half: u64,
    used: u64,
}

impl Snapshot<'_> {
    /// Adds one record.
    ///
    /// # Errors
    /// No room, or too long.
    pub fn append(&mut self, kind: RecordKind, payload: &[u8]) -> Result<(), JournalError> {
        self.used = self
            .journal
            .write_record(self.half, self.used, kind, payload, 0)?;
        Ok(())
    }
}

/// Iterates over records; see [`Journal::records`].
#[derive(Debug)]
pub struct JournalRecords<'a> {
    journal: &'a Journal,
    half: u64,
    next: u64,
    end: u64,
}

impl<'a> Iterator for JournalRecords<'a> {
    type Item = Result<JournalRecord<'a>, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        match self.journal.record_at(self.half, self.next, self.end) {
            Some((record, next)) => {
                self.next = next;
                Some(Ok(record))
            }
            None => {
                let offset = self.next;
                self.next = self.end;
                Some(Err(JournalError::Damaged {
                    half: self.half,
                    offset,
                }))
            }
        }
    }
}

fn header(mapping: &Mapping) -> Result<&JournalHeaderWords, MemoryError> {
    let words = mapping
        .words::<JournalHeaderWords>(0, 1)
        .and_then(<[_]>::first);
    words.ok_or_else(|| MemoryError::unusable("journal", "it is shorter than its header"))
}

const fn record_span(payload: u64) -> u64 {
    RECORD_HEADER_BYTES.saturating_add(payload.next_multiple_of(8))
}

fn record_check(length: u32, kind: RecordKind, payload: &[u8]) -> u64 {
    check_bytes((u64::from(kind.0) << 32) | u64::from(length), payload)
}

#[cfg(test)]
mod tests;

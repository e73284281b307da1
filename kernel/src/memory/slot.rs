//! One child process in shared memory: its intent, pid, end and control block.
//!
//! The order of the stores is the protocol; `memory::layout` has the offsets. A slot is a view:
//! copying it copies nothing, and every method is one step another process may look between.

use std::sync::atomic::{Ordering, fence};

use thiserror::Error;

use super::check::check_words;
use super::cursor::{EofBits, RingCursor, Sequence};
use super::layout::{
    CLAIM_ABORTED, CLAIM_CHILD, CLAIM_OPEN, ControlWords, SLOT_FREE, SLOT_INTENT, SLOT_RUN,
    STATUS_UNKNOWN, SlotWords,
};
use super::ring::Dropped;
use super::state_memory::{Epoch, ProcessId};
use crate::crash::crash_point;

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing.
    Free,
    /// A spawn was begun; whether the program runs is not known yet.
    Intent,
    /// The program was started (it may have ended since).
    Run,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndStatus {
    /// It exited with this code.
    Exited(u8),
    /// A signal killed it.
    Signaled {
        /// The signal's number.
        signal: u8,
        /// Whether Linux wrote a core file.
        core_dumped: bool,
    },
    /// Somebody else reaped it and Linux does not tell (only for children whose guard was killed,
    /// before Linux 6.15).
    Unknown,
}

impl EndStatus {
    /// From a wait status as `wait4` gives it.
    #[must_use]
    pub fn from_wait_status(status: i32) -> Self {
        if status == STATUS_UNKNOWN {
            return Self::Unknown;
        }
        let [low, code, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Exited(code),
            signal => Self::Signaled {
                signal,
                core_dumped: low & 0x80 != 0,
            },
        }
    }

    /// The wait status, as stored in a slot.
    #[must_use]
    pub fn wait_status(self) -> i32 {
        match self {
            Self::Exited(code) => i32::from(code) << 8,
            Self::Signaled {
                signal,
                core_dumped,
            } => i32::from(signal & 0x7f) | if core_dumped { 0x80 } else { 0 },
            Self::Unknown => STATUS_UNKNOWN,
        }
    }
}

/// The end of a process, with what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How.
    pub status: EndStatus,
    /// When it was noticed, nanoseconds since 1970.
    pub time_ns: u64,
    /// Time in user mode, microseconds.
    pub user_us: u64,
    /// Time in system mode, microseconds.
    pub system_us: u64,
    /// Largest resident size, KB.
    pub max_rss_kb: u64,
}

/// Who published an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The kernel that started it.
    Kernel,
    /// The guard, for children of a dead kernel.
    Guard,
    /// Neither: learned from its pidfd.
    Pidfd,
}

/// A failure between clone and exec, as the child left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildFailure {
    /// Number of the step (see `spawn::Step`).
    pub step: u32,
    /// Its errno.
    pub errno: i32,
}

/// The outcome of giving up an unfinished spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// No program was started and none can be any more.
    NeverStarted,
    /// The child claimed it first: its pid is there, or appears in a moment.
    ChildHasIt,
}

/// Neither copy of a control block is believable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the control block of process {id} is damaged: its unread output cannot be found")]
pub struct DamagedSlot {
    /// The process id in the slot.
    pub id: u64,
}

/// What [`Slot::begin`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    /// From [`super::StateMemory::take_id`].
    pub id: ProcessId,
    /// The present epoch.
    pub epoch: Epoch,
    /// Hash of the client's key; private to the decision core.
    pub key_hash: u64,
    /// Private to the decision core.
    pub flags: u32,
    /// Now, nanoseconds since 1970.
    pub time_ns: u64,
    /// Streams that are not captured.
    pub eof: EofBits,
}

/// A view of one slot.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    words: &'a SlotWords,
}

impl<'a> Slot<'a> {
    pub(super) const fn new(words: &'a SlotWords) -> Self {
        Self { words }
    }

    /// The words themselves, for the child between clone and exec.
    pub(crate) const fn words(self) -> &'a SlotWords {
        self.words
    }

    /// What the slot is used for. An unknown word (only damage can cause it) counts as in use.
    #[must_use]
    pub fn state(self) -> SlotState {
        match self.words.state.load(Ordering::Acquire) {
            SLOT_FREE => SlotState::Free,
            SLOT_INTENT => SlotState::Intent,
            _ => SlotState::Run,
        }
    }

    /// The process id.
    #[must_use]
    pub fn id(self) -> ProcessId {
        ProcessId(self.words.id.load(Ordering::Acquire))
    }

    /// The epoch of the kernel that cloned.
    #[must_use]
    pub fn epoch(self) -> Epoch {
        Epoch(self.words.epoch.load(Ordering::Acquire))
    }

    /// Hash of the client's key.
    #[must_use]
    pub fn key_hash(self) -> u64 {
        self.words.key_hash.load(Ordering::Acquire)
    }

    /// The decision core's flags.
    #[must_use]
    pub fn flags(self) -> u32 {
        self.words.flags.load(Ordering::Acquire)
    }

    /// Replaces the decision core's flags, in one store.
    pub fn set_flags(self, flags: u32) {
        self.words.flags.store(flags, Ordering::Release);
    }

    /// When the spawn was begun, nanoseconds since 1970.
    #[must_use]
    pub fn started_ns(self) -> u64 {
        self.words.started_ns.load(Ordering::Acquire)
    }

    /// The pid, once there is one.
    #[must_use]
    pub fn pid(self) -> Option<i32> {
        Some(self.words.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Fills a free slot and makes it an intent. A kill before the last store leaves it free.
    pub fn begin(self, intent: &Intent) {
        crash_point("spawn: before the slot");
        let words = self.words;
        words.pid.store(0, Ordering::Relaxed);
        words.ended.store(0, Ordering::Relaxed);
        words.status.store(0, Ordering::Relaxed);
        words.failed_step.store(0, Ordering::Relaxed);
        words.failed_errno.store(0, Ordering::Relaxed);
        words.dropped_records.store(0, Ordering::Relaxed);
        words.dropped_bytes.store(0, Ordering::Relaxed);
        words.id.store(intent.id.0, Ordering::Relaxed);
        words.epoch.store(intent.epoch.0, Ordering::Relaxed);
        words.key_hash.store(intent.key_hash, Ordering::Relaxed);
        words.flags.store(intent.flags, Ordering::Relaxed);
        words.started_ns.store(intent.time_ns, Ordering::Relaxed);
        words
            .claim
            .store(claim_word(intent.id, CLAIM_OPEN), Ordering::Relaxed);
        self.publish(&RingCursor::new(intent.eof));
        words.state.store(SLOT_INTENT, Ordering::Release);
        crash_point("spawn: after the intent");
    }

    /// The program runs: the guard's queue or table holds its descriptors.
    pub fn set_running(self) {
        self.words.state.store(SLOT_RUN, Ordering::Release);
        crash_point("spawn: run stored");
    }

    /// The process is forgotten. Give the index back with [`super::StateMemory::release`], which
    /// calls this.
    pub(super) fn set_free(self) {
        self.words.state.store(SLOT_FREE, Ordering::Release);
        crash_point("remove: slot free");
    }

    /// What went wrong between clone and exec, if anything did.
    #[must_use]
    pub fn failure(self) -> Option<ChildFailure> {
        let errno = self.words.failed_errno.load(Ordering::Acquire);
        let step = self.words.failed_step.load(Ordering::Acquire);
        (errno != 0).then_some(ChildFailure { step, errno })
    }

    /// Whether the child won the claim, that is, got as far as to do anything at all.
    #[must_use]
    pub fn is_claimed_by_child(self) -> bool {
        self.words.claim.load(Ordering::Acquire) == claim_word(self.id(), CLAIM_CHILD)
    }

    /// A successor gives up a spawn it did not begin. "Already given up" counts as won, since an
    /// earlier successor may have died right after.
    #[must_use]
    pub fn abort_claim(self) -> Abort {
        let open = claim_word(self.id(), CLAIM_OPEN);
        let aborted = claim_word(self.id(), CLAIM_ABORTED);
        let swap =
            self.words
                .claim
                .compare_exchange(open, aborted, Ordering::AcqRel, Ordering::Acquire);
        match swap {
            Ok(_) => Abort::NeverStarted,
            Err(found) if found == aborted => Abort::NeverStarted,
            Err(_) => Abort::ChildHasIt,
        }
    }

    /// Where the ring stands.
    ///
    /// # Errors
    /// The check does not fit: something wrote here that should not have.
    pub fn cursor(self) -> Result<RingCursor, DamagedSlot> {
        let [selected, _] = self.copies();
        self.believed(selected)
            .ok_or_else(|| DamagedSlot { id: self.id().0 })
    }

    /// What was published before that, if the copy is whole.
    pub(super) fn unselected_cursor(self) -> Option<RingCursor> {
        let [_, unselected] = self.copies();
        self.believed(unselected)
    }

    /// The control block that counts, and the other one.
    fn copies(self) -> [&'a ControlWords; 2] {
        let [first, second] = &self.words.control;
        if self.words.selected.load(Ordering::Acquire) & 1 == 0 {
            [first, second]
        } else {
            [second, first]
        }
    }

    fn believed(self, copy: &ControlWords) -> Option<RingCursor> {
        let cursor = RingCursor {
            head: copy.head.load(Ordering::Relaxed),
            tail: copy.tail.load(Ordering::Relaxed),
            next_seq: Sequence(copy.next_seq.load(Ordering::Relaxed)),
            stdout_bytes: copy.stdout_bytes.load(Ordering::Relaxed),
            stderr_bytes: copy.stderr_bytes.load(Ordering::Relaxed),
            eof: EofBits::from_bits(copy.eof.load(Ordering::Relaxed)),
        };
        let check = control_check(&cursor, self.id());
        (copy.check.load(Ordering::Relaxed) == check).then_some(cursor)
    }

    /// As a stray write would.
    #[cfg(test)]
    pub(crate) fn damage_selected(self) {
        let [copy, _] = self.copies();
        copy.head.fetch_xor(1 << 20, Ordering::Relaxed);
    }

    /// Likewise.
    #[cfg(test)]
    pub(crate) fn damage_unselected(self) {
        let [_, copy] = self.copies();
        copy.head.fetch_xor(1 << 20, Ordering::Relaxed);
    }

    /// Commits all of `cursor` with one store.
    pub fn publish(self, cursor: &RingCursor) {
        let words = self.words;
        let selected = words.selected.load(Ordering::Relaxed);
        let [first, second] = &words.control;
        let idle: &ControlWords = if selected & 1 == 0 { second } else { first };
        idle.head.store(cursor.head, Ordering::Relaxed);
        idle.tail.store(cursor.tail, Ordering::Relaxed);
        idle.next_seq.store(cursor.next_seq.0, Ordering::Relaxed);
        crash_point("control: torn copy");
        idle.stdout_bytes
            .store(cursor.stdout_bytes, Ordering::Relaxed);
        idle.stderr_bytes
            .store(cursor.stderr_bytes, Ordering::Relaxed);
        idle.eof.store(cursor.eof.bits(), Ordering::Relaxed);
        idle.check
            .store(control_check(cursor, self.id()), Ordering::Relaxed);
        fence(Ordering::Release);
        words
            .selected
            .store(selected.wrapping_add(1), Ordering::Release);
        crash_point("control: published");
    }

    /// What was dropped because the ring was full.
    #[must_use]
    pub fn dropped(self) -> Dropped {
        Dropped {
            records: self.words.dropped_records.load(Ordering::Relaxed),
            bytes: self.words.dropped_bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts what was dropped. A number for people: gaps are computed, not counted.
    pub fn count_dropped(self, records: u64, bytes: u64) {
        let words = self.words;
        words.dropped_records.fetch_add(records, Ordering::Relaxed);
        words.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The end, once published.
    #[must_use]
    pub fn ended(self) -> Option<End> {
        let words = self.words;
        (words.ended.load(Ordering::Acquire) == 1).then(|| End {
            status: EndStatus::from_wait_status(words.status.load(Ordering::Relaxed)),
            time_ns: words.ended_ns.load(Ordering::Relaxed),
            user_us: words.user_us.load(Ordering::Relaxed),
            system_us: words.system_us.load(Ordering::Relaxed),
            max_rss_kb: words.max_rss_kb.load(Ordering::Relaxed),
        })
    }

    /// Publishes the end. Must come before anyone reaps: while `ended` is 0 the pid is not reused.
    pub fn publish_end(self, end: &End, by: EndedBy) {
        let words = self.words;
        crash_point("end: after the look");
        words
            .status
            .store(end.status.wait_status(), Ordering::Relaxed);
        let by = match by {
            EndedBy::Kernel => 1,
            EndedBy::Guard => 2,
            EndedBy::Pidfd => 3,
        };
        words.ended_by.store(by, Ordering::Relaxed);
        words.ended_ns.store(end.time_ns, Ordering::Relaxed);
        words.user_us.store(end.user_us, Ordering::Relaxed);
        words.system_us.store(end.system_us, Ordering::Relaxed);
        words.max_rss_kb.store(end.max_rss_kb, Ordering::Relaxed);
        crash_point("end: before ended");
        words.ended.store(1, Ordering::Release);
        crash_point("end: after ended");
    }
}

/// The claim word of `id` with `state` in its low two bits. The id is in it so that a late child of
/// an earlier tenant cannot claim a reused slot.
#[must_use]
pub(crate) fn claim_word(id: ProcessId, state: u32) -> u32 {
    let [b0, b1, b2, b3, ..] = id.0.to_le_bytes();
    (u32::from_le_bytes([b0, b1, b2, b3]) << 2) | state
}

/// The id is part of the check, so that the copy of an earlier tenant never fits.
fn control_check(cursor: &RingCursor, id: ProcessId) -> u64 {
    check_words(&[
        id.0,
        cursor.head,
        cursor.tail,
        cursor.next_seq.0,
        cursor.stdout_bytes,
        cursor.stderr_bytes,
        cursor.eof.bits(),
    ])
}

#[cfg(test)]
mod tests;

//! The state file: header, counters, read cell words and the table of slots.
//!
//! Mapped by the kernel and the guard. It knows which slots are free and which numbers are used;
//! what the slots mean is the decision core's.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use thiserror::Error;

use super::layout::{
    HELD_MAX, HELD_OFFSET, HeaderWords, HeldWords, LAYOUT_VERSION, SLOTS_MAX, SLOTS_OFFSET,
    STATE_BYTES, STATE_MAGIC, SlotWords, StateWords,
};
use super::slot::{Slot, SlotState};
use crate::sys::mapping::{Mapping, Shared};
use crate::sys::memfd::create_sealed;

pub use kingpole_protocol::ids::ProcessId;

/// Incarnation of the kernel; an upgrade in place does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Number of a slot, always inside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotIndex(u16);

impl SlotIndex {
    /// The slot with this number, or `None` when the table is not that long.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        let number = u16::try_from(number).ok()?;
        (usize::from(number) < SLOTS_MAX).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// A shared memory file could not be made or is not what it should be.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A system call on it failed.
    #[error("cannot {action} the {file} file: {cause}")]
    Call {
        /// Which file: "state", "journal", "ring" or "bounce pipe".
        file: &'static str,
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: Errno,
    },
    /// It is not one of ours, or not of this layout.
    #[error("the {file} file is not usable: {reason}")]
    Unusable {
        /// Which file.
        file: &'static str,
        /// What does not fit.
        reason: String,
    },
}

impl MemoryError {
    pub(super) fn call(file: &'static str, action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |cause| Self::Call {
            file,
            action,
            cause,
        }
    }

    pub(super) fn unusable(file: &'static str, reason: impl Into<String>) -> Self {
        Self::Unusable {
            file,
            reason: reason.into(),
        }
    }
}

/// The mapped state file.
#[derive(Debug)]
pub struct StateMemory {
    fd: OwnedFd,
    words: Shared<StateWords>,
    /// Free slots below the high-water mark. A cache: rebuilt from the file when it is opened.
    free: BTreeSet<SlotIndex>,
}

impl StateMemory {
    /// Makes a fresh one: epoch 0, first id 1, every slot free.
    ///
    /// # Errors
    /// The memory file cannot be made or mapped.
    pub fn create() -> Result<Self, MemoryError> {
        let fd = create_sealed("kingpole-state", STATE_BYTES as u64)
            .map_err(MemoryError::call("state", "make"))?;
        let words = map(&fd)?;
        let header = &words.header;
        header
            .slot_bytes
            .store(size_of::<SlotWords>() as u32, Ordering::Relaxed);
        header.bytes.store(STATE_BYTES as u64, Ordering::Relaxed);
        header
            .held_offset
            .store(HELD_OFFSET as u64, Ordering::Relaxed);
        header.held_count.store(HELD_MAX as u64, Ordering::Relaxed);
        header
            .slots_offset
            .store(SLOTS_OFFSET as u64, Ordering::Relaxed);
        header
            .slots_count
            .store(SLOTS_MAX as u64, Ordering::Relaxed);
        header.next_id.store(1, Ordering::Relaxed);
        header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
        header.magic.store(STATE_MAGIC, Ordering::Release);
        Ok(Self {
            fd,
            words,
            free: BTreeSet::new(),
        })
    }

    /// Maps an existing one.
    ///
    /// # Errors
    /// Not a sealed state file of this layout.
    pub fn open(fd: OwnedFd) -> Result<Self, MemoryError> {
        let words = map(&fd)?;
        let unusable = |reason: String| MemoryError::unusable("state", reason);
        let header = &words.header;
        if header.magic.load(Ordering::Acquire) != STATE_MAGIC {
            return Err(unusable("it does not start with KPSTATE1".to_owned()));
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != LAYOUT_VERSION {
            return Err(unusable(format!(
                "layout version {version}, not {LAYOUT_VERSION}"
            )));
        }
        let found = [
            u64::from(header.slot_bytes.load(Ordering::Relaxed)),
            header.bytes.load(Ordering::Relaxed),
            header.held_offset.load(Ordering::Relaxed),
            header.held_count.load(Ordering::Relaxed),
            header.slots_offset.load(Ordering::Relaxed),
            header.slots_count.load(Ordering::Relaxed),
        ];
        let wanted = [
            size_of::<SlotWords>(),
            STATE_BYTES,
            HELD_OFFSET,
            HELD_MAX,
            SLOTS_OFFSET,
            SLOTS_MAX,
        ];
        if found != wanted.map(|number| number as u64) {
            return Err(unusable(
                "its tables are not where this version has them".to_owned(),
            ));
        }
        let mut state = Self {
            fd,
            words,
            free: BTreeSet::new(),
        };
        state.rebuild_free_list();
        Ok(state)
    }

    /// The file, to hand to the guard or a successor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.header().epoch.load(Ordering::Acquire))
    }

    /// A new incarnation begins: stores and gives the next epoch.
    pub fn begin_epoch(&self) -> Epoch {
        Epoch(
            self.header()
                .epoch
                .fetch_add(1, Ordering::AcqRel)
                .wrapping_add(1),
        )
    }

    /// The first epoch whose children belong to the present guard.
    #[must_use]
    pub fn min_epoch(&self) -> Epoch {
        Epoch(self.header().min_epoch.load(Ordering::Acquire))
    }

    /// Stores that first epoch: children of earlier ones belong to somebody else from now on.
    pub fn set_min_epoch(&self, epoch: Epoch) {
        self.header().min_epoch.store(epoch.0, Ordering::Release);
    }

    /// A process id that was never given before. Stored before it is given: a number may get
    /// lost with a kill, it never repeats.
    pub fn take_id(&self) -> ProcessId {
        ProcessId(self.header().next_id.fetch_add(1, Ordering::AcqRel))
    }

    /// Pid of the kernel, 0 if it never said so.
    #[must_use]
    pub fn kernel_pid(&self) -> i32 {
        self.header().kernel_pid.load(Ordering::Acquire)
    }

    /// Stores the pid of the kernel.
    pub fn set_kernel_pid(&self, pid: i32) {
        self.header().kernel_pid.store(pid, Ordering::Release);
    }

    /// Pid of the guard, 0 without one.
    #[must_use]
    pub fn guard_pid(&self) -> i32 {
        self.header().guard_pid.load(Ordering::Acquire)
    }

    /// Stores the pid of the guard.
    pub fn set_guard_pid(&self, pid: i32) {
        self.header().guard_pid.store(pid, Ordering::Release);
    }

    /// A free slot, or `None` when all [`SLOTS_MAX`] are in use. It stays free in the file until
    /// [`Slot::begin`]; give it back with [`StateMemory::release`].
    pub fn allocate(&mut self) -> Option<SlotIndex> {
        if let Some(index) = self.free.pop_first() {
            return Some(index);
        }
        let used = self.header().slots_used.load(Ordering::Acquire);
        let index = SlotIndex::new(used)?;
        self.header()
            .slots_used
            .store(used.saturating_add(1), Ordering::Release);
        Some(index)
    }

    /// Makes a slot free again. Calling it for a free slot that was allocated is fine.
    pub fn release(&mut self, index: SlotIndex) {
        self.slot(index).set_free();
        self.free.insert(index);
    }

    /// The slot with this number.
    #[must_use]
    pub fn slot(&self, index: SlotIndex) -> Slot<'_> {
        Slot::new(&self.words.slots[usize::from(index.0) % SLOTS_MAX])
    }

    /// Every slot that is not free, by number.
    pub fn slots_in_use(&self) -> impl Iterator<Item = (SlotIndex, Slot<'_>)> {
        let used = self.header().slots_used.load(Ordering::Acquire);
        (0..used)
            .map_while(SlotIndex::new)
            .map(|index| (index, self.slot(index)))
            .filter(|(_, slot)| slot.state() != SlotState::Free)
    }

    /// The slot of the process `pid` that has not ended and was cloned by a kernel from `since` on.
    ///
    /// Looks through all slots in use; a table by pid is the caller's, if it needs one.
    #[must_use]
    pub fn find_running(&self, pid: i32, since: Epoch) -> Option<SlotIndex> {
        self.slots_in_use()
            .find(|(_, slot)| {
                slot.pid() == Some(pid) && slot.ended().is_none() && slot.epoch() >= since
            })
            .map(|(index, _)| index)
    }

    /// Counts up when the journal was compacted.
    #[must_use]
    pub fn journal_generation(&self) -> u64 {
        self.journal_active().load(Ordering::Acquire)
    }

    pub(super) fn header(&self) -> &HeaderWords {
        &self.words.header
    }

    pub(super) fn held_table(&self) -> &[HeldWords] {
        &self.words.held
    }

    pub(super) fn journal_active(&self) -> &AtomicU64 {
        &self.header().journal_active
    }

    fn rebuild_free_list(&mut self) {
        let used = self.header().slots_used.load(Ordering::Acquire);
        let free = (0..used)
            .map_while(SlotIndex::new)
            .filter(|index| self.slot(*index).state() == SlotState::Free)
            .collect();
        self.free = free;
    }
}

fn map(fd: &OwnedFd) -> Result<Shared<StateWords>, MemoryError> {
    let mapping = Mapping::new(fd).map_err(MemoryError::call("state", "map"))?;
    Shared::new(mapping).map_err(|mapping| {
        let reason = format!("{} bytes, not {STATE_BYTES}", mapping.len());
        MemoryError::unusable("state", reason)
    })
}

#[cfg(test)]
mod tests;

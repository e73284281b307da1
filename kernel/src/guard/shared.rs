//! What guard and kernel share: the memory files, the bounce pipe, the news of ends, the lock.

use super::role::SharedNumbers;
use crate::memory::{Bounce, Journal, MemoryError, StateMemory};
use crate::sys::inherited::Inherited;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// All of it.
#[derive(Debug)]
pub struct Shared {
    /// The state file, mapped.
    pub memory: StateMemory,
    /// The journal file; only the kernel maps it.
    pub journal: OwnedFd,
    /// Both ends of the bounce pipe.
    pub bounce: Bounce,
    /// Counts up when the guard has published ends.
    pub ended: OwnedFd,
    /// The locked file of the runtime directory. Closing it does not unlock it as long as anybody
    /// else has it.
    pub lock: Option<OwnedFd>,
}

/// It could not be made or taken over.
#[derive(Debug, Error)]
pub enum SharedError {
    /// Shared memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The eventfd, or a copy of a descriptor.
    #[error("cannot make what guard and kernel share: {}", .0.desc())]
    Make(#[from] Errno),
    /// A descriptor that the role names is not there.
    #[error("no descriptor {number} was left for this process ({what})")]
    Missing {
        /// What it should be.
        what: &'static str,
        /// Its number.
        number: i32,
    },
}

impl Shared {
    /// Makes all of it, empty.
    ///
    /// # Errors
    /// Memory or descriptor limits.
    pub fn create(lock: Option<OwnedFd>) -> Result<Self, SharedError> {
        let memory = StateMemory::create()?;
        let journal = Journal::create(&memory)?;
        let journal = journal
            .descriptor()
            .try_clone_to_owned()
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ended = EventFd::from_value_and_flags(0, flags)?.into();
        let bounce = Bounce::create()?;
        Ok(Self {
            memory,
            journal,
            bounce,
            ended,
            lock,
        })
    }

    /// Takes over what a predecessor or the guard has left open.
    ///
    /// # Errors
    /// Something is missing or not what it should be.
    pub fn take(inherited: &mut Inherited, numbers: SharedNumbers) -> Result<Self, SharedError> {
        Self::gather(numbers, |what, number| {
            let taken = inherited.take(number);
            taken.ok_or(SharedError::Missing { what, number })
        })
    }

    /// The same with copies: whatever comes of it, another program can still take over.
    ///
    /// # Errors
    /// As [`Shared::take`], or descriptor limits.
    pub fn copy(inherited: &Inherited, numbers: SharedNumbers) -> Result<Self, SharedError> {
        Self::gather(numbers, |what, number| match inherited.copy(number) {
            Err(Errno::EBADF) => Err(SharedError::Missing { what, number }),
            copy => Ok(copy?),
        })
    }

    fn gather(
        numbers: SharedNumbers,
        mut take: impl FnMut(&'static str, i32) -> Result<OwnedFd, SharedError>,
    ) -> Result<Self, SharedError> {
        let memory = StateMemory::open(take("the state file", numbers.state)?)?;
        let journal = take("the journal", numbers.journal)?;
        let read_end = take("the bounce pipe", numbers.bounce_read)?;
        let write_end = take("the bounce pipe", numbers.bounce_write)?;
        let ended = take("the eventfd", numbers.ended)?;
        let lock = match numbers.lock {
            -1 => None,
            number => Some(take("the lock", number)?),
        };
        Ok(Self {
            memory,
            journal,
            bounce: Bounce::open(read_end, write_end)?,
            ended,
            lock,
        })
    }

    /// The numbers, for a role.
    #[must_use]
    pub fn numbers(&self) -> SharedNumbers {
        let (bounce_read, bounce_write) = self.bounce.raw_numbers();
        SharedNumbers {
            state: self.memory.descriptor().as_raw_fd(),
            journal: self.journal.as_raw_fd(),
            bounce_read,
            bounce_write,
            ended: self.ended.as_raw_fd(),
            lock: self.lock.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        }
    }

    /// The descriptors, to be kept through exec.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [
            self.memory.descriptor(),
            self.journal.as_fd(),
            self.bounce.read_end(),
            self.bounce.write_end(),
            self.ended.as_fd(),
        ]
        .into_iter()
        .chain(self.lock.as_ref().map(AsFd::as_fd))
    }
}

/// Tells the kernel that ends were published.
pub fn announce_ends(ended: impl AsFd) {
    // It never blocks before 2^64 - 1 unread announcements.
    let _ = nix::unistd::write(ended, &1_u64.to_ne_bytes());
}

/// Takes the announcements: all ends published before are in their slots.
pub fn take_announcements(ended: impl AsFd) {
    let mut count = [0; 8];
    let _ = nix::unistd::read(ended, &mut count);
}

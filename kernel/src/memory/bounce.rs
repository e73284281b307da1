//! The bounce pipe: what was spliced out of a child's pipe and not yet read into its ring.
//!
//! Only the kernel ever writes to it, so its fill level is a counter that Linux keeps and that
//! survives the kernel's death. It must be empty whenever no read is in flight.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use super::state_memory::MemoryError;
use crate::sys::process::bytes_waiting;

/// Both ends of the bounce pipe.
#[derive(Debug)]
pub struct Bounce {
    read_end: OwnedFd,
    write_end: OwnedFd,
}

impl Bounce {
    /// Makes a fresh one, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// Descriptor limits.
    pub fn create() -> Result<Self, MemoryError> {
        let (read_end, write_end) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .map_err(MemoryError::call("bounce pipe", "make"))?;
        Ok(Self {
            read_end,
            write_end,
        })
    }

    /// Takes over the two ends that a predecessor used.
    ///
    /// # Errors
    /// One of them is not a pipe.
    pub fn open(read_end: OwnedFd, write_end: OwnedFd) -> Result<Self, MemoryError> {
        for end in [&read_end, &write_end] {
            fcntl(end, FcntlArg::F_GETPIPE_SZ)
                .map_err(MemoryError::call("bounce pipe", "take over"))?;
        }
        Ok(Self {
            read_end,
            write_end,
        })
    }

    /// The end that is read into rings.
    #[must_use]
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read_end.as_fd()
    }

    /// The end that children's pipes are spliced into.
    #[must_use]
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write_end.as_fd()
    }

    /// How many bytes are in it.
    ///
    /// # Errors
    /// That of `ioctl`; there is none for a pipe.
    pub fn waiting(&self) -> Result<u64, Errno> {
        bytes_waiting(self.read_end.as_fd())
    }

    /// Moves at most `limit` bytes from `pipe` into it; 0 is the end of `pipe`.
    ///
    /// # Errors
    /// `EAGAIN` when `pipe` is open and has nothing.
    pub(super) fn fill_from(&self, pipe: BorrowedFd<'_>, limit: u64) -> Result<u64, Errno> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        splice(pipe, None, &self.write_end, None, limit, flags).map(|moved| moved as u64)
    }

    /// Whether both values are the same open pipe ends (for tests and rehearsal).
    #[must_use]
    pub fn raw_numbers(&self) -> (i32, i32) {
        (self.read_end.as_raw_fd(), self.write_end.as_raw_fd())
    }
}

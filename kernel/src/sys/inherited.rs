//! Descriptors that a predecessor left open for us through exec.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::process::duplicate_from;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Every descriptor from 3 on that this process was started with, by number. Those that are not
/// taken are closed when it is dropped.
#[derive(Debug)]
pub struct Inherited {
    by_number: BTreeMap<i32, OwnedFd>,
}

impl Inherited {
    /// Takes possession of all of them and sets close-on-exec on each.
    ///
    /// Call it first thing in `main`, before anything else opens descriptors: it cannot tell theirs
    /// from inherited ones. A second call gives nothing.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn claim_all() -> Result<Self, Errno> {
        static CLAIMED: AtomicBool = AtomicBool::new(false);
        let mut by_number = BTreeMap::new();
        if CLAIMED.swap(true, Ordering::SeqCst) {
            return Ok(Self { by_number });
        }
        let directory = fs::read_dir("/proc/self/fd").map_err(|_| Errno::ENOENT)?;
        // Read to the end first: the directory has a descriptor of its own while it is read.
        let numbers = directory
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .collect::<Vec<_>>();
        for number in numbers.into_iter().filter(|number| *number > 2) {
            // SAFETY: the call only looks, and no memory is involved.
            if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
                continue;
            }
            // SAFETY: open (just seen), inherited rather than opened here (see above), and claimed
            // once, as the flag makes sure: nobody else in this process owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            by_number.insert(fd.as_raw_fd(), fd);
        }
        Ok(Self { by_number })
    }

    /// For a process that was handed nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            by_number: BTreeMap::new(),
        }
    }

    /// Looks at the one with this number.
    #[must_use]
    pub fn get(&self, number: i32) -> Option<BorrowedFd<'_>> {
        self.by_number.get(&number).map(AsFd::as_fd)
    }

    /// A copy of the one with this number; it stays, so that another program can be handed it.
    ///
    /// # Errors
    /// `EBADF` when there is none, descriptor limits.
    pub fn copy(&self, number: i32) -> Result<OwnedFd, Errno> {
        duplicate_from(self.get(number).ok_or(Errno::EBADF)?, 3)
    }

    /// Takes the one with this number.
    pub fn take(&mut self, number: i32) -> Option<OwnedFd> {
        self.by_number.remove(&number)
    }

    /// Numbers of those that were not taken yet.
    pub fn numbers(&self) -> impl Iterator<Item = i32> {
        self.by_number.keys().copied()
    }
}

//! A shared mapping of a memory file, seen as atomic words and as plain bytes.
//!
//! Words may be written by other processes at any time, so they are only reachable as atomics.
//! Byte ranges have one writer, the process that owns the `&mut Mapping`; whoever maps the same
//! file elsewhere must not write to those ranges (the guard never does).

use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use nix::errno::Errno;

use crate::memory::layout::{JournalHeaderWords, StateWords};
use crate::sys::memfd::sealed_size;

/// A structure that consists of nothing but atomic integers, without padding that matters, so that
/// any bit pattern is a value and other processes may write to it while it is borrowed.
///
/// # Safety
/// The type must be `repr(C)` and hold only atomics (or arrays of them).
pub unsafe trait SharedWords: Sized {}

// SAFETY: repr(C), and so are its parts; atomics only.
unsafe impl SharedWords for StateWords {}
// SAFETY: repr(C), atomics only.
unsafe impl SharedWords for JournalHeaderWords {}
// SAFETY: an atomic itself.
unsafe impl SharedWords for std::sync::atomic::AtomicU64 {}

/// A whole memory file, mapped shared.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory, not bound to a thread; `&Mapping` only gives atomics and
// ranges that nobody writes while they are borrowed (writing needs `&mut Mapping`).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of `fd`, readable and writable.
    ///
    /// # Errors
    /// `EPERM` when the size of the file is not sealed (an access could raise SIGBUS), or the
    /// error of `mmap`.
    pub fn new(fd: impl AsFd) -> Result<Self, Errno> {
        let bytes = sealed_size(&fd)?;
        Self::of_known_size(fd, bytes)
    }

    /// Maps a file that [`crate::sys::memfd::create_sealed`] has just made, `bytes` long, without
    /// asking for its size and seals again.
    pub(crate) fn of_known_size(fd: impl AsFd, bytes: u64) -> Result<Self, Errno> {
        let bytes = usize::try_from(bytes).map_err(|_| Errno::EFBIG)?;
        // SAFETY: a fresh mapping at an address of Linux's choice cannot touch existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, bytes })
    }

    /// The mapped length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is mapped (never so: Linux refuses empty mappings).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `count` structures of words from byte `offset` on; `None` when that is outside the file or
    /// not aligned.
    #[must_use]
    pub fn words<T: SharedWords>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let bytes = size_of::<T>().checked_mul(count)?;
        let end = offset.checked_add(bytes)?;
        if end > self.bytes || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: inside the mapping (checked), which is page aligned; the offset is a multiple of
        // the alignment; any bits are valid for `SharedWords`, and atomics may change under us.
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset).cast(), count) })
    }

    /// The bytes of a range, or `None` when it is not wholly inside the file.
    ///
    /// Meant for ranges that only this process writes.
    #[must_use]
    pub fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.bytes {
            return None;
        }
        // SAFETY: inside the mapping; nobody writes while it is borrowed (see the module page).
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), len) })
    }

    /// Like [`Mapping::bytes`], for writing.
    #[must_use]
    pub fn bytes_mut(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        if offset.checked_add(len)? > self.bytes {
            return None;
        }
        // SAFETY: inside the mapping; `&mut self` excludes every other borrow in this process.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), len) })
    }

    /// Two ranges at once, for a scattered read; `None` when one is outside or they overlap.
    #[must_use]
    pub fn two_bytes_mut(
        &mut self,
        first: (usize, usize),
        second: (usize, usize),
    ) -> Option<(&mut [u8], &mut [u8])> {
        let first_end = first.0.checked_add(first.1)?;
        let second_end = second.0.checked_add(second.1)?;
        if first_end > self.bytes || second_end > self.bytes {
            return None;
        }
        if first.0 < second_end && second.0 < first_end {
            return None;
        }
        // SAFETY: both inside the mapping, disjoint, and `&mut self` excludes other borrows.
        unsafe {
            let base = self.start.as_ptr();
            Some((
                std::slice::from_raw_parts_mut(base.add(first.0), first.1),
                std::slice::from_raw_parts_mut(base.add(second.0), second.1),
            ))
        }
    }
}

/// A mapping that is exactly one structure of words.
#[derive(Debug)]
pub struct Shared<T> {
    mapping: Mapping,
    words: PhantomData<T>,
}

impl<T: SharedWords> Shared<T> {
    /// Takes a mapping whose length is that of `T`; gives it back otherwise.
    ///
    /// # Errors
    /// The mapping, when it has another length.
    pub fn new(mapping: Mapping) -> Result<Self, Mapping> {
        if mapping.len() == size_of::<T>() && align_of::<T>() <= 4096 {
            Ok(Self {
                mapping,
                words: PhantomData,
            })
        } else {
            Err(mapping)
        }
    }
}

impl<T: SharedWords> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is exactly as long as `T` (checked in `new`), page aligned, and any
        // bits are valid for `SharedWords`.
        unsafe { self.mapping.start.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range `mmap` gave; every borrow of it has ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

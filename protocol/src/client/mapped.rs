//! Reading output in place: the file of a ring, as the kernel has passed it.
//!
//! It is read with `pread`, not through a mapping: that copies as fast, needs nothing `unsafe`, has no
//! page tables to be filled and bounded, and reading where nothing was written makes no pages. What
//! the kernel says about places is checked; what lies there is believed only after a look at
//! whether it was overwritten meanwhile.

use crate::event::{MappedOutput, RingPassed};
use crate::limits::{MAPPED_OUTPUT_BYTES_MAX, OUTPUT_BUFFER_BYTES_MAX};
use crate::record::{RECORD_HEADER_BYTES, Records};
use crate::ring::{CONTROL_BYTES, parse_oldest};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{Ordering, fence};
use thiserror::Error;

/// How often the two words are read that are just being written: a writer needs some nanoseconds.
const LOOKS_MAX: u32 = 1000;

/// A ring to read from.
#[derive(Debug)]
pub struct MappedRing {
    file: File,
    ring: u64,
    data_bytes: u64,
}

/// Why what was passed or announced cannot be read.
#[derive(Debug, Error)]
pub enum MappedRingError {
    /// The file is not what it was said to be.
    #[error("what was passed as a ring is something else")]
    NotARing,
    /// Nothing can lie there.
    #[error("records are announced where none can be: {0:?}")]
    Outside(MappedOutput),
    /// What lies there are no such records.
    #[error("what lies where records were announced are others, or none: {0:?}")]
    Damaged(MappedOutput),
    /// The session has ended, and with it what was announced.
    #[error("the kernel closed the session in which records were announced")]
    SessionOver,
    /// A read failed.
    #[error("a ring cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// Whether records were still where they were announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// They were, and are copied.
    Whole,
    /// They were dropped, or may have been: nothing is copied. Following anew from
    /// [`MappedOutput::from`] brings them, or says exactly what is missing.
    Overtaken,
}

impl MappedRing {
    /// The ring that came with `passed`.
    ///
    /// # Errors
    /// [`MappedRingError::NotARing`], or the file cannot be looked at.
    pub fn new(descriptor: OwnedFd, passed: &RingPassed) -> Result<Self, MappedRingError> {
        let file = File::from(descriptor);
        let found = file.metadata()?;
        let RingPassed {
            ring, data_bytes, ..
        } = *passed;
        let possible = (CONTROL_BYTES..=OUTPUT_BUFFER_BYTES_MAX).contains(&data_bytes)
            && data_bytes.is_multiple_of(CONTROL_BYTES);
        let fits = found.ino() == ring && found.len() == data_bytes.saturating_add(CONTROL_BYTES);
        if !possible || !fits || !found.is_file() {
            return Err(MappedRingError::NotARing);
        }
        Ok(Self {
            file,
            ring,
            data_bytes,
        })
    }

    /// Which one it is, see [`RingPassed::ring`].
    #[must_use]
    pub fn number(&self) -> u64 {
        self.ring
    }

    /// Puts the announced records into `into`, one behind the other, and nothing else. `session` is the
    /// socket over which they were announced.
    ///
    /// # Errors
    /// See [`MappedRingError`]; `into` is of no use then.
    pub fn copy(
        &self,
        session: impl AsFd,
        output: &MappedOutput,
        into: &mut Vec<u8>,
    ) -> Result<Copied, MappedRingError> {
        let MappedOutput {
            ring,
            position,
            bytes,
            ..
        } = *output;
        let alignment = RECORD_HEADER_BYTES as u64;
        let most = MAPPED_OUTPUT_BYTES_MAX.min(self.data_bytes);
        let length = usize::try_from(bytes).ok().filter(|_| {
            ring == self.ring
                && (alignment..=most).contains(&bytes)
                && bytes.is_multiple_of(alignment)
                && position.is_multiple_of(alignment)
                && position.checked_add(bytes).is_some()
        });
        let length = length.ok_or(MappedRingError::Outside(*output))?;
        into.clear();
        into.resize(length, 0);
        let offset = position % self.data_bytes;
        let first = usize::try_from(self.data_bytes.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(length);
        let (front, wrapped) = into.split_at_mut(first);
        self.file.read_exact_at(front, offset)?;
        if !wrapped.is_empty() {
            self.file.read_exact_at(wrapped, 0)?;
        }
        // What was copied must have been read before this look; see `crate::ring`.
        fence(Ordering::SeqCst);
        if self.oldest()?.is_none_or(|oldest| oldest > position) {
            into.clear();
            return Ok(Copied::Overtaken);
        }
        // Whoever announced it has told of everything that was overwritten until now; a successor may
        // not have, if it is older.
        if is_over(session.as_fd())? {
            return Err(MappedRingError::SessionOver);
        }
        if !are_as_announced(output, into) {
            return Err(MappedRingError::Damaged(*output));
        }
        Ok(Copied::Whole)
    }

    fn oldest(&self) -> Result<Option<u64>, MappedRingError> {
        for _ in 0..LOOKS_MAX {
            let mut words = [0; 16];
            self.file.read_exact_at(&mut words, self.data_bytes)?;
            if let Some(oldest) = parse_oldest(&words) {
                return Ok(Some(oldest));
            }
        }
        Ok(None)
    }
}

/// Whether the other side has closed a session. (What it sent before may still be unread.)
fn is_over(session: BorrowedFd<'_>) -> Result<bool, MappedRingError> {
    let mut polled = [PollFd::new(session, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).map_err(std::io::Error::from)?;
    let [polled] = polled;
    Ok(polled.any() == Some(true))
}

fn are_as_announced(output: &MappedOutput, bytes: &[u8]) -> bool {
    let mut records = Records::new(bytes);
    let mut next = output.from;
    for record in records.by_ref() {
        if record.header.sequence != next {
            return false;
        }
        next = next.next();
    }
    next == output.next && records.rest().is_empty()
}

#[cfg(test)]
mod tests;

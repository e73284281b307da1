//! Reading a child's pipe into its ring so that a kill at any instant neither loses nor doubles a
//! byte.
//!
//! Child pipe -> bounce pipe (`splice`) -> ring (`readv`) -> header -> one publication. The cell in
//! the state file says what is in flight; the fill level of the bounce pipe, which Linux keeps,
//! says exactly how far it got. One cell is enough, as the kernel has one thread.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use super::bounce::Bounce;
use super::cursor::{
    DamagedRing, RECORD_HEADER_BYTES, RecordHeader, RingCursor, Stream, record_span,
};
use super::layout::CELL_UNKNOWN;
use super::ring::Ring;
use super::slot::{DamagedSlot, Slot};
use super::state_memory::{SlotIndex, StateMemory};
use crate::crash::{crash_point, fault_point};
use crate::sys::process::bytes_waiting;

/// What to do with a full ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// The oldest whole records go.
    DropOldest,
    /// The pipe is not read: the child waits.
    Block,
}

/// What one turn of reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// One record, published.
    Record(RecordHeader),
    /// The pipe is open and empty.
    Nothing,
    /// Every writer is gone; the bit is published. Close the pipe and have the guard drop it.
    EndOfFile,
    /// The ring is full and the policy is to wait: stop polling this pipe until an acknowledgement.
    NoRoom,
}

/// Reading could not go on.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A system call failed.
    #[error("cannot {action}: {cause}")]
    Call {
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: Errno,
    },
    /// A read is still in flight, and [`recover_read`] must finish it first.
    #[error("a read of slot {slot} is still in flight")]
    InFlight {
        /// Whose.
        slot: u64,
    },
    /// The slot's control block is damaged.
    #[error(transparent)]
    Slot(#[from] DamagedSlot),
    /// The ring is damaged.
    #[error(transparent)]
    Ring(#[from] DamagedRing),
    /// The bounce pipe holds bytes that nobody accounts for.
    #[error("the bounce pipe holds {bytes} bytes that belong to no read")]
    Stray {
        /// How many.
        bytes: u64,
    },
}

fn call(action: &'static str) -> impl FnOnce(Errno) -> ReadError {
    move |cause| ReadError::Call { action, cause }
}

/// Everything one turn of reading works on.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The state file.
    pub state: &'a StateMemory,
    /// The bounce pipe.
    pub bounce: &'a Bounce,
    /// Whose output.
    pub slot: SlotIndex,
    /// Its ring.
    pub ring: &'a mut Ring,
    /// What to do when it is full.
    pub policy: OverflowPolicy,
}

impl Reading<'_> {
    /// Takes what is in `pipe` (non-blocking, the read end) as one record of `stream`: at most
    /// [`super::ring::RingSize::record_bytes_max`] bytes.
    ///
    /// `now_ns` becomes the record's time. Under `DropOldest` a full ring makes room first; what
    /// goes shows as a gap to whoever had not read it.
    ///
    /// # Errors
    /// See [`ReadError`]; nothing of the pipe is lost by any of them.
    pub fn read(
        &mut self,
        pipe: BorrowedFd<'_>,
        stream: Stream,
        now_ns: u64,
    ) -> Result<ReadOutcome, ReadError> {
        let header = self.state.header();
        let owner = header.cell_owner.load(Ordering::Acquire);
        if owner != 0 {
            return Err(ReadError::InFlight {
                slot: (owner & 0xFFFF_FFFF).saturating_sub(1),
            });
        }
        fault_point("read: map")
            .and_then(|()| self.ring.map())
            .map_err(call("map a ring"))?;
        let slot = self.state.slot(self.slot);
        let cursor = slot.cursor()?;
        let (cursor, limit) = match self.make_room(slot, cursor, pipe)? {
            Room::For(cursor, limit) => (cursor, limit),
            Room::Full => return Ok(ReadOutcome::NoRoom),
            Room::NotNeeded if !is_at_end(pipe)? => return Ok(ReadOutcome::Nothing),
            Room::NotNeeded => {
                slot.publish(&cursor.after_eof(stream));
                crash_point("eof: published");
                return Ok(ReadOutcome::EndOfFile);
            }
        };

        header.cell_moved.store(CELL_UNKNOWN, Ordering::Relaxed);
        header.cell_position.store(cursor.head, Ordering::Relaxed);
        header
            .cell_owner
            .store(owner_word(self.slot, stream), Ordering::Release);
        crash_point("read: cell taken");
        let filled = fault_point("read: splice").and_then(|()| self.bounce.fill_from(pipe, limit));
        let moved = match filled {
            Ok(moved) => moved,
            Err(Errno::EAGAIN | Errno::EINTR) => {
                header.cell_owner.store(0, Ordering::Release);
                return Ok(ReadOutcome::Nothing);
            }
            Err(cause) => {
                header.cell_owner.store(0, Ordering::Release);
                return Err(ReadError::Call {
                    action: "splice from a child's pipe",
                    cause,
                });
            }
        };
        crash_point("read: spliced");
        if moved == 0 {
            crash_point("eof: before");
            header.cell_owner.store(0, Ordering::Release);
            crash_point("eof: inside");
            slot.publish(&cursor.after_eof(stream));
            crash_point("eof: published");
            return Ok(ReadOutcome::EndOfFile);
        }
        header.cell_moved.store(moved, Ordering::Release);
        crash_point("read: length stored");
        let record = self.drain(&cursor, stream, now_ns, moved, moved)?;
        self.keep_to_limit(slot)?;
        Ok(ReadOutcome::Record(record))
    }

    /// Steps 4 to 6: the `left` bytes still in the bounce pipe go behind the `moved - left` that
    /// are in the ring, then header, publication, and the cell is free.
    fn drain(
        &mut self,
        cursor: &RingCursor,
        stream: Stream,
        now_ns: u64,
        moved: u64,
        left: u64,
    ) -> Result<RecordHeader, ReadError> {
        // What lies behind the head now is about to be overwritten.
        self.ring.tell_readers(cursor);
        let data = cursor.head.saturating_add(RECORD_HEADER_BYTES);
        let mut done = moved.saturating_sub(left);
        while done < moved {
            let position = data.saturating_add(done);
            let wanted = half_for_crash_tests(moved.saturating_sub(done));
            let read = fault_point("read: drain").and_then(|()| {
                self.ring
                    .read_from(self.bounce.read_end(), position, wanted)
            });
            let read = match read {
                Err(Errno::EINTR) => continue,
                // The bytes were there a moment ago and only we read: the pipe was tampered with.
                Ok(0) => Err(Errno::EPIPE),
                result => result,
            };
            done = done.saturating_add(read.map_err(call("read from the bounce pipe"))?);
            crash_point("read: part drained");
        }
        crash_point("read: drained");
        let length = u32::try_from(moved).map_err(|_| ReadError::Stray { bytes: moved })?;
        let record = cursor.next_header(stream, length, now_ns);
        self.ring
            .write_header(cursor.head, &record)
            .map_err(call("write a record header"))?;
        crash_point("read: header written");
        self.state
            .slot(self.slot)
            .publish(&cursor.after_append(&record));
        crash_point("read: published");
        self.state.header().cell_owner.store(0, Ordering::Release);
        crash_point("read: cell free");
        Ok(record)
    }

    /// Drops what is past the limit of a ring of less than a page. Left undone by a kill, the next
    /// read does it.
    fn keep_to_limit(&self, slot: Slot<'_>) -> Result<(), ReadError> {
        if self.policy == OverflowPolicy::DropOldest {
            let cursor = slot.cursor()?;
            let after = self.ring.keep_to_limit(&cursor)?;
            if after != cursor {
                slot.publish(&after);
            }
        }
        Ok(())
    }

    /// Room for one record, and how long it may be.
    fn make_room(
        &self,
        slot: Slot<'_>,
        cursor: RingCursor,
        pipe: BorrowedFd<'_>,
    ) -> Result<Room, ReadError> {
        let size = self.ring.size();
        let most = size.record_bytes_max();
        let span = |bytes: u64| record_span(u32::try_from(bytes).unwrap_or(u32::MAX));
        let mut room = cursor.room(size.bytes());
        if room >= span(most) {
            return Ok(Room::For(cursor, most));
        }
        if self.policy == OverflowPolicy::Block {
            let payload = room.saturating_sub(RECORD_HEADER_BYTES);
            return Ok(match payload {
                0 => Room::Full,
                payload => Room::For(cursor, payload.min(most)),
            });
        }
        // Nearly full: ask how much there is, so that no more is dropped than needed, and nothing
        // for a stream that only ends.
        let waiting = bytes_waiting(pipe).map_err(call("ask how much a child wrote"))?;
        if waiting == 0 && room < span(1) {
            return Ok(Room::NotNeeded);
        }
        let after = self.ring.make_room(&cursor, span(waiting.clamp(1, most)))?;
        if after != cursor {
            crash_point("drop: before");
            slot.publish(&after);
            crash_point("drop: published");
        }
        room = after.room(size.bytes());
        let most = room.saturating_sub(RECORD_HEADER_BYTES).min(most);
        Ok(Room::For(after, most))
    }
}

/// Whether a record fits.
enum Room {
    /// One with so many bytes does.
    For(RingCursor, u64),
    /// None does, and the policy is to wait.
    Full,
    /// None does, but there are no bytes for one.
    NotNeeded,
}

/// Whether an empty pipe has no writers any more. (Bytes that came meanwhile show as readable.)
fn is_at_end(pipe: BorrowedFd<'_>) -> Result<bool, ReadError> {
    let mut polled = [PollFd::new(pipe, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).map_err(call("look at a child's pipe"))?;
    let [polled] = polled;
    let found = polled.revents().unwrap_or(PollFlags::empty());
    Ok(found.contains(PollFlags::POLLHUP) && !found.contains(PollFlags::POLLIN))
}

/// What recovery found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// No read was in flight, or nothing had left the child's pipe.
    Nothing,
    /// The record had been published already.
    Published(SlotIndex),
    /// The record was finished now.
    Finished {
        /// Whose.
        slot: SlotIndex,
        /// Its header.
        record: RecordHeader,
    },
}

/// Whose read is in flight, if one is and it makes sense.
#[must_use]
pub fn read_in_flight(state: &StateMemory) -> Option<(SlotIndex, Stream)> {
    match state.header().cell_owner.load(Ordering::Acquire) {
        0 => None,
        owner => parse_owner(owner),
    }
}

/// Whether any read is in flight, so that none can begin.
#[must_use]
pub fn is_read_in_flight(state: &StateMemory) -> bool {
    state.header().cell_owner.load(Ordering::Acquire) != 0
}

/// Finishes the read that a predecessor left in flight, or one of our own that met an error. May be killed anywhere and run again; run
/// it before the first [`Reading::read`].
///
/// `ring_of` gives the ring of a slot. `now_ns` becomes the time of a record finished here.
///
/// # Errors
/// A slot without ring or with a damaged block, or a bounce pipe that does not belong to this state.
pub fn recover_read<'r>(
    state: &StateMemory,
    bounce: &Bounce,
    now_ns: u64,
    ring_of: impl FnOnce(SlotIndex) -> Option<&'r mut Ring>,
) -> Result<Recovered, ReadError> {
    let header = state.header();
    let owner = header.cell_owner.load(Ordering::Acquire);
    let waiting = bounce
        .waiting()
        .map_err(call("ask for the bounce pipe's fill"))?;
    let stray = ReadError::Stray { bytes: waiting };
    if owner == 0 {
        return if waiting == 0 {
            Ok(Recovered::Nothing)
        } else {
            Err(stray)
        };
    }
    let Some((index, stream)) = parse_owner(owner) else {
        return Err(stray);
    };
    let cursor = state.slot(index).cursor()?;
    if cursor.head != header.cell_position.load(Ordering::Acquire) {
        if waiting != 0 {
            return Err(stray);
        }
        header.cell_owner.store(0, Ordering::Release);
        return Ok(Recovered::Published(index));
    }
    let mut moved = header.cell_moved.load(Ordering::Acquire);
    if moved == CELL_UNKNOWN {
        if waiting == 0 {
            header.cell_owner.store(0, Ordering::Release);
            return Ok(Recovered::Nothing);
        }
        moved = waiting;
        header.cell_moved.store(moved, Ordering::Release);
    }
    if waiting > moved {
        return Err(stray);
    }
    let ring = ring_of(index).ok_or(ReadError::InFlight {
        slot: u64::from(index.number()),
    })?;
    crash_point("adopt: in the read");
    let mut reading = Reading {
        state,
        bounce,
        slot: index,
        ring,
        policy: OverflowPolicy::DropOldest,
    };
    let record = reading.drain(&cursor, stream, now_ns, moved, waiting)?;
    Ok(Recovered::Finished {
        slot: index,
        record,
    })
}

/// Throws away what is in flight, when [`recover_read`] cannot finish it (the slot is damaged): the
/// last resort, so that other children can be read again. Gives how many bytes were lost.
///
/// # Errors
/// The bounce pipe cannot be read.
pub fn abandon_read(state: &StateMemory, bounce: &Bounce) -> Result<u64, ReadError> {
    let mut lost = 0_u64;
    let mut buffer = [0; 4096];
    loop {
        match nix::unistd::read(bounce.read_end(), &mut buffer) {
            Ok(0) | Err(Errno::EAGAIN) => break,
            Ok(read) => lost = lost.saturating_add(read as u64),
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(call("empty the bounce pipe")(cause)),
        }
    }
    state.header().cell_owner.store(0, Ordering::Release);
    Ok(lost)
}

fn owner_word(slot: SlotIndex, stream: Stream) -> u64 {
    let stream = match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1_u64 << 32,
    };
    (u64::from(slot.number()) + 1) | stream
}

fn parse_owner(owner: u64) -> Option<(SlotIndex, Stream)> {
    let stream = match owner >> 32 {
        0 => Stream::Stdout,
        1 => Stream::Stderr,
        _ => return None,
    };
    Some((
        SlotIndex::new((owner & 0xFFFF_FFFF).checked_sub(1)?)?,
        stream,
    ))
}

/// With crash points, reads come in two parts, so that a kill can fall between them.
fn half_for_crash_tests(bytes: u64) -> u64 {
    if cfg!(any(test, feature = "crash-points")) {
        bytes.div_ceil(2)
    } else {
        bytes
    }
}

#[cfg(test)]
mod tests;

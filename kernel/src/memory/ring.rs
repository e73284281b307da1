//! The output ring of one child: the bytes of its records in a memory file.
//!
//! Where the records are is the [`RingCursor`]'s business; this module places, finds and shows
//! bytes. Nothing in the file is trusted: a header that does not fit is an error, not a panic.

use std::cell::{Cell, OnceCell};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use kingpole_protocol::ring::{CLOSED, oldest_words};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::readv;

use super::cursor::{
    DamagedRing, RECORD_HEADER_BYTES, RecordHeader, RingCursor, Sequence, Stream, record_span,
};
use super::layout::PAGE;
use super::state_memory::MemoryError;
use crate::sys::mapping::Mapping;
use crate::sys::memfd::{create_sealed, is_hole, punch_hole, sealed_size};

/// Most bytes that one read takes from a child, and so the longest record.
pub const READ_BYTES_MAX: u64 = 64 * 1024;
/// Data bytes of a ring unless the client asks for another size (Circus's manual promises 2 MB).
pub const RING_BYTES_DEFAULT: u64 = 2 * 1024 * 1024;
/// The largest ring.
pub const RING_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Less than this is not worth giving back: touching the pages again costs more.
const GIVE_BACK_BYTES_MIN: u64 = 64 * 1024;

/// Data bytes of a ring: a positive multiple of the page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingSize(u64);

impl RingSize {
    /// [`RING_BYTES_DEFAULT`].
    pub const DEFAULT: Self = Self(RING_BYTES_DEFAULT);

    /// At least `bytes`, in whole pages; `None` for 0 (which means: capture nothing) and for more
    /// than [`RING_BYTES_MAX`].
    #[must_use]
    pub fn holding(bytes: u64) -> Option<Self> {
        (1..=RING_BYTES_MAX)
            .contains(&bytes)
            .then(|| Self(bytes.next_multiple_of(PAGE)))
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Most payload of one record, so that a small ring still holds a few.
    #[must_use]
    pub const fn record_bytes_max(self) -> u64 {
        let quarter = self.0 / 4 - RECORD_HEADER_BYTES;
        if quarter < READ_BYTES_MAX {
            quarter
        } else {
            READ_BYTES_MAX
        }
    }
}

/// A place in the sequence of records of one ring. Stays meaningful when records are dropped or
/// acknowledged behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadMark {
    /// Sequence number of the next record wanted; 0 means the oldest kept.
    pub seq: Sequence,
    /// Where it was, or will be (a hint: a wrong one costs a search).
    pub position: u64,
}

impl ReadMark {
    /// From the record numbered `seq` on.
    #[must_use]
    pub const fn from_seq(seq: Sequence) -> Self {
        Self {
            seq,
            position: u64::MAX,
        }
    }

    /// Behind `record`.
    #[must_use]
    pub fn after(record: &Record<'_>) -> Self {
        Self {
            seq: record.header.sequence.next(),
            position: record
                .position
                .saturating_add(record_span(record.header.length)),
        }
    }
}

/// Records that were dropped before a reader saw them. Derived, never counted: a reader that knows
/// the offsets it has seen subtracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first record missing.
    pub from: Sequence,
    /// The first record not missing.
    pub to: Sequence,
    /// Offset within standard output of the first byte not missing.
    pub stdout_offset: u64,
    /// Offset within standard error of the first byte not missing.
    pub stderr_offset: u64,
}

/// One record, borrowed from the ring.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its position, for [`ReadMark`].
    pub position: u64,
    /// Its bytes: two slices, as it may wrap; the second is often empty.
    pub data: [&'a [u8]; 2],
}

/// Whether giving memory back did anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveBack {
    /// This many bytes of address range went back.
    Given(u64),
    /// The ring holds records, or too little was touched to be worth it.
    NotWorthIt,
}

/// A ring file. It is mapped when it is first used: most children start without a word, and
/// mapping takes as long as making the file.
#[derive(Debug)]
pub struct Ring {
    fd: OwnedFd,
    mapping: OnceCell<Mapping>,
    size: RingSize,
    /// Most payload of all records together, if that is less than a page.
    payload_bytes_max: Option<u64>,
    /// Bytes of the file that may have pages. A cache for [`Ring::give_back`].
    touched: u64,
    /// What [`Ring::make_room`] gave up since this process mapped it.
    dropped: Cell<Dropped>,
    /// Whether anybody may read it in place.
    readers: Cell<Readers>,
}

/// Whether clients may be reading a ring in place, so that they have to be told what is overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// It has been passed to nobody.
    None,
    /// It has been passed to somebody.
    Some,
    /// Another kernel process may have passed it: to be found out when it matters.
    Unknown,
}

/// Records that went because a ring was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// How many.
    pub records: u64,
    /// Their data, bytes.
    pub bytes: u64,
}

impl Ring {
    /// Makes an empty one. It takes no memory until it is written to.
    ///
    /// # Errors
    /// The memory file cannot be made.
    pub fn create(size: RingSize) -> Result<Self, MemoryError> {
        let bytes = size.bytes().saturating_add(PAGE);
        let fd =
            create_sealed("kingpole-ring", bytes).map_err(MemoryError::call("ring", "make"))?;
        Ok(Self {
            fd,
            mapping: OnceCell::new(),
            size,
            payload_bytes_max: None,
            touched: 0,
            dropped: Cell::default(),
            readers: Cell::new(Readers::None),
        })
    }

    /// Takes an existing one. What it holds is the cursor's to say.
    ///
    /// # Errors
    /// Not a sealed file of a possible ring size.
    pub fn open(fd: OwnedFd) -> Result<Self, MemoryError> {
        let bytes = sealed_size(&fd).map_err(MemoryError::call("ring", "map"))?;
        let data = bytes.saturating_sub(PAGE);
        let size = RingSize::holding(data)
            .filter(|size| size.bytes() == data)
            .ok_or_else(|| MemoryError::unusable("ring", format!("{data} data bytes")))?;
        Ok(Self::of_size(fd, size))
    }

    /// The same with a file whose size and seals are known: it is the very one that the image before used.
    /// Two system calls less per child in the pause of an upgrade.
    #[must_use]
    pub const fn of_size(fd: OwnedFd, size: RingSize) -> Self {
        Self {
            fd,
            mapping: OnceCell::new(),
            size,
            payload_bytes_max: None,
            touched: size.bytes(),
            dropped: Cell::new(Dropped {
                records: 0,
                bytes: 0,
            }),
            readers: Cell::new(Readers::Unknown),
        }
    }

    /// The same, holding no more payload than what was asked for.
    ///
    /// Papa counts single bytes, ours are whole pages; it shows in buffers of less than one, and
    /// there are few enough records in a page to add them up at each read.
    #[must_use]
    pub fn limited_to(mut self, asked_bytes: u64) -> Self {
        self.payload_bytes_max = (asked_bytes < PAGE).then_some(asked_bytes);
        self
    }

    /// Most bytes of output that it keeps.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.payload_bytes_max.unwrap_or(self.size.bytes())
    }

    /// What the cursor is after the oldest records went that are past [`Self::limited_to`].
    ///
    /// # Errors
    /// The ring is damaged.
    pub fn keep_to_limit(&self, cursor: &RingCursor) -> Result<RingCursor, DamagedRing> {
        let Some(payload) = self.payload_bytes_max else {
            return Ok(*cursor);
        };
        let after = cursor.after_keeping(payload, |position| self.header_at(position))?;
        self.count_dropped(cursor, &after)?;
        Ok(after)
    }

    /// The file, to hand to the guard or a successor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its data size.
    #[must_use]
    pub const fn size(&self) -> RingSize {
        self.size
    }

    /// Where the records from `mark` on start, and what was lost before them.
    ///
    /// A mark in front of the oldest record moves to it, and the gap tells what lay between; a mark
    /// behind the newest moves to the head.
    ///
    /// # Errors
    /// The ring is damaged.
    pub fn seek(
        &self,
        cursor: &RingCursor,
        mark: &ReadMark,
    ) -> Result<(ReadMark, Option<Gap>), DamagedRing> {
        let head = ReadMark {
            seq: cursor.next_seq,
            position: cursor.head,
        };
        if mark.seq >= cursor.next_seq {
            return Ok((head, None));
        }
        let Some(first) = self.first_record_from(cursor, mark.seq, mark.position)? else {
            // Everything up to the head was dropped or acknowledged.
            let gap = Gap {
                from: mark.seq,
                to: cursor.next_seq,
                stdout_offset: cursor.stdout_bytes,
                stderr_offset: cursor.stderr_bytes,
            };
            return Ok((head, (mark.seq.0 != 0).then_some(gap)));
        };
        let start = ReadMark {
            seq: first.header.sequence,
            position: first.position,
        };
        if mark.seq.0 == 0 || start.seq == mark.seq {
            return Ok((start, None));
        }
        let [stdout_offset, stderr_offset] = self.offsets_before(cursor, &first)?;
        Ok((
            start,
            Some(Gap {
                from: mark.seq,
                to: start.seq,
                stdout_offset,
                stderr_offset,
            }),
        ))
    }

    /// The records from `mark` on, oldest first. Call [`Ring::seek`] first to learn of gaps.
    ///
    /// The iterator ends after the first damaged record, which it gives as an error.
    pub fn records(&self, cursor: &RingCursor, mark: &ReadMark) -> Records<'_> {
        let start = self.seek(cursor, mark).map(|(mark, _)| mark.position);
        Records {
            ring: self,
            cursor: *cursor,
            next: start.map(Some),
        }
    }

    /// What the cursor is after everything up to and including `through` was acknowledged.
    ///
    /// # Errors
    /// The ring is damaged.
    pub fn acknowledge(
        &self,
        cursor: &RingCursor,
        through: Sequence,
    ) -> Result<RingCursor, DamagedRing> {
        cursor.after_acknowledge(self.size.0, through, |position| self.header_at(position))
    }

    /// What the cursor is after the oldest whole records made room for `needed` bytes.
    ///
    /// # Errors
    /// The ring is damaged.
    pub fn make_room(&self, cursor: &RingCursor, needed: u64) -> Result<RingCursor, DamagedRing> {
        let after =
            cursor.after_making_room(self.size.0, needed, |position| self.header_at(position))?;
        self.count_dropped(cursor, &after)?;
        Ok(after)
    }

    /// Counts the records between the tails of two cursors.
    fn count_dropped(&self, before: &RingCursor, after: &RingCursor) -> Result<(), DamagedRing> {
        let mut dropped = self.dropped.get();
        let mut position = before.tail;
        while position < after.tail {
            let (header, behind) =
                before.behind(position, &mut |position| self.header_at(position))?;
            dropped.records = dropped.records.saturating_add(1);
            dropped.bytes = dropped.bytes.saturating_add(u64::from(header.length));
            position = behind;
        }
        self.dropped.set(dropped);
        Ok(())
    }

    /// What was dropped since this process mapped the ring.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.dropped.get()
    }

    /// Number of the oldest record kept; `None` when none is, or when it makes no sense.
    #[must_use]
    pub fn oldest(&self, cursor: &RingCursor) -> Option<Sequence> {
        if cursor.is_empty() {
            return None;
        }
        self.header_at(cursor.tail).map(|header| header.sequence)
    }

    /// Bytes of output in all records that are kept.
    ///
    /// The oldest record says where its stream stands; only the other stream has to be searched for.
    ///
    /// # Errors
    /// The ring is damaged.
    pub fn payload_bytes(&self, cursor: &RingCursor) -> Result<u64, DamagedRing> {
        if cursor.is_empty() {
            return Ok(0);
        }
        let (oldest, _) = self.record_at(cursor, cursor.tail)?;
        let [stdout_offset, stderr_offset] = self.offsets_before(cursor, &oldest)?;
        let stdout = cursor.stdout_bytes.saturating_sub(stdout_offset);
        Ok(stdout.saturating_add(cursor.stderr_bytes.saturating_sub(stderr_offset)))
    }

    /// `bytes` bytes of whole records from `position` on, as they lie there: two pieces where they
    /// wrap. `None` when not all of that is between tail and head.
    #[must_use]
    pub fn bytes(&self, cursor: &RingCursor, position: u64, bytes: u64) -> Option<[&[u8]; 2]> {
        let end = position.checked_add(bytes)?;
        if position < cursor.tail || end > cursor.head {
            return None;
        }
        let (first, second) = split(self.size.0, position, bytes);
        let mapping = self.mapping().ok()?;
        Some([
            mapping.bytes(first.0, first.1)?,
            mapping.bytes(second.0, second.1)?,
        ])
    }

    /// Gives the memory of an empty ring back, when enough of it was touched. Do this a second or
    /// so after it became empty: at each drain it would cost four times what it saves.
    ///
    /// # Errors
    /// That of `fallocate`.
    pub fn give_back(&mut self, cursor: &RingCursor) -> Result<GiveBack, Errno> {
        if !cursor.is_empty() || self.touched < GIVE_BACK_BYTES_MIN {
            return Ok(GiveBack::NotWorthIt);
        }
        self.tell_readers(cursor);
        let given = self.touched.next_multiple_of(PAGE).min(self.size.0);
        punch_hole(&self.fd, 0, given)?;
        self.touched = 0;
        Ok(GiveBack::Given(given))
    }

    /// Whether [`Ring::give_back`] would do anything once the ring is empty.
    #[must_use]
    pub const fn is_worth_giving_back(&self) -> bool {
        self.touched >= GIVE_BACK_BYTES_MIN
    }

    /// Bytes that may be in memory for it.
    #[must_use]
    pub const fn touched_bytes(&self) -> u64 {
        self.touched
    }

    /// A descriptor of its file for a client to read in place, open for reading only, and the number by
    /// which the two of us call it.
    ///
    /// Reopening what was passed does not make it writable either: the file has no permissions but its
    /// owner's to read (memory files begin with all), and its owner is who could end this process anyway.
    ///
    /// # Errors
    /// Descriptor limit, or there is no `/proc`.
    pub fn share(&self, cursor: &RingCursor) -> Result<(OwnedFd, u64), Errno> {
        self.map()?;
        // (Mapped, so that telling cannot fail later for lack of memory.)
        fchmod(&self.fd, Mode::S_IRUSR)?;
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let shared = open(path.as_str(), flags, Mode::empty())?;
        let number = fstat(&shared)?.st_ino;
        self.readers.set(Readers::Some);
        self.tell_readers(cursor);
        Ok((shared, number))
    }

    /// Whoever reads in place shall believe nothing until `tell_readers`.
    pub fn close_to_readers(&self) {
        self.store_oldest(CLOSED);
    }

    /// Nobody needs it any more. Its memory goes back also if somebody keeps its file open.
    pub fn retire(self) {
        if self.has_readers() {
            self.close_to_readers();
            // Failing to costs memory until the last reader closes it.
            let _ = punch_hole(&self.fd, 0, self.size.0);
        }
    }

    /// Stores where the oldest record is, for who reads in place. Comes after the publication of the
    /// cursor and before anything is written in front of that record.
    pub(crate) fn tell_readers(&self, cursor: &RingCursor) {
        self.store_oldest(cursor.tail);
    }

    fn has_readers(&self) -> bool {
        if self.readers.get() == Readers::Unknown {
            // The page behind the records is written to when it is first passed to somebody.
            let known = match is_hole(&self.fd, self.size.0) {
                Ok(true) => Readers::None,
                Ok(false) | Err(_) => Readers::Some,
            };
            self.readers.set(known);
        }
        self.readers.get() == Readers::Some
    }

    /// Only where somebody may look: it takes a page of memory.
    fn store_oldest(&self, position: u64) {
        // As a program does that is older than all this.
        #[cfg(test)]
        if !crate::sys::simulated::knows_readers() {
            return;
        }
        if !self.has_readers() {
            return;
        }
        let words = self.mapping().ok();
        let words = words.and_then(|mapping| mapping.words::<AtomicU64>(self.size.0 as usize, 2));
        if let Some([oldest, inverted]) = words {
            let [first, second] = oldest_words(position);
            oldest.store(first, Ordering::Relaxed);
            inverted.store(second, Ordering::Release);
            // Before whatever is written next, by us or by Linux on our behalf.
            fence(Ordering::SeqCst);
        }
    }

    /// Maps it now. A read does this before it takes anything out of a pipe.
    pub(super) fn map(&self) -> Result<(), Errno> {
        self.mapping().map(drop)
    }

    /// Reads at most `bytes` from `source` to `position`, wrapping; gives how many came.
    pub(super) fn read_from(
        &mut self,
        source: BorrowedFd<'_>,
        position: u64,
        bytes: u64,
    ) -> Result<u64, Errno> {
        let size = self.size.0;
        let (first, second) = split(size, position, bytes);
        let wraps = second.1 != 0;
        self.touched = self.touched.max(if wraps {
            size
        } else {
            (first.0 + first.1) as u64
        });
        if wraps {
            let (first, second) = self
                .mapping_mut()?
                .two_bytes_mut(first, second)
                .ok_or(Errno::EFAULT)?;
            let mut slices = [IoSliceMut::new(first), IoSliceMut::new(second)];
            return readv(source, &mut slices).map(|read| read as u64);
        }
        let range = self
            .mapping_mut()?
            .bytes_mut(first.0, first.1)
            .ok_or(Errno::EFAULT)?;
        nix::unistd::read(source, range).map(|read| read as u64)
    }

    /// Writes a record header. Headers are 32-aligned and the size is too, so they never wrap.
    pub(super) fn write_header(
        &mut self,
        position: u64,
        header: &RecordHeader,
    ) -> Result<(), Errno> {
        let ((offset, len), _) = split(self.size.0, position, RECORD_HEADER_BYTES);
        let range = self
            .mapping_mut()?
            .bytes_mut(offset, len)
            .ok_or(Errno::EFAULT)?;
        if range.len() != header.to_bytes().len() {
            return Err(Errno::EFAULT);
        }
        range.copy_from_slice(&header.to_bytes());
        self.touched = self.touched.max((offset + len) as u64);
        Ok(())
    }

    fn mapping(&self) -> Result<&Mapping, Errno> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let bytes = self.size.0.saturating_add(PAGE);
        let mapping = Mapping::of_known_size(&self.fd, bytes)?;
        Ok(self.mapping.get_or_init(|| mapping))
    }

    fn mapping_mut(&mut self) -> Result<&mut Mapping, Errno> {
        self.mapping()?;
        self.mapping.get_mut().ok_or(Errno::ENOMEM)
    }

    pub(super) fn header_at(&self, position: u64) -> Option<RecordHeader> {
        let ((offset, len), _) = split(self.size.0, position, RECORD_HEADER_BYTES);
        let header =
            RecordHeader::parse(self.mapping().ok()?.bytes(offset, len)?.try_into().ok()?)?;
        (record_span(header.length) <= self.size.0).then_some(header)
    }

    fn record_at(
        &self,
        cursor: &RingCursor,
        position: u64,
    ) -> Result<(Record<'_>, u64), DamagedRing> {
        let damaged = DamagedRing { position };
        let (header, behind) = cursor.behind(position, &mut |at| self.header_at(at))?;
        let data_at = position.saturating_add(RECORD_HEADER_BYTES);
        let (first, second) = split(self.size.0, data_at, u64::from(header.length));
        let mapping = self.mapping().map_err(|_| damaged)?;
        let data = [
            mapping.bytes(first.0, first.1).ok_or(damaged)?,
            mapping.bytes(second.0, second.1).ok_or(damaged)?,
        ];
        Ok((
            Record {
                header,
                position,
                data,
            },
            behind,
        ))
    }

    /// The first record with at least sequence number `seq`; starts at `hint` when that is right.
    fn first_record_from(
        &self,
        cursor: &RingCursor,
        seq: Sequence,
        hint: u64,
    ) -> Result<Option<Record<'_>>, DamagedRing> {
        if (cursor.tail..cursor.head).contains(&hint)
            && hint.is_multiple_of(RECORD_HEADER_BYTES)
            && let Ok((record, _)) = self.record_at(cursor, hint)
            && record.header.sequence == seq
        {
            return Ok(Some(record));
        }
        let mut position = cursor.tail;
        while position < cursor.head {
            let (record, behind) = self.record_at(cursor, position)?;
            if record.header.sequence >= seq {
                return Ok(Some(record));
            }
            position = behind;
        }
        Ok(None)
    }

    /// Offsets of both streams in front of `first`: its own, and for the other stream the offset
    /// of its next record, or its total when there is none.
    fn offsets_before(
        &self,
        cursor: &RingCursor,
        first: &Record<'_>,
    ) -> Result<[u64; 2], DamagedRing> {
        let mut other = match first.header.stream {
            Stream::Stdout => cursor.stderr_bytes,
            Stream::Stderr => cursor.stdout_bytes,
        };
        let mut position = first.position;
        // A stream that never brought anything is in no record.
        while position < cursor.head && other != 0 {
            let (record, behind) = self.record_at(cursor, position)?;
            if record.header.stream != first.header.stream {
                other = record.header.stream_offset;
                break;
            }
            position = behind;
        }
        let own = first.header.stream_offset;
        Ok(match first.header.stream {
            Stream::Stdout => [own, other],
            Stream::Stderr => [other, own],
        })
    }
}

/// File ranges (offset, length) of `bytes` bytes at `position`; the second is empty unless it wraps.
fn split(size: u64, position: u64, bytes: u64) -> ((usize, usize), (usize, usize)) {
    let offset = position % size;
    let first = bytes.min(size - offset);
    (
        (offset as usize, first as usize),
        (0, (bytes - first) as usize),
    )
}

/// Iterates over records; see [`Ring::records`].
#[derive(Debug)]
pub struct Records<'a> {
    ring: &'a Ring,
    cursor: RingCursor,
    next: Result<Option<u64>, DamagedRing>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, DamagedRing>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = match self.next {
            Ok(Some(position)) if position < self.cursor.head => {
                self.ring.record_at(&self.cursor, position)
            }
            Ok(_) => return None,
            Err(damaged) => Err(damaged),
        };
        self.next = Ok(step.as_ref().ok().map(|(_, behind)| *behind));
        Some(step.map(|(record, _)| record))
    }
}

#[cfg(test)]
mod tests;

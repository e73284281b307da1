//! The arithmetic of an output ring: positions, record headers, dropping, acknowledging, gaps.
//!
//! Pure. It knows where records are, never what is in them; the bytes are [`super::ring`]'s and the
//! stores are [`super::slot`]'s. Positions only ever grow; a position modulo the data size is the
//! offset in the file.

use thiserror::Error;

pub use kingpole_protocol::ids::Sequence;
pub use kingpole_protocol::record::{RecordHeader, Stream};

/// Bytes of a record header, and the alignment of records.
pub const RECORD_HEADER_BYTES: u64 = kingpole_protocol::record::RECORD_HEADER_BYTES as u64;
/// Sequence number of the first record of a process; 0 therefore means "none yet".
pub const FIRST_SEQ: Sequence = Sequence(1);

/// Which streams have reached their end (a stream that is not captured counts as ended).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EofBits(u64);

impl EofBits {
    /// Both streams are open.
    pub const NONE: Self = Self(0);
    /// Both streams have ended.
    pub const ALL: Self = Self(3);

    /// These bits and that of `stream`.
    #[must_use]
    pub const fn with(self, stream: Stream) -> Self {
        Self(self.0 | bit(stream))
    }

    /// Whether `stream` has ended.
    #[must_use]
    pub const fn has(self, stream: Stream) -> bool {
        self.0 & bit(stream) != 0
    }

    /// Whether both have ended.
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.0 == Self::ALL.0
    }

    /// The word in the control block.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From the word in the control block; unknown bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & 3)
    }
}

const fn bit(stream: Stream) -> u64 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

/// The ring's contents cannot be what this kernel wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the output ring is damaged at position {position}: its unread output cannot be read")]
pub struct DamagedRing {
    /// The position of the first record that makes no sense.
    pub position: u64,
}

/// Bytes of ring that a payload of `len` bytes takes: header, bytes, padding to 32.
#[must_use]
pub const fn record_span(len: u32) -> u64 {
    RecordHeader::padded_bytes(len) as u64
}

/// Where a ring stands. Every change makes a new value, which one publication commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingCursor {
    /// Position behind the newest record.
    pub head: u64,
    /// Position of the oldest unacknowledged record.
    pub tail: u64,
    /// Sequence number of the next record.
    pub next_seq: Sequence,
    /// Bytes read from standard output so far.
    pub stdout_bytes: u64,
    /// Bytes read from standard error so far.
    pub stderr_bytes: u64,
    /// Which streams are at their end.
    pub eof: EofBits,
}

impl RingCursor {
    /// An empty ring of a new process; streams that are not captured are at their end already.
    #[must_use]
    pub const fn new(eof: EofBits) -> Self {
        Self {
            head: 0,
            tail: 0,
            next_seq: FIRST_SEQ,
            stdout_bytes: 0,
            stderr_bytes: 0,
            eof,
        }
    }

    /// Whether no unacknowledged record is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Bytes taken by unacknowledged records, headers and padding included.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.head.saturating_sub(self.tail)
    }

    /// Bytes a ring of `size` data bytes still has room for.
    #[must_use]
    pub const fn room(&self, size: u64) -> u64 {
        size.saturating_sub(self.used())
    }

    /// Bytes read from `stream` so far.
    #[must_use]
    pub const fn stream_bytes(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout_bytes,
            Stream::Stderr => self.stderr_bytes,
        }
    }

    /// Whether these words can belong to a ring of `size` data bytes.
    #[must_use]
    pub const fn is_sound(&self, size: u64) -> bool {
        self.tail <= self.head
            && self.head - self.tail <= size
            && self.head.is_multiple_of(RECORD_HEADER_BYTES)
            && self.tail.is_multiple_of(RECORD_HEADER_BYTES)
            && self.next_seq.0 >= FIRST_SEQ.0
    }

    /// The header that a record of `len` bytes of `stream`, read now, gets.
    #[must_use]
    pub const fn next_header(&self, stream: Stream, length: u32, time_ns: u64) -> RecordHeader {
        RecordHeader {
            length,
            stream,
            sequence: self.next_seq,
            time_ns,
            stream_offset: self.stream_bytes(stream),
        }
    }

    /// After `header`'s record was placed at the head.
    #[must_use]
    pub const fn after_append(mut self, header: &RecordHeader) -> Self {
        let len = header.length as u64;
        self.head = self.head.saturating_add(record_span(header.length));
        self.next_seq = self.next_seq.next();
        match header.stream {
            Stream::Stdout => self.stdout_bytes = self.stdout_bytes.saturating_add(len),
            Stream::Stderr => self.stderr_bytes = self.stderr_bytes.saturating_add(len),
        }
        self
    }

    /// After `stream` came to its end.
    #[must_use]
    pub const fn after_eof(mut self, stream: Stream) -> Self {
        self.eof = self.eof.with(stream);
        self
    }

    /// An empty ring starts over at offset 0 of the file, so that a quiet child lives in one or
    /// two pages for ever.
    #[must_use]
    pub const fn restarted_if_empty(mut self, size: u64) -> Self {
        if self.is_empty() && size != 0 && !self.head.is_multiple_of(size) {
            self.head = self.head.saturating_add(size - self.head % size);
            self.tail = self.head;
        }
        self
    }

    /// Drops the oldest whole records until `needed` bytes fit.
    ///
    /// # Errors
    /// A record that makes no sense; the caller may go on with [`RingCursor::after_damage`].
    pub fn after_making_room(
        mut self,
        size: u64,
        needed: u64,
        mut header_at: impl FnMut(u64) -> Option<RecordHeader>,
    ) -> Result<Self, DamagedRing> {
        while self.room(size) < needed && !self.is_empty() {
            self.tail = self.behind(self.tail, &mut header_at)?.1;
        }
        Ok(self)
    }

    /// Forgets the oldest records until those left hold at most `payload` bytes; the newest stays.
    ///
    /// Walks over every record, so it is for rings of a page.
    ///
    /// # Errors
    /// A record that makes no sense.
    pub fn after_keeping(
        mut self,
        payload: u64,
        mut header_at: impl FnMut(u64) -> Option<RecordHeader>,
    ) -> Result<Self, DamagedRing> {
        let mut held = 0_u64;
        let mut position = self.tail;
        while position < self.head {
            let (header, behind) = self.behind(position, &mut header_at)?;
            held = held.saturating_add(u64::from(header.length));
            position = behind;
        }
        while held > payload {
            let (header, behind) = self.behind(self.tail, &mut header_at)?;
            if behind >= self.head {
                break;
            }
            held = held.saturating_sub(u64::from(header.length));
            self.tail = behind;
        }
        Ok(self)
    }

    /// Forgets every record with a sequence number up to and including `through`.
    ///
    /// # Errors
    /// A record that makes no sense.
    pub fn after_acknowledge(
        mut self,
        size: u64,
        through: Sequence,
        mut header_at: impl FnMut(u64) -> Option<RecordHeader>,
    ) -> Result<Self, DamagedRing> {
        if through.next() >= self.next_seq {
            self.tail = self.head;
        }
        while !self.is_empty() {
            let (header, behind) = self.behind(self.tail, &mut header_at)?;
            if header.sequence > through {
                break;
            }
            self.tail = behind;
        }
        Ok(self.restarted_if_empty(size))
    }

    /// Gives up all unread records. What they held shows as a gap, as after dropping.
    #[must_use]
    pub const fn after_damage(mut self, size: u64) -> Self {
        self.tail = self.head;
        self.restarted_if_empty(size)
    }

    /// After `bytes` of `stream` were lost on their way to the ring, as if they had been a record that
    /// was dropped.
    #[must_use]
    pub const fn after_loss(mut self, stream: Stream, bytes: u64) -> Self {
        self.next_seq = self.next_seq.next();
        match stream {
            Stream::Stdout => self.stdout_bytes = self.stdout_bytes.saturating_add(bytes),
            Stream::Stderr => self.stderr_bytes = self.stderr_bytes.saturating_add(bytes),
        }
        self
    }

    /// The header at `position` and the position behind its record.
    ///
    /// # Errors
    /// No record of this ring can be there.
    pub fn behind(
        &self,
        position: u64,
        header_at: &mut impl FnMut(u64) -> Option<RecordHeader>,
    ) -> Result<(RecordHeader, u64), DamagedRing> {
        let damaged = DamagedRing { position };
        let header = header_at(position).ok_or(damaged)?;
        let behind = position
            .checked_add(record_span(header.length))
            .ok_or(damaged)?;
        if header.sequence >= self.next_seq || behind > self.head || position < self.tail {
            return Err(damaged);
        }
        Ok((header, behind))
    }
}

#[cfg(test)]
mod tests;

//! Output records: the same 32-byte header in the kernel's ring, on the wire and in whatever keeps
//! output elsewhere.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | data length |
//! | 4 | 1 | stream: 1 stdout, 2 stderr |
//! | 5 | 1 | flags, 0 |
//! | 6 | 2 | check: folds the other fields, so that a header can be told from stray bytes |
//! | 8 | 8 | sequence number |
//! | 16 | 8 | time of the read, nanoseconds since 1970 |
//! | 24 | 8 | offset of the first byte within its own stream |
//!
//! The data follows and is padded to a multiple of 32 with bytes of no meaning.

use crate::ids::{ProcessId, Sequence};
use serde::{Deserialize, Serialize};

/// Bytes in a record header, and the alignment of records.
pub const RECORD_HEADER_BYTES: usize = 32;

/// One of the two captured streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Stream {
    /// Descriptor 1.
    Stdout = 1,
    /// Descriptor 2.
    Stderr = 2,
}

impl Stream {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// From its number in a record header.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }

    /// `stdout` or `stderr`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What stands before the bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of data.
    pub length: u32,
    /// Which stream they came from.
    pub stream: Stream,
    /// Number within the process.
    pub sequence: Sequence,
    /// When the kernel read them, nanoseconds since 1970.
    pub time_ns: u64,
    /// How many bytes of the same stream came before.
    pub stream_offset: u64,
}

impl RecordHeader {
    /// Header, data and padding of a record with `length` bytes of data.
    #[must_use]
    pub const fn padded_bytes(length: u32) -> usize {
        // u32 to usize widens on every Linux that Rust's std runs on.
        let with_header = (length as usize).saturating_add(RECORD_HEADER_BYTES);
        with_header.next_multiple_of(RECORD_HEADER_BYTES)
    }

    /// What this record takes from the credit of a follower.
    #[must_use]
    pub const fn credit_bytes(&self) -> u64 {
        Self::padded_bytes(self.length) as u64
    }

    /// The header's bytes, check included.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let fields: [&[u8]; 7] = [
            &self.length.to_le_bytes(),
            &[self.stream as u8],
            &[0],
            &self.check().to_le_bytes(),
            &self.sequence.0.to_le_bytes(),
            &self.time_ns.to_le_bytes(),
            &self.stream_offset.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Reads a header; `None` when it is none (unknown stream, or the check is wrong).
    #[must_use]
    pub fn parse(bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<Self> {
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(bytes.get(from..from.checked_add(8)?)?);
            Some(u64::from_le_bytes(word))
        };
        let first = word(0)?.to_le_bytes();
        let [l0, l1, l2, l3, stream, _, c0, c1] = first;
        let header = Self {
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            stream: Stream::from_number(stream)?,
            sequence: Sequence(word(8)?),
            time_ns: word(16)?,
            stream_offset: word(24)?,
        };
        (header.check() == u16::from_le_bytes([c0, c1])).then_some(header)
    }

    /// Multiplies and folds (the constant is the 64-bit golden ratio): cheap, and enough to tell a
    /// header from data, which is all it is for.
    #[must_use]
    fn check(&self) -> u16 {
        let mut mixed = u64::from(self.length) | (self.stream as u64) << 32;
        for word in [self.sequence.0, self.time_ns, self.stream_offset] {
            mixed = (mixed ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        let [a, b, c, d, e, f, g, h] = mixed.to_le_bytes();
        u16::from_le_bytes([a ^ c ^ e ^ g, b ^ d ^ f ^ h])
    }
}

/// One record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What stands before the data.
    pub header: RecordHeader,
    /// The bytes the child wrote.
    pub data: &'a [u8],
}

/// The body of an output frame ([`crate::event::OUTPUT_KIND`]): a process id (u64), then records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputFrame<'a> {
    /// Whose output.
    pub process: ProcessId,
    records: &'a [u8],
}

impl<'a> OutputFrame<'a> {
    /// Bytes before the first record.
    pub const PREFIX_BYTES: usize = 8;

    /// Takes the body apart; `None` if it is too short to name a process.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (process, records) = body.split_first_chunk::<8>()?;
        Some(Self {
            process: ProcessId(u64::from_le_bytes(*process)),
            records,
        })
    }

    /// The records in order. Ends early at bytes that are no record.
    pub fn records(&self) -> Records<'a> {
        Records { rest: self.records }
    }

    /// Bytes of records (headers, data and padding), which is what credit counts.
    #[must_use]
    pub fn credit_bytes(&self) -> usize {
        self.records.len()
    }
}

/// Iterates over the records in a block of bytes.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Over records that stand one behind the other.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been taken apart yet; empty after the last record of a sound block.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;
    fn next(&mut self) -> Option<Record<'a>> {
        let (head, tail) = self.rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let header = RecordHeader::parse(head)?;
        let data = tail.get(..usize::try_from(header.length).ok()?)?;
        self.rest = self.rest.get(RecordHeader::padded_bytes(header.length)..)?;
        Some(Record { header, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_survive_and_broken_headers_do_not(
            length in 0_u32..200, seq: u64, time_ns: u64, stream_offset: u64, bad in 0_usize..32,
        ) {
            let header = RecordHeader {
                length, stream: Stream::Stderr, sequence: Sequence(seq), time_ns, stream_offset,
            };
            let bytes = header.to_bytes();
            prop_assert_eq!(RecordHeader::parse(&bytes), Some(header));
            let mut block = bytes.to_vec();
            block.resize(RecordHeader::padded_bytes(length), 7);
            let mut records = Records::new(&block);
            prop_assert_eq!(records.next().map(|r| r.data.len()), Some(length as usize));
            prop_assert!(records.next().is_none() && records.rest().is_empty());
            let mut broken = bytes;
            broken[bad] ^= 0x41;
            // The flags byte is not part of the check.
            prop_assert!(bad == 5 || RecordHeader::parse(&broken) != Some(header));
        }

        #[test]
        fn garbage_is_no_record_and_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(frame) = OutputFrame::parse(&bytes) {
                prop_assert!(frame.records().count() <= bytes.len());
            }
        }
    }
}

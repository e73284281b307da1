//! What has been read of one source and is not yet known to be in its file.
//!
//! Loss is derived, never counted: bytes are missing where the next record's stream offset is
//! beyond the end of what is here. Must not know where the bytes are going.

use super::position::{Joint, Position};
use kingpole_protocol::Sequence;
use std::collections::VecDeque;
use std::sync::Arc;

/// One record of one stream. The bytes stay in the block that brought them.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The record's number.
    pub sequence: Sequence,
    /// When the kernel read it, nanoseconds since 1970.
    pub time_ns: u64,
    /// Offset of the first byte within the stream.
    pub at: u64,
    block: Arc<Vec<u8>>,
    from: usize,
    length: usize,
}

impl Chunk {
    /// A record whose data is `length` bytes of `block` from `from` on; clipped to the block.
    #[must_use]
    pub fn new(
        sequence: Sequence,
        time_ns: u64,
        at: u64,
        block: Arc<Vec<u8>>,
        from: usize,
        length: usize,
    ) -> Self {
        let from = from.min(block.len());
        let length = length.min(block.len() - from);
        Self {
            sequence,
            time_ns,
            at,
            block,
            from,
            length,
        }
    }

    /// The bytes that the child wrote.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.block[self.from..self.from + self.length]
    }

    /// Offset of the first byte behind this record within the stream.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at + self.length as u64
    }

    /// Leaves out bytes at the front.
    fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.length);
        self.from += bytes;
        self.length -= bytes;
        self.at += bytes as u64;
    }

    /// The place `offset` bytes into this record.
    #[must_use]
    pub fn place(&self, offset: usize, joint: Joint) -> Position {
        let at = self.at + offset as u64;
        if offset >= self.length {
            Position {
                sequence: self.sequence.next(),
                offset: 0,
                at,
                joint,
            }
        } else {
            // Records are at most 64 KiB, so the offset fits.
            Position {
                sequence: self.sequence,
                offset: offset as u32,
                at,
                joint,
            }
        }
    }
}

/// Bytes of a source that the kernel had to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// First record number that is missing.
    pub from: Sequence,
    /// First record number that is not.
    pub to: Sequence,
    /// Stream offset of the first byte missing.
    pub from_at: u64,
    /// Stream offset of the first byte not missing.
    pub to_at: u64,
}

impl Gap {
    /// The place behind it.
    #[must_use]
    pub fn behind(&self) -> Position {
        Position {
            sequence: self.to,
            offset: 0,
            at: self.to_at,
            joint: Joint::Fresh,
        }
    }
}

/// Records without a hole between them, and the hole before them.
#[derive(Debug, Default)]
pub struct Segment {
    /// What is missing before the first chunk, if anything is.
    pub gap: Option<Gap>,
    /// Records in order.
    pub chunks: VecDeque<Chunk>,
}

/// Everything held of one source. The first segment is the one that is being written.
#[derive(Debug)]
pub struct Feed {
    position: Position,
    segments: VecDeque<Segment>,
    end: u64,
    bytes: u64,
    ended: bool,
}

impl Feed {
    /// Nothing held, everything before `position` handled.
    #[must_use]
    pub fn new(position: Position) -> Self {
        let segments = VecDeque::from([Segment::default()]);
        Self {
            position,
            segments,
            end: position.at,
            bytes: 0,
            ended: false,
        }
    }

    /// Everything before it is in its file, or announced as lost.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stream offset behind everything that is here or known to be lost.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether the stream can bring no more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing is held and nothing is to be announced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.len() == 1 && self.first().gap.is_none() && self.first().chunks.is_empty()
    }

    /// What is written next: a gap, then records up to the next gap.
    #[must_use]
    pub fn first(&self) -> &Segment {
        // There is always one: `new` makes it and `advance_to` leaves the last.
        &self.segments[0]
    }

    /// Whether a gap follows the first segment, so that its last line can never be completed.
    #[must_use]
    pub fn is_closed_by_gap(&self) -> bool {
        self.segments.len() > 1
    }

    /// Where the next unit begins: behind the gap, if one comes first.
    #[must_use]
    pub fn start(&self) -> Position {
        self.first().gap.map_or(self.position, |gap| gap.behind())
    }

    /// The lowest record that must be kept for this source, if anything is held.
    #[must_use]
    pub fn first_held(&self) -> Option<Sequence> {
        match (self.first().gap, self.first().chunks.front()) {
            (Some(gap), _) => Some(gap.from),
            (None, Some(chunk)) => Some(chunk.sequence),
            (None, None) => self
                .segments
                .get(1)
                .and_then(|segment| segment.gap)
                .map(|gap| gap.from),
        }
    }

    /// Takes a record; bytes that are held already are left out.
    pub fn push(&mut self, mut chunk: Chunk) {
        if chunk.at > self.end {
            self.lose(chunk.sequence, chunk.at);
        }
        if chunk.end() <= self.end || chunk.end() <= self.position.at {
            return;
        }
        if let Some(segment) = self.segments.back_mut() {
            if !segment.chunks.is_empty() && chunk.at < self.end {
                chunk.skip((self.end - chunk.at) as usize);
            }
            self.end = chunk.end();
            self.bytes += chunk.length as u64;
            segment.chunks.push_back(chunk);
        }
    }

    /// The stream goes on with record `to` at stream offset `to_at`: what is missing until there is
    /// lost.
    pub fn lose(&mut self, to: Sequence, to_at: u64) {
        if to_at <= self.end {
            return;
        }
        let end = std::mem::replace(&mut self.end, to_at);
        let Some(last) = self.segments.back_mut() else {
            return;
        };
        match (&mut last.gap, last.chunks.back()) {
            (Some(gap), None) => {
                gap.to = to;
                gap.to_at = to_at;
            }
            (None, None) => {
                let gap = Gap {
                    from: self.position.sequence,
                    to,
                    from_at: end,
                    to_at,
                };
                last.gap = Some(gap);
            }
            (_, Some(chunk)) => {
                let gap = Gap {
                    from: chunk.sequence.next(),
                    to,
                    from_at: end,
                    to_at,
                };
                self.segments.push_back(Segment {
                    gap: Some(gap),
                    chunks: VecDeque::new(),
                });
            }
        }
    }

    /// The stream has ended after `bytes` bytes in all.
    pub fn finish(&mut self, next: Sequence, bytes: u64) {
        self.lose(next, bytes);
        self.ended = true;
    }

    /// Everything before `position` has been handled; a gap is clipped to what is behind it.
    pub fn advance_to(&mut self, position: Position) {
        self.position = position;
        self.end = self.end.max(position.at);
        loop {
            let more = self.segments.len() > 1;
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            if let Some(gap) = &mut segment.gap {
                if gap.to_at <= position.at {
                    segment.gap = None;
                } else {
                    gap.from_at = gap.from_at.max(position.at);
                    gap.from = gap.from.max(position.sequence).min(gap.to);
                    break;
                }
            }
            while let Some(chunk) = segment.chunks.front().filter(|c| c.end() <= position.at) {
                self.bytes = self.bytes.saturating_sub(chunk.length as u64);
                segment.chunks.pop_front();
            }
            if !segment.chunks.is_empty() || !more {
                break;
            }
            self.segments.pop_front();
        }
    }

    /// The records from `from` to `to`, if every byte between is held without a hole.
    #[must_use]
    pub fn holds(&self, from: Position, to: Position) -> bool {
        if from.at >= to.at {
            return true;
        }
        let chunks = &self.first().chunks;
        chunks.front().is_some_and(|first| first.at <= from.at)
            && chunks.back().is_some_and(|last| last.end() >= to.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(sequence: u64, at: u64, text: &str) -> Chunk {
        let block = Arc::new(text.as_bytes().to_vec());
        Chunk::new(Sequence(sequence), 0, at, block, 0, text.len())
    }

    #[test]
    fn a_hole_in_the_offsets_is_a_gap_even_if_nobody_announced_it() {
        let mut feed = Feed::new(Position::START);
        feed.push(chunk(1, 0, "ab"));
        feed.push(chunk(7, 10, "cd"));
        assert!(feed.is_closed_by_gap());
        feed.advance_to(feed.first().chunks[0].place(2, Joint::Fresh));
        let gap = feed.first().gap.expect("the hole comes first now");
        assert_eq!(
            (gap.from_at, gap.to_at, gap.from, gap.to),
            (2, 10, Sequence(2), Sequence(7))
        );
        feed.advance_to(gap.behind());
        assert_eq!(feed.first().gap, None);
        assert_eq!(feed.first().chunks.len(), 1);
    }

    #[test]
    fn a_gap_that_has_grown_is_clipped_to_what_was_written() {
        let mut feed = Feed::new(Position::START);
        feed.lose(Sequence(9), 90);
        feed.advance_to(Position {
            sequence: Sequence(4),
            at: 40,
            ..Position::START
        });
        let gap = feed.first().gap.expect("half of it is left");
        assert_eq!((gap.from_at, gap.to_at), (40, 90));
        feed.advance_to(Position {
            sequence: Sequence(12),
            at: 120,
            ..Position::START
        });
        assert!(feed.is_empty());
    }

    #[test]
    fn records_that_come_twice_are_held_once() {
        let mut feed = Feed::new(Position::START);
        feed.push(chunk(1, 0, "abcd"));
        feed.push(chunk(1, 0, "abcd"));
        assert_eq!(feed.bytes(), 4);
        assert_eq!(feed.first().chunks.len(), 1);
    }
}

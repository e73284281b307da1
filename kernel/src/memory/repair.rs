//! What a damaged control block can be replaced by, so that its child is kept and goes on.
//!
//! Only a kernel that went wild damages one (a kill cannot). The copy that is not selected is one
//! publication behind; the records in the ring tell the rest. Numbers and offsets must not be given
//! out twice, whatever is lost.

use super::cursor::{EofBits, RECORD_HEADER_BYTES, RingCursor, Stream};
use super::ring::Ring;
use super::slot::Slot;

impl Slot<'_> {
    /// Where the ring stands as far as that can be made out. `ended` are streams without a pipe.
    ///
    /// What is unread is given up if its place is not certain; that shows as a gap.
    #[must_use]
    pub fn reconstructed_cursor(self, ring: Option<&Ring>, ended: EofBits) -> RingCursor {
        let mut cursor = match self.unselected_cursor() {
            Some(cursor) => follow_appends(cursor, ring),
            None => scan(ring),
        };
        for stream in Stream::ALL {
            if ended.has(stream) {
                cursor = cursor.after_eof(stream);
            }
        }
        cursor
    }
}

/// Records that were appended after `cursor` was published.
fn follow_appends(mut cursor: RingCursor, ring: Option<&Ring>) -> RingCursor {
    let Some(ring) = ring else { return cursor };
    while let Some(header) = ring.header_at(cursor.head)
        && header.sequence == cursor.next_seq
        && header.stream_offset == cursor.stream_bytes(header.stream)
    {
        cursor = cursor.after_append(&header);
    }
    if cursor.is_sound(ring.size().bytes()) {
        cursor
    } else {
        cursor.after_damage(ring.size().bytes())
    }
}

/// Behind everything that any record in the ring tells of.
fn scan(ring: Option<&Ring>) -> RingCursor {
    let mut cursor = RingCursor::new(EofBits::NONE);
    let Some(ring) = ring else { return cursor };
    let size = ring.size().bytes();
    let mut position = 0;
    while position < size {
        if let Some(header) = ring.header_at(position) {
            cursor.next_seq = cursor.next_seq.max(header.sequence.next());
            let behind = header
                .stream_offset
                .saturating_add(u64::from(header.length));
            match header.stream {
                Stream::Stdout => cursor.stdout_bytes = cursor.stdout_bytes.max(behind),
                Stream::Stderr => cursor.stderr_bytes = cursor.stderr_bytes.max(behind),
            }
        }
        position = position.saturating_add(RECORD_HEADER_BYTES);
    }
    cursor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::cursor::Sequence;
    use crate::memory::slot::Intent;
    use crate::memory::{RingSize, StateMemory};

    /// A ring with records of `lengths`, all of standard output, and the cursors in between.
    fn written(ring: &mut Ring, lengths: &[u32]) -> Vec<RingCursor> {
        let mut cursors = vec![RingCursor::new(EofBits::NONE)];
        for length in lengths {
            let cursor = cursors[cursors.len() - 1];
            let header = cursor.next_header(Stream::Stdout, *length, 7);
            ring.write_header(cursor.head, &header).unwrap();
            cursors.push(cursor.after_append(&header));
        }
        cursors
    }

    fn begun(memory: &mut StateMemory) -> Slot<'_> {
        let index = memory.allocate().unwrap();
        let intent = Intent {
            id: memory.take_id(),
            epoch: memory.epoch(),
            key_hash: 0,
            flags: 0,
            time_ns: 1,
            eof: EofBits::NONE,
        };
        memory.slot(index).begin(&intent);
        memory.slot(index)
    }

    #[test]
    fn the_other_copy_and_the_records_behind_it_give_the_damaged_one_back() {
        let mut memory = StateMemory::create().unwrap();
        let mut ring = Ring::create(RingSize::holding(64 << 10).unwrap()).unwrap();
        let cursors = written(&mut ring, &[10, 200, 31]);
        let slot = begun(&mut memory);
        for cursor in &cursors[1..] {
            slot.publish(cursor);
        }
        assert_eq!(slot.cursor(), Ok(cursors[3]));
        slot.damage_selected();
        assert!(slot.cursor().is_err());
        assert_eq!(
            slot.reconstructed_cursor(Some(&ring), EofBits::NONE),
            cursors[3]
        );
    }

    #[test]
    fn without_either_copy_numbers_go_on_behind_every_record_there_is() {
        let mut memory = StateMemory::create().unwrap();
        let mut ring = Ring::create(RingSize::holding(64 << 10).unwrap()).unwrap();
        let cursors = written(&mut ring, &[10, 200, 31]);
        let slot = begun(&mut memory);
        slot.publish(&cursors[3]);
        slot.damage_selected();
        slot.damage_unselected();
        let ended = EofBits::NONE.with(Stream::Stderr);
        let found = slot.reconstructed_cursor(Some(&ring), ended);
        assert_eq!(found.next_seq, Sequence(4));
        assert_eq!(found.stdout_bytes, 241);
        assert!(found.is_empty() && found.eof == ended);
        let empty = slot.reconstructed_cursor(None, ended);
        assert_eq!(empty.next_seq, Sequence(1));
    }
}

//! The ring against a list of records, through a real pipe and a real memory file.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use proptest::prelude::*;

use super::*;
use crate::memory::cursor::EofBits;

/// A ring that is filled without the read cell.
struct Filled {
    ring: Ring,
    cursor: RingCursor,
    all: Vec<(Stream, Vec<u8>)>,
}

impl Filled {
    fn new(bytes: u64) -> Self {
        let ring = Ring::create(RingSize::holding(bytes).unwrap()).unwrap();
        Self {
            ring,
            cursor: RingCursor::new(EofBits::NONE),
            all: Vec::new(),
        }
    }

    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        std::fs::File::from(write_end).write_all(bytes).unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        self.cursor = self
            .ring
            .make_room(&self.cursor, record_span(length))
            .unwrap();
        let data = self.cursor.head + RECORD_HEADER_BYTES;
        let read = self
            .ring
            .read_from(read_end.as_fd(), data, bytes.len() as u64)
            .unwrap();
        assert_eq!(read, bytes.len() as u64);
        let header = self.cursor.next_header(stream, length, 77);
        self.ring.write_header(self.cursor.head, &header).unwrap();
        self.cursor = self.cursor.after_append(&header);
        self.all.push((stream, bytes.to_vec()));
    }

    fn read_all(&self, mark: &ReadMark) -> Vec<(u64, Stream, Vec<u8>)> {
        let records = self.ring.records(&self.cursor, mark).map(Result::unwrap);
        records
            .map(|record| {
                (
                    record.header.sequence.0,
                    record.header.stream,
                    record.data.concat(),
                )
            })
            .collect()
    }

    fn expected(&self, from: u64) -> Vec<(u64, Stream, Vec<u8>)> {
        (1..)
            .zip(&self.all)
            .filter(|(seq, _)| *seq >= from)
            .map(|(s, (t, b))| (s, *t, b.clone()))
            .collect()
    }

    /// Total bytes of `stream` before record `seq`.
    fn offset(&self, stream: Stream, seq: u64) -> u64 {
        let before = (1..seq).zip(&self.all);
        before
            .filter(|(_, (of, _))| *of == stream)
            .map(|(_, (_, bytes))| bytes.len() as u64)
            .sum()
    }
}

fn records() -> impl Strategy<Value = Vec<(bool, usize, u8)>> {
    proptest::collection::vec((any::<bool>(), 1_usize..900, any::<u8>()), 1..60)
}

proptest! {
    #[test]
    fn what_is_kept_is_exact_and_what_is_not_is_a_gap(records in records(), from in 0_u64..70) {
        let mut filled = Filled::new(4096);
        for (is_stderr, len, byte) in records {
            let stream = if is_stderr { Stream::Stderr } else { Stream::Stdout };
            filled.push(stream, &vec![byte; len]);
        }
        let mark = ReadMark::from_seq(Sequence(from));
        let (start, gap) = filled.ring.seek(&filled.cursor, &mark).unwrap();
        prop_assert_eq!(filled.read_all(&mark), filled.expected(start.seq.0));
        prop_assert_eq!(filled.read_all(&start), filled.expected(start.seq.0));
        match gap {
            None => prop_assert!(from == 0 || start.seq.0 == from.min(filled.cursor.next_seq.0)),
            Some(gap) => {
                prop_assert_eq!((gap.from.0, gap.to), (from, start.seq));
                prop_assert!(gap.from < gap.to);
                prop_assert_eq!(gap.stdout_offset, filled.offset(Stream::Stdout, gap.to.0));
                prop_assert_eq!(gap.stderr_offset, filled.offset(Stream::Stderr, gap.to.0));
            }
        }
    }

    #[test]
    fn payload_is_counted_exactly(records in records(), acknowledged in 0_u64..70) {
        let mut filled = Filled::new(4096);
        for (is_stderr, len, byte) in records {
            let stream = if is_stderr { Stream::Stderr } else { Stream::Stdout };
            filled.push(stream, &vec![byte; len]);
        }
        filled.cursor = filled.ring.acknowledge(&filled.cursor, Sequence(acknowledged)).unwrap();
        let kept = filled.read_all(&ReadMark::default());
        let bytes: usize = kept.iter().map(|(_, _, bytes)| bytes.len()).sum();
        prop_assert_eq!(filled.ring.payload_bytes(&filled.cursor), Ok(bytes as u64));
    }

    #[test]
    fn any_damage_is_noticed_or_harmless(at in 0_usize..4096, bit in 0_u8..8) {
        let mut filled = Filled::new(4096);
        for byte in 0..40 {
            filled.push(Stream::Stdout, &[byte; 100]);
        }
        filled.ring.mapping_mut().unwrap().bytes_mut(at, 1).unwrap()[0] ^= 1 << bit;
        // Headers are checked; payload is the child's own affair.
        for record in filled.ring.records(&filled.cursor, &ReadMark::default()) {
            match record {
                Ok(record) => prop_assert_eq!(record.data.concat().len(), 100),
                Err(damaged) => prop_assert!(damaged.position >= filled.cursor.tail),
            }
        }
    }
}

#[test]
fn a_stale_position_hint_only_costs_a_search() {
    let mut filled = Filled::new(4096);
    for byte in 0..30 {
        filled.push(Stream::Stdout, &[byte; 64]);
    }
    for position in [0, 1, 32, 96, filled.cursor.head, u64::MAX] {
        let mark = ReadMark {
            seq: Sequence(20),
            position,
        };
        assert_eq!(filled.read_all(&mark), filled.expected(20));
    }
}

#[test]
fn everything_dropped_is_a_gap_up_to_the_head() {
    let mut filled = Filled::new(4096);
    filled.push(Stream::Stdout, b"four");
    filled.push(Stream::Stderr, b"seven!!");
    filled.cursor = filled.ring.make_room(&filled.cursor, 4096).unwrap();
    let (start, gap) = filled
        .ring
        .seek(&filled.cursor, &ReadMark::from_seq(Sequence(1)))
        .unwrap();
    let all = Gap {
        from: Sequence(1),
        to: Sequence(3),
        stdout_offset: 4,
        stderr_offset: 7,
    };
    assert_eq!(gap, Some(all));
    assert_eq!(
        filled.ring.seek(&filled.cursor, &start).unwrap(),
        (start, None)
    );
}

#[test]
fn a_ring_opened_again_shows_the_same_records() {
    let mut filled = Filled::new(8192);
    for byte in 0..90 {
        filled.push(Stream::Stderr, &[byte; 333]);
    }
    let copy = filled.ring.descriptor().try_clone_to_owned().unwrap();
    let ring = Ring::open(copy).unwrap();
    assert_eq!(ring.size(), filled.ring.size());
    let records = ring.records(&filled.cursor, &ReadMark::default());
    let data = records
        .map(|record| record.unwrap().data.concat())
        .collect::<Vec<_>>();
    let first = filled.all.len() - data.len();
    assert!(
        data.iter()
            .eq(filled.all[first..].iter().map(|(_, bytes)| bytes))
    );
}

#[test]
fn memory_is_given_back_only_when_it_is_worth_it_and_nothing_is_lost_by_it() {
    let mut filled = Filled::new(256 * 1024);
    let blocks = |ring: &Ring| nix::sys::stat::fstat(ring.descriptor()).unwrap().st_blocks;
    assert_eq!(blocks(&filled.ring), 0, "untouched rings cost nothing");
    filled.push(Stream::Stdout, &[1; 10_000]);
    let seq = Sequence(1);
    filled.cursor = filled.ring.acknowledge(&filled.cursor, seq).unwrap();
    assert_eq!(
        filled.ring.give_back(&filled.cursor).unwrap(),
        GiveBack::NotWorthIt
    );

    for _ in 0..10 {
        filled.push(Stream::Stdout, &[2; 10_000]);
    }
    assert_eq!(
        filled.ring.give_back(&filled.cursor).unwrap(),
        GiveBack::NotWorthIt,
        "unread"
    );
    filled.cursor = filled
        .ring
        .acknowledge(&filled.cursor, Sequence(11))
        .unwrap();
    assert!(matches!(
        filled.ring.give_back(&filled.cursor).unwrap(),
        GiveBack::Given(_)
    ));
    assert_eq!(blocks(&filled.ring), 0);
    filled.push(Stream::Stdout, b"again");
    assert_eq!(filled.read_all(&ReadMark::default())[0].2, b"again");
}

#[test]
fn files_that_are_not_rings_are_refused() {
    let odd = create_sealed("odd", 4096 + 100).unwrap();
    assert!(matches!(Ring::open(odd), Err(MemoryError::Unusable { .. })));
    let empty = create_sealed("empty", 4096).unwrap();
    assert!(matches!(
        Ring::open(empty),
        Err(MemoryError::Unusable { .. })
    ));
    let plain = tempfile::tempfile().unwrap();
    assert!(matches!(
        Ring::open(plain.into()),
        Err(MemoryError::Call { .. })
    ));
}

fn said_oldest(file: &std::fs::File, ring: &Ring) -> Option<u64> {
    let mut words = [0; 16];
    file.read_exact_at(&mut words, ring.size().bytes()).unwrap();
    kingpole_protocol::ring::parse_oldest(&words)
}

#[test]
fn who_reads_in_place_is_told_what_is_overwritten_and_can_only_read() {
    let mut filled = Filled::new(8192);
    filled.push(Stream::Stdout, &[1; 3000]);
    let blocks = |ring: &Ring| nix::sys::stat::fstat(ring.descriptor()).unwrap().st_blocks;
    let before = blocks(&filled.ring);
    filled.ring.tell_readers(&filled.cursor);
    assert_eq!(blocks(&filled.ring), before, "nobody reads: no page for it");

    let (file, number) = filled.ring.share(&filled.cursor).unwrap();
    let file = std::fs::File::from(file);
    let found = nix::sys::stat::fstat(&file).unwrap();
    assert_eq!(found.st_ino, number);
    assert_eq!(found.st_mode & 0o777, 0o400, "its owner's alone, to read");
    assert_eq!(said_oldest(&file, &filled.ring), Some(0));
    file.write_at(b"x", 0).unwrap_err();
    file.set_len(0).unwrap_err();
    punch_hole(&file, 0, 4096).unwrap_err();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 32).unwrap();
    assert_eq!(byte, [1]);

    filled.cursor = filled.ring.make_room(&filled.cursor, 8192).unwrap();
    filled.ring.tell_readers(&filled.cursor);
    assert_eq!(said_oldest(&file, &filled.ring), Some(filled.cursor.tail));
    filled.ring.close_to_readers();
    assert_eq!(said_oldest(&file, &filled.ring), Some(CLOSED));

    // Whoever takes it over knows that somebody may read.
    let copy = filled.ring.descriptor().try_clone_to_owned().unwrap();
    let ring = Ring::open(copy).unwrap();
    ring.tell_readers(&filled.cursor);
    assert_eq!(said_oldest(&file, &ring), Some(filled.cursor.tail));
}

#[test]
fn a_forgotten_ring_costs_no_memory_although_somebody_keeps_its_file() {
    let mut filled = Filled::new(1 << 20);
    for _ in 0..20 {
        filled.push(Stream::Stdout, &[1; 30_000]);
    }
    let (file, _) = filled.ring.share(&filled.cursor).unwrap();
    let file = std::fs::File::from(file);
    let size = filled.ring.size().bytes();
    assert!(file.metadata().unwrap().blocks() * 512 > 600_000);
    filled.ring.retire();
    assert_eq!(file.metadata().unwrap().blocks() * 512, 4096);
    let mut words = [0; 16];
    file.read_exact_at(&mut words, size).unwrap();
    let said = kingpole_protocol::ring::parse_oldest(&words);
    assert_eq!(said, Some(CLOSED));
}

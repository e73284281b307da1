use super::*;
use crate::record::{RecordHeader, Stream};
use crate::ring::{CLOSED, oldest_words};
use crate::{ProcessId, Sequence};
use proptest::prelude::*;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;

const DATA_BYTES: u64 = 8192;

/// A ring of which a test is the writer.
struct Written {
    writer: File,
    ring: MappedRing,
    /// Our end of the session, and the kernel's.
    session: (UnixStream, UnixStream),
}

fn passed(file: &File) -> RingPassed {
    RingPassed {
        process: ProcessId(1),
        ring: file.metadata().unwrap().ino(),
        data_bytes: DATA_BYTES,
    }
}

impl Written {
    fn new() -> Self {
        let writer = tempfile();
        writer.set_len(DATA_BYTES + CONTROL_BYTES).unwrap();
        let reader = OwnedFd::from(writer.try_clone().unwrap());
        let ring = MappedRing::new(reader, &passed(&writer)).unwrap();
        let session = UnixStream::pair().unwrap();
        let written = Self {
            writer,
            ring,
            session,
        };
        written.set_oldest(oldest_words(0));
        written
    }

    fn set_oldest(&self, words: [u64; 2]) {
        let words = words.map(u64::to_le_bytes).concat();
        self.writer.write_all_at(&words, DATA_BYTES).unwrap();
    }

    /// Puts records with these lengths there, numbered from 5 on.
    fn put(&self, position: u64, lengths: &[u32]) -> (MappedOutput, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut next = Sequence(5);
        for &length in lengths {
            let header = RecordHeader {
                length,
                stream: Stream::Stdout,
                sequence: next,
                time_ns: 7,
                stream_offset: 0,
            };
            bytes.extend_from_slice(&header.to_bytes());
            let end = bytes.len() + RecordHeader::padded_bytes(length) - RECORD_HEADER_BYTES;
            bytes.resize(end, b'x');
            next = next.next();
        }
        for (at, byte) in (position..).zip(&bytes) {
            let at = at % DATA_BYTES;
            self.writer.write_all_at(&[*byte], at).unwrap();
        }
        let output = MappedOutput {
            process: ProcessId(1),
            ring: self.ring.number(),
            position,
            bytes: bytes.len() as u64,
            from: Sequence(5),
            next,
        };
        (output, bytes)
    }

    fn copy(&self, output: &MappedOutput) -> Result<(Copied, Vec<u8>), MappedRingError> {
        let mut into = b"from before".to_vec();
        let copied = self.ring.copy(&self.session.0, output, &mut into)?;
        Ok((copied, into))
    }
}

/// Without a name, in memory.
fn tempfile() -> File {
    let path = std::env::temp_dir().join(format!(
        "kingpole-mapped-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

#[test]
fn records_are_copied_also_where_the_ring_wraps() {
    let written = Written::new();
    for position in [0, 64, DATA_BYTES - 64, 5 * DATA_BYTES - 32] {
        written.set_oldest(oldest_words(position));
        let (output, bytes) = written.put(position, &[100, 1, 600]);
        let copied = written.copy(&output).unwrap();
        assert_eq!(copied, (Copied::Whole, bytes), "at {position}");
    }
}

#[test]
fn what_was_overtaken_or_closed_is_not_given_away() {
    let written = Written::new();
    let (output, bytes) = written.put(64, &[100]);
    written.set_oldest(oldest_words(64));
    assert_eq!(written.copy(&output).unwrap(), (Copied::Whole, bytes));
    for oldest in [oldest_words(96), oldest_words(CLOSED), [96, 96]] {
        written.set_oldest(oldest);
        let copied = written.copy(&output).unwrap();
        assert_eq!(copied, (Copied::Overtaken, Vec::new()), "{oldest:?}");
    }
}

#[test]
fn what_was_announced_counts_as_long_as_the_session_lives() {
    let written = Written::new();
    let (output, bytes) = written.put(0, &[100]);
    let (_, kernel) = &written.session;
    (&*kernel).write_all(b"something unread").unwrap();
    assert_eq!(written.copy(&output).unwrap(), (Copied::Whole, bytes));
    kernel.shutdown(std::net::Shutdown::Both).unwrap();
    let error = written.copy(&output).unwrap_err();
    assert!(matches!(error, MappedRingError::SessionOver), "{error}");
}

#[test]
fn another_file_is_no_ring() {
    let file = tempfile();
    file.set_len(DATA_BYTES + CONTROL_BYTES).unwrap();
    let good = passed(&file);
    let open = |passed: &RingPassed| MappedRing::new(file.try_clone().unwrap().into(), passed);
    assert!(open(&good).is_ok());
    for bad in [
        RingPassed {
            ring: good.ring + 1,
            ..good
        },
        RingPassed {
            data_bytes: DATA_BYTES * 2,
            ..good
        },
        RingPassed {
            data_bytes: u64::MAX,
            ..good
        },
        RingPassed {
            data_bytes: 0,
            ..good
        },
    ] {
        assert!(matches!(open(&bad), Err(MappedRingError::NotARing)));
    }
}

#[test]
fn a_descriptor_of_a_ring_keeps_its_own_offset_out_of_it() {
    let written = Written::new();
    let (output, _) = written.put(0, &[100]);
    written.copy(&output).unwrap();
    assert_eq!((&written.writer).stream_position().unwrap(), 0);
    let mut byte = [0];
    assert_eq!((&written.writer).read(&mut byte).unwrap(), 1);
}

proptest! {
    #[test]
    fn no_announcement_makes_us_read_outside_or_reserve_much(
        position: u64, bytes: u64, from: u64, next: u64, other: bool,
    ) {
        let written = Written::new();
        let output = MappedOutput {
            process: ProcessId(1),
            ring: written.ring.number() ^ u64::from(other),
            position, bytes, from: Sequence(from), next: Sequence(next),
        };
        let mut into = Vec::new();
        let copied = written.ring.copy(&written.session.0, &output, &mut into);
        prop_assert!(!matches!(copied, Ok(Copied::Whole)));
        prop_assert!(into.capacity() as u64 <= DATA_BYTES);
    }

    #[test]
    fn other_records_than_those_announced_are_refused(
        lengths in proptest::collection::vec(1_u32..300, 1..8), shift in 0_u64..3, cut in 0_u64..2,
    ) {
        let written = Written::new();
        let (output, bytes) = written.put(0, &lengths);
        prop_assert_eq!(written.copy(&output).unwrap(), (Copied::Whole, bytes));
        let wrong = MappedOutput {
            from: Sequence(output.from.0 + shift),
            next: Sequence(output.next.0 + cut),
            ..output
        };
        if shift + cut > 0 {
            prop_assert!(matches!(written.copy(&wrong), Err(MappedRingError::Damaged(_))));
        }
    }
}

//! Against a ring that a test writes, and a kernel that says what a test wants said.

use super::*;
use kingpole_protocol::event::{Gap, RingPassed, StreamEnded};
use kingpole_protocol::record::Stream;
use kingpole_protocol::ring::{CONTROL_BYTES, oldest_words};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

const DATA_BYTES: u64 = 256 << 10;
const P: ProcessId = ProcessId(7);

struct World {
    in_place: InPlace,
    socket: UnixStream,
    kernel: UnixStream,
    descriptors: Descriptors,
    notices: VecDeque<Notice>,
    ring: File,
}

/// Records from number `first` on, one for each text, at `at` of the stream.
fn records(first: u64, mut at: u64, texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, text) in (first..).zip(texts) {
        let header = RecordHeader {
            length: text.len() as u32,
            stream: Stream::Stdout,
            sequence: Sequence(number),
            time_ns: number,
            stream_offset: at,
        };
        let end = bytes.len() + RecordHeader::padded_bytes(header.length);
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(text);
        bytes.resize(end, 0);
        at += text.len() as u64;
    }
    bytes
}

impl World {
    fn new() -> Self {
        let (socket, kernel) = UnixStream::pair().unwrap();
        let ring = tempfile::tempfile().unwrap();
        ring.set_len(DATA_BYTES + CONTROL_BYTES).unwrap();
        let world = Self {
            in_place: InPlace::agreed(WANTED),
            socket,
            kernel,
            descriptors: Descriptors::new(),
            notices: VecDeque::new(),
            ring,
        };
        world.set_oldest(0);
        world
    }

    fn set_oldest(&self, position: u64) {
        let words = oldest_words(position).map(u64::to_le_bytes).concat();
        self.ring.write_all_at(&words, DATA_BYTES).unwrap();
    }

    fn number(&self) -> u64 {
        self.ring.metadata().unwrap().ino()
    }

    fn hear(&mut self, event: impl Into<Event>) -> Result<(), MappedRingError> {
        self.in_place.handle(
            &self.socket,
            &mut self.descriptors,
            Incoming::Event(event.into()),
            &mut self.notices,
        )
    }

    fn pass_ring(&mut self) {
        let copy = self.ring.try_clone().unwrap();
        self.descriptors.push_back(copy.into());
        let passed = RingPassed {
            process: P,
            ring: self.number(),
            data_bytes: DATA_BYTES,
        };
        self.hear(passed).unwrap();
    }

    fn announce(&mut self, position: u64, bytes: &[u8], from: u64, next: u64) -> MappedOutput {
        self.ring
            .write_all_at(bytes, position % DATA_BYTES)
            .unwrap();
        MappedOutput {
            process: P,
            ring: self.number(),
            position,
            bytes: bytes.len() as u64,
            from: Sequence(from),
            next: Sequence(next),
        }
    }

    fn send(&mut self, records: &[u8]) {
        let body = [&P.0.to_le_bytes()[..], records].concat();
        let output = OutputFrame::parse(&body).unwrap();
        let Self {
            in_place,
            socket,
            descriptors,
            notices,
            ..
        } = self;
        let incoming = Incoming::Output(output);
        in_place
            .handle(socket, descriptors, incoming, notices)
            .unwrap();
    }

    fn outputs(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut outputs = Vec::new();
        for notice in self.notices.drain(..) {
            let Notice::Output(P, records, _) = notice else {
                panic!("{notice:?}")
            };
            for (stream, chunk) in records.iter() {
                assert_eq!(*stream, Stream::Stdout);
                outputs.push((chunk.sequence.0, chunk.data().to_vec()));
            }
        }
        outputs
    }
}

#[test]
fn records_read_in_place_are_the_same_as_those_that_are_sent() {
    let mut world = World::new();
    let bytes = records(1, 0, &[b"one\n", b"two and more\n", b"3"]);
    world.send(&bytes);
    let sent = world.outputs();
    world.pass_ring();
    // A ring is not a multiple of what was written so far.
    world.set_oldest(3 * DATA_BYTES + 64);
    let output = world.announce(3 * DATA_BYTES + 64, &bytes, 1, 4);
    world.hear(output).unwrap();
    let Some(Notice::Output(_, _, credit)) = world.notices.front() else {
        panic!("{:?}", world.notices)
    };
    assert_eq!(*credit, bytes.len() as u64, "credit is counted the same");
    assert_eq!(world.outputs(), sent);
    assert_eq!(world.in_place.next_anew(), None);
}

#[test]
fn what_was_overtaken_is_asked_for_again_and_what_is_said_until_then_is_not_believed() {
    let mut world = World::new();
    world.pass_ring();
    let bytes = records(5, 40, &[b"late"]);
    let output = world.announce(0, &bytes, 5, 6);
    world.set_oldest(32);
    world.hear(output).unwrap();
    let anew = Some((P, Sequence(5), Access::InPlace));
    assert_eq!(world.in_place.next_anew(), anew);
    // From before the kernel heard of it.
    world.send(&records(6, 44, &[b"next"]));
    world.hear(output).unwrap();
    let ended = StreamEnded {
        process: P,
        stream: Stream::Stdout,
        next: Sequence(7),
        bytes: 48,
    };
    world.hear(ended).unwrap();
    let other = StreamEnded {
        process: ProcessId(8),
        ..ended
    };
    world.hear(other).unwrap();
    assert_eq!(world.in_place.next_anew(), anew);
    assert!(matches!(
        world.notices.make_contiguous(),
        [Notice::Event(Event::StreamEnded(end))] if *end == other
    ));
    world.notices.clear();

    let anew = world.in_place.followed(P).unwrap();
    assert_eq!(anew.said, [Event::StreamEnded(ended)]);
    let gap = Gap {
        process: P,
        from: Sequence(5),
        to: Sequence(6),
        stdout_offset: 44,
        stderr_offset: 0,
    };
    world.hear(gap).unwrap();
    world.notices.pop_front().unwrap();
    world.send(&records(6, 44, &[b"next"]));
    assert_eq!(world.outputs(), [(6, b"next".to_vec())]);
}

#[test]
fn a_ring_that_did_not_arrive_or_is_none_is_done_without() {
    for arrives in [false, true] {
        let mut world = World::new();
        if arrives {
            let other = tempfile::tempfile().unwrap();
            world.descriptors.push_back(other.into());
        }
        let passed = RingPassed {
            process: P,
            ring: world.number(),
            data_bytes: DATA_BYTES,
        };
        world.hear(passed).unwrap();
        let bytes = records(1, 0, &[b"x"]);
        let output = world.announce(0, &bytes, 1, 2);
        world.hear(output).unwrap();
        let anew = Some((P, Sequence(1), Access::Sent));
        assert_eq!(world.in_place.next_anew(), anew);
        assert!(world.descriptors.is_empty());
    }
}

#[test]
fn records_that_are_not_what_was_announced_are_asked_for_as_bytes() {
    let mut world = World::new();
    world.pass_ring();
    let bytes = records(1, 0, &[b"x"]);
    let output = world.announce(0, &bytes, 2, 3);
    world.hear(output).unwrap();
    let anew = Some((P, Sequence(2), Access::Sent));
    assert_eq!(world.in_place.next_anew(), anew);
}

#[test]
fn nothing_is_believed_of_a_kernel_that_has_gone() {
    let mut world = World::new();
    world.pass_ring();
    let bytes = records(1, 0, &[b"x"]);
    let output = world.announce(0, &bytes, 1, 2);
    world.kernel.shutdown(std::net::Shutdown::Both).unwrap();
    let error = world.hear(output).unwrap_err();
    assert!(matches!(error, MappedRingError::SessionOver), "{error}");
    assert!(world.notices.is_empty());
}

#[test]
fn a_kernel_that_has_forgotten_is_asked_again_ever_more_rarely() {
    let mut world = World::new();
    let block = vec![b'x'; 32 << 10];
    let mut asked = Vec::new();
    for number in 1..=250 {
        world.send(&records(number, (number - 1) << 15, &[&block]));
        if let Some((P, from, access)) = world.in_place.next_anew() {
            assert_eq!((from, access), (Sequence(number + 1), Access::InPlace));
            asked.push(number);
            world.in_place.followed(P);
        }
    }
    assert_eq!(world.outputs().len(), 250, "and nothing is left out");
    // After one MiB, two and four more.
    assert_eq!(asked, [32, 96, 224]);

    // A kernel that cannot do it is not asked.
    let mut world = World::new();
    world.in_place = InPlace::agreed(capability::DESCRIPTORS);
    for number in 1..=100 {
        world.send(&records(number, (number - 1) << 15, &[&block]));
    }
    assert_eq!(world.in_place.next_anew(), None);
    assert_eq!(world.in_place.access(), Access::Sent);
}

#[test]
fn a_forgotten_process_keeps_no_file_open() {
    let mut world = World::new();
    world.pass_ring();
    assert_eq!(world.in_place.rings.len(), 1);
    world.in_place.forget_all(P);
    assert!(world.in_place.rings.is_empty() && world.in_place.sent.is_empty());
}

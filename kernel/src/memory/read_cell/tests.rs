//! Cut after every store, revive, recover, compare each byte. The kill itself is tested with real
//! processes in `tests/read_cell_kills.rs`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, write};

use super::*;
use crate::memory::cursor::EofBits;
use crate::memory::images::{FileImage, PipeImage, cut_everywhere};
use crate::memory::{Intent, ReadMark, RingSize};

/// One child's worth of everything, without the child.
struct World {
    state: StateMemory,
    bounce: Bounce,
    ring: Ring,
    slot: SlotIndex,
    /// Read and write ends for standard output and standard error.
    pipes: [(OwnedFd, OwnedFd); 2],
    /// What was ever written to each.
    written: [Vec<u8>; 2],
    policy: OverflowPolicy,
}

/// What a successor finds.
struct Image {
    state: FileImage,
    ring: FileImage,
    bounce: PipeImage,
    pipes: [PipeImage; 2],
}

impl World {
    fn new(ring_bytes: u64, policy: OverflowPolicy) -> Self {
        let mut state = StateMemory::create().unwrap();
        let slot = state.allocate().unwrap();
        state.slot(slot).begin(&Intent {
            id: state.take_id(),
            epoch: state.epoch(),
            key_hash: 0,
            flags: 0,
            time_ns: 1,
            eof: EofBits::NONE,
        });
        Self {
            state,
            bounce: Bounce::create().unwrap(),
            ring: Ring::create(RingSize::holding(ring_bytes).unwrap()).unwrap(),
            slot,
            pipes: [
                pipe2(OFlag::O_CLOEXEC).unwrap(),
                pipe2(OFlag::O_CLOEXEC).unwrap(),
            ],
            written: [Vec::new(), Vec::new()],
            policy,
        }
    }

    /// The child writes `len` bytes that nobody can mistake for others.
    fn child_writes(&mut self, stream: Stream, len: usize) {
        let index = number(stream);
        let from = self.written[index].len();
        let bytes = (from..from + len)
            .map(|at| byte_at(stream, at))
            .collect::<Vec<_>>();
        assert_eq!(write(&self.pipes[index].1, &bytes).unwrap(), len);
        self.written[index].extend(bytes);
    }

    fn read(&mut self, stream: Stream) -> Result<ReadOutcome, ReadError> {
        let pipe = self.pipes[number(stream)].0.as_fd();
        let mut reading = Reading {
            state: &self.state,
            bounce: &self.bounce,
            slot: self.slot,
            ring: &mut self.ring,
            policy: self.policy,
        };
        reading.read(pipe, stream, 5)
    }

    fn camera(&self) -> impl FnMut() -> Image + use<> {
        let copy = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
        let state = copy(&self.state.descriptor());
        let ring = copy(&self.ring.descriptor());
        let bounce = copy(&self.bounce.read_end());
        let pipes = [copy(&self.pipes[0].0), copy(&self.pipes[1].0)];
        move || Image {
            state: FileImage::take(&state),
            ring: FileImage::take(&ring),
            bounce: PipeImage::take(&bounce),
            pipes: [PipeImage::take(&pipes[0]), PipeImage::take(&pipes[1])],
        }
    }

    fn revive(&self, image: &Image) -> Self {
        let (bounce_read, bounce_write) = image.bounce.revive(OFlag::O_NONBLOCK);
        Self {
            state: StateMemory::open(image.state.revive()).unwrap(),
            bounce: Bounce::open(bounce_read, bounce_write).unwrap(),
            ring: Ring::open(image.ring.revive()).unwrap(),
            slot: self.slot,
            pipes: [
                image.pipes[0].revive(OFlag::empty()),
                image.pipes[1].revive(OFlag::empty()),
            ],
            written: self.written.clone(),
            policy: self.policy,
        }
    }

    fn recover(&mut self) -> Result<Recovered, ReadError> {
        let ring = &mut self.ring;
        recover_read(&self.state, &self.bounce, 6, |slot| {
            (slot == self.slot).then_some(ring)
        })
    }

    /// Reads what is left in both pipes and compares the streams with what was written. Dropped
    /// records may be missing, but what is there must be at its place, and the totals exact.
    fn verify(&mut self) -> Result<(), String> {
        let fail = |error: ReadError| error.to_string();
        for stream in Stream::ALL {
            while let ReadOutcome::Record(_) = self.read(stream).map_err(fail)? {}
        }
        let cursor = self
            .state
            .slot(self.slot)
            .cursor()
            .map_err(|error| error.to_string())?;
        let written = [self.written[0].len() as u64, self.written[1].len() as u64];
        if [cursor.stdout_bytes, cursor.stderr_bytes] != written {
            return Err(format!("{cursor:?} but {written:?} were written"));
        }
        let mut seq = None;
        for record in self.ring.records(&cursor, &ReadMark::default()) {
            let record = record.map_err(|error| error.to_string())?;
            let data = record.data.concat();
            let from = usize::try_from(record.header.stream_offset).unwrap();
            let wanted = self.written[number(record.header.stream)].get(from..from + data.len());
            if wanted != Some(&data[..]) {
                return Err(format!("wrong bytes in {:?}", record.header));
            }
            if seq.is_some_and(|seq| seq != record.header.sequence) {
                return Err(format!("{:?} does not follow", record.header));
            }
            seq = Some(record.header.sequence.next());
        }
        (seq.is_none_or(|seq| seq == cursor.next_seq))
            .then_some(())
            .ok_or_else(|| "the last record is missing".to_owned())
    }
}

fn number(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

fn byte_at(stream: Stream, at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 + number(stream) as u64 * 2);
    (mixed >> 56) as u8
}

/// Some writes of the sizes that matter: one byte, odd ones, and more than one record holds.
const WRITES: [(Stream, usize); 9] = [
    (Stream::Stdout, 1),
    (Stream::Stderr, 700),
    (Stream::Stdout, 992),
    (Stream::Stdout, 33),
    (Stream::Stderr, 3000),
    (Stream::Stdout, 5),
    (Stream::Stdout, 2500),
    (Stream::Stderr, 64),
    (Stream::Stderr, 4000),
];

/// Cuts every read of the writes at every crash point, and hands each image, revived, to `check`.
fn at_every_cut(ring: u64, policy: OverflowPolicy, mut check: impl FnMut(&'static str, World)) {
    let mut world = World::new(ring, policy);
    for (stream, len) in WRITES {
        world.child_writes(stream, len);
        let camera = world.camera();
        let (images, outcome) = cut_everywhere(camera, || world.read(stream));
        assert!(matches!(outcome.unwrap(), ReadOutcome::Record(_)));
        for (name, image) in images {
            check(name, world.revive(&image));
        }
    }
    world.verify().unwrap();
}

#[test]
fn a_kill_at_any_point_of_a_read_loses_and_doubles_nothing() {
    for ring in [4096, 64 * 1024] {
        let mut names = BTreeSet::new();
        at_every_cut(ring, OverflowPolicy::DropOldest, |name, mut world| {
            names.insert(name);
            // Recovery may be killed anywhere too, and must end the same.
            let camera = world.camera();
            let (again, recovered) = cut_everywhere(camera, || world.recover());
            recovered.unwrap_or_else(|error| panic!("killed at {name:?}: {error}"));
            for (second, image) in again {
                let mut world = world.revive(&image);
                world.recover().unwrap();
                let verdict = world.verify();
                assert_eq!(verdict, Ok(()), "killed at {name:?}, then at {second:?}");
            }
            assert_eq!(
                world.verify(),
                Ok(()),
                "killed at {name:?} with {ring} bytes"
            );
        });
        for point in [
            "read: cell taken",
            "read: spliced",
            "read: length stored",
            "read: part drained",
            "read: drained",
            "read: header written",
            "control: torn copy",
            "read: published",
            "read: cell free",
        ] {
            assert!(names.contains(point), "{point} was never met");
        }
        assert_eq!(names.contains("drop: published"), ring == 4096);
    }
}

#[test]
fn without_recovery_the_same_cuts_show_errors() {
    let mut errors = BTreeSet::new();
    at_every_cut(64 * 1024, OverflowPolicy::DropOldest, |name, mut world| {
        abandon_read(&world.state, &world.bounce).unwrap();
        if world.verify().is_err() {
            errors.insert(name);
        }
    });
    let expected = [
        "read: spliced",
        "read: length stored",
        "read: part drained",
        "read: drained",
        "read: header written",
        "control: torn copy",
    ];
    assert_eq!(
        errors,
        BTreeSet::from(expected),
        "the harness sees what recovery prevents"
    );
}

#[test]
fn a_read_in_flight_blocks_other_reads_until_it_is_recovered() {
    let mut world = World::new(4096, OverflowPolicy::DropOldest);
    world.child_writes(Stream::Stdout, 10);
    let camera = world.camera();
    let (images, _) = cut_everywhere(camera, || world.read(Stream::Stdout));
    let (_, image) = images
        .iter()
        .find(|(name, _)| *name == "read: drained")
        .unwrap();
    let mut world = world.revive(image);
    assert!(matches!(
        world.read(Stream::Stderr),
        Err(ReadError::InFlight { slot: 0 })
    ));
    assert!(matches!(world.recover(), Ok(Recovered::Finished { .. })));
    assert_eq!(world.read(Stream::Stderr).unwrap(), ReadOutcome::Nothing);
    assert_eq!(world.verify(), Ok(()));
}

#[test]
fn an_empty_pipe_is_nothing_and_a_closed_one_is_the_end_once() {
    let mut world = World::new(4096, OverflowPolicy::DropOldest);
    assert_eq!(world.read(Stream::Stdout).unwrap(), ReadOutcome::Nothing);
    world.child_writes(Stream::Stdout, 3);
    let unused = std::fs::File::open("/dev/null").unwrap().into();
    drop(std::mem::replace(&mut world.pipes[0].1, unused));
    assert!(matches!(
        world.read(Stream::Stdout).unwrap(),
        ReadOutcome::Record(_)
    ));
    assert_eq!(world.read(Stream::Stdout).unwrap(), ReadOutcome::EndOfFile);
    let eof = world.state.slot(world.slot).cursor().unwrap().eof;
    assert!(
        eof.has(Stream::Stdout) && !eof.has(Stream::Stderr),
        "the other stream goes on"
    );
    world.child_writes(Stream::Stderr, 4);
    assert!(matches!(
        world.read(Stream::Stderr).unwrap(),
        ReadOutcome::Record(_)
    ));
}

#[test]
fn blocking_reads_until_full_and_goes_on_after_an_acknowledgement() {
    let mut world = World::new(4096, OverflowPolicy::Block);
    world.child_writes(Stream::Stdout, 20_000);
    let mut records = 0;
    while let ReadOutcome::Record(_) = world.read(Stream::Stdout).unwrap() {
        records += 1;
    }
    assert_eq!(world.read(Stream::Stdout).unwrap(), ReadOutcome::NoRoom);
    let slot = world.state.slot(world.slot);
    let cursor = slot.cursor().unwrap();
    assert_eq!(
        (cursor.used(), cursor.tail),
        (4096, 0),
        "full, and nothing was dropped"
    );
    let through = cursor.next_seq.0 - records / 2;
    slot.publish(
        &world
            .ring
            .acknowledge(&cursor, crate::memory::Sequence(through))
            .unwrap(),
    );
    assert!(matches!(
        world.read(Stream::Stdout).unwrap(),
        ReadOutcome::Record(_)
    ));
}

#[test]
fn dropping_takes_no_more_than_the_new_record_needs() {
    let mut world = World::new(4096, OverflowPolicy::DropOldest);
    for _ in 0..64 {
        world.child_writes(Stream::Stdout, 32);
        world.read(Stream::Stdout).unwrap();
    }
    let used = |world: &World| world.state.slot(world.slot).cursor().unwrap().used();
    assert_eq!(used(&world), 4096);
    world.child_writes(Stream::Stdout, 1);
    world.read(Stream::Stdout).unwrap();
    assert_eq!(
        used(&world),
        4096,
        "one old record of 64 bytes made room for one new"
    );
    assert_eq!(world.read(Stream::Stdout).unwrap(), ReadOutcome::Nothing);
}

#[test]
fn stray_bytes_in_the_bounce_pipe_are_an_error_and_not_output() {
    let mut world = World::new(4096, OverflowPolicy::DropOldest);
    write(world.bounce.write_end(), b"stray").unwrap();
    assert!(matches!(
        world.recover(),
        Err(ReadError::Stray { bytes: 5 })
    ));
    assert_eq!(abandon_read(&world.state, &world.bounce).unwrap(), 5);
    assert!(matches!(world.recover(), Ok(Recovered::Nothing)));
}

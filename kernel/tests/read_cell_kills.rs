//! Two processes: one reads a flooded pipe into a ring and is killed with SIGKILL again and again,
//! at random moments; the other starts it anew and compares every byte.
//!
//! The control run throws the read in flight away instead of finishing it, and must find errors:
//! otherwise the test would not bite. `KINGPOLE_KILLS=N` sets how many kills (default 300).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use kingpole_kernel::memory::read_cell::{Recovered, abandon_read, recover_read};
use kingpole_kernel::memory::{
    Bounce, EofBits, Intent, OverflowPolicy, ReadMark, ReadOutcome, Reading, Ring, RingSize,
    SlotIndex, StateMemory, Stream,
};
use kingpole_kernel::reap::now_ns;
use kingpole_kernel::sys::inherited::Inherited;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

/// The pattern's period. A prime, so that no read size and no buffer size hides a shift.
const PERIOD: usize = 65_521;
/// Small, so that the reader drops old records all the time.
const RING_BYTES: u64 = 256 * 1024;
const KILLS_DEFAULT: u32 = 300;

fn main() {
    let arguments = std::env::args().collect::<Vec<_>>();
    if arguments.get(1).is_some_and(|word| word == "--reader") {
        let numbers = arguments[3..]
            .iter()
            .map(|word| word.parse().unwrap())
            .collect::<Vec<i32>>();
        return read_until_killed(&arguments[2], &numbers);
    }
    if arguments.iter().any(|word| word == "--list") {
        return;
    }
    let kills = std::env::var("KINGPOLE_KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    let kills = kills.unwrap_or(KILLS_DEFAULT);

    let outcome = House::new().kill_and_compare("recover", kills);
    let summary = outcome.expect("a reader that recovers loses and doubles nothing");
    println!("test killed_readers_lose_and_double_nothing ... ok ({summary})");
    assert!(
        summary.in_flight > 0,
        "no kill fell into a read: the run proves nothing"
    );

    let error = House::new()
        .kill_and_compare("abandon", kills)
        .expect_err("without recovery the same kills must show");
    println!("test without_recovery_the_same_kills_show ... ok ({error})");
}

#[derive(Debug)]
struct Summary {
    kills: u32,
    in_flight: u32,
    bytes: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kills,
            in_flight,
            bytes,
        } = self;
        write!(
            f,
            "{kills} kills, {in_flight} inside a read, {} MB",
            bytes >> 20
        )
    }
}

/// What survives the reader.
struct House {
    state: StateMemory,
    bounce: Bounce,
    ring: Ring,
    slot: SlotIndex,
    pipe: OwnedFd,
    writer: Option<thread::JoinHandle<u64>>,
    pattern: Vec<u8>,
}

fn pattern() -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    // Three times, so that any record, wherever it starts, is one slice.
    let once = (0..PERIOD).map(|_| next(&mut state)).collect::<Vec<_>>();
    [once.clone(), once.clone(), once].concat()
}

impl House {
    fn new() -> Self {
        let mut state = StateMemory::create().unwrap();
        let slot = state.allocate().unwrap();
        state.slot(slot).begin(&Intent {
            id: state.take_id(),
            epoch: state.begin_epoch(),
            key_hash: 0,
            flags: 0,
            time_ns: now_ns(),
            eof: EofBits::NONE.with(Stream::Stderr),
        });
        let (pipe, write_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        Self {
            state,
            bounce: Bounce::create().unwrap(),
            ring: Ring::create(RingSize::holding(RING_BYTES).unwrap()).unwrap(),
            slot,
            pipe,
            writer: Some(thread::spawn(move || flood(write_end))),
            pattern: pattern(),
        }
    }

    fn kill_and_compare(self, mode: &str, kills: u32) -> Result<Summary, String> {
        let mut summary = Summary {
            kills: 0,
            in_flight: 0,
            bytes: 0,
        };
        let inherited = [
            self.state.descriptor(),
            self.ring.descriptor(),
            self.bounce.read_end(),
            self.bounce.write_end(),
            self.pipe.as_fd(),
        ];
        for fd in inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        }
        let numbers = inherited.map(|fd| fd.as_raw_fd().to_string());
        for round in 0..kills {
            let mut reader = Command::new(std::env::current_exe().unwrap())
                .args(["--reader", mode, &u32::from(self.slot.number()).to_string()])
                .args(&numbers)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            BufReader::new(reader.stdout.take().unwrap())
                .read_line(&mut said)
                .unwrap();
            // From 0 to 3 ms, in steps that do not repeat.
            thread::sleep(Duration::from_micros(
                u64::from(round.wrapping_mul(2_654_435_761) >> 20) % 3000,
            ));
            reader.kill().unwrap();
            reader.wait().unwrap();
            if said.is_empty() {
                return Err(format!("the reader gave up in round {round}"));
            }
            summary.kills += 1;
            summary.in_flight += u32::from(said.trim() == "finished");
            summary.bytes = self
                .compare()
                .map_err(|error| format!("{error} after {round} kills"))?;
        }
        self.drain(summary)
    }

    /// Every record in the ring must hold what the writer wrote at its offset.
    fn compare(&self) -> Result<u64, String> {
        let cursor = self
            .state
            .slot(self.slot)
            .cursor()
            .map_err(|error| error.to_string())?;
        for record in self.ring.records(&cursor, &ReadMark::default()) {
            let record = record.map_err(|error| error.to_string())?;
            let mut at = usize::try_from(record.header.stream_offset % PERIOD as u64).unwrap();
            for part in record.data {
                if self.pattern.get(at..at + part.len()) != Some(part) {
                    return Err(format!("wrong bytes in {:?}", record.header));
                }
                at = (at + part.len()) % PERIOD;
            }
        }
        Ok(cursor.stdout_bytes)
    }

    /// The last reader is gone: finish its work here, end the writer, and compare the totals.
    fn drain(mut self, summary: Summary) -> Result<Summary, String> {
        let fail = |error: &dyn std::fmt::Display| error.to_string();
        recover_read(&self.state, &self.bounce, now_ns(), |_| {
            Some(&mut self.ring)
        })
        .map_err(|error| fail(&error))?;
        STOP.store(true, std::sync::atomic::Ordering::Relaxed);
        let writer = self.writer.take().unwrap();
        loop {
            let mut reading = Reading {
                state: &self.state,
                bounce: &self.bounce,
                slot: self.slot,
                ring: &mut self.ring,
                policy: OverflowPolicy::DropOldest,
            };
            match reading.read(self.pipe.as_fd(), Stream::Stdout, now_ns()) {
                Ok(ReadOutcome::EndOfFile) => break,
                Ok(ReadOutcome::Nothing) => wait_readable(&self.pipe),
                Ok(_) => {}
                Err(error) => return Err(fail(&error)),
            }
        }
        let (read, written) = (self.compare()?, writer.join().unwrap());
        STOP.store(false, std::sync::atomic::Ordering::Relaxed);
        if read != written {
            return Err(format!("{written} bytes were written and {read} were read"));
        }
        Ok(Summary {
            bytes: read,
            ..summary
        })
    }
}

static STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Writes the pattern in pieces of 1 byte to 70 KB until told to stop; gives how many bytes.
/// Ends early when nobody can read any more (after a control run that found what it should).
fn flood(write_end: OwnedFd) -> u64 {
    let pattern = pattern();
    let mut pipe = File::from(write_end);
    let (mut written, mut size) = (0_usize, 1_usize);
    while !STOP.load(std::sync::atomic::Ordering::Relaxed) {
        size = size.wrapping_mul(48_271) % 70_001 + 1;
        let from = written % PERIOD;
        let piece = &pattern[from..(from + size).min(from + PERIOD)];
        if pipe.write_all(piece).is_err() {
            break;
        }
        written += piece.len();
    }
    written as u64
}

fn wait_readable(pipe: &OwnedFd) {
    poll(
        &mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )
    .unwrap();
}

/// The reader: what a kernel does between two kills.
fn read_until_killed(mode: &str, numbers: &[i32]) {
    let slot = SlotIndex::new(u64::try_from(numbers[0]).unwrap()).unwrap();
    let mut inherited = Inherited::claim_all().unwrap();
    let mut take = |index: usize| inherited.take(numbers[index]).unwrap();
    let state = StateMemory::open(take(1)).unwrap();
    let mut ring = Ring::open(take(2)).unwrap();
    let bounce = Bounce::open(take(3), take(4)).unwrap();
    let pipe = take(5);
    let said = if mode == "recover" {
        match recover_read(&state, &bounce, now_ns(), |_| Some(&mut ring)).unwrap() {
            Recovered::Nothing => "nothing",
            Recovered::Published(_) => "published",
            Recovered::Finished { .. } => "finished",
        }
    } else {
        abandon_read(&state, &bounce).unwrap();
        "abandoned"
    };
    println!("{said}");
    let policy = OverflowPolicy::DropOldest;
    let mut reading = Reading {
        state: &state,
        bounce: &bounce,
        slot,
        ring: &mut ring,
        policy,
    };
    loop {
        match reading
            .read(pipe.as_fd(), Stream::Stdout, now_ns())
            .unwrap()
        {
            ReadOutcome::EndOfFile => return,
            ReadOutcome::Nothing => wait_readable(&pipe),
            ReadOutcome::Record(_) | ReadOutcome::NoRoom => {}
        }
    }
}

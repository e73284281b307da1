//! The simulated world: a kernel, a disk, a clock, and hands from outside. A run can be cut before any step, and inside those that have parts.

use super::super::compose::Zone;
use super::super::disk::{FileId, Stop};
use super::super::position::Child;
use super::super::writer::{Alive, Baseline};
use super::check::Checker;
use kingpole_protocol::record::Stream;
use kingpole_protocol::{ProcessId, Sequence};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// Small and seeded.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(super) fn below(&mut self, sides: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Where a byte of a simulated file came from: which write of ours, and where in its batch. Write
/// 0 is somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) write: u32,
    pub(super) index: u32,
}

pub(super) const FOREIGN: Origin = Origin { write: 0, index: 0 };

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) id: FileId,
    pub(super) bytes: Vec<u8>,
    pub(super) origin: Vec<Origin>,
    pub(super) mtime_ns: u64,
    pub(super) room_bytes: u64,
    pub(super) linked: bool,
    pub(super) opened: u32,
    /// Touched from outside since the writer looked at it.
    pub(super) handled: bool,
}

/// A record in the simulated kernel.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) time_ns: u64,
    pub(super) stream: Stream,
    pub(super) at: u64,
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct SimChild {
    pub(super) child: Child,
    pub(super) pid: u32,
    pub(super) records: VecDeque<Record>,
    pub(super) next: u64,
    pub(super) at: [u64; 2],
    pub(super) ended: [bool; 2],
    /// The record behind the last acknowledged, and the streams' offsets there.
    pub(super) baseline: Baseline,
    /// First record not dropped, and offsets there.
    tail: (u64, [u64; 2]),
}

pub(super) const fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// What a step was, for choosing where to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    /// Happens or not.
    Plain,
    /// A write of so many bytes.
    Write(usize),
    /// A message of so many parts.
    Message(usize),
}

/// Where a run is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) step: u64,
    /// How much of the step still happens.
    pub(super) part: usize,
}

/// Something that somebody else does to a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    AppendLine,
    AppendPiece,
    Move,
    MoveAndAppend,
    MoveAway,
    CopyTruncate,
    CopyTruncateRegrown,
    Delete,
    Truncate,
}

pub(super) const HANDS: [Hand; 9] = [
    Hand::AppendLine,
    Hand::AppendPiece,
    Hand::Move,
    Hand::MoveAndAppend,
    Hand::MoveAway,
    Hand::CopyTruncate,
    Hand::CopyTruncateRegrown,
    Hand::Delete,
    Hand::Truncate,
];

/// What may go wrong by itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Weather {
    /// Only this file has trouble; `None` for all.
    pub(super) only: Option<PathBuf>,
    /// Bytes that still fit on the disk; `None` is plenty.
    pub(super) space: Option<usize>,
    /// Space comes back at this step.
    pub(super) space_back: u64,
    /// Chance that a write fails, percent.
    pub(super) write_error: u64,
    /// Chance that a write is short, percent.
    pub(super) short_write: u64,
    /// Chance that a rename fails, percent.
    pub(super) rename_error: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) steps: u64,
    pub(super) log: Vec<StepKind>,
    pub(super) cuts: VecDeque<Cut>,
    /// Chance per step, percent, of being killed.
    pub(super) kill_chance: u64,
    pub(super) hands: VecDeque<(u64, Hand, PathBuf)>,
    pub(super) clock_ns: u64,
    /// How wrong the wall's clock is.
    pub(super) skew_ns: i64,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    pub(super) children: Vec<SimChild>,
    pub(super) cap: usize,
    /// Whether a message can be cut between its parts.
    pub(super) atomic: bool,
    /// Whether the kernel tells what was acknowledged.
    pub(super) tells_baseline: bool,
    /// Whether the file system knows birth times.
    pub(super) knows_birth: bool,
    /// Whether the file system sets room aside that shows whether a file was emptied.
    pub(super) keeps_room: bool,
    /// For each file, how many writes took all that they were given.
    pub(super) whole_writes: BTreeMap<PathBuf, u64>,
    pub(super) values: BTreeMap<String, Vec<u8>>,
    pub(super) names: BTreeMap<PathBuf, usize>,
    pub(super) inodes: Vec<Inode>,
    pub(super) check: Checker,
    pub(super) renames_failed: bool,
    hand_count: u32,
    /// A killed writer's last write lands after so many steps of the next one.
    pub(super) late_after: Option<u64>,
    pub(super) late: Option<(u64, usize, Vec<u8>, Vec<Origin>)>,
    /// The writer with this number may act; others are dead.
    pub(super) generation: u32,
}

const START_NS: u64 = 1_700_000_000_000_000_000;
const MILLISECOND: u64 = 1_000_000;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            steps: 0,
            log: Vec::new(),
            cuts: VecDeque::new(),
            kill_chance: 0,
            hands: VecDeque::new(),
            clock_ns: START_NS,
            skew_ns: 0,
            dice: Dice::new(seed),
            weather: Weather::default(),
            children: Vec::new(),
            cap: usize::MAX,
            atomic: true,
            tells_baseline: false,
            knows_birth: true,
            keeps_room: true,
            whole_writes: BTreeMap::new(),
            values: BTreeMap::new(),
            names: BTreeMap::new(),
            inodes: Vec::new(),
            check: Checker::default(),
            renames_failed: false,
            hand_count: 0,
            late_after: None,
            late: None,
            generation: 0,
        }
    }

    /// What the clock on the wall says.
    pub(super) fn wall_ns(&self) -> u64 {
        self.clock_ns.saturating_add_signed(self.skew_ns)
    }

    pub(super) fn add_child(&mut self) {
        let id = self.children.len() as u64 + 1;
        let child = Child {
            process: ProcessId(id),
            epoch: 7,
        };
        self.children.push(SimChild {
            child,
            pid: 100 + id as u32,
            records: VecDeque::new(),
            next: 1,
            at: [0, 0],
            ended: [false, false],
            baseline: Baseline {
                sequence: Sequence(1),
                stdout_at: 0,
                stderr_at: 0,
            },
            tail: (1, [0, 0]),
        });
        self.check.add_child(child);
    }

    pub(super) fn alive(&self) -> Vec<Alive> {
        let told = self.tells_baseline;
        let alive = self.children.iter().map(|c| Alive {
            child: c.child,
            pid: c.pid,
            baseline: told.then_some(c.baseline),
        });
        alive.collect()
    }

    /// A child writes; the kernel reads it as one record, and drops its oldest if it must.
    pub(super) fn output(&mut self, which: usize, stream: Stream, data: &[u8]) {
        self.clock_ns += MILLISECOND;
        let (time_ns, cap) = (self.wall_ns(), self.cap);
        let child = &mut self.children[which];
        let slot = index(stream);
        let record = Record {
            sequence: child.next,
            time_ns,
            stream,
            at: child.at[slot],
            data: data.to_vec(),
        };
        self.check.output(child.child, &record);
        child.next += 1;
        child.at[slot] += data.len() as u64;
        child.records.push_back(record);
        while child.records.iter().map(|r| r.data.len()).sum::<usize>() > cap {
            let Some(gone) = child.records.pop_front() else {
                break;
            };
            self.check.dropped(child.child, &gone);
        }
        child.set_tail();
    }

    /// Before a step: maybe somebody acts, maybe this is the end.
    pub(super) fn step(&mut self, kind: StepKind, generation: u32) -> Result<Option<usize>, Stop> {
        if generation != self.generation {
            return Err(Stop::Killed);
        }
        self.steps += 1;
        self.clock_ns += MILLISECOND;
        self.log.push(kind);
        self.land();
        while self.hands.front().is_some_and(|(at, ..)| *at <= self.steps) {
            if let Some((_, hand, path)) = self.hands.pop_front() {
                self.hand(hand, &path);
            }
        }
        if self.weather.space.is_some() && self.steps >= self.weather.space_back {
            self.weather.space = None;
        }
        if self.cuts.front().is_some_and(|cut| cut.step <= self.steps) {
            return Ok(self.cuts.pop_front().map(|cut| cut.part));
        }
        if self.kill_chance > 0 && self.dice.percent(self.kill_chance) {
            let parts = match kind {
                StepKind::Plain => 0,
                StepKind::Write(parts) | StepKind::Message(parts) => parts as u64,
            };
            return Ok(Some(self.dice.below(parts + 1) as usize));
        }
        Ok(None)
    }

    /// The writer is dead: what it had open is closed.
    pub(super) fn bury(&mut self) {
        self.generation += 1;
        if let Some((at, ..)) = &mut self.late {
            // Who takes the lock waits until the one before is dead, its last write included.
            let waits = !super::super::fault::is(super::super::fault::Fault::NoLock);
            *at = if waits {
                0
            } else {
                self.steps + self.late_after.unwrap_or(0)
            };
        }
        self.land();
        for inode in &mut self.inodes {
            inode.opened = 0;
        }
    }

    /// A late write arrives.
    fn land(&mut self) {
        if self.late.as_ref().is_none_or(|(at, ..)| *at > self.steps) {
            return;
        }
        if let Some((_, slot, bytes, origins)) = self.late.take() {
            let now = self.wall_ns();
            let inode = &mut self.inodes[slot];
            inode.bytes.extend_from_slice(&bytes);
            inode.origin.extend(origins);
            inode.mtime_ns = now;
        }
    }

    /// Whether the weather is about this file.
    pub(super) fn is_sick(&self, path: &Path) -> bool {
        self.weather.only.as_ref().is_none_or(|only| only == path)
    }

    pub(super) fn create(&mut self, path: &Path) -> usize {
        // Numbers are used again at once.
        let used = |number: u64| {
            self.inodes
                .iter()
                .any(|i| i.id.inode == number && (i.linked || i.opened > 0))
        };
        let inode = (1..).find(|&number| !used(number)).unwrap_or(0);
        let born_ns = if self.knows_birth {
            self.wall_ns() as i64
        } else {
            0
        };
        self.inodes.push(Inode {
            id: FileId {
                device: 1,
                inode,
                born_ns,
            },
            bytes: Vec::new(),
            origin: Vec::new(),
            mtime_ns: self.wall_ns(),
            room_bytes: 0,
            linked: true,
            opened: 0,
            handled: false,
        });
        let slot = self.inodes.len() - 1;
        self.names.insert(path.to_owned(), slot);
        slot
    }

    fn unlink(&mut self, path: &Path) {
        if let Some(slot) = self.names.remove(path) {
            self.inodes[slot].linked = false;
            self.inodes[slot].handled = true;
        }
    }

    pub(super) fn hand(&mut self, hand: Hand, path: &Path) {
        self.check.outside = true;
        self.hand_count += 1;
        self.clock_ns += 10 * MILLISECOND;
        let number = self.hand_count;
        let moved = PathBuf::from(format!("{}.old{number}", path.display()));
        let Some(&slot) = self.names.get(path) else {
            return;
        };
        match hand {
            Hand::AppendLine => self.foreign(path, format!("foreign {number}\n").as_bytes()),
            Hand::AppendPiece => self.foreign(path, format!("foreign {number}").as_bytes()),
            Hand::Move | Hand::MoveAndAppend => {
                self.names.remove(path);
                self.names.insert(moved.clone(), slot);
                if hand == Hand::MoveAndAppend {
                    self.foreign(&moved, format!("foreign end {number}\n").as_bytes());
                }
            }
            Hand::MoveAway => {
                self.names.remove(path);
                self.names
                    .insert(PathBuf::from(format!("/away/{number}")), slot);
            }
            Hand::CopyTruncate | Hand::CopyTruncateRegrown => {
                let original = self.inodes[slot].clone();
                let copy = self.create(&moved);
                self.inodes[copy].bytes = original.bytes;
                self.inodes[copy].origin = original.origin;
                // Half of the copiers keep the time of the last write.
                if number.is_multiple_of(2) {
                    self.inodes[copy].mtime_ns = original.mtime_ns;
                }
                self.truncate(slot);
                if hand == Hand::CopyTruncateRegrown {
                    let line = format!("foreign after copy {number}\n");
                    self.foreign(path, line.as_bytes());
                }
            }
            Hand::Delete => self.unlink(path),
            Hand::Truncate => self.truncate(slot),
        }
    }

    pub(super) fn truncate(&mut self, slot: usize) {
        let now = self.wall_ns();
        let inode = &mut self.inodes[slot];
        // What was in the file has been there: the checker remembers.
        let mut ghost = inode.clone();
        ghost.linked = false;
        ghost.opened = 0;
        inode.bytes.clear();
        inode.origin.clear();
        inode.mtime_ns = now;
        inode.room_bytes = 0;
        inode.handled = true;
        self.inodes.push(ghost);
    }

    fn foreign(&mut self, path: &Path, bytes: &[u8]) {
        let slot = match self.names.get(path) {
            Some(slot) => *slot,
            None => self.create(path),
        };
        self.check
            .foreign
            .push(String::from_utf8_lossy(bytes).into_owned());
        let now = self.wall_ns();
        let inode = &mut self.inodes[slot];
        inode.bytes.extend_from_slice(bytes);
        inode.origin.extend(bytes.iter().map(|_| FOREIGN));
        inode.mtime_ns = now;
        inode.handled = true;
    }
}

impl SimChild {
    pub(super) fn set_tail(&mut self) {
        let sequence = self.records.front().map_or(self.next, |r| r.sequence);
        let offset = |stream: Stream| {
            let first = self.records.iter().find(|r| r.stream == stream);
            first.map_or(self.at[index(stream)], |r| r.at)
        };
        self.tail = (sequence, [offset(Stream::Stdout), offset(Stream::Stderr)]);
    }

    /// The record that a reader at `cursor` gets next; a gap if that is not the one it asked for.
    pub(super) fn read(&self, cursor: u64) -> (Option<(u64, [u64; 2])>, Option<&Record>) {
        let gap = (cursor < self.tail.0).then_some(self.tail);
        let from = cursor.max(self.tail.0);
        (gap, self.records.iter().find(|r| r.sequence >= from))
    }
}

/// A zone whose offset changes at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct SimZone {
    pub(super) before: i32,
    pub(super) after: i32,
    pub(super) changes_at: u64,
}

impl Zone for SimZone {
    fn at(&mut self, second: u64) -> (i32, String) {
        if second < self.changes_at {
            (self.before, "OLD".to_owned())
        } else {
            (self.after, "NEW".to_owned())
        }
    }
}

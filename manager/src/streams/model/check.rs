//! The checker. It knows every byte of every simulated file by its origin: which write of ours put
//! it there and which byte of which unit it is, never by what it looks like.

use super::super::disk::Target;
use super::super::position::{Child, Source};
use super::super::sink::{Rotation, SinkSpec};
use super::super::value::{Intention, decode};
use super::oracle::{Span, What, batch};
use super::world::{FOREIGN, Inode, Origin, Record, World, index};
use kingpole_protocol::record::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

/// Everything that a stream ever brought.
#[derive(Debug, Default)]
pub(super) struct StreamLedger {
    pub(super) bytes: Vec<u8>,
    /// (offset, sequence, time) of each record.
    records: Vec<(u64, u64, u64)>,
    dropped: Vec<bool>,
    /// In a file, or in an announced gap.
    covered: Vec<bool>,
}

impl StreamLedger {
    pub(super) fn record_of(&self, at: u64) -> (u64, u64) {
        let next = self.records.partition_point(|(from, ..)| *from <= at);
        self.records
            .get(next.wrapping_sub(1))
            .map_or((0, 0), |(_, seq, time)| (*seq, *time))
    }

    /// The offset behind every record before `sequence`.
    fn offset_at(&self, sequence: u64) -> u64 {
        let next = self.records.partition_point(|(_, of, _)| *of < sequence);
        self.records
            .get(next)
            .map_or(self.bytes.len() as u64, |(from, ..)| *from)
    }
}

#[derive(Debug, Default)]
pub(super) struct ChildLedger {
    streams: [StreamLedger; 2],
}

impl ChildLedger {
    pub(super) fn stream(&self, stream: Stream) -> &StreamLedger {
        &self.streams[index(stream)]
    }
}

/// One write of ours.
#[derive(Debug, Clone)]
struct Write {
    batch: usize,
}

#[derive(Debug)]
struct BatchInfo {
    bytes: Vec<u8>,
    spans: Rc<Vec<Span>>,
    /// How far the last write of it came.
    written: usize,
}

/// What was seen of a unit in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Whole,
    Piece,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) ledger: BTreeMap<Child, ChildLedger>,
    batches: Vec<BatchInfo>,
    by_intention: BTreeMap<String, usize>,
    writes: Vec<Write>,
    pub(super) line_bytes: usize,
    pub(super) violations: Vec<String>,
    /// Somebody else did something to the files.
    pub(super) outside: bool,
    pub(super) foreign: Vec<String>,
    pub(super) backups: u32,
    /// The configuration changed: a rotation that was begun may not be needed any more.
    pub(super) reconfigured: bool,
    /// The clock was set: times say nothing about order any more.
    pub(super) clock_set: bool,
}

impl Checker {
    pub(super) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn add_child(&mut self, child: Child) {
        self.ledger.insert(child, ChildLedger::default());
    }

    pub(super) fn output(&mut self, child: Child, record: &Record) {
        let Some(ledger) = self.ledger.get_mut(&child) else {
            return;
        };
        let stream = &mut ledger.streams[index(record.stream)];
        stream
            .records
            .push((record.at, record.sequence, record.time_ns));
        stream.bytes.extend_from_slice(&record.data);
        stream.dropped.resize(stream.bytes.len(), false);
        stream.covered.resize(stream.bytes.len(), false);
    }

    pub(super) fn dropped(&mut self, child: Child, record: &Record) {
        if let Some(ledger) = self.ledger.get_mut(&child) {
            let from = record.at as usize;
            let dropped = &mut ledger.streams[index(record.stream)].dropped;
            dropped[from..from + record.data.len()].fill(true);
        }
    }

    pub(super) fn offsets_at(&self, child: Child, sequence: u64) -> [u64; 2] {
        let ledger = &self.ledger[&child];
        [0, 1].map(|slot: usize| ledger.streams[slot].offset_at(sequence))
    }

    /// I1: nothing is acknowledged that is not in a file or announced as lost.
    pub(super) fn acknowledged(&mut self, child: Child, through: u64) {
        let offsets = self.offsets_at(child, through + 1);
        for (slot, to) in offsets.into_iter().enumerate() {
            let stream = &self.ledger[&child].streams[slot];
            if let Some(at) = stream.covered[..to as usize]
                .iter()
                .position(|covered| !covered)
            {
                self.violations.push(format!(
                    "I1: {child} acknowledged through {through}, but byte {at} of stream {slot} is in no file"
                ));
            }
        }
    }

    fn cover(&mut self, span: &Span, from: usize, to: usize) {
        match span.what {
            What::Line {
                source,
                from: at,
                to: end,
                content,
            } => {
                let first = span.from + content;
                let low = from.max(first).saturating_sub(first) as u64 + at;
                let high = (to.saturating_sub(first) as u64 + at).min(end);
                if let Some(ledger) = self.ledger.get_mut(&source.child) {
                    let covered = &mut ledger.streams[index(source.stream)].covered;
                    if low < high {
                        covered[low as usize..high as usize].fill(true);
                    }
                }
            }
            What::Gap {
                source,
                from: at,
                to: end,
            } if to >= span.to => {
                if let Some(ledger) = self.ledger.get_mut(&source.child) {
                    let covered = &mut ledger.streams[index(source.stream)].covered;
                    covered[at as usize..end as usize].fill(true);
                }
            }
            What::Gap { .. } | What::Lead | What::Notice(_) => {}
        }
    }
}

impl World {
    /// Every write must be a piece of the batch that the kernel was told about. Gives each byte its
    /// origin.
    pub(super) fn check_write(&mut self, slot: usize, bytes: &[u8], wanted: usize) -> Vec<Origin> {
        let inode = &self.inodes[slot];
        let mut fitting = None;
        let values = self.values.values().filter_map(|bytes| decode(bytes).ok());
        for value in values.filter(|value| value.file == inode.id) {
            let Some(intention) = &value.intention else {
                continue;
            };
            // The same batch, whatever else was learned about its file since.
            let same = Intention {
                mtime_ns: 0,
                room_bytes: 0,
                ..intention.clone()
            };
            let told = value.notices.get(..usize::from(intention.notices));
            let key = format!("{:?} {} {same:?} {told:?}", value.target, value.length);
            let number = match self.check.by_intention.get(&key) {
                Some(number) => *number,
                None => {
                    let ledger = &self.check.ledger;
                    let (bytes, spans) = batch(&value, intention, ledger, self.check.line_bytes);
                    let spans = Rc::new(spans);
                    self.check.batches.push(BatchInfo {
                        bytes,
                        spans,
                        written: 0,
                    });
                    let number = self.check.batches.len() - 1;
                    self.check.by_intention.insert(key, number);
                    number
                }
            };
            // A batch from its beginning, or the rest of a line that was cut.
            let batch = &self.check.batches[number];
            let from = if wanted < batch.bytes.len() {
                batch.written
            } else {
                0
            };
            // Where numbers of files are used again, two values may seem to speak of one file.
            let fits = batch.bytes.get(from..from + bytes.len()) == Some(bytes);
            if fits || fitting.is_none() {
                fitting = Some((number, from));
            }
        }
        let Some((number, from)) = fitting else {
            self.check
                .violation("a write without an intention in the kernel".to_owned());
            return bytes.iter().map(|_| FOREIGN).collect();
        };
        let batch = &self.check.batches[number];
        if batch.bytes.get(from..from + bytes.len()) != Some(bytes) {
            self.check.violation(format!(
                "what is written is not what was intended: {:?} at {from} of {:?}",
                String::from_utf8_lossy(bytes),
                String::from_utf8_lossy(&batch.bytes),
            ));
            return bytes.iter().map(|_| FOREIGN).collect();
        }
        // I4: nothing of ours begins in the middle of somebody's line, unless that came between the
        // look and the write.
        let begins = from == 0 && batch.bytes.first() != Some(&b'\n') && !bytes.is_empty();
        if begins && !inode.handled && inode.bytes.last().is_some_and(|last| *last != b'\n') {
            self.check
                .violation("I4: written behind an unfinished line".to_owned());
        }
        self.check.writes.push(Write { batch: number });
        let write = self.check.writes.len() as u32;
        let spans = Rc::clone(&self.check.batches[number].spans);
        let to = from + bytes.len();
        self.check.batches[number].written = to;
        for span in spans.iter().filter(|span| span.from < to && span.to > from) {
            self.check.cover(span, from, to);
        }
        (from..to)
            .map(|index| Origin {
                write,
                index: index as u32,
            })
            .collect()
    }

    /// The oldest file may go only when every name is taken.
    pub(super) fn check_overwrite(&mut self, to: &Path) {
        let text = to.display().to_string();
        let Some((base, _)) = text.rsplit_once('.') else {
            return;
        };
        let count = self.check.backups;
        let free =
            (1..=count).find(|n| !self.names.contains_key(Path::new(&format!("{base}.{n}"))));
        if let Some(free) = free {
            self.check
                .violation(format!("{text} was overwritten although .{free} was free"));
        }
        if text != format!("{base}.{count}") {
            self.check
                .violation(format!("{text} was overwritten, which is not the oldest"));
        }
    }

    /// Only the oldest file goes, and only when there are more than are kept.
    pub(super) fn check_remove(&mut self, path: &Path) {
        let mut old = self.old_files(path);
        old.sort();
        let kept = self.check.backups as usize;
        let text = path.display().to_string();
        if old.len() <= kept || kept == 0 {
            self.check.violation(format!(
                "{text} was removed although only {old:?} are there"
            ));
        }
        if old.first().is_none_or(|(.., oldest)| *oldest != text) {
            self.check.violation(format!(
                "{text} was removed, which is not the oldest of {old:?}"
            ));
        }
    }

    /// Files rotated by time, of the same base as this one: time, number, name.
    fn old_files(&self, path: &Path) -> Vec<(String, u32, String)> {
        let split = |text: &str| {
            let (base, behind) = text.split_once(".log.")?;
            let (time, number) = behind.split_once('.').unwrap_or((behind, "0"));
            let digits = time.len() == 14 && time.bytes().all(|byte| byte.is_ascii_digit());
            let found = (base.to_owned(), time.to_owned(), number.parse().ok()?);
            digits.then_some(found)
        };
        let own = path.display().to_string();
        let own = own
            .split_once(".log")
            .map_or(own.as_str(), |(base, _)| base);
        let names = self.names.keys().map(|name| name.display().to_string());
        names
            .filter_map(|name| {
                let (base, time, number) = split(&name)?;
                (base == own).then_some((time, number, name))
            })
            .collect()
    }

    /// Rotated by time, every file has the lines of its time only, and not too many files stay.
    fn check_times(&self, sinks: &[SinkSpec]) -> Vec<String> {
        let mut violations = Vec::new();
        for sink in sinks {
            let Some(Rotation::Time(schedule)) = sink.rotation else {
                continue;
            };
            let old = self.old_files(path(&sink.target));
            if schedule.keep > 0 && old.len() > schedule.keep as usize {
                violations.push(format!("too many old files: {old:?}"));
            }
            let ends = |time: &str| {
                let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14];
                let [y, mo, d, h, mi, s] = parts.map(|part| time[part].parse::<i16>().unwrap_or(0));
                let date = jiff::civil::date(y, mo as i8, d as i8);
                let begun = date.at(h as i8, mi as i8, s as i8, 0);
                let begun = begun.to_zoned(jiff::tz::TimeZone::UTC).expect("in range");
                begun.timestamp().as_second() + i64::from(schedule.count)
            };
            let mut bounds: Vec<(String, i64)> = old
                .into_iter()
                .map(|(time, _, name)| (name, ends(&time) * 1_000_000_000))
                .collect();
            let values = self.values.values().filter_map(|bytes| decode(bytes).ok());
            let value = values.into_iter().find(|value| value.target == sink.target);
            let deadline = value.and_then(|value| value.deadline_ns);
            let base = path(&sink.target).display().to_string();
            bounds.extend(deadline.map(|deadline| (base, deadline)));
            if self.check.clock_set {
                continue;
            }
            for (name, bound) in bounds {
                let Some(slot) = self.names.get(Path::new(&name)) else {
                    continue;
                };
                for span in self.units(&self.inodes[*slot]) {
                    if matches!(span.what, What::Line { .. }) && span.time_ns as i64 >= bound {
                        violations.push(format!("{span:?} in {name}, which ends at {bound}"));
                    }
                }
            }
        }
        violations
    }

    /// Everything of ours in a file.
    fn units(&self, inode: &Inode) -> Vec<Span> {
        let mut units = Vec::new();
        let mut from = 0;
        while from < inode.origin.len() {
            if inode.origin[from] == FOREIGN {
                from += 1;
                continue;
            }
            let Some(run) = self.run(inode, from) else {
                break;
            };
            let (first, last) = (run.index as usize, run.index as usize + run.length);
            let within = |span: &&Span| span.from < last && span.to > first;
            units.extend(run.spans.iter().filter(within).cloned());
            from += run.length;
        }
        units
    }

    /// I2 to I7, when all faults have stopped and the last writer says that it is done.
    pub(super) fn check_end(&mut self, exact: bool, sinks: &[SinkSpec]) {
        let seen = self.seen();
        let batch_spans = |key: &(u32, usize)| {
            let batch = self.check.writes[key.0 as usize - 1].batch;
            self.check.batches[batch].spans[key.1].clone()
        };
        let mut found = Vec::new();
        for (key, how) in &seen {
            found.push((batch_spans(key), *how));
        }
        let mut violations = Vec::new();
        if exact {
            for (span, how) in &found {
                match &span.what {
                    What::Notice(notice) => violations.push(format!("I6: a notice {notice:?}")),
                    What::Gap { .. } => violations.push("I6: a gap".to_owned()),
                    What::Line { .. } | What::Lead if *how == Seen::Piece => {
                        violations.push(format!("I6: a torn line {span:?}"));
                    }
                    What::Line { .. } | What::Lead => {}
                }
            }
        }
        for child in self.check.ledger.keys().copied().collect::<Vec<_>>() {
            for source in Source::both(child) {
                violations.extend(self.check_source(source, &found));
            }
        }
        // I5
        let all: Vec<u8> = self
            .inodes
            .iter()
            .flat_map(|inode| {
                let foreign = inode
                    .bytes
                    .iter()
                    .zip(&inode.origin)
                    .filter(|(_, o)| **o == FOREIGN);
                foreign.map(|(byte, _)| *byte).collect::<Vec<_>>()
            })
            .collect();
        for line in &self.check.foreign {
            if memchr::memmem::find(&all, line.as_bytes()).is_none() {
                violations.push(format!("I5: somebody else's {line:?} is gone"));
            }
        }
        // I7
        for sim in &self.children {
            if !sim.records.is_empty() || sim.baseline.sequence.0 < sim.next {
                violations.push(format!("I7: {} is not acknowledged to its end", sim.child));
            }
        }
        for (key, value) in &self.values {
            if decode(value).is_ok_and(|value| value.intention.is_some()) {
                violations.push(format!("I7: {key} still has an intention"));
            }
        }
        if !self.check.outside && !self.renames_failed && !self.check.reconfigured {
            violations.extend(self.check_holes(sinks));
            violations.extend(self.check_times(sinks));
        }
        self.check.violations.extend(violations);
    }

    /// Every unit that any file has or had, in the order in which they were written.
    fn seen(&self) -> BTreeMap<(u32, usize), Seen> {
        let mut seen: BTreeMap<(u32, usize), Seen> = BTreeMap::new();
        for inode in &self.inodes {
            let mut from = 0;
            loop {
                while inode.origin.get(from) == Some(&FOREIGN) {
                    from += 1;
                }
                let Some(run) = self.run(inode, from) else {
                    break;
                };
                for (number, span) in run.spans.iter().enumerate() {
                    let (first, last) = (run.index as usize, run.index as usize + run.length);
                    if span.from >= last || span.to <= first {
                        continue;
                    }
                    let whole = span.from >= first && span.to <= last;
                    let begin = from + span.from.max(first) - first;
                    let key = (inode.origin[begin].write, number);
                    let how = if whole { Seen::Whole } else { Seen::Piece };
                    let known = seen.entry(key).or_insert(how);
                    if how == Seen::Whole {
                        *known = Seen::Whole;
                    }
                }
                from += run.length;
            }
        }
        seen
    }

    /// The longest stretch of one batch from a byte of ours on.
    fn run(&self, inode: &Inode, from: usize) -> Option<Run> {
        let first = inode.origin.get(from)?;
        let batch = self.check.writes[first.write as usize - 1].batch;
        let rest = inode.origin[from..].iter().enumerate();
        let same = rest.take_while(|(step, origin)| {
            origin.write > 0
                && self.check.writes[origin.write as usize - 1].batch == batch
                && origin.index == first.index + *step as u32
        });
        let spans = Rc::clone(&self.check.batches[batch].spans);
        Some(Run {
            spans,
            index: first.index,
            length: same.count(),
        })
    }

    /// Every byte once and in order, or announced.
    fn check_source(&self, source: Source, found: &[(Span, Seen)]) -> Vec<String> {
        let mut violations = Vec::new();
        let mut at = 0_u64;
        let mut may_repeat: Vec<(u64, u64)> = Vec::new();
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (span, how) in found {
            match &span.what {
                What::Lead => {}
                What::Notice(notice) if notice.source == source => {
                    let (from, to) = (notice.from_at, notice.to_at);
                    pieces.retain(|piece| piece.0 >= to || piece.1 <= from);
                    // "It follows again" and "may repeat": both say so beforehand.
                    if *how == Seen::Whole {
                        may_repeat.push((from, to));
                    }
                }
                What::Notice(_) => {}
                What::Gap {
                    source: of,
                    from,
                    to,
                } if *of == source => {
                    // A torn announcement is made again, like a notice.
                    if *how == Seen::Piece {
                        continue;
                    }
                    let repeated = may_repeat.iter().any(|r| r.0 <= *from && *from < r.1);
                    if *from != at && !(repeated && *from < at) {
                        violations
                            .push(format!("gap {from}..{to} of {source:?} announced at {at}"));
                    }
                    let dropped = &self.check.ledger[&source.child]
                        .stream(source.stream)
                        .dropped;
                    if !dropped[*from as usize..*to as usize]
                        .iter()
                        .all(|dropped| *dropped)
                    {
                        violations.push(format!("{from}..{to} of {source:?} was never dropped"));
                    }
                    at = at.max(*to);
                }
                What::Line {
                    source: of,
                    from,
                    to,
                    ..
                } if *of == source => {
                    if *how == Seen::Piece {
                        pieces.push((*from, *to));
                        continue;
                    }
                    if *from > at {
                        violations.push(format!("I2: {at}..{from} of {source:?} is missing"));
                    }
                    let repeated = may_repeat.iter().any(|r| r.0 <= *from && *from < r.1);
                    if *from < at && !repeated {
                        violations.push(format!("I3: {from}..{to} of {source:?} again at {at}"));
                    }
                    at = at.max(*to);
                }
                What::Gap { .. } | What::Line { .. } => {}
            }
        }
        let all = self.check.ledger[&source.child]
            .stream(source.stream)
            .bytes
            .len() as u64;
        if at != all {
            violations.push(format!("I2: {source:?} ends at {at} instead of {all}"));
        }
        for piece in pieces {
            violations.push(format!("I4: torn {piece:?} of {source:?} without a word"));
        }
        violations
    }

    /// Rotations of the sinks that are still in use have come to their end.
    fn check_holes(&self, sinks: &[SinkSpec]) -> Vec<String> {
        let mut violations = Vec::new();
        let names: BTreeSet<String> = self.names.keys().map(|p| p.display().to_string()).collect();
        for base in sinks
            .iter()
            .map(|sink| path(&sink.target).display().to_string())
        {
            let taken: Vec<u32> = (1..=50)
                .filter(|n| names.contains(&format!("{base}.{n}")))
                .collect();
            if taken.iter().zip(1..).any(|(a, b)| *a != b) {
                violations.push(format!(
                    "a hole is left in the backups of {base}: {taken:?}"
                ));
            }
            if taken.len() > self.check.backups as usize {
                violations.push(format!("too many backups of {base}: {taken:?}"));
            }
        }
        violations
    }
}

struct Run {
    spans: Rc<Vec<Span>>,
    index: u32,
    length: usize,
}

/// The path of a file sink.
pub(super) fn path(target: &Target) -> &Path {
    target.path()
}

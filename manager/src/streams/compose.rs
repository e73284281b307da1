//! From records to the bytes of one batch: a pure function, used to plan a batch and to compose it
//! again after a crash.
//!
//! Composing again must give the same bytes whatever has arrived since. So nothing here looks
//! beyond the end position that the first composition reached: the order of units depends only on
//! the record that completes each of them, and a long line is cut when it *reaches* the limit.
//! Must not know about files, values or clocks.

use super::feed::{Chunk, Gap};
use super::format::{Format, Style};
use super::notice::{Notice, write_gap_text};
use super::position::{Child, Joint, Position, Source};
use super::render::{Line, Renderer, Tail, Voice};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Why an unfinished line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forced {
    /// Its end did not come in time.
    TimedOut,
    /// The stream has ended.
    Ended,
    /// What follows was lost.
    Gap,
}

/// How much of a source goes into the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As much as there is. An unfinished line only for a reason, and if for being late only when
    /// it begins at the given stream offset.
    Available(Option<(Forced, u64)>),
    /// Exactly up to here, with the unfinished line if one was forced.
    Exactly(Position, Option<Forced>),
}

/// One source's share of a batch.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Whose.
    pub source: Source,
    /// The child's process id, for prefixes.
    pub pid: u32,
    /// What the child is called, for styles that say so.
    pub name: &'a str,
    /// Where the source stands.
    pub from: Position,
    /// Lost bytes to be announced first, and the time to announce them with.
    pub gap: Option<(Gap, u64)>,
    /// The records, without a hole.
    pub chunks: &'a VecDeque<Chunk>,
    /// How much of them.
    pub extent: Extent,
}

/// What a batch is made of.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The file does not end in a line end: begin with one.
    pub lead: Lead,
    /// What is to be told first.
    pub notices: &'a [Notice],
    /// Shares, ordered by source.
    pub parts: Vec<Part<'a>>,
}

/// Whether a batch begins by closing a line that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// It begins with a line end.
    LineEnd,
    /// It does not.
    Nothing,
}

/// Where a batch has to end.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes in a batch, unless its first unit alone is longer.
    pub batch_bytes: usize,
    /// A line that reaches this many bytes is cut.
    pub line_bytes: usize,
    /// Bytes in the file now.
    pub file_bytes: u64,
    /// The file may not reach this many bytes, except by its first unit.
    pub max_bytes: Option<u64>,
    /// Units that were completed then or later go into the next file, nanoseconds since 1970.
    pub deadline_ns: Option<i64>,
}

/// The local time zone.
pub trait Zone {
    /// Seconds east of Greenwich at a time (seconds since 1970), and the abbreviation then.
    fn at(&mut self, second: u64) -> (i32, String);
}

/// Told where each unit ends. `()` is for those who need not know.
pub trait Marks {
    /// Whether `unit` does anything; if not, units may be copied many at a time.
    const WANTED: bool;
    /// The batch up to `end` consists of whole units, the last of which is this.
    fn unit(&mut self, end: usize, unit: Unit);
}

/// A unit of a batch, for [`Marks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The line end before everything else.
    Lead,
    /// One more notice.
    Notice,
    /// The part's gap, or a line or fragment of it: the source stands here behind it.
    Part(usize, Position),
}

impl Marks for () {
    const WANTED: bool = false;
    fn unit(&mut self, _: usize, _: Unit) {}
}

impl Marks for Vec<(usize, Unit)> {
    const WANTED: bool = true;
    fn unit(&mut self, end: usize, unit: Unit) {
        self.push((end, unit));
    }
}

/// Why a batch ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that could be written is in it.
    Complete,
    /// It is full, or the file is, or the time zone's offset changes.
    Full,
    /// Nothing is in it: not even the first unit may go into the file as it is.
    RotateFirst,
}

/// Which bound a unit would break.
enum Bound {
    Batch,
    File,
}

/// The answer to whether a unit may be added to what there is.
fn stopped(bound: Bound, empty: bool) -> Option<Stopped> {
    match (bound, empty) {
        (Bound::File, true) => Some(Stopped::RotateFirst),
        (Bound::Batch, true) => None,
        (Bound::Batch | Bound::File, false) => Some(Stopped::Full),
    }
}

/// What has been composed.
#[derive(Debug)]
pub struct Composed {
    /// Notices that are in it.
    pub notices: usize,
    /// For each part that moved: its index, whether its gap is in it, where it stands afterwards,
    /// and why its last line is unfinished.
    pub moved: Vec<(usize, Position, Option<Forced>)>,
    /// With the zone's offset as used.
    pub format: Format,
    /// Why there is no more of it.
    pub stopped: Stopped,
    /// When its first unit was completed, or that which may not go into the file as it is.
    pub begins_ns: Option<u64>,
}

/// Where a unit ends.
#[derive(Clone, Copy)]
struct Head {
    index: usize,
    offset: usize,
    whole: bool,
}

struct Cursor<'a> {
    part: &'a Part<'a>,
    limit_at: u64,
    index: usize,
    offset: usize,
    place: Position,
    head: Option<Head>,
    moved: bool,
    forced: Option<Forced>,
}

impl<'a> Cursor<'a> {
    fn new(part: &'a Part<'a>, line_bytes: usize) -> Self {
        let place = part.gap.map_or(part.from, |(gap, _)| gap.behind());
        let limit_at = match part.extent {
            Extent::Available(_) => u64::MAX,
            Extent::Exactly(to, _) => to.at,
        };
        let index = part.chunks.partition_point(|chunk| chunk.end() <= place.at);
        let offset = part
            .chunks
            .get(index)
            .map_or(0, |chunk| place.at.saturating_sub(chunk.at) as usize);
        let mut cursor = Self {
            part,
            limit_at,
            index,
            offset,
            place,
            head: None,
            moved: false,
            forced: None,
        };
        cursor.find_head(line_bytes);
        cursor
    }

    /// The bytes of a record that count, and the record.
    fn chunk(&self, index: usize) -> Option<(&'a Chunk, &'a [u8])> {
        let chunk = self.part.chunks.get(index)?;
        let most = self
            .limit_at
            .checked_sub(chunk.at)
            .filter(|&most| most > 0)?;
        let data = chunk.data();
        Some((
            chunk,
            &data[..data.len().min(usize::try_from(most).unwrap_or(usize::MAX))],
        ))
    }

    /// Looks for the end of the unit that begins here.
    fn find_head(&mut self, line_bytes: usize) {
        self.head = None;
        let (mut index, mut offset, mut room) = (self.index, self.offset, line_bytes);
        while let Some((_, data)) = self.chunk(index) {
            let window = data.get(offset..).unwrap_or_default();
            let look = &window[..window.len().min(room)];
            if let Some(found) = memchr::memchr(b'\n', look) {
                self.head = Some(Head {
                    index,
                    offset: offset + found + 1,
                    whole: true,
                });
                return;
            }
            if look.len() == room {
                #[cfg(test)]
                if super::fault::is(super::fault::Fault::CutAtExceeds)
                    && window.len() == room
                    && self.chunk(index + 1).is_none()
                {
                    return;
                }
                self.head = Some(Head {
                    index,
                    offset: offset + room,
                    whole: false,
                });
                return;
            }
            room -= look.len();
            index += 1;
            offset = 0;
        }
    }

    /// The record that completes the next unit.
    fn completing(&self) -> Option<&'a Chunk> {
        self.part.chunks.get(self.head?.index)
    }

    /// Bytes between here and an end.
    fn length_to(&self, index: usize, offset: usize) -> usize {
        let end = self
            .part
            .chunks
            .get(index)
            .map_or(0, |chunk| chunk.at + offset as u64);
        end.saturating_sub(self.place.at) as usize
    }

    fn copy_to(&self, out: &mut Vec<u8>, to_index: usize, to_offset: usize) {
        for index in self.index..=to_index {
            let Some((_, data)) = self.chunk(index) else {
                break;
            };
            let from = if index == self.index { self.offset } else { 0 };
            let to = if index == to_index {
                to_offset
            } else {
                data.len()
            };
            out.extend_from_slice(data.get(from..to).unwrap_or_default());
        }
    }

    fn move_to(&mut self, index: usize, offset: usize, joint: Joint) {
        self.moved = true;
        if let Some(chunk) = self.part.chunks.get(index) {
            self.place = chunk.place(offset, joint);
            let consumed = offset >= chunk.data().len();
            (self.index, self.offset) = if consumed {
                (index + 1, 0)
            } else {
                (index, offset)
            };
        }
    }
}

struct Composer<'b, 'z, M> {
    out: &'b mut Vec<u8>,
    marks: &'b mut M,
    bounds: &'b Bounds,
    zone: Option<&'z mut dyn Zone>,
    renderer: Renderer,
    zoned: Option<u64>,
    base: usize,
    begins_ns: Option<u64>,
    /// For text that has to be put together before it is rendered.
    scratch: Vec<u8>,
}

/// Composes a batch into `out`, which is cleared. `zone` is given when planning; without it the
/// format's own offset holds for all.
pub fn compose<M: Marks>(
    batch: &Batch<'_>,
    bounds: &Bounds,
    format: &Format,
    zone: Option<&mut dyn Zone>,
    out: &mut Vec<u8>,
    marks: &mut M,
) -> Composed {
    out.clear();
    if batch.lead == Lead::LineEnd {
        out.push(b'\n');
        marks.unit(1, Unit::Lead);
    }
    let base = out.len();
    let mut composer = Composer {
        out,
        marks,
        bounds,
        zone,
        renderer: Renderer::new(format.clone()),
        zoned: None,
        base,
        begins_ns: None,
        scratch: Vec::new(),
    };
    let mut cursors: Vec<Cursor<'_>> = batch
        .parts
        .iter()
        .map(|part| Cursor::new(part, bounds.line_bytes))
        .collect();
    let mut notices = 0;
    let stopped = composer.run(batch, &mut cursors, &mut notices).err();
    let nothing = composer.out.len() == base;
    let begins_ns = composer.begins_ns;
    let format = composer.renderer.into_format();
    if nothing {
        out.clear();
    }
    let moved = cursors
        .iter()
        .enumerate()
        .filter(|(_, cursor)| cursor.moved);
    Composed {
        notices,
        moved: moved
            .map(|(index, cursor)| (index, cursor.place, cursor.forced))
            .collect(),
        format,
        stopped: stopped.unwrap_or(Stopped::Complete),
        begins_ns,
    }
}

impl<M: Marks> Composer<'_, '_, M> {
    fn run(
        &mut self,
        batch: &Batch<'_>,
        cursors: &mut [Cursor<'_>],
        notices: &mut usize,
    ) -> Result<(), Stopped> {
        let mut text = Vec::new();
        for notice in batch.notices {
            text.clear();
            notice.write_text(&mut text);
            self.announce(notice.time_ns, notice.pid, notice.source, &text)?;
            *notices += 1;
            self.marks.unit(self.out.len(), Unit::Notice);
        }
        for (index, cursor) in cursors.iter_mut().enumerate() {
            if let Some((gap, time_ns)) = cursor.part.gap {
                #[cfg(test)]
                if super::fault::is(super::fault::Fault::GapNotAnnounced) {
                    cursor.moved = true;
                    continue;
                }
                text.clear();
                write_gap_text(&mut text, cursor.part.source, cursor.part.pid, &gap);
                self.announce(time_ns, cursor.part.pid, cursor.part.source, &text)?;
                cursor.moved = true;
                self.marks
                    .unit(self.out.len(), Unit::Part(index, cursor.place));
            }
        }
        self.lines(cursors)?;
        for (index, cursor) in cursors.iter_mut().enumerate() {
            let force = match cursor.part.extent {
                Extent::Available(force) => force
                    .filter(|&(why, at)| why != Forced::TimedOut || at == cursor.place.at)
                    .map(|(why, _)| why),
                Extent::Exactly(_, force) => force,
            };
            if let Some(why) = force {
                self.fragment(index, cursor, why)?;
            }
        }
        Ok(())
    }

    /// Whole lines, and fragments of long ones, in the order in which they were completed.
    fn lines(&mut self, cursors: &mut [Cursor<'_>]) -> Result<(), Stopped> {
        let mut heap = BinaryHeap::new();
        let mut from = 0;
        while let Some(first) = cursors.get(from) {
            // The streams of one child stand next to each other.
            let child = first.part.source.child;
            let pair = cursors
                .get(from + 1)
                .is_some_and(|c| c.part.source.child == child);
            let to = if pair { from + 2 } else { from + 1 };
            heap.extend(next_of(&cursors[from..to], from));
            from = to;
        }
        while let Some(Reverse((_, child, index, first, count))) = heap.pop() {
            self.record_lines(index, &mut cursors[index])?;
            debug_assert_eq!(child, cursors[index].part.source.child);
            heap.extend(next_of(&cursors[first..first + count], first));
        }
        Ok(())
    }

    /// Every unit that one record completes.
    fn record_lines(&mut self, index: usize, cursor: &mut Cursor<'_>) -> Result<(), Stopped> {
        let Some(first) = cursor.head else {
            return Ok(());
        };
        if !M::WANTED && self.copy_lines(cursor, first) {
            cursor.find_head(self.bounds.line_bytes);
            return Ok(());
        }
        while let Some(head) = cursor.head.filter(|head| head.index == first.index) {
            let Some(chunk) = cursor.completing() else {
                break;
            };
            let tail = if head.whole { Tail::Closed } else { Tail::Cut };
            // The line end is the renderer's.
            let text_end = head.offset - usize::from(head.whole);
            self.unit(cursor, chunk.time_ns, (head.index, text_end), tail)?;
            let joint = if head.whole {
                Joint::Fresh
            } else {
                Joint::Continues
            };
            cursor.move_to(head.index, head.offset, joint);
            self.marks
                .unit(self.out.len(), Unit::Part(index, cursor.place));
            cursor.find_head(self.bounds.line_bytes);
        }
        Ok(())
    }

    /// Raw lines that one record completes, copied at once. `false` if they have to be looked at
    /// one by one, because not all of them fit or one may be long.
    fn copy_lines(&mut self, cursor: &mut Cursor<'_>, first: Head) -> bool {
        let raw = self.renderer.format().style == Style::Raw;
        let Some((chunk, data)) = cursor.chunk(first.index).filter(|_| raw && first.whole) else {
            return false;
        };
        let Some(last) = memchr::memrchr(b'\n', data) else {
            return false;
        };
        let end = last + 1;
        let length = cursor.length_to(first.index, end);
        let total = self.out.len() + length;
        let file = self.bounds.file_bytes + total as u64;
        let fits = total <= self.bounds.batch_bytes
            && self.bounds.max_bytes.is_none_or(|most| file < most)
            && !self.is_late(chunk.time_ns)
            && end - first.offset <= self.bounds.line_bytes;
        if fits {
            self.begins_ns.get_or_insert(chunk.time_ns);
            cursor.copy_to(self.out, first.index, end);
            cursor.move_to(first.index, end, Joint::Fresh);
        }
        fits
    }

    /// The unfinished line at the end of a source.
    fn fragment(
        &mut self,
        index: usize,
        cursor: &mut Cursor<'_>,
        why: Forced,
    ) -> Result<(), Stopped> {
        let mut last = None;
        let mut at = cursor.index;
        while let Some((chunk, data)) = cursor.chunk(at) {
            last = Some((chunk, at, data.len()));
            at += 1;
        }
        let Some((chunk, to_index, to_offset)) = last else {
            return Ok(());
        };
        if cursor.length_to(to_index, to_offset) == 0 {
            return Ok(());
        }
        let tail = if why == Forced::Ended {
            Tail::Closed
        } else {
            Tail::Cut
        };
        self.unit(cursor, chunk.time_ns, (to_index, to_offset), tail)?;
        let joint = if why == Forced::Ended {
            Joint::Fresh
        } else {
            Joint::Continues
        };
        cursor.move_to(to_index, to_offset, joint);
        cursor.forced = Some(why);
        self.marks
            .unit(self.out.len(), Unit::Part(index, cursor.place));
        Ok(())
    }

    /// A line of our own.
    fn announce(
        &mut self,
        time_ns: u64,
        pid: u32,
        source: Source,
        text: &[u8],
    ) -> Result<(), Stopped> {
        let line = Line {
            time_ns,
            pid,
            name: "",
            stream: source.stream,
            joint: Joint::Fresh,
            voice: Voice::Ours,
        };
        let begun = self.begin(&line)?;
        self.renderer.text(self.out, text);
        self.renderer.end(self.out, &line, Tail::Closed);
        self.check(begun)
    }

    /// A line or fragment of a child, from where it stands to the given place, the line end left
    /// out.
    fn unit(
        &mut self,
        cursor: &Cursor<'_>,
        time_ns: u64,
        to: (usize, usize),
        tail: Tail,
    ) -> Result<(), Stopped> {
        let line = Line {
            time_ns,
            pid: cursor.part.pid,
            name: cursor.part.name,
            stream: cursor.part.source.stream,
            joint: cursor.place.joint,
            voice: Voice::Child,
        };
        let begun = self.begin(&line)?;
        if self.renderer.wants_whole() {
            self.scratch.clear();
            cursor.copy_to(&mut self.scratch, to.0, to.1);
            self.renderer.text(self.out, &self.scratch);
        } else {
            cursor.copy_to(self.out, to.0, to.1);
        }
        self.renderer.end(self.out, &line, tail);
        self.check(begun)
    }

    /// Begins a line, unless it belongs into the next batch or file by its time.
    fn begin(&mut self, line: &Line<'_>) -> Result<usize, Stopped> {
        let begun = self.out.len();
        let empty = begun == self.base;
        if empty {
            self.begins_ns = Some(line.time_ns);
        }
        if self.is_late(line.time_ns)
            && let Some(stopped) = stopped(Bound::File, empty)
        {
            return Err(stopped);
        }
        if self.renderer.is_zoned() {
            self.use_zone(line.time_ns, empty)?;
        }
        self.renderer.begin(self.out, line);
        Ok(begun)
    }

    /// Whether a unit belongs into the next file.
    fn is_late(&self, time_ns: u64) -> bool {
        #[cfg(test)]
        if super::fault::is(super::fault::Fault::LateLines) && self.out.len() > self.base {
            return false;
        }
        let deadline = self.bounds.deadline_ns;
        deadline.is_some_and(|deadline| i128::from(time_ns) >= i128::from(deadline))
    }

    /// Takes a line out again that is too much for the batch or the file.
    fn check(&mut self, begun: usize) -> Result<(), Stopped> {
        let total = self.out.len();
        let empty = begun == self.base;
        let file = self.bounds.file_bytes + total as u64;
        let full = self.bounds.max_bytes.is_some_and(|most| file >= most);
        let bound = if full && (!empty || self.bounds.file_bytes > 0) {
            Bound::File
        } else if total > self.bounds.batch_bytes {
            Bound::Batch
        } else {
            return Ok(());
        };
        match stopped(bound, empty) {
            None => Ok(()),
            Some(stopped) => {
                self.out.truncate(begun);
                Err(stopped)
            }
        }
    }

    /// One batch has one offset: it ends where the zone's changes.
    fn use_zone(&mut self, time_ns: u64, empty: bool) -> Result<(), Stopped> {
        let second = time_ns / 1_000_000_000;
        if self.zoned == Some(second) {
            return Ok(());
        }
        let Some(zone) = self.zone.as_deref_mut() else {
            return Ok(());
        };
        let (offset, name) = zone.at(second);
        if empty {
            self.renderer.set_zone(offset, name);
        } else if self.renderer.format().offset_seconds != offset
            || self.renderer.format().zone != name
        {
            return Err(Stopped::Full);
        }
        self.zoned = Some(second);
        Ok(())
    }
}

type Next = Reverse<(u64, Child, usize, usize, usize)>;

/// When a child's next unit was completed, for the order among children; which of its cursors has
/// it; and where its cursors are.
fn next_of(cursors: &[Cursor<'_>], first: usize) -> Option<Next> {
    let heads = cursors.iter().enumerate();
    let next = heads
        .filter_map(|(index, cursor)| Some((index, cursor, cursor.completing()?)))
        .min_by_key(|(_, _, chunk)| chunk.sequence);
    next.map(|(index, cursor, chunk)| {
        let child = cursor.part.source.child;
        Reverse((chunk.time_ns, child, first + index, first, cursors.len()))
    })
}

#[cfg(test)]
mod tests;

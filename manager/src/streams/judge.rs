//! After a crash or a short write: what of an intended batch is in the file?
//!
//! Looks only; the one write that recovery may do (the rest of a cut line) is left to the caller.
//! The cases and their order are those of `docs/decisions/log-once.md`. Attribution is by content:
//! another program that writes the very bytes of the next line is taken for us.

use super::compose::{Lead, Unit};
use super::disk::{Disk, FileKind, Look, Step, Target, TroubleKind};
use super::limits::Limits;
use super::value::{Intention, SinkValue, hash};
use memchr::memmem;
use std::path::{Path, PathBuf};

/// The batch composed again.
#[derive(Debug)]
pub struct Rebuilt {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where its units end.
    pub marks: Vec<(usize, Unit)>,
}

impl Rebuilt {
    /// How many units are whole in the first `length` bytes, and where the last of them ends.
    pub(super) fn whole(&self, length: usize) -> (usize, usize) {
        let count = self.marks.partition_point(|(end, _)| *end <= length);
        let end = count.checked_sub(1).and_then(|last| self.marks.get(last));
        (count, end.map_or(0, |(end, _)| *end))
    }

    /// Where the unit ends in which byte `at` is.
    fn end_of_unit_at(&self, at: usize) -> usize {
        let index = self.marks.partition_point(|(end, _)| *end <= at);
        self.marks
            .get(index)
            .map_or(self.bytes.len(), |(end, _)| *end)
    }
}

/// What was found.
#[derive(Debug)]
pub enum Verdict<F> {
    /// Nothing of the batch was written.
    Nothing,
    /// All of it.
    Done,
    /// The first `units` units.
    Part {
        /// How many units are whole.
        units: usize,
        /// What became of the next one.
        cut: Cut<F>,
    },
    /// It cannot be found out.
    Unsure,
}

/// What stands behind the whole units of a partly written batch.
#[derive(Debug)]
pub enum Cut<F> {
    /// Nothing of the next unit.
    Clean,
    /// The beginning of the next unit, and nothing behind it: it can be completed.
    Open {
        /// The file in which it is.
        file: F,
        /// The length of that file.
        length: u64,
        /// How many bytes of the batch are there.
        from: usize,
        /// Where the unit ends.
        to: usize,
    },
    /// The beginning of the next unit, and then something else.
    Torn,
}

enum Batch<'a> {
    Known(&'a Rebuilt),
    Unknown,
}

/// Whether the file that has the name now could have the batch anywhere.
#[derive(Clone, Copy)]
enum Current {
    /// It is another one, or has begun anew: everything in it is later than the look.
    Searched,
    /// It still begins with what was there before, and that may have equal lines.
    Known,
}

/// A beginning of the batch.
struct Found {
    at: usize,
    length: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    /// Others wrote an unfinished line between our look and our write.
    WithinLine,
}

struct Judge<'a, D: Disk> {
    disk: &'a mut D,
    limits: &'a Limits,
    value: &'a SinkValue,
    intention: &'a Intention,
    batch: Batch<'a>,
}

/// Unpacks a [`Step`] inside a function that returns one.
macro_rules! step {
    ($call:expr) => {
        match $call? {
            Ok(value) => value,
            Err(trouble) => return Ok(Err(trouble)),
        }
    };
}
pub(super) use step;

/// Judges a sink's intention. `rebuilt` is the batch, if the records for it are still there and its
/// format is known.
///
/// # Errors
/// When the files cannot be looked at: nothing is decided, try again later.
pub fn judge<D: Disk>(
    disk: &mut D,
    limits: &Limits,
    value: &SinkValue,
    intention: &Intention,
    rebuilt: Option<&Rebuilt>,
) -> Step<Verdict<D::File>> {
    #[cfg(test)]
    {
        use super::fault::{Fault, is};
        if is(Fault::RecoveryAlwaysDone) {
            return Ok(Ok(Verdict::Done));
        }
        if is(Fault::RecoveryNeverLooks) {
            return Ok(Ok(Verdict::Unsure));
        }
    }
    let Target::File(path) = &value.target else {
        return Ok(Ok(Verdict::Nothing));
    };
    let rebuilt = rebuilt.filter(|rebuilt| {
        rebuilt.bytes.len() as u64 == intention.length && hash(&rebuilt.bytes) == intention.hash
    });
    let batch = rebuilt.map_or(Batch::Unknown, Batch::Known);
    Judge {
        disk,
        limits,
        value,
        intention,
        batch,
    }
    .run(path)
}

impl<D: Disk> Judge<'_, D> {
    fn run(&mut self, path: &Path) -> Step<Verdict<D::File>> {
        let Some((file, look)) = step!(self.find(path)) else {
            return self.elsewhere(path, Current::Searched);
        };
        if !step!(self.anchor_fits(&file, &look)) {
            return self.elsewhere(path, Current::Searched);
        }
        let tail = step!(self.tail(&file, self.value.length));
        if tail.is_empty() {
            #[cfg(test)]
            if super::fault::is(super::fault::Fault::NoMtime) {
                return Ok(Ok(Verdict::Nothing));
            }
            // A write that is killed sets the time before it has copied a byte, so a later time says
            // nothing of a file that is as long as before. One that was empty may have been emptied,
            // unless it still has the room that was set aside for it.
            #[cfg(test)]
            let overlooked = super::fault::is(super::fault::Fault::RoomOverlooked);
            #[cfg(not(test))]
            let overlooked = false;
            let has_room = !overlooked
                && self.intention.room_bytes > 0
                && look.room_bytes >= self.intention.room_bytes;
            let as_before = look.length == self.value.length && (self.value.length > 0 || has_room);
            if look.mtime_ns == self.intention.mtime_ns || as_before {
                return Ok(Ok(Verdict::Nothing));
            }
            return self.elsewhere(path, Current::Known);
        }
        if self.is_whole_in(&tail) {
            return Ok(Ok(Verdict::Done));
        }
        let Batch::Known(rebuilt) = self.batch else {
            return Ok(Ok(Verdict::Unsure));
        };
        // A short anchor does not prove that the file is what it was: then a few equal bytes prove
        // nothing either, unless they are all that is there.
        let weak = self.value.length < self.limits.anchor_bytes;
        let proves = |at: usize, length: usize| {
            !weak || (at == 0 && length == tail.len()) || length >= rebuilt.end_of_unit_at(0)
        };
        let found = self.beginning_in(rebuilt, &tail);
        match found.filter(|found| proves(found.at, found.length)) {
            Some(Found { at, length, place }) => {
                // Behind an unfinished line of others ours is broken already: it is not completed.
                let open = place == Place::LineStart && at + length == tail.len();
                let end = self.value.length + tail.len() as u64;
                Ok(Ok(part(rebuilt, length, open.then_some((file, end)))))
            }
            None if weak => self.elsewhere(path, Current::Known),
            // Others' bytes only.
            None => Ok(Ok(Verdict::Nothing)),
        }
    }

    /// The file of the intention: by its name, or by what it is.
    fn find(&mut self, path: &Path) -> Step<Option<(D::File, Look)>> {
        if let Some(found) = step!(self.open_same(path)) {
            return Ok(Ok(Some(found)));
        }
        for sibling in step!(self.disk.siblings(path)) {
            if sibling == path {
                continue;
            }
            let same = match self.open_same(&sibling)? {
                Err(trouble) if trouble.kind == TroubleKind::Denied => continue,
                same => step!(Ok(same)),
            };
            if let Some((file, look)) = same
                && step!(self.anchor_fits(&file, &look))
            {
                return Ok(Ok(Some((file, look))));
            }
        }
        Ok(Ok(None))
    }

    fn open_same(&mut self, path: &Path) -> Step<Option<(D::File, Look)>> {
        // Looked at before it is opened: most files of a directory are not ours to open.
        let Some(look) = step!(self.disk.look_at(path)) else {
            return Ok(Ok(None));
        };
        if look.id != self.value.file {
            return Ok(Ok(None));
        }
        let Some(file) = step!(self.disk.open_existing(path)) else {
            return Ok(Ok(None));
        };
        let look = step!(self.disk.look(&file));
        Ok(Ok((look.id == self.value.file).then_some((file, look))))
    }

    fn anchor_fits(&mut self, file: &D::File, look: &Look) -> Step<bool> {
        let (length, anchor) = (self.value.length, &self.value.anchor);
        let Some(at) = length
            .checked_sub(anchor.len() as u64)
            .filter(|_| look.length >= length)
        else {
            return Ok(Ok(false));
        };
        let there = step!(self.disk.read(file, at, anchor.len()));
        Ok(Ok(there == *anchor))
    }

    /// What stands behind `at`, as far as it is searched.
    fn tail(&mut self, file: &D::File, at: u64) -> Step<Vec<u8>> {
        let length = usize::try_from(self.intention.length).unwrap_or(usize::MAX);
        self.disk
            .read(file, at, length.saturating_add(self.limits.search_bytes))
    }

    /// Whether all of the batch is in these bytes, at their beginning or behind what others wrote.
    fn is_whole_in(&self, bytes: &[u8]) -> bool {
        let Ok(length) = usize::try_from(self.intention.length) else {
            return false;
        };
        let is_at = |at: usize| {
            let end = at.checked_add(length);
            let found = end.and_then(|end| bytes.get(at..end));
            found.is_some_and(|found| hash(found) == self.intention.hash)
        };
        if is_at(0) {
            return true;
        }
        match self.batch {
            Batch::Known(rebuilt) => memmem::find(bytes, &rebuilt.bytes).is_some(),
            Batch::Unknown => self
                .starts(bytes)
                .take(self.limits.search_starts)
                .any(is_at),
        }
    }

    /// Where a batch could begin behind what others wrote.
    fn starts<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = usize> + use<'b, D> {
        let behind = usize::from(self.intention.lead == Lead::Nothing);
        memchr::memchr_iter(b'\n', bytes).map(move |at| at + behind)
    }

    /// Where the batch begins in these bytes and for how long it goes on. The beginning with most
    /// whole units counts, then one at the start of a line, then one that the file ends with, then
    /// the longest.
    fn beginning_in(&self, rebuilt: &Rebuilt, bytes: &[u8]) -> Option<Found> {
        /// A few bytes in the middle of others' lines may be anything, except at the end of the
        /// file, where it costs a needless notice at worst to take them for ours.
        const ENOUGH: usize = 8;
        let first = *rebuilt.bytes.first()?;
        let lead = usize::from(self.intention.lead == Lead::LineEnd);
        let enough = ENOUGH.min(rebuilt.end_of_unit_at(lead));
        // Lines that are all alike match everywhere: the effort is bounded.
        let mut effort = self.limits.search_bytes.saturating_mul(4);
        let mut best: Option<((usize, bool, bool, usize), Found)> = None;
        for at in memchr::memchr_iter(first, bytes) {
            let rest = bytes.get(at..)?;
            // What begins later is shorter.
            let longest = best.as_ref().map_or(0, |(_, found)| found.length);
            if longest >= rest.len() || effort == 0 {
                break;
            }
            let length = same(rest, &rebuilt.bytes);
            effort = effort.saturating_sub(length);
            let open = length == rest.len();
            let starts = at == 0 || lead == 1 || bytes.get(at - 1) == Some(&b'\n');
            let (place, counts) = if starts {
                // Anybody's line end is equal to a batch's first one.
                (Place::LineStart, length > lead || at == 0)
            } else {
                (Place::WithinLine, open || length >= enough)
            };
            let rank = (rebuilt.whole(length).0, starts, open, length);
            if counts && best.as_ref().is_none_or(|(known, _)| rank > *known) {
                best = Some((rank, Found { at, length, place }));
            }
        }
        best.map(|(_, found)| found)
    }

    /// Whether a file can have the batch: it was written after the look that came before the batch.
    /// Older files may well have equal lines.
    fn is_later(&self, look: &Look) -> bool {
        look.kind == FileKind::Regular && look.mtime_ns > self.intention.mtime_ns
    }

    /// The file is not what it was: truncated, copied, moved, deleted. Looks for the batch in what
    /// has the name now, then in what could be a copy.
    fn elsewhere(&mut self, path: &Path, current: Current) -> Step<Verdict<D::File>> {
        let file = match current {
            Current::Searched => step!(self.disk.open_existing(path)),
            Current::Known => None,
        };
        if let Some(file) = file {
            let look = step!(self.disk.look(&file));
            let bytes = step!(self.tail(&file, 0));
            if self.is_later(&look) && self.is_whole_in(&bytes) {
                return Ok(Ok(Verdict::Done));
            }
        }
        let name = path
            .file_name()
            .map(|name| name.as_encoded_bytes().to_vec());
        let name = name.unwrap_or_default();
        let siblings: Vec<PathBuf> = step!(self.disk.siblings(path));
        for sibling in siblings {
            let like = sibling
                .file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(&name));
            if !like || sibling == path {
                continue;
            }
            let look = step!(self.disk.look_at(&sibling));
            if look.is_none_or(|look| look.kind == FileKind::Passing || !self.is_later(&look)) {
                continue;
            }
            let file = match self.disk.open_existing(&sibling)? {
                Err(trouble) if trouble.kind == TroubleKind::Denied => continue,
                file => step!(Ok(file)),
            };
            let Some(file) = file else { continue };
            let look = step!(self.disk.look(&file));
            if !step!(self.anchor_fits(&file, &look)) {
                continue;
            }
            let tail = step!(self.tail(&file, self.value.length));
            if !tail.is_empty() && self.is_whole_in(&tail) {
                return Ok(Ok(Verdict::Done));
            }
            if let Batch::Known(rebuilt) = self.batch {
                let same = same(&tail, &rebuilt.bytes);
                // A short anchor fits too many files. A copy is not written to, so a cut line cannot
                // be completed there.
                if same > 0 && self.value.length >= self.limits.anchor_bytes {
                    return Ok(Ok(part(rebuilt, same, None)));
                }
            }
        }
        Ok(Ok(Verdict::Unsure))
    }
}

/// For how many bytes two beginnings are equal.
fn same(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The first `length` bytes are there; in `open`, nothing is behind them.
fn part<F>(rebuilt: &Rebuilt, length: usize, open: Option<(F, u64)>) -> Verdict<F> {
    let (units, whole) = rebuilt.whole(length);
    let cut = match open {
        _ if whole == length => Cut::Clean,
        Some((file, end)) => Cut::Open {
            file,
            length: end,
            from: length,
            to: rebuilt.end_of_unit_at(length),
        },
        None => Cut::Torn,
    };
    Verdict::Part { units, cut }
}

//! A turn: looking at files, rotating them, and composing batches.

use super::super::compose::{Batch, Bounds, Extent, Forced, Part, Stopped, Zone, compose};
use super::super::disk::{Disk, FileKind, Keeper, Look, Step, Stop, Target};
use super::super::format::{Format, Style};
use super::super::judge::step;
use super::super::position::Source;
use super::super::rotate::{rotate, rotate_to};
use super::super::schedule::Schedule;
use super::super::sink::{Event, Open, Rotation, Sink, State};
use super::super::target::{Nature, Route};
use super::super::value::{Intention, Move, hash};
use super::{ChildState, Now, Turn, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far one sink came.
enum Prepared {
    /// There is nothing to write.
    Nothing,
    /// A batch is ready.
    Batch,
    /// Only after what was written before is told to the kernel.
    CommitFirst,
    /// The file was rotated: look again.
    Again,
}

impl<F> Writer<F> {
    /// Does whatever can be done now. See [`Turn`].
    ///
    /// # Errors
    /// When this writer is over: its successor begins with [`Writer::new`].
    pub fn turn<D, K, Z>(
        &mut self,
        disk: &mut D,
        keeper: &mut K,
        zone: &mut Z,
        now: Now,
    ) -> Result<Turn, Stop>
    where
        D: Disk<File = F>,
        K: Keeper,
        Z: Zone,
    {
        self.judge_all(disk, now)?;
        self.settle_notices(now);
        let mut again = Turn::Wait;
        let mut must_commit = false;
        let held = self.held();
        for target in self.ready(now) {
            let Some(mut sink) = self.sinks.remove(&target) else {
                continue;
            };
            let prepared = self.prepare(&mut sink, &held, disk, zone, now);
            self.sinks.insert(target.clone(), sink);
            match prepared? {
                Ok(Prepared::Nothing) => {}
                Ok(Prepared::Batch) => {
                    must_commit = true;
                    again = Turn::Again;
                }
                Ok(Prepared::CommitFirst) => {
                    must_commit = true;
                    again = Turn::Again;
                }
                Ok(Prepared::Again) => again = Turn::Again,
                Err(trouble) => self.fail(&target, trouble, now),
            }
        }
        let due = self.sinks.values().filter_map(|sink| sink.dirty_since_ns);
        let idle = self.limits.commit_idle_ns;
        must_commit |= due
            .min()
            .is_some_and(|since| since.saturating_add(idle) <= now.monotonic_ns);
        if must_commit {
            self.commit(keeper, now)?;
        }
        self.write_all(disk, now)?;
        self.tell_drained();
        Ok(again)
    }

    /// When the next turn has something to do even if nothing arrives (monotonic nanoseconds).
    #[must_use]
    pub fn poll_deadline(&self) -> Option<u64> {
        let idle = self.limits.commit_idle_ns;
        let sinks = self.sinks.values().flat_map(|sink| {
            let retry = match &sink.state {
                State::Judging(intention) => {
                    self.has_evidence(intention).then_some(sink.retry.at_ns)
                }
                State::Idle => {
                    (sink.spec.is_some() && !sink.notices.is_empty()).then_some(sink.retry.at_ns)
                }
                State::Intended(_) | State::Announced(_) | State::Passing(..) => {
                    Some(sink.retry.at_ns)
                }
            };
            [
                sink.dirty_since_ns.map(|since| since.saturating_add(idle)),
                retry,
            ]
        });
        let held = self.held();
        let sources = self.children.iter().flat_map(|(child, state)| {
            Source::both(*child).map(|source| (source, state.source(source.stream)))
        });
        let sources = sources.map(|(source, own)| {
            // Most have nothing, and it is looked at all of them.
            if own.feed.is_empty() {
                return None;
            }
            let route = own.route.as_ref()?;
            let sink = self.sinks.get(route.target())?;
            let free = matches!(sink.state, State::Idle) && !held.contains(&source);
            let waits = own.idle_end == Some(own.feed.end());
            let (_, since) = own.pending.unwrap_or_default();
            let due = if waits {
                since.saturating_add(self.patience(&sink.target))
            } else {
                0
            };
            free.then_some(due.max(sink.retry.at_ns))
        });
        sinks.chain(sources).flatten().min()
    }

    /// Sources that have to wait: their last batch is being judged, or a notice about them is in a
    /// batch of a sink that they have left, and it must come first.
    fn held(&self) -> BTreeSet<Source> {
        let about = self.sinks.values().flat_map(|sink| {
            let notices = sink.notices.iter().map(|notice| notice.source);
            notices.filter(|source| self.route(*source).is_some_and(|to| *to != sink.target))
        });
        self.judging().chain(about).collect()
    }

    pub(super) fn route(&self, source: Source) -> Option<&Target> {
        self.children
            .get(&source.child)?
            .source(source.stream)
            .route
            .as_ref()
            .map(Route::target)
    }

    /// How long an unfinished line may wait.
    fn patience(&self, target: &Target) -> u64 {
        match target.nature() {
            Nature::Console => self.limits.partial_console_ns,
            Nature::Path | Nature::Service => self.limits.partial_ns,
        }
    }

    /// Sinks that may be written to and have something to write.
    fn ready(&self, now: Now) -> Vec<Target> {
        let mut busy = BTreeSet::new();
        for source in self.children.values().flat_map(|state| &state.sources) {
            if let Some(route) = source.route.as_ref().filter(|_| self.has_work(source, now)) {
                busy.insert(route.address());
            }
        }
        let sinks = self.sinks.values().filter(|sink| {
            matches!(sink.state, State::Idle)
                && sink.spec.is_some()
                && sink.retry.at_ns <= now.monotonic_ns
                && (busy.contains(&sink.route.address()) || !sink.notices.is_empty())
        });
        sinks.map(|sink| sink.target.clone()).collect()
    }

    fn has_work(&self, source: &super::SourceState, now: Now) -> bool {
        if source.feed.is_empty() {
            return false;
        }
        let late = source
            .pending
            .zip(source.route.as_ref())
            .is_some_and(|((_, since), route)| {
                since.saturating_add(self.patience(route.target())) <= now.monotonic_ns
            });
        late || source.idle_end != Some(source.feed.end())
    }

    fn prepare<D, Z>(
        &mut self,
        sink: &mut Sink<F>,
        held: &BTreeSet<Source>,
        disk: &mut D,
        zone: &mut Z,
        now: Now,
    ) -> Step<Prepared>
    where
        D: Disk<File = F>,
        Z: Zone,
    {
        let Some(spec) = sink.spec.clone() else {
            return Ok(Ok(Prepared::Nothing));
        };
        let mut look = step!(open(sink, disk));
        if let (FileKind::Regular, 0, Some(opened)) = (look.kind, look.length, &sink.open) {
            // The kernel may still have the intention of a batch that was in it before it was emptied:
            // new room would say that it was not.
            let untold = sink.dirty_since_ns.is_some();
            #[cfg(test)]
            let untold =
                untold && !super::super::fault::is(super::super::fault::Fault::RoomTooEarly);
            if untold {
                return Ok(Ok(Prepared::CommitFirst));
            }
            step!(disk.reserve(&opened.file));
            look = step!(disk.look(&opened.file));
        }
        let lead = match look.kind {
            FileKind::Regular => {
                let anchor_bytes = look.length.min(self.limits.anchor_bytes);
                let Some(opened) = &sink.open else {
                    return Ok(Ok(Prepared::Nothing));
                };
                let at = look.length - anchor_bytes;
                let anchor = step!(disk.read(&opened.file, at, anchor_bytes as usize));
                if anchor.len() as u64 != anchor_bytes {
                    // It was truncated between the look and the read.
                    return Ok(Ok(Prepared::Again));
                }
                sink.set_checkpoint(look.id, look.length, anchor)
            }
            FileKind::Passing => sink.set_checkpoint(look.id, 0, Vec::new()),
        };
        let rotation = spec.rotation.filter(|_| {
            look.kind == FileKind::Regular && sink.rotation_retry.at_ns <= now.monotonic_ns
        });
        let schedule = match rotation {
            Some(Rotation::Time(schedule)) => Some(schedule),
            Some(Rotation::Size { .. } | Rotation::Empty { .. }) | None => None,
        };
        let bounds = Bounds {
            batch_bytes: self.limits.batch_bytes,
            line_bytes: self.limits.line_bytes,
            file_bytes: sink.length,
            max_bytes: rotation.and_then(|rotation| rotation.max_bytes()),
            deadline_ns: schedule.map(|schedule| deadline(sink, &schedule, &look, zone)),
        };
        let parts = self.parts(&sink.route, held, now);
        let notices = &sink.notices[..sink.notices.len().min(usize::from(u16::MAX))];
        let batch = Batch {
            lead,
            notices,
            parts,
        };
        let format = Format::new(spec.style);
        let composed = compose(
            &batch,
            &bounds,
            &format,
            Some(&mut *zone),
            &mut sink.bytes,
            &mut (),
        );
        if let (Some(schedule), Some(begins_ns)) = (schedule, composed.begins_ns) {
            let latest = begins_ns.max(now.wall_ns);
            if sink
                .deadline_ns
                .is_some_and(|at| schedule.is_beyond(at, latest))
            {
                // The clock was ahead for a while, or the schedule was another one.
                sink.deadline_ns = Some(schedule.next(latest, zone));
                sink.bytes.clear();
                return Ok(Ok(Prepared::Again));
            }
        }
        let named = format.style == Style::Json;
        let moves: Vec<Move> = composed
            .moved
            .iter()
            .filter_map(|&(index, to, forced)| {
                let part = batch.parts.get(index)?;
                let (source, pid, from, gap) = (part.source, part.pid, part.from, part.gap);
                let child = self.children.get(&source.child).filter(|_| named);
                Some(Move {
                    source,
                    pid,
                    name: child.map_or_else(|| "".into(), |child| Arc::clone(&child.name)),
                    from,
                    gap,
                    to,
                    forced,
                })
            })
            .collect();
        let waiting: Vec<(Source, u64)> = batch
            .parts
            .iter()
            .map(|part| (part.source, part.from.at))
            .collect();
        if composed.stopped == Stopped::RotateFirst {
            let begins_ns = composed.begins_ns.unwrap_or(now.wall_ns);
            return self.rotate(sink, rotation, begins_ns, disk, zone, now);
        }
        if composed.stopped == Stopped::Complete {
            self.note_pending(&waiting, &moves, now);
        }
        if sink.bytes.is_empty() {
            return Ok(Ok(Prepared::Nothing));
        }
        let intention = Intention {
            length: sink.bytes.len() as u64,
            hash: hash(&sink.bytes),
            mtime_ns: look.mtime_ns,
            room_bytes: if look.length == 0 { look.room_bytes } else { 0 },
            lead,
            // At most as many as were given.
            notices: u16::try_from(composed.notices).unwrap_or(u16::MAX),
            moves,
            format: composed.format,
        };
        sink.owed
            .extend(intention.moves.iter().map(|step| step.source));
        sink.state = match look.kind {
            FileKind::Regular => State::Intended(intention),
            FileKind::Passing => State::Passing(intention, 0),
        };
        let passing = look.kind == FileKind::Passing;
        Ok(Ok(if passing {
            Prepared::Again
        } else {
            Prepared::Batch
        }))
    }

    /// A rotation takes the file away that the kernel's value may still speak of: what was written
    /// is told first. `begins_ns` is when the line was completed that may not go into the file.
    fn rotate<D: Disk<File = F>, Z: Zone>(
        &mut self,
        sink: &mut Sink<F>,
        rotation: Option<Rotation>,
        begins_ns: u64,
        disk: &mut D,
        zone: &mut Z,
        now: Now,
    ) -> Step<Prepared> {
        sink.bytes.clear();
        let (Some(rotation), Target::File(path)) = (rotation, &sink.target) else {
            return Ok(Ok(Prepared::Nothing));
        };
        if let (Rotation::Time(schedule), 0) = (&rotation, sink.length) {
            // Nothing to move: it was moved by whoever was killed before this could be stored, or
            // nothing was ever written.
            sink.deadline_ns = Some(schedule.next(begins_ns, zone));
            return Ok(Ok(Prepared::Again));
        }
        if sink.dirty_since_ns.is_some() {
            return Ok(Ok(Prepared::CommitFirst));
        }
        let result = match rotation {
            Rotation::Size { backups, .. } => {
                sink.open = None;
                rotate(disk, path, backups)?
            }
            Rotation::Empty { .. } => match &sink.open {
                Some(opened) => disk.empty(&opened.file)?,
                None => Ok(()),
            },
            Rotation::Time(schedule) => {
                sink.open = None;
                let deadline = sink.deadline_ns.unwrap_or(now.wall_ns.cast_signed());
                let suffix = schedule.suffix(deadline, zone);
                rotate_to(disk, path, &suffix, &schedule)?
            }
        };
        match result {
            Ok(()) => sink.rotation_retry = Default::default(),
            Err(trouble) => {
                if !sink.rotation_retry.has_failed() {
                    let event = Event::RotationFailed(sink.target.clone(), trouble);
                    self.events.push_back(event);
                }
                sink.rotation_retry.fail(now.monotonic_ns, &self.limits);
            }
        }
        Ok(Ok(Prepared::Again))
    }

    /// What each source of a sink could bring.
    fn parts(&self, route: &Route, held: &BTreeSet<Source>, now: Now) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let patience = self.patience(route.target());
        for (child, state) in &self.children {
            for source in Source::both(*child) {
                let own = state.source(source.stream);
                let here = |own: &Route| own.is(route);
                if !own.feed.is_empty()
                    && own.route.as_ref().is_some_and(here)
                    && !held.contains(&source)
                {
                    parts.push(part(source, state, patience, now));
                }
            }
        }
        parts
    }

    /// Everything that could be written is in the batch: what is left are unfinished lines.
    fn note_pending(&mut self, waiting: &[(Source, u64)], moves: &[Move], now: Now) {
        let moved: BTreeMap<Source, u64> =
            moves.iter().map(|step| (step.source, step.to.at)).collect();
        for &(source, from_at) in waiting {
            let Some(state) = self.children.get_mut(&source.child) else {
                continue;
            };
            let own = state.source_mut(source.stream);
            let at = moved.get(&source).copied().unwrap_or(from_at);
            if own.feed.end() > at && !own.feed.is_closed_by_gap() {
                own.idle_end = Some(own.feed.end());
                if own.pending.is_none_or(|(known, _)| known != at) {
                    own.pending = Some((at, now.monotonic_ns));
                }
            } else {
                own.pending = None;
                own.idle_end = None;
            }
        }
    }

    fn tell_drained(&mut self) {
        for (child, state) in &mut self.children {
            let done = |source: &super::SourceState| {
                source.route.is_some() && source.feed.has_ended() && source.feed.is_empty()
            };
            if !state.drained && state.acknowledged >= state.seen && state.sources.iter().all(done)
            {
                state.drained = true;
                self.events.push_back(Event::Drained(*child));
            }
        }
    }
}

fn part(source: Source, state: &ChildState, patience: u64, now: Now) -> Part<'_> {
    let own = state.source(source.stream);
    let feed = &own.feed;
    let first = feed.first();
    let gap = first.gap.map(|gap| {
        let time_ns = first
            .chunks
            .front()
            .map_or(now.wall_ns, |chunk| chunk.time_ns);
        (gap, time_ns)
    });
    let late = own
        .pending
        .filter(|(_, since)| since.saturating_add(patience) <= now.monotonic_ns);
    let force = if feed.is_closed_by_gap() {
        Some((Forced::Gap, 0))
    } else if feed.has_ended() {
        Some((Forced::Ended, 0))
    } else {
        late.map(|(at, _)| (Forced::TimedOut, at))
    };
    Part {
        source,
        pid: state.pid,
        name: &state.name,
        from: feed.position(),
        gap,
        chunks: &first.chunks,
        extent: Extent::Available(force),
    }
}

/// When a file is to be moved out of the way: as remembered; else by when it was last written; else
/// at once, which makes its first line decide.
fn deadline<F>(sink: &mut Sink<F>, schedule: &Schedule, look: &Look, zone: &mut impl Zone) -> i64 {
    if sink.deadline_ns.is_none() && sink.length > 0 {
        sink.deadline_ns = Some(schedule.next(look.mtime_ns, zone));
    }
    sink.deadline_ns.unwrap_or(0)
}

/// Makes sure that what is open is what has the name.
fn open<D: Disk>(sink: &mut Sink<D::File>, disk: &mut D) -> Step<Look> {
    if let (Some(opened), Target::File(path)) = (&sink.open, &sink.target) {
        let there = step!(disk.look_at(path));
        if there.is_none_or(|there| there.id != opened.id) {
            sink.open = None;
        }
    }
    if let Some(opened) = &sink.open {
        return disk.look(&opened.file);
    }
    let file = step!(disk.open(&sink.target));
    let look = step!(disk.look(&file));
    sink.open = Some(Open { file, id: look.id });
    Ok(Ok(look))
}

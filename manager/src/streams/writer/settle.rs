//! Deciding about batches that may or may not be in their files, after a restart or a short write.

use super::super::compose::{Batch, Bounds, Extent, Part, Unit, compose};
use super::super::disk::{Disk, Stop, Target, Trouble, TroubleKind};
use super::super::feed::Chunk;
use super::super::format::FORMATTER_VERSION;
use super::super::judge::{Cut, Rebuilt, Verdict, judge};
use super::super::notice::{Notice, NoticeKind};
use super::super::position::{Child, Source};
use super::super::sink::{Event, State};
use super::super::value::Intention;
use super::{Now, Writer};
use std::collections::VecDeque;

static NO_CHUNKS: VecDeque<Chunk> = VecDeque::new();

impl<F> Writer<F> {
    /// Judges every sink that needs it and can be judged now.
    pub(super) fn judge_all<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        now: Now,
    ) -> Result<(), Stop> {
        let due = self.sinks.values().filter(|sink| {
            sink.retry.at_ns <= now.monotonic_ns
                && matches!(&sink.state, State::Judging(intention) if self.has_evidence(intention))
        });
        let due: Vec<Target> = due.map(|sink| sink.target.clone()).collect();
        for target in due {
            let Some(sink) = self.sinks.get_mut(&target) else {
                continue;
            };
            let State::Judging(intention) = &sink.state else {
                continue;
            };
            let intention = intention.clone();
            let value = sink.to_value(Vec::new());
            let rebuilt = self.rebuild(&target, &intention);
            let verdict = judge(disk, &self.limits, &value, &intention, rebuilt.as_ref())?;
            let verdict = match verdict {
                Ok(verdict) => verdict,
                Err(trouble) => {
                    self.fail(&target, trouble, now);
                    continue;
                }
            };
            let (units, torn) = match verdict {
                Verdict::Done => {
                    self.complete(&target, intention, now);
                    continue;
                }
                Verdict::Unsure => {
                    self.decide_unsure(&target, &intention, now);
                    continue;
                }
                Verdict::Nothing => (0, false),
                Verdict::Part {
                    units,
                    cut: Cut::Clean,
                } => (units, false),
                Verdict::Part {
                    units,
                    cut: Cut::Torn,
                } => (units, true),
                Verdict::Part {
                    units,
                    cut:
                        Cut::Open {
                            file,
                            length,
                            from,
                            to,
                        },
                } => {
                    let line = rebuilt.as_ref().and_then(|rebuilt| {
                        let (_, begin) = rebuilt.whole(from);
                        Some((rebuilt.bytes.get(begin..to)?, from - begin))
                    });
                    let (line, there) = line.unwrap_or_default();
                    if let Err(trouble) = finish(disk, &target, &file, length, line, there)? {
                        self.fail(&target, trouble, now);
                        continue;
                    }
                    self.recover(&target);
                    (units + 1, false)
                }
            };
            let marks = rebuilt.map_or_else(Vec::new, |rebuilt| rebuilt.marks);
            self.decide_part(&target, &intention, &marks, units, torn, now);
        }
        Ok(())
    }

    /// Whether everything that the kernel still has of a batch has arrived.
    pub(super) fn has_evidence(&self, intention: &Intention) -> bool {
        intention.moves.iter().all(|step| {
            self.children.get(&step.source.child).is_none_or(|state| {
                let feed = &state.source(step.source.stream).feed;
                feed.end() >= step.to.at || feed.has_ended()
            })
        })
    }

    /// Composes the batch again, if its records are there and its format is known.
    fn rebuild(&self, target: &Target, intention: &Intention) -> Option<Rebuilt> {
        let sink = self.sinks.get(target)?;
        let notices = sink.notices.get(..usize::from(intention.notices))?;
        if intention.format.version != FORMATTER_VERSION {
            return None;
        }
        let mut parts = Vec::new();
        for step in &intention.moves {
            let start = step.gap.map_or(step.from, |(gap, _)| gap.behind());
            let state = self.children.get(&step.source.child);
            let feed = state.map(|state| &state.source(step.source.stream).feed);
            let chunks = match feed.filter(|feed| feed.holds(start, step.to)) {
                Some(feed) => &feed.first().chunks,
                None if start.at >= step.to.at => &NO_CHUNKS,
                None => return None,
            };
            parts.push(Part {
                source: step.source,
                pid: step.pid,
                name: &step.name,
                from: step.from,
                gap: step.gap,
                chunks,
                extent: Extent::Exactly(step.to, step.forced),
            });
        }
        let batch = Batch {
            lead: intention.lead,
            notices,
            parts,
        };
        let bounds = Bounds {
            batch_bytes: usize::MAX,
            line_bytes: self.limits.line_bytes,
            file_bytes: 0,
            max_bytes: None,
            deadline_ns: None,
        };
        let mut rebuilt = Rebuilt {
            bytes: Vec::new(),
            marks: Vec::new(),
        };
        let (bytes, marks) = (&mut rebuilt.bytes, &mut rebuilt.marks);
        compose(&batch, &bounds, &intention.format, None, bytes, marks);
        Some(rebuilt)
    }

    /// The first `units` units are in the file; of the next one there may be a piece that nobody
    /// can complete.
    fn decide_part(
        &mut self,
        target: &Target,
        intention: &Intention,
        marks: &[(usize, Unit)],
        units: usize,
        torn: bool,
        now: Now,
    ) {
        let mut reached: Vec<_> = intention
            .moves
            .iter()
            .map(|step| (step, step.from))
            .collect();
        let mut notices = 0;
        for (_, unit) in marks.iter().take(units) {
            match *unit {
                Unit::Lead => {}
                Unit::Notice => notices += 1,
                Unit::Part(index, position) => {
                    if let Some((_, at)) = reached.get_mut(index) {
                        *at = position;
                    }
                }
            }
        }
        let cut = marks
            .get(units)
            .filter(|_| torn)
            .and_then(|(_, unit)| match *unit {
                Unit::Part(index, behind) => {
                    let (step, at) = reached.get(index)?;
                    Some(Notice {
                        kind: NoticeKind::Torn,
                        source: step.source,
                        pid: step.pid,
                        time_ns: now.wall_ns,
                        from_at: at.at,
                        to_at: behind.at,
                    })
                }
                Unit::Lead | Unit::Notice => None,
            });
        #[cfg(test)]
        let cut =
            cut.filter(|_| !super::super::fault::is(super::super::fault::Fault::NoTornNotice));
        self.idle(target, notices, now);
        if let Some(notice) = cut {
            self.add_notice(target, notice, now);
        }
        let sources = reached.iter().map(|(step, _)| step.source).collect();
        for (step, at) in reached {
            if let Some((gap, _)) = step.gap.filter(|_| at != step.from) {
                self.events.push_back(Event::GapAnnounced(step.source, gap));
            }
            self.reach(step.source, at, now);
        }
        self.release(sources);
    }

    /// It cannot be found out what is in which file: everything follows, with a warning.
    fn decide_unsure(&mut self, target: &Target, intention: &Intention, now: Now) {
        self.idle(target, 0, now);
        let path = target.path().to_owned();
        for step in &intention.moves {
            #[cfg(test)]
            if super::super::fault::is(super::super::fault::Fault::NoRepeatNotice) {
                continue;
            }
            self.add_notice(
                target,
                Notice {
                    kind: NoticeKind::MayRepeat(path.clone()),
                    source: step.source,
                    pid: step.pid,
                    time_ns: now.wall_ns,
                    from_at: step.from.at,
                    to_at: step.to.at,
                },
                now,
            );
        }
        self.release(intention.moves.iter().map(|step| step.source).collect());
    }

    /// The batch is decided about. Whether the file can be written to again is not known by that.
    fn idle(&mut self, target: &Target, notices: usize, now: Now) {
        if let Some(sink) = self.sinks.get_mut(target) {
            sink.state = State::Idle;
            sink.notices.drain(..notices.min(sink.notices.len()));
            sink.touch(now.monotonic_ns);
        }
    }

    /// A notice goes where the lines that it is about will go.
    fn add_notice(&mut self, target: &Target, notice: Notice, now: Now) {
        let route = self.route(notice.source).unwrap_or(target).clone();
        self.events
            .push_back(Event::Noticed(route.clone(), notice.clone()));
        if let Some(sink) = self.sinks.get_mut(target).filter(|_| route != *target) {
            sink.gives = true;
        }
        if let Some(sink) = self.sinks.get_mut(&route) {
            sink.notices.push(notice);
            sink.touch(now.monotonic_ns);
        }
    }

    /// Notices about sources that have moved go along, unless they are in a batch already.
    pub(super) fn settle_notices(&mut self, now: Now) {
        let mut moving = Vec::new();
        for sink in self
            .sinks
            .values_mut()
            .filter(|sink| !sink.notices.is_empty())
        {
            let before = sink.notices.len();
            let in_batch = sink
                .batch()
                .map_or(0, |batch| usize::from(batch.notices))
                .min(before);
            let open = sink.notices.split_off(in_batch);
            let mut kept = std::mem::take(&mut sink.notices);
            for notice in open {
                let child = self.children.get(&notice.source.child);
                let route = child.map(|child| child.source(notice.source.stream).route.as_ref());
                match route {
                    Some(Some(route)) if !route.is(&sink.route) => {
                        moving.push((route.target().clone(), notice));
                    }
                    Some(_) => kept.push(notice),
                    // Not attached yet; or gone, and with it the lines that could be repeated.
                    None if self.alive.contains_key(&notice.source.child) => kept.push(notice),
                    None if sink.spec.is_some() => kept.push(notice),
                    None => {}
                }
            }
            sink.notices = kept;
            if sink.notices.len() < before {
                sink.gives = true;
                sink.touch(now.monotonic_ns);
            }
        }
        for (route, notice) in moving {
            if let Some(sink) = self.sinks.get_mut(&route) {
                sink.notices.push(notice);
                sink.touch(now.monotonic_ns);
            }
        }
    }

    /// A value could not be used, and nothing is remembered about this child: its lines may be in
    /// its files already.
    pub(super) fn doubt(&mut self, child: Child, pid: u32, now: Now) {
        for source in Source::both(child) {
            let Some(Target::File(path)) = self.route(source).cloned() else {
                continue;
            };
            let target = Target::File(path.clone());
            let notice = Notice {
                kind: NoticeKind::MayRepeat(path),
                source,
                pid,
                time_ns: now.wall_ns,
                from_at: 0,
                to_at: u64::MAX,
            };
            self.add_notice(&target, notice, now);
        }
    }
}

/// Appends the rest of a line of which `there` bytes end a file of this length, and makes sure that
/// it landed behind them: between look and write, others may have written, or emptied the file.
fn finish<D: Disk>(
    disk: &mut D,
    target: &Target,
    file: &D::File,
    length: u64,
    line: &[u8],
    there: usize,
) -> Result<Result<(), Trouble>, Stop> {
    let trouble = |why: &str| {
        let path = target.path().to_owned();
        let kind = TroubleKind::Failed;
        Ok(Err(Trouble {
            what: "complete the last line of",
            path,
            kind,
            why: why.to_owned(),
        }))
    };
    let rest = line.get(there..).unwrap_or_default();
    match disk.write(file, rest)? {
        Ok(written) if written == rest.len() => {}
        Ok(_) => return trouble("it took only a part (is the disk full?)"),
        Err(trouble) => return Ok(Err(trouble)),
    }
    match disk.position(file)? {
        Ok(at) if at == length + rest.len() as u64 => {}
        Ok(_) => return trouble("somebody else wrote to it"),
        Err(trouble) => return Ok(Err(trouble)),
    }
    match disk.read(file, length.saturating_sub(there as u64), line.len())? {
        Ok(found) if found == line => Ok(Ok(())),
        Ok(_) => trouble("somebody else changed it"),
        Err(trouble) => Ok(Err(trouble)),
    }
}

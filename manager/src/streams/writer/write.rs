//! Writing batches, and what follows from how it went.

use super::super::disk::{Disk, FileId, Stop, Target, Trouble, TroubleKind};
use super::super::position::{Position, Source};
use super::super::sink::{Event, Open, State};
use super::super::target::Nature;
use super::super::value::Intention;
use super::{Now, Writer};
use std::collections::BTreeSet;

impl<F> Writer<F> {
    pub(super) fn write_all<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        now: Now,
    ) -> Result<(), Stop> {
        let targets: Vec<Target> = self
            .sinks
            .values()
            .filter(|sink| match sink.state {
                State::Announced(_) => true,
                State::Passing(..) => sink.retry.at_ns <= now.monotonic_ns,
                State::Idle | State::Intended(_) | State::Judging(_) => false,
            })
            .map(|sink| sink.target.clone())
            .collect();
        for target in targets {
            let Some(sink) = self.sinks.get_mut(&target) else {
                continue;
            };
            match std::mem::replace(&mut sink.state, State::Idle) {
                State::Announced(intention) => self.write(&target, intention, disk, now)?,
                State::Passing(intention, from) => {
                    self.pass(&target, intention, from, disk, now)?;
                }
                other => sink.state = other,
            }
        }
        Ok(())
    }

    fn write<D: Disk<File = F>>(
        &mut self,
        target: &Target,
        mut intention: Intention,
        disk: &mut D,
        now: Now,
    ) -> Result<(), Stop> {
        let Some(sink) = self.sinks.get_mut(target) else {
            return Ok(());
        };
        let Some(opened) = &sink.open else {
            sink.state = State::Judging(intention);
            return Ok(());
        };
        let trouble = match disk.write(&opened.file, &sink.bytes)? {
            Ok(written) if written == sink.bytes.len() => {
                self.complete(target, intention, now);
                return Ok(());
            }
            Ok(_) => short_write(target),
            Err(trouble) => {
                // Linux may move the time of the last write although it wrote nothing.
                let look = disk.look(&opened.file)?;
                if let Ok(look) = look.map(|look| (look.length, look.mtime_ns))
                    && look.0 == sink.length
                    && look.1 != intention.mtime_ns
                {
                    intention.mtime_ns = look.1;
                    sink.touch(now.monotonic_ns);
                }
                trouble
            }
        };
        sink.state = State::Judging(intention);
        self.fail(target, trouble, now);
        Ok(())
    }

    /// Writes to something that cannot be looked at afterwards: it goes on where it was.
    fn pass<D: Disk<File = F>>(
        &mut self,
        target: &Target,
        intention: Intention,
        from: usize,
        disk: &mut D,
        now: Now,
    ) -> Result<(), Stop> {
        let Some(sink) = self.sinks.get_mut(target) else {
            return Ok(());
        };
        let mut from = from;
        if sink.open.is_none() {
            match disk.open(target)? {
                Ok(file) => {
                    let id = FileId::default();
                    sink.open = Some(Open { file, id });
                    // Who takes over has not seen how the line began.
                    let before = sink.bytes.get(..from).unwrap_or_default();
                    from = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
                }
                Err(trouble) => {
                    sink.state = State::Passing(intention, from);
                    self.fail(target, trouble, now);
                    return Ok(());
                }
            }
        }
        let rest = sink.bytes.get(from..).unwrap_or_default();
        let written = match &sink.open {
            Some(opened) => disk.write(&opened.file, rest)?,
            None => Ok(0),
        };
        let trouble = match written {
            Ok(written) if written == rest.len() => {
                self.complete(target, intention, now);
                return Ok(());
            }
            Ok(written) => {
                sink.state = State::Passing(intention, from + written);
                return Ok(());
            }
            Err(trouble) => trouble,
        };
        match (target.nature(), trouble.kind) {
            (_, TroubleKind::Busy) => {
                sink.state = State::Passing(intention, from);
                sink.retry.at_ns = now.monotonic_ns.saturating_add(self.limits.commit_idle_ns);
            }
            (Nature::Console, _) => {
                // Nobody reads it any more. Files must not wait for that.
                self.events.push_back(Event::ConsoleLost(trouble));
                self.complete(target, intention, now);
            }
            (Nature::Path, _) => {
                sink.state = State::Passing(intention, from);
                self.fail(target, trouble, now);
            }
            (Nature::Service, _) => {
                sink.open = None;
                sink.state = State::Passing(intention, from);
                self.fail(target, trouble, now);
            }
        }
        Ok(())
    }

    /// The whole batch is where it belongs.
    pub(in super::super) fn complete(&mut self, target: &Target, intention: Intention, now: Now) {
        let Some(sink) = self.sinks.get_mut(target) else {
            return;
        };
        sink.state = State::Idle;
        sink.notices
            .drain(..usize::from(intention.notices).min(sink.notices.len()));
        sink.touch(now.monotonic_ns);
        self.recover(target);
        for step in &intention.moves {
            if let Some((gap, _)) = step.gap {
                self.events.push_back(Event::GapAnnounced(step.source, gap));
            }
            #[cfg(test)]
            let step = &super::super::fault::moved(step, intention.length, &self.limits);
            self.reach(step.source, step.to, now);
        }
        let sources = intention.moves.iter().map(|step| step.source).collect();
        self.release(sources);
    }

    /// Something was written: what went wrong before is over.
    pub(in super::super) fn recover(&mut self, target: &Target) {
        if let Some(sink) = self.sinks.get_mut(target) {
            if sink.retry.has_failed() {
                self.events.push_back(Event::SinkRecovered(target.clone()));
            }
            sink.retry = Default::default();
        }
    }

    /// A source stands here now.
    pub(in super::super) fn reach(&mut self, source: Source, to: Position, now: Now) {
        let Some(state) = self.children.get_mut(&source.child) else {
            // Not attached yet; where it is routed to, it will go on from here.
            return;
        };
        let own = state.source_mut(source.stream);
        own.floor = own.floor.later(to);
        if let Some(sink) = own
            .route
            .as_ref()
            .and_then(|route| self.sinks.get_mut(route.target()))
        {
            sink.touch(now.monotonic_ns);
        }
    }

    /// Records that no judgement needs any more may go.
    pub(in super::super) fn release(&mut self, sources: Vec<Source>) {
        let held: BTreeSet<Source> = self.judging().collect();
        for source in sources.into_iter().filter(|source| !held.contains(source)) {
            if let Some(state) = self.children.get_mut(&source.child) {
                let own = state.source_mut(source.stream);
                own.feed.advance_to(own.floor);
                own.pending = own.pending.filter(|&(at, _)| at >= own.floor.at);
                own.idle_end = own.idle_end.filter(|_| own.pending.is_some());
            }
        }
    }

    /// Something went wrong with a sink's file: it pauses, the others do not.
    pub(in super::super) fn fail(&mut self, target: &Target, trouble: Trouble, now: Now) {
        if let Some(sink) = self.sinks.get_mut(target) {
            // What is open may be the trouble itself.
            if !matches!(sink.state, State::Passing(..)) {
                sink.open = None;
            }
            if !sink.retry.has_failed() {
                self.events
                    .push_back(Event::SinkFailing(target.clone(), trouble));
            }
            sink.retry.fail(now.monotonic_ns, &self.limits);
        }
    }
}

fn short_write(target: &Target) -> Trouble {
    let path = target.path().to_owned();
    let why = "it took only a part (is the disk full?)".to_owned();
    Trouble {
        what: "write",
        path,
        kind: TroubleKind::Failed,
        why,
    }
}

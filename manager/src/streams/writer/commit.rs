//! Telling the kernel: values first, then acknowledgements.

use super::super::disk::{Commit, Keeper, Stop, Target};
use super::super::position::{Child, Joint, Position, Source};
use super::super::sink::{Sink, State};
use super::super::value::encode;
use super::{Now, Writer};
use kingpole_protocol::Sequence;
use kingpole_protocol::record::Stream;
use std::collections::{BTreeMap, BTreeSet};

/// One sink's part of a message.
struct Change {
    target: Target,
    positions: BTreeMap<Source, Position>,
    value: Option<Vec<u8>>,
}

impl<F> Writer<F> {
    /// Sends every value that is not what the kernel has, with the intention of each batch that is
    /// not known to be complete, and acknowledges what all of them agree on.
    pub(in super::super) fn commit<K: Keeper>(
        &mut self,
        keeper: &mut K,
        now: Now,
    ) -> Result<(), Stop> {
        let acknowledgements = self.acknowledgements();
        let mut changes = Vec::new();
        for (target, sink) in &self.sinks {
            let due = sink.dirty_since_ns.is_some() || matches!(sink.state, State::Intended(_));
            #[cfg(test)]
            let due = due || super::super::fault::sends_without_intention(&sink.state);
            if due {
                changes.push(self.change(target, sink, &acknowledgements));
            }
        }
        // What moves to another sink is stored there first.
        changes.sort_by_key(|change| {
            let sink = self.sinks.get(&change.target);
            sink.is_some_and(|sink| sink.gives || sink.spec.is_none())
        });
        let mut changes = changes.into_iter().peekable();
        loop {
            let mut message = Commit::default();
            let mut told = Vec::new();
            let mut bytes = 0;
            while let Some(change) = changes.peek() {
                let more = change.value.as_ref().map_or(0, Vec::len);
                if bytes > 0 && bytes + more > self.limits.commit_bytes {
                    break;
                }
                bytes += more;
                let Some(change) = changes.next() else { break };
                let Some(sink) = self.sinks.get(&change.target) else {
                    continue;
                };
                if change.value.is_some() || sink.stored.is_some() {
                    message
                        .values
                        .push((sink.key.clone(), change.value.clone()));
                }
                told.push(change);
            }
            let last = changes.peek().is_none();
            if last {
                message.acknowledgements.clone_from(&acknowledgements);
            }
            if !message.values.is_empty() || !message.acknowledgements.is_empty() {
                keeper.commit(message)?;
            }
            for change in told {
                self.answered(change, now);
            }
            if last {
                break;
            }
        }
        for (child, through) in acknowledgements {
            if let Some(state) = self.children.get_mut(&child) {
                state.acknowledged = through.next();
            }
        }
        let unused = |sink: &Sink<F>| {
            sink.spec.is_none()
                && sink.stored.is_none()
                && matches!(sink.state, State::Idle)
                && sink.notices.is_empty()
        };
        self.sinks.retain(|_, sink| !unused(sink));
        Ok(())
    }

    fn answered(&mut self, change: Change, now: Now) {
        let Some(sink) = self.sinks.get_mut(&change.target) else {
            return;
        };
        let gone = change.value.is_none();
        let open = sink.batch().into_iter().flat_map(|batch| &batch.moves);
        let open: BTreeSet<Source> = open.map(|step| step.source).collect();
        sink.owed = open
            .into_iter()
            .chain(change.positions.keys().copied())
            .collect();
        sink.stored = if gone { None } else { Some(change.positions) };
        sink.dirty_since_ns = None;
        sink.gives = false;
        sink.state = match std::mem::replace(&mut sink.state, State::Idle) {
            State::Intended(intention) => State::Announced(intention),
            other => other,
        };
        // What lost sources to this sink may forget them now.
        let gained: Vec<Target> = self
            .sinks
            .values()
            .filter(|other| other.target != change.target && other.spec.is_none())
            .filter(|other| other.stored.is_some() && other.dirty_since_ns.is_none())
            .filter(|other| self.settled && self.positions(other, &[]).len() < stored_len(other))
            .map(|other| other.target.clone())
            .collect();
        for target in gained {
            if let Some(sink) = self.sinks.get_mut(&target) {
                sink.touch(now.monotonic_ns);
            }
        }
    }

    /// Sinks whose value says more than it has to, as far as is known now.
    pub(super) fn with_obsolete_values(&self) -> Vec<Target> {
        let sinks = self.sinks.values().filter(|sink| {
            sink.spec.is_none() || self.positions(sink, &[]).len() < stored_len(sink)
        });
        sinks.map(|sink| sink.target.clone()).collect()
    }

    fn change(
        &self,
        target: &Target,
        sink: &Sink<F>,
        acknowledgements: &[(Child, Sequence)],
    ) -> Change {
        let positions = self.positions(sink, acknowledgements);
        let needed = sink.spec.is_some()
            || !positions.is_empty()
            || !sink.notices.is_empty()
            || sink.outstanding().is_some()
            || !self.settled;
        let value = needed.then(|| {
            let mut value = sink.to_value(positions.iter().map(|(s, p)| (*s, *p)).collect());
            #[cfg(test)]
            super::super::fault::forget_intention(&sink.state, &mut value);
            value.positions.shrink_to_fit();
            encode(&value)
        });
        Change {
            target: target.clone(),
            positions,
            value,
        }
    }

    /// The positions that belong into a sink's value: of the sources that are routed there, unless
    /// the kernel's answered acknowledgement says the same; and of those that were, until another
    /// value has them.
    fn positions(
        &self,
        sink: &Sink<F>,
        acknowledgements: &[(Child, Sequence)],
    ) -> BTreeMap<Source, Position> {
        let mut positions = BTreeMap::new();
        for (child, state) in &self.children {
            for source in Source::both(*child) {
                let own = state.source(source.stream);
                let routed = own.route.as_ref().is_some_and(|to| to.is(&sink.route));
                let kept = || {
                    sink.owed.contains(&source)
                        && !self.is_stored_elsewhere(source, own.floor, &sink.target)
                };
                let started = own.floor != Position::START;
                if started && (routed || kept()) && !self.is_implied(source, acknowledgements) {
                    positions.insert(source, own.floor);
                }
            }
        }
        // Children that nobody attached yet, or will.
        for source in sink.stored.iter().flat_map(BTreeMap::keys) {
            let waits = self.alive.contains_key(&source.child);
            if let Some(position) = self.remembered.get(source).filter(|_| waits) {
                positions.insert(*source, *position);
            }
        }
        positions
    }

    /// Whether another value has this position and will go on having it: that of the sink to which
    /// the source is routed, or, as long as it is not, the first one of those that have it. (If two
    /// could rely on each other, one message could drop it from both.)
    fn is_stored_elsewhere(&self, source: Source, position: Position, here: &Target) -> bool {
        let stored = |sink: &Sink<F>| {
            let stored = sink.stored.as_ref().and_then(|stored| stored.get(&source));
            stored.is_some_and(|stored| stored.at >= position.at)
        };
        match self.route(source) {
            Some(route) => route != here && self.sinks.get(route).is_some_and(stored),
            None => self
                .sinks
                .range(..here.clone())
                .any(|(_, sink)| stored(sink)),
        }
    }

    /// Whether the kernel's own memory of what is acknowledged says where this source stands. Only
    /// what the kernel has *answered* counts: a message may be cut between its parts.
    #[cfg_attr(
        not(test),
        expect(unused_variables, reason = "the mistake of counting them is tested")
    )]
    fn is_implied(&self, source: Source, acknowledgements: &[(Child, Sequence)]) -> bool {
        let Some(state) = self.children.get(&source.child) else {
            return false;
        };
        let floor = state.source(source.stream).floor;
        let answered = state.acknowledged;
        #[cfg(test)]
        let answered = super::super::fault::counted(answered, source.child, acknowledgements);
        state.baseline.is_some()
            && floor.joint == Joint::Fresh
            && floor.offset == 0
            && floor.sequence <= answered
    }

    /// How far each child's output need not be kept: as far as both of its streams' sinks agree.
    fn acknowledgements(&self) -> Vec<(Child, Sequence)> {
        let mut acknowledgements = Vec::new();
        for (child, state) in &self.children {
            if state.sources.iter().any(|source| source.route.is_none()) {
                continue;
            }
            let wanted = Stream::ALL.map(|stream| state.wanted(stream));
            let next = wanted.into_iter().min().unwrap_or(Sequence(1));
            #[cfg(test)]
            let next = super::super::fault::acknowledged(next, *child, &self.sinks);
            if next > state.acknowledged {
                acknowledgements.push((*child, Sequence(next.0.saturating_sub(1))));
            }
        }
        acknowledgements
    }
}

fn stored_len<F>(sink: &Sink<F>) -> usize {
    sink.stored.as_ref().map_or(0, BTreeMap::len)
}

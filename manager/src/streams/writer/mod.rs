//! All sinks and all sources together: what is read goes in, files are written, positions are
//! remembered, output is acknowledged.
//!
//! One turn judges what is uncertain, composes a batch for each sink that has something, tells the
//! kernel all intentions in one message together with the acknowledgement of what was written
//! before, and writes. Time is an input; the disk and the kernel are traits, and every call on them
//! may be the last.

mod commit;
mod prepare;
mod settle;
mod write;

use super::disk::Target;
use super::feed::{Chunk, Feed};
use super::limits::Limits;
use super::position::{Child, Position, Source};
use super::sink::{Event, Sink, SinkSpec, State};
use super::target::Route;
use super::value::{KEY_PREFIX, decode};
use kingpole_protocol::Sequence;
use kingpole_protocol::record::Stream;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For pauses and delays; never steps back.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970, for notices.
    pub wall_ns: u64,
}

/// What to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is more that could be done at once.
    Again,
    /// Nothing before new output arrives or [`Writer::poll_deadline`] is reached.
    Wait,
}

/// What the kernel knows about acknowledged output. With it, sources that stand exactly behind what
/// is acknowledged need not be in any value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// The record behind the last acknowledged one.
    pub sequence: Sequence,
    /// Bytes of stdout before it.
    pub stdout_at: u64,
    /// Bytes of stderr before it.
    pub stderr_at: u64,
}

impl Baseline {
    fn position(&self, stream: Stream) -> Position {
        let at = match stream {
            Stream::Stdout => self.stdout_at,
            Stream::Stderr => self.stderr_at,
        };
        Position {
            sequence: self.sequence,
            at,
            ..Position::START
        }
    }
}

/// One stream of one child.
#[derive(Debug)]
pub(super) struct SourceState {
    pub(super) feed: Feed,
    /// Where it stands by everything that is known; beyond the feed's position while a batch is
    /// judged for which the records are still wanted.
    pub(super) floor: Position,
    pub(super) route: Option<Route>,
    /// Where an unfinished line begins, and since when it waits (monotonic nanoseconds).
    pub(super) pending: Option<(u64, u64)>,
    /// Up to this stream offset there is nothing but an unfinished line.
    pub(super) idle_end: Option<u64>,
}

/// One child process.
#[derive(Debug)]
pub(super) struct ChildState {
    pub(super) pid: u32,
    /// Empty until it is attached.
    pub(super) name: Arc<str>,
    /// The record that comes next.
    pub(super) seen: Sequence,
    /// The record behind the last that the kernel was told about, and has answered.
    pub(super) acknowledged: Sequence,
    /// Whether the kernel remembers what stands at the acknowledged record.
    pub(super) baseline: Option<Baseline>,
    pub(super) sources: [SourceState; 2],
    pub(super) drained: bool,
}

impl ChildState {
    pub(super) fn source(&self, stream: Stream) -> &SourceState {
        let [stdout, stderr] = &self.sources;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    pub(super) fn source_mut(&mut self, stream: Stream) -> &mut SourceState {
        let [stdout, stderr] = &mut self.sources;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    /// The lowest record that is still wanted of one stream.
    pub(super) fn wanted(&self, stream: Stream) -> Sequence {
        let feed = &self.source(stream).feed;
        let position = feed.position().sequence;
        match feed.first_held() {
            Some(first) => first.max(position),
            None => self.seen.max(position),
        }
    }
}

/// What a child's lines say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its Linux process id.
    pub pid: u32,
    /// What people call it.
    pub name: Arc<str>,
}

/// A child that the kernel holds.
#[derive(Debug, Clone, Copy)]
pub struct Alive {
    /// Which.
    pub child: Child,
    /// Its Linux process id.
    pub pid: u32,
    /// What the kernel knows about its acknowledged output, if it knows.
    pub baseline: Option<Baseline>,
}

/// See the module.
#[derive(Debug)]
pub struct Writer<F> {
    pub(super) limits: Limits,
    pub(super) sinks: BTreeMap<Target, Sink<F>>,
    /// Boxed, as a map that grows at its end leaves almost half of its room empty: 0.2 KB for each child.
    pub(super) children: BTreeMap<Child, Box<ChildState>>,
    /// The kernel's children when this writer began, as far as nobody attached them yet.
    alive: BTreeMap<Child, Alive>,
    /// Positions found in values, for children that are not attached yet.
    remembered: BTreeMap<Source, Position>,
    pub(super) events: VecDeque<Event>,
    follow: VecDeque<(Child, Sequence)>,
    /// A value could not be used: what is not remembered may be in some file already.
    unusable: bool,
    /// Every child that will be attached has been.
    settled: bool,
}

impl<F> Writer<F> {
    /// A writer that goes on from what the kernel remembers: `values` are those whose key begins
    /// with [`KEY_PREFIX`], `alive` are all processes that the kernel holds. Must be the only one:
    /// whoever wrote before must be dead.
    #[must_use]
    pub fn new(limits: Limits, values: &[(String, Vec<u8>)], alive: &[Alive]) -> Self {
        let mut writer = Self {
            limits,
            sinks: BTreeMap::new(),
            children: BTreeMap::new(),
            alive: alive.iter().map(|alive| (alive.child, *alive)).collect(),
            remembered: BTreeMap::new(),
            events: VecDeque::new(),
            follow: VecDeque::new(),
            unusable: false,
            settled: false,
        };
        for (key, bytes) in values.iter().filter(|(key, _)| key.starts_with(KEY_PREFIX)) {
            match decode(bytes) {
                Ok(value) => {
                    writer
                        .sinks
                        .insert(value.target.clone(), Sink::from_value(value));
                }
                Err(error) => {
                    writer.unusable = true;
                    writer
                        .events
                        .push_back(Event::ValueUnusable(key.clone(), error));
                }
            }
        }
        for sink in writer.sinks.values() {
            for (source, position) in sink.stored.iter().flatten() {
                let known = writer.remembered.entry(*source).or_insert(*position);
                #[cfg(test)]
                if super::fault::is(super::fault::Fault::PositionNotMaximum) {
                    continue;
                }
                *known = known.later(*position);
            }
        }
        let involved: BTreeSet<Child> = writer
            .sinks
            .values()
            .filter_map(Sink::outstanding)
            .flat_map(|intention| intention.moves.iter().map(|step| step.source.child))
            .collect();
        for child in involved {
            writer.ensure_child(child, None);
        }
        writer
    }

    /// Output of this child goes to these sinks from now on. May be called again when that changes;
    /// what is on its way goes where it was going.
    pub fn attach(
        &mut self,
        child: Child,
        label: Label,
        stdout: &SinkSpec,
        stderr: &SinkSpec,
        now: Now,
    ) {
        let doubtful = self.unusable
            && self.alive.contains_key(&child)
            && !Source::both(child)
                .iter()
                .any(|source| self.remembered.contains_key(source));
        let pid = label.pid;
        self.ensure_child(child, Some(pid));
        if let Some(state) = self.children.get_mut(&child) {
            state.name = label.name;
        }
        for (stream, spec) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let sink = self.sinks.entry(spec.target.clone());
            let sink = sink.or_insert_with(|| Sink::new(spec.target.clone()));
            match &sink.spec {
                Some(known) if known != spec => {
                    self.events
                        .push_back(Event::SpecConflict(spec.target.clone()));
                }
                _ => sink.spec = Some(spec.clone()),
            }
            sink.touch(now.monotonic_ns);
            // It was made above.
            let Some(state) = self.children.get_mut(&child) else {
                continue;
            };
            sink.routed += 1;
            let source = state.source_mut(stream);
            let old = source.route.replace(sink.route.clone());
            source.idle_end = None;
            if let Some(old) = old.and_then(|old| self.sinks.get_mut(old.target())) {
                old.leave();
                old.touch(now.monotonic_ns);
            }
        }
        if doubtful {
            self.doubt(child, pid, now);
        }
    }

    /// Tells the kernel everything with the next turn, instead of waiting for more to tell.
    pub fn hurry(&mut self) {
        for sink in self.sinks.values_mut() {
            sink.dirty_since_ns = sink.dirty_since_ns.map(|_| 0);
        }
    }

    /// Whether everything that was written is told to the kernel.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.sinks
            .values()
            .all(|sink| sink.dirty_since_ns.is_none())
    }

    /// Replaces what is configured for a sink, for every child that writes there, from the next
    /// batch on.
    pub fn configure(&mut self, spec: &SinkSpec) {
        if let Some(sink) = self
            .sinks
            .get_mut(&spec.target)
            .filter(|sink| sink.spec.is_some())
        {
            sink.spec = Some(spec.clone());
            sink.rotation_retry = Default::default();
        }
    }

    /// The kernel does not hold this child any more: whatever was not written is gone.
    pub fn detach(&mut self, child: Child) {
        let gone = self.children.remove(&child);
        let sources = gone.into_iter().flat_map(|state| state.sources);
        for route in sources.filter_map(|source| source.route) {
            if let Some(sink) = self.sinks.get_mut(route.target()) {
                sink.leave();
            }
        }
        self.alive.remove(&child);
        self.remembered.retain(|source, _| source.child != child);
    }

    /// Every child that will be attached has been: values that nobody needs may go.
    pub fn handle_attached_all(&mut self, now: Now) {
        self.settled = true;
        for target in self.with_obsolete_values() {
            if let Some(sink) = self.sinks.get_mut(&target) {
                sink.touch(now.monotonic_ns);
            }
        }
    }

    /// Whether something that is remembered could go once it is certain that nobody is attached any more. If not,
    /// there is nothing to wait for.
    #[must_use]
    pub fn waits_for_children(&self) -> bool {
        let is_unused = |sink: &Sink<F>| sink.spec.is_none();
        !self.settled && (!self.remembered.is_empty() || self.sinks.values().any(is_unused))
    }

    /// A child whose output is wanted, and from which record on.
    pub fn poll_follow(&mut self) -> Option<(Child, Sequence)> {
        self.follow.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A record of a followed child arrived.
    pub fn handle_record(&mut self, child: Child, stream: Stream, chunk: Chunk) {
        if let Some(state) = self.children.get_mut(&child) {
            state.seen = state.seen.max(chunk.sequence.next());
            state.source_mut(stream).feed.push(chunk);
        }
    }

    /// Records of a followed child are lost: it goes on with record `to`, and the streams with
    /// these offsets.
    pub fn handle_gap(&mut self, child: Child, to: Sequence, stdout_at: u64, stderr_at: u64) {
        if let Some(state) = self.children.get_mut(&child) {
            state.seen = state.seen.max(to);
            state.source_mut(Stream::Stdout).feed.lose(to, stdout_at);
            state.source_mut(Stream::Stderr).feed.lose(to, stderr_at);
        }
    }

    /// A stream brings no more; `next` is the record that would come next, `bytes` what it brought
    /// in all.
    pub fn handle_stream_ended(
        &mut self,
        child: Child,
        stream: Stream,
        next: Sequence,
        bytes: u64,
    ) {
        if let Some(state) = self.children.get_mut(&child) {
            state.seen = state.seen.max(next);
            let source = state.source_mut(stream);
            source.feed.finish(next, bytes);
            source.idle_end = None;
        }
    }

    /// The stream offset behind everything that has arrived of a child.
    #[must_use]
    pub fn end(&self, child: Child, stream: Stream) -> Option<u64> {
        let state = self.children.get(&child)?;
        Some(state.source(stream).feed.end())
    }

    /// Bytes that are held for a child because they are not yet in their files.
    #[must_use]
    pub fn held_bytes(&self, child: Child) -> u64 {
        self.children.get(&child).map_or(0, |state| {
            state
                .sources
                .iter()
                .map(|source| source.feed.bytes())
                .fold(0, u64::saturating_add)
        })
    }

    /// Whether a batch of this child is judged, so that its records are wanted without any limit.
    #[must_use]
    pub fn is_judged(&self, child: Child) -> bool {
        self.judging().any(|source| source.child == child)
    }

    /// Everything that was read is written and acknowledged, except unfinished lines.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.sinks.values().all(|sink| {
            matches!(sink.state, State::Idle)
                && sink.dirty_since_ns.is_none()
                && (sink.notices.is_empty() || sink.spec.is_none())
        }) && self.children.values().all(|state| {
            state.sources.iter().all(|source| {
                source.route.is_none()
                    || source.feed.is_empty()
                    || source.idle_end == Some(source.feed.end())
            })
        })
    }

    /// Sources with a batch of which it is not known what is in the file.
    pub(super) fn judging(&self) -> impl Iterator<Item = Source> + '_ {
        self.sinks
            .values()
            .filter(|sink| matches!(sink.state, State::Judging(_) | State::Passing(..)))
            .filter_map(Sink::batch)
            .flat_map(|intention| intention.moves.iter().map(|step| step.source))
    }

    /// Makes the child's state if the kernel has the child, and asks for its output.
    fn ensure_child(&mut self, child: Child, pid: Option<u32>) {
        if let Some(state) = self.children.get_mut(&child) {
            state.pid = pid.unwrap_or(state.pid);
            return;
        }
        let alive = self.alive.remove(&child);
        let Some(pid) = pid.or(alive.map(|alive| alive.pid)) else {
            return;
        };
        let baseline = alive.and_then(|alive| alive.baseline);
        let sources = Source::both(child).map(|source| {
            let floor = baseline.map_or(Position::START, |base| base.position(source.stream));
            let floor = floor.later(self.remembered.remove(&source).unwrap_or(floor));
            // A batch that is judged has to be composed again: from its own beginning.
            let wanted = self.sinks.values().filter_map(Sink::outstanding);
            let wanted = wanted.flat_map(|intention| &intention.moves);
            let wanted = wanted
                .filter(|step| step.source == source)
                .map(|step| step.from);
            let from = wanted
                .min_by_key(|from| from.at)
                .filter(|from| from.at < floor.at);
            SourceState {
                feed: Feed::new(from.unwrap_or(floor)),
                floor,
                route: None,
                pending: None,
                idle_end: None,
            }
        });
        let from = sources
            .iter()
            .map(|source| source.feed.position().sequence)
            .min();
        let from = from.unwrap_or(Sequence(1));
        let acknowledged = baseline.map_or(Sequence(1), |base| base.sequence);
        let state = ChildState {
            pid,
            name: "".into(),
            seen: from,
            acknowledged,
            baseline,
            sources,
            drained: false,
        };
        self.children.insert(child, Box::new(state));
        self.follow.push_back((child, from));
    }
}

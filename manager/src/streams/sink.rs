//! One place where output goes: a log file or the console, with the batch that is on its way there.
//!
//! Must not know about children or the kernel.

use super::compose::Lead;
use super::disk::{FileId, Target, Trouble};
use super::format::Style;
use super::limits::Limits;
use super::notice::Notice;
use super::position::{Position, Source};
use super::rotate::Backups;
use super::schedule::Schedule;
use super::target::Route;
use super::value::{Intention, SinkValue, key};
use std::collections::{BTreeMap, BTreeSet};

/// When a file has become too old or too long, and what is done with it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Before it reaches so many bytes it is moved out of the way; with no backups it grows on, as
    /// in Circus.
    Size {
        /// So many.
        max_bytes: u64,
        /// How many old ones are kept.
        backups: Backups,
    },
    /// Before it reaches so many bytes it is made empty: an option of ours, for those who want the
    /// newest lines in bounded space and nothing else.
    Empty {
        /// So many.
        max_bytes: u64,
    },
    /// It is moved out of the way when a line's own time is behind the deadline.
    Time(Schedule),
}

impl Rotation {
    /// The bytes that the file may not reach.
    pub(super) fn max_bytes(&self) -> Option<u64> {
        match *self {
            Self::Size {
                backups: Backups(0),
                ..
            }
            | Self::Time(_) => None,
            Self::Size { max_bytes, .. } | Self::Empty { max_bytes } => {
                Some(max_bytes).filter(|most| *most > 0)
            }
        }
    }
}

/// What the configuration says about a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSpec {
    /// Where to.
    pub target: Target,
    /// How lines look.
    pub style: Style,
    /// What keeps it from growing.
    pub rotation: Option<Rotation>,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Open<F> {
    pub(super) file: F,
    pub(super) id: FileId,
}

/// How far the batch has come.
#[derive(Debug)]
pub(super) enum State {
    /// There is none.
    Idle,
    /// Composed. It must not be written before the kernel has the intention.
    Intended(Intention),
    /// The kernel has the intention: it is to be written now.
    Announced(Intention),
    /// It may be in the file, or partly. Nothing is written before that is found out.
    Judging(Intention),
    /// On its way into something that cannot be looked at afterwards; so many bytes are gone.
    Passing(Intention, usize),
}

/// A pause after failures.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    /// Not before this time (monotonic nanoseconds).
    pub(super) at_ns: u64,
}

impl Retry {
    /// Waits twice as long as after the failure before.
    pub(super) fn fail(&mut self, now_ns: u64, limits: &Limits) {
        let factor = 1_u64 << self.failures.min(20);
        let pause = limits
            .retry_min_ns
            .saturating_mul(factor)
            .min(limits.retry_max_ns);
        self.failures = self.failures.saturating_add(1);
        self.at_ns = now_ns.saturating_add(pause);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

#[derive(Debug)]
pub(super) struct Sink<F> {
    pub(super) target: Target,
    /// How sources get here.
    pub(super) route: Route,
    /// How many do.
    pub(super) routed: usize,
    pub(super) key: String,
    /// `None`: no child's output is routed here any more; only its value is left.
    pub(super) spec: Option<SinkSpec>,
    pub(super) open: Option<Open<F>>,
    /// The file as it was when the last batch was intended.
    pub(super) file: FileId,
    pub(super) length: u64,
    pub(super) anchor: Vec<u8>,
    pub(super) state: State,
    /// The batch.
    pub(super) bytes: Vec<u8>,
    pub(super) notices: Vec<Notice>,
    pub(super) deadline_ns: Option<i64>,
    /// Positions in the kernel's value as last answered; `None` when it has no value.
    pub(super) stored: Option<BTreeMap<Source, Position>>,
    /// Sources whose positions this sink's value has or was about to have: it keeps them until
    /// another value does.
    pub(super) owed: BTreeSet<Source>,
    /// Since when the kernel's value is not what it should be (monotonic nanoseconds).
    pub(super) dirty_since_ns: Option<u64>,
    pub(super) retry: Retry,
    pub(super) rotation_retry: Retry,
    /// Something has moved from here to another sink: that one's value is sent first.
    pub(super) gives: bool,
}

impl<F> Sink<F> {
    pub(super) fn new(target: Target) -> Self {
        Self {
            key: key(&target),
            route: Route::new(target.clone()),
            routed: 0,
            target,
            spec: None,
            open: None,
            file: FileId::default(),
            length: 0,
            anchor: Vec::new(),
            state: State::Idle,
            bytes: Vec::new(),
            notices: Vec::new(),
            deadline_ns: None,
            stored: None,
            owed: BTreeSet::new(),
            dirty_since_ns: None,
            retry: Retry::default(),
            rotation_retry: Retry::default(),
            gives: false,
        }
    }

    /// As the kernel remembers it.
    pub(super) fn from_value(value: SinkValue) -> Self {
        let mut sink = Self::new(value.target);
        sink.file = value.file;
        sink.length = value.length;
        sink.anchor = value.anchor;
        sink.notices = value.notices;
        sink.deadline_ns = value.deadline_ns;
        sink.owed = value.positions.iter().map(|(source, _)| *source).collect();
        sink.stored = Some(value.positions.into_iter().collect());
        if let Some(intention) = value.intention {
            sink.owed
                .extend(intention.moves.iter().map(|step| step.source));
            sink.state = State::Judging(intention);
        }
        sink
    }

    /// As the kernel shall remember it.
    pub(super) fn to_value(&self, positions: Vec<(Source, Position)>) -> SinkValue {
        SinkValue {
            target: self.target.clone(),
            file: self.file,
            length: self.length,
            anchor: self.anchor.clone(),
            positions,
            notices: self.notices.clone(),
            deadline_ns: self.deadline_ns,
            intention: self.outstanding().cloned(),
        }
    }

    /// The intention that goes with every value until the batch is known to be complete. What passes
    /// by cannot be judged, so it has none.
    pub(super) fn outstanding(&self) -> Option<&Intention> {
        match &self.state {
            State::Idle | State::Passing(..) => None,
            State::Intended(intention)
            | State::Announced(intention)
            | State::Judging(intention) => Some(intention),
        }
    }

    /// The batch that is not complete, whatever its state.
    pub(super) fn batch(&self) -> Option<&Intention> {
        match &self.state {
            State::Passing(intention, _) => Some(intention),
            _ => self.outstanding(),
        }
    }

    /// One source less comes here; with the last of them its configuration goes.
    pub(super) fn leave(&mut self) {
        self.routed = self.routed.saturating_sub(1);
        if self.routed == 0 {
            self.spec = None;
        }
    }

    pub(super) fn touch(&mut self, now_ns: u64) {
        self.dirty_since_ns.get_or_insert(now_ns);
    }

    /// How the file ends, and what a batch has to begin with because of it.
    pub(super) fn set_checkpoint(&mut self, file: FileId, length: u64, anchor: Vec<u8>) -> Lead {
        let open_line = anchor.last().is_some_and(|&last| last != b'\n');
        self.file = file;
        self.length = length;
        self.anchor = anchor;
        #[cfg(test)]
        if super::fault::is(super::fault::Fault::NoLead) {
            return Lead::Nothing;
        }
        if open_line {
            Lead::LineEnd
        } else {
            Lead::Nothing
        }
    }
}

/// Something that people or the rest of the manager should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Writing fails; it is tried again. Said once until it recovers.
    SinkFailing(Target, Trouble),
    /// Writing works again.
    SinkRecovered(Target),
    /// The console cannot be written to; what is for it is thrown away.
    ConsoleLost(Trouble),
    /// A file could not be moved out of the way; it grows on until that works.
    RotationFailed(Target, Trouble),
    /// A line in the file says that bytes were lost.
    GapAnnounced(Source, super::feed::Gap),
    /// A line of this kind will be in the file.
    Noticed(Target, Notice),
    /// Two configurations of one file; the first one stands.
    SpecConflict(Target),
    /// A remembered value of this key cannot be used.
    ValueUnusable(String, super::value::ValueError),
    /// Both streams have ended, and everything is in its place and acknowledged.
    Drained(super::position::Child),
}

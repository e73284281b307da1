//! Deliberate mistakes, one at a time, so that the checker itself can be tested.

use super::disk::Target;
use super::limits::Limits;
use super::position::Child;
use super::sink::{Sink, State};
use super::value::{Move, SinkValue};
use kingpole_protocol::Sequence;
use std::cell::Cell;
use std::collections::BTreeMap;

/// Mistakes that the simulation has to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A batch is acknowledged with its intention, before it is written.
    AcknowledgeBeforeWrite,
    /// Recovery takes every intended batch for written.
    RecoveryAlwaysDone,
    /// Recovery never looks at the file.
    RecoveryNeverLooks,
    /// The time of the last write is not compared.
    NoMtime,
    /// A cut line is repeated without a word.
    NoTornNotice,
    /// Lines are repeated without a word.
    NoRepeatNotice,
    /// A line that others left unfinished is not closed.
    NoLead,
    /// After a change of configuration, the position of the first value found counts.
    PositionNotMaximum,
    /// A line is cut when it exceeds the limit instead of when it reaches it.
    CutAtExceeds,
    /// Lost bytes are passed over in silence.
    GapNotAnnounced,
    /// After a large batch a source stands one byte too far.
    OneByteTooFar,
    /// A value that is sent for another sink's sake goes without its intention.
    IntentionLost,
    /// Rotation moves every name up, hole or not.
    ClassicRenameChain,
    /// A source is left out of the value although its acknowledgement is not answered yet.
    LeftOutTooEarly,
    /// A batch goes on beyond the file's deadline.
    LateLines,
    /// That an empty file still has the room that was set aside for it counts for nothing.
    RoomOverlooked,
    /// Room is set aside anew although the kernel still has an intention that counts on the old one.
    RoomTooEarly,
    /// A second writer does not wait for the first one's end.
    NoLock,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Whether this mistake is to be made.
pub(super) fn is(fault: Fault) -> bool {
    FAULT.get() == Some(fault)
}

/// Runs with a mistake, on this thread.
pub(super) fn with<T>(fault: Option<Fault>, run: impl FnOnce() -> T) -> T {
    FAULT.set(fault);
    let result = run();
    FAULT.set(None);
    result
}

/// See [`Fault::AcknowledgeBeforeWrite`].
pub(super) fn acknowledged<F>(
    next: Sequence,
    child: Child,
    sinks: &BTreeMap<Target, Sink<F>>,
) -> Sequence {
    if !is(Fault::AcknowledgeBeforeWrite) {
        return next;
    }
    let intended = sinks.values().filter_map(|sink| match &sink.state {
        State::Intended(intention) => Some(intention),
        _ => None,
    });
    let moves = intended.flat_map(|intention| &intention.moves);
    let to = moves
        .filter(|step| step.source.child == child)
        .map(|step| step.to.sequence);
    to.max().map_or(next, |to| to.max(next))
}

/// See [`Fault::LeftOutTooEarly`].
pub(super) fn counted(answered: Sequence, child: Child, sent: &[(Child, Sequence)]) -> Sequence {
    let sent = sent
        .iter()
        .find(|(of, _)| *of == child)
        .map(|(_, through)| through.next());
    match sent {
        Some(sent) if is(Fault::LeftOutTooEarly) => answered.max(sent),
        _ => answered,
    }
}

/// See [`Fault::IntentionLost`].
pub(super) fn sends_without_intention(state: &State) -> bool {
    is(Fault::IntentionLost) && matches!(state, State::Judging(_))
}

/// See [`Fault::IntentionLost`].
pub(super) fn forget_intention(state: &State, value: &mut SinkValue) {
    if sends_without_intention(state) {
        value.intention = None;
    }
}

/// See [`Fault::OneByteTooFar`].
pub(super) fn moved(step: &Move, length: u64, limits: &Limits) -> Move {
    let mut step = step.clone();
    if is(Fault::OneByteTooFar) && length * 4 >= limits.batch_bytes as u64 * 3 {
        step.to.at += 1;
        step.to.offset += 1;
    }
    step
}

//! What became of a spawn that a dead kernel had begun.
//!
//! Looks once and never waits: ask again on a timer of a millisecond, and when the guard says that
//! something ended. Until it is resolved, a repeated request for the same key gets no answer.

use crate::crash::crash_point;
use crate::memory::{Abort, ChildFailure, Slot};
use crate::signals::has_called_exec;

/// What an intent turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The program was started, and the slot says so now. It may have ended since.
    Running,
    /// No program was started. Forget the intent and free the slot.
    NeverStarted,
    /// The child got as far as to fail, and is gone. Forget the intent and free the slot.
    Failed(ChildFailure),
    /// The child has not got far enough to tell, or nobody has reaped it yet.
    NotYet,
}

/// Looks at an intent of an earlier kernel. A `Running` one is marked so in its slot.
#[must_use]
pub fn resolve(slot: Slot<'_>) -> Resolution {
    let resolution = look(slot);
    if resolution == Resolution::Running {
        slot.set_running();
        crash_point("adopt: resolve running");
    }
    resolution
}

fn look(slot: Slot<'_>) -> Resolution {
    let Some(pid) = slot.pid() else {
        return match slot.abort_claim() {
            Abort::NeverStarted => Resolution::NeverStarted,
            // Its pid appears in a moment.
            Abort::ChildHasIt => Resolution::NotYet,
        };
    };
    if slot.ended().is_some() {
        return match slot.failure() {
            Some(failure) => Resolution::Failed(failure),
            None if slot.is_claimed_by_child() => Resolution::Running,
            None => Resolution::NeverStarted,
        };
    }
    if slot.failure().is_some() {
        // A zombie, or about to be one: whoever reaps it publishes first.
        return Resolution::NotYet;
    }
    // The pid is its own as long as it has not ended, which is why that is asked once more behind.
    match has_called_exec(pid) {
        Some(true) if slot.ended().is_none() => Resolution::Running,
        _ => Resolution::NotYet,
    }
}

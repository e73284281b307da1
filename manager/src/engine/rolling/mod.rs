//! Rolling runs: the processes of a watcher are replaced while never fewer than a number of them are
//! ready.
//!
//! ```text
//! Queued --begin--> Forward --all replaced and ready---------------> Done
//!                      |
//!                      | a new process is not ready in time, or crashes
//!                      v
//!                     Back --what was there before is there again--> Failed
//! ```
//!
//! A later word (stop, rm, quit) ends a run in any state: Superseded.
//!
//! What is remembered is which processes are old (a range of the kernel's numbers), the limits and
//! the direction; how far the run is follows from what is alive. So it does not matter which manager
//! takes the next step. [`decide`] is the arithmetic, [`drive`] applies it to a watcher, [`begin`]
//! accepts and concludes, [`report`] tells.
//!
//! Back, of a reload: new processes that are not ready are stopped, and so is what is too much, with
//! the same care for the ready ones. The successors that are ready stay, because they are the same
//! program. Back, of a deploy: the options are what they were, and everything that was started from
//! the others is old.

mod begin;
mod decide;
mod drive;
mod report;
mod versions;

pub(super) use drive::Pulse;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{Moment, ProcessId};
use super::remember::OptionWord;
use crate::command::rolling::{Caller, Purpose, RollOptions, RunLimits, RunState, Trouble};
use crate::config::amend::Changes;

/// A run that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Which of the watcher's runs it is.
    pub(super) run: u64,
    pub(super) purpose: Purpose,
    pub(super) by: Caller,
    /// When it was asked for.
    pub(super) at: Moment,
    pub(super) options: RollOptions,
    /// What a deploy or rollback changes: new texts of options, or that an earlier change is taken
    /// back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) changes: Changes,
}

/// A run that is going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rolling {
    pub(super) order: Order,
    pub(super) limits: RunLimits,
    /// Old are those after this,
    pub(super) after: ProcessId,
    /// up to this.
    pub(super) through: ProcessId,
    /// How many it found to replace.
    pub(super) to_replace: u32,
    /// What made it turn back, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) back: Option<Trouble>,
    /// Fingerprint of the options that it leads away from, of a deploy, forward as well as back: a
    /// process that was on its way when the direction was set has a later number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) away_from: Option<String>,
    /// What operators had said before about the options that it changes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) before: BTreeMap<String, OptionWord>,
}

/// A version of a watcher: what operators had made of its options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) number: u64,
    /// The run that rolled it out; none for what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<u64>,
    pub(super) at: Moment,
    pub(super) by: Caller,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) purpose: Option<Purpose>,
    pub(super) cmd: String,
    pub(super) words: BTreeMap<String, String>,
    pub(super) state: RunState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl Rolling {
    /// Whether the numbers say that a process is to be replaced.
    pub(super) fn covers(&self, process: ProcessId) -> bool {
        self.after < process && process <= self.through
    }
}

/// What became of the last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rolled {
    pub(super) order: Order,
    pub(super) limits: RunLimits,
    pub(super) to_replace: u32,
    pub(super) replaced: u32,
    pub(super) ended: Moment,
    pub(super) state: RunState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<Trouble>,
}

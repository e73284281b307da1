//! One process of a watcher, from the request to its forgotten end.
//!
//! ```text
//! wanted --Spawn--> Spawning --Spawned--> Child --end--> Drain --OutputDrained--> acknowledged
//!                      |                    | stop
//!                      +--SpawnFailed--> (back-off)      Child with a Stop: asked, then forced
//! ```

use super::ids::{Moment, Pid, Ticket, WorkerId};
use super::labels::Identity;
use super::notify::Voice;
use super::readiness::Progress;

/// A spawn that was asked for and not answered. There is no process to speak of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spawning {
    /// Recognises the answer.
    pub(super) ticket: Ticket,
    /// Repeated if the connection is lost before the answer.
    pub(super) key: String,
    /// Label for the process.
    pub(super) restarts: u32,
    /// Fingerprint of the options it is started from, which may be others by the time it runs.
    pub(super) configuration: String,
    /// The same without the environment.
    pub(super) program: String,
    /// How often it is told to say that it is alive, microseconds.
    pub(super) watchdog_us: Option<u64>,
    /// Whether the kernel was asked.
    pub(super) request: Request,
}

/// How far a spawn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `before_spawn` has to answer first.
    AwaitsHook,
    /// The kernel was asked.
    Sent,
}

/// A live process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// What its labels say.
    pub(super) identity: Identity,
    /// Linux's number.
    pub(super) pid: Pid,
    /// When it was started.
    pub(super) started: Moment,
    /// When it is too old, if there is a `max_age`.
    pub(super) expires: Option<Moment>,
    /// Whether it is ready, or how far on the way.
    pub(super) progress: Progress,
    /// What it said of itself.
    pub(super) voice: Voice,
    /// Set once it was asked to stop.
    pub(super) stop: Option<Stop>,
    /// Whether its streams have everything already, which a process can arrange by closing both.
    pub(super) drained: Drained,
}

impl Child {
    pub(super) const fn worker(&self) -> WorkerId {
        self.identity.worker
    }

    pub(super) const fn stopping(&self) -> bool {
        self.stop.is_some()
    }
}

/// Progress of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// When patience is over; `None` while `before_signal` has not answered.
    pub(super) force_at: Option<Moment>,
    /// Whether SIGKILL was sent before.
    pub(super) force: Force,
}

/// How far a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    /// It was asked.
    NotYet,
    /// It was killed.
    Used,
}

/// Whether all output of a process is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// No.
    NotYet,
    /// Yes.
    Yes,
}

/// A process that ended and whose output is not stored yet, so that the kernel still holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Which worker it was.
    pub(super) worker: WorkerId,
    /// For reports.
    pub(super) pid: Pid,
}

//! The contract about probes: what the engine asks a shell to look at, and what it can be told.
//! Types only; when a probe is sent and what its outcome means is in `engine::readiness`.

use std::time::Duration;

use super::ids::{Pid, ProbeId, ProcessId, WatcherKey, WorkerId};
use crate::config::model::Probe;

/// Something to be looked at, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Returned with the outcome.
    pub id: ProbeId,
    /// Whose process it is about; its configuration has the environment and the variables.
    pub watcher: WatcherKey,
    /// For `$(circus.wid)`.
    pub worker: WorkerId,
    /// The kernel's number of the process.
    pub process: ProcessId,
    /// Linux's number of the process.
    pub pid: Pid,
    /// Others of the same watcher who may answer in its place, where that does not count; at most
    /// [`SIBLINGS_MAX`](super::limits::SIBLINGS_MAX).
    pub siblings: Vec<Pid>,
    /// What to look at, as written.
    pub probe: Probe,
    /// How long it may take. The engine counts this itself and cancels what takes longer; the
    /// shell may end it earlier.
    pub limit: Duration,
}

/// What a look came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It is as it should be.
    Passed,
    /// It is not; why, for people.
    Failed(String),
}

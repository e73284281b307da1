//! What commands are answered with: plain data with stable JSON names, for programs and for the
//! texts of the verbs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rolling::{RunReport, VersionReport};
use super::statistics::{ManagerStatistics, SocketDetail, WatcherStatistics};
use crate::config::difference::Difference;
use crate::engine::{Epoch, Generation, Moment, Pid, ProcessId, WorkerId};

/// The answer to a command, or why it was refused. A refused command has changed
/// nothing, with the one exception of [`RefusalKind::NotRemembered`].
pub type Response = Result<Answer, Refusal>;

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// Watchers change or have changed, in their order.
    Changed {
        /// What became of each.
        watchers: Vec<WatcherOutcome>,
    },
    /// Processes were sent a signal.
    Signaled {
        /// Their pids.
        pids: Vec<Pid>,
    },
    /// Everything about watchers.
    Status(StatusReport),
    /// What watchers do, in starting order.
    States {
        /// Names as configured, and states.
        watchers: Vec<(String, WatcherState)>,
    },
    /// Names of watchers as configured, sorted.
    List {
        /// The names.
        watchers: Vec<String>,
    },
    /// Pids of live processes.
    Pids {
        /// By watcher.
        watchers: Vec<WatcherPids>,
    },
    /// How many.
    Number {
        /// So many.
        number: u64,
    },
    /// Options and their values, as in Circus: numbers and booleans as such, `stop_signal` as its
    /// number, `env` as an object.
    Options {
        /// By key.
        options: BTreeMap<String, Value>,
    },
    /// What a changed configuration asks for.
    Plan {
        /// What changes.
        plan: Difference,
        /// The same for people, a line each.
        lines: Vec<String>,
        /// Whether it is done, and not only told.
        applied: bool,
        /// What became of the watchers whose processes had to be replaced, as far as it is known.
        watchers: Vec<WatcherOutcome>,
    },
    /// What processes use.
    Stats {
        /// By watcher.
        watchers: Vec<WatcherStatistics>,
    },
    /// What the manager uses; nothing before a shell has looked.
    Dstats {
        /// It.
        manager: Option<ManagerStatistics>,
    },
    /// Managed sockets.
    Sockets {
        /// By name.
        sockets: Vec<SocketDetail>,
    },
    /// Rolling runs: those that go on, and the last ones of watchers where none does.
    Runs {
        /// One for each watcher that has or had one.
        runs: Vec<RunReport>,
    },
    /// Versions of a watcher, from the oldest that is remembered on.
    History {
        /// Its name as configured.
        watcher: String,
        /// Its versions.
        versions: Vec<VersionReport>,
    },
    /// The manager leaves.
    Leaving,
}

/// Pids of one watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherPids {
    /// Its name as configured.
    pub watcher: String,
    /// Of its live processes, from the oldest on.
    pub pids: Vec<Pid>,
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what, and what to do.
    pub reason: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// No watcher of that name, or nothing matches the pattern.
    UnknownWatcher,
    /// No such process among the watcher's.
    UnknownProcess,
    /// No option of that name.
    UnknownOption,
    /// A watcher of that name is there already.
    AlreadyExists,
    /// The configuration file cannot be used; nothing has changed.
    InvalidConfiguration,
    /// An argument makes no sense.
    Invalid,
    /// A rolling run goes on already.
    Busy,
    /// Too many commands wait already.
    TooMany,
    /// The manager is leaving.
    Leaving,
    /// Another manager has taken over.
    Replaced,
    /// The process kernel is out of reach.
    KernelLost,
    /// It will be done, but the kernel would not remember it, so a restart of the manager may undo
    /// it. The only kind after which something has changed.
    NotRemembered,
}

/// What became of one watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherOutcome {
    /// Its name as configured.
    pub watcher: String,
    /// How it went.
    pub result: WatcherResult,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many processes it shall have now.
    pub numprocesses: u32,
    /// Pids that were started by this.
    #[serde(default)]
    pub started: Vec<Pid>,
    /// Pids that were stopped by this.
    #[serde(default)]
    pub stopped: Vec<Pid>,
    /// Pids that were there before and still are.
    #[serde(default)]
    pub kept: Vec<Pid>,
}

/// How a change of one watcher went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatcherResult {
    /// It will be done, whatever happens to the manager.
    Accepted,
    /// It is done.
    Done,
    /// It could not be done, or not yet; see the reason.
    Failed,
    /// A later command made it pointless.
    Superseded,
    /// There was nothing to do (a singleton cannot grow, for example).
    Unchanged,
}

/// Everything about watchers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Whether the kernel is within reach.
    pub kernel: KernelLink,
    /// The selected watchers in starting order.
    pub watchers: Vec<WatcherStatus>,
    /// All sockets of the configuration.
    pub sockets: Vec<SocketStatus>,
    /// How many processes in the kernel are not ours.
    pub foreign_processes: u32,
}

/// The engine's view of its connection to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum KernelLink {
    /// The facts below are fresh.
    Connected {
        /// Fencing number of our lease.
        epoch: Epoch,
        /// The kernel's generation.
        generation: Generation,
    },
    /// The facts below are the last known.
    Lost,
}

/// One watcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatcherStatus {
    /// Its name as configured.
    pub name: String,
    /// What it does.
    pub state: WatcherState,
    /// Why it does not do what one might expect: why it stopped, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many processes it shall have when it runs.
    pub numprocesses: u32,
    /// How many the configuration says, where operators have changed it.
    pub configured: u32,
    /// How many are alive.
    pub actual: u32,
    /// How many of them are ready.
    #[serde(default)]
    pub ready: u32,
    /// How many ended by themselves and were replaced, since it was first started.
    pub restarts: u64,
    /// Milliseconds until the next attempt to start a process, while it is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// The command it is busy with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// How many commands wait behind that.
    #[serde(default)]
    pub queued: u32,
    /// What happens next, and what would change that: a sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// The last ends that nobody asked for, the newest one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<ProcessEnd>,
    /// Its live processes, by worker id.
    pub processes: Vec<ProcessStatus>,
}

/// How a process ended that nobody had asked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnd {
    /// Which of the watcher's.
    pub worker: WorkerId,
    /// Linux's number then.
    pub pid: Pid,
    /// Exit status, or the negative number of the signal.
    pub exit_code: i32,
    /// How long it had run, milliseconds.
    pub lived_ms: u64,
    /// Milliseconds since then.
    pub ago_ms: u64,
    /// Why it was stopped, if the manager did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The last lines it wrote, as far as this manager has seen them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// What a watcher does, in Circus's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatcherState {
    /// No processes, and none wanted.
    Stopped,
    /// On the way to its number of processes for the first time since it was started.
    Starting,
    /// Reached its number of processes, and keeps it.
    Active,
    /// No processes wanted, some still alive.
    Stopping,
}

impl WatcherState {
    /// Circus's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Stopping => "stopping",
        }
    }
}

/// One live process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Which of the watcher's.
    pub worker: WorkerId,
    /// Linux's number.
    pub pid: Pid,
    /// The kernel's number.
    pub process: ProcessId,
    /// What it does.
    pub state: ProcessState,
    /// Whether it works already.
    #[serde(default)]
    pub readiness: Readiness,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_reason: Option<String>,
    /// What it does, in its own words (`STATUS=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// When it was started, nanoseconds of the boot clock.
    pub started: Moment,
    /// Milliseconds since then.
    pub uptime_ms: u64,
    /// How many processes of this worker id ended by themselves before it.
    pub restarts: u32,
    /// Whether it was started from another configuration than today's; a reload or restart
    /// replaces it.
    pub outdated: bool,
}

impl ProcessStatus {
    /// What it does, in one word for people: whether it is ready, while it runs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match (self.state, self.readiness) {
            (ProcessState::Running, Readiness::Starting | Readiness::Unready) => {
                self.readiness.name()
            }
            (state, _) => state.name(),
        }
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It was asked to stop.
    Stopping,
}

impl ProcessState {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// Whether a process works, which is more than that it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// It runs and is not ready yet.
    Starting,
    /// It is what the `ready` option asks for; without one, it runs.
    #[default]
    Ready,
    /// It has failed, or was asked to stop.
    Unready,
}

impl Readiness {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "not ready",
        }
    }
}

/// One socket of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it is there.
    pub state: SocketState,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a socket is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketState {
    /// Asked for.
    Pending,
    /// Held by the kernel.
    Ready,
    /// Refused; tried again.
    Failed,
}

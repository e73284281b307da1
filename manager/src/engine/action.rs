//! Everything the engine can ask for. Types only; see [`super::input`] for the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::hook::HookRequest;
use super::ids::{
    CommandId, HookId, Moment, Pid, ProbeId, ProcessId, Ticket, WatcherKey, WorkerId, WriteId,
};
use super::probe::ProbeRequest;
use crate::command::Response;
use crate::config::model::{Configuration, SignalNumber};

/// Something shall be done.
///
/// The shell takes actions in order and sends those for the kernel in this order over one
/// connection, without waiting for answers. The engine relies on that: what justifies an action
/// is remembered by a [`Action::SetValue`] in front of it, so whatever prefix the kernel has
/// seen, the next manager knows why.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make and bind a socket of the configuration; answered by `SocketReady` or `SocketFailed`.
    MakeSocket {
        /// Its name in the configuration.
        socket: String,
    },
    /// Close a socket that no watcher needs any more.
    CloseSocket {
        /// Its name in the kernel.
        kernel_name: String,
    },
    /// Wait for connections at these sockets of the configuration and at no others; answered by
    /// `ConnectionWaits`, once for each.
    AwaitConnections {
        /// Their names.
        sockets: BTreeSet<String>,
    },
    /// Start a process; answered by `Spawned` or `SpawnFailed`.
    Spawn(SpawnRequest),
    /// Send a signal to a process that the kernel holds. If it is gone, nothing happens and its
    /// end arrives by itself.
    Signal {
        /// To whom.
        process: ProcessId,
        /// What.
        signal: SignalNumber,
        /// How wide.
        target: SignalTarget,
    },
    /// From now on store the output of this process in its watcher's streams, from where an
    /// earlier manager left off. Comes once per process and connection, also for processes that
    /// have ended and are held only for their output; answered by `OutputDrained` in the end.
    AttachOutput(OutputSource),
    /// Tell when this process writes a line in which the regular expression is found, to be answered
    /// by `LineSeen` once; or do not any more. Comes before the process's `AttachOutput` where it
    /// concerns all that it has written.
    AwaitLine {
        /// Which.
        process: ProcessId,
        /// As written.
        regex: Option<String>,
    },
    /// Tell in the log what this process wrote last: it was the reason to give something up.
    TellLastWords {
        /// Its watcher's name as configured.
        watcher: String,
        /// Linux's number.
        pid: Pid,
    },
    /// The notifications up to this number have had their effect: they may be forgotten.
    AcknowledgeNotes {
        /// Of the last one.
        through: u64,
    },
    /// The end is accounted for and all output is stored: the kernel may forget the process.
    AcknowledgeEnd {
        /// Which.
        process: ProcessId,
    },
    /// Remember something in the kernel, or forget it (`None`); answered by `ValueStored` or
    /// `ValueRefused`.
    SetValue {
        /// Returned with the answer.
        write: WriteId,
        /// Name of the value.
        key: String,
        /// Its content, or nothing to remove it.
        value: Option<String>,
    },
    /// From now on this is the configuration, with what was changed at run time: what follows is
    /// to be done by it.
    Configure(Arc<Configuration>),
    /// Tell the resident memory of these processes; answered by `MemoryMeasured` for those that
    /// still run.
    MeasureMemory {
        /// Which.
        processes: Vec<(ProcessId, Pid)>,
    },
    /// Read the configuration file again; answered by `ConfigurationRead`.
    ReadConfiguration {
        /// Returned with the answer.
        command: CommandId,
    },
    /// Call a hook; answered by `HookAnswered`. Needs no kernel.
    CallHook(HookRequest),
    /// The answer of this hook is not wanted any more; what runs for it may be ended.
    CancelHook {
        /// Which.
        hook: HookId,
    },
    /// Look whether something is as it should be; answered by `Probed`. Needs no kernel.
    Probe(ProbeRequest),
    /// The outcome of this probe is not wanted any more; what runs for it may be ended.
    CancelProbe {
        /// Which.
        probe: ProbeId,
    },
    /// Answer a command. What it promises is remembered by the kernel already.
    Reply {
        /// Whose.
        command: CommandId,
        /// The answer.
        response: Response,
    },
    /// Tell the world, in the words of Circus's events.
    Publish(Event),
    /// A line for the manager's log.
    Log {
        /// How important.
        level: Level,
        /// Whole sentence with its object; no secrets.
        text: String,
    },
    /// The manager is done: flush streams, then exit. Only refusals of commands that still come
    /// follow.
    Finished(Outcome),
}

/// A process to be started. The shell builds the specification from the watcher's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnRequest {
    /// Returned with the answer.
    pub ticket: Ticket,
    /// Same key, same process: a repeated request with it starts nothing new.
    pub key: String,
    /// Key of the watcher in the configuration.
    pub watcher: WatcherKey,
    /// For `$(circus.wid)`.
    pub worker: WorkerId,
    /// Name in the kernel.
    pub name: String,
    /// What the next manager recognises it by.
    pub labels: BTreeMap<String, String>,
}

/// A process whose output is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSource {
    /// Which.
    pub process: ProcessId,
    /// For prefixes.
    pub pid: Pid,
    /// Whose streams. The watcher may be gone from the configuration; then its output has
    /// nowhere to go and is passed to the manager's own.
    pub watcher: WatcherKey,
    /// Which worker.
    pub worker: WorkerId,
}

/// How wide a signal is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalTarget {
    /// The process alone.
    #[default]
    Process,
    /// Its process group, itself included.
    Group,
    /// Itself and all its descendants, in whatever session.
    Tree,
    /// All its descendants without itself.
    Descendants,
    /// Its direct children without itself.
    Children,
}

/// Importance of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who follow each step.
    Debug,
    /// What happens.
    Info,
    /// What an operator should look at.
    Warning,
    /// What failed.
    Error,
}

/// One event, `watcher.NAME.ACTION` of Circus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Name of the watcher as configured.
    pub watcher: String,
    /// When it happened.
    pub at: Moment,
    /// What happened.
    pub action: EventAction,
}

impl Event {
    /// Circus's topic: `watcher.`, the name in lower case with spaces replaced by `_`, the action.
    #[must_use]
    pub fn topic(&self) -> String {
        format!("watcher.{}.{}", res_name(&self.watcher), self.action.name())
    }
}

/// The name of a watcher in topics: lower case, with spaces replaced by `_`.
#[must_use]
pub fn res_name(watcher: &str) -> String {
    watcher.to_lowercase().replace(' ', "_")
}

/// What happened to a watcher or one of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventAction {
    /// It reached its number of processes.
    Start,
    /// Its last process ended and none shall follow.
    Stop,
    /// A process was started, or found running by a new manager.
    Spawn {
        /// Of the process.
        pid: Pid,
    },
    /// A process ended.
    Reap {
        /// Of the process.
        pid: Pid,
        /// Exit status, or the negative number of the signal.
        exit_code: i32,
    },
    /// A process was asked or forced to stop.
    Kill {
        /// Of the process.
        pid: Pid,
    },
    /// A process is ready, where its watcher says when that is (ours).
    Ready {
        /// Of the process.
        pid: Pid,
    },
    /// A process did not become ready in time and is replaced (ours).
    Unready {
        /// Of the process.
        pid: Pid,
        /// Why.
        error: String,
    },
    /// All processes were replaced, or told to reload themselves.
    Reload,
    /// An option was changed.
    Updated,
    /// It was made at run time.
    Add,
    /// It was removed at run time.
    Remove,
    /// A hook has answered, whatever the answer.
    HookSuccess {
        /// Name of the hook.
        name: String,
    },
    /// A hook failed.
    HookFailure {
        /// Name of the hook.
        name: String,
        /// Why.
        error: String,
    },
}

impl EventAction {
    /// Circus's word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Spawn { .. } => "spawn",
            Self::Reap { .. } => "reap",
            Self::Kill { .. } => "kill",
            Self::Ready { .. } => "ready",
            Self::Unready { .. } => "unready",
            Self::Reload => "reload",
            Self::Updated => "updated",
            Self::Add => "add",
            Self::Remove => "remove",
            Self::HookSuccess { .. } => "hook_success",
            Self::HookFailure { .. } => "hook_failure",
        }
    }
}

/// Why the manager is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All children run on; the next manager takes over where this one stopped.
    Detached,
    /// What is not `use_papa` has been stopped, the rest runs on.
    Quit,
    /// Everything of ours has been stopped and forgotten; the kernel may be stopped if nobody
    /// else has anything in it.
    ShutDown,
    /// The same, because an essential watcher has ended for good.
    EssentialEnded {
        /// Its exit status, which shall be the manager's.
        status: u8,
    },
    /// Another manager has the lease.
    Replaced,
}

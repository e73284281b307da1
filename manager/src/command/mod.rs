//! The one vocabulary in which the manager is asked for things. HTTP, ZeroMQ and the `kingpole`
//! command translate into it and out of it; the engine alone decides what it means.
//!
//! As JSON a command is an object with its verb under `command` and its arguments beside it:
//! `{"command": "restart", "watchers": ["web*"], "wait": true}`. Arguments with a default may be
//! left out, unknown ones are ignored.

pub mod options;
pub mod response;
pub mod rolling;
pub mod statistics;

use serde::{Deserialize, Serialize};

pub use options::{Add, GetOptions, GlobalOptions, ReloadConfig, Remove, SetOptions, Stopping};
pub use response::{
    Answer, KernelLink, ProcessEnd, ProcessState, ProcessStatus, Readiness, Refusal, RefusalKind,
    Response, SocketState, SocketStatus, StatusReport, WatcherOutcome, WatcherPids, WatcherResult,
    WatcherState, WatcherStatus,
};
pub use rolling::{
    Caller, Deploy, Roll, RollOptions, Rollback, RunReport, RunState, VersionReport,
};
pub use statistics::{
    ManagerStatistics, ProcessInfo, ProcessStatistics, SocketDetail, StatsRequest,
    WatcherStatistics,
};

use crate::engine::SignalTarget;

/// Something the manager is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    /// Start watchers. All of them means those with `autostart`.
    Start(Change),
    /// Stop watchers; they stay stopped until they are started, also across managers.
    Stop(Change),
    /// Stop all processes of watchers, then start them again.
    Restart(Change),
    /// Replace the processes of watchers without an interruption.
    Reload(Reload),
    /// Raise the number of processes.
    Incr(Step),
    /// Lower the number of processes.
    Decr(Step),
    /// Set the number of processes.
    Scale(Scale),
    /// Send a signal to processes.
    Signal(SignalRequest),
    /// Stop single processes; they are replaced.
    Kill(KillRequest),
    /// Everything about watchers and their processes.
    Status(Selection),
    /// Names and states of watchers and nothing else: what monitors ask all the time.
    States(Selection),
    /// Names of watchers.
    List(Selection),
    /// Pids of live processes, by watcher.
    ListPids(Selection),
    /// How many watchers there are.
    NumWatchers,
    /// How many processes are alive.
    NumProcesses(Selection),
    /// Make a watcher that no file knows; it stays until it is removed, also across managers.
    Add(Add),
    /// Take watchers away, those of the file too; they stay away until the file says something
    /// else about them.
    Rm(Remove),
    /// Change options of watchers; they stay changed until the file says something else.
    Set(SetOptions),
    /// Options of one watcher by name.
    Get(GetOptions),
    /// All options of one watcher.
    Options(GetOptions),
    /// Options of the manager itself.
    GlobalOptions(GlobalOptions),
    /// Read the configuration again and do what has changed in it.
    ReloadConfig(ReloadConfig),
    /// What processes use: CPU, memory and so on.
    Stats(StatsRequest),
    /// The same of the manager.
    Dstats,
    /// Managed sockets with their addresses.
    ListSockets,
    /// Replace the processes of watchers while never fewer than a number of them are ready.
    Roll(Roll),
    /// How far rolling runs are, or what became of the last ones.
    Runs(Selection),
    /// Roll out a new version of a watcher, and take it back if it does not work.
    Deploy(Deploy),
    /// Roll out an earlier version.
    Rollback(Rollback),
    /// The versions of one watcher.
    History(GetOptions),
    /// Start no processes of watchers until they are resumed; what runs runs on.
    Suspend(Change),
    /// Start processes again.
    Resume(Change),
    /// Stop what is not `use_papa` and leave; the rest runs on.
    Quit(End),
    /// Leave; everything runs on.
    Detach(End),
    /// Stop everything of ours, then the kernel, and leave.
    Shutdown(End),
}

impl Command {
    /// Notes who gave it, where that is kept.
    pub fn set_caller(&mut self, caller: Caller) {
        match self {
            Self::Roll(request) => request.by = caller,
            Self::Deploy(request) => request.by = caller,
            Self::Rollback(request) => request.by = caller,
            _ => {}
        }
    }

    /// Whether it is kept who gave it.
    #[must_use]
    pub const fn keeps_caller(&self) -> bool {
        matches!(self, Self::Roll(_) | Self::Deploy(_) | Self::Rollback(_))
    }

    /// The verb, as people write it.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::Restart(_) => "restart",
            Self::Reload(_) => "reload",
            Self::Incr(_) => "incr",
            Self::Decr(_) => "decr",
            Self::Scale(_) => "scale",
            Self::Signal(_) => "signal",
            Self::Kill(_) => "kill",
            Self::Status(_) => "status",
            Self::States(_) => "states",
            Self::List(_) => "list",
            Self::ListPids(_) => "listpids",
            Self::NumWatchers => "numwatchers",
            Self::NumProcesses(_) => "numprocesses",
            Self::Add(_) => "add",
            Self::Rm(_) => "rm",
            Self::Set(_) => "set",
            Self::Get(_) => "get",
            Self::Options(_) => "options",
            Self::GlobalOptions(_) => "globaloptions",
            Self::ReloadConfig(_) => "reloadconfig",
            Self::Stats(_) => "stats",
            Self::Dstats => "dstats",
            Self::ListSockets => "listsockets",
            Self::Roll(_) => "roll",
            Self::Runs(_) => "runs",
            Self::Deploy(_) => "deploy",
            Self::Rollback(_) => "rollback",
            Self::History(_) => "history",
            Self::Suspend(_) => "suspend",
            Self::Resume(_) => "resume",
            Self::Quit(_) => "quit",
            Self::Detach(_) => "detach",
            Self::Shutdown(_) => "shutdown",
        }
    }
}

/// When a command that changes something is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub enum Wait {
    /// As soon as it is remembered and will be done (`false`).
    #[default]
    No,
    /// When it is done, or cannot be (`true`).
    Done,
}

impl From<bool> for Wait {
    fn from(wait: bool) -> Self {
        if wait { Self::Done } else { Self::No }
    }
}

impl From<Wait> for bool {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::No => false,
            Wait::Done => true,
        }
    }
}

/// Which watchers are meant. Letters match in either case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Names or patterns, each of which must match something; empty for all watchers.
    #[serde(default)]
    pub watchers: Vec<String>,
    /// How they are read.
    #[serde(default, rename = "match")]
    pub matching: Matching,
}

impl Selection {
    /// One watcher by its exact name.
    #[must_use]
    pub fn one(name: &str) -> Self {
        Self {
            watchers: vec![name.to_owned()],
            matching: Matching::Simple,
        }
    }
}

/// How a name in a selection is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    /// As a pattern of `*`, `?`, `[abc]`, `[!abc]` for the whole name.
    #[default]
    Glob,
    /// As the whole name.
    Simple,
    /// As a regular expression that the beginning of the name matches.
    Regex,
}

/// Arguments of start, stop and restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

/// Arguments of reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// How.
    #[serde(default)]
    pub method: ReloadMethod,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

/// How processes are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadMethod {
    /// All new ones are started, then the old ones are stopped. A watcher with `send_hup` gets
    /// SIGHUP instead.
    #[default]
    Graceful,
    /// One after the other: stop an old one, start its successor.
    Sequential,
    /// All old ones are stopped, then new ones started: a restart.
    Terminate,
}

/// Arguments of incr and decr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// By how many processes.
    #[serde(default = "one")]
    pub by: u32,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

const fn one() -> u32 {
    1
}

/// Arguments of scale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// How many processes each shall have.
    pub numprocesses: u32,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

/// Arguments of signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRequest {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// Signal number.
    pub signal: i32,
    /// Only the process with this pid.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Only the process of this worker id.
    #[serde(default)]
    pub worker: Option<u32>,
    /// Only this direct child of the process with the pid, without the process itself.
    #[serde(default)]
    pub child_pid: Option<u32>,
    /// How wide it is spread from each process.
    #[serde(default)]
    pub target: SignalTarget,
}

/// Arguments of kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillRequest {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// Only the process with this pid.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Only the process of this worker id.
    #[serde(default)]
    pub worker: Option<u32>,
    /// Signal instead of the watcher's `stop_signal`.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Milliseconds instead of the watcher's `graceful_timeout`.
    #[serde(default)]
    pub graceful_timeout_ms: Option<u64>,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

/// Arguments of quit, detach and shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

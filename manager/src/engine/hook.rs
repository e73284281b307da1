//! The contract about hooks: what the engine asks a shell to call, and what it can be answered.
//! Types only; when a hook is called and what its answer means is in `engine::hooks`.

use std::time::Duration;

use super::ids::{HookId, Moment, Pid, WatcherKey, WorkerId};

/// The steps of a watcher's life at which something of the operator's can be called, in Circus's
/// words. `extended_stats` is missing: nothing is decided by it, so the shell that gathers
/// statistics calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookName {
    /// Before the first process of a stopped watcher. No: it stays stopped.
    BeforeStart,
    /// All processes are there. No: the watcher is stopped.
    AfterStart,
    /// Before each process. No: the watcher is stopped.
    BeforeSpawn,
    /// After each process was started. No: the process ends, and the watcher with it, but for a
    /// graceful reload, which is undone instead.
    AfterSpawn,
    /// Before the processes of a watcher are stopped. The answer changes nothing.
    BeforeStop,
    /// After the last process ended. The answer changes nothing.
    AfterStop,
    /// Before a signal to a process. No: it is not sent.
    BeforeSignal,
    /// After a signal, also when it was not sent. The answer changes nothing.
    AfterSignal,
    /// A process ended. The answer changes nothing.
    BeforeReap,
    /// The end of a process was told to everybody. The answer changes nothing.
    AfterReap,
}

impl HookName {
    /// As in `hooks.NAME`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeStart => "before_start",
            Self::AfterStart => "after_start",
            Self::BeforeSpawn => "before_spawn",
            Self::AfterSpawn => "after_spawn",
            Self::BeforeStop => "before_stop",
            Self::AfterStop => "after_stop",
            Self::BeforeSignal => "before_signal",
            Self::AfterSignal => "after_signal",
            Self::BeforeReap => "before_reap",
            Self::AfterReap => "after_reap",
        }
    }

    /// Whether one that fails counts as a yes even where failures are not ignored: as in Circus,
    /// nothing that has to stop may be kept running by a broken hook.
    #[must_use]
    pub(super) const fn forgives_failure(self) -> bool {
        match self {
            Self::BeforeStop | Self::AfterStop | Self::BeforeSignal | Self::AfterSignal => true,
            Self::BeforeStart
            | Self::AfterStart
            | Self::BeforeSpawn
            | Self::AfterSpawn
            | Self::BeforeReap
            | Self::AfterReap => false,
        }
    }
}

/// A hook to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRequest {
    /// Returned with the answer.
    pub id: HookId,
    /// Whose.
    pub watcher: WatcherKey,
    /// Which.
    pub hook: HookName,
    /// How long it may take. The engine counts this itself and cancels what takes longer; the
    /// shell may end it earlier.
    pub limit: Duration,
    /// What it is about.
    pub subject: HookSubject,
    /// The processes the watcher has now, stopping ones included.
    pub processes: Vec<HookProcess>,
    /// How many it shall have.
    pub numprocesses: u32,
}

/// What a call is about; Circus's keyword arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookSubject {
    /// The watcher as a whole.
    Watcher,
    /// A worker that has no process yet.
    Worker(WorkerId),
    /// A process.
    Process(Pid),
    /// A signal to a process.
    Signal {
        /// To whom.
        pid: Pid,
        /// Its number.
        signal: i32,
    },
    /// The end of a process.
    End {
        /// Whose.
        pid: Pid,
        /// When.
        at: Moment,
        /// Exit status, or the negative number of the signal.
        exit_code: i32,
    },
}

/// A process of the watcher, for hooks that look at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookProcess {
    /// Linux's number.
    pub pid: Pid,
    /// Which worker.
    pub worker: WorkerId,
    /// When it was started.
    pub started: Moment,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookAnswer {
    /// It returned something that counts as true, or exited with 0.
    Yes,
    /// It returned something that counts as false, or exited with 1.
    No,
    /// It raised an exception, died, could not be called, or took too long.
    Failed(String),
}

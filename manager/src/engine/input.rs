//! Everything the engine can be told. Together with [`super::action`] this is the contract
//! between the engine and the shells; it holds types only.

use std::collections::BTreeMap;

use super::hook::HookAnswer;
use super::ids::{
    CommandId, Epoch, Generation, HookId, Moment, Pid, ProbeId, ProcessId, Ticket, WriteId,
};
use super::notify::Notification;
use super::probe::ProbeOutcome;
use crate::command::Command;
use crate::config::model::Configuration;

/// Something happened.
///
/// Facts about the kernel are told in the order in which the kernel told them, and only between a
/// [`Input::KernelConnected`] and the next [`Input::KernelLost`]; answers that arrive from a lost
/// connection are dropped by the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The lease is ours and this is all the kernel holds. The same for the first start, a
    /// reconnection and a recovery after a crash of either side. Spawns and values asked for over
    /// an earlier connection are either in these facts or will never happen.
    KernelConnected(KernelFacts),
    /// The connection is gone; children go on. Actions that are still queued in the shell for the
    /// kernel are dropped.
    KernelLost,
    /// Another manager took the lease: nothing may be done any more.
    LeaseLost,
    /// A socket asked for by [`Action::MakeSocket`](super::Action::MakeSocket) is listening, or
    /// was there already with the same specification.
    SocketReady {
        /// Its name in the configuration.
        socket: String,
    },
    /// A socket could not be made.
    SocketFailed {
        /// Its name in the configuration.
        socket: String,
        /// The reason, for people.
        error: String,
    },
    /// A connection waits to be accepted at a socket of
    /// [`Action::AwaitConnections`](super::Action::AwaitConnections), or nobody can say whether one
    /// does. It is not looked at again before it is asked for again.
    ConnectionWaits {
        /// Its name in the configuration.
        socket: String,
    },
    /// A process runs, or ran: if the kernel says that it has ended already (a repeated key can
    /// meet one), `ProcessEnded` follows.
    Spawned {
        /// Of the [`Action::Spawn`](super::Action::Spawn).
        ticket: Ticket,
        /// Its number in the kernel.
        process: ProcessId,
        /// Its number in Linux.
        pid: Pid,
        /// When it was started, as stamped by the kernel.
        started: Moment,
    },
    /// A process could not be started. Errors of the shell while it builds the specification (an
    /// unknown user, a missing socket) are reported in the same way.
    SpawnFailed {
        /// Of the [`Action::Spawn`](super::Action::Spawn).
        ticket: Ticket,
        /// Why.
        failure: SpawnFailure,
    },
    /// A process ended. Its last output may still be on the way.
    ProcessEnded {
        /// Which.
        process: ProcessId,
        /// How and when.
        end: ProcessEnd,
    },
    /// Everything that an ended process wrote has been stored by its streams, so that its end may
    /// be acknowledged. Told once per [`Action::AttachOutput`](super::Action::AttachOutput), and
    /// at once if it has no output.
    OutputDrained {
        /// Which.
        process: ProcessId,
    },
    /// The kernel holds the value now.
    ValueStored {
        /// Of the [`Action::SetValue`](super::Action::SetValue).
        write: WriteId,
    },
    /// The kernel refused the value (a limit, usually).
    ValueRefused {
        /// Of the [`Action::SetValue`](super::Action::SetValue).
        write: WriteId,
        /// The reason, for people.
        error: String,
    },
    /// The kernel could not do what one of the other actions asked for, for a reason other than
    /// the process being gone (which is no error).
    ActionFailed {
        /// What could not be done and why, for people.
        error: String,
    },
    /// A hook answered, or failed to. Not told for one that was cancelled.
    HookAnswered {
        /// Of the [`HookRequest`](super::HookRequest).
        hook: HookId,
        /// What it said.
        answer: HookAnswer,
    },
    /// A probe came to something. Not told for one that was cancelled.
    Probed {
        /// Of the [`ProbeRequest`](super::ProbeRequest).
        probe: ProbeId,
        /// What.
        outcome: ProbeOutcome,
    },
    /// A process said something of itself. In the order in which it arrived, and again over every
    /// connection until it was acknowledged ([`Action::AcknowledgeNotes`](super::Action)).
    Notified(Notification),
    /// A process has written a line as [`Action::AwaitLine`](super::Action::AwaitLine) asked for.
    LineSeen {
        /// Which.
        process: ProcessId,
    },
    /// Somebody asked for something. There will be exactly one
    /// [`Action::Reply`](super::Action::Reply).
    CommandReceived {
        /// Returned with the response.
        command: CommandId,
        /// What is asked.
        request: Command,
    },
    /// A process has so much resident memory.
    MemoryMeasured {
        /// Which.
        process: ProcessId,
        /// How much, bytes.
        resident_bytes: u64,
    },
    /// The configuration file was read for a command.
    ConfigurationRead {
        /// Of the [`Action::ReadConfiguration`](super::Action::ReadConfiguration).
        command: CommandId,
        /// It, already checked, or everything that is wrong with it, for people.
        result: Result<Box<Configuration>, String>,
    },
    /// A new configuration, already checked.
    ConfigurationChanged(Box<Configuration>),
}

/// What the kernel holds at the time of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelFacts {
    /// Fencing number of the lease that was taken for this connection.
    pub epoch: Epoch,
    /// The kernel's generation, for reports.
    pub generation: Generation,
    /// All processes, other people's too, in any order.
    pub processes: Vec<HeldProcess>,
    /// Names in the kernel of all sockets.
    pub sockets: Vec<String>,
    /// Values whose names begin with [`Engine::values_prefix`](super::Engine::values_prefix).
    pub values: BTreeMap<String, String>,
}

/// A process in the kernel's books: running, or ended and not acknowledged yet.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldProcess {
    /// The kernel's number.
    pub id: ProcessId,
    /// Its name in the kernel.
    pub name: String,
    /// Linux's number.
    pub pid: Pid,
    /// What its manager attached to it; see [`super::labels`].
    pub labels: BTreeMap<String, String>,
    /// When it was started.
    pub started: Moment,
    /// How and when it ended, if it did.
    pub ended: Option<ProcessEnd>,
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessEnd {
    /// How.
    pub cause: EndCause,
    /// When.
    pub at: Moment,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// With an exit status, 0 to 255.
    Exited(u8),
    /// By a signal.
    Signaled {
        /// Its number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
    /// Nobody knows; it ended while nothing was there to collect the status.
    Unknown,
}

impl EndCause {
    /// As Circus's `reap` event tells it: the exit status, or the negative number of the signal.
    /// An unknown end counts as -1.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Exited(status) => i32::from(status),
            Self::Signaled { signal, core: _ } => -signal,
            Self::Unknown => -1,
        }
    }
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnFailure {
    /// The reason, for people.
    pub error: String,
    /// Whether it can be expected to go away.
    pub kind: SpawnErrorKind,
    /// The watcher's option that it is about, such as `cmd`, where one is known.
    pub option: Option<String>,
}

/// Whether a failed spawn can be expected to succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnErrorKind {
    /// It will fail again until somebody changes something: no such program, no such user.
    /// Counts against `max_retry`.
    Permanent,
    /// A shortage or the like: too many processes, no memory. Retried with back-off for ever.
    Transient,
}

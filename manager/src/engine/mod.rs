//! All of the manager's decisions, as a pure state machine: inputs are what the kernel, operators
//! and the clock say, outputs are actions. See [`input`] and [`action`] for the contract.
//!
//! A shell drives it like this: `Engine::new(Settings, Configuration)`, then for each thing that
//! happens `handle_input(input, now)` or, when `poll_deadline()` has come, `handle_deadline(now)`,
//! and after each of them `poll_action()` until there is none. `values_prefix()` says which
//! values it wants to see among the kernel's facts.

pub mod action;
mod amendments;
mod children;
mod commands;
mod context;
mod converge;
mod dependencies;
mod ending;
mod ends;
mod essential;
mod fingerprint;
mod flapping;
pub mod hook;
mod hooks;
pub mod ids;
pub mod input;
pub mod labels;
pub mod limits;
mod liveness;
mod manager;
mod memory_limit;
pub mod notify;
mod on_demand;
mod operation;
mod pattern;
pub mod probe;
mod questions;
mod random;
mod readiness;
mod reconcile;
mod reload;
mod remember;
mod restart_policy;
mod rolling;
#[cfg(test)]
mod simulation;
mod sockets;
mod start_order;
mod status;
mod stopping;
#[cfg(test)]
mod tests;
mod watcher;
mod worker;

pub use action::{
    Action, Event, EventAction, Level, Outcome, OutputSource, SignalTarget, SpawnRequest, res_name,
};
pub use hook::{HookAnswer, HookName, HookProcess, HookRequest, HookSubject};
pub use ids::{
    CommandId, Epoch, Generation, HookId, Moment, Pid, ProbeId, ProcessId, Ticket, WatcherKey,
    WorkerId, WriteId,
};
pub use input::{
    EndCause, HeldProcess, Input, KernelFacts, ProcessEnd, SpawnErrorKind, SpawnFailure,
};
pub use manager::{Engine, Settings};
pub use notify::Notification;
pub use probe::{ProbeOutcome, ProbeRequest};

//! What all watchers share while they decide: the time, the connection, chance, and the way out
//! for actions, values and replies.
//!
//! Two orders are kept here. Write-ahead: a watcher sends its changed memory before any action
//! that the change justifies (see `Watcher::act`), and the kernel sees requests in this order.
//! Promises: a reply that promises something is held back until the kernel has confirmed every
//! value written up to then, and has answered the first spawn that followed at once. So whoever asks for a process
//! and then looks sees it: scripts for Circus, which starts the first one before it answers, rely on that.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::action::{Action, Event, EventAction, Level};
use super::dependencies::Neighbours;
use super::ids::{
    CommandId, Epoch, Generation, HookId, Moment, ProbeId, ProcessId, Ticket, WatcherKey, WorkerId,
    WriteId,
};
use super::random::Random;
use super::sockets::Sockets;
use crate::command::{Answer, Refusal, RefusalKind, Response, WatcherOutcome};
use crate::config::model::Flapping;

/// Actions for which an empty outbox keeps room.
const OUTBOX_KEPT: usize = 256;

/// The connection to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// None; nothing can be done.
    Down,
    /// The lease is ours.
    Up {
        /// Its number.
        epoch: Epoch,
        /// The kernel's generation.
        generation: Generation,
    },
}

/// A deliberate mistake, to see that the simulation catches it.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// None.
    #[default]
    None,
    /// Memory is sent after the action that it justifies.
    RememberTooLate,
    /// What a command promises is not remembered first.
    PromiseTooEarly,
    /// The effect of an end is not remembered together with the end.
    CountEndsTwice,
    /// Spawns in flight do not count.
    ForgetFlights,
    /// Adopted processes are stopped and started afresh.
    RestartOnConnect,
    /// Back-off is not remembered.
    ForgetBackOff,
    /// Stops begun by an earlier manager are not continued.
    ForgetStops,
    /// Ends are not acknowledged.
    NeverAcknowledge,
    /// Options that were changed at run time are not remembered.
    ForgetOptions,
    /// That a watcher was removed is not remembered.
    ForgetRemovals,
    /// Processes that were started from other options are kept by the next manager.
    KeepOutdated,
    /// `before_spawn` is not asked.
    SpawnWithoutAsking,
    /// It is not remembered that `after_spawn` is due.
    ForgetProofs,
    /// A hook may take as long as it likes.
    WaitForHooksForEver,
    /// That a watcher is held back for flapping is not remembered.
    ForgetFlapping,
    /// That a process is ready is not remembered.
    ForgetReadiness,
    /// A process counts as ready before its probe has passed.
    ReadyTooEarly,
    /// A process that does not become ready is left as it is.
    WaitForReadinessForEver,
    /// A rolling run stops processes without counting those that are ready.
    StopTooMany,
    /// A process that does not answer any more is left as it is.
    LetItHang,
    /// Watchers start before those that they depend on.
    IgnoreDependencies,
    /// What processes said is forgotten before it had its effect.
    AcknowledgeUnheard,
}

#[cfg(test)]
impl Fault {
    pub(super) const ALL: [Self; 22] = [
        Self::RememberTooLate,
        Self::PromiseTooEarly,
        Self::CountEndsTwice,
        Self::ForgetFlights,
        Self::RestartOnConnect,
        Self::ForgetBackOff,
        Self::ForgetStops,
        Self::NeverAcknowledge,
        Self::ForgetOptions,
        Self::ForgetRemovals,
        Self::KeepOutdated,
        Self::SpawnWithoutAsking,
        Self::ForgetProofs,
        Self::WaitForHooksForEver,
        Self::ForgetFlapping,
        Self::ForgetReadiness,
        Self::ReadyTooEarly,
        Self::WaitForReadinessForEver,
        Self::StopTooMany,
        Self::LetItHang,
        Self::IgnoreDependencies,
        Self::AcknowledgeUnheard,
    ];
}

/// See the module.
#[derive(Debug)]
pub(super) struct Context {
    #[cfg(test)]
    pub(super) fault: Fault,
    pub(super) namespace: String,
    pub(super) now: Moment,
    pub(super) link: Link,
    pub(super) random: Random,
    pub(super) sockets: Sockets,
    /// `check_delay` of the configuration.
    pub(super) check_delay: Duration,
    /// Settings of the flapping plugin, if it is configured.
    pub(super) flapping: Option<Flapping>,
    /// Spawns without an answer.
    pub(super) flights: BTreeMap<Ticket, (WatcherKey, WorkerId)>,
    /// What watchers that depend on each other need to know of each other.
    pub(super) neighbours: Neighbours,
    /// What became of commands that wait for watchers.
    pub(super) finished: Vec<(CommandId, WatcherOutcome)>,
    outbox: VecDeque<Action>,
    last_ticket: u64,
    last_hook: u64,
    /// Hooks that are being called, and whose they are.
    hooks: BTreeMap<HookId, WatcherKey>,
    last_probe: u64,
    /// Probes that are being made, and what they are about.
    probes: BTreeMap<ProbeId, (WatcherKey, ProcessId)>,
    last_write: u64,
    outstanding: BTreeMap<WriteId, WatcherKey>,
    promises: VecDeque<Promise>,
}

#[derive(Debug)]
struct Promise {
    command: CommandId,
    response: Response,
    /// The newest spawn when it was given.
    given_at: Ticket,
    /// What has to be confirmed first; not known before the memory is flushed.
    after: Option<After>,
}

#[derive(Clone, Copy, Debug)]
struct After {
    write: WriteId,
    spawn: Option<Ticket>,
}

impl Context {
    pub(super) fn new(namespace: String, seed: u64) -> Self {
        Self {
            #[cfg(test)]
            fault: Fault::None,
            namespace,
            now: Moment::default(),
            link: Link::Down,
            random: Random::new(seed),
            sockets: Sockets::default(),
            check_delay: Duration::ZERO,
            flapping: None,
            flights: BTreeMap::new(),
            neighbours: Neighbours::default(),
            finished: Vec::new(),
            outbox: VecDeque::new(),
            last_ticket: 0,
            last_hook: 0,
            hooks: BTreeMap::new(),
            last_probe: 0,
            probes: BTreeMap::new(),
            last_write: 0,
            outstanding: BTreeMap::new(),
            promises: VecDeque::new(),
        }
    }

    /// Queues an action. Watchers use `Watcher::act` instead where their memory justifies it.
    pub(super) fn push(&mut self, action: Action) {
        self.outbox.push_back(action);
    }

    pub(super) fn pop(&mut self) -> Option<Action> {
        let action = self.outbox.pop_front();
        if self.outbox.is_empty() && self.outbox.capacity() > OUTBOX_KEPT {
            // Room for a thousand spawns at once is not needed again soon.
            self.outbox = VecDeque::new();
        }
        action
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        self.push(Action::Log { level, text });
    }

    pub(super) fn publish(&mut self, watcher: &str, at: Moment, action: EventAction) {
        self.push(Action::Publish(Event {
            watcher: watcher.to_owned(),
            at,
            action,
        }));
    }

    /// Whether the kernel can be asked for anything.
    pub(super) const fn connected(&self) -> bool {
        match self.link {
            Link::Down => false,
            Link::Up { .. } => true,
        }
    }

    /// A ticket and key for a new spawn. Epoch and ticket are for people who read it; the random
    /// part makes it unique even if a new kernel counts epochs from one again while an old key
    /// still waits to be repeated.
    pub(super) fn next_spawn(&mut self) -> (Ticket, String) {
        let epoch = match self.link {
            Link::Down => 0,
            Link::Up { epoch, .. } => epoch.0,
        };
        let ticket = self.next_ticket();
        let nonce = self.random.next_u64();
        (
            ticket,
            format!("{}-{epoch}-{ticket}-{nonce:016x}", self.namespace),
        )
    }

    pub(super) const fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// A number for a call of a hook.
    pub(super) fn next_hook(&mut self, watcher: &WatcherKey) -> HookId {
        self.last_hook += 1;
        let hook = HookId(self.last_hook);
        self.hooks.insert(hook, watcher.clone());
        hook
    }

    /// A hook answered; whose it was, unless it was cancelled.
    pub(super) fn hook_answered(&mut self, hook: HookId) -> Option<WatcherKey> {
        self.hooks.remove(&hook)
    }

    /// The answer of a hook is not wanted any more.
    pub(super) fn cancel_hook(&mut self, hook: HookId) {
        if self.hooks.remove(&hook).is_some() {
            self.push(Action::CancelHook { hook });
        }
    }

    /// A number for a probe.
    pub(super) fn next_probe(&mut self, watcher: &WatcherKey, process: ProcessId) -> ProbeId {
        self.last_probe += 1;
        let probe = ProbeId(self.last_probe);
        self.probes.insert(probe, (watcher.clone(), process));
        probe
    }

    /// A probe came to something; what it was about, unless it was cancelled.
    pub(super) fn probed(&mut self, probe: ProbeId) -> Option<(WatcherKey, ProcessId)> {
        self.probes.remove(&probe)
    }

    /// The outcome of a probe is not wanted any more.
    pub(super) fn cancel_probe(&mut self, probe: ProbeId) {
        if self.probes.remove(&probe).is_some() {
            self.push(Action::CancelProbe { probe });
        }
    }

    /// Asks the kernel to remember something about a watcher.
    pub(super) fn write(&mut self, watcher: &WatcherKey, key: String, value: Option<String>) {
        self.last_write += 1;
        let write = WriteId(self.last_write);
        self.outstanding.insert(write, watcher.clone());
        self.push(Action::SetValue { write, key, value });
    }

    /// A write was answered; whose it was.
    pub(super) fn write_answered(&mut self, write: WriteId) -> Option<WatcherKey> {
        self.outstanding.remove(&write)
    }

    /// The newest write that was asked for.
    pub(super) const fn last_write(&self) -> WriteId {
        WriteId(self.last_write)
    }

    /// Whether all writes up to this one were answered.
    pub(super) fn is_answered(&self, write: WriteId) -> bool {
        let oldest = self.outstanding.keys().next();
        oldest.is_none_or(|oldest| *oldest > write)
    }

    pub(super) fn writes_outstanding(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Answers at once, with what is known.
    pub(super) fn reply(&mut self, command: CommandId, response: Response) {
        self.push(Action::Reply { command, response });
    }

    /// Answers once everything decided so far is remembered by the kernel.
    pub(super) fn promise(&mut self, command: CommandId, response: Response) {
        self.promises.push_back(Promise {
            command,
            response,
            given_at: Ticket(self.last_ticket),
            after: None,
        });
    }

    /// Sends the promises that are kept. Called when all memory has been flushed.
    pub(super) fn release_promises(&mut self) {
        if !self.connected() {
            return;
        }
        let newest = WriteId(self.last_write);
        let oldest_outstanding = self.outstanding.keys().next().copied();
        let mut held = VecDeque::new();
        for mut promise in std::mem::take(&mut self.promises) {
            let following = (Bound::Excluded(promise.given_at), Bound::Unbounded);
            let after = *promise.after.get_or_insert_with(|| After {
                write: newest,
                spawn: self.flights.range(following).next().map(|it| *it.0),
            });
            let kept = oldest_outstanding.is_none_or(|oldest| after.write < oldest)
                && after
                    .spawn
                    .is_none_or(|spawn| !self.flights.contains_key(&spawn));
            #[cfg(test)]
            let kept = kept || self.fault == Fault::PromiseTooEarly;
            if kept {
                self.reply(promise.command, promise.response);
            } else {
                held.push_back(promise);
            }
        }
        self.promises = held;
    }

    /// The kernel refused a value: what was promised on it is no promise.
    pub(super) fn break_promises(&mut self, write: WriteId, error: &str) {
        for promise in &mut self.promises {
            if promise.after.is_some_and(|after| after.write >= write) && promise.response.is_ok() {
                promise.response = Err(Refusal {
                    kind: RefusalKind::NotRemembered,
                    reason: format!(
                        "it will be done, but the process kernel refused to remember it, so a \
                         restart of the manager may undo it: {error}"
                    ),
                });
            }
        }
    }

    /// Answers all promises with a refusal, because this manager can keep them no longer.
    pub(super) fn refuse_promises(&mut self, refusal: &Refusal) {
        for promise in std::mem::take(&mut self.promises) {
            self.reply(promise.command, Err(refusal.clone()));
        }
    }

    /// Forgets everything that was on its way to or from a lost connection.
    pub(super) fn disconnect(&mut self) {
        self.link = Link::Down;
        self.flights.clear();
        self.outstanding.clear();
        for promise in &mut self.promises {
            promise.after = None;
        }
        self.outbox.retain(|action| match action {
            Action::MakeSocket { .. }
            | Action::CloseSocket { .. }
            | Action::AwaitConnections { .. }
            | Action::Spawn(_)
            | Action::Signal { .. }
            | Action::AttachOutput(_)
            | Action::AwaitLine { .. }
            | Action::AcknowledgeNotes { .. }
            | Action::AcknowledgeEnd { .. }
            | Action::SetValue { .. } => false,
            Action::Configure(_)
            | Action::MeasureMemory { .. }
            | Action::ReadConfiguration { .. }
            | Action::CallHook(_)
            | Action::CancelHook { .. }
            | Action::Probe(_)
            | Action::CancelProbe { .. }
            | Action::Reply { .. }
            | Action::Publish(_)
            | Action::TellLastWords { .. }
            | Action::Log { .. }
            | Action::Finished(_) => true,
        });
    }

    /// One watcher's part of a command is finished.
    pub(super) fn finish(&mut self, command: CommandId, outcome: WatcherOutcome) {
        self.finished.push((command, outcome));
    }
}

/// The answer when watchers change.
pub(super) const fn changed(watchers: Vec<WatcherOutcome>) -> Response {
    Ok(Answer::Changed { watchers })
}

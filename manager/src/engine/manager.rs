//! The engine itself: hands each input to the watcher it concerns, lets watchers settle, and
//! gives out what they want done.

use std::collections::{BTreeMap, BTreeSet};

use super::action::{Action, Level};
use super::commands::Pending;
use super::context::{Context, Link};
use super::ending::Ending;
use super::hook::HookAnswer;
use super::ids::{
    CommandId, HookId, Moment, Pid, ProbeId, ProcessId, Ticket, WatcherKey, WorkerId, WriteId,
};
use super::input::{Input, ProcessEnd, SpawnFailure};
use super::limits::VALUE_RETRY;
use super::probe::ProbeOutcome;
use super::remember;
use super::start_order::StartOrder;
use super::watcher::{Turn, Watcher};
use crate::command::{Command, ReloadConfig};
use crate::config::difference::difference;
use crate::config::model::Configuration;

/// What an engine is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which managers' children are ours. Two managers of different namespaces can share a kernel.
    pub namespace: String,
    /// For all random choices.
    pub seed: u64,
}

/// All decisions of a manager. See the module [`super`] for how it is driven.
///
/// `poll_action` first gives out what is queued, then lets the watchers concerned by the inputs
/// since the last poll decide, so that many inputs in a row cost one decision.
#[derive(Debug)]
pub struct Engine {
    /// What the file says.
    pub(super) base: Configuration,
    /// The same with what was changed at run time.
    pub(super) configuration: Configuration,
    /// Whether `configuration` has to be worked out again.
    pub(super) stale: bool,
    pub(super) cx: Context,
    pub(super) watchers: BTreeMap<WatcherKey, Watcher>,
    /// Keys in starting order: by priority from the highest on, else as configured.
    pub(super) order: Vec<WatcherKey>,
    /// Watchers that something happened to.
    pub(super) dirty: BTreeSet<WatcherKey>,
    /// Whose each process is that the kernel holds.
    pub(super) owners: BTreeMap<ProcessId, WatcherKey>,
    /// Live processes by Linux's number.
    pub(super) pids: BTreeMap<Pid, ProcessId>,
    /// Number of the newest notification of this connection.
    pub(super) heard: u64,
    /// Up to which they were acknowledged.
    pub(super) acknowledged: u64,
    /// The next ones to be, once this write was answered.
    pub(super) acknowledging: Option<(u64, WriteId)>,
    /// Ends that came before the answer to their spawn; only kept while answers are due.
    early_ends: BTreeMap<ProcessId, ProcessEnd>,
    pub(super) starts: StartOrder,
    pub(super) pending: BTreeMap<CommandId, Pending>,
    /// Commands that came before it was known what earlier ones had said.
    pub(super) deferred: Vec<(CommandId, Command)>,
    /// Commands that wait for the configuration file to be read.
    pub(super) reading: BTreeMap<CommandId, ReloadConfig>,
    pub(super) ending: Ending,
    /// Names of the kernel's sockets at the last connection.
    pub(super) held_sockets: BTreeSet<String>,
    /// Sockets at which a shell waits for connections.
    pub(super) awaited: BTreeSet<String>,
    pub(super) foreign_processes: u32,
    pub(super) recovered: Recovered,
}

/// Whether this engine has ever seen what an earlier one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovered {
    NotYet,
    Yes,
}

impl Engine {
    /// An engine that waits for its first [`Input::KernelConnected`].
    #[must_use]
    pub fn new(settings: Settings, configuration: Configuration) -> Self {
        let mut engine = Self {
            cx: Context::new(settings.namespace, settings.seed),
            watchers: BTreeMap::new(),
            order: Vec::new(),
            dirty: BTreeSet::new(),
            owners: BTreeMap::new(),
            pids: BTreeMap::new(),
            heard: 0,
            acknowledged: 0,
            acknowledging: None,
            early_ends: BTreeMap::new(),
            starts: StartOrder::new(configuration.global.warmup_delay),
            pending: BTreeMap::new(),
            deferred: Vec::new(),
            reading: BTreeMap::new(),
            ending: Ending::default(),
            held_sockets: BTreeSet::new(),
            awaited: BTreeSet::new(),
            foreign_processes: 0,
            recovered: Recovered::NotYet,
            stale: false,
            base: configuration.clone(),
            configuration,
        };
        engine.cx.sockets.configure(&engine.configuration);
        engine.cx.check_delay = engine.configuration.global.check_delay;
        engine.cx.flapping = engine.configuration.flapping;
        for config in &engine.configuration.watchers {
            let watcher = Watcher::new(config.clone(), &engine.configuration);
            engine.watchers.insert(watcher.key.clone(), watcher);
        }
        engine.sort_watchers();
        engine
    }

    /// Prefix of the values that belong into [`KernelFacts`](super::KernelFacts).
    #[must_use]
    pub fn values_prefix(&self) -> String {
        remember::prefix(&self.cx.namespace)
    }

    /// Something happened. `now` never goes back.
    pub fn handle_input(&mut self, input: Input, now: Moment) {
        self.cx.now = now.max(self.cx.now);
        if self.ending.over() {
            self.refuse_when_over(&input);
            return;
        }
        match input {
            Input::KernelConnected(facts) => self.handle_connected(facts),
            Input::KernelLost => self.handle_lost(),
            Input::LeaseLost => self.handle_replaced(),
            Input::SocketReady { socket } => {
                self.cx.sockets.handle_ready(&socket);
                self.touch_socket(&socket);
            }
            Input::ConnectionWaits { socket } => self.handle_connection(&socket),
            Input::SocketFailed { socket, error } => self.handle_socket_failed(&socket, &error),
            Input::Spawned {
                ticket,
                process,
                pid,
                started,
            } => {
                self.handle_spawned(ticket, process, pid, started);
            }
            Input::SpawnFailed { ticket, failure } => self.handle_spawn_failed(ticket, &failure),
            Input::ProcessEnded { process, end } => self.handle_ended(process, end),
            Input::OutputDrained { process } => self.handle_drained(process),
            Input::ValueStored { write } => {
                let key = self.cx.write_answered(write);
                if let Some(watcher) = key.and_then(|key| self.watchers.get_mut(&key)) {
                    watcher.handle_value_stored(write);
                }
            }
            Input::ValueRefused { write, error } => self.handle_value_refused(write, &error),
            Input::ActionFailed { error } => self.cx.log(Level::Error, error),
            Input::HookAnswered { hook, answer } => self.handle_hook_answered(hook, answer),
            Input::Notified(note) => self.handle_notified(&note),
            Input::LineSeen { process } => {
                if let Some(key) = self.owners.get(&process).cloned() {
                    if let Some(watcher) = self.watchers.get_mut(&key) {
                        watcher.handle_line(&mut self.cx, process);
                    }
                    self.touch(&key);
                }
            }
            Input::Probed { probe, outcome } => self.handle_probed(probe, outcome),
            Input::CommandReceived { command, request } => self.handle_command(command, &request),
            Input::MemoryMeasured {
                process,
                resident_bytes,
            } => {
                if let Some(key) = self.owners.get(&process).cloned() {
                    if let Some(watcher) = self.watchers.get_mut(&key) {
                        watcher.handle_measured(&mut self.cx, process, resident_bytes);
                    }
                    self.touch(&key);
                }
            }
            Input::ConfigurationRead { command, result } => self.handle_read(command, result),
            Input::ConfigurationChanged(configuration) => {
                let plan = difference(&self.base, &configuration);
                for (key, operation) in self.handle_configuration(*configuration, &plan) {
                    if let Some(watcher) = self.watchers.get_mut(&key) {
                        watcher.enqueue(&mut self.cx, operation, None);
                    }
                }
            }
        }
    }

    /// The time of [`Engine::poll_deadline`] has come, or any time has passed.
    pub fn handle_deadline(&mut self, now: Moment) {
        self.cx.now = now.max(self.cx.now);
        let due: Vec<WatcherKey> = self
            .watchers
            .values()
            .filter(|watcher| watcher.wake.is_some_and(|wake| wake <= self.cx.now))
            .map(|watcher| watcher.key.clone())
            .collect();
        self.dirty.extend(due);
        self.remove_expired();
        self.cx.ask_for_sockets();
    }

    /// What shall be done next, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.cx.pop() {
            return Some(action);
        }
        if self.ending.over() {
            return None;
        }
        self.settle();
        self.cx.pop()
    }

    /// When [`Engine::handle_deadline`] is due, if nothing else happens. Ask after `poll_action`
    /// has given `None`.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Moment> {
        if self.ending.over() || !self.cx.connected() {
            return None;
        }
        // What is leaving removes nothing any more.
        let stays = !self.ending.begun();
        let watchers = self.watchers.values().flat_map(|watcher| {
            let until = watcher.until().filter(|_| stays);
            [watcher.wake, until]
        });
        let watchers = watchers.flatten();
        let others = [
            self.cx.sockets.deadline(),
            self.starts.deadline(self.cx.now),
            self.ending.deadline(),
        ];
        watchers.chain(others.into_iter().flatten()).min()
    }

    /// Lets all watchers that something happened to decide, until nothing is left to decide.
    fn settle(&mut self) {
        self.rebuild_configuration();
        self.cx.ask_for_sockets();
        loop {
            self.advance_starts();
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                break;
            }
            let keys: Vec<WatcherKey> = self
                .order
                .iter()
                .filter(|it| dirty.contains(it))
                .cloned()
                .collect();
            for key in &keys {
                self.note_standpoint(key);
            }
            for key in keys {
                if let Some(watcher) = self.watchers.get_mut(&key) {
                    watcher.settle(&mut self.cx);
                    self.note_standpoint(&key);
                }
            }
            self.rewrite();
            self.bury();
        }
        self.await_connections();
        self.leave_with_essential();
        self.collect_outcomes();
        self.acknowledge_notes();
        self.cx.release_promises();
        self.advance_ending();
    }

    pub(super) fn touch(&mut self, key: &WatcherKey) {
        self.dirty.insert(key.clone());
    }

    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.watchers.keys().cloned());
    }

    fn touch_socket(&mut self, socket: &str) {
        let concerned = self
            .watchers
            .values()
            .filter(|watcher| watcher.uses.includes(socket));
        self.dirty
            .extend(concerned.map(|watcher| watcher.key.clone()));
    }

    pub(super) fn sort_watchers(&mut self) {
        let place: BTreeMap<WatcherKey, usize> = self
            .configuration
            .watchers
            .iter()
            .enumerate()
            .map(|(place, config)| (WatcherKey::of(&config.name), place))
            .collect();
        let mut order: Vec<&Watcher> = self.watchers.values().collect();
        order.sort_by_key(|watcher| {
            let place = place.get(&watcher.key).copied().unwrap_or(usize::MAX);
            (std::cmp::Reverse(watcher.config.priority), place)
        });
        self.order = order
            .into_iter()
            .map(|watcher| watcher.key.clone())
            .collect();
    }

    /// Forgets watchers that are not configured any more and have nothing left.
    fn bury(&mut self) {
        let over: Vec<WatcherKey> = self
            .watchers
            .values()
            .filter(|watcher| {
                let unknown = watcher.standing.is_over() && watcher.base.is_none();
                let memory = watcher.memory();
                // Whoever waits for its removal is answered first, which takes a connection.
                let answered = memory.current.is_none() && memory.queue.is_empty();
                let idle = watcher.empty() && watcher.ended.is_empty() && watcher.hooks.idle();
                unknown && answered && idle
            })
            .map(|watcher| watcher.key.clone())
            .collect();
        for key in over {
            if let Some(mut watcher) = self.watchers.remove(&key) {
                *watcher.memory_mut() = remember::Memory::default();
                watcher.flush(&mut self.cx);
            }
            self.order.retain(|other| *other != key);
            self.note_standpoint(&key);
        }
    }

    fn advance_starts(&mut self) {
        if !self.cx.connected() {
            return;
        }
        while let Some(key) = self.starts.next(self.cx.now, &self.watchers, &self.cx) {
            if let Some(watcher) = self.watchers.get_mut(&key) {
                watcher.turn = Turn::Granted;
                self.dirty.insert(key);
            }
        }
    }

    fn handle_lost(&mut self) {
        self.drop_connection();
        self.cx.log(
            Level::Warning,
            "the process kernel is out of reach; its children run on".to_owned(),
        );
    }

    /// Whatever was on its way is in the next facts or will never arrive.
    pub(super) fn drop_connection(&mut self) {
        self.cx.disconnect();
        self.early_ends.clear();
        self.awaited.clear();
        for watcher in self.watchers.values_mut() {
            watcher.drop_decisions(&mut self.cx);
            watcher.drop_probes(&mut self.cx);
            let lost = std::mem::take(&mut watcher.spawning);
            watcher.unanswered.extend(lost);
            watcher.wake = None;
        }
    }

    fn handle_socket_failed(&mut self, socket: &str, error: &str) {
        let wait = self.cx.sockets.wait_of(socket);
        let now = self.cx.now;
        let line = self
            .cx
            .sockets
            .handle_failed(socket, error, &self.held_sockets, now, wait);
        if let Some((level, text)) = line {
            self.cx.log(level, text);
        }
        self.touch_socket(socket);
    }

    fn handle_spawned(&mut self, ticket: Ticket, process: ProcessId, pid: Pid, started: Moment) {
        let Some((key, worker)) = self.take_flight(ticket) else {
            return;
        };
        self.owners.insert(process, key.clone());
        self.pids.insert(pid, process);
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_spawned(&mut self.cx, worker, ticket, process, pid, started);
        }
        self.touch(&key);
        if let Some(end) = self.early_ends.remove(&process) {
            self.handle_ended(process, end);
        }
        self.drop_early_ends();
    }

    fn handle_spawn_failed(&mut self, ticket: Ticket, failure: &SpawnFailure) {
        let Some((key, worker)) = self.take_flight(ticket) else {
            return;
        };
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_spawn_failed(&mut self.cx, worker, failure);
        }
        self.touch(&key);
        self.drop_early_ends();
    }

    fn handle_hook_answered(&mut self, hook: HookId, answer: HookAnswer) {
        let Some(key) = self.cx.hook_answered(hook) else {
            return;
        };
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_hook_answer(&mut self.cx, hook, answer);
        }
        self.touch(&key);
    }

    fn handle_probed(&mut self, probe: ProbeId, outcome: ProbeOutcome) {
        let Some((key, process)) = self.cx.probed(probe) else {
            return;
        };
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_probed(&mut self.cx, process, probe, outcome);
        }
        self.touch(&key);
    }

    fn take_flight(&mut self, ticket: Ticket) -> Option<(WatcherKey, WorkerId)> {
        self.cx.flights.remove(&ticket)
    }

    fn drop_early_ends(&mut self) {
        if self.cx.flights.is_empty() {
            self.early_ends.clear();
        }
    }

    fn handle_ended(&mut self, process: ProcessId, end: ProcessEnd) {
        match self.owners.get(&process).cloned() {
            Some(key) => {
                if let Some(watcher) = self.watchers.get_mut(&key) {
                    let pid = watcher.children.get(process).map(|child| child.pid);
                    if let Some(pid) = pid.filter(|pid| self.pids.get(pid) == Some(&process)) {
                        self.pids.remove(&pid);
                    }
                    watcher.handle_end(&mut self.cx, process, end);
                }
                self.forget_owner(&key, process);
                self.touch(&key);
            }
            None if self.cx.flights.is_empty() => {}
            None => {
                self.early_ends.insert(process, end);
            }
        }
    }

    fn handle_drained(&mut self, process: ProcessId) {
        let Some(key) = self.owners.get(&process).cloned() else {
            return;
        };
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_drained(&mut self.cx, process);
        }
        self.forget_owner(&key, process);
        self.touch(&key);
    }

    /// A process that is neither alive nor held for its output has no owner.
    fn forget_owner(&mut self, key: &WatcherKey, process: ProcessId) {
        let known = self.watchers.get(key).is_some_and(|watcher| {
            watcher.children.contains(process) || watcher.ended.contains_key(&process)
        });
        if !known {
            self.owners.remove(&process);
        }
    }

    fn handle_value_refused(&mut self, write: WriteId, error: &str) {
        self.cx.break_promises(write, error);
        let Some(key) = self.cx.write_answered(write) else {
            return;
        };
        self.cx.log(
            Level::Error,
            format!(
                "watcher {:?}: the process kernel refused to remember its state: {error}",
                key.as_str()
            ),
        );
        let retry_at = self.cx.now + VALUE_RETRY;
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_value_refused(retry_at);
        }
        self.touch(&key);
    }

    /// Lets watchers start in this order, one when the other is up.
    pub(super) fn line_up(&mut self, keys: impl IntoIterator<Item = WatcherKey>) {
        for key in keys {
            if let Some(watcher) = self.watchers.get_mut(&key) {
                watcher.turn = Turn::Waiting;
                self.starts.push(key);
            }
        }
    }

    /// Whether the kernel is connected.
    #[must_use]
    pub(super) const fn link(&self) -> Link {
        self.cx.link
    }
}

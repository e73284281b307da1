//! From what the kernel holds to the books: the one path for starts, reconnections and
//! recoveries.
//!
//! Ours are the processes whose labels carry our namespace. Live ones are adopted, ended ones
//! accounted for if they were not, those of watchers that are not configured any more are
//! stopped, and of two live ones with the same worker id one is stopped. Processes of other
//! people are counted and left alone. What is missing or too much is then for the watchers to
//! settle. A process that was started from another configuration is kept until somebody asks for
//! a reload or restart; status shows it as outdated.

use std::collections::{BTreeMap, BTreeSet};

use super::action::Level;
use super::children::Children;
#[cfg(test)]
use super::context::Fault;
use super::context::{Context, Link};
use super::ends::Deceased;
use super::ids::{ProcessId, WatcherKey, WorkerId};
use super::input::{HeldProcess, KernelFacts};
use super::labels::{self, Identity};
use super::manager::{Engine, Recovered};
#[cfg(test)]
use super::remember::Run;
use super::remember::{self, Memory, StopCause, StopRecord};
use super::watcher::{Standing, Watcher};
use super::worker::{Child, Drained, Ended};
use crate::config::model::{Location, WatcherConfig};

impl Engine {
    pub(super) fn handle_connected(&mut self, facts: KernelFacts) {
        if self.cx.connected() {
            // The shell lost a connection without saying so; nothing of it may be believed.
            self.drop_connection();
        }
        self.cx.link = Link::Up {
            epoch: facts.epoch,
            generation: facts.generation,
        };
        let mut held: BTreeMap<WatcherKey, Vec<(Identity, HeldProcess)>> = BTreeMap::new();
        self.foreign_processes = 0;
        for process in facts.processes {
            match Identity::from_labels(&process.labels, &self.cx.namespace) {
                Some(identity) => {
                    held.entry(identity.watcher.clone())
                        .or_default()
                        .push((identity, process));
                }
                None if labels::is_help(&process.labels) => {}
                None => self.foreign_processes = self.foreign_processes.saturating_add(1),
            }
        }
        if self.recovered == Recovered::NotYet {
            self.recall_added(&facts.values);
        }
        for key in held.keys() {
            if !self.watchers.contains_key(key) {
                let watcher = self.retired(key);
                self.watchers.insert(key.clone(), watcher);
            }
        }
        self.take_values(&facts.values);
        self.rebuild_configuration();
        self.sort_watchers();
        self.held_sockets = facts.sockets.into_iter().collect();
        self.cx.sockets.start_over();
        self.owners.clear();
        self.pids.clear();
        (self.heard, self.acknowledged, self.acknowledging) = (0, 0, None);
        let adopted = self.take_processes(held);
        self.cx.log(
            Level::Info,
            format!(
                "process kernel connected: {adopted} processes of ours, {} of others \
                 (generation {}, lease number {})",
                self.foreign_processes, facts.generation, facts.epoch
            ),
        );
        if self.recovered == Recovered::NotYet {
            self.recovered = Recovered::Yes;
            // Those with live processes need no turn: what they miss is replaced at once.
            let from_nothing = |key: &&WatcherKey| {
                self.watchers
                    .get(*key)
                    .is_some_and(|watcher| watcher.children.is_empty())
            };
            let order: Vec<_> = self.order.iter().filter(from_nothing).cloned().collect();
            self.line_up(order);
            for (command, request) in std::mem::take(&mut self.deferred) {
                self.handle_command(command, &request);
            }
        }
        self.refresh_recovered();
        self.note_standpoints();
        self.ending.cover(&mut self.watchers, &mut self.cx);
        self.remove_expired();
        self.touch_all();
    }

    /// A watcher that only its processes tell of. They are stopped as a watcher with default
    /// options would be.
    fn retired(&mut self, key: &WatcherKey) -> Watcher {
        let config = WatcherConfig::with_defaults(key.as_str(), Location::new("", 0, 0));
        let mut watcher = Watcher::new(config, &self.base).without_file();
        watcher.standing = Standing::Retired;
        self.cx.log(
            Level::Warning,
            format!(
                "watcher {:?} is not configured any more; its processes are stopped",
                key.as_str()
            ),
        );
        watcher
    }

    /// Reads what is remembered, once per engine; later it is the engine that knows best, and
    /// only compares.
    fn take_values(&mut self, values: &BTreeMap<String, String>) {
        let prefix = remember::prefix(&self.cx.namespace);
        for (name, text) in values {
            let Some(key) = name.strip_prefix(&prefix).map(WatcherKey::of) else {
                continue;
            };
            if !self.watchers.contains_key(&key) {
                self.cx.write(&key, name.clone(), None);
            }
            let Some(watcher) = self.watchers.get_mut(&key) else {
                continue;
            };
            if self.recovered == Recovered::NotYet {
                match Memory::from_value(text) {
                    Ok(memory) => watcher.recall(memory),
                    Err(error) => self.cx.log(
                        Level::Error,
                        format!(
                            "watcher {:?}: what was remembered cannot be read and is \
                             forgotten: {error}",
                            key.as_str()
                        ),
                    ),
                }
                #[cfg(test)]
                if self.cx.fault == Fault::ForgetBackOff {
                    watcher.memory_mut().failures.clear();
                }
                #[cfg(test)]
                watcher.forget(self.cx.fault);
                let amended = watcher.memory().amends();
                watcher.reconsider(&mut self.cx, &self.base);
                self.stale |= amended;
                if watcher.standing == Standing::Retired {
                    watcher.supersede(&mut self.cx, "the watcher is not configured any more");
                }
            }
        }
        for (key, watcher) in &mut self.watchers {
            let name = remember::key(&self.cx.namespace, key);
            watcher.set_stored(values.get(&name).cloned());
        }
    }

    /// Replaces the books by what the kernel holds. Returns how many live processes are ours.
    fn take_processes(
        &mut self,
        mut held: BTreeMap<WatcherKey, Vec<(Identity, HeldProcess)>>,
    ) -> usize {
        let mut adopted = 0;
        for (key, watcher) in &mut self.watchers {
            let processes = held.remove(key).unwrap_or_default();
            for (_, process) in &processes {
                self.owners.insert(process.id, key.clone());
                if process.ended.is_none() {
                    self.pids.insert(process.pid, process.id);
                }
            }
            watcher.take_processes(&mut self.cx, processes);
            adopted += watcher.children.len();
        }
        adopted
    }
}

impl Watcher {
    /// Takes over what an earlier manager remembered.
    fn recall(&mut self, memory: Memory) {
        self.waiters = memory.queue.iter().map(|_| None).collect();
        *self.memory_mut() = memory;
    }

    /// A deliberate loss of memory.
    #[cfg(test)]
    fn forget(&mut self, fault: Fault) {
        match fault {
            Fault::ForgetOptions => self.memory_mut().options.clear(),
            Fault::ForgetRemovals => self.memory_mut().removed = None,
            Fault::ForgetProofs => self.memory_mut().unproven.clear(),
            Fault::ForgetFlapping if self.flapping_until().is_some() => {
                self.memory_mut().run = Some(Run::Running);
            }
            _ => {}
        }
    }

    fn take_processes(&mut self, cx: &mut Context, held: Vec<(Identity, HeldProcess)>) {
        let before = std::mem::take(&mut self.children);
        self.pulse.resume(cx.now);
        self.ended.clear();
        let unconfirmed = std::mem::take(&mut self.acknowledged);
        self.memory_mut()
            .accounted
            .extend(unconfirmed.into_iter().map(|(_, process)| process));
        let ids: BTreeSet<ProcessId> = held.iter().map(|(_, process)| process.id).collect();
        self.prune_memory(&ids);
        for (identity, process) in held {
            self.unanswered.retain(|_, lost| lost.key != identity.spawn);
            self.take_process(cx, identity, process, &before);
        }
        for (process, child) in before.iter() {
            if !ids.contains(&process) {
                self.handle_vanished(cx, process, child.pid);
            }
        }
        self.drop_obsolete_stops();
        self.resume_stops(cx, |process| {
            before.get(process).and_then(|child| child.stop)
        });
        self.resolve_duplicates(cx);
    }

    /// Drops what is remembered about processes that the kernel does not hold any more.
    fn prune_memory(&mut self, held: &BTreeSet<ProcessId>) {
        let memory = self.memory_mut();
        memory.stopping.retain(|process, _| held.contains(process));
        memory.accounted.retain(|process| held.contains(process));
        memory.stopping_through = memory
            .stopping_through
            .and_then(|through| held.range(..=through).next_back().copied());
        if let Some(rollout) = &mut memory.rollout {
            // A new kernel counts from one again, so a bound is only good for what it bounds now.
            match held.range(..=rollout.through).next_back() {
                Some(newest) => rollout.through = *newest,
                None => rollout.through = ProcessId(0),
            }
        }
        if let Some(rolling) = &mut memory.rolling {
            let newest = |through| held.range(..=through).next_back().copied();
            rolling.after = newest(rolling.after).unwrap_or(ProcessId(0));
            rolling.through = newest(rolling.through).unwrap_or(ProcessId(0));
        }
    }

    fn take_process(
        &mut self,
        cx: &mut Context,
        identity: Identity,
        process: HeldProcess,
        before: &Children,
    ) {
        let HeldProcess {
            id,
            pid,
            started,
            ended,
            ..
        } = process;
        let worker = identity.worker;
        match (ended, before.get(id)) {
            (None, Some(known)) => {
                self.await_line(cx, id, &known.progress);
                self.attach_output(cx, id, pid, worker);
                let stop = None;
                let drained = Drained::NotYet;
                let mut child = Child {
                    stop,
                    drained,
                    ..known.clone()
                };
                self.resume_looking(cx, &mut child);
                self.children.insert(id, child);
            }
            (None, None) => {
                self.adopt(cx, id, pid, started, identity);
                self.announce(cx, id);
                #[cfg(test)]
                if cx.fault == Fault::RestartOnConnect {
                    self.stop_process(cx, id, StopRecord::plain(StopCause::Unwanted));
                }
            }
            (Some(end), _) => {
                let deceased = Deceased {
                    identity,
                    pid,
                    started,
                    failure: None,
                };
                self.account(cx, id, &deceased, end);
                self.ended.insert(id, Ended { worker, pid });
                self.attach_output(cx, id, pid, worker);
            }
        }
    }

    /// Of several live processes with one worker id, keeps the one that is not stopping and up to
    /// date, or the oldest of those.
    fn resolve_duplicates(&mut self, cx: &mut Context) {
        let mut claims: BTreeMap<WorkerId, Vec<ProcessId>> = BTreeMap::new();
        for (process, child) in self.children.iter() {
            if !child.stopping() {
                claims.entry(child.worker()).or_default().push(process);
            }
        }
        for (worker, mut processes) in claims {
            processes.sort_by_key(|process| {
                let outdated = self
                    .children
                    .get(*process)
                    .is_some_and(|child| child.identity.configuration != self.fingerprint);
                (outdated, *process)
            });
            for process in processes.into_iter().skip(1) {
                cx.log(
                    Level::Warning,
                    format!(
                        "watcher {:?}: worker {worker} is alive twice; the kernel's process \
                         {process} is stopped",
                        self.config.name
                    ),
                );
                self.stop_process(cx, process, StopRecord::plain(StopCause::Unwanted));
            }
        }
    }
}

//! What waits for hooks: starts, spawns, stops, signals, and the proof that a process is there.

use std::collections::BTreeSet;

use super::{Call, Why};
use crate::command::ReloadMethod;
use crate::config::model::SignalNumber;
use crate::engine::action::{Action, EventAction, Level, SignalTarget};
use crate::engine::context::Context;
#[cfg(test)]
use crate::engine::context::Fault;
use crate::engine::hook::{HookName, HookSubject};
use crate::engine::ids::{ProcessId, WorkerId};
use crate::engine::remember::{Run, StopCause, StopReason, StopRecord};
use crate::engine::watcher::{Stage, Watcher};
use crate::engine::worker::Child;

/// Whether something may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Gate {
    Open,
    /// A hook has to answer first.
    Closed,
}

impl Watcher {
    /// Whether the first process may be started.
    pub(in crate::engine) fn start_gate(&mut self, cx: &mut Context) -> Gate {
        if self.stage != Stage::Down || self.memory().admitted {
            return Gate::Open;
        }
        if !self.children.is_empty() {
            self.tell_of_skipped_start(cx);
            return Gate::Open;
        }
        if self.hooks.has(is_after_stop) {
            return Gate::Closed;
        }
        if self.hooked(HookName::BeforeStart) {
            self.hooks.demand(Call::BeforeStart);
            return Gate::Closed;
        }
        if self.hooked(HookName::AfterStart) {
            self.memory_mut().admitted = true;
        }
        Gate::Open
    }

    /// Whether the stage has to stay down: a hook has to answer first, or another watcher to be up.
    pub(in crate::engine) fn start_is_held_back(&self) -> bool {
        let hooked = self
            .hooks
            .has(|call| call == Call::BeforeStart || is_after_stop(call));
        hooked || self.awaiting.is_some()
    }

    /// Processes were found running: no start, so its hooks are not called. That is said.
    fn tell_of_skipped_start(&self, cx: &mut Context) {
        let start = [
            HookName::BeforeStart,
            HookName::BeforeSpawn,
            HookName::AfterSpawn,
            HookName::AfterStart,
        ];
        let names: Vec<&str> = start
            .into_iter()
            .filter(|hook| self.hooked(*hook))
            .map(HookName::name)
            .collect();
        if names.is_empty() {
            return;
        }
        let unproven = self.memory().unproven.len();
        let rest = if unproven > 0 && self.hooked(HookName::AfterSpawn) {
            format!(", but for after_spawn of {unproven} whose answer had not come")
        } else {
            String::new()
        };
        cx.log(
            Level::Info,
            format!(
                "watcher {:?}: {} processes of an earlier manager run on, so these hooks are not \
                 called for them again: {}{rest}",
                self.config.name,
                self.children.len(),
                names.join(", ")
            ),
        );
    }

    /// Whether the watcher may be told of as started.
    pub(in crate::engine) fn up_gate(&mut self) -> Gate {
        if self.memory().admitted {
            if self.hooked(HookName::AfterStart) {
                self.hooks.demand(Call::AfterStart);
                return Gate::Closed;
            }
            self.memory_mut().admitted = false;
        }
        Gate::Open
    }

    /// Whether its processes may be asked to stop.
    pub(in crate::engine) fn stop_gate(&mut self) -> Gate {
        let nothing_to_stop = self.stage == Stage::Down && self.empty();
        if self.hooks.stop_admitted || nothing_to_stop || !self.hooked(HookName::BeforeStop) {
            return Gate::Open;
        }
        let newest = self.children.newest();
        if self.stage == Stage::Down && newest <= self.memory().stopping_through {
            // An earlier manager had its answer, and asked all of them.
            return Gate::Open;
        }
        self.hooks.demand(Call::BeforeStop);
        Gate::Closed
    }

    /// Whether a stop goes on although nothing is left to stop.
    pub(in crate::engine) fn stop_is_held_back(&self) -> bool {
        self.hooks.has(|call| call == Call::BeforeStop)
    }

    /// Whether hooks of a stop have not answered.
    pub(in crate::engine) fn stop_hooks_are_due(&self) -> bool {
        self.hooks
            .has(|call| call == Call::BeforeStop || is_after_stop(call))
    }

    /// A stop is over, or will not be.
    pub(in crate::engine) const fn forget_stop(&mut self) {
        self.hooks.stop_admitted = false;
    }

    /// Nobody wants it to start any more.
    pub(in crate::engine) fn abandon_start(&mut self, cx: &mut Context) {
        self.drop_calls(cx, Call::is_of_start);
        self.drop_unsent_spawns();
        self.hooks.undo = None;
        if self.memory().admitted {
            self.memory_mut().admitted = false;
        }
    }

    /// Before a spawn is sent: whether a hook has to allow it.
    pub(in crate::engine) fn needs_permission(&self, cx: &Context, spawn: Repeated) -> bool {
        #[cfg(test)]
        if cx.fault == Fault::SpawnWithoutAsking {
            return false;
        }
        let _ = cx;
        spawn == Repeated::No && self.hooked(HookName::BeforeSpawn)
    }

    pub(in crate::engine) fn ask_for_permission(&mut self, worker: WorkerId) {
        self.hooks.demand(Call::BeforeSpawn(worker));
    }

    /// Remembers that a process will have to be proven, before it is started.
    pub(in crate::engine) fn note_unproven(&mut self, worker: WorkerId) {
        if self.hooked(HookName::AfterSpawn) {
            self.memory_mut().unproven.insert(worker);
        }
    }

    /// Whether a process counts as being there.
    pub(in crate::engine) fn proven(&self, child: &Child) -> bool {
        !self.memory().unproven.contains(&child.worker())
    }

    /// Tells of a new process, unless `after_spawn` comes first.
    pub(in crate::engine) fn announce_new(&mut self, cx: &mut Context, process: ProcessId) {
        let proven = self
            .children
            .get(process)
            .is_none_or(|child| self.proven(child));
        if proven {
            self.announce(cx, process);
        } else {
            self.hooks.unannounced.insert(process);
        }
    }

    /// Tells of a process that nobody was told of because of `after_spawn`.
    pub(in crate::engine) fn announce_late(&mut self, cx: &mut Context, process: ProcessId) {
        if self.hooks.unannounced.remove(&process) {
            self.announce(cx, process);
        }
    }

    /// Forgets proofs that nobody is left to need.
    pub(in crate::engine) fn prune_proofs(&mut self) {
        if self.memory().unproven.is_empty() {
            return;
        }
        let live: BTreeSet<WorkerId> = self.children.values().map(Child::worker).collect();
        let hooked = self.hooked(HookName::AfterSpawn);
        let spawning = &self.spawning;
        let needed =
            |worker: &WorkerId| hooked && (live.contains(worker) || spawning.contains_key(worker));
        let kept: BTreeSet<WorkerId> = self
            .memory()
            .unproven
            .iter()
            .copied()
            .filter(needed)
            .collect();
        if kept != self.memory().unproven {
            self.memory_mut().unproven = kept;
        }
    }

    /// Whose proofs are due: all processes that `after_spawn` has not answered for.
    pub(super) fn demand_proofs(&mut self) {
        if self.memory().unproven.is_empty() {
            return;
        }
        if !self.wanted() || self.hooks.undo.is_some() {
            return;
        }
        let due: Vec<ProcessId> = self
            .children
            .iter()
            .filter(|(_, child)| !child.stopping() && !self.proven(child))
            .map(|(process, _)| process)
            .collect();
        for process in due {
            self.hooks.demand(Call::AfterSpawn(process));
        }
    }

    /// Why the replacement that is going on has to be undone, once nothing of it is on its way
    /// any more.
    pub(in crate::engine) fn take_undo(&mut self) -> Option<String> {
        self.drop_unsent_spawns();
        self.spawning
            .is_empty()
            .then(|| self.hooks.undo.take())
            .flatten()
    }

    pub(in crate::engine) const fn has_undo(&self) -> bool {
        self.hooks.undo.is_some()
    }

    /// Whether a refused process leaves the old ones alone.
    pub(super) fn is_replacing_gracefully(&self) -> bool {
        self.memory()
            .rollout
            .is_some_and(|rollout| rollout.method == ReloadMethod::Graceful)
    }

    /// Stops for good, or until the configuration is changed or somebody says start.
    pub(in crate::engine) fn give_up(&mut self, error: String) {
        let configuration = self.fingerprint.clone();
        self.set_run(Run::Stopped(StopReason::GaveUp {
            error,
            configuration,
        }));
    }

    /// Whether `before_signal` has to be asked. SIGKILL is always sent, so nobody is asked.
    pub(in crate::engine) fn asks_before_signal(&self, signal: SignalNumber) -> bool {
        signal != SignalNumber::KILL && self.hooked(HookName::BeforeSignal)
    }

    /// Asks before the signal that asks a process to stop.
    pub(in crate::engine) fn ask_before_stop_signal(
        &mut self,
        process: ProcessId,
        signal: SignalNumber,
        target: SignalTarget,
    ) {
        self.hooks.demand(Call::BeforeSignal {
            process,
            signal,
            target,
            why: Why::Stop,
        });
    }

    /// Sends a signal that somebody wanted sent, through the hooks.
    pub(in crate::engine) fn signal_by_command(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        signal: SignalNumber,
        target: SignalTarget,
    ) {
        // The hooks are about the process itself, as in Circus, not about its children.
        let to_itself = match target {
            SignalTarget::Process | SignalTarget::Group | SignalTarget::Tree => true,
            SignalTarget::Descendants | SignalTarget::Children => false,
        };
        if to_itself && self.asks_before_signal(signal) {
            self.hooks.demand(Call::BeforeSignal {
                process,
                signal,
                target,
                why: Why::Command,
            });
            return;
        }
        cx.push(Action::Signal {
            process,
            signal,
            target,
        });
        if to_itself {
            self.notice_signal(process, signal);
        }
    }

    /// Tells the hooks of a signal that was sent without asking them.
    pub(in crate::engine) fn notice_signal(&mut self, process: ProcessId, signal: SignalNumber) {
        let Some(pid) = self.children.get(process).map(|child| child.pid) else {
            return;
        };
        let subject = HookSubject::Signal {
            pid,
            signal: signal.0,
        };
        if signal == SignalNumber::KILL {
            self.notice(HookName::BeforeSignal, subject);
        }
        self.notice(HookName::AfterSignal, subject);
    }

    /// `before_signal` has answered.
    pub(super) fn signal_after_hook(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        signal: SignalNumber,
        target: SignalTarget,
        why: Why,
        result: &Result<(), String>,
    ) {
        let Some(pid) = self.children.get(process).map(|child| child.pid) else {
            return;
        };
        match result {
            Ok(()) => {
                let action = Action::Signal {
                    process,
                    signal,
                    target,
                };
                self.act(cx, action);
            }
            Err(reason) => cx.log(
                Level::Info,
                format!(
                    "watcher {:?}: signal {signal} is not sent to pid {pid}: {reason}",
                    self.config.name
                ),
            ),
        }
        if why == Why::Stop {
            // As in Circus, also where the signal was not sent: the time to stop runs.
            self.publish(cx, cx.now, EventAction::Kill { pid });
            let plain = StopRecord::plain(StopCause::Unwanted);
            let how = self.memory().stop_of(process).unwrap_or(plain);
            self.begin_patience(cx, process, how);
        }
        self.notice_signal(process, signal);
    }
}

/// Whether a spawn was asked for before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Repeated {
    /// It is a new one.
    No,
    /// Its answer was lost, so it may have happened.
    Yes,
}

fn is_after_stop(call: Call) -> bool {
    matches!(
        call,
        Call::Notice {
            hook: HookName::AfterStop,
            ..
        }
    )
}

//! Hooks of a watcher: which are due, one call at a time, and what their answers do.
//!
//! Calls of one watcher are made one after the other, as Circus made all of them; different
//! watchers do not wait for each other. There are two kinds:
//!
//! - **Decisions** hold something back until they answer: a start, a spawn, a stop, a signal, or
//!   counting a process as there. They are demanded by what they hold back for as long as it is
//!   wanted, so it does not matter what became of an earlier call: one that was cut off with a
//!   connection or a manager is made again. What the next manager needs to know for that is in
//!   [`Memory`](super::remember::Memory): `admitted` and `unproven`.
//! - **Notices** are told what has happened. They are made once at most; too many of them are
//!   skipped, which is said.
//!
//! Every call has a deadline of the engine's own, so that nothing waits for ever.

mod gates;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::action::{Action, EventAction, Level, SignalTarget};
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::hook::{HookAnswer, HookName, HookProcess, HookRequest, HookSubject};
use super::ids::{HookId, Moment, ProcessId, WorkerId};
use super::limits::NOTICES_WAITING_MAX;
use super::watcher::Watcher;
use super::worker::Request;
use crate::config::model::SignalNumber;
pub(super) use gates::{Gate, Repeated};

/// The calls of one watcher.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    running: Option<Running>,
    waiting: VecDeque<Call>,
    /// `before_stop` has answered for the stop that is going on.
    stop_admitted: bool,
    /// Why the reload that is going on has to be undone.
    undo: Option<String>,
    /// Processes nobody was told of because `after_spawn` comes first.
    unannounced: BTreeSet<ProcessId>,
    /// Notices that were skipped since that was said last.
    skipped: u64,
}

#[derive(Debug)]
struct Running {
    id: HookId,
    call: Call,
    limit: Duration,
    deadline: Moment,
}

/// A call that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    BeforeStart,
    AfterStart,
    BeforeSpawn(WorkerId),
    AfterSpawn(ProcessId),
    BeforeStop,
    BeforeSignal {
        process: ProcessId,
        signal: SignalNumber,
        target: SignalTarget,
        why: Why,
    },
    Notice {
        hook: HookName,
        subject: HookSubject,
    },
}

/// What a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The process shall stop.
    Stop,
    /// Somebody wanted it sent.
    Command,
}

impl Call {
    const fn hook(self) -> HookName {
        match self {
            Self::BeforeStart => HookName::BeforeStart,
            Self::AfterStart => HookName::AfterStart,
            Self::BeforeSpawn(_) => HookName::BeforeSpawn,
            Self::AfterSpawn(_) => HookName::AfterSpawn,
            Self::BeforeStop => HookName::BeforeStop,
            Self::BeforeSignal { .. } => HookName::BeforeSignal,
            Self::Notice { hook, .. } => hook,
        }
    }

    const fn is_notice(self) -> bool {
        matches!(self, Self::Notice { .. })
    }

    /// Whether it holds back a start, so that it is pointless once nobody wants that any more.
    const fn is_of_start(self) -> bool {
        match self {
            Self::BeforeStart | Self::AfterStart | Self::BeforeSpawn(_) | Self::AfterSpawn(_) => {
                true
            }
            Self::BeforeStop | Self::BeforeSignal { .. } | Self::Notice { .. } => false,
        }
    }
}

impl Hooks {
    fn has(&self, meant: impl Fn(Call) -> bool) -> bool {
        let running = self.running.as_ref().map(|running| running.call);
        running
            .into_iter()
            .chain(self.waiting.iter().copied())
            .any(meant)
    }

    /// Makes a call due, if it is not.
    fn demand(&mut self, call: Call) {
        if !self.has(|other| other == call) {
            self.waiting.push_back(call);
        }
    }

    /// Nothing is being called and nothing is due.
    pub(super) fn idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Whether something on the way up waits for an answer.
    pub(super) fn hold_back_start(&self) -> bool {
        self.has(Call::is_of_start)
    }

    /// When the call that is being made has taken too long.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.running.as_ref().map(|running| running.deadline)
    }

    /// Which hook is being called, for people.
    pub(super) fn running(&self) -> Option<&'static str> {
        self.running
            .as_ref()
            .map(|running| running.call.hook().name())
    }
}

impl Watcher {
    /// Whether such a hook is configured.
    pub(super) fn hooked(&self, hook: HookName) -> bool {
        self.config.hooks.contains_key(hook.name())
    }

    /// Tells a hook of something, if there is one.
    pub(super) fn notice(&mut self, hook: HookName, subject: HookSubject) {
        if !self.hooked(hook) {
            return;
        }
        let notices = self.hooks.waiting.iter().filter(|call| call.is_notice());
        if notices.count() < NOTICES_WAITING_MAX {
            self.hooks.waiting.push_back(Call::Notice { hook, subject });
        } else {
            self.hooks.skipped = self.hooks.skipped.saturating_add(1);
        }
    }

    /// One step of [`Watcher::settle`]: demands what the processes need, makes the next call.
    /// Says whether something was decided by that, because nobody is left to be asked.
    pub(super) fn advance_hooks(&mut self, cx: &mut Context) -> bool {
        self.demand_proofs();
        let mut decided = false;
        while self.hooks.running.is_none() {
            let Some(call) = self.hooks.waiting.pop_front() else {
                self.tell_skipped(cx);
                break;
            };
            if self.is_pointless(call) {
                continue;
            }
            if self.hooked(call.hook()) {
                self.make_call(cx, call);
            } else {
                // It was taken out of the configuration since.
                self.conclude(cx, call, &Ok(()));
                decided = true;
            }
        }
        decided
    }

    fn tell_skipped(&mut self, cx: &mut Context) {
        let skipped = std::mem::take(&mut self.hooks.skipped);
        if skipped > 0 {
            cx.log(
                Level::Warning,
                format!(
                    "watcher {:?}: {skipped} calls of hooks were skipped, because \
                     {NOTICES_WAITING_MAX} were waiting already; the hooks are too slow",
                    self.config.name
                ),
            );
        }
    }

    /// Whether what a call was about has gone.
    fn is_pointless(&self, call: Call) -> bool {
        match call {
            Call::AfterSpawn(process) => {
                let child = self.children.get(process);
                child.is_none_or(super::worker::Child::stopping)
            }
            Call::BeforeSignal { process, .. } => !self.children.contains(process),
            Call::BeforeSpawn(worker) => self
                .spawning
                .get(&worker)
                .is_none_or(|spawning| spawning.request == Request::Sent),
            Call::BeforeStart | Call::AfterStart | Call::BeforeStop | Call::Notice { .. } => false,
        }
    }

    fn make_call(&mut self, cx: &mut Context, call: Call) {
        let hook = call.hook();
        let limit = self.config.hook_timeout;
        let processes = self.children.values().map(|child| HookProcess {
            pid: child.pid,
            worker: child.worker(),
            started: child.started,
        });
        let pid_of = |process: ProcessId| self.children.get(process).map(|child| child.pid);
        let subject = match call {
            Call::BeforeStart | Call::AfterStart | Call::BeforeStop => HookSubject::Watcher,
            Call::BeforeSpawn(worker) => HookSubject::Worker(worker),
            Call::AfterSpawn(process) => {
                pid_of(process).map_or(HookSubject::Watcher, HookSubject::Process)
            }
            Call::BeforeSignal {
                process, signal, ..
            } => pid_of(process).map_or(HookSubject::Watcher, |pid| HookSubject::Signal {
                pid,
                signal: signal.0,
            }),
            Call::Notice { subject, .. } => subject,
        };
        let id = cx.next_hook(&self.key);
        let request = HookRequest {
            id,
            watcher: self.key.clone(),
            hook,
            limit,
            subject,
            processes: processes.collect(),
            numprocesses: self.count(),
        };
        self.hooks.running = Some(Running {
            id,
            call,
            limit,
            deadline: cx.now + limit,
        });
        cx.push(Action::CallHook(request));
    }

    /// Ends a call that has taken too long.
    pub(super) fn end_late_call(&mut self, cx: &mut Context) {
        #[cfg(test)]
        if cx.fault == Fault::WaitForHooksForEver {
            return;
        }
        let Some(late) = self.hooks.running.take_if(|it| it.deadline <= cx.now) else {
            return;
        };
        cx.cancel_hook(late.id);
        let seconds = late.limit.as_secs_f64();
        let error = format!("gave no answer within {seconds} s (hook_timeout)");
        let result = self.judge_answer(cx, late.call.hook(), HookAnswer::Failed(error));
        self.conclude(cx, late.call, &result);
    }

    /// A hook answered.
    pub(super) fn handle_hook_answer(
        &mut self,
        cx: &mut Context,
        hook: HookId,
        answer: HookAnswer,
    ) {
        if let Some(running) = self.hooks.running.take_if(|running| running.id == hook) {
            let result = self.judge_answer(cx, running.call.hook(), answer);
            self.conclude(cx, running.call, &result);
        }
    }

    /// Tells everybody of an answer, and says whether it counts as a yes, or why not.
    fn judge_answer(
        &self,
        cx: &mut Context,
        hook: HookName,
        answer: HookAnswer,
    ) -> Result<(), String> {
        let name = hook.name();
        match answer {
            HookAnswer::Yes => {
                self.publish(
                    cx,
                    cx.now,
                    EventAction::HookSuccess {
                        name: name.to_owned(),
                    },
                );
                Ok(())
            }
            HookAnswer::No => {
                self.publish(
                    cx,
                    cx.now,
                    EventAction::HookSuccess {
                        name: name.to_owned(),
                    },
                );
                Err(format!("hook {name} said no"))
            }
            HookAnswer::Failed(error) => {
                let text = format!("hook {name} failed: {error}");
                cx.log(
                    Level::Error,
                    format!("watcher {:?}: {text}", self.config.name),
                );
                let name = name.to_owned();
                let config = self.config.hooks.get(&name);
                self.publish(cx, cx.now, EventAction::HookFailure { name, error });
                let ignored = config.is_none_or(|config| config.ignore_failure);
                if ignored || hook.forgives_failure() {
                    Ok(())
                } else {
                    Err(text)
                }
            }
        }
    }

    /// Gives an answer its effect.
    fn conclude(&mut self, cx: &mut Context, call: Call, result: &Result<(), String>) {
        match (call, result) {
            (Call::BeforeStart, Ok(())) => self.memory_mut().admitted = true,
            (Call::AfterStart, Ok(())) => self.memory_mut().admitted = false,
            (Call::BeforeStart | Call::AfterStart, Err(why)) => self.refuse(cx, why),
            (Call::BeforeSpawn(worker), Ok(())) => self.send_spawn(cx, worker),
            (Call::BeforeSpawn(worker), Err(why)) => {
                self.spawning.remove(&worker);
                self.refuse_spawn(cx, worker, None, why);
            }
            (Call::AfterSpawn(process), result) => {
                self.announce_late(cx, process);
                let worker = self.children.get(process).map(super::worker::Child::worker);
                match (worker, result) {
                    (Some(worker), Ok(())) => {
                        self.memory_mut().unproven.remove(&worker);
                    }
                    (Some(worker), Err(why)) => {
                        self.refuse_spawn(cx, worker, Some(process), why);
                    }
                    // It ended meanwhile, which has had its effect.
                    (None, _) => {}
                }
            }
            (Call::BeforeStop, _) => self.hooks.stop_admitted = true,
            (
                Call::BeforeSignal {
                    process,
                    signal,
                    target,
                    why,
                },
                result,
            ) => self.signal_after_hook(cx, process, signal, target, why, result),
            (Call::Notice { .. }, _) => {}
        }
    }

    /// A hook does not let the watcher run.
    fn refuse(&mut self, cx: &mut Context, why: &str) {
        cx.log(
            Level::Error,
            format!("watcher {:?} is stopped: {why}", self.config.name),
        );
        self.give_up(why.to_owned());
    }

    /// A hook does not let a process run. In a graceful reload the old ones stay, and a rolling run
    /// goes back.
    fn refuse_spawn(
        &mut self,
        cx: &mut Context,
        worker: WorkerId,
        process: Option<ProcessId>,
        why: &str,
    ) {
        if self.run_judges_spawn(cx, worker, process, why) {
            return;
        }
        if self.is_replacing_gracefully() {
            self.hooks.undo.get_or_insert_with(|| why.to_owned());
        } else {
            self.refuse(cx, why);
        }
    }

    /// Drops calls that are due or being made; the kind is up to `meant`.
    fn drop_calls(&mut self, cx: &mut Context, meant: impl Fn(Call) -> bool) {
        self.hooks.waiting.retain(|call| !meant(*call));
        if let Some(running) = self.hooks.running.take_if(|running| meant(running.call)) {
            cx.cancel_hook(running.id);
        }
    }

    /// The connection is gone: what decides is asked again on the next one.
    pub(super) fn drop_decisions(&mut self, cx: &mut Context) {
        self.drop_calls(cx, |call| !call.is_notice());
        self.drop_unsent_spawns();
    }

    /// Takes back spawns that wait for `before_spawn`.
    pub(super) fn drop_unsent_spawns(&mut self) {
        let unsent = |spawning: &super::worker::Spawning| spawning.request == Request::AwaitsHook;
        for (worker, spawning) in &self.spawning {
            if unsent(spawning) && spawning.restarts > 0 {
                self.replaced.insert(*worker, spawning.restarts);
            }
        }
        self.spawning.retain(|_, spawning| !unsent(spawning));
    }
}

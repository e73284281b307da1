//! Commands that change one watcher, one after the other.
//!
//! A command is accepted into the watcher's queue, which is remembered, so that it will be done
//! whatever happens to this manager. It begins when the one before it has ended, changes what the
//! watcher shall be, and ends when the watcher has become that, or has failed to for a while (it
//! goes on trying then, but nobody waits any more). Two do not wait: numbers of processes count
//! from the moment they are accepted, and stop ends what is being done and makes what was queued
//! pointless.

use serde::{Deserialize, Serialize};

use super::action::EventAction;
use super::context::Context;
use super::dependencies::Awaiting;
use super::flapping::Flaps;
use super::ids::{CommandId, Pid, ProcessId};
use super::limits::{NUMPROCESSES_MAX, OPERATION_ATTEMPTS_MAX};
use super::remember::{Count, Run, StopCause, StopReason, StopRecord};
use super::rolling::Order;
use super::sockets::Obstacle;
use super::watcher::{Stage, Watcher};
use crate::command::rolling::RunState;
use crate::command::{ReloadMethod, WatcherOutcome, WatcherResult};

/// A change of one watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// It shall run.
    Start,
    /// It shall not run.
    Stop,
    /// All its processes shall be replaced; it shall run.
    Replace {
        /// In which order.
        method: ReloadMethod,
    },
    /// It shall have more or fewer processes.
    Step {
        /// By how many.
        by: i64,
    },
    /// It shall have so many processes.
    Scale {
        /// How many.
        numprocesses: u32,
    },
    /// Its processes that were started from other options shall be replaced, if it runs.
    Refresh {
        /// In which order.
        method: ReloadMethod,
    },
    /// It is removed, and its processes are stopped.
    Remove,
    /// All its processes shall be replaced by a rolling run; it shall run.
    Roll(Box<Order>),
    /// These processes shall be stopped.
    Kill {
        /// Which.
        targets: Vec<ProcessId>,
        /// How.
        how: StopRecord,
    },
}

impl Operation {
    /// The word for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Replace {
                method: ReloadMethod::Terminate,
            } => "restart",
            Self::Replace {
                method: ReloadMethod::Graceful | ReloadMethod::Sequential,
            } => "reload",
            Self::Step { by } if *by < 0 => "decr",
            Self::Step { .. } => "incr",
            Self::Scale { .. } => "scale",
            Self::Refresh { .. } => "set",
            Self::Remove => "rm",
            Self::Roll(order) => order.purpose.name(),
            Self::Kill { .. } => "kill",
        }
    }
}

/// Progress of the command a watcher is busy with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Current {
    /// Who waits for its end.
    pub(super) waiter: Option<CommandId>,
    /// Pids started since it began.
    pub(super) started: Vec<Pid>,
    /// Pids that ended since it began.
    pub(super) stopped: Vec<Pid>,
    /// Pids that were there when it began and still are.
    pub(super) kept: Vec<Pid>,
    /// Failed spawns and early ends since it began.
    pub(super) troubles: u32,
    /// Why it was undone.
    pub(super) undone: Option<String>,
    /// It was asked to reload what did not run, which is a start, but told of as a reload too.
    pub(super) reloads_by_starting: bool,
}

impl Watcher {
    /// Accepts a command that `waiter` waits for, if anybody does.
    pub(super) fn enqueue(
        &mut self,
        cx: &mut Context,
        operation: Operation,
        waiter: Option<CommandId>,
    ) {
        let operation = self.as_configured(cx, operation);
        match operation {
            Operation::Stop => self.supersede(cx, "a later command stopped the watcher"),
            Operation::Remove => self.supersede(cx, "a later command removed the watcher"),
            Operation::Start
            | Operation::Replace { .. }
            | Operation::Step { .. }
            | Operation::Scale { .. }
            | Operation::Refresh { .. }
            | Operation::Roll(_)
            | Operation::Kill { .. } => {}
        }
        // Numbers count at once, also for what is being done; only the answer waits.
        match operation {
            Operation::Step { by } => self.step(by),
            Operation::Scale { numprocesses } => self.scale(numprocesses),
            Operation::Start
            | Operation::Stop
            | Operation::Replace { .. }
            | Operation::Refresh { .. }
            | Operation::Remove
            | Operation::Roll(_)
            | Operation::Kill { .. } => {}
        }
        self.memory_mut().queue.push_back(operation);
        self.waiters.push_back(waiter);
    }

    /// Ends all commands at once. Numbers that they set stay.
    pub(super) fn supersede(&mut self, cx: &mut Context, reason: &str) {
        self.conclude_run(cx, RunState::Superseded, Some(reason.to_owned()));
        if self.memory_mut().current.take().is_some() {
            let current = self.current.take().unwrap_or_default();
            self.report(
                cx,
                current,
                WatcherResult::Superseded,
                Some(reason.to_owned()),
            );
        }
        while let Some(operation) = self.memory_mut().queue.pop_front() {
            if let Operation::Roll(order) = operation {
                self.drop_order(cx, *order, RunState::Superseded, reason);
            }
            let waiter = self.waiters.pop_front().flatten();
            let current = Current {
                waiter,
                ..Current::default()
            };
            self.report(
                cx,
                current,
                WatcherResult::Superseded,
                Some(reason.to_owned()),
            );
        }
    }

    /// Ends all commands, and the effect of earlier ones with them: half of what operators said
    /// would be worse than nothing.
    pub(super) fn forget_words(&mut self, cx: &mut Context, reason: &str) {
        self.supersede(cx, reason);
        let memory = self.memory_mut();
        memory.run = None;
        memory.count = None;
        memory.options.clear();
        memory.versions.clear();
        memory.suspended = false;
        memory.flaps = Flaps::default();
        memory.failures.clear();
        memory.failed_starts = 0;
        memory.spent = 0;
    }

    /// Answers all who wait, because this manager leaves; the commands stay remembered.
    pub(super) fn release_waiters(&mut self, cx: &mut Context, reason: &str) {
        if let Some(current) = &mut self.current {
            let current = std::mem::take(current);
            self.report(
                cx,
                current,
                WatcherResult::Accepted,
                Some(reason.to_owned()),
            );
        }
        for waiter in std::mem::take(&mut self.waiters) {
            let current = Current {
                waiter,
                ..Current::default()
            };
            self.report(
                cx,
                current,
                WatcherResult::Accepted,
                Some(reason.to_owned()),
            );
            self.waiters.push_back(None);
        }
    }

    /// Begins the next command if none is being done.
    pub(super) fn begin_operation(&mut self, cx: &mut Context) {
        if self.memory().current.is_some() {
            if self.current.is_none() {
                // An earlier manager began it.
                self.current = Some(Current::default());
            }
            return;
        }
        if self.memory().queue.is_empty() {
            return;
        }
        let waiter = self.waiters.pop_front().flatten();
        let kept = self.children.values().filter(|child| !child.stopping());
        let kept = kept.map(|child| child.pid).collect();
        self.current = Some(Current {
            waiter,
            kept,
            ..Current::default()
        });
        // A run that is on its way back for long is let go of for what comes now.
        self.conclude_run(cx, RunState::Superseded, None);
        let memory = self.memory_mut();
        memory.current = memory.queue.pop_front();
        // What follows changes the memory before it acts, so both arrive together.
        match memory.current.clone() {
            Some(Operation::Start) => {
                self.set_run(Run::Running);
                self.begin_afresh();
            }
            Some(Operation::Stop) => self.set_run(Run::Stopped(StopReason::Command)),
            Some(Operation::Replace { method }) => self.begin_rollout(cx, method),
            Some(Operation::Refresh { method }) => {
                self.try_begin_refresh(method);
            }
            Some(Operation::Roll(order)) => self.begin_run(cx, *order),
            Some(Operation::Kill { targets, how }) => self.kill(cx, &targets, how),
            Some(Operation::Step { .. } | Operation::Scale { .. } | Operation::Remove) | None => {}
        }
    }

    /// What was on its way when a refresh began may have arrived since, and has to be replaced too.
    /// Says whether there was something.
    pub(super) fn try_resume_refresh(&mut self) -> bool {
        match self.memory().current {
            Some(Operation::Refresh { method }) => self.try_begin_refresh(method),
            Some(_) | None => false,
        }
    }

    fn step(&mut self, by: i64) {
        let count = i64::from(self.count()).saturating_add(by).max(0);
        self.scale(u32::try_from(count).unwrap_or(NUMPROCESSES_MAX));
    }

    pub(super) fn scale(&mut self, numprocesses: u32) {
        let configured = self.config.numprocesses;
        let numprocesses = numprocesses.min(NUMPROCESSES_MAX);
        self.memory_mut().count = Some(Count {
            numprocesses,
            configured,
        });
        self.drop_obsolete_words();
    }

    fn kill(&mut self, cx: &mut Context, targets: &[ProcessId], how: StopRecord) {
        let how = StopRecord {
            cause: StopCause::Killed,
            ..how
        };
        self.stop_processes(cx, targets, how);
    }

    /// Ends the current command if it is done or nobody should wait longer. Says whether it did.
    pub(super) fn try_finish_operation(&mut self, cx: &mut Context) -> bool {
        let Some((result, reason)) = self.verdict(cx) else {
            return false;
        };
        let current = self.current.take().unwrap_or_default();
        self.memory_mut().current = None;
        if current.reloads_by_starting && result == WatcherResult::Done {
            self.publish(cx, cx.now, EventAction::Reload);
        }
        self.report(cx, current, result, reason);
        true
    }

    fn verdict(&self, cx: &Context) -> Option<(WatcherResult, Option<String>)> {
        let done = Some((WatcherResult::Done, None));
        if let Some(why) = self.current.as_ref().and_then(|it| it.undone.clone()) {
            return Some((WatcherResult::Failed, Some(why)));
        }
        match self.memory().current.as_ref()? {
            Operation::Stop | Operation::Remove if self.wanted() => {
                let reason = "the configuration was changed, and says to run it";
                Some((WatcherResult::Superseded, Some(reason.to_owned())))
            }
            Operation::Stop | Operation::Remove => (self.empty() && !self.stop_hooks_are_due())
                .then_some(())
                .and(done),
            Operation::Roll(_) => self.run_verdict(cx),
            Operation::Kill { targets, how: _ } => {
                let gone = targets
                    .iter()
                    .all(|target| !self.children.contains(*target));
                gone.then_some(()).and(done)
            }
            Operation::Step { .. } | Operation::Scale { .. } | Operation::Refresh { .. }
                if !self.wanted() =>
            {
                done
            }
            Operation::Step { .. } | Operation::Scale { .. } | Operation::Refresh { .. } => {
                let exact = self.complete(cx) && self.children.len() <= self.target();
                let refreshes = matches!(self.memory().current, Some(Operation::Refresh { .. }));
                let exact = exact && !(refreshes && self.has_outdated());
                if exact {
                    done
                } else {
                    self.verdict_of_trouble(cx)
                }
            }
            Operation::Start | Operation::Replace { .. } => match &self.memory().run {
                // What a hook refused after its start still has to end.
                Some(Run::Stopped(StopReason::GaveUp { .. })) if !self.empty() => None,
                Some(Run::Stopped(StopReason::GaveUp { error, .. })) => {
                    Some((WatcherResult::Failed, Some(error.clone())))
                }
                Some(Run::Stopped(StopReason::Flapping { .. })) => {
                    let reason = "its processes end again and again, so it is stopped for now";
                    Some((WatcherResult::Failed, Some(reason.to_owned())))
                }
                Some(Run::Stopped(StopReason::Finished)) => done,
                Some(Run::Stopped(StopReason::Command)) => Some((WatcherResult::Superseded, None)),
                // It starts with the next connection.
                Some(Run::Running) | None if self.is_armed() && self.rests() => done,
                Some(Run::Running) | None if !self.wanted() => {
                    let reason = "the configuration was changed, and says not to start it";
                    Some((WatcherResult::Superseded, Some(reason.to_owned())))
                }
                Some(Run::Running) | None => {
                    if self.stage == Stage::Up && self.complete(cx) {
                        done
                    } else {
                        self.verdict_of_trouble(cx)
                    }
                }
            },
        }
    }

    fn verdict_of_trouble(&self, cx: &Context) -> Option<(WatcherResult, Option<String>)> {
        if self.memory().suspended {
            let reason = self.waits_for(cx).map(|(reason, _)| reason);
            return Some((WatcherResult::Failed, reason));
        }
        if let Some(Awaiting::Stuck(reason)) = &self.awaiting {
            return Some((WatcherResult::Failed, Some(reason.clone())));
        }
        if let Some(Obstacle::Failed(reason)) = cx.sockets.obstacle(&self.uses) {
            return Some((
                WatcherResult::Failed,
                Some(format!("{reason}; attempts go on")),
            ));
        }
        let (reason, until) = self.waits_for(cx)?;
        until?;
        let held_back = self
            .memory()
            .failures
            .values()
            .filter(|it| it.not_before > cx.now);
        let worst = held_back.map(|failures| failures.count).max();
        let troubles = self.current.as_ref().map_or(0, |current| current.troubles);
        (troubles >= OPERATION_ATTEMPTS_MAX || worst >= Some(OPERATION_ATTEMPTS_MAX)).then(|| {
            (
                WatcherResult::Failed,
                Some(format!("{reason}; attempts go on")),
            )
        })
    }

    fn report(
        &self,
        cx: &mut Context,
        current: Current,
        result: WatcherResult,
        reason: Option<String>,
    ) {
        if let Some(command) = current.waiter {
            let mut outcome = self.outcome(result, reason);
            outcome.started = current.started;
            outcome.stopped = current.stopped;
            outcome.kept = current.kept;
            cx.finish(command, outcome);
        }
    }

    /// An outcome without pids.
    pub(super) fn outcome(&self, result: WatcherResult, reason: Option<String>) -> WatcherOutcome {
        WatcherOutcome {
            watcher: self.config.name.clone(),
            result,
            reason,
            numprocesses: self.count(),
            started: Vec::new(),
            stopped: Vec::new(),
            kept: Vec::new(),
        }
    }
}

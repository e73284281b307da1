//! Rolling runs are accepted, begin, and are concluded.

use std::time::Duration;

use super::drive::timeout;
use super::{Order, Rolled, Rolling};
use crate::command::rolling::{Caller, Purpose, Roll, RollOptions, RunLimits, RunState};
use crate::command::{
    Answer, Refusal, RefusalKind, ReloadMethod, Wait, WatcherOutcome, WatcherResult,
};
use crate::config::amend::Changes;
use crate::engine::action::{EventAction, Level};
use crate::engine::commands::{Pending, invalid};
use crate::engine::context::Context;
use crate::engine::ids::{CommandId, Moment, ProcessId};
use crate::engine::manager::Engine;
use crate::engine::operation::Operation;
use crate::engine::remember::Run;
use crate::engine::watcher::{Stage, Watcher};

impl Engine {
    /// Accepts rolling runs, for all watchers named or for none.
    pub(in crate::engine) fn roll(
        &mut self,
        command: CommandId,
        request: &Roll,
    ) -> Result<(), Refusal> {
        let mut keys = self.select(&request.selection)?;
        if request.selection.watchers.is_empty() || keys.len() > 1 {
            // As with other commands: who names many means the usual ones.
            let usual = |watcher: &Watcher| watcher.config.autostart || watcher.wanted();
            keys.retain(|key| self.watchers.get(key).is_some_and(usual));
        }
        self.check_queues(&keys)?;
        let mut reports = Vec::new();
        for watcher in keys.iter().filter_map(|key| self.watchers.get(key)) {
            watcher.check_free_for_run(self.cx.now)?;
            let limits = watcher.checked_limits(request.options)?;
            reports.push(watcher.planned_run(&self.cx, limits, request));
        }
        if request.dry_run {
            self.cx.reply(command, Ok(Answer::Runs { runs: reports }));
            return Ok(());
        }
        let mut outcomes: Vec<WatcherOutcome> = Vec::new();
        let mut missing = 0;
        reports.clear();
        for key in keys {
            let Some(watcher) = self.watchers.get_mut(&key) else {
                continue;
            };
            let waiter = match request.wait {
                Wait::Done => Some(command),
                Wait::No => None,
            };
            let order = watcher.order_run(
                self.cx.now,
                Purpose::Reload,
                request.by.clone(),
                request.options,
            );
            watcher.enqueue(&mut self.cx, Operation::Roll(Box::new(order)), waiter);
            match request.wait {
                Wait::Done => missing += 1,
                Wait::No => {
                    outcomes.push(watcher.outcome(WatcherResult::Accepted, None));
                    reports.extend(watcher.run_report(&self.cx));
                }
            }
            if watcher.stage == Stage::Down {
                self.grant_turn(&key);
            }
            self.dirty.insert(key);
        }
        if missing == 0 {
            self.cx.promise(command, Ok(Answer::Runs { runs: reports }));
        } else {
            self.pending
                .insert(command, Pending::of_watchers(missing, outcomes));
        }
        Ok(())
    }
}

impl Watcher {
    /// Refuses where a run is going on or waits already: two would undo each other's counting.
    pub(in crate::engine) fn check_free_for_run(&self, now: Moment) -> Result<(), Refusal> {
        let memory = self.memory();
        if memory.suspended {
            return Err(invalid(format!(
                "no processes of watcher {0:?} are started; say first: kingpole resume {0}",
                self.config.name
            )));
        }
        let current = memory.current.iter().chain(&memory.queue);
        let held = current.filter_map(|operation| match operation {
            Operation::Roll(order) => Some(order),
            _ => None,
        });
        let Some(order) = held.into_iter().next() else {
            return Ok(());
        };
        let ago = now.since(order.at).as_secs();
        Err(Refusal {
            kind: RefusalKind::Busy,
            reason: format!(
                "watcher {:?} is in the middle of a rolling {} (run {}) that {} began {ago} s ago; \
                 wait for it, or end it with: kingpole stop {}",
                self.config.name,
                order.purpose.name(),
                order.run,
                order.by,
                self.config.name
            ),
        })
    }

    /// What a run keeps to, where that is possible.
    pub(in crate::engine) fn checked_limits(
        &self,
        options: RollOptions,
    ) -> Result<RunLimits, Refusal> {
        let limits = self.limits_of(options);
        let count = self.count();
        if limits.max_surge > 0 || count == 0 || limits.min_active < count {
            return Ok(limits);
        }
        let why = if self.config.singleton {
            "it is a singleton, of which there are never two; say --min-active 0".to_owned()
        } else {
            format!(
                "without extra processes one of its {count} has to go first; say --max-surge 1, or \
                 --min-active {}",
                count - 1
            )
        };
        Err(invalid(format!(
            "watcher {:?} cannot be rolled with {} processes ready all the time: {why}",
            self.config.name, limits.min_active
        )))
    }

    /// What a run keeps to, with the defaults filled in.
    pub(super) fn limits_of(&self, options: RollOptions) -> RunLimits {
        let count = self.count();
        let own = &self.config.rolling;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let max_surge = match options.max_surge.or(own.max_surge) {
            _ if self.config.singleton => 0,
            Some(surge) => surge,
            None => count.div_ceil(4).max(1),
        };
        let spare = u32::from(max_surge == 0);
        let usual = own.timeout.unwrap_or(self.config.ready.timeout);
        RunLimits {
            min_active: options
                .min_active
                .or(own.min_active)
                .unwrap_or_else(|| count.saturating_sub(spare)),
            max_surge,
            skew_ms: options
                .skew_ms
                .unwrap_or_else(|| own.skew.map_or(0, millis)),
            timeout_ms: options.timeout_ms.unwrap_or_else(|| millis(usual)),
            force: options.force,
        }
    }

    /// What an operation becomes: where the watcher says `rolling`, a reload and what follows from changed options are rolling runs,
    /// if one is possible.
    pub(in crate::engine) fn as_configured(
        &mut self,
        cx: &mut Context,
        operation: Operation,
    ) -> Operation {
        let replaces = match operation {
            Operation::Replace { method } => {
                method == ReloadMethod::Graceful && !self.config.send_hup
            }
            // However it would be done. What is on its way may be of the old options, and a run knows its
            // processes by their numbers.
            Operation::Refresh { .. } => {
                self.wanted() && self.has_outdated() && self.spawning.is_empty()
            }
            _ => false,
        };
        if !(replaces && self.config.rolling.always) || self.memory().suspended {
            return operation;
        }
        let options = RollOptions::default();
        if let Err(refusal) = self.checked_limits(options) {
            let text = format!("{}; it is done without a rolling run", refusal.reason);
            cx.log(Level::Warning, text);
            return operation;
        }
        let order = self.order_run(cx.now, Purpose::Reload, Caller::default(), options);
        Operation::Roll(Box::new(order))
    }

    /// A number and a date for a run.
    pub(in crate::engine) fn order_run(
        &mut self,
        at: Moment,
        purpose: Purpose,
        by: Caller,
        options: RollOptions,
    ) -> Order {
        let memory = self.memory_mut();
        memory.runs = memory.runs.saturating_add(1);
        Order {
            run: memory.runs,
            purpose,
            by,
            at,
            options,
            changes: Changes::new(),
        }
    }

    /// Begins to replace all that is alive now. What is stopped is started.
    pub(in crate::engine) fn begin_run(&mut self, cx: &mut Context, order: Order) {
        // Numbers may have changed since it was accepted, but each step works out what holds.
        let limits = self.limits_of(order.options);
        let away_from = (order.purpose != Purpose::Reload).then(|| self.fingerprint.clone());
        let before = match self.take_version(cx, &order) {
            Ok(before) => before,
            Err(refusal) => {
                self.drop_order(cx, order, RunState::Failed, &refusal.reason);
                return;
            }
        };
        self.set_run(Run::Running);
        self.begin_afresh();
        let (through, to_replace) = self.to_replace(&order);
        cx.log(
            Level::Info,
            format!(
                "watcher {:?}: rolling {} of {to_replace} processes for {}, never fewer than {} \
                 ready, at most {} extra",
                self.config.name,
                order.purpose.name(),
                order.by,
                limits.min_active,
                limits.max_surge
            ),
        );
        self.pulse.begin(cx.now);
        self.memory_mut().rolling = Some(Rolling {
            order,
            limits,
            after: ProcessId(0),
            through,
            to_replace,
            back: None,
            away_from,
            before,
        });
    }

    /// The newest of the processes that a run replaces, and how many they are: all that are alive, or so many of the oldest.
    pub(super) fn to_replace(&self, order: &Order) -> (ProcessId, u32) {
        // Of a new version there is never only a part.
        let workers = order
            .options
            .workers
            .filter(|_| order.purpose == Purpose::Reload);
        let most = workers.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
        let settled = self.children.iter().filter(|(_, child)| !child.stopping());
        let chosen: Vec<ProcessId> = settled.map(|(process, _)| process).take(most).collect();
        let newest = match workers {
            None => self.children.newest(),
            Some(_) => chosen.last().copied(),
        };
        let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        (newest.unwrap_or(ProcessId(0)), count)
    }

    /// How many old processes of a run are gone.
    pub(super) fn replaced_by(&self, rolling: &Rolling) -> u32 {
        if rolling.back.is_some() {
            return 0;
        }
        let left = self
            .children
            .iter()
            .filter(|(process, _)| rolling.covers(*process))
            .count();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        rolling.to_replace.saturating_sub(left)
    }

    /// A run is over.
    pub(in crate::engine) fn conclude_run(
        &mut self,
        cx: &mut Context,
        state: RunState,
        reason: Option<String>,
    ) {
        let Some(rolling) = self.memory().rolling.clone() else {
            return;
        };
        let replaced = self.replaced_by(&rolling);
        let purpose = rolling.order.purpose.name();
        let name = &self.config.name;
        // One that was given up stays so, whatever ended it in the end.
        let state = if rolling.back.is_some() {
            RunState::Failed
        } else {
            state
        };
        let line = match state {
            RunState::Done => (
                Level::Info,
                format!("rolling {purpose} done, {replaced} replaced"),
            ),
            RunState::Failed => (
                Level::Warning,
                format!("rolling {purpose} given up; what was before runs"),
            ),
            RunState::Planned
            | RunState::Queued
            | RunState::Rolling
            | RunState::Returning
            | RunState::Superseded => (
                Level::Warning,
                format!(
                    "rolling {purpose} ended early: {}",
                    reason
                        .as_deref()
                        .unwrap_or("a later command made it pointless")
                ),
            ),
        };
        cx.log(line.0, format!("watcher {name:?}: {}", line.1));
        if state == RunState::Done {
            self.publish(cx, cx.now, EventAction::Reload);
        }
        let ended = cx.now;
        if state == RunState::Superseded {
            // Nobody has seen it work, so it is not what is meant from now on.
            self.take_words_back(&rolling);
        }
        self.note_outcome(&rolling, state, reason.as_deref());
        let memory = self.memory_mut();
        memory.rolling = None;
        memory.rolled = Some(Rolled {
            order: rolling.order,
            limits: rolling.limits,
            to_replace: rolling.to_replace,
            replaced,
            ended,
            state,
            reason,
            trouble: rolling.back,
        });
    }

    /// An accepted run will not begin.
    pub(in crate::engine) fn drop_order(
        &mut self,
        cx: &Context,
        order: Order,
        state: RunState,
        reason: &str,
    ) {
        self.memory_mut().rolled = Some(Rolled {
            order,
            limits: RunLimits::default(),
            to_replace: 0,
            replaced: 0,
            ended: cx.now,
            state,
            reason: Some(reason.to_owned()),
            trouble: None,
        });
    }

    /// What became of the run that a command waits for, once that is known.
    pub(in crate::engine) fn run_verdict(
        &self,
        cx: &Context,
    ) -> Option<(WatcherResult, Option<String>)> {
        if let Some(rolling) = &self.memory().rolling {
            let trouble = rolling.back.as_ref()?;
            // Whoever waits need not wait for the way back for ever.
            let over = trouble.at + timeout(rolling) <= cx.now;
            let reason = format!("{}; what was before is being put back", trouble.why);
            return over.then_some((WatcherResult::Failed, Some(reason)));
        }
        let rolled = self.memory().rolled.as_ref()?;
        let trouble = rolled.trouble.as_ref().map(|trouble| trouble.why.clone());
        let reason = rolled.reason.clone().or(trouble);
        Some(match rolled.state {
            RunState::Done => (WatcherResult::Done, None),
            RunState::Superseded => (WatcherResult::Superseded, reason),
            RunState::Failed
            | RunState::Planned
            | RunState::Queued
            | RunState::Rolling
            | RunState::Returning => (WatcherResult::Failed, reason),
        })
    }
}

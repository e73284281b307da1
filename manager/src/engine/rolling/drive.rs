//! A watcher in the middle of a rolling run: what its processes amount to, and the next step.

use std::time::Duration;

use super::decide::{self, View};
use super::{Rolling, Trouble};
use crate::command::Readiness;
use crate::command::rolling::{Purpose, RunState};
use crate::engine::action::{Action, Level};
use crate::engine::context::Context;
#[cfg(test)]
use crate::engine::context::Fault;
use crate::engine::converge::Pace;
use crate::engine::ids::{Moment, Pid, ProcessId, WorkerId};
use crate::engine::limits::PROVEN_BY_UPTIME;
use crate::engine::remember::{StopCause, StopRecord};
use crate::engine::watcher::Watcher;
use crate::engine::worker::Child;

/// What a manager keeps of a run without remembering it.
#[derive(Debug, Default)]
pub(in crate::engine) struct Pulse {
    /// A process made trouble; seen to in the next step.
    trouble: Option<Trouble>,
    /// When something last happened.
    moved: Moment,
    /// When the last old process was asked to stop.
    stopped: Option<Moment>,
    /// When to look again although nothing happens.
    pub(in crate::engine) wake: Option<Moment>,
    /// The process for which the run turned back has ended; what it wrote last is told once it has
    /// been read.
    pub(in crate::engine) last_words_of: Option<ProcessId>,
}

impl Pulse {
    /// Something happened, or nobody was there to see.
    pub(in crate::engine) const fn moved(&mut self, now: Moment) {
        self.moved = now;
    }

    /// A new manager, or connection, gives everything its time again.
    pub(in crate::engine) fn resume(&mut self, now: Moment) {
        *self = Self {
            moved: now,
            stopped: Some(now),
            ..Self::default()
        };
    }

    pub(super) fn begin(&mut self, now: Moment) {
        *self = Self {
            moved: now,
            ..Self::default()
        };
    }
}

/// The processes of one look.
struct Sight {
    view: View,
    /// Old ones that are not stopping, from the oldest on.
    old_ready: Vec<ProcessId>,
    old_unready: Vec<ProcessId>,
    /// When those become ready that only have to live a moment longer.
    old_young: Vec<Moment>,
    new_ready: Vec<ProcessId>,
    /// With the time at which it becomes ready by itself, if it does.
    new_unready: Vec<(ProcessId, Option<Moment>)>,
    /// Old ones that were asked to stop.
    old_stopping: usize,
}

impl Watcher {
    /// Whether a process that nobody asked to stop counts as ready in a run, or when it will if it
    /// lives so long. Where no `ready` option says what to look at, having lived for a while is what
    /// tells a process that works from one that cannot start.
    fn ready_in_run(&self, cx: &Context, child: &Child) -> Result<(), Option<Moment>> {
        if !self.is_ready(child) {
            return Err(None);
        }
        if self.config.ready.probe.is_some() {
            return Ok(());
        }
        let at = child.started + self.config.warmup_delay.max(PROVEN_BY_UPTIME);
        if at <= cx.now { Ok(()) } else { Err(Some(at)) }
    }

    /// How many processes are ready.
    pub(super) fn ready_in_run_count(&self, cx: &Context) -> usize {
        let settled = self.children.values().filter(|child| !child.stopping());
        settled
            .filter(|child| self.ready_in_run(cx, child).is_ok())
            .count()
    }

    /// Whether a process is to be replaced by the run.
    pub(in crate::engine) fn is_replaced_by_run(&self, process: ProcessId) -> bool {
        let rolling = self.memory().rolling.as_ref();
        rolling.is_some_and(|rolling| rolling.covers(process))
    }

    /// Whether a process was started by a run that goes on, and nothing has gone wrong in it.
    fn is_of_run(&self, process: ProcessId) -> bool {
        let rolling = self.memory().rolling.as_ref();
        rolling.is_some_and(|rolling| rolling.back.is_none() && process > rolling.through)
    }

    /// A process ended by itself and badly, or failed to become ready. Says whether that is for the run to judge.
    pub(in crate::engine) fn run_judges_end(
        &mut self,
        cx: &Context,
        process: ProcessId,
        worker: WorkerId,
        pid: Pid,
        how: &str,
    ) -> bool {
        if !self.is_of_run(process) {
            return false;
        }
        self.pulse.trouble.get_or_insert_with(|| Trouble {
            why: how.to_owned(),
            at: cx.now,
            worker: Some(worker),
            pid: Some(pid),
            process: Some(process),
        });
        true
    }

    /// A process could not be started, or was refused by a hook. Says whether that is for the run
    /// to judge.
    pub(in crate::engine) fn run_judges_spawn(
        &mut self,
        cx: &mut Context,
        worker: WorkerId,
        process: Option<ProcessId>,
        why: &str,
    ) -> bool {
        let Some(rolling) = &self.memory().rolling else {
            return false;
        };
        if rolling.back.is_some() {
            // There is nothing further back to turn to, so it is tried again and again.
            let policy = self.config.backoff;
            self.count_failure(cx, worker, cx.now, &policy);
            if let Some(process) = process {
                self.stop_process(cx, process, StopRecord::plain(StopCause::Unwanted));
            }
            return true;
        }
        let pid = process.and_then(|process| Some(self.children.get(process)?.pid));
        self.pulse.trouble.get_or_insert_with(|| Trouble {
            why: why.to_owned(),
            at: cx.now,
            worker: Some(worker),
            pid,
            process,
        });
        true
    }

    fn sight(&self, cx: &Context, rolling: &Rolling) -> Sight {
        let mut sight = Sight {
            view: View {
                target: self.target(),
                singleton: self.config.singleton,
                stopping: self.children.stopping(),
                spawning: self.spawning.len(),
                ..View::default()
            },
            old_ready: Vec::new(),
            old_unready: Vec::new(),
            old_young: Vec::new(),
            new_ready: Vec::new(),
            new_unready: Vec::new(),
            old_stopping: 0,
        };
        let returning_reload = rolling.back.is_some() && rolling.order.purpose == Purpose::Reload;
        for (process, child) in self.children.iter() {
            let configuration = &child.identity.configuration;
            let refused = rolling.away_from.as_ref() == Some(configuration)
                && *configuration != self.fingerprint;
            let old = (rolling.covers(process) || refused) && !returning_reload;
            match (old, child.stopping(), self.ready_in_run(cx, child)) {
                (true, true, _) => sight.old_stopping += 1,
                (false, true, _) => {}
                (true, false, Ok(())) => sight.old_ready.push(process),
                (true, false, Err(Some(at))) => sight.old_young.push(at),
                (true, false, Err(None)) => sight.old_unready.push(process),
                (false, false, Ok(())) => sight.new_ready.push(process),
                (false, false, Err(at)) => sight.new_unready.push((process, at)),
            }
        }
        sight.view.old_ready = sight.old_ready.len();
        sight.view.old_unready = sight.old_unready.len();
        sight.view.old_young = sight.old_young.len();
        sight.view.new_ready = sight.new_ready.len();
        sight.view.new_unready = sight.new_unready.len();
        sight
    }

    /// One step of the run.
    pub(in crate::engine) fn drive(&mut self, cx: &mut Context) {
        self.pulse.wake = None;
        let Some(mut rolling) = self.memory().rolling.clone() else {
            return;
        };
        let mut sight = self.sight(cx, &rolling);
        if rolling.back.is_none() {
            let trouble = self.pulse.trouble.take();
            let trouble = trouble.or_else(|| self.find_late(cx, &rolling, &sight));
            if let Some(trouble) = trouble {
                self.turn_back(cx, trouble);
                let Some(turned) = self.memory().rolling.clone() else {
                    return;
                };
                if self.rewritten {
                    return;
                }
                rolling = turned;
                sight = self.sight(cx, &rolling);
            }
        }
        self.pulse.trouble = None;
        self.take_step(cx, &rolling, &sight);
        if self.is_over(&rolling, &sight) {
            match rolling.back {
                None => self.conclude_run(cx, RunState::Done, None),
                Some(_) => self.conclude_run(cx, RunState::Failed, None),
            }
            self.keep(cx);
        }
    }

    fn take_step(&mut self, cx: &mut Context, rolling: &Rolling, sight: &Sight) {
        let mut step = decide::step(&rolling.limits, &sight.view);
        #[cfg(test)]
        if cx.fault == Fault::StopTooMany {
            step.stop_ready = sight.view.old_ready;
        }
        let mut unready: Vec<ProcessId> = sight.old_unready.clone();
        let mut ready = &sight.old_ready;
        let nothing_old = sight.old_ready.is_empty()
            && sight.old_unready.is_empty()
            && sight.old_young.is_empty();
        if rolling.back.is_some() && nothing_old {
            // What arrived late, or was extra, is too much now.
            let surplus = decide::surplus(&rolling.limits, &sight.view);
            step.stop_unready = surplus.stop_unready;
            step.stop_ready = surplus.stop_ready;
            unready = sight.new_unready.iter().map(|(id, _)| *id).rev().collect();
            ready = &sight.new_ready;
        }
        unready.truncate(step.stop_unready);
        self.stop_for_run(cx, rolling, &unready);
        let mut chosen: Vec<ProcessId> = ready.iter().copied().take(step.stop_ready).collect();
        let skew = Duration::from_millis(rolling.limits.skew_ms);
        if !skew.is_zero() && !chosen.is_empty() {
            let next = self.pulse.stopped.map_or(cx.now, |at| at + skew);
            if next > cx.now {
                self.wake_run_at(cx, next);
                chosen.clear();
            } else if chosen.len() > 1 {
                chosen.truncate(1);
                self.wake_run_at(cx, cx.now + skew);
            }
        }
        if !chosen.is_empty() {
            self.pulse.stopped = Some(cx.now);
        }
        self.stop_for_run(cx, rolling, &chosen);
        self.spawn_missing(cx, step.spawn, Pace::WarmUp);
        if step.spawn > 0 && self.spawning.is_empty() && rolling.back.is_none() {
            self.wake_run_at(cx, self.pulse.moved + timeout(rolling));
        }
        for (process, at) in &sight.new_unready {
            let started = self.children.get(*process).map(|child| child.started);
            let late = started.map(|started| started + timeout(rolling));
            for at in [*at, late].into_iter().flatten() {
                self.wake_run_at(cx, at);
            }
        }
        if rolling.back.is_some() {
            // Whoever waits is answered then.
            let at = rolling.back.as_ref().map(|trouble| trouble.at);
            self.wake_run_at(cx, at.unwrap_or_default() + timeout(rolling));
        }
        for at in &sight.old_young {
            self.wake_run_at(cx, *at);
        }
    }

    /// Looks again then. What has passed was looked at now, and must not hide what is still to come.
    fn wake_run_at(&mut self, cx: &Context, at: Moment) {
        if at > cx.now {
            self.pulse.wake = Some(self.pulse.wake.map_or(at, |before| before.min(at)));
        }
    }

    fn stop_for_run(&mut self, cx: &mut Context, rolling: &Rolling, processes: &[ProcessId]) {
        if processes.is_empty() {
            return;
        }
        let how = StopRecord {
            graceful_timeout_ms: rolling.limits.force.then_some(0),
            ..StopRecord::plain(StopCause::Unwanted)
        };
        self.pulse.moved(cx.now);
        self.stop_processes(cx, processes, how);
    }

    fn is_over(&self, rolling: &Rolling, sight: &Sight) -> bool {
        let view = &sight.view;
        let nothing_old =
            view.old_ready + view.old_unready + view.old_young + sight.old_stopping == 0;
        let there = if rolling.back.is_some() {
            let alive = view.new_ready + view.new_unready;
            alive == view.target
        } else {
            view.new_ready >= view.target
        };
        nothing_old && there && self.spawning.is_empty()
    }

    /// A new process that has had its time, or that could not be started in it.
    fn find_late(&self, cx: &Context, rolling: &Rolling, sight: &Sight) -> Option<Trouble> {
        let patience = timeout(rolling);
        let seconds = patience.as_secs_f64();
        let trouble = |why: String, process: Option<ProcessId>| {
            let child = process.and_then(|process| self.children.get(process));
            Trouble {
                why,
                at: cx.now,
                worker: child.map(Child::worker),
                pid: child.map(|child| child.pid),
                process,
            }
        };
        let late = sight.new_unready.iter().map(|(process, _)| *process);
        let late = late.filter(|process| {
            let child = self.children.get(*process);
            child.is_some_and(|child| child.started + patience <= cx.now)
        });
        if let Some(process) = late.min() {
            let why = format!("was not ready within {seconds} s");
            return Some(trouble(why, Some(process)));
        }
        let step = decide::step(&rolling.limits, &sight.view);
        let waits = step.spawn > 0 && self.spawning.is_empty();
        if waits && self.pulse.moved + patience <= cx.now {
            let obstacle = cx.sockets.obstacle(&self.uses).map(|it| it.into_text());
            let reason = obstacle.or_else(|| self.spawn_error.clone());
            let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
            let why = format!("no process could be started within {seconds} s{reason}");
            return Some(trouble(why, None));
        }
        None
    }

    /// A new process made trouble: from now on the way leads back.
    fn turn_back(&mut self, cx: &mut Context, trouble: Trouble) {
        let Some(mut rolling) = self.memory().rolling.clone() else {
            return;
        };
        let who = trouble.pid.map_or(String::new(), |pid| {
            let worker = trouble
                .worker
                .map_or(String::new(), |it| format!("worker {it}, "));
            format!("{worker}pid {pid} ")
        });
        cx.log(
            Level::Error,
            format!(
                "watcher {:?}: the rolling {} stops and goes back: {who}{}",
                self.config.name,
                rolling.order.purpose.name(),
                trouble.why
            ),
        );
        self.tell_last_words_of(cx, &trouble);
        let newest = self.children.newest().unwrap_or(rolling.through);
        rolling.after = rolling.through;
        rolling.through = newest.max(rolling.through);
        rolling.back = Some(trouble);
        let sight = self.sight(cx, &rolling);
        let fresh: Vec<ProcessId> = sight
            .new_unready
            .iter()
            .map(|(process, _)| *process)
            .filter(|process| rolling.covers(*process))
            .collect();
        self.begin_afresh();
        if rolling.order.purpose != Purpose::Reload {
            rolling.away_from = Some(self.fingerprint.clone());
            self.take_words_back(&rolling);
        }
        self.memory_mut().rolling = Some(rolling);
        self.stop_processes(cx, &fresh, StopRecord::plain(StopCause::Unwanted));
    }

    /// Has what a process wrote last told in the log, now or once it has been read. Of one that has
    /// failed a probe it was told with that.
    fn tell_last_words_of(&mut self, cx: &mut Context, trouble: &Trouble) {
        let (Some(process), Some(pid)) = (trouble.process, trouble.pid) else {
            return;
        };
        let child = self.children.get(process);
        if child.is_some_and(|child| child.progress.readiness == Readiness::Unready) {
            return;
        }
        if self.ended.contains_key(&process) {
            self.pulse.last_words_of = Some(process);
        } else {
            self.tell_last_words(cx, pid);
        }
    }

    pub(in crate::engine) fn tell_last_words(&self, cx: &mut Context, pid: Pid) {
        let watcher = self.config.name.clone();
        cx.push(Action::TellLastWords { watcher, pid });
    }
}

pub(super) fn timeout(rolling: &Rolling) -> Duration {
    Duration::from_millis(rolling.limits.timeout_ms)
}

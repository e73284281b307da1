//! What a watcher does about the difference between what it shall have and what it has, outside
//! of replacements (those are in [`super::reload`]).

use std::collections::BTreeSet;

use super::action::{Action, Level, SpawnRequest};
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::hooks::{Gate, Repeated};
use super::ids::{Moment, Pid, ProcessId, Ticket, WorkerId};
use super::input::{SpawnErrorKind, SpawnFailure};
use super::labels::Identity;
use super::notify::Voice;
use super::remember::{Rollout, Run, StopReason};
use super::watcher::{Stage, Standing, Turn, Watcher};
use super::worker::{Child, Drained, Request, Spawning};
use crate::command::rolling::RunState;
use crate::command::{ReloadMethod, Stopping};
use crate::config::model::{Backoff, RetryLimit};

/// Whether spawns keep the distance that `warmup_delay` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// One after the other.
    WarmUp,
    /// All at once, as Circus does in a graceful reload.
    AtOnce,
}

impl Watcher {
    /// One step of [`Watcher::settle`]: spawns what is missing, stops what is too much.
    pub(super) fn converge(&mut self, cx: &mut Context) {
        if self.rewritten {
            return;
        }
        if !self.wanted() {
            self.wind_down(cx);
            return;
        }
        let restarting = |rollout: Rollout| rollout.method == ReloadMethod::Terminate;
        if !self.memory().rollout.is_some_and(restarting) {
            self.forget_stop();
        }
        if let Some(awaiting) = &self.awaiting {
            // What was to be replaced is gone; the rest is a start like any other.
            let reason = format!("nothing of it runs any more, and it {}", awaiting.text());
            if self.memory().rolling.is_some() {
                self.conclude_run(cx, RunState::Superseded, Some(reason));
            }
            if self.memory().rollout.is_some() {
                self.memory_mut().rollout = None;
            }
        }
        let waits = self.turn == Turn::Waiting || self.awaiting.is_some();
        if waits || self.start_gate(cx) == Gate::Closed {
            return;
        }
        match self.memory().rollout {
            _ if self.memory().rolling.is_some() => self.drive(cx),
            None => self.keep(cx),
            Some(rollout) => self.roll(cx, rollout),
        }
        self.give_up_or_finish(cx);
    }

    /// Keeps the number of processes. One that is stopping still counts, so that there are never
    /// more than asked for: its successor may need what it holds.
    pub(super) fn keep(&mut self, cx: &mut Context) {
        let live = self.children.len() + self.spawning.len();
        #[cfg(test)]
        let live = if cx.fault == Fault::ForgetFlights {
            self.children.len()
        } else {
            live
        };
        let target = self.target();
        if live < target {
            self.spawn_missing(cx, target - live, Pace::WarmUp);
        } else {
            let surplus = (live - target).saturating_sub(self.children.stopping());
            self.stop_oldest(cx, surplus, ProcessId(u64::MAX));
        }
    }

    fn wind_down(&mut self, cx: &mut Context) {
        self.memory_mut().rollout = None;
        if self.memory().rolling.is_some() {
            let reason = self.reason();
            self.conclude_run(cx, RunState::Superseded, reason);
        }
        self.abandon_start(cx);
        let leaves_them = self.standing == Standing::Removed(Stopping::Leave);
        let waits = self.lets_others_go_first(cx);
        if !leaves_them && !waits && self.stop_gate() == Gate::Open {
            self.stop_oldest(cx, usize::MAX, ProcessId(u64::MAX));
        }
        if !self.is_armed() {
            self.demanded = false;
        } else if self.empty() {
            // It only rests, and its back-off goes on.
            return;
        }
        if self.empty() {
            let memory = self.memory_mut();
            memory.failures.clear();
            memory.failed_starts = 0;
            memory.spent = 0;
            self.replaced.clear();
            self.unanswered.clear();
            self.next_spawn_at = Moment::default();
        }
    }

    /// Ends the attempts when nothing of it runs and there is no hope: as long as one process
    /// does, it is left in peace and the attempts go on at the pace of the back-off.
    fn give_up_or_finish(&mut self, cx: &mut Context) {
        if !self.empty() {
            return;
        }
        let failed = self.memory().failed_starts;
        match self.config.max_retry {
            RetryLimit::Attempts(limit) if failed >= limit.max(1) => {
                let error = self
                    .spawn_error
                    .clone()
                    .unwrap_or_else(|| "the reason is in an earlier manager's log".to_owned());
                cx.log(
                    Level::Error,
                    format!(
                        "watcher {:?} is stopped: {failed} attempts in a row to start a process \
                         failed: {error}",
                        self.config.name
                    ),
                );
                self.give_up(error);
                self.wind_down(cx);
            }
            RetryLimit::Attempts(_) | RetryLimit::Forever => {
                if self.memory().spent > 0 && self.target() == 0 {
                    self.set_run(Run::Stopped(StopReason::Finished));
                    self.wind_down(cx);
                }
            }
        }
    }

    /// Starts up to `missing` processes under the lowest free worker ids, as far as back-off,
    /// warm-up and sockets allow.
    pub(super) fn spawn_missing(&mut self, cx: &mut Context, missing: usize, pace: Pace) {
        if missing == 0 || self.memory().suspended || cx.sockets.obstacle(&self.uses).is_some() {
            return;
        }
        for worker in self.free_workers(missing) {
            let held_back = self
                .memory()
                .failures
                .get(&worker)
                .is_some_and(|failures| failures.not_before > cx.now);
            if held_back {
                continue;
            }
            if pace == Pace::WarmUp && self.next_spawn_at > cx.now {
                return;
            }
            self.spawn(cx, worker);
            if !self.config.warmup_delay.is_zero() {
                self.next_spawn_at = cx.now + self.config.warmup_delay;
            }
        }
    }

    /// The lowest worker ids that nothing alive has.
    fn free_workers(&self, count: usize) -> Vec<WorkerId> {
        let used: BTreeSet<WorkerId> = self
            .children
            .values()
            .map(Child::worker)
            .chain(self.spawning.keys().copied())
            .collect();
        (1..=u32::MAX)
            .map(WorkerId)
            .filter(|worker| !used.contains(worker))
            .take(count)
            .collect()
    }

    fn spawn(&mut self, cx: &mut Context, worker: WorkerId) {
        let (spawning, repeated) = match self.unanswered.remove(&worker) {
            Some(lost) => {
                let spawning = Spawning {
                    ticket: cx.next_ticket(),
                    configuration: self.fingerprint.clone(),
                    program: self.program.clone(),
                    ..lost
                };
                (spawning, Repeated::Yes)
            }
            None => {
                let (ticket, key) = cx.next_spawn();
                let restarts = self.replaced.remove(&worker).unwrap_or(0);
                let request = Request::AwaitsHook;
                let spawning = Spawning {
                    ticket,
                    key,
                    restarts,
                    configuration: self.fingerprint.clone(),
                    program: self.program.clone(),
                    watchdog_us: None,
                    request,
                };
                (spawning, Repeated::No)
            }
        };
        self.spawning.insert(worker, spawning);
        if self.needs_permission(cx, repeated) {
            self.ask_for_permission(worker);
        } else {
            self.send_spawn(cx, worker);
        }
    }

    /// Asks the kernel for a process that nothing holds back any more.
    pub(super) fn send_spawn(&mut self, cx: &mut Context, worker: WorkerId) {
        let Some(spawning) = self.spawning.get_mut(&worker) else {
            return;
        };
        spawning.request = Request::Sent;
        spawning.watchdog_us = self.config.watchdog_us();
        let spawning = spawning.clone();
        self.note_unproven(worker);
        self.note_starting(worker);
        let identity = self.identity(worker, &spawning);
        let request = SpawnRequest {
            ticket: spawning.ticket,
            key: spawning.key.clone(),
            watcher: self.key.clone(),
            worker,
            name: self.config.kernel_process_name(worker.0),
            labels: identity.into_labels(&cx.namespace),
        };
        cx.flights
            .insert(spawning.ticket, (self.key.clone(), worker));
        self.act(cx, Action::Spawn(request));
    }

    fn identity(&self, worker: WorkerId, spawning: &Spawning) -> Identity {
        Identity {
            watcher: self.key.clone(),
            worker,
            configuration: spawning.configuration.clone(),
            program: Some(spawning.program.clone()),
            restarts: spawning.restarts,
            spawn: spawning.key.clone(),
            watchdog_us: spawning.watchdog_us,
        }
    }

    /// A spawn succeeded. It may be unwanted by now; that is for `converge` to see.
    pub(super) fn handle_spawned(
        &mut self,
        cx: &mut Context,
        worker: WorkerId,
        ticket: Ticket,
        process: ProcessId,
        pid: Pid,
        started: Moment,
    ) {
        let Some(spawning) = self.spawning.remove(&worker) else {
            return;
        };
        debug_assert_eq!(spawning.ticket, ticket, "one spawn per worker id at a time");
        let identity = self.identity(worker, &spawning);
        cx.log(
            Level::Debug,
            format!(
                "watcher {:?}: worker {worker} runs as pid {pid}",
                self.config.name
            ),
        );
        self.spawn_error = None;
        self.memory_mut().failed_starts = 0;
        self.adopt(cx, process, pid, started, identity);
        self.pulse.moved(cx.now);
        if let Some(current) = &mut self.current {
            current.started.push(pid);
        }
        self.announce_new(cx, process);
    }

    /// Takes a live process into the books.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        pid: Pid,
        started: Moment,
        identity: Identity,
    ) {
        let expires = self
            .config
            .max_age
            .map(|age| started + age + cx.random.duration_up_to(self.config.max_age_variance));
        let progress = self.first_progress(cx, identity.worker, started);
        let told = self.memory().told.get(&identity.worker);
        let voice = Voice::new(identity.watchdog_us, told, cx.now);
        let child = Child {
            identity,
            pid,
            started,
            expires,
            progress,
            voice,
            stop: None,
            drained: Drained::NotYet,
        };
        self.await_line(cx, process, &child.progress);
        self.attach_output(cx, process, pid, child.worker());
        self.demanded = true;
        self.children.insert(process, child);
    }

    /// Why a spawn failed, in words that know no kernel, and where what has to be changed is written.
    fn about_failed_spawn(&self, worker: WorkerId, failure: &SpawnFailure) -> String {
        let name = self.config.kernel_process_name(worker.0);
        let of_kernel = format!("process {name:?}: ");
        let of_watcher = format!("watcher {:?}: ", self.config.name);
        let error = failure.error.as_str();
        let error = error.strip_prefix(&of_kernel).unwrap_or(error);
        let error = error.strip_prefix(&of_watcher).unwrap_or(error);
        let options: &[&str] = match failure.option.as_deref() {
            None => &[],
            Some("cmd") if self.config.executable.is_some() => &["executable"],
            // Without a group of its own it is the user's.
            Some("gid") => &["gid", "uid"],
            Some(option) => &[option],
        };
        if let Some(option) = options.iter().find(|it| self.is_changed(it)) {
            return format!("{error} ({option} was changed at run time)");
        }
        let written = options.iter().find_map(|it| self.config.place_of(it));
        let place = written.unwrap_or(&self.config.origin);
        match place.line {
            // Nobody has written it.
            0 => error.to_owned(),
            line => format!("{error} (line {line} of {})", place.file),
        }
    }

    /// Whether an option has another value than the file's.
    fn is_changed(&self, option: &str) -> bool {
        let mut changed = self.memory().options.keys();
        changed.any(|key| key.eq_ignore_ascii_case(option))
    }

    /// A spawn failed.
    pub(super) fn handle_spawn_failed(
        &mut self,
        cx: &mut Context,
        worker: WorkerId,
        failure: &SpawnFailure,
    ) {
        if self.spawning.remove(&worker).is_none() {
            return;
        }
        let kind = failure.kind;
        let error = &self.about_failed_spawn(worker, failure);
        // Said once, not at every retry; that it was given up is said again.
        let repeated = self.spawn_error.as_ref() == Some(error);
        cx.log(
            if repeated { Level::Debug } else { Level::Error },
            format!(
                "watcher {:?}: worker {worker} could not be started: {error}",
                self.config.name
            ),
        );
        self.spawn_error = Some(error.clone());
        if kind == SpawnErrorKind::Permanent {
            let memory = self.memory_mut();
            memory.failed_starts = memory.failed_starts.saturating_add(1);
        }
        let hopeless = kind == SpawnErrorKind::Permanent;
        let why = format!("could not be started: {error}");
        if hopeless && self.run_judges_spawn(cx, worker, None, &why) {
            return;
        }
        let policy = self.config.backoff;
        self.count_failure(cx, worker, cx.now, &policy);
    }

    /// One more failure in a row of a worker id.
    pub(super) fn count_failure(
        &mut self,
        cx: &mut Context,
        worker: WorkerId,
        at: Moment,
        policy: &Backoff,
    ) {
        let failures = self.memory_mut().failures.entry(worker).or_default();
        *failures = failures.and_another(at, policy, &mut cx.random);
        if let Some(current) = &mut self.current {
            current.troubles = current.troubles.saturating_add(1);
        }
    }

    /// What holds it back, for people.
    pub(super) fn waits_for(&self, cx: &Context) -> Option<(String, Option<Moment>)> {
        if !self.wanted() || self.stage == Stage::Down && self.awaiting.is_none() {
            return None;
        }
        if self.memory().suspended {
            let name = &self.config.name;
            let why = format!("no processes are started until: kingpole resume {name}");
            return Some((why, None));
        }
        if let Some(awaiting) = &self.awaiting {
            return Some((awaiting.text().to_owned(), None));
        }
        if let Some(obstacle) = cx.sockets.obstacle(&self.uses) {
            return Some((obstacle.into_text(), None));
        }
        let held_back: Vec<_> = self
            .memory()
            .failures
            .iter()
            .filter(|(_, failures)| failures.not_before > cx.now)
            .collect();
        if held_back.is_empty() {
            return None;
        }
        let busy: BTreeSet<WorkerId> = self.children.values().map(Child::worker).collect();
        let next = held_back
            .into_iter()
            .filter(|(worker, _)| !busy.contains(worker))
            .min_by_key(|(_, failures)| failures.not_before);
        let (worker, failures) = next?;
        let why = self.spawn_error.as_ref().map_or_else(
            || {
                format!(
                    "worker {worker} ended {} times soon after its start",
                    failures.count
                )
            },
            |error| format!("worker {worker} could not be started: {error}"),
        );
        Some((why, Some(failures.not_before)))
    }
}

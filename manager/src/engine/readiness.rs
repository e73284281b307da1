//! Whether processes are ready: what was started is not yet what works.
//!
//! | readiness  | meaning                                    | next                                   |
//! |------------|--------------------------------------------|----------------------------------------|
//! | `Starting` | it runs, and its probe has not passed yet  | passed: `Ready`; too late: `Unready`   |
//! | `Ready`    | it works; so is what has no `ready` option | stays, unless `alive` fails: `Unready`  |
//! | `Unready`  | it has failed, and is replaced             | its end, which counts as a failure     |
//!
//! Looks at what is ready are in [`super::liveness`].
//! [`Watcher::is_ready`] is the one place that says whether a process counts; reloads and starts ask it.
//!
//! That a process is not ready yet is remembered before it is started (`Memory::starting`), and
//! forgotten when it is. So a process that was ready stays it under every later manager, and one
//! that was not is looked at again; what an earlier manager has seen and could not remember costs
//! another look at most.

use std::collections::BTreeSet;
use std::time::Duration;

use super::action::{Action, EventAction, Level};
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::ids::{Moment, Pid, ProbeId, ProcessId, WorkerId};
use super::limits::{HEARD_LIMIT, READY_GRACE, SIBLINGS_MAX, SLEPT};
use super::probe::{ProbeOutcome, ProbeRequest};
use super::remember::{StopCause, StopRecord};
use super::watcher::{Standing, Watcher};
use super::worker::Child;
use crate::command::{Readiness, Stopping};
use crate::config::model::Probe;

/// How far a process is on its way to be ready, and what is known of it since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) readiness: Readiness,
    /// Why the last look failed.
    pub(super) why: Option<String>,
    /// How many looks have failed in a row since it was ready.
    pub(super) failures: u32,
    /// When it has to be ready at the latest; never, while it only has to run for a while.
    pub(super) deadline: Option<Moment>,
    /// When to look next.
    pub(super) look_at: Option<Moment>,
    pub(super) running: Option<Running>,
}

/// A look that was asked for and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) probe: ProbeId,
    pub(super) late_at: Moment,
}

impl Progress {
    /// Of a process that is ready.
    pub(super) const READY: Self = Self {
        readiness: Readiness::Ready,
        why: None,
        failures: 0,
        deadline: None,
        look_at: None,
        running: None,
    };

    /// When something is due.
    pub(super) fn timer(&self) -> Option<Moment> {
        let next = self.running.map(|it| it.late_at).or(self.look_at);
        [next, self.deadline].into_iter().flatten().min()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.readiness == Readiness::Ready
    }
}

impl Watcher {
    /// **Whether a process counts as ready**: nobody asked it to stop, `after_spawn` has said yes
    /// if there is one, and it is what the `ready` option asks for. Without that option a process
    /// is ready once it runs; `warmup_delay` holds back the next spawn instead, as in Circus.
    pub(super) fn is_ready(&self, child: &Child) -> bool {
        !child.stopping() && self.proven(child) && child.progress.is_ready()
    }

    /// How many processes count as ready.
    pub(super) fn ready_count(&self) -> usize {
        let children = self.children.values();
        children.filter(|child| self.is_ready(child)).count()
    }

    /// What `status` says about a process.
    pub(super) fn readiness(&self, child: &Child) -> Readiness {
        if self.is_ready(child) {
            Readiness::Ready
        } else if child.stopping() {
            Readiness::Unready
        } else if child.progress.is_ready() {
            Readiness::Starting
        } else {
            child.progress.readiness
        }
    }

    /// Why a process is not ready, or may not be for long, for people; nothing for one that is well.
    pub(super) fn unready_reason(&self, child: &Child) -> Option<String> {
        if child.stopping() {
            return Some("it was asked to stop".to_owned());
        }
        if !self.proven(child) {
            return Some("hook after_spawn has not answered".to_owned());
        }
        match (&child.progress.readiness, &self.config.ready.probe) {
            (Readiness::Ready, _) => self.alive_note(&child.progress),
            (Readiness::Unready, _) => child.progress.why.clone(),
            (Readiness::Starting, probe) => {
                let what = probe
                    .as_ref()
                    .map_or_else(String::new, |it| format!(" ({it})"));
                Some(match &child.progress.why {
                    Some(why) => format!("not ready yet{what}: {why}"),
                    None => format!("not ready yet{what}"),
                })
            }
        }
    }

    /// Remembers that a process will have to become ready, before it is started.
    pub(super) fn note_starting(&mut self, worker: WorkerId) {
        if self.config.ready.probe.is_some() {
            self.memory_mut().starting.insert(worker);
        }
    }

    /// How a process that was just found or started begins.
    pub(super) fn first_progress(
        &self,
        cx: &Context,
        worker: WorkerId,
        started: Moment,
    ) -> Progress {
        if let Some(leaving) = self.leaving_progress(cx, worker) {
            return leaving;
        }
        let Some(probe) = &self.config.ready.probe else {
            return self.ready_progress(cx);
        };
        if !self.memory().starting.contains(&worker) {
            return self.ready_progress(cx);
        }
        let (look_at, deadline) = match probe {
            Probe::Uptime(time) => (started + *time, None),
            Probe::Notify | Probe::Tcp(_) | Probe::Http(_) | Probe::Exec(_) | Probe::Log(_) => {
                // While no manager was there nobody looked, so there is time for some looks.
                let grace = READY_GRACE.min(self.config.ready.timeout);
                let told = self.memory().told.get(&worker);
                let granted = told.and_then(|told| told.ready_by).unwrap_or_default();
                let deadline = (started + self.config.ready.timeout)
                    .max(cx.now + grace)
                    .max(granted);
                let look_at = match probe {
                    // It speaks for itself.
                    Probe::Notify | Probe::Log(_) => deadline,
                    _ => cx.now,
                };
                (look_at, Some(deadline))
            }
        };
        Progress {
            readiness: Readiness::Starting,
            why: None,
            failures: 0,
            deadline,
            look_at: Some(look_at),
            running: None,
        }
    }

    /// Forgets who has to become ready where nobody is left to, or nothing asks for it any more.
    pub(super) fn prune_starting(&mut self, cx: &mut Context) {
        if self.memory().starting.is_empty() {
            return;
        }
        if self.config.ready.probe.is_none() {
            let starting: Vec<ProcessId> = self.children.iter().map(|(id, _)| id).collect();
            for process in starting {
                self.become_ready(cx, process);
            }
            self.memory_mut().starting.clear();
            return;
        }
        let live: BTreeSet<WorkerId> = self.children.values().map(Child::worker).collect();
        let spawning = &self.spawning;
        let needed = |worker: &WorkerId| live.contains(worker) || spawning.contains_key(worker);
        let starting = &self.memory().starting;
        let kept: BTreeSet<WorkerId> = starting.iter().copied().filter(needed).collect();
        if kept.len() != starting.len() {
            self.memory_mut().starting = kept;
        }
    }

    /// Does what is due about a process that is not ready.
    pub(super) fn look(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process).filter(|it| !it.stopping()) else {
            return;
        };
        let mut progress = child.progress.clone();
        if self.standing == Standing::Removed(Stopping::Leave) {
            return;
        }
        match progress.readiness {
            Readiness::Starting => {}
            Readiness::Ready => {
                self.look_at_watchdog(cx, process);
                return self.look_alive(cx, process);
            }
            Readiness::Unready => return self.look_at_leaving(cx, process),
        }
        if let Some(late) = progress.running.take_if(|it| it.late_at <= cx.now) {
            cx.cancel_probe(late.probe);
            let limit = self.config.ready.probe_limit.as_secs_f64();
            progress.why = Some(format!("no answer within {limit} s"));
            progress.look_at = Some(cx.now + self.config.ready.interval);
        }
        let overdue = progress.deadline.map(|at| cx.now.since(at));
        let log = matches!(self.config.ready.probe, Some(Probe::Log(_)));
        if log && overdue.is_some_and(|by| by > SLEPT) {
            // The manager slept, and the line may be on its way.
            progress.deadline = Some(cx.now + READY_GRACE.min(self.config.ready.timeout));
            progress.look_at = None;
        }
        let late = progress.deadline.is_some_and(|at| at <= cx.now);
        if late && self.config.ready.probe == Some(Probe::Notify) {
            // Only once everything that was said is heard.
            if progress.running.is_none() && progress.look_at.is_none_or(|at| at <= cx.now) {
                progress.look_at = None;
                progress.running = self.send_probe(cx, process, Probe::Notify, HEARD_LIMIT);
            }
            self.children.set_progress(process, progress);
            return;
        }
        #[cfg(test)]
        let late = late && cx.fault != Fault::WaitForReadinessForEver;
        if late {
            self.children.set_progress(process, progress);
            self.fail_start(cx, process);
            return;
        }
        let due = progress.running.is_none() && progress.look_at.is_some_and(|at| at <= cx.now);
        match self.config.ready.probe.clone() {
            None | Some(Probe::Uptime(_)) if due => {
                self.become_ready(cx, process);
                return;
            }
            // It has more time by now.
            Some(Probe::Notify | Probe::Log(_)) if due => progress.look_at = None,
            Some(probe) if due => {
                let limit = self.config.ready.probe_limit;
                progress.look_at = None;
                progress.running = self.send_probe(cx, process, probe, limit);
            }
            None | Some(_) => {}
        }
        self.children.set_progress(process, progress);
    }

    /// Has a look taken at a process.
    pub(super) fn send_probe(
        &self,
        cx: &mut Context,
        process: ProcessId,
        probe: Probe,
        limit: Duration,
    ) -> Option<Running> {
        let child = self.children.get(process)?;
        let limit = limit.max(Duration::from_millis(1));
        let id = cx.next_probe(&self.key, process);
        // Of one that is ready it is not asked who answers: that others do says nothing against it.
        let addressed = matches!(probe, Probe::Tcp(_) | Probe::Http(_));
        let siblings = match child.progress.readiness {
            Readiness::Starting if addressed => self.siblings(process),
            _ => Vec::new(),
        };
        cx.push(Action::Probe(ProbeRequest {
            id,
            watcher: self.key.clone(),
            worker: child.worker(),
            process,
            pid: child.pid,
            siblings,
            probe,
            limit,
        }));
        Some(Running {
            probe: id,
            late_at: cx.now + limit,
        })
    }

    /// Who may answer in the place of a process, as far as they share an address.
    fn siblings(&self, process: ProcessId) -> Vec<Pid> {
        let others = self.children.iter().filter(|(other, _)| *other != process);
        others
            .map(|(_, child)| child.pid)
            .take(SIBLINGS_MAX)
            .collect()
    }

    /// A probe was answered.
    pub(super) fn handle_probed(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        probe: ProbeId,
        outcome: ProbeOutcome,
    ) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        if child.voice.is_checked_by(probe) {
            return self.handle_heard(cx, process, &outcome);
        }
        let mut progress = child.progress.clone();
        if progress.running.is_none_or(|it| it.probe != probe) {
            return;
        }
        progress.running = None;
        if progress.is_ready() {
            return self.handle_alive(cx, process, outcome);
        }
        match outcome {
            // Everything was heard, and it was not among it.
            ProbeOutcome::Passed if self.config.ready.probe == Some(Probe::Notify) => {
                let late = progress.deadline.is_some_and(|at| at <= cx.now);
                #[cfg(test)]
                let late = late && cx.fault != Fault::WaitForReadinessForEver;
                progress.why = Some("it has not sent READY=1".to_owned());
                self.children.set_progress(process, progress);
                if late {
                    self.fail_start(cx, process);
                }
            }
            ProbeOutcome::Passed => {
                self.children.set_progress(process, progress);
                self.become_ready(cx, process);
            }
            #[cfg(test)]
            ProbeOutcome::Failed(_) if cx.fault == Fault::ReadyTooEarly => {
                self.children.set_progress(process, progress);
                self.become_ready(cx, process);
            }
            ProbeOutcome::Failed(why) => {
                progress.why = Some(why);
                progress.look_at = Some(cx.now + self.config.ready.interval);
                self.children.set_progress(process, progress);
            }
        }
    }

    /// A line was seen that says that a process is ready.
    pub(super) fn handle_line(&mut self, cx: &mut Context, process: ProcessId) {
        if matches!(self.config.ready.probe, Some(Probe::Log(_))) {
            self.become_ready(cx, process);
        }
    }

    /// Has the output of a process watched that is ready once it has written a certain line.
    pub(super) fn await_line(&self, cx: &mut Context, process: ProcessId, progress: &Progress) {
        if let Some(Probe::Log(regex)) = &self.config.ready.probe
            && progress.readiness == Readiness::Starting
        {
            let regex = Some(regex.clone());
            cx.push(Action::AwaitLine { process, regex });
        }
    }

    /// What said that it stops has had its time.
    fn look_at_leaving(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        if child.progress.deadline.is_some_and(|at| at <= cx.now) {
            let error = "it said that it was stopping, and ran on".to_owned();
            self.fail(cx, process, error);
        }
    }

    pub(super) fn become_ready(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let starting = child.progress.readiness == Readiness::Starting;
        if !starting || child.stopping() {
            return;
        }
        let (worker, pid) = (child.worker(), child.pid);
        let took = cx.now.since(child.started).as_secs_f64();
        self.stop_looking(cx, process);
        let progress = self.ready_progress(cx);
        self.children.set_progress(process, progress);
        self.listen_anew(cx, process);
        self.memory_mut().starting.remove(&worker);
        #[cfg(test)]
        if cx.fault == Fault::ForgetReadiness {
            self.memory_mut().starting.insert(worker);
        }
        cx.log(
            Level::Info,
            format!(
                "watcher {:?}: worker {worker}, pid {pid}, is ready after {took:.1} s",
                self.config.name
            ),
        );
        self.publish(cx, cx.now, EventAction::Ready { pid });
    }

    /// A process did not become ready in time: its start has failed.
    fn fail_start(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let took = cx.now.since(child.started).as_secs_f64();
        let last = child.progress.why.as_ref();
        let last = last.map_or_else(String::new, |why| format!(": {why}"));
        self.fail(
            cx,
            process,
            format!("it was not ready after {took:.1} s{last}"),
        );
    }

    /// Replaces a process that does not do what it should; its end will count as a failure.
    pub(super) fn fail(&mut self, cx: &mut Context, process: ProcessId, error: String) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let (worker, pid) = (child.worker(), child.pid);
        let mut progress = child.progress.clone();
        cx.log(
            Level::Error,
            format!(
                "watcher {:?}: worker {worker}, pid {pid}, is replaced, because {error}",
                self.config.name
            ),
        );
        self.publish(
            cx,
            cx.now,
            EventAction::Unready {
                pid,
                error: error.clone(),
            },
        );
        progress.readiness = Readiness::Unready;
        progress.why = Some(error.clone());
        self.children.set_progress(process, progress);
        self.run_judges_end(cx, process, worker, pid, &error);
        let how = StopRecord {
            failed: true,
            ..StopRecord::plain(StopCause::Killed)
        };
        self.stop_process(cx, process, how);
    }

    /// Takes back the look that is being taken, because nobody wants to know any more.
    pub(super) fn stop_looking(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let mut voice = child.voice.clone();
        if let Some(check) = voice.take_check() {
            cx.cancel_probe(check.probe);
            self.children.set_voice(process, voice);
        }
        let Some(child) = self.children.get(process) else {
            return;
        };
        if child.progress.timer().is_none() {
            return;
        }
        let mut progress = child.progress.clone();
        if let Some(running) = progress.running.take() {
            cx.cancel_probe(running.probe);
        }
        progress.look_at = None;
        progress.deadline = None;
        self.children.set_progress(process, progress);
    }

    /// Silence of a process counts from now on.
    fn listen_anew(&mut self, cx: &Context, process: ProcessId) {
        if let Some(child) = self.children.get(process) {
            let mut voice = child.voice.clone();
            voice.listen_anew(cx.now);
            self.children.set_voice(process, voice);
        }
    }

    /// Other looks are asked for from now on: those that are being taken are begun anew.
    pub(super) fn look_anew(&mut self, cx: &mut Context) {
        let all: Vec<ProcessId> = self.children.iter().map(|(process, _)| process).collect();
        for process in all {
            self.stop_looking(cx, process);
            let Some(child) = self.children.get(process) else {
                continue;
            };
            if !child.stopping() && child.progress.readiness != Readiness::Unready {
                let progress = self.first_progress(cx, child.worker(), child.started);
                self.await_line(cx, process, &progress);
                self.children.set_progress(process, progress);
            }
        }
    }

    /// After a connection: nobody looked while there was none.
    pub(super) fn resume_looking(&self, cx: &Context, child: &mut Child) {
        // A courtesy only: before anybody is replaced for silence, a mark tells that all was heard.
        child.voice.listen_anew(cx.now);
        let progress = &mut child.progress;
        if let Some(deadline) = &mut progress.deadline {
            let grace = READY_GRACE.min(self.config.ready.timeout);
            *deadline = (*deadline).max(cx.now + grace);
        }
    }

    /// The connection is gone: what is not ready is looked at again on the next one.
    pub(super) fn drop_probes(&mut self, cx: &mut Context) {
        let silent: Vec<ProcessId> = self
            .children
            .iter()
            .filter(|(_, child)| child.voice.timer().is_some())
            .map(|(process, _)| process)
            .collect();
        for process in silent {
            if let Some(mut voice) = self.children.get(process).map(|it| it.voice.clone())
                && let Some(check) = voice.take_check()
            {
                cx.cancel_probe(check.probe);
                self.children.set_voice(process, voice);
            }
        }
        let looks = self.config.ready.probe.is_some() || self.config.alive.probe.is_some();
        if !looks && self.memory().starting.is_empty() {
            return;
        }
        let looked_at: Vec<ProcessId> = self
            .children
            .iter()
            .filter(|(_, child)| child.progress.running.is_some())
            .map(|(process, _)| process)
            .collect();
        for process in looked_at {
            let Some(child) = self.children.get(process) else {
                continue;
            };
            let mut progress = child.progress.clone();
            if let Some(running) = progress.running.take() {
                cx.cancel_probe(running.probe);
            }
            progress.look_at = Some(cx.now);
            self.children.set_progress(process, progress);
        }
    }
}

//! Ends of processes: what an end means for the watcher, exactly once, and when the kernel may
//! forget it.
//!
//! The effect of an end is remembered together with the fact that it was taken into account, in
//! one value; the end is acknowledged when its output is stored, and only then the fact is
//! forgotten. Whoever sees the end again in between finds it accounted for.

use super::action::{Action, EventAction, Level, OutputSource};
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::hook::{HookName, HookSubject};
use super::ids::{Pid, ProcessId, WorkerId};
use super::input::{EndCause, ProcessEnd};
use super::labels::Identity;
use super::limits::{
    CLEAN_EXIT_WAIT_MIN, ENDS_REMEMBERED_MAX, PROVEN_BY_UPTIME, REASON_CHARACTERS_MAX,
};
use super::remember::{PastEnd, StopRecord};
use super::watcher::Watcher;
use super::worker::{Drained, Ended};
use crate::engine::Moment;

/// What the books need to know about a process that ended.
#[derive(Clone, Debug)]
pub(super) struct Deceased {
    pub(super) identity: Identity,
    pub(super) pid: Pid,
    pub(super) started: Moment,
    /// What it failed at, if that is why it was stopped.
    pub(super) failure: Option<String>,
}

impl Watcher {
    /// Wants the output of a process, live or ended.
    pub(super) fn attach_output(
        &self,
        cx: &mut Context,
        process: ProcessId,
        pid: Pid,
        worker: WorkerId,
    ) {
        let watcher = self.key.clone();
        cx.push(Action::AttachOutput(OutputSource {
            process,
            pid,
            watcher,
            worker,
        }));
    }

    /// Tells of a process that nobody was told of yet.
    pub(super) fn announce(&self, cx: &mut Context, process: ProcessId) {
        if let Some(child) = self.children.get(process) {
            self.publish(cx, child.started, EventAction::Spawn { pid: child.pid });
        }
    }

    /// A live process ended.
    pub(super) fn handle_end(&mut self, cx: &mut Context, process: ProcessId, end: ProcessEnd) {
        self.stop_looking(cx, process);
        let Some(child) = self.children.remove(process) else {
            return;
        };
        let (worker, pid) = (child.worker(), child.pid);
        let deceased = Deceased {
            identity: child.identity,
            pid,
            started: child.started,
            failure: child.progress.why.filter(|_| child.stop.is_some()),
        };
        self.account(cx, process, &deceased, end);
        self.ended.insert(process, Ended { worker, pid });
        self.drop_obsolete_stops();
        if child.drained == Drained::Yes {
            self.acknowledge(cx, process);
        }
    }

    /// Gives an end its effect, if it did not have it already.
    pub(super) fn account(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        deceased: &Deceased,
        end: ProcessEnd,
    ) {
        let fresh = self.memory_mut().accounted.insert(process);
        #[cfg(test)]
        let fresh = fresh || cx.fault == Fault::CountEndsTwice;
        if !fresh {
            return;
        }
        let pid = deceased.pid;
        let stopped = self.memory().stop_of(process);
        self.memory_mut().stopping.remove(&process);
        let replaced = self
            .memory()
            .rollout
            .is_some_and(|rollout| process <= rollout.through)
            || self.is_replaced_by_run(process);
        self.pulse.moved(cx.now);
        if let Some(current) = &mut self.current {
            current.kept.retain(|kept| *kept != pid);
            let begun = current.started.len();
            current.started.retain(|started| *started != pid);
            // One that came and went meanwhile is neither.
            if current.started.len() == begun {
                current.stopped.push(pid);
            }
        }
        // What somebody wanted gone asks no questions.
        if stopped.is_none_or(|how| how.failed || how.cause.spends()) {
            self.remember_end(deceased, end, stopped);
        }
        match stopped {
            Some(how) => {
                self.log_end(cx, Level::Debug, deceased, end);
                if how.cause.spends() && !replaced {
                    self.spend();
                }
                if how.failed && !replaced {
                    self.note_failed_life(cx, deceased, end);
                }
            }
            None => {
                self.log_end(cx, Level::Info, deceased, end);
                if !replaced && !self.ended_in_run(cx, process, deceased, end) {
                    self.spend();
                    self.judge(cx, deceased, end);
                    if self.config.respawn && !self.is_success(end.cause) {
                        self.note_flap(cx, end.at);
                    }
                }
            }
        }
        if stopped.is_none() {
            self.demanded = false;
        }
        let exit_code = end.cause.exit_code();
        self.flush(cx);
        self.announce_late(cx, process);
        let at = end.at;
        let subject = HookSubject::End { pid, at, exit_code };
        self.notice(HookName::BeforeReap, subject);
        self.publish(cx, at, EventAction::Reap { pid, exit_code });
        self.notice(HookName::AfterReap, subject);
    }

    /// Whether it was a new process of a rolling run that ended badly, which the run judges.
    fn ended_in_run(
        &mut self,
        cx: &Context,
        process: ProcessId,
        deceased: &Deceased,
        end: ProcessEnd,
    ) -> bool {
        let lived = end.at.since(deceased.started);
        let had_time = lived >= self.config.warmup_delay.max(PROVEN_BY_UPTIME);
        if self.is_success(end.cause) || end.cause == EndCause::Exited(0) && had_time {
            return false;
        }
        let how = format!(
            "{} after {:.1} s",
            how_it_ended(end.cause),
            lived.as_secs_f64()
        );
        let worker = deceased.identity.worker;
        self.run_judges_end(cx, process, worker, deceased.pid, &how)
    }

    fn remember_end(&mut self, deceased: &Deceased, end: ProcessEnd, stopped: Option<StopRecord>) {
        let why = stopped.map(|how| {
            let failure = deceased.failure.as_ref().filter(|_| how.failed);
            let why = failure.map_or_else(|| how.describe().to_owned(), Clone::clone);
            why.chars().take(REASON_CHARACTERS_MAX).collect()
        });
        let lived = end.at.since(deceased.started).as_millis();
        let past = PastEnd {
            worker: deceased.identity.worker,
            pid: deceased.pid,
            at: end.at,
            lived_ms: u64::try_from(lived).unwrap_or(u64::MAX),
            exit_code: end.cause.exit_code(),
            why,
        };
        let ends = &mut self.memory_mut().ends;
        if ends.len() >= ENDS_REMEMBERED_MAX {
            ends.pop_front();
        }
        ends.push_back(past);
    }

    fn spend(&mut self) {
        if !self.config.respawn && !self.config.on_demand && self.wanted() {
            let memory = self.memory_mut();
            memory.spent = memory.spent.saturating_add(1);
        }
    }

    /// A process ended by itself: did it live long enough?
    fn judge(&mut self, cx: &mut Context, deceased: &Deceased, end: ProcessEnd) {
        if !self.wanted() || !self.config.respawn {
            return;
        }
        let worker = deceased.identity.worker;
        self.replaced
            .insert(worker, deceased.identity.restarts.saturating_add(1));
        let memory = self.memory_mut();
        memory.restarts = memory.restarts.saturating_add(1);
        let lived = end.at.since(deceased.started);
        let served = self.config.on_demand && end.cause == EndCause::Exited(0);
        let success = served || self.is_success(end.cause);
        if lived >= self.config.backoff.reset_after || success && lived >= CLEAN_EXIT_WAIT_MIN {
            self.memory_mut().failures.remove(&worker);
        } else {
            let mut policy = self.config.backoff;
            if success {
                // It has done its work, but one that does so at once shall not keep a processor busy.
                policy.max = policy.max.min(CLEAN_EXIT_WAIT_MIN);
            } else if end.cause == EndCause::Exited(0) {
                // A job that is run over and over. Circus started it again with its next
                // housekeeping, so it shall not wait longer than that.
                policy.max = policy.max.min(cx.check_delay.max(CLEAN_EXIT_WAIT_MIN));
            }
            self.count_failure(cx, worker, end.at, &policy);
        }
    }

    /// A process was stopped because it did not do what it should, however long it lived.
    fn note_failed_life(&mut self, cx: &mut Context, deceased: &Deceased, end: ProcessEnd) {
        if !self.wanted() || !self.config.respawn {
            return;
        }
        let worker = deceased.identity.worker;
        self.replaced
            .insert(worker, deceased.identity.restarts.saturating_add(1));
        let memory = self.memory_mut();
        memory.restarts = memory.restarts.saturating_add(1);
        let policy = self.config.backoff;
        self.count_failure(cx, worker, end.at, &policy);
        self.note_flap(cx, end.at);
    }

    /// Whether an end is one of those that the configuration calls a success.
    fn is_success(&self, cause: EndCause) -> bool {
        match cause {
            EndCause::Exited(status) => self.config.success_exit_codes.contains(&status),
            EndCause::Signaled { .. } | EndCause::Unknown => false,
        }
    }

    fn log_end(&self, cx: &mut Context, level: Level, deceased: &Deceased, end: ProcessEnd) {
        let lived = end.at.since(deceased.started).as_secs_f64();
        let how = how_it_ended(end.cause);
        let (pid, worker) = (deceased.pid, deceased.identity.worker);
        cx.log(
            level,
            format!(
                "watcher {:?}: worker {worker}, pid {pid}, {how} after {lived:.1} s",
                self.config.name
            ),
        );
    }

    /// All output of a process is stored.
    pub(super) fn handle_drained(&mut self, cx: &mut Context, process: ProcessId) {
        if self.ended.contains_key(&process) {
            self.acknowledge(cx, process);
        } else {
            self.children.set_drained(process);
        }
    }

    fn acknowledge(&mut self, cx: &mut Context, process: ProcessId) {
        #[cfg(test)]
        if cx.fault == Fault::NeverAcknowledge {
            return;
        }
        if let Some(ended) = self.ended.remove(&process)
            && self
                .pulse
                .last_words_of
                .take_if(|of| *of == process)
                .is_some()
        {
            self.tell_last_words(cx, ended.pid);
        }
        // The effect of the end is on its way to the kernel before this, and the note that it was
        // accounted for is dropped after it.
        self.act(cx, Action::AcknowledgeEnd { process });
        self.acknowledged.push((cx.last_write(), process));
        self.memory_mut().accounted.remove(&process);
    }

    /// A process is not in the kernel's books any more, and nobody was told of its end: somebody
    /// removed it there.
    pub(super) fn handle_vanished(&mut self, cx: &mut Context, process: ProcessId, pid: Pid) {
        let memory = self.memory_mut();
        memory.stopping.remove(&process);
        cx.log(
            Level::Warning,
            format!(
                "watcher {:?}: the process kernel does not hold pid {pid} any more; how it ended \
                 is unknown",
                self.config.name
            ),
        );
        self.publish(
            cx,
            cx.now,
            EventAction::Reap {
                pid,
                exit_code: EndCause::Unknown.exit_code(),
            },
        );
    }
}

/// How a process ended, for people.
fn how_it_ended(cause: EndCause) -> String {
    match cause {
        EndCause::Exited(status) => format!("exited with status {status}"),
        EndCause::Signaled { signal, core } => {
            let core = if core { ", core dumped" } else { "" };
            format!("was ended by signal {signal}{core}")
        }
        EndCause::Unknown => "ended, nobody knows how".to_owned(),
    }
}

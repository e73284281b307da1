//! How a process is stopped: asked by the watcher's signal, and after the graceful timeout killed
//! with its whole group, or its whole tree if the watcher says `stop_children`.
//!
//! That it was asked is remembered first. A later manager asks again, because it cannot know
//! whether the signal was sent, and gives the full time once more.

use super::action::{Action, EventAction, Level, SignalTarget};
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::hooks::Gate;
use super::ids::{Moment, ProcessId};
use super::limits::KILL_AGAIN_AFTER;
use super::remember::{StopCause, StopRecord};
use super::watcher::Watcher;
use super::worker::{Force, Stop};
use crate::config::model::SignalNumber;

impl Watcher {
    /// Stops the oldest processes that are not stopping yet, of those up to a number. They are
    /// remembered by the newest of them: whatever is not newer is stopping.
    pub(super) fn stop_oldest(&mut self, cx: &mut Context, count: usize, through: ProcessId) {
        if count == 0 || self.children.settled() == 0 {
            return;
        }
        let chosen: Vec<ProcessId> = self
            .children
            .through(through)
            .filter(|(_, child)| !child.stopping())
            .map(|(id, _)| id)
            .take(count)
            .collect();
        let Some(newest) = chosen.last().copied() else {
            return;
        };
        let memory = self.memory_mut();
        memory.stopping_through = memory.stopping_through.max(Some(newest));
        for process in chosen {
            self.begin_stop(cx, process, StopRecord::plain(StopCause::Unwanted));
        }
    }

    /// Stops one process in a way of its own.
    pub(super) fn stop_process(&mut self, cx: &mut Context, process: ProcessId, how: StopRecord) {
        self.stop_processes(cx, &[process], how);
    }

    /// Stops processes, each in the same way. Those that are stopping already keep their deadline.
    pub(super) fn stop_processes(
        &mut self,
        cx: &mut Context,
        processes: &[ProcessId],
        how: StopRecord,
    ) {
        let fresh: Vec<ProcessId> = processes
            .iter()
            .copied()
            .filter(|id| {
                self.children
                    .get(*id)
                    .is_some_and(|child| !child.stopping())
            })
            .collect();
        self.memory_mut()
            .stopping
            .extend(fresh.iter().map(|id| (*id, how)));
        for process in fresh {
            self.begin_stop(cx, process, how);
        }
    }

    /// Asks; what is asked is in the memory already.
    fn begin_stop(&mut self, cx: &mut Context, process: ProcessId, how: StopRecord) {
        let asked = Stop {
            force_at: None,
            force: Force::NotYet,
        };
        self.stop_looking(cx, process);
        self.children.set_stop(process, asked);
        if self.ask_to_stop(cx, process, how) == Gate::Open {
            self.begin_patience(cx, process, how);
        }
    }

    /// From now on it has its time to stop.
    pub(super) fn begin_patience(&mut self, cx: &mut Context, process: ProcessId, how: StopRecord) {
        let patience = how.graceful_timeout_ms.map_or(
            self.config.graceful_timeout,
            std::time::Duration::from_millis,
        );
        let force_at = cx.now + patience;
        let asked = Stop {
            force_at: Some(force_at),
            force: Force::NotYet,
        };
        self.children.set_stop(process, asked);
        if force_at <= cx.now {
            self.force(cx, process);
        }
    }

    /// Sends the signal that asks, unless a hook is asked before.
    fn ask_to_stop(&mut self, cx: &mut Context, process: ProcessId, how: StopRecord) -> Gate {
        let Some(pid) = self.children.get(process).map(|child| child.pid) else {
            return Gate::Open;
        };
        let signal = how.signal.map_or(self.config.stop_signal, SignalNumber);
        let target = if self.config.stop_children {
            SignalTarget::Tree
        } else {
            SignalTarget::Process
        };
        if self.asks_before_signal(signal) {
            self.ask_before_stop_signal(process, signal, target);
            return Gate::Closed;
        }
        self.act(
            cx,
            Action::Signal {
                process,
                signal,
                target,
            },
        );
        self.publish(cx, cx.now, EventAction::Kill { pid });
        self.notice_signal(process, signal);
        Gate::Open
    }

    /// Sees to the processes whose time has come: kills what was asked to stop and did not, stops
    /// what is older than `max_age` and its random share of the variance.
    pub(super) fn handle_timers(&mut self, cx: &mut Context) {
        self.end_flapping(cx);
        for process in self.children.take_due(cx.now) {
            let Some(child) = self.children.get(process) else {
                continue;
            };
            let expired = child.expires.is_some_and(|at| at <= cx.now);
            match child.stop {
                Some(stop) if stop.force_at.is_some_and(|at| at <= cx.now) => {
                    self.force(cx, process);
                }
                None if expired && self.wanted() => {
                    self.stop_process(cx, process, StopRecord::plain(StopCause::Aged));
                }
                None => self.look(cx, process),
                Some(_) => {}
            }
        }
    }

    fn force(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let pid = child.pid;
        let repeated = child.stop.is_some_and(|stop| stop.force == Force::Used);
        if repeated {
            cx.log(
                Level::Warning,
                format!(
                    "watcher {:?}: pid {pid} has survived SIGKILL for {} s; it is killed again",
                    self.config.name,
                    KILL_AGAIN_AFTER.as_secs()
                ),
            );
        }
        let force_at = Some(cx.now + KILL_AGAIN_AFTER);
        self.children.set_stop(
            process,
            Stop {
                force_at,
                force: Force::Used,
            },
        );
        let target = if self.config.stop_children {
            SignalTarget::Tree
        } else {
            SignalTarget::Group
        };
        self.act(
            cx,
            Action::Signal {
                process,
                signal: SignalNumber::KILL,
                target,
            },
        );
        self.publish(cx, cx.now, EventAction::Kill { pid });
        if !repeated {
            self.notice_signal(process, SignalNumber::KILL);
        }
    }

    /// After a connection: goes on with stops that an earlier one, or another manager, began.
    pub(super) fn resume_stops(
        &mut self,
        cx: &mut Context,
        earlier: impl Fn(ProcessId) -> Option<Stop>,
    ) {
        #[cfg(test)]
        if cx.fault == Fault::ForgetStops {
            return;
        }
        let records: Vec<(ProcessId, StopRecord)> = self
            .children
            .iter()
            .filter_map(|(id, _)| Some((id, self.memory().stop_of(id)?)))
            .collect();
        for (process, how) in records {
            // Whether the last signal arrived is unknown, so it is sent again.
            match earlier(process) {
                Some(stop) if stop.force == Force::NotYet && stop.force_at.is_some() => {
                    self.children.set_stop(process, stop);
                    self.ask_to_stop(cx, process, how);
                }
                Some(stop) if stop.force == Force::NotYet => self.begin_stop(cx, process, how),
                Some(_) => {
                    let force_at = Some(Moment::default());
                    self.children.set_stop(
                        process,
                        Stop {
                            force_at,
                            force: Force::NotYet,
                        },
                    );
                }
                None => self.begin_stop(cx, process, how),
            }
        }
    }

    /// Forgets the bound of stopping processes once it bounds none.
    pub(super) fn drop_obsolete_stops(&mut self) {
        let through = self.memory().stopping_through;
        if through.is_some()
            && self
                .children
                .oldest()
                .is_none_or(|oldest| Some(oldest) > through)
        {
            self.memory_mut().stopping_through = None;
        }
    }
}

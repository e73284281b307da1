//! Replacing processes: restart, graceful and sequential reload.
//!
//! A replacement is remembered as the number of the newest process that has to go. Whatever is
//! alive and not newer is old; the rest follows from that, also after a crash in the middle.

use super::action::{Action, EventAction, Level, SignalTarget};
use super::context::Context;
use super::converge::Pace;
use super::flapping::Flaps;
use super::hook::{HookName, HookSubject};
use super::hooks::Gate;
use super::ids::ProcessId;
use super::remember::{Rollout, Run, StopCause, StopRecord};
use super::watcher::{Stage, Watcher};
use crate::command::ReloadMethod;
use crate::config::model::SignalNumber;

impl Watcher {
    /// Begins to replace all that is alive now. What is stopped is started.
    pub(super) fn begin_rollout(&mut self, cx: &mut Context, method: ReloadMethod) {
        let was_wanted = self.wanted();
        // Of those that run, all are wanted again.
        self.demanded |= was_wanted;
        self.set_run(Run::Running);
        self.begin_afresh();
        let newest = self.children.newest();
        let method = self.possible(method);
        if !was_wanted {
            if let (Some(current), true) = (&mut self.current, method != ReloadMethod::Terminate) {
                current.reloads_by_starting = true;
            }
            return;
        }
        let hang_up = self.config.send_hup && method != ReloadMethod::Terminate;
        match newest {
            Some(_) if hang_up => self.hang_up(cx),
            Some(through) => self.memory_mut().rollout = Some(Rollout { through, method }),
            None => {}
        }
    }

    /// Begins to replace what was started from other options, if it runs at all.
    /// Says whether it did.
    pub(super) fn try_begin_refresh(&mut self, method: ReloadMethod) -> bool {
        if self.memory().rollout.is_some() || !self.wanted() {
            return false;
        }
        let method = self.possible(method);
        let outdated = self
            .children
            .iter()
            .filter(|(_, child)| child.identity.configuration != self.fingerprint)
            .map(|(id, _)| id)
            .next_back();
        if let Some(through) = outdated {
            self.begin_afresh();
            self.memory_mut().rollout = Some(Rollout { through, method });
        }
        outdated.is_some()
    }

    /// Of a singleton there are never two, so it is replaced one after the other.
    const fn possible(&self, method: ReloadMethod) -> ReloadMethod {
        match method {
            ReloadMethod::Graceful if self.config.singleton => ReloadMethod::Sequential,
            ReloadMethod::Graceful | ReloadMethod::Sequential | ReloadMethod::Terminate => method,
        }
    }

    /// Clears what would hold back a start that an operator asked for.
    pub(super) fn begin_afresh(&mut self) {
        let memory = self.memory_mut();
        memory.failures.clear();
        memory.failed_starts = 0;
        memory.spent = 0;
        memory.flaps = Flaps::default();
        self.spawn_error = None;
        self.replaced.clear();
    }

    fn hang_up(&mut self, cx: &mut Context) {
        let processes: Vec<ProcessId> = self.children.iter().map(|(id, _)| id).collect();
        for process in processes {
            let signal = SignalNumber::HUP;
            self.act(
                cx,
                Action::Signal {
                    process,
                    signal,
                    target: SignalTarget::Process,
                },
            );
        }
        self.publish(cx, cx.now, EventAction::Reload);
    }

    /// One step of a replacement.
    pub(super) fn roll(&mut self, cx: &mut Context, rollout: Rollout) {
        let old = self.children.through(rollout.through).count();
        match rollout.method {
            ReloadMethod::Sequential if old == 0 => {
                // The last successor may still be on its way.
                self.keep(cx);
                let proven = self.memory().unproven.is_empty();
                let there = self.spawning.is_empty() && self.children.ready() >= self.target();
                if there && proven {
                    self.finish_rollout(cx, rollout.method);
                }
            }
            ReloadMethod::Terminate | ReloadMethod::Graceful if old == 0 => {
                self.finish_rollout(cx, rollout.method);
            }
            ReloadMethod::Terminate if self.lets_others_go_first(cx) => {}
            ReloadMethod::Terminate if self.stop_gate() == Gate::Closed => {}
            ReloadMethod::Terminate => self.stop_oldest(cx, usize::MAX, rollout.through),
            ReloadMethod::Graceful => self.roll_gracefully(cx, rollout, old),
            ReloadMethod::Sequential => self.roll_sequentially(cx, rollout),
        }
    }

    fn finish_rollout(&mut self, cx: &mut Context, method: ReloadMethod) {
        self.memory_mut().rollout = None;
        match method {
            ReloadMethod::Terminate => {
                if self.empty() {
                    self.publish(cx, cx.now, EventAction::Stop);
                    self.notice(HookName::AfterStop, HookSubject::Watcher);
                    self.stage = Stage::Down;
                } else {
                    self.stage = Stage::Rising;
                }
                self.forget_stop();
                self.awaiting = self.awaits(cx);
                if self.awaiting.is_some() || self.start_gate(cx) == Gate::Closed {
                    return;
                }
            }
            ReloadMethod::Graceful | ReloadMethod::Sequential => {
                self.publish(cx, cx.now, EventAction::Reload);
            }
        }
        self.keep(cx);
    }

    /// New ones first, all at once; the old ones go when every new one is ready.
    fn roll_gracefully(&mut self, cx: &mut Context, rollout: Rollout, old: usize) {
        if self.has_undo() {
            self.undo_rollout(cx, rollout);
            return;
        }
        let target = self.target();
        let fresh = self.children.len() - old + self.spawning.len();
        if fresh < target {
            self.spawn_missing(cx, target - fresh, Pace::AtOnce);
        }
        let there = self
            .children
            .after(rollout.through)
            .filter(|child| self.is_ready(child))
            .count();
        if there >= target {
            self.stop_oldest(cx, usize::MAX, rollout.through);
        }
    }

    /// A hook refused a new process: the new ones go, the old ones stay as they are.
    fn undo_rollout(&mut self, cx: &mut Context, rollout: Rollout) {
        let Some(why) = self.take_undo() else {
            return;
        };
        cx.log(
            Level::Error,
            format!(
                "watcher {:?}: the reload is undone, the processes from before it run on: {why}",
                self.config.name
            ),
        );
        let fresh: Vec<ProcessId> = self
            .children
            .iter()
            .map(|(process, _)| process)
            .filter(|process| *process > rollout.through)
            .collect();
        self.memory_mut().rollout = None;
        if let Some(current) = &mut self.current {
            current.undone = Some(format!("{why}; the processes from before run on"));
        }
        self.stop_processes(cx, &fresh, StopRecord::plain(StopCause::Unwanted));
    }

    /// One old process at a time; the next one goes when its predecessor's successor is ready and
    /// warmed up.
    fn roll_sequentially(&mut self, cx: &mut Context, rollout: Rollout) {
        let target = self.target();
        let live = self.children.len() + self.spawning.len();
        if live < target {
            self.spawn_missing(cx, target - live, Pace::WarmUp);
        }
        let all_there = live >= target
            && self.children.ready() == self.children.len()
            && self.spawning.is_empty()
            && self.memory().unproven.is_empty()
            && self.next_spawn_at <= cx.now
            && self.children.stopping() == 0;
        if all_there {
            self.stop_oldest(cx, 1, rollout.through);
        }
    }
}

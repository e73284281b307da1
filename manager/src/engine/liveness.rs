//! Whether processes that are ready still answer. So many looks in a row that fail, and a process
//! is replaced as one that was never ready is: what hangs does not end by itself.
//!
//! Nothing of it is remembered: the next manager begins to count anew.

use std::time::Duration;

use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::ids::ProcessId;
use super::probe::ProbeOutcome;
use super::readiness::Progress;
use super::watcher::Watcher;

/// The soonest time to look that is still to come.
const AT_ONCE: Duration = Duration::from_millis(1);

impl Watcher {
    /// What is known of a process that is ready from now on.
    pub(super) fn ready_progress(&self, cx: &Context) -> Progress {
        let alive = &self.config.alive;
        let look_at = alive
            .probe
            .as_ref()
            .map(|_| cx.now + alive.grace.max(AT_ONCE));
        Progress {
            look_at,
            ..Progress::READY
        }
    }

    /// Does what is due about a process that is ready.
    pub(super) fn look_alive(&mut self, cx: &mut Context, process: ProcessId) {
        let (Some(child), Some(probe)) = (self.children.get(process), &self.config.alive.probe)
        else {
            return;
        };
        let limit = self.config.alive.probe_limit;
        let mut progress = child.progress.clone();
        if let Some(late) = progress.running.take_if(|it| it.late_at <= cx.now) {
            cx.cancel_probe(late.probe);
            self.children.set_progress(process, progress);
            let why = format!("no answer within {} s", limit.as_secs_f64());
            return self.handle_alive(cx, process, ProbeOutcome::Failed(why));
        }
        let due = progress.running.is_none() && progress.look_at.is_some_and(|at| at <= cx.now);
        if due {
            progress.look_at = None;
            progress.running = self.send_probe(cx, process, probe.clone(), limit);
            self.children.set_progress(process, progress);
        }
    }

    /// A look at a process that is ready came to something.
    pub(super) fn handle_alive(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        outcome: ProbeOutcome,
    ) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let mut progress = child.progress.clone();
        progress.running = None;
        progress.look_at = Some(cx.now + self.config.alive.interval);
        match outcome {
            ProbeOutcome::Passed => {
                progress.failures = 0;
                progress.why = None;
                self.children.set_progress(process, progress);
            }
            ProbeOutcome::Failed(why) => {
                progress.failures = progress.failures.saturating_add(1);
                let (failures, limit) = (progress.failures, self.config.alive.failures);
                progress.why = Some(why.clone());
                self.children.set_progress(process, progress);
                let hangs = failures >= limit;
                #[cfg(test)]
                let hangs = hangs && cx.fault != Fault::LetItHang;
                if hangs {
                    let error = format!("it did not answer {failures} times in a row: {why}");
                    self.fail(cx, process, error);
                }
            }
        }
    }

    /// What there is to say about a process that is ready and has not answered, for people.
    pub(super) fn alive_note(&self, progress: &Progress) -> Option<String> {
        let why = progress.why.as_ref().filter(|_| progress.failures > 0)?;
        let (failures, limit) = (progress.failures, self.config.alive.failures);
        Some(format!(
            "has not answered {failures} times, {limit} are too many: {why}"
        ))
    }
}

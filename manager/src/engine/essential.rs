//! Watchers without which the manager has no purpose: when one ends for good, everything is stopped
//! and the manager exits with its status. That is what the first process of a container does.

use super::action::Level;
use super::manager::Engine;
use super::remember::{Run, StopReason};
use super::watcher::{Standing, Watcher};

/// Exit status where there is none, because no process ever ran.
const NEVER_RAN: u8 = 1;
/// What a shell adds to the number of a signal.
const SIGNALED: i32 = 128;

impl Watcher {
    /// With which status and why it has ended for good, by itself.
    fn ended_for_good(&self) -> Option<(u8, &'static str)> {
        if self.standing != Standing::Configured || !self.empty() {
            return None;
        }
        let why = match &self.memory().run {
            Some(Run::Stopped(StopReason::Finished)) => "its processes have ended",
            Some(Run::Stopped(StopReason::GaveUp { .. })) => "it cannot be started",
            Some(Run::Stopped(StopReason::Flapping { until: None, .. })) => {
                "its processes end again and again"
            }
            Some(Run::Stopped(
                StopReason::Flapping { until: Some(_), .. } | StopReason::Command,
            ))
            | Some(Run::Running)
            | None => return None,
        };
        let failed_to_start = matches!(
            self.memory().run,
            Some(Run::Stopped(StopReason::GaveUp { .. }))
        );
        let status = match self.memory().ends.back() {
            Some(end) if end.exit_code < 0 => u8::try_from(SIGNALED - end.exit_code).ok(),
            Some(end) => u8::try_from(end.exit_code).ok(),
            None => None,
        };
        match status {
            Some(status) if status != 0 || !failed_to_start => Some((status, why)),
            Some(_) | None => Some((NEVER_RAN, why)),
        }
    }
}

impl Engine {
    /// Begins to leave if an essential watcher has ended for good.
    pub(super) fn leave_with_essential(&mut self) {
        if self.ending.begun() || !self.cx.connected() {
            return;
        }
        let ended = self.watchers.values().find_map(|watcher| {
            let (status, why) = watcher
                .config
                .essential
                .then(|| watcher.ended_for_good())??;
            Some((watcher.config.name.clone(), status, why))
        });
        let Some((name, status, why)) = ended else {
            return;
        };
        self.cx.log(
            Level::Warning,
            format!(
                "watcher {name:?} is essential and {why}: everything is stopped, and the manager \
                 exits with status {status}"
            ),
        );
        self.begin_essential_ending(status);
    }
}

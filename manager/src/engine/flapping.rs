//! Watchers whose processes end again and again, by the rules of Circus's flapping plugin: so many
//! ends in so short a time stop the watcher, which is started again after a while, so often, and
//! then stays stopped. Ends, attempts and the time of the next start are remembered.
//!
//! Circus notices ends at its housekeeping only and takes its period off the time it measured; here
//! they carry the time at which they happened, so nothing has to be taken off.

use serde::{Deserialize, Serialize};

use super::action::Level;
use super::context::Context;
use super::ids::Moment;
use super::remember::{Run, StopReason};
use super::watcher::{Standing, Turn, Watcher};
use crate::config::model::{Flapping, RetryLimit};

/// What is remembered of a watcher's ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Flaps {
    /// When processes ended by themselves, at most `attempts` of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ends: Vec<Moment>,
    /// How often in a row the watcher was stopped for it.
    pub(super) tries: u32,
}

impl Flaps {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What one more end amounts to.
enum Verdict {
    /// Nothing yet.
    Fine,
    /// The watcher is stopped, and started again after a while if it may be.
    Stop(Option<Moment>),
}

impl Flaps {
    fn note(&mut self, at: Moment, settings: &Flapping) -> Verdict {
        self.ends.push(at);
        let attempts = usize::try_from(settings.attempts).unwrap_or(usize::MAX);
        if self.ends.len() < attempts {
            return Verdict::Fine;
        }
        let first = self.ends.iter().min().copied().unwrap_or(at);
        let last = self.ends.iter().max().copied().unwrap_or(at);
        self.ends.clear();
        if last.since(first) > settings.window {
            self.tries = 0;
            return Verdict::Fine;
        }
        let again = match settings.max_retry {
            RetryLimit::Forever => true,
            RetryLimit::Attempts(limit) => self.tries < limit,
        };
        if again {
            self.tries = self.tries.saturating_add(1);
            Verdict::Stop(Some(last + settings.retry_in))
        } else {
            self.tries = 0;
            Verdict::Stop(None)
        }
    }
}

impl Watcher {
    /// A process ended by itself, and that was no success.
    pub(super) fn note_flap(&mut self, cx: &mut Context, at: Moment) {
        let Some(settings) = cx.flapping else { return };
        let settings = settings.with(&self.config.flapping);
        if !settings.active || !self.wanted() {
            return;
        }
        let Verdict::Stop(until) = self.memory_mut().flaps.note(at, &settings) else {
            return;
        };
        let next = match until {
            Some(_) => format!(
                "it is started again in {} s",
                settings.retry_in.as_secs_f64()
            ),
            None => "it stays stopped until somebody starts it".to_owned(),
        };
        cx.log(
            Level::Warning,
            format!(
                "watcher {:?} is stopped, its processes end again and again; {next}",
                self.config.name
            ),
        );
        let configuration = self.fingerprint.clone();
        self.set_run(Run::Stopped(StopReason::Flapping {
            until,
            configuration,
        }));
    }

    /// When it is started again after it was stopped for flapping.
    pub(super) fn flapping_until(&self) -> Option<Moment> {
        match (&self.memory().run, self.standing) {
            (Some(Run::Stopped(StopReason::Flapping { until, .. })), Standing::Configured) => {
                *until
            }
            _ => None,
        }
    }

    /// Starts it again if its time has come.
    pub(super) fn end_flapping(&mut self, cx: &mut Context) {
        if self.flapping_until().is_some_and(|until| until <= cx.now) {
            cx.log(
                Level::Info,
                format!("watcher {:?} is tried again", self.config.name),
            );
            let memory = self.memory_mut();
            memory.failures.clear();
            memory.failed_starts = 0;
            self.set_run(Run::Running);
            self.turn = Turn::Granted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn seconds(at: u64) -> Moment {
        Moment(at * 1_000_000_000)
    }

    fn verdicts(settings: &Flapping, ends: &[u64]) -> Vec<Option<Option<Moment>>> {
        let mut flaps = Flaps::default();
        ends.iter()
            .map(|at| match flaps.note(seconds(*at), settings) {
                Verdict::Fine => None,
                Verdict::Stop(until) => Some(until),
            })
            .collect()
    }

    #[test]
    fn enough_ends_within_the_window_stop_so_often_and_then_for_good() {
        let settings = Flapping {
            max_retry: RetryLimit::Attempts(1),
            ..Flapping::default()
        };
        assert_eq!(
            verdicts(&settings, &[10, 11, 30, 31, 50, 51]),
            [
                None,
                Some(Some(seconds(18))),
                None,
                Some(None),
                None,
                Some(Some(seconds(58)))
            ]
        );
    }

    #[test]
    fn ends_far_apart_are_none_of_it_and_begin_the_count_again() {
        let settings = Flapping {
            attempts: 3,
            window: Duration::from_secs(2),
            max_retry: RetryLimit::Forever,
            ..Flapping::default()
        };
        assert_eq!(
            verdicts(&settings, &[1, 2, 9, 10, 11, 12]),
            [None, None, None, None, None, Some(Some(seconds(19)))]
        );
    }
}

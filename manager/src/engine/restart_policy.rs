//! When a process that ended or could not be started is tried again.
//!
//! Each worker id counts its failures in a row: processes that did not live for
//! `backoff.reset_after`, and spawns that failed. The first is followed by an attempt at once,
//! the second waits `backoff.min`, then twice as long each time up to `backoff.max`, each wait
//! lengthened by up to a tenth so that many do not come back together. A process that lived long
//! enough clears the count. `max_retry` bounds failed spawns only, as in Circus: a program that
//! starts and crashes is restarted for ever.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::Moment;
use super::limits::JITTER_PARTS;
use super::random::Random;
use crate::config::model::Backoff;

/// The failures in a row of one worker id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failures {
    /// How many.
    pub(super) count: u32,
    /// No attempt before this.
    pub(super) not_before: Moment,
}

impl Failures {
    /// One more failure at `at`.
    #[must_use]
    pub(super) fn and_another(self, at: Moment, policy: &Backoff, random: &mut Random) -> Self {
        let count = self.count.saturating_add(1);
        let wait = policy.delay(count);
        let jitter = random.duration_up_to(
            wait.checked_div(u32::try_from(JITTER_PARTS).unwrap_or(1))
                .unwrap_or(Duration::ZERO),
        );
        Self {
            count,
            not_before: at + wait + jitter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Backoff = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(1),
        reset_after: Duration::from_secs(10),
    };

    #[test]
    fn waits_double_from_the_second_failure_up_to_the_cap() {
        let mut random = Random::new(3);
        let mut failures = Failures::default();
        for floor_ms in [0, 100, 200, 400, 800, 1000, 1000] {
            failures = failures.and_another(Moment(0), &POLICY, &mut random);
            let wait = failures.not_before.since(Moment(0));
            let floor = Duration::from_millis(floor_ms);
            assert!(
                wait >= floor && wait <= floor + floor / 10,
                "{wait:?} for {floor:?}"
            );
        }
    }

    #[test]
    fn the_count_never_overflows() {
        let failures = Failures {
            count: u32::MAX,
            not_before: Moment(0),
        };
        let next = failures.and_another(Moment(u64::MAX), &POLICY, &mut Random::new(1));
        assert_eq!(next.count, u32::MAX);
        assert_eq!(next.not_before, Moment(u64::MAX));
    }
}

//! When a process that ended or could not be started is tried again.
//!
//! Each worker id counts its failures in a row: processes that did not live for
//! `backoff.reset_after`, and spawns that failed. The first is followed by an attempt at once,
//! the second waits `backoff.min`, then longer each time by the factor up to `backoff.max`, each
//! wait lengthened by up to the jitter so that many do not come back together. A process that lived long
//! enough clears the count. `max_retry` bounds failed spawns only, as in Circus: a program that
//! starts and crashes is restarted for ever.

use serde::{Deserialize, Serialize};

use super::ids::Moment;
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
        let jitter = random.duration_up_to(policy.jitter(wait));
        Self {
            count,
            not_before: at + wait + jitter,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const POLICY: Backoff = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(1),
        reset_after: Duration::from_secs(10),
        factor_percent: 200,
        jitter_percent: 10,
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
    fn waits_grow_by_the_factor_and_jitter_has_its_bound() {
        let policy = Backoff {
            factor_percent: 300,
            jitter_percent: 0,
            ..POLICY
        };
        let mut failures = Failures::default();
        for wait_ms in [0, 100, 300, 900, 1000, 1000] {
            failures = failures.and_another(Moment(0), &policy, &mut Random::new(3));
            let wait = failures.not_before.since(Moment(0));
            assert_eq!(wait, Duration::from_millis(wait_ms));
        }
        let constant = Backoff {
            factor_percent: 100,
            ..POLICY
        };
        assert_eq!(constant.delay(u32::MAX), POLICY.min);
        assert_eq!(constant.jitter(POLICY.max), Duration::from_millis(100));
        let none = Backoff {
            min: Duration::ZERO,
            ..POLICY
        };
        assert_eq!(none.delay(u32::MAX), Duration::ZERO);
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

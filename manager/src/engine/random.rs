//! The engine's only source of chance: a seeded generator, so that every run can be replayed.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014). Good enough to spread timers; not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// A generator; equal seeds give equal sequences.
    #[must_use]
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to `limit`, which itself is possible.
    pub(super) fn up_to(&mut self, limit: u64) -> u64 {
        match limit.checked_add(1) {
            Some(count) => self.next_u64() % count,
            None => self.next_u64(),
        }
    }

    /// A time from zero up to `limit`.
    pub(super) fn duration_up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.up_to(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_sequences_within_bounds() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        for limit in [0, 1, 5, 1_000_000, u64::MAX] {
            let drawn = a.up_to(limit);
            assert!(drawn <= limit);
            assert_eq!(drawn, b.up_to(limit));
        }
        assert_ne!(Random::new(1).next_u64(), Random::new(2).next_u64());
    }
}

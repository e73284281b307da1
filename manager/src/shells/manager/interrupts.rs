//! How often somebody has pressed Ctrl-C.

use std::time::{Duration, Instant};

/// Nobody presses it twice in so short a time. `timeout`, `make` and others pass on a signal that the terminal, or they
/// themselves, send to the whole group too, so that it arrives twice.
const ONE_PRESS: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interrupts {
    count: u32,
    last: Option<Instant>,
}

impl Interrupts {
    /// SIGINT has arrived: the how manieth press that is, or nothing if it belongs to the last one.
    pub(super) fn count(&mut self, now: Instant) -> Option<u32> {
        let last = self.last.replace(now);
        if last.is_some_and(|last| now.saturating_duration_since(last) < ONE_PRESS) {
            return None;
        }
        self.count += 1;
        Some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_twice_was_pressed_once() {
        let mut interrupts = Interrupts::default();
        let begun = Instant::now();
        let mut at = |milliseconds| interrupts.count(begun + Duration::from_millis(milliseconds));
        assert_eq!(at(0), Some(1));
        assert_eq!(at(3), None);
        assert_eq!(at(200), None);
        assert_eq!(at(700), Some(2));
        assert_eq!(at(1000), Some(3));
    }
}

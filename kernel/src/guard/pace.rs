//! How soon the next kernel is started after one has died.

use std::time::Duration;

/// Kernels that may die within a second of serving before the next one has to wait.
const QUICK_MAX: u32 = 50;
/// Longest wait after a kernel that served.
const SERVED_MAX: Duration = Duration::from_millis(100);
/// Longest wait after one that never did.
const UNSERVED_MAX: Duration = Duration::from_secs(5);
/// A kernel that lived so long was a good one.
const LONG_LIFE: Duration = Duration::from_secs(1);
/// Starts in a row without one that served, after which the previous program is tried.
pub const STARTS_MAX: u32 = 5;

/// Remembers how the last ones fared.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pace {
    quick: u32,
    unserved: u32,
}

/// Whether a kernel came to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It did.
    Yes,
    /// It died before.
    No,
}

impl Pace {
    /// A kernel has died; gives the pause before the next one.
    pub fn pause_after(&mut self, served: Served, life: Duration) -> Duration {
        match served {
            Served::Yes => {
                self.unserved = 0;
                self.quick = if life < LONG_LIFE {
                    self.quick.saturating_add(1)
                } else {
                    0
                };
                doubling(self.quick.saturating_sub(QUICK_MAX), SERVED_MAX)
            }
            Served::No => {
                self.unserved = self.unserved.saturating_add(1);
                doubling(self.unserved, UNSERVED_MAX)
            }
        }
    }

    /// Kernels in a row that never came to serve.
    #[must_use]
    pub const fn unserved(&self) -> u32 {
        self.unserved
    }
}

/// 0, 1, 2, 4 ... ms.
fn doubling(count: u32, most: Duration) -> Duration {
    match count.checked_sub(1) {
        None => Duration::ZERO,
        Some(exponent) => {
            let factor = 1_u32.checked_shl(exponent).unwrap_or(u32::MAX);
            Duration::from_millis(1).saturating_mul(factor).min(most)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(3);

    #[test]
    fn a_killed_kernel_is_replaced_at_once_and_a_crash_loop_is_slowed() {
        let mut pace = Pace::default();
        let pauses = (0..70)
            .map(|_| pace.pause_after(Served::Yes, MOMENT))
            .collect::<Vec<_>>();
        assert!(pauses[..50].iter().all(Duration::is_zero));
        assert_eq!(pauses[50], Duration::from_millis(1));
        assert_eq!(pauses[69], SERVED_MAX);
        assert!(pace.pause_after(Served::Yes, LONG_LIFE).is_zero());
    }

    #[test]
    fn a_kernel_that_never_serves_is_tried_ever_more_rarely() {
        let mut pace = Pace::default();
        let pauses = (0..40)
            .map(|_| pace.pause_after(Served::No, MOMENT))
            .collect::<Vec<_>>();
        assert_eq!(
            pauses[..4]
                .iter()
                .map(Duration::as_millis)
                .collect::<Vec<_>>(),
            [1, 2, 4, 8]
        );
        assert_eq!(pauses[39], UNSERVED_MAX);
        assert_eq!(pace.unserved(), 40);
        pace.pause_after(Served::Yes, MOMENT);
        assert_eq!(pace.unserved(), 0);
    }
}

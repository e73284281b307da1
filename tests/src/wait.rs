//! Waiting for what no descriptor announces: with a deadline, and with the last thing seen.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long a test waits for something that takes milliseconds on an idle machine. Only a failing
/// test ever waits so long, so it is generous towards machines with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Looks until `look` answers `Ok`, at growing intervals of 1 to 20 ms.
///
/// # Panics
/// After `patience`, with `what` was awaited and what `look` saw last.
#[track_caller]
pub fn within<T, E: Display>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() >= patience => {
                panic!("{what}: not within {patience:?}; last seen: {seen}")
            }
            Err(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// [`within`] the usual [`PATIENCE`].
///
/// # Panics
/// As [`within`].
#[track_caller]
pub fn until<T, E: Display>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, look)
}

/// [`until`] for what is true or not; `seen` describes the state for the message.
///
/// # Panics
/// As [`within`].
#[track_caller]
pub fn until_true(what: &str, mut look: impl FnMut() -> bool) {
    until(what, || if look() { Ok(()) } else { Err("not so") });
}

//! Named points at which a manager can be made to die, for tests.
//!
//! In a normal build [`crash_point`] is empty. With the feature `crash-points` the environment
//! variable `KINGPOLE_MANAGER_CRASH_POINT=NAME[#COUNT]` makes the manager kill itself with SIGKILL when
//! it passes the point for the COUNTth time (default 1).

/// A point that a test may want to die at. Names are stable: tests choose them by text.
#[inline]
pub(crate) fn crash_point(name: &'static str) {
    #[cfg(feature = "crash-points")]
    if armed::is_due(name) {
        armed::die();
    }
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
}

/// How many of `bytes` a write shall take before the manager dies behind it: half of them where a
/// test wants that, else all.
#[inline]
#[must_use]
pub(crate) fn cut<'a>(name: &'static str, bytes: &'a [u8]) -> (&'a [u8], bool) {
    #[cfg(feature = "crash-points")]
    if armed::is_due(name) {
        return (&bytes[..bytes.len() / 2], true);
    }
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
    (bytes, false)
}

/// Dies as `kill -9` does, if that was wanted.
#[inline]
pub(crate) fn die_if(wanted: bool) {
    #[cfg(feature = "crash-points")]
    if wanted {
        armed::die();
    }
    #[cfg(not(feature = "crash-points"))]
    let _ = wanted;
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Target {
        name: String,
        left: AtomicU64,
    }

    static TARGET: OnceLock<Option<Target>> = OnceLock::new();

    fn target() -> Option<&'static Target> {
        let read = || {
            let text = std::env::var("KINGPOLE_MANAGER_CRASH_POINT").ok()?;
            let (name, count) = text.split_once('#').unwrap_or((&text, "1"));
            Some(Target {
                name: name.to_owned(),
                left: AtomicU64::new(count.parse().unwrap_or(1)),
            })
        };
        TARGET.get_or_init(read).as_ref()
    }

    pub(super) fn is_due(name: &str) -> bool {
        target().is_some_and(|target| {
            target.name == name && target.left.fetch_sub(1, Ordering::Relaxed) == 1
        })
    }

    pub(super) fn die() {
        let own = nix::unistd::getpid();
        let _ = nix::sys::signal::kill(own, nix::sys::signal::SIGKILL);
    }
}

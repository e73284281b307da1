//! Named points at which the kernel can be made to die, for tests.
//!
//! In a normal build [`crash_point`] is empty. With the feature `crash-points` the environment
//! variable `KINGPOLE_CRASH_POINT=NAME[#COUNT][@EPOCH]` makes the kernel of that epoch (default 1, the
//! first one) kill itself with SIGKILL when it passes the point for the COUNTth time (default 1), and
//! `KINGPOLE_GUARD_CRASH_POINT=NAME[#COUNT]` the first guard. Several, for several epochs, are
//! separated by semicolons. Unit tests can watch the points instead.

use crate::limits::RESUME_PATIENCE;
use std::time::Duration;

/// A point between two stores that a test may want to die at. Names are listed where they are used
/// and are stable: tests choose them by text.
#[inline]
pub fn crash_point(name: &'static str) {
    #[cfg(any(test, feature = "crash-points"))]
    armed::pass(name);
    #[cfg(not(any(test, feature = "crash-points")))]
    let _ = name;
}

/// A point in a child between clone and exec, where the *kernel* shall die (the child then sleeps
/// 15 ms, so that its successor meets it there). Allocates nothing.
#[inline]
pub fn crash_point_in_child(name: &'static str) {
    #[cfg(feature = "crash-points")]
    armed::pass_in_child(name);
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
}

/// A system call that a test may want to fail a few times: `KINGPOLE_FAULT_POINT=NAME[#COUNT][*TIMES]`
/// makes the first kernel meet `ENOMEM` there at the COUNTth pass and at those after it, TIMES in all.
///
/// # Errors
/// `ENOMEM`, only then.
#[inline]
pub fn fault_point(name: &'static str) -> Result<(), nix::errno::Errno> {
    #[cfg(any(test, feature = "crash-points"))]
    return faults::pass(name);
    #[cfg(not(any(test, feature = "crash-points")))]
    {
        let _ = name;
        Ok(())
    }
}

/// A stage of going on where the image before stopped: the candidate of an upgrade can be made to die
/// there (`KINGPOLE_RESUME_CRASH=NAME`), to fail (`KINGPOLE_RESUME_FAULT=NAME`) or to hang
/// (`KINGPOLE_RESUME_HANG=NAME`); as a guard by `KINGPOLE_GUARD_RESUME_CRASH` and so on.
///
/// # Errors
/// `ENOMEM`, only then.
#[inline]
pub fn resume_stage(name: &'static str) -> Result<(), nix::errno::Errno> {
    crash_point(name);
    #[cfg(feature = "crash-points")]
    armed::pass_hang(name);
    fault_point(name)
}

/// How long the program that this one becomes may take until it serves.
#[must_use]
pub fn resume_patience() -> Duration {
    #[cfg(feature = "crash-points")]
    if let Some(ms) = std::env::var_os("KINGPOLE_RESUME_PATIENCE_MS")
        && let Some(Ok(ms)) = ms.to_str().map(str::parse)
    {
        return Duration::from_millis(ms);
    }
    RESUME_PATIENCE
}

/// Who passes points from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The kernel of this epoch.
    Kernel(u64),
    /// The program that a kernel has become.
    NextImage,
    /// The first guard.
    Guard,
    /// The program that a guard has become.
    NextGuard,
}

/// Reads the environment now; until then, points are passed. Call once at start.
pub fn arm(victim: Victim) {
    #[cfg(feature = "crash-points")]
    {
        armed::arm(victim);
        armed::arm_hang(victim);
        faults::arm(victim);
    }
    #[cfg(not(feature = "crash-points"))]
    let _ = victim;
}

#[cfg(any(test, feature = "crash-points"))]
mod armed {
    #[cfg(feature = "crash-points")]
    use std::sync::OnceLock;
    #[cfg(feature = "crash-points")]
    use std::sync::atomic::{AtomicU64, Ordering};

    #[cfg(feature = "crash-points")]
    pub(super) struct Target {
        name: String,
        left: AtomicU64,
        kernel: nix::unistd::Pid,
    }

    #[cfg(feature = "crash-points")]
    static TARGET: OnceLock<Option<Target>> = OnceLock::new();

    #[cfg(feature = "crash-points")]
    pub(super) fn arm(victim: super::Victim) {
        let variable = match victim {
            super::Victim::Kernel(_) => "KINGPOLE_CRASH_POINT",
            super::Victim::NextImage => "KINGPOLE_RESUME_CRASH",
            super::Victim::Guard => "KINGPOLE_GUARD_CRASH_POINT",
            super::Victim::NextGuard => "KINGPOLE_GUARD_RESUME_CRASH",
        };
        let all = std::env::var(variable).unwrap_or_default();
        let target = all.split(';').find_map(|text| {
            let (text, epoch) = text.split_once('@').unwrap_or((text, "1"));
            let (name, count) = text.split_once('#').unwrap_or((text, "1"));
            let meant = match victim {
                super::Victim::Kernel(own) => epoch.parse() == Ok(own),
                _ => !name.is_empty(),
            };
            meant.then(|| Target {
                name: name.to_owned(),
                left: AtomicU64::new(count.parse().unwrap_or(1)),
                kernel: nix::unistd::getpid(),
            })
        });
        let _ = TARGET.set(target);
    }

    /// The stage at which to hang.
    #[cfg(feature = "crash-points")]
    static HANG: OnceLock<String> = OnceLock::new();

    #[cfg(feature = "crash-points")]
    pub(super) fn arm_hang(victim: super::Victim) {
        let variable = match victim {
            super::Victim::NextImage => "KINGPOLE_RESUME_HANG",
            super::Victim::NextGuard => "KINGPOLE_GUARD_RESUME_HANG",
            super::Victim::Kernel(_) | super::Victim::Guard => return,
        };
        let _ = HANG.set(std::env::var(variable).unwrap_or_default());
    }

    #[cfg(feature = "crash-points")]
    pub(super) fn pass_hang(name: &'static str) {
        while HANG.get().is_some_and(|hang| hang == name) {
            nix::unistd::pause();
        }
    }

    #[cfg(feature = "crash-points")]
    fn is_due(name: &str) -> Option<&'static Target> {
        let target = TARGET.get()?.as_ref()?;
        (target.name == name && target.left.fetch_sub(1, Ordering::Relaxed) == 1).then_some(target)
    }

    pub(super) fn pass(name: &'static str) {
        #[cfg(feature = "crash-points")]
        if is_due(name).is_some() {
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL);
        }
        #[cfg(test)]
        super::watch::tell(name);
        let _ = name;
    }

    #[cfg(feature = "crash-points")]
    pub(super) fn pass_in_child(name: &'static str) {
        if let Some(target) = is_due(name) {
            let _ = nix::sys::signal::kill(target.kernel, nix::sys::signal::SIGKILL);
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
    }
}

/// Faults of this thread: the kernel has one, and unit tests have one each.
#[cfg(any(test, feature = "crash-points"))]
pub(crate) mod faults {
    use nix::errno::Errno;
    use std::cell::RefCell;

    struct Fault {
        name: String,
        /// Passes before the first failure.
        spared: u64,
        /// Failures.
        times: u64,
    }

    thread_local! {
        static FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
    }

    /// Lets `name` fail `times` times after it was passed `spared` times.
    #[cfg(test)]
    pub(crate) fn set(name: &str, spared: u64, times: u64) {
        let name = name.to_owned();
        FAULT.set(Some(Fault {
            name,
            spared,
            times,
        }));
    }

    #[cfg(feature = "crash-points")]
    pub(super) fn arm(victim: super::Victim) {
        let variable = match victim {
            super::Victim::Kernel(1) => "KINGPOLE_FAULT_POINT",
            super::Victim::NextImage => "KINGPOLE_RESUME_FAULT",
            super::Victim::NextGuard => "KINGPOLE_GUARD_RESUME_FAULT",
            super::Victim::Kernel(_) | super::Victim::Guard => return,
        };
        let Ok(text) = std::env::var(variable) else {
            return;
        };
        let (text, times) = text.split_once('*').unwrap_or((&text, "1"));
        let (name, count) = text.split_once('#').unwrap_or((text, "1"));
        FAULT.set(Some(Fault {
            name: name.to_owned(),
            spared: count.parse::<u64>().unwrap_or(1).saturating_sub(1),
            times: times.parse().unwrap_or(1),
        }));
    }

    pub(super) fn pass(name: &'static str) -> Result<(), Errno> {
        FAULT.with_borrow_mut(|fault| {
            let Some(fault) = fault.as_mut().filter(|fault| fault.name == name) else {
                return Ok(());
            };
            if fault.spared > 0 {
                fault.spared -= 1;
                return Ok(());
            }
            if fault.times == 0 {
                return Ok(());
            }
            fault.times -= 1;
            Err(Errno::ENOMEM)
        })
    }
}

/// Unit tests watch the points of their own thread.
#[cfg(test)]
pub(crate) mod watch {
    use std::cell::RefCell;

    type Watcher = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    pub(super) fn tell(name: &'static str) {
        WATCHER.with_borrow_mut(|watcher| {
            if let Some(watcher) = watcher {
                watcher(name);
            }
        });
    }

    /// Calls `watcher` at every point from now on. It may unwind.
    pub(crate) fn install(watcher: impl FnMut(&'static str) + 'static) {
        WATCHER.set(Some(Box::new(watcher)));
    }

    /// Calls `watcher` at every point that `work` passes.
    pub(crate) fn while_watching<T>(
        watcher: impl FnMut(&'static str) + 'static,
        work: impl FnOnce() -> T,
    ) -> T {
        WATCHER.set(Some(Box::new(watcher)));
        let result = work();
        WATCHER.set(None);
        result
    }
}

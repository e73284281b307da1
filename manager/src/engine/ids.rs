//! Identifiers and quantities that cross the engine's border. The shells convert them from and
//! to the wire; nothing here knows how they travel.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: nanoseconds of the machine's boot clock (`CLOCK_BOOTTIME`, clock_gettime(2)).
///
/// This clock does not jump when somebody sets the date, goes on while the machine sleeps, and is
/// the same for the kernel, this manager and the next one, so moments may be remembered. It starts
/// at zero with the machine, and so does everything that is remembered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Time between `earlier` and this moment; nothing if it is the other way round.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, wait: Duration) -> Self {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The kernel's number of a process. Grows with each spawn and is never used again, unlike
    /// the pid.
    ProcessId(u64)
}
number! {
    /// Linux's number of a process, for people and events only: it may be used again.
    Pid(u32)
}
number! {
    /// Which of a watcher's processes it is: the lowest free number from 1 on, seen by the child
    /// as `$(circus.wid)`.
    WorkerId(u32)
}
number! {
    /// Fencing number of the manager's lease. Each connection to the kernel takes a higher one,
    /// and the kernel refuses what is asked with a lower one.
    Epoch(u64)
}
number! {
    /// How often the kernel's program was replaced or restarted under the same state.
    Generation(u64)
}
number! {
    /// Recognises the answer to one spawn. Valid for one life of the engine.
    Ticket(u64)
}
number! {
    /// Recognises the answer to one write of a value. Writes are numbered in the order they were
    /// asked for.
    WriteId(u64)
}
number! {
    /// Recognises the client to whom a response belongs. Chosen by the shell, never used twice.
    CommandId(u64)
}

number! {
    /// Recognises the answer of one hook. Valid for one life of the engine.
    HookId(u64)
}

number! {
    /// Recognises the outcome of one probe. Valid for one life of the engine.
    ProbeId(u64)
}

/// Key under which a watcher is known: its name in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WatcherKey(String);

impl WatcherKey {
    /// The key of a watcher's name as anybody may write it.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(name.to_lowercase())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WatcherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

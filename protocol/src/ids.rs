//! Identifiers that cross the wire, each its own type so that one cannot be passed for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identifier! {
    /// A child process of one kernel, for as long as its shared memory lives; starts at 1 and is
    /// never used again.
    ProcessId
}
identifier! {
    /// Number of an output record within its process; the first record is 1, and both streams of a
    /// process share one sequence.
    Sequence
}
identifier! {
    /// Fencing number of a lease: kernel-wide, growing, never used again. 0 stands for "no lease".
    Fence
}
identifier! {
    /// Chosen by the client to match a reply to its request. 0 is for frames that want no reply, and
    /// for events.
    RequestId
}

impl Sequence {
    /// The number after this one (saturating: 2^64 records never happen).
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Fence {
    /// "This request carries no lease."
    pub const NONE: Self = Self(0);
}

//! The first frames of a session: who speaks which versions and can do what.
//!
//! A session begins as text (see `docs/protocol.md`). The client sends the line [`ATTACH_LINE`];
//! the kernel answers one line that begins with [`ATTACHED_PREFIX`] and names the versions it
//! speaks; from there on both sides send frames, the client's first being [`Hello`].

use crate::ids::Fence;
use serde::{Deserialize, Serialize};

/// Oldest protocol version that this build speaks.
pub const VERSION_MIN: u16 = 1;

/// Newest protocol version that this build speaks.
pub const VERSION_MAX: u16 = if cfg!(feature = "a-version-ahead") {
    2
} else {
    1
};

/// What a client sends to leave the text protocol.
pub const ATTACH_LINE: &str = "attach 1\n";

/// How the kernel's answer to [`ATTACH_LINE`] begins; the rest of the line is for people.
pub const ATTACHED_PREFIX: &str = "Attached";

/// Bits of [`Hello::capabilities`] and [`Welcome::capabilities`]: what both sides set is agreed.
pub mod capability {
    /// Descriptors may travel with frames (unix sessions only).
    pub const DESCRIPTORS: u64 = 1 << 0;
    /// Output may be read in place, from the file of a ring (unix sessions only).
    pub const MAPPED_OUTPUT: u64 = 1 << 1;
}

/// First frame of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version the client speaks.
    pub version_min: u16,
    /// Newest version the client speaks.
    pub version_max: u16,
    /// See [`capability`].
    pub capabilities: u64,
    /// Who it is, for `sessions` and the log: program and version.
    pub client: String,
}

/// The kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that this session uses: the newest that both speak.
    pub version: u16,
    /// What both sides can do.
    pub capabilities: u64,
    /// The kernel's own release, for people.
    pub release: String,
    /// The kernel's process id.
    pub pid: i32,
    /// How many images this kernel process has run: raised by each upgrade in place.
    pub generation: u64,
    /// How many kernel processes have worked on this state: raised after each crash.
    pub epoch: u64,
    /// Identifies the shared state: another number means that everything is new.
    pub instance: u64,
    /// When the state was created, nanoseconds since 1970.
    pub started_ns: u64,
    /// Number of this session, as `sessions` shows it.
    pub session: u64,
    /// The newest fencing number given out so far.
    pub newest_fence: Fence,
}

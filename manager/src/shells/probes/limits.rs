//! Bounds of what probes can make the manager do.

use std::time::Duration;

/// How long after the end of a command its last output is waited for.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// Looks that are taken at the same time; others wait for their turn, within their time.
pub(super) const PROBES_AT_A_TIME: usize = 64;

/// What of an answer is read; its first line is what matters.
pub(super) const ANSWER_BYTES_MAX: usize = 4096;

/// What of a command's output is told when it fails, from its end.
pub(super) const OUTPUT_CHARACTERS_MAX: usize = 300;

/// What of a command's output is kept while it runs.
pub(super) const OUTPUT_BYTES_MAX: usize = 4096;

/// Connections in one look at an address that several processes share, until the one that is looked at
/// has taken one.
pub(super) const TRIES_MAX: usize = 16;

/// Pause between two of them, and between two questions whether somebody has taken a connection.
pub(super) const TRY_PAUSE: Duration = Duration::from_millis(10);

/// A handshake that takes longer waits for data that a look without a request does not send.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_millis(500);

/// Processes that are looked at for who has taken a connection: a process and its descendants.
pub(super) const FAMILY_MAX: usize = 256;

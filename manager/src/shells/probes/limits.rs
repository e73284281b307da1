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

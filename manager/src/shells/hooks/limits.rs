//! Bounds of what hooks can make the manager do.

use std::time::Duration;

/// Longest line that a hook's program or the Python host may write; more is cut off.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024;

/// Longest answer of the Python host. Statistics of a process with a thousand children fit.
pub(super) const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lines of one call that reach the manager's log.
pub(super) const LINES_PER_CALL_MAX: usize = 200;

/// A Python host without work ends after this long; the next call starts another.
pub(super) const HOST_IDLE_MAX: Duration = Duration::from_secs(60);

/// Calls that may wait for one Python host. The engine makes one at a time, statistics as many
/// as people ask for.
pub(super) const CALLS_WAITING_MAX: usize = 32;

/// How long after the end of a hook's program its last output is waited for.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// Answers and log lines that may wait for the manager.
pub(super) const NEWS_WAITING_MAX: usize = 1024;

//! Every bound of the configuration, in one place.

use std::time::Duration;

/// Largest configuration file; thousands of watchers stay well below it.
pub const FILE_BYTES: usize = 16 * 1024 * 1024;

/// Most files one configuration may include.
pub const FILES: usize = 10_000;

/// Most diagnostics that are kept of one load; a binary file would give one per line.
pub const DIAGNOSTICS: usize = 1_000;

/// Longest watcher, socket or plugin name in bytes. The kernel's own names carry a prefix and the
/// worker id besides and must stay below its bound of 255.
pub const NAME_BYTES: usize = 200;

/// Most processes of one watcher.
pub const NUMPROCESSES: i64 = 100_000;

/// Longest duration: a hundred years. Longer ones are mistakes, and sums of them overflow.
pub const DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Smallest and largest kernel buffer for the output of one process.
pub const BUFFER_BYTES: std::ops::RangeInclusive<i64> = 4096..=1024 * 1024 * 1024;

/// Compiled size of a regular expression for lines of output, bytes; far more than anybody writes by
/// hand.
pub const LINE_REGEX_BYTES: usize = 1 << 18;

/// Least time within which a process has to say that it is alive: what is asked of it twice as often
/// shall not be work.
pub const WATCHDOG: Duration = Duration::from_millis(200);

/// Least pause between two looks at a process.
pub const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// Most looks in a row that may fail.
pub const ALIVE_FAILURES: i64 = 1_000;

/// Longest list of watchers that one depends on.
pub const DEPENDENCIES: usize = 100;

/// Longest piece of the file that a message quotes, in characters.
pub const QUOTED_CHARACTERS: usize = 60;

/// Longest message, in characters.
pub const MESSAGE_CHARACTERS: usize = 500;

/// Most words that are compared with one that nobody knows.
pub const SUGGESTION_CANDIDATES: usize = 500;

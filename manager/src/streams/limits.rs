//! Every bound and every delay of the log writer in one place.

/// See the fields. A simulation uses tiny ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in one batch. A quarter of a MiB: more gains nothing measurable, and what is in flight
    /// is what a full output buffer may eat.
    pub batch_bytes: usize,
    /// A line that reaches so many bytes is cut there.
    pub line_bytes: usize,
    /// Last bytes of a file that are kept to recognise it.
    pub anchor_bytes: u64,
    /// How much of a file that others wrote to is searched for a batch; beyond it the writer says
    /// that lines may repeat.
    pub search_bytes: usize,
    /// Line starts at which a batch is looked for by its hash alone.
    pub search_starts: usize,
    /// An unfinished line is written after this time, nanoseconds.
    pub partial_ns: u64,
    /// The same for a terminal.
    pub partial_console_ns: u64,
    /// A finished batch is told to the kernel after this time, if no next batch tells it before.
    pub commit_idle_ns: u64,
    /// First pause after a failing write; doubled with each failure.
    pub retry_min_ns: u64,
    /// Longest pause.
    pub retry_max_ns: u64,
    /// Bytes of values in one message to the kernel (its frames are limited to 1 MiB).
    pub commit_bytes: usize,
}

const MILLISECOND: u64 = 1_000_000;

impl Limits {
    /// What production uses.
    pub const STANDARD: Self = Self {
        batch_bytes: 256 << 10,
        line_bytes: 64 << 10,
        anchor_bytes: 256,
        search_bytes: 16 << 20,
        search_starts: 4096,
        partial_ns: 1000 * MILLISECOND,
        partial_console_ns: 200 * MILLISECOND,
        commit_idle_ns: 50 * MILLISECOND,
        retry_min_ns: 100 * MILLISECOND,
        retry_max_ns: 5000 * MILLISECOND,
        commit_bytes: 512 << 10,
    };
}

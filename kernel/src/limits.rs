//! Every bound of the kernel in one place; those of the wire are in `kingpole_protocol::limits`.

/// Bytes of a child's arguments after replacement, its labels and names, together. They stand in
/// every listing, so they must fit into one reply with room to spare.
pub const PROCESS_TEXT_BYTES_MAX: usize = 512 << 10;

/// Arguments of one child.
pub const ARGUMENTS_MAX: usize = 16_384;

/// Sockets that one spawn may pass: descriptors 3 to 34 by `LISTEN_FDS`.
pub const LISTEN_MAX: usize = 32;

/// Sockets of the kernel get numbers from here on, so that they never meet those of `LISTEN_FDS`
/// in a child, which sees them under the same numbers.
pub const SOCKET_FILENO_MIN: i32 = 64;

/// First number for a `reuseport` socket in a child: above `LISTEN_FDS`, below the kernel's own.
pub const REUSEPORT_FILENO_MIN: i32 = 3 + LISTEN_MAX as i32;

/// Bytes of all values with their keys (each counts [`VALUE_OVERHEAD_BYTES`] more).
/// Together with [`RECORDED_BYTES_MAX`] it must fit into what the journal may hold alive,
/// [`crate::memory::journal::LIVE_BYTES_MAX`].
pub const VALUES_BYTES_MAX: u64 = 8 << 20;

/// What a value costs beyond its own bytes, so that many small ones are bounded too.
pub const VALUE_OVERHEAD_BYTES: u64 = 64;

/// What a value counts for in [`VALUES_BYTES_MAX`].
#[must_use]
pub fn value_weight(key: &str, value: &[u8]) -> u64 {
    let bytes = u64::try_from(key.len().saturating_add(value.len())).unwrap_or(u64::MAX);
    bytes.saturating_add(VALUE_OVERHEAD_BYTES)
}

/// Bytes of what is recorded about all processes and sockets together.
pub const RECORDED_BYTES_MAX: u64 = 15 << 20;

const _: () =
    assert!(VALUES_BYTES_MAX + RECORDED_BYTES_MAX < crate::memory::journal::LIVE_BYTES_MAX);

/// Held sockets.
pub const SOCKETS_MAX: usize = 1024;

/// Leases, living and orphaned.
pub const LEASES_MAX: usize = 256;

/// Connected sessions. Each may hold a half-read frame and unread replies, some 2.5 MiB at worst.
pub const SESSIONS_MAX: usize = 256;

/// Room for what waits to be read by one session: past the high-water mark no more of its requests
/// are read; above it there is room for the largest reply.
pub const SESSION_QUEUE_BYTES: usize =
    SESSION_HIGH_WATER_BYTES + kingpole_protocol::limits::FRAME_BODY_BYTES_MAX + (64 << 10);

/// See [`SESSION_QUEUE_BYTES`].
pub const SESSION_HIGH_WATER_BYTES: usize = 128 << 10;

/// Longest line of a text session: room for a command with a whole environment.
pub const LINE_BYTES_MAX: usize = 256 << 10;

/// Words in a line of a text session: arguments, and as many options.
pub const WORDS_MAX: usize = 2 * ARGUMENTS_MAX;

/// A batch of a text watcher is closed once it has so many bytes; its last record may go beyond. What
/// fits into a socket's buffer: each batch waits to be acknowledged, and more would have to be queued.
pub const BATCH_BYTES: u64 = 128 << 10;

/// Bytes of `/etc/passwd`, `/etc/group` and `/etc/hosts` each: past that the kernel does not look
/// names up in them.
pub const DATABASE_BYTES_MAX: u64 = 1 << 20;

/// How long after the answer to `watch` the kernel first looks whether the client has read it,
/// nanoseconds, and how long at most between looks (they become rarer by half each time).
pub const LINE_READ_FIRST_NS: u64 = 1_000_000;
/// See [`LINE_READ_FIRST_NS`].
pub const LINE_READ_MOST_NS: u64 = 1_000_000_000;

/// Lines that `tail` shows at most, and bytes that it looks through for them from the end.
pub const TAIL_LINES_MAX: usize = 10_000;
/// See [`TAIL_LINES_MAX`].
pub const TAIL_BYTES_MAX: usize = 128 << 10;

/// A page of a listing is closed once it has so many bytes (or one item).
pub const PAGE_BYTES: usize = 64 << 10;

/// Processes or sessions whose bytes are counted for one page of `stats` or `sessions`.
pub const COUNTED_PER_PAGE: usize = 256;

/// Bytes of records in one output frame. More per frame gains nothing measurable and makes others
/// wait longer.
pub const OUTPUT_SEND_BYTES: u64 = 64 << 10;

/// Less than this is sent as bytes also to who could read it in place: a few system calls of the reader cost as much as
/// copying so many bytes through its socket.
pub const MAPPED_BYTES_MIN: u64 = if cfg!(test) { 128 } else { 16 << 10 };

/// Rings that one session is passed: each is an open file of its client, and of this kernel's user while it is on
/// its way. Output of further processes is sent as bytes.
pub const RINGS_PASSED_MAX: usize = 256;

/// Followed processes that one session is served per turn of the loop.
pub const SERVED_PER_TURN_MAX: usize = 64;

/// Requests taken from one session per turn of the loop.
pub const REQUESTS_PER_TURN_MAX: usize = 64;

/// How long a drained ring keeps its memory, nanoseconds. Giving back at each drain would cost more
/// than it saves.
pub const GIVE_BACK_DELAY_NS: u64 = 2_000_000_000;

/// Most descriptors of a child: two pipes, ring, pidfd.
pub const DESCRIPTORS_PER_PROCESS: u64 = 4;

/// Descriptors that spawns leave for sessions and for the kernel's own use.
pub const DESCRIPTORS_RESERVE: u64 = SESSIONS_MAX as u64 + 64;

/// Lines of the log that may wait for a slow reader; further ones are counted and dropped.
pub const LOG_LINES_MAX: usize = 1000;

/// The kernel's own file mode mask, Papa's; children have it unless they ask for another.
pub const UMASK: u32 = 0o027;

/// How long until an unfinished spawn of another kernel is looked at again, nanoseconds: its child
/// is between two system calls.
pub const RESOLVE_DELAY_NS: u64 = 1_000_000;

/// How long until a pipe is tried again that Linux refused to read (for lack of memory, say),
/// nanoseconds; doubled with each refusal, this many times at most: then about once a second.
pub const READ_AGAIN_FIRST_NS: u64 = 1_000_000;
/// See [`READ_AGAIN_FIRST_NS`].
pub const READ_AGAIN_DOUBLINGS_MAX: u32 = 10;

/// How long a program that another one has become may take until it serves; with 1,000 children on a
/// busy machine it takes a fifth of a second. Then it is taken for hung.
pub const RESUME_PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

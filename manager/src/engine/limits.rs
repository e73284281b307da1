//! Every bound and fixed pause of the engine.

use std::time::Duration;

/// Commands that may wait behind the one a watcher is busy with. People do not queue more by
/// hand; a program that does is in a loop. They are remembered, so this also bounds the value.
pub const QUEUED_OPERATIONS_MAX: usize = 64;

/// Commands that may wait for the first connection to the kernel, in all.
pub const DEFERRED_COMMANDS_MAX: usize = 256;

/// How many processes one watcher may be asked for. Far above what one machine runs, far below
/// what could hurt the arithmetic.
pub const NUMPROCESSES_MAX: u32 = 100_000;

/// After so many failed attempts in a row a waiting command is answered as failed, while the
/// attempts go on. Circus's default of `max_retry`.
pub const OPERATION_ATTEMPTS_MAX: u32 = 5;

/// A process that survives SIGKILL is in the middle of a system call that cannot be interrupted;
/// it is tried again after this long.
pub const KILL_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A program that ends well again and again may be started this often, however small
/// `check_delay` is.
pub const CLEAN_EXIT_WAIT_MIN: Duration = Duration::from_secs(1);

/// A process that is not ready when a manager finds it has at least this long still, however late
/// it is: nobody looked while no manager was there.
pub const READY_GRACE: Duration = Duration::from_secs(5);

/// Processes of the same watcher that a look at an address can tell from the one that is looked at.
pub const SIBLINGS_MAX: usize = 64;

/// A timer that comes so late says that the manager slept, and has read nothing meanwhile.
pub const SLEPT: Duration = Duration::from_secs(1);

/// How many times `ready_timeout` a process can have if it asks for more time.
pub const EXTENSIONS_MAX: u32 = 10;

/// Characters of what a process says about itself.
pub const STATUS_CHARACTERS_MAX: usize = 200;

/// Shortest time within which a process can promise to say that it is alive.
pub const PACE_MIN: Duration = Duration::from_millis(200);

/// How long it may take to hear everything that processes have said so far.
pub const HEARD_LIMIT: Duration = Duration::from_secs(5);

/// Pause after that has failed.
pub const HEARD_PAUSE: Duration = Duration::from_secs(1);

/// Notices to hooks (`after_stop`, `after_signal` and the like) that may wait for one watcher. A
/// watcher of a hundred processes that are stopped together makes some hundred.
pub const NOTICES_WAITING_MAX: usize = 1024;
/// Memory of processes is not asked for more often than this, however small `check_delay` is.
pub const MEASURE_WAIT_MIN: Duration = Duration::from_secs(1);

/// Versions of one watcher that are remembered.
pub const VERSIONS_MAX: usize = 10;

/// Size of all remembered versions of one watcher, bytes: they are part of its value, of which the
/// kernel takes 256 KiB.
pub const VERSIONS_BYTES_MAX: usize = 96 << 10;

/// A process of which nothing says when it is ready counts as ready once it has lived so long: a
/// program that cannot start has usually said so by then.
pub const PROVEN_BY_UPTIME: Duration = Duration::from_secs(1);

/// Ends of processes that are remembered of each watcher, for people who ask why.
pub const ENDS_REMEMBERED_MAX: usize = 5;

/// Characters of a reason that are remembered with an end.
pub const REASON_CHARACTERS_MAX: usize = 300;

/// A value that the kernel refused is offered again after this long.
pub const VALUE_RETRY: Duration = Duration::from_secs(10);

/// First pause after a socket could not be made, doubled up to [`SOCKET_RETRY_MAX`].
pub const SOCKET_RETRY_MIN: Duration = Duration::from_secs(1);

/// See [`SOCKET_RETRY_MIN`].
pub const SOCKET_RETRY_MAX: Duration = Duration::from_secs(30);

/// How long leaving waits for the output of ended processes to be stored. What is not stored by
/// then stays in the kernel for the next manager.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Compiled size of a regular expression for names, bytes; far more than anybody writes by hand.
pub const REGEX_BYTES_MAX: usize = 1 << 18;

/// How many watchers may be made at run time, beside those of the file.
pub const ADDED_WATCHERS_MAX: usize = 10_000;

/// Size of all options that are changed or given at run time, of one watcher, bytes. They are
/// remembered, so this bounds the value.
pub const OPTION_BYTES_MAX: usize = 32 << 10;

/// Commands that may wait for the configuration file to be read.
pub const READS_MAX: usize = 64;

//! The checked configuration, as plain data: what the engine, the streams and the shells build on.
//!
//! Every value here has been read, defaulted and range-checked. Nothing here knows how the file
//! was written beyond the place each thing came from, and nothing here touches the system: user
//! names, programs and paths are as written.

mod resource;
mod socket;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use super::admin::AdminConfig;
pub use super::diagnostic::{Diagnostic, Location, Severity};
pub use super::flapping::{Flapping, FlappingOverrides};
pub use super::probe::{AliveConfig, Probe, ReadyConfig};
pub use super::rolling::RollingConfig;
pub use resource::{LimitValue, Resource};
pub use socket::{Blocking, IpVersion, SocketAddress, SocketConfig, SocketKind};
pub use stream::{
    FileStreamConfig, LineFormat, StreamColor, StreamConfig, TimedRotatingFileStreamConfig,
};

/// A whole configuration: the main file and everything it includes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Configuration {
    /// The main file, as it was named.
    pub path: PathBuf,
    /// Every file that was read, the main one first, then includes in the order they were read.
    pub files: Vec<String>,
    /// Section `[circus]`.
    pub global: GlobalSettings,
    /// Sections `[watcher:NAME]`, sorted by name in byte order as Circus does; equal priorities
    /// keep this order.
    pub watchers: Vec<WatcherConfig>,
    /// Sections `[socket:NAME]`, sorted by name in byte order.
    pub sockets: Vec<SocketConfig>,
    /// Sections `[plugin:NAME]`, sorted by name in byte order.
    pub plugins: Vec<PluginConfig>,
    /// Section `[plugin:NAME]` of the flapping plugin, whose work the manager does itself.
    pub flapping: Option<Flapping>,
    /// What was written but has no effect, or not the one that was probably meant.
    pub warnings: Vec<Diagnostic>,
}

impl Configuration {
    /// The watcher of that name; the case of letters does not matter.
    #[must_use]
    pub fn watcher(&self, name: &str) -> Option<&WatcherConfig> {
        self.watchers
            .iter()
            .find(|watcher| is_same_name(&watcher.name, name))
    }

    /// The socket of that name; the case of letters does not matter.
    #[must_use]
    pub fn socket(&self, name: &str) -> Option<&SocketConfig> {
        let key = name.to_lowercase();
        self.sockets.iter().find(|socket| socket.name == key)
    }
}

/// Section `[circus]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GlobalSettings {
    /// Period of housekeeping (expiry by age and the like). Exits are noticed at once regardless.
    #[serde(serialize_with = "as_seconds")]
    pub check_delay: Duration,
    /// Pause after each watcher when several are started.
    #[serde(serialize_with = "as_seconds")]
    pub warmup_delay: Duration,
    /// Umask of all children; without it the manager's own at start.
    pub umask: Option<u32>,
    /// Where the manager writes its process id.
    pub pidfile: Option<PathBuf>,
    /// Least severe level that is logged.
    pub loglevel: Option<LogLevel>,
    /// Where the manager's own log goes: `-`, `stdout`, `syslog:...` or a file. Standard error
    /// when absent.
    pub logoutput: Option<String>,
    /// Logging configuration file of Python's; never read.
    pub loggerconfig: Option<String>,
    /// ZeroMQ control endpoint, if written. Circus's default is [`DEFAULT_ENDPOINT`].
    pub endpoint: Option<String>,
    /// ZeroMQ publishing endpoint, if written. Default [`DEFAULT_PUBSUB_ENDPOINT`].
    pub pubsub_endpoint: Option<String>,
    /// ZeroMQ statistics endpoint, if written. Default [`DEFAULT_STATS_ENDPOINT`].
    pub stats_endpoint: Option<String>,
    /// UDP discovery endpoint, if written.
    pub multicast_endpoint: Option<String>,
    /// Where metrics are served beside `manager.sock` (ours).
    pub metrics_endpoint: Option<SocketAddr>,
    /// User who owns `ipc://` endpoints.
    pub endpoint_owner: Option<String>,
    /// Whether endpoints may be reached from other machines (ours).
    pub allow_remote: bool,
    /// Users who are served over ZeroMQ beside root and our own, by name or number (ours).
    pub allow_users: Vec<String>,
    /// Whether statistics are published.
    pub statsd: bool,
    /// Whether the web console is served.
    pub httpd: bool,
    /// Host of the web console.
    pub httpd_host: String,
    /// Port of the web console.
    pub httpd_port: u16,
    /// Debugging output of plugins and statistics.
    pub debug: bool,
    /// What hooks see before the host's name as `arbiter.fqdn`.
    pub fqdn_prefix: Option<String>,
    /// Where the process kernel listens: `ipc:/PATH`, `tcp://HOST:PORT` (Circus up to 0.17); checked.
    pub papa_endpoint: Option<String>,
    /// Section `[admin]` (ours).
    pub admin: Option<AdminConfig>,
    /// Keys of the section that nobody knows, as written.
    pub other: BTreeMap<String, String>,
}

/// Circus's control endpoint when none is configured.
pub const DEFAULT_ENDPOINT: &str = "tcp://127.0.0.1:5555";
/// Circus's publishing endpoint when none is configured.
pub const DEFAULT_PUBSUB_ENDPOINT: &str = "tcp://127.0.0.1:5556";
/// Circus's statistics endpoint when none is configured.
pub const DEFAULT_STATS_ENDPOINT: &str = "tcp://127.0.0.1:5557";

/// Levels of the manager's own log, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what stops the manager.
    Critical,
    /// What failed.
    Error,
    /// What is suspicious.
    Warning,
    /// What happens.
    Info,
    /// Everything.
    Debug,
}

/// A signal number (not zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SignalNumber(pub i32);

impl SignalNumber {
    /// `SIGTERM`, the stop signal unless another is configured.
    pub const TERM: Self = Self(15);
    /// `SIGHUP`, sent by reload with `send_hup`.
    pub const HUP: Self = Self(1);
    /// `SIGKILL`, sent when the graceful timeout is over.
    pub const KILL: Self = Self(9);
}

/// How often in a row a start may fail before the watcher is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RetryLimit {
    /// So many attempts.
    Attempts(u32),
    /// For ever (`max_retry = -1`); only the back-off slows it.
    Forever,
}

/// How respawns are spaced. The first respawn is immediate; each further one of a process that
/// did not live for `reset_after` waits `factor_percent` of the wait before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Backoff {
    /// Wait before the second respawn.
    #[serde(serialize_with = "as_seconds")]
    pub min: Duration,
    /// Longest wait.
    #[serde(serialize_with = "as_seconds")]
    pub max: Duration,
    /// A process that lived this long makes the next respawn immediate again.
    #[serde(serialize_with = "as_seconds")]
    pub reset_after: Duration,
    /// How much longer each wait is than the one before, in hundredths.
    #[serde(rename = "factor", serialize_with = "as_factor")]
    pub factor_percent: u32,
    /// How much each wait may be lengthened at random, in hundredths of it.
    #[serde(rename = "jitter", serialize_with = "as_factor")]
    pub jitter_percent: u32,
}

impl Backoff {
    /// Wait before a respawn after `failures` short-lived processes in a row; nothing for the
    /// first, then `min`, longer by the factor each time up to `max`.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let Some(steps) = failures.checked_sub(2) else {
            return Duration::ZERO;
        };
        let mut wait = self.min;
        if self.factor_percent <= 100 || wait.is_zero() {
            return wait.min(self.max);
        }
        for _ in 0..steps {
            // In hundredths first, so that no wait is too short for the factor to show.
            let longer = wait.checked_mul(self.factor_percent).map(|wait| wait / 100);
            match longer.filter(|longer| *longer < self.max && *longer > wait) {
                Some(longer) => wait = longer,
                None => return self.max,
            }
        }
        wait.min(self.max)
    }

    /// How much longer than `wait` it may be, so that many do not come back at once.
    #[must_use]
    pub fn jitter(&self, wait: Duration) -> Duration {
        let longer = wait.checked_mul(self.jitter_percent);
        longer.map_or(self.max, |longer| longer / 100)
    }
}

/// Section `[watcher:NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatcherConfig {
    /// Name as written, inner and outer spaces included. Look-ups use [`WatcherConfig::key`].
    pub name: String,
    /// Place of the section header.
    pub origin: Location,
    /// Places of the keys that were written, for messages about them.
    pub written_at: BTreeMap<String, Location>,
    /// Command line before variables are replaced and words are split.
    pub cmd: String,
    /// Further words, appended to the command line.
    pub args: String,
    /// Program to execute instead of the first word, which stays `argv[0]`.
    pub executable: Option<String>,
    /// Whether the command runs below `sh -c`.
    pub shell: bool,
    /// Further words for the shell: `$0`, `$1` and so on.
    pub shell_args: Option<String>,
    /// How many processes are wanted.
    pub numprocesses: u32,
    /// Pause after each spawn.
    #[serde(serialize_with = "as_seconds")]
    pub warmup_delay: Duration,
    /// Watchers of higher priority are started first.
    pub priority: i64,
    /// At most one process, whatever is asked.
    pub singleton: bool,
    /// Whether ended processes are replaced.
    pub respawn: bool,
    /// Whether it is started with the manager.
    pub autostart: bool,
    /// Started by the first connection to a socket only.
    pub on_demand: bool,
    /// How often in a row starting may fail.
    pub max_retry: RetryLimit,
    /// Spacing of respawns (ours).
    pub backoff: Backoff,
    /// Age at which a process is replaced.
    #[serde(serialize_with = "as_optional_seconds")]
    pub max_age: Option<Duration>,
    /// Random addition to `max_age`, so that processes do not all go at once.
    #[serde(serialize_with = "as_seconds")]
    pub max_age_variance: Duration,
    /// How long a stopping process has before it is killed.
    #[serde(serialize_with = "as_seconds")]
    pub graceful_timeout: Duration,
    /// Signal that asks a process to stop.
    pub stop_signal: SignalNumber,
    /// Whether stopping also signals the process's descendants.
    pub stop_children: bool,
    /// Whether reload sends SIGHUP instead of replacing processes.
    pub send_hup: bool,
    /// Working directory as written; the manager's own when absent.
    pub working_dir: Option<PathBuf>,
    /// User name or number as written.
    pub uid: Option<String>,
    /// Group name or number as written.
    pub gid: Option<String>,
    /// Environment of `[env]` and the `[env:...]` sections that match, variables replaced. With
    /// [`EnvironmentBase::Manager`] it is laid over the manager's own.
    #[serde(serialize_with = "names_only")]
    pub environment: BTreeMap<String, String>,
    /// What lies below `environment`.
    pub environment_base: EnvironmentBase,
    /// Whether PYTHONPATH of the manager is handed on.
    pub copy_path: bool,
    /// Python virtual environment whose programs and packages come first.
    pub virtualenv: Option<PathBuf>,
    /// Python version of the virtual environment, such as `3.11`.
    pub virtualenv_py_ver: Option<String>,
    /// Resource limits, soft and hard alike.
    pub rlimits: BTreeMap<Resource, LimitValue>,
    /// Whether processes inherit the managed sockets.
    pub use_sockets: bool,
    /// Socket (lower-cased name) that becomes the processes' standard input.
    pub stdin_socket: Option<String>,
    /// Whether standard input is `/dev/null`.
    pub close_child_stdin: bool,
    /// Whether standard output is discarded.
    pub close_child_stdout: bool,
    /// Whether standard error is discarded.
    pub close_child_stderr: bool,
    /// Where standard output goes.
    pub stdout_stream: StreamConfig,
    /// Where standard error goes.
    pub stderr_stream: StreamConfig,
    /// Kernel buffer for unread output of one process (ours).
    pub buffer_bytes: u64,
    /// What happens when that buffer is full (ours).
    pub buffer_full: BufferFull,
    /// Whether processes outlive `quit`, as those held by Papa did.
    pub use_papa: bool,
    /// Hooks by name.
    pub hooks: BTreeMap<String, HookConfig>,
    /// How long each call of a hook may take (ours).
    #[serde(serialize_with = "as_seconds")]
    pub hook_timeout: Duration,
    /// Exit statuses that are no failure (ours); a process that ends so is replaced at once.
    pub success_exit_codes: BTreeSet<u8>,
    /// Resident memory at which a process is replaced, bytes (ours).
    pub max_rss: Option<u64>,
    /// When a process counts as ready (ours).
    pub ready: ReadyConfig,
    /// When a process that does not answer any more is replaced (ours).
    pub alive: AliveConfig,
    /// How often a process has to say that it is alive, by systemd's protocol (ours).
    #[serde(serialize_with = "as_optional_seconds")]
    pub watchdog: Option<Duration>,
    /// How its processes are replaced while enough are ready (ours).
    pub rolling: RollingConfig,
    /// Watchers (as written) that have to be up before this one is started (ours).
    pub depends_on: Vec<String>,
    /// Whether the manager ends with it (ours).
    pub essential: bool,
    /// File of environment variables (ours); they are in `environment` already.
    pub env_file: Option<PathBuf>,
    /// What differs from the settings of the flapping plugin.
    pub flapping: FlappingOverrides,
    /// Keys that only plugins or nobody knows, as written.
    pub other: BTreeMap<String, String>,
    /// Every key that was written, with variables replaced: what changes at run time are laid
    /// over. Variables may bring in secrets, so it is never shown.
    #[serde(skip)]
    pub options: BTreeMap<String, String>,
}

impl WatcherConfig {
    /// The name under which it is looked up.
    #[must_use]
    pub fn key(&self) -> String {
        self.name.to_lowercase()
    }

    /// How often its processes are told to say that they are alive, microseconds.
    #[must_use]
    pub fn watchdog_us(&self) -> Option<u64> {
        let pause = self.watchdog?;
        Some(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX))
    }

    /// Whether its processes are told where to say how they are, by systemd's protocol.
    #[must_use]
    pub fn hears_its_processes(&self) -> bool {
        self.ready.probe == Some(Probe::Notify) || self.watchdog.is_some()
    }

    /// Where the option is written in the file; limits are found in any case of letters.
    #[must_use]
    pub fn place_of(&self, option: &str) -> Option<&Location> {
        let mut written = self.written_at.iter();
        let (_, place) = written.find(|(key, _)| key.eq_ignore_ascii_case(option))?;
        Some(place)
    }

    /// Name of its process `worker_id` in the kernel, as Circus named it in Papa.
    #[must_use]
    pub fn kernel_process_name(&self, worker_id: u32) -> String {
        format!("{}{}.{worker_id}", super::KERNEL_NAME_PREFIX, self.key())
    }
}

/// What lies below a watcher's own environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvironmentBase {
    /// Nothing: children see only what the file says.
    Empty,
    /// The manager's environment (`copy_env`).
    Manager,
}

/// What happens when a process writes more than its buffer in the kernel holds and nobody takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BufferFull {
    /// The oldest output goes, and its place says how much.
    Drop,
    /// The process waits in its next write, as behind any pipe.
    Wait,
}

/// A hook as written: `dotted.path[, ignore failures]`. It is the same wherever it is written.
#[derive(Clone, Debug, Serialize)]
pub struct HookConfig {
    /// What to call.
    pub target: String,
    /// Whether its failures count as success.
    pub ignore_failure: bool,
    /// Place of the key.
    pub origin: Location,
}

impl PartialEq for HookConfig {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            target,
            ignore_failure,
            origin: _,
        } = self;
        (target, ignore_failure) == (&other.target, &other.ignore_failure)
    }
}

/// What a hook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookTarget {
    /// A function in a module, called by the Python host.
    Python {
        /// Its module.
        module: String,
        /// Its name in there, which may have dots.
        function: String,
    },
    /// A program and its arguments.
    Command(Vec<String>),
}

/// Section `[plugin:NAME]`. Those of somebody's own are among the watchers too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginConfig {
    /// Name behind the colon, as written.
    pub name: String,
    /// Place of the section header.
    pub origin: Location,
    /// Class to run.
    pub class: Option<String>,
    /// Watchers start in the order of priorities; plugins have 1 unless it is written.
    pub priority: i64,
    /// All other keys, as written.
    pub options: BTreeMap<String, String>,
}

/// Whether two names are the same but for the case of letters. Large configurations look names up
/// often, so the common case does without a copy.
fn is_same_name(one: &str, other: &str) -> bool {
    if one.is_ascii() && other.is_ascii() {
        one.eq_ignore_ascii_case(other)
    } else {
        one.to_lowercase() == other.to_lowercase()
    }
}

pub(super) fn as_seconds<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn as_factor<S: Serializer>(percent: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(f64::from(*percent) / 100.0)
}

fn as_optional_seconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(serializer)
}

/// Values of environments may be secret and are never shown.
fn names_only<S: Serializer>(
    environment: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(environment.keys())
}

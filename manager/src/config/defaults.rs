//! What holds when a key is not written. The numbers are Circus's, except those marked as ours.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::model::{
    AliveConfig, Backoff, BufferFull, EnvironmentBase, FlappingOverrides, GlobalSettings,
    IpVersion, Location, ReadyConfig, RetryLimit, RollingConfig, SignalNumber, SocketAddress,
    SocketConfig, SocketKind, StreamConfig, WatcherConfig,
};

/// Default of `buffer_bytes` (ours): the 2 MB that Papa's manual promised.
pub const BUFFER_BYTES: u64 = 2 * 1024 * 1024;

/// Default spacing of respawns (ours): at once, then 0.1 s doubling up to half a minute.
pub const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    reset_after: Duration::from_secs(10),
    factor_percent: 200,
    jitter_percent: 10,
};

/// Default of `hook_timeout` (ours). Hooks of existing configurations wait up to a minute for
/// something, so it has to be longer.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(90);

/// Default of `ready` and the times around it (ours): a process that runs is ready.
pub const READY: ReadyConfig = ReadyConfig {
    probe: None,
    timeout: Duration::from_secs(60),
    interval: Duration::from_secs(1),
    probe_limit: Duration::from_secs(5),
};

/// Default of `alive` and the times around it (ours): nobody looks.
pub const ALIVE: AliveConfig = AliveConfig {
    probe: None,
    interval: Duration::from_secs(10),
    grace: Duration::from_secs(10),
    failures: 3,
    probe_limit: Duration::from_secs(5),
};

/// Default socket backlog.
pub const BACKLOG: u32 = 2048;

/// Default umask of unix sockets: Circus's decimal 8.
pub const SOCKET_UMASK: u32 = 8;

/// Default time format of FancyStdoutStream.
pub const FANCY_TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// Where SyslogStream sends (syslog(3)).
pub const SYSLOG_SOCKET: &str = "/dev/log";

/// Facility `daemon`.
pub const SYSLOG_FACILITY: u8 = 3;

/// Where JournalStream sends (systemd-journald.service(8)).
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

impl Default for GlobalSettings {
    fn default() -> Self {
        Self {
            check_delay: Duration::from_secs(5),
            warmup_delay: Duration::ZERO,
            umask: None,
            pidfile: None,
            loglevel: None,
            logoutput: None,
            loggerconfig: None,
            endpoint: None,
            pubsub_endpoint: None,
            stats_endpoint: None,
            multicast_endpoint: None,
            metrics_endpoint: None,
            endpoint_owner: None,
            allow_remote: false,
            allow_users: Vec::new(),
            statsd: false,
            httpd: false,
            httpd_host: "localhost".to_owned(),
            httpd_port: 8080,
            debug: false,
            fqdn_prefix: None,
            papa_endpoint: None,
            admin: None,
            other: BTreeMap::new(),
        }
    }
}

impl WatcherConfig {
    /// A watcher of which only the name is written.
    #[must_use]
    pub fn with_defaults(name: &str, origin: Location) -> Self {
        Self {
            name: name.to_owned(),
            origin,
            written_at: BTreeMap::new(),
            cmd: String::new(),
            args: String::new(),
            executable: None,
            shell: false,
            shell_args: None,
            numprocesses: 1,
            warmup_delay: Duration::ZERO,
            priority: 0,
            singleton: false,
            respawn: true,
            autostart: true,
            on_demand: false,
            max_retry: RetryLimit::Attempts(5),
            backoff: BACKOFF,
            max_age: None,
            max_age_variance: Duration::from_secs(30),
            graceful_timeout: Duration::from_secs(30),
            stop_signal: SignalNumber::TERM,
            stop_children: false,
            send_hup: false,
            working_dir: None,
            uid: None,
            gid: None,
            environment: BTreeMap::new(),
            environment_base: EnvironmentBase::Empty,
            copy_path: false,
            virtualenv: None,
            virtualenv_py_ver: None,
            rlimits: BTreeMap::new(),
            use_sockets: false,
            stdin_socket: None,
            close_child_stdin: true,
            close_child_stdout: false,
            close_child_stderr: false,
            stdout_stream: StreamConfig::Unconfigured,
            stderr_stream: StreamConfig::Unconfigured,
            buffer_bytes: BUFFER_BYTES,
            buffer_full: BufferFull::Drop,
            use_papa: false,
            hooks: BTreeMap::new(),
            hook_timeout: HOOK_TIMEOUT,
            other: BTreeMap::new(),
            success_exit_codes: BTreeSet::new(),
            max_rss: None,
            ready: READY,
            alive: ALIVE,
            watchdog: None,
            rolling: RollingConfig::default(),
            depends_on: Vec::new(),
            essential: false,
            env_file: None,
            flapping: FlappingOverrides::default(),
            options: BTreeMap::new(),
        }
    }
}

impl SocketConfig {
    /// A socket of which only the name is written.
    #[must_use]
    pub fn with_defaults(name: &str, origin: Location) -> Self {
        Self {
            name: name.to_lowercase(),
            origin,
            address: SocketAddress::Inet {
                host: "localhost".to_owned(),
                port: 8080,
                version: IpVersion::V4,
            },
            kind: SocketKind::Stream,
            proto: None,
            backlog: BACKLOG,
            interface: None,
            so_reuseport: false,
            blocking: None,
            use_papa: false,
            other: BTreeMap::new(),
        }
    }
}

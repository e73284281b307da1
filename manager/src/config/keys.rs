//! Every key of every section: its type, default and meaning, and how far it has an effect.
//!
//! The one table that the reader, the "did you mean" and the reference in
//! `docs/configuration.md` share. Knows nothing of values.

/// How far a key has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As Circus did it.
    Full,
    /// A key that Circus does not have.
    Ours,
    /// Read and kept; what holds instead, for the warning.
    NotYet(&'static str),
    /// Read for the sake of old files, and never anything else; why.
    Ignored(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key, or the part before a `*`.
    pub name: &'static str,
    /// Type of its value, for people.
    pub kind: &'static str,
    /// Default, for people; empty for none.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// How far it has an effect.
    pub support: Support,
}

impl Key {
    /// Whether it stands for `written`.
    #[must_use]
    pub fn is(&self, written: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => written.len() > prefix.len() && written.starts_with(prefix),
            None => self.name == written,
        }
    }
}

/// The key that stands for `written` in a table.
#[must_use]
pub fn find(table: &'static [Key], written: &str) -> Option<&'static Key> {
    table.iter().find(|key| key.is(written))
}

const fn key(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        meaning,
        support: Support::Full,
    }
}

const fn ours(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        support: Support::Ours,
        ..key(name, kind, default, meaning)
    }
}

const fn not_yet(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
    instead: &'static str,
) -> Key {
    Key {
        support: Support::NotYet(instead),
        ..key(name, kind, default, meaning)
    }
}

const fn ignored(name: &'static str, kind: &'static str, why: &'static str) -> Key {
    Key {
        support: Support::Ignored(why),
        ..key(name, kind, "", why)
    }
}

const NO_CONSOLE: &str = "there is no web console";

/// Section `[circus]`.
pub const CIRCUS: &[Key] = &[
    key(
        "check_delay",
        "seconds (float)",
        "5.0",
        "period of housekeeping, such as expiry by age",
    ),
    key(
        "warmup_delay",
        "seconds (int)",
        "0",
        "pause after each watcher when several are started",
    ),
    key(
        "umask",
        "octal",
        "the manager's",
        "file mode mask of all children",
    ),
    key(
        "include",
        "file names, patterns",
        "",
        "further files, relative to the main file; what comes first wins, so the main file does",
    ),
    key(
        "include_dir",
        "directories",
        "",
        "directories whose `*.ini` are included after `include`",
    ),
    key(
        "pidfile",
        "path",
        "",
        "where the manager writes its process id",
    ),
    key(
        "loglevel",
        "critical error warning info debug",
        "info",
        "least severe level that is logged",
    ),
    key(
        "logoutput",
        "`-`, path or `syslog:...`",
        "standard error",
        "where the manager's log goes; `syslog://HOST[:PORT]?FACILITY`, `syslog:///PATH?FACILITY`",
    ),
    ignored(
        "loggerconfig",
        "path",
        "a logging configuration of Python's, which nothing here reads",
    ),
    key(
        "endpoint",
        "`tcp:`, `ipc:` or `off`",
        "tcp://127.0.0.1:5555",
        "control endpoint",
    ),
    key(
        "pubsub_endpoint",
        "`tcp:`, `ipc:` or `off`",
        "tcp://127.0.0.1:5556",
        "endpoint of events",
    ),
    key(
        "stats_endpoint",
        "`tcp:`, `ipc:` or `off`",
        "tcp://127.0.0.1:5557",
        "endpoint of statistics; writing it switches them on",
    ),
    key(
        "multicast_endpoint",
        "`udp:`",
        "",
        "answers clients that look for a manager",
    ),
    key("endpoint_owner", "user", "", "owner of `ipc:` endpoints"),
    ours(
        "metrics_endpoint",
        "`127.0.0.1:PORT`",
        "",
        "a loopback port with `/metrics` for scrapers; serves those who may use the `tcp:` endpoints",
    ),
    ours(
        "allow_users",
        "user names or numbers",
        "",
        "who may use the `tcp:` endpoints beside root and the manager's own user",
    ),
    ours(
        "allow_remote",
        "bool",
        "false",
        "serves endpoints that other machines can reach; anybody who can may then run programs",
    ),
    key("statsd", "bool", "false", "publishes statistics"),
    not_yet(
        "httpd",
        "bool",
        "false",
        "serves the web console",
        NO_CONSOLE,
    ),
    not_yet(
        "httpd_host",
        "host",
        "localhost",
        "where the web console listens",
        NO_CONSOLE,
    ),
    not_yet(
        "httpd_port",
        "port",
        "8080",
        "where the web console listens",
        NO_CONSOLE,
    ),
    key(
        "debug",
        "bool",
        "false",
        "debug output of plugins and statistics",
    ),
    ignored("debug_gc", "bool", "a debugging aid for Python's memory"),
    key(
        "fqdn_prefix",
        "text",
        "",
        "stands with an `@` before the host's name in what hooks see as `arbiter.fqdn`, as in Circus",
    ),
    key(
        "papa_endpoint",
        "`ipc:/PATH`, `tcp://127.0.0.1:PORT`",
        "",
        "where the process kernel talks as Papa did: `kingpole run` starts it so; one that does not listen there gives a warning",
    ),
    ignored("stream_backend", "text", "Circus has ignored it since 2015"),
    ignored(
        "ssh_server",
        "text",
        "it belongs on the command line of Circus's clients",
    ),
];

/// Section `[admin]`.
pub const ADMIN: &[Key] = &[
    ours(
        "endpoint",
        "`127.0.0.1:PORT`",
        "required",
        "a loopback port; serves those who may use the `tcp:` endpoints",
    ),
    ours(
        "watchers",
        "names or patterns with commas between",
        "all",
        "what a request without `name` means",
    ),
];

/// Section `[watcher:NAME]`, without the options of streams.
pub const WATCHER: &[Key] = &[
    key(
        "cmd",
        "command line",
        "required",
        "what to run; words are split as a shell would",
    ),
    key("args", "words", "", "appended to `cmd`"),
    key(
        "executable",
        "path",
        "",
        "program to execute instead of the first word of `cmd`",
    ),
    key("numprocesses", "int", "1", "how many processes are wanted"),
    key(
        "warmup_delay",
        "seconds (int)",
        "0",
        "pause after each spawn",
    ),
    key("working_dir", "path", "the manager's", "working directory"),
    key(
        "shell",
        "bool",
        "false",
        "runs the words, quoted one by one, below `sh -c`",
    ),
    key("shell_args", "words", "", "`$0`, `$1` ... of that shell"),
    key(
        "uid",
        "user name or number",
        "the kernel's",
        "user to run as",
    ),
    key(
        "gid",
        "group name or number",
        "the user's primary",
        "group to run as",
    ),
    key(
        "copy_env",
        "bool",
        "false",
        "lays the environment over the manager's own",
    ),
    key(
        "copy_path",
        "bool",
        "false",
        "hands on the manager's PYTHONPATH; needs `copy_env`",
    ),
    key(
        "virtualenv",
        "path",
        "",
        "its `bin` goes first in PATH, its packages first in PYTHONPATH; needs `copy_env`",
    ),
    key(
        "virtualenv_py_ver",
        "version",
        "",
        "such as 3.11: which packages of the virtualenv",
    ),
    ignored(
        "env",
        "",
        "has never had an effect: write a section [env:NAME]",
    ),
    key(
        "send_hup",
        "bool",
        "false",
        "reload sends SIGHUP instead of replacing processes",
    ),
    key(
        "stop_signal",
        "signal",
        "TERM",
        "asks a process to stop; `TERM`, `sigterm`, `15`, `rtmin+1`",
    ),
    key(
        "stop_children",
        "bool",
        "false",
        "stopping also signals all descendants",
    ),
    key(
        "graceful_timeout",
        "seconds (float)",
        "30",
        "time to stop before SIGKILL",
    ),
    key(
        "max_retry",
        "int",
        "5",
        "failed starts in a row before giving up; -1 for never",
    ),
    key(
        "priority",
        "int",
        "0",
        "higher ones start first and stop last",
    ),
    key("singleton", "bool", "false", "never more than one process"),
    key(
        "use_sockets",
        "bool",
        "false",
        "hands on all managed sockets",
    ),
    key(
        "on_demand",
        "bool",
        "false",
        "started by the first connection",
    ),
    key(
        "max_age",
        "seconds (int)",
        "0",
        "age at which a process is replaced; 0 for never",
    ),
    key(
        "max_age_variance",
        "seconds (int)",
        "30",
        "random addition to `max_age`",
    ),
    key("respawn", "bool", "true", "replaces processes that end"),
    key("autostart", "bool", "true", "started with the manager"),
    key(
        "stdin_socket",
        "socket name",
        "",
        "socket that is the processes' standard input",
    ),
    key(
        "close_child_stdin",
        "bool",
        "true",
        "standard input is `/dev/null` (it always is)",
    ),
    key(
        "close_child_stdout",
        "bool",
        "false",
        "discards standard output",
    ),
    key(
        "close_child_stderr",
        "bool",
        "false",
        "discards standard error",
    ),
    key(
        "rlimit_*",
        "int, `unlimited`",
        "the kernel's",
        "resource limit, soft and hard",
    ),
    key(
        "hooks.*",
        "`dotted.path[, bool]` or `/command[, bool]`",
        "",
        "called at a step of the life cycle, see [hooks](hooks.md); true: failures are ignored",
    ),
    ours(
        "hook_timeout",
        "seconds (float)",
        "90",
        "how long each call of a hook may take",
    ),
    key(
        "use_papa",
        "bool",
        "false",
        "`quit` leaves its processes running",
    ),
    ignored("check_flapping", "bool", "Circus ignores it as well"),
    key(
        "flapping.*",
        "as the plugin's",
        "the plugin's",
        "settings of the flapping plugin for this watcher",
    ),
    ours(
        "success_exit_codes",
        "numbers",
        "",
        "exit statuses that are no failure and no flapping",
    ),
    ours(
        "max_rss",
        "size (`200M`)",
        "",
        "resident memory at which a process is replaced; looked at every `check_delay`",
    ),
    ours(
        "ready",
        "`uptime SECONDS`, `notify`, `tcp HOST:PORT`, `http URL`, `exec COMMAND`, `log REGEX`",
        "once it runs",
        "when a process counts as ready, see [readiness](readiness.md)",
    ),
    ours(
        "ready_timeout",
        "seconds (float)",
        "60",
        "a process that is not ready by then has failed to start and is replaced",
    ),
    ours(
        "ready_interval",
        "seconds (float)",
        "1",
        "pause between two looks whether a process is ready",
    ),
    ours(
        "alive",
        "`tcp HOST:PORT`, `http URL`, `exec COMMAND`",
        "",
        "what a process that is ready has to answer; one that does not is replaced",
    ),
    ours(
        "alive_interval",
        "seconds (float)",
        "10",
        "pause between two looks whether it still answers",
    ),
    ours(
        "alive_timeout",
        "seconds (float)",
        "5",
        "how long each of these looks may take",
    ),
    ours(
        "alive_failures",
        "int",
        "3",
        "how many of them have to fail in a row",
    ),
    ours(
        "alive_grace",
        "seconds (float)",
        "`alive_interval`",
        "pause before the first of them",
    ),
    ours(
        "watchdog",
        "seconds (float)",
        "0",
        "a process that does not send `WATCHDOG=1` so often is replaced; 0 for never",
    ),
    ours(
        "rolling",
        "bool",
        "false",
        "`reload`, `set` and `reloadconfig` replace processes as `kingpole reload --rolling` does: never too few are ready, and one that does not become ready ends it",
    ),
    ours(
        "rolling_min_active",
        "int",
        "all, or all but one",
        "rolling runs: never fewer than so many ready processes",
    ),
    ours(
        "rolling_max_surge",
        "int",
        "a quarter, at least 1",
        "rolling runs: so many extra processes at most",
    ),
    ours(
        "rolling_skew",
        "seconds (float)",
        "0",
        "rolling runs: pause between two stops of old processes",
    ),
    ours(
        "rolling_timeout",
        "seconds (float)",
        "`ready_timeout`",
        "rolling runs: a new process that is not ready by then ends the run",
    ),
    ours(
        "depends_on",
        "watcher names with commas between",
        "",
        "started when these are up and ready, stopped before them",
    ),
    ours(
        "essential",
        "bool",
        "false",
        "when it ends for good, the manager stops everything and exits with its status",
    ),
    ours(
        "env_file",
        "path",
        "",
        "file of `NAME=VALUE` lines, over `[env:...]`; with `-` before it, it may be missing",
    ),
    ignored("retry_in", "text", "replaced by the back-off settings"),
    ours(
        "backoff_min",
        "seconds (float)",
        "0.1",
        "wait before the second respawn in a row",
    ),
    ours(
        "backoff_factor",
        "number",
        "2",
        "how many times longer each further wait is",
    ),
    ours(
        "backoff_jitter",
        "number",
        "0.1",
        "largest random addition to a wait, as a part of it",
    ),
    ours(
        "backoff_max",
        "seconds (float)",
        "30",
        "longest wait between respawns",
    ),
    ours(
        "backoff_reset",
        "seconds (float)",
        "10",
        "a process that lived this long was healthy",
    ),
    ours(
        "buffer_bytes",
        "int",
        "2097152",
        "unread output the kernel keeps of one process",
    ),
    ours(
        "buffer_full",
        "drop wait",
        "drop",
        "what happens beyond that while nobody takes it: the oldest output goes, or the process waits",
    ),
];

/// Options behind `stdout_stream.` and `stderr_stream.`.
pub const STREAM: &[Key] = &[
    key(
        "class",
        "name",
        "FileStream",
        "kind of stream; without it, `filename` is needed",
    ),
    key("filename", "path", "", "file to append to"),
    key(
        "max_bytes",
        "int",
        "0",
        "size at which the file is rotated; 0 for never",
    ),
    key(
        "backup_count",
        "int",
        "0",
        "how many rotated files are kept",
    ),
    key(
        "time_format",
        "strftime",
        "",
        "puts time and process id before each line",
    ),
    key(
        "rotate_when",
        "S M H D MIDNIGHT W0..W6",
        "required",
        "unit of TimedRotatingFileStream",
    ),
    key("rotate_interval", "int", "1", "how many units"),
    key("utc", "text", "", "any text: times of rotation in UTC"),
    key(
        "color",
        "name",
        "by the watcher's name",
        "colour of FancyStdoutStream: red green yellow blue magenta cyan white",
    ),
    ours(
        "format",
        "raw json",
        "raw",
        "json: an object for each line, with time, name, pid and stream",
    ),
    ours(
        "truncate",
        "bool",
        "false",
        "empties a full file that has no `backup_count`, instead of letting it grow",
    ),
    ours(
        "command",
        "command line",
        "required",
        "program of CommandStream; it reads lines from its standard input",
    ),
    ours(
        "address",
        "path",
        "/dev/log, /run/systemd/journal/socket",
        "datagram socket of SyslogStream and JournalStream",
    ),
    ours(
        "facility",
        "name or number",
        "daemon",
        "facility of SyslogStream: user, daemon, local0 and so on",
    ),
    ours(
        "ident",
        "text",
        "the watcher's name",
        "sender of messages to the system's log or the journal",
    ),
    ignored("refresh_time", "text", "Circus has deprecated it"),
];

/// Section `[socket:NAME]`.
pub const SOCKET: &[Key] = &[
    key("host", "name or address", "localhost", "where to listen"),
    key("port", "int", "8080", "0 for one that the system chooses"),
    key(
        "path",
        "path",
        "",
        "makes it a unix socket; host and port are ignored",
    ),
    key(
        "family",
        "AF_INET AF_INET6 AF_UNIX",
        "AF_INET",
        "kind of address",
    ),
    key(
        "type",
        "SOCK_STREAM SOCK_DGRAM SOCK_SEQPACKET",
        "SOCK_STREAM",
        "kind of socket",
    ),
    key(
        "proto",
        "tcp udp ip",
        "that of `type`",
        "protocol; each type has one, and no other can be written",
    ),
    key(
        "backlog",
        "int",
        "2048",
        "length of the queue of connections",
    ),
    key(
        "umask",
        "decimal",
        "8",
        "mask of the unix socket's mode; decimal, as in Circus",
    ),
    key(
        "replace",
        "bool",
        "false",
        "an existing socket file; it is replaced in any case",
    ),
    key("interface", "name", "", "network interface"),
    key(
        "so_reuseport",
        "bool",
        "false",
        "a fresh socket for each process",
    ),
    key(
        "blocking",
        "bool",
        "true",
        "whether processes wait in `accept`; false: the socket is non-blocking for all who have it",
    ),
    key(
        "use_papa",
        "bool",
        "false",
        "every socket is held by the process kernel anyway",
    ),
];

/// Section `[plugin:NAME]`; all other keys are the plugin's own.
pub const PLUGIN: &[Key] = &[
    key("use", "class", "required", "what to run"),
    key("priority", "int", "1", "as for watchers"),
];

/// The options of all streams that mean something for a class.
pub const STREAM_CLASSES: &[(&str, &[&str], Support)] = &[
    (
        "FileStream",
        &[
            "filename",
            "max_bytes",
            "backup_count",
            "truncate",
            "time_format",
            "format",
        ],
        Support::Full,
    ),
    (
        "WatchedFileStream",
        &["filename", "time_format", "format"],
        Support::Full,
    ),
    (
        "TimedRotatingFileStream",
        &[
            "filename",
            "backup_count",
            "time_format",
            "rotate_when",
            "rotate_interval",
            "utc",
            "format",
        ],
        Support::Full,
    ),
    ("StdoutStream", &["format"], Support::Full),
    (
        "FancyStdoutStream",
        &["color", "time_format"],
        Support::Full,
    ),
    (
        "CommandStream",
        &["command", "time_format", "format"],
        Support::Ours,
    ),
    (
        "SyslogStream",
        &["address", "facility", "ident"],
        Support::Ours,
    ),
    ("JournalStream", &["address", "ident"], Support::Ours),
];

#[cfg(test)]
mod tests;

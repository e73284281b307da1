//! What holds for the whole manager: `[circus]` and `[admin]`.

use super::{Key, ignored, key, not_yet, ours};

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

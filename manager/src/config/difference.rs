//! What changed between two configurations, and what that asks for.
//!
//! Places in files and the order of sections are no differences. What has changed in the
//! environment of the manager itself is none either, unless a value refers to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::command_line;
use super::model::{Configuration, GlobalSettings, SocketConfig, WatcherConfig};

/// The plan that leads from one configuration to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Keys of `[circus]` that changed.
    pub global: Vec<String>,
    /// Sockets by name.
    pub sockets: BTreeMap<String, SocketChange>,
    /// Watchers by lower-cased name.
    pub watchers: BTreeMap<String, WatcherChange>,
}

/// What becomes of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketChange {
    /// It stays as it is.
    Unchanged,
    /// It is closed and bound anew.
    Rebind,
    /// It is bound.
    Added,
    /// It is closed.
    Removed,
}

/// What becomes of a watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum WatcherChange {
    /// It stays as it is.
    Unchanged,
    /// Only the number of processes is another.
    Count {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// Settings that take effect without touching the processes that run.
    Settings {
        /// Which keys.
        keys: Vec<String>,
    },
    /// Processes that run would have been started differently and must be replaced.
    Restart {
        /// Which keys.
        keys: Vec<String>,
    },
    /// It is created, and started if `autostart`.
    Added,
    /// It is stopped and forgotten.
    Removed,
}

impl Difference {
    /// Whether nothing at all changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.global.is_empty()
            && self
                .sockets
                .values()
                .all(|change| *change == SocketChange::Unchanged)
            && self
                .watchers
                .values()
                .all(|change| *change == WatcherChange::Unchanged)
    }
}

/// Keys of `[circus]` that are applied while the manager runs.
const AT_ONCE: [&str; 12] = [
    "check_delay",
    "warmup_delay",
    "umask",
    "endpoint",
    "pubsub_endpoint",
    "stats_endpoint",
    "multicast_endpoint",
    "endpoint_owner",
    "allow_remote",
    "allow_users",
    "statsd",
    "fqdn_prefix",
];

/// One line for each thing that changes.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        let (at_once, later): (Vec<&str>, Vec<&str>) = self
            .global
            .iter()
            .map(String::as_str)
            .partition(|key| AT_ONCE.contains(key));
        if !at_once.is_empty() {
            writeln!(f, "[circus]: {} changed", at_once.join(", "))?;
        }
        if !later.is_empty() {
            let keys = later.join(", ");
            writeln!(
                f,
                "[circus]: {keys} changed, which takes effect when the manager is started or upgraded"
            )?;
        }
        for (name, change) in &self.sockets {
            let text = match change {
                SocketChange::Unchanged => continue,
                SocketChange::Rebind => "closed and bound anew",
                SocketChange::Added => "bound",
                SocketChange::Removed => "closed",
            };
            writeln!(f, "socket {name:?}: {text}")?;
        }
        for (name, change) in &self.watchers {
            write!(
                f,
                "{}",
                match change {
                    WatcherChange::Unchanged => String::new(),
                    WatcherChange::Count { from, to } => {
                        format!("watcher {name:?}: {to} processes instead of {from}\n")
                    }
                    WatcherChange::Settings { keys } => {
                        format!("watcher {name:?}: settings change: {}\n", keys.join(", "))
                    }
                    WatcherChange::Restart { keys } => {
                        format!(
                            "watcher {name:?}: restarted because of {}\n",
                            keys.join(", ")
                        )
                    }
                    WatcherChange::Added => format!("watcher {name:?}: added\n"),
                    WatcherChange::Removed => format!("watcher {name:?}: stopped and removed\n"),
                }
            )?;
        }
        Ok(())
    }
}

/// Compares two configurations.
#[must_use]
pub fn difference(old: &Configuration, new: &Configuration) -> Difference {
    let sockets = sockets(old, new);
    let mut watchers = BTreeMap::new();
    let before: BTreeMap<_, _> = old.watchers.iter().map(|w| (w.key(), w)).collect();
    watchers.extend(
        before
            .keys()
            .map(|key| (key.clone(), WatcherChange::Removed)),
    );
    for watcher in &new.watchers {
        let key = watcher.key();
        let change = match before.get(&key) {
            None => WatcherChange::Added,
            Some(before) => watcher_change(before, watcher, &sockets),
        };
        watchers.insert(key, change);
    }
    Difference {
        global: global(&old.global, &new.global),
        sockets,
        watchers,
    }
}

fn sockets(old: &Configuration, new: &Configuration) -> BTreeMap<String, SocketChange> {
    let removed = old
        .sockets
        .iter()
        .map(|s| (s.name.clone(), SocketChange::Removed));
    let mut changes: BTreeMap<_, _> = removed.collect();
    for socket in &new.sockets {
        let change = match old.socket(&socket.name) {
            None => SocketChange::Added,
            Some(before) if is_same_socket(before, socket) => SocketChange::Unchanged,
            Some(_) => SocketChange::Rebind,
        };
        changes.insert(socket.name.clone(), change);
    }
    changes
}

fn is_same_socket(old: &SocketConfig, new: &SocketConfig) -> bool {
    // Every socket is held by the kernel, so the wish to have it there changes nothing, and
    // neither does what nobody knows.
    let comparable = |socket: &SocketConfig| SocketConfig {
        origin: new.origin.clone(),
        use_papa: false,
        other: BTreeMap::new(),
        ..socket.clone()
    };
    comparable(old) == comparable(new)
}

fn watcher_change(
    old: &WatcherConfig,
    new: &WatcherConfig,
    sockets: &BTreeMap<String, SocketChange>,
) -> WatcherChange {
    let Changed { process, settings } = changed(old, new);
    let mut process: Vec<String> = process.into_iter().map(str::to_owned).collect();
    for name in used_sockets(new, sockets) {
        if sockets
            .get(&name)
            .is_some_and(|change| *change != SocketChange::Unchanged)
        {
            process.push(format!("socket {name}"));
        }
    }
    if !process.is_empty() {
        let keys = process
            .into_iter()
            .chain(settings.into_iter().map(str::to_owned))
            .collect();
        return WatcherChange::Restart { keys };
    }
    match settings.as_slice() {
        [] => WatcherChange::Unchanged,
        ["numprocesses"] => WatcherChange::Count {
            from: old.numprocesses,
            to: new.numprocesses,
        },
        keys => WatcherChange::Settings {
            keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        },
    }
}

/// Names of the sockets that a watcher's processes are given.
fn used_sockets(
    watcher: &WatcherConfig,
    sockets: &BTreeMap<String, SocketChange>,
) -> BTreeSet<String> {
    let mut used: BTreeSet<String> = command_line::sockets_in_command(watcher)
        .into_iter()
        .collect();
    if watcher.use_sockets && used.is_empty() {
        used.extend(sockets.keys().cloned());
    }
    used.extend(watcher.stdin_socket.clone());
    used
}

/// Keys that differ.
#[derive(Default)]
struct Changed {
    /// A process would be started differently.
    process: Vec<&'static str>,
    /// Only the manager behaves differently.
    settings: Vec<&'static str>,
}

fn changed(old: &WatcherConfig, new: &WatcherConfig) -> Changed {
    // Taken apart, so that a new field cannot be forgotten here.
    let WatcherConfig {
        name,
        origin: _,
        written_at: _,
        cmd,
        args,
        executable,
        shell,
        shell_args,
        numprocesses,
        warmup_delay,
        priority,
        singleton,
        respawn,
        autostart,
        on_demand,
        max_retry,
        backoff,
        max_age,
        max_age_variance,
        graceful_timeout,
        stop_signal,
        stop_children,
        send_hup,
        working_dir,
        uid,
        gid,
        environment,
        environment_base,
        copy_path,
        virtualenv,
        virtualenv_py_ver,
        rlimits,
        use_sockets,
        stdin_socket,
        close_child_stdin,
        close_child_stdout,
        close_child_stderr,
        stdout_stream,
        stderr_stream,
        buffer_bytes,
        buffer_full,
        use_papa,
        hooks,
        hook_timeout,
        success_exit_codes,
        max_rss,
        ready,
        alive,
        watchdog,
        rolling,
        depends_on,
        essential,
        // What it says is in the environment.
        env_file: _,
        flapping,
        other,
        // What they mean is compared above.
        options: _,
    } = old;
    let keys = |differ: &[(&'static str, bool)]| -> Vec<&'static str> {
        differ
            .iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| *key)
            .collect()
    };
    let process = keys(&[
        ("cmd", *cmd != new.cmd),
        ("args", *args != new.args),
        ("executable", *executable != new.executable),
        ("shell", *shell != new.shell),
        ("shell_args", *shell_args != new.shell_args),
        ("working_dir", *working_dir != new.working_dir),
        ("uid", *uid != new.uid),
        ("gid", *gid != new.gid),
        ("env", *environment != new.environment),
        ("copy_env", *environment_base != new.environment_base),
        ("copy_path", *copy_path != new.copy_path),
        ("virtualenv", *virtualenv != new.virtualenv),
        (
            "virtualenv_py_ver",
            *virtualenv_py_ver != new.virtualenv_py_ver,
        ),
        ("rlimit", *rlimits != new.rlimits),
        ("use_sockets", *use_sockets != new.use_sockets),
        ("stdin_socket", *stdin_socket != new.stdin_socket),
        (
            "close_child_stdin",
            *close_child_stdin != new.close_child_stdin,
        ),
        (
            "close_child_stdout",
            *close_child_stdout != new.close_child_stdout,
        ),
        (
            "close_child_stderr",
            *close_child_stderr != new.close_child_stderr,
        ),
        ("buffer_bytes", *buffer_bytes != new.buffer_bytes),
        ("buffer_full", *buffer_full != new.buffer_full),
        // It is told what is expected of it when it starts.
        ("watchdog", *watchdog != new.watchdog),
    ]);
    let hook_changed = hooks.len() != new.hooks.len()
        || hooks
            .iter()
            .zip(&new.hooks)
            .any(|((name, a), (new_name, b))| {
                name != new_name || a.target != b.target || a.ignore_failure != b.ignore_failure
            });
    let settings = keys(&[
        ("name", *name != new.name),
        ("numprocesses", *numprocesses != new.numprocesses),
        ("warmup_delay", *warmup_delay != new.warmup_delay),
        ("priority", *priority != new.priority),
        ("singleton", *singleton != new.singleton),
        ("respawn", *respawn != new.respawn),
        ("autostart", *autostart != new.autostart),
        ("on_demand", *on_demand != new.on_demand),
        ("max_retry", *max_retry != new.max_retry),
        ("backoff", *backoff != new.backoff),
        ("max_age", *max_age != new.max_age),
        (
            "max_age_variance",
            *max_age_variance != new.max_age_variance,
        ),
        (
            "graceful_timeout",
            *graceful_timeout != new.graceful_timeout,
        ),
        ("stop_signal", *stop_signal != new.stop_signal),
        ("stop_children", *stop_children != new.stop_children),
        ("send_hup", *send_hup != new.send_hup),
        ("stdout_stream", *stdout_stream != new.stdout_stream),
        ("stderr_stream", *stderr_stream != new.stderr_stream),
        ("use_papa", *use_papa != new.use_papa),
        ("hooks", hook_changed),
        ("hook_timeout", *hook_timeout != new.hook_timeout),
        (
            "success_exit_codes",
            *success_exit_codes != new.success_exit_codes,
        ),
        ("max_rss", *max_rss != new.max_rss),
        ("ready", *ready != new.ready),
        ("alive", *alive != new.alive),
        ("rolling", *rolling != new.rolling),
        ("depends_on", *depends_on != new.depends_on),
        ("essential", *essential != new.essential),
        ("flapping", *flapping != new.flapping),
        ("options of no meaning here", *other != new.other),
    ]);
    Changed { process, settings }
}

fn global(old: &GlobalSettings, new: &GlobalSettings) -> Vec<String> {
    let GlobalSettings {
        check_delay,
        warmup_delay,
        umask,
        pidfile,
        loglevel,
        logoutput,
        loggerconfig,
        endpoint,
        pubsub_endpoint,
        stats_endpoint,
        multicast_endpoint,
        metrics_endpoint,
        endpoint_owner,
        allow_remote,
        allow_users,
        statsd,
        httpd,
        httpd_host,
        httpd_port,
        debug,
        fqdn_prefix,
        papa_endpoint,
        admin,
        // What nobody knows changes nothing.
        other: _,
    } = old;
    let differ = [
        ("check_delay", *check_delay != new.check_delay),
        ("warmup_delay", *warmup_delay != new.warmup_delay),
        ("umask", *umask != new.umask),
        ("pidfile", *pidfile != new.pidfile),
        ("loglevel", *loglevel != new.loglevel),
        ("logoutput", *logoutput != new.logoutput),
        ("loggerconfig", *loggerconfig != new.loggerconfig),
        ("endpoint", *endpoint != new.endpoint),
        ("pubsub_endpoint", *pubsub_endpoint != new.pubsub_endpoint),
        ("stats_endpoint", *stats_endpoint != new.stats_endpoint),
        (
            "multicast_endpoint",
            *multicast_endpoint != new.multicast_endpoint,
        ),
        (
            "metrics_endpoint",
            *metrics_endpoint != new.metrics_endpoint,
        ),
        ("endpoint_owner", *endpoint_owner != new.endpoint_owner),
        ("allow_remote", *allow_remote != new.allow_remote),
        ("allow_users", *allow_users != new.allow_users),
        ("statsd", *statsd != new.statsd),
        ("httpd", *httpd != new.httpd),
        ("httpd_host", *httpd_host != new.httpd_host),
        ("httpd_port", *httpd_port != new.httpd_port),
        ("debug", *debug != new.debug),
        ("fqdn_prefix", *fqdn_prefix != new.fqdn_prefix),
        ("papa_endpoint", *papa_endpoint != new.papa_endpoint),
        ("[admin]", *admin != new.admin),
    ];
    differ
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key.to_owned())
        .collect()
}

#[cfg(test)]
mod tests;

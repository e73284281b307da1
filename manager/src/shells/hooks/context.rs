//! What a hook is told: the same facts as JSON for commands and for the Python host.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::model::{Configuration, GlobalSettings, SocketAddress, WatcherConfig};
use crate::engine::{HookProcess, HookRequest, HookSubject};
use crate::shells::clock::Clocks;

/// Circus's word for a process that has been collected, in `process_status`.
const DEAD: u32 = 1;

/// Everything about a call.
#[must_use]
pub(super) fn of(
    request: &HookRequest,
    watcher: &WatcherConfig,
    configuration: &Configuration,
) -> Value {
    json!({
        "hook": request.hook.name(),
        "arguments": arguments(request.subject, request.hook.name()),
        "watcher": watcher_facts(watcher, request.numprocesses, &request.processes),
        "arbiter": arbiter(configuration),
        "sockets": sockets(configuration),
    })
}

/// Everything about statistics of one process.
#[must_use]
pub(super) fn of_statistics(
    watcher: &WatcherConfig,
    configuration: &Configuration,
    processes: &[HookProcess],
    pid: u32,
    stats: &Value,
) -> Value {
    json!({
        "hook": "extended_stats",
        "arguments": { "pid": pid, "stats": stats },
        "watcher": watcher_facts(watcher, watcher.numprocesses, processes),
        "arbiter": arbiter(configuration),
        "sockets": sockets(configuration),
    })
}

/// The keyword arguments that Circus's hooks get.
pub(super) fn arguments(subject: HookSubject, hook: &str) -> Map<String, Value> {
    let mut arguments = Map::new();
    let mut put = |name: &str, value: Value| {
        arguments.insert(name.to_owned(), value);
    };
    match subject {
        // A worker without a process was not told of in Circus, and hooks may not expect it.
        HookSubject::Watcher | HookSubject::Worker(_) => {}
        HookSubject::Process(pid) => put("pid", pid.0.into()),
        HookSubject::Signal { pid, signal } => {
            put("pid", pid.0.into());
            put("signum", signal.into());
        }
        HookSubject::End { pid, at, exit_code } => {
            put("process_pid", pid.0.into());
            put("time", seconds(Clocks::read().wall_of(at)).into());
            if hook == "after_reap" {
                put("exit_code", exit_code.into());
                put("process_status", DEAD.into());
            }
        }
    }
    arguments
}

/// The watcher as hooks see it.
pub(super) fn watcher_facts(
    watcher: &WatcherConfig,
    numprocesses: u32,
    processes: &[HookProcess],
) -> Value {
    let clocks = Clocks::read();
    let processes: Vec<Value> = processes
        .iter()
        .map(|process| {
            json!({
                "pid": process.pid.0,
                "wid": process.worker.0,
                "started": seconds(clocks.wall_of(process.started)),
            })
        })
        .collect();
    json!({
        "name": watcher.name,
        "cmd": watcher.cmd,
        "args": watcher.args,
        "shell": watcher.shell,
        "env": watcher.environment,
        "working_dir": watcher.working_dir,
        "uid": watcher.uid,
        "gid": watcher.gid,
        "numprocesses": numprocesses,
        "processes": processes,
        "priority": watcher.priority,
        "singleton": watcher.singleton,
        "respawn": watcher.respawn,
        "autostart": watcher.autostart,
        "on_demand": watcher.on_demand,
        "send_hup": watcher.send_hup,
        "stop_signal": watcher.stop_signal.0,
        "stop_children": watcher.stop_children,
        "graceful_timeout": watcher.graceful_timeout.as_secs_f64(),
        "warmup_delay": watcher.warmup_delay.as_secs_f64(),
        "use_sockets": watcher.use_sockets,
        "options": watcher.options,
    })
}

fn arbiter(configuration: &Configuration) -> Value {
    let global = &configuration.global;
    // Only what tells the watchers apart: each of them may have a long environment.
    let watchers: Vec<Value> = configuration
        .watchers
        .iter()
        .map(|watcher| {
            json!({
                "name": watcher.name,
                "cmd": watcher.cmd,
                "numprocesses": watcher.numprocesses,
                "priority": watcher.priority,
                "singleton": watcher.singleton,
                "options": watcher.other,
            })
        })
        .collect();
    json!({
        "endpoint": global.endpoint,
        "pubsub_endpoint": global.pubsub_endpoint,
        "stats_endpoint": global.stats_endpoint,
        "check_delay": global.check_delay.as_secs_f64(),
        "warmup_delay": global.warmup_delay.as_secs_f64(),
        "fqdn": fqdn(global),
        "watchers": watchers,
    })
}

/// Circus's name of a manager among those of other machines. The host's name stands for its full one, which only a name
/// service could tell.
fn fqdn(global: &GlobalSettings) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    match &global.fqdn_prefix {
        Some(prefix) => format!("{prefix}@{host}"),
        None => host.to_owned(),
    }
}

fn sockets(configuration: &Configuration) -> BTreeMap<String, Value> {
    let facts = |address: &SocketAddress| match address {
        SocketAddress::Unix { path, .. } => json!({ "path": path }),
        SocketAddress::Inet { host, port, .. } => json!({ "host": host, "port": port }),
    };
    configuration
        .sockets
        .iter()
        .map(|socket| {
            let mut facts = facts(&socket.address);
            facts["name"] = socket.name.as_str().into();
            facts["backlog"] = socket.backlog.into();
            (socket.name.clone(), facts)
        })
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Python counts seconds in floats too"
)]
fn seconds(wall_ns: u64) -> f64 {
    wall_ns as f64 / 1e9
}

/// The arguments of a call as environment variables, for commands.
pub(super) fn variables(context: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut variables: BTreeMap<String, String> = [
        ("KINGPOLE_HOOK", &context["hook"]),
        ("KINGPOLE_WATCHER", &context["watcher"]["name"]),
        ("KINGPOLE_NUMPROCESSES", &context["watcher"]["numprocesses"]),
    ]
    .map(|(name, value)| (name.to_owned(), text(value)))
    .into();
    for (name, value) in context["arguments"].as_object().into_iter().flatten() {
        // One name for the pid, whatever Circus called it.
        let name = match name.as_str() {
            "process_pid" => "pid".to_owned(),
            other => other.to_owned(),
        };
        variables.insert(format!("KINGPOLE_{}", name.to_uppercase()), text(value));
    }
    variables
}

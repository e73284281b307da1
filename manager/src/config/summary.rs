//! A watcher in a few words for people: what runs, how it is kept, stopped and logged.

use std::time::Duration;

use super::command_line;
use super::model::{
    EnvironmentBase, LimitValue, LineFormat, RetryLimit, StreamConfig, WatcherConfig,
};

/// Facts as name and text; what is as usual is left out.
pub(super) fn of_watcher(watcher: &WatcherConfig) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("runs", command(watcher)),
        ("processes", processes(watcher)),
    ];
    let mut add = |name, text: Option<String>| facts.extend(text.map(|text| (name, text)));
    add("starts", starts(watcher));
    add("stops", Some(stops(watcher)));
    add("respawns", respawns(watcher));
    add(
        "directory",
        watcher
            .working_dir
            .as_ref()
            .map(|path| path.display().to_string()),
    );
    add("user", user(watcher));
    add("environment", environment(watcher));
    add("limits", limits(watcher));
    add("sockets", sockets(watcher));
    add(
        "stdout",
        stream(&watcher.stdout_stream, watcher.close_child_stdout),
    );
    add(
        "stderr",
        stream(&watcher.stderr_stream, watcher.close_child_stderr),
    );
    add(
        "quit",
        watcher
            .use_papa
            .then(|| "leaves its processes running".to_owned()),
    );
    let hooks: Vec<_> = watcher.hooks.keys().map(String::as_str).collect();
    add("hooks", (!hooks.is_empty()).then(|| hooks.join(" ")));
    facts
}

/// `1 s`, `0.25 s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn command(watcher: &WatcherConfig) -> String {
    let mut text = watcher.cmd.clone();
    if !watcher.args.is_empty() {
        text.push(' ');
        text.push_str(&watcher.args);
    }
    if watcher.shell {
        text.push_str("  (below a shell)");
    }
    if let Some(executable) = &watcher.executable {
        text.push_str(&format!("  (as {executable})"));
    }
    text
}

fn processes(watcher: &WatcherConfig) -> String {
    let mut text = watcher.numprocesses.to_string();
    if watcher.singleton {
        text.push_str(", never more than one");
    }
    if !watcher.warmup_delay.is_zero() {
        text.push_str(&format!(", {} after each", seconds(watcher.warmup_delay)));
    }
    text
}

fn starts(watcher: &WatcherConfig) -> Option<String> {
    let mut parts = Vec::new();
    if !watcher.autostart {
        parts.push("when asked".to_owned());
    }
    if watcher.on_demand {
        parts.push("by the first connection".to_owned());
    }
    if !watcher.depends_on.is_empty() {
        parts.push(format!("when {} is up", watcher.depends_on.join(" and ")));
    }
    if let Some(probe) = &watcher.ready.probe {
        parts.push(format!("ready by {probe}"));
    }
    if watcher.priority != 0 {
        parts.push(format!("with priority {}", watcher.priority));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn stops(watcher: &WatcherConfig) -> String {
    let tree = if watcher.stop_children {
        " to it and its descendants"
    } else {
        ""
    };
    let (signal, patience) = (watcher.stop_signal, seconds(watcher.graceful_timeout));
    format!("{signal}{tree}, SIGKILL after {patience}")
}

fn respawns(watcher: &WatcherConfig) -> Option<String> {
    let mut parts = Vec::new();
    if !watcher.respawn {
        parts.push("never".to_owned());
    }
    match watcher.max_retry {
        RetryLimit::Forever => parts.push("without giving up".to_owned()),
        RetryLimit::Attempts(5) => {}
        RetryLimit::Attempts(attempts) => {
            parts.push(format!("gives up after {attempts} failed starts"))
        }
    }
    if let Some(age) = watcher.max_age {
        let variance = seconds(watcher.max_age_variance);
        parts.push(format!(
            "at the age of {} and up to {variance} more",
            seconds(age)
        ));
    }
    if watcher.send_hup {
        parts.push("reloads by SIGHUP".to_owned());
    }
    if let Some(probe) = &watcher.alive.probe {
        let times = watcher.alive.failures;
        parts.push(format!("when it fails {times} times in a row: {probe}"));
    }
    if let Some(pause) = watcher.watchdog {
        let pause = seconds(pause);
        parts.push(format!("when it does not send WATCHDOG=1 every {pause}"));
    }
    if watcher.essential {
        parts.push("the manager ends with it".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn user(watcher: &WatcherConfig) -> Option<String> {
    match (&watcher.uid, &watcher.gid) {
        (None, None) => None,
        (Some(user), None) => Some(user.clone()),
        (None, Some(group)) => Some(format!("group {group}")),
        (Some(user), Some(group)) => Some(format!("{user}, group {group}")),
    }
}

/// Names only: values may be secret.
fn environment(watcher: &WatcherConfig) -> Option<String> {
    let mut parts: Vec<&str> = watcher.environment.keys().map(String::as_str).collect();
    if watcher.environment_base == EnvironmentBase::Manager {
        let and = !parts.is_empty();
        parts.push(if and {
            "and the manager's"
        } else {
            "the manager's"
        });
    }
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn limits(watcher: &WatcherConfig) -> Option<String> {
    let limits = watcher.rlimits.iter().map(|(resource, value)| match value {
        LimitValue::Limit(value) => format!("{resource} {value}"),
        LimitValue::Infinity => format!("{resource} infinity"),
    });
    let limits: Vec<_> = limits.collect();
    (!limits.is_empty()).then(|| limits.join(", "))
}

fn sockets(watcher: &WatcherConfig) -> Option<String> {
    let mut parts = command_line::sockets_in_command(watcher);
    if watcher.use_sockets && parts.is_empty() {
        parts.push("all, as LISTEN_FDS".to_owned());
    }
    parts.extend(
        watcher
            .stdin_socket
            .as_ref()
            .map(|name| format!("{name} as standard input")),
    );
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn stream(stream: &StreamConfig, discarded: bool) -> Option<String> {
    if discarded {
        return Some("discarded".to_owned());
    }
    match stream {
        StreamConfig::Unconfigured => None,
        StreamConfig::File(file) => {
            let mut text = file.filename.display().to_string();
            if let Some(bytes) = file.max_bytes {
                match (file.backup_count, file.truncate) {
                    (0, true) => text.push_str(&format!(", emptied at {bytes} bytes")),
                    (0, false) => {}
                    (count, _) => {
                        text.push_str(&format!(", rotated at {bytes} bytes, {count} kept"));
                    }
                }
            }
            text.push_str(looks(&file.lines));
            Some(text)
        }
        StreamConfig::Stdout { lines } => Some(format!("the manager's own{}", looks(lines))),
        StreamConfig::WatchedFile { filename, lines } => {
            Some(format!("{}{}", filename.display(), looks(lines)))
        }
        StreamConfig::TimedRotatingFile(timed) => Some(format!(
            "{}, rotated by {} {}{}{}",
            timed.filename.display(),
            timed.rotate_interval,
            timed.rotate_when,
            match timed.backup_count {
                0 => ", all kept".to_owned(),
                count => format!(", {count} kept"),
            },
            looks(&timed.lines)
        )),
        StreamConfig::FancyStdout { .. } => Some("the manager's own, with times".to_owned()),
        StreamConfig::Command { command, lines } => {
            Some(format!("the program {command}{}", looks(lines)))
        }
        StreamConfig::Syslog { address, .. } => {
            Some(format!("the system's log at {}", address.display()))
        }
        StreamConfig::Journal { address, .. } => {
            Some(format!("the journal at {}", address.display()))
        }
    }
}

fn looks(lines: &LineFormat) -> &'static str {
    match lines {
        LineFormat::Raw => "",
        LineFormat::Timed(_) => ", with times",
        LineFormat::Json => ", as JSON",
    }
}

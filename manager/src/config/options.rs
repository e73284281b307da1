//! A watcher's and the manager's options as commands tell them: by Circus's names, with Circus's
//! types (reference, section 2.1).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::model::{
    Configuration, DEFAULT_ENDPOINT, DEFAULT_PUBSUB_ENDPOINT, DEFAULT_STATS_ENDPOINT,
    EnvironmentBase, LimitValue, RetryLimit, WatcherConfig,
};

/// Circus's discovery endpoint when none is configured.
const DEFAULT_MULTICAST_ENDPOINT: &str = "udp://237.219.251.97:12027";

/// All options of a watcher that shall have `numprocesses` processes now.
#[must_use]
pub fn of_watcher(config: &WatcherConfig, numprocesses: u32) -> BTreeMap<String, Value> {
    let limit = |value: &LimitValue| match value {
        LimitValue::Limit(value) => json!(value),
        LimitValue::Infinity => json!(-1),
    };
    let max_retry = match config.max_retry {
        RetryLimit::Attempts(attempts) => json!(attempts),
        RetryLimit::Forever => json!(-1),
    };
    let max_age = config.max_age.unwrap_or_default().as_secs();
    let named = json!({
        "args": config.args,
        "autostart": config.autostart,
        "backoff_max": config.backoff.max.as_secs_f64(),
        "backoff_min": config.backoff.min.as_secs_f64(),
        "backoff_reset": config.backoff.reset_after.as_secs_f64(),
        "buffer_bytes": config.buffer_bytes,
        "buffer_full": config.buffer_full,
        "close_child_stderr": config.close_child_stderr,
        "close_child_stdin": config.close_child_stdin,
        "close_child_stdout": config.close_child_stdout,
        "cmd": config.cmd,
        "copy_env": config.environment_base == EnvironmentBase::Manager,
        "copy_path": config.copy_path,
        "env": config.environment,
        "executable": config.executable,
        "gid": identity(config.gid.as_deref()),
        "graceful_timeout": config.graceful_timeout.as_secs_f64(),
        "max_age": max_age,
        "max_age_variance": config.max_age_variance.as_secs(),
        "max_retry": max_retry,
        "numprocesses": numprocesses,
        "on_demand": config.on_demand,
        "priority": config.priority,
        "respawn": config.respawn,
        "send_hup": config.send_hup,
        "shell": config.shell,
        "shell_args": config.shell_args,
        "singleton": config.singleton,
        "stderr_stream_conf": stream(config, "stderr_stream."),
        "stdin_socket": config.stdin_socket,
        "stdout_stream_conf": stream(config, "stdout_stream."),
        "stop_children": config.stop_children,
        "stop_signal": config.stop_signal.0,
        "uid": identity(config.uid.as_deref()),
        "use_papa": config.use_papa,
        "use_sockets": config.use_sockets,
        "virtualenv": config.virtualenv,
        "virtualenv_py_ver": config.virtualenv_py_ver,
        "warmup_delay": whole(config.warmup_delay.as_secs_f64()),
        "working_dir": config.working_dir,
    });
    // What nobody gave a type stays text, as in Circus.
    let written = config
        .options
        .iter()
        .map(|(key, text)| (key.clone(), json!(text)));
    let mut options: BTreeMap<String, Value> = written
        .filter(|(key, _)| !key.starts_with("stdout_stream.") && !key.starts_with("stderr_stream."))
        .collect();
    if let Value::Object(named) = named {
        options.extend(named);
    }
    for (key, percent) in [
        ("backoff_factor", config.backoff.factor_percent),
        ("backoff_jitter", config.backoff.jitter_percent),
    ] {
        options.insert(key.to_owned(), json!(f64::from(percent) / 100.0));
    }
    for (resource, value) in &config.rlimits {
        options.insert(format!("rlimit_{resource}"), limit(value));
    }
    options
}

/// A user or group: a number as such, else its name.
fn identity(text: Option<&str>) -> Value {
    match text.map(|text| (text, text.parse::<u32>())) {
        None => Value::Null,
        Some((_, Ok(number))) => json!(number),
        Some((name, Err(_))) => json!(name),
    }
}

/// Options of a stream behind its prefix, `class` left out as in Circus.
fn stream(config: &WatcherConfig, prefix: &str) -> Value {
    let options = config.options.iter().filter_map(|(key, text)| {
        let key = key.strip_prefix(prefix).filter(|key| *key != "class")?;
        Some((key.to_owned(), json!(text)))
    });
    Value::Object(options.collect())
}

/// Circus shows whole seconds of this option without a fraction.
fn whole(seconds: f64) -> Value {
    if seconds.fract() == 0.0 && seconds < 1e15 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
        let seconds = seconds as i64;
        json!(seconds)
    } else {
        json!(seconds)
    }
}

/// Options of the manager.
#[must_use]
pub fn of_manager(configuration: &Configuration) -> BTreeMap<String, Value> {
    let global = &configuration.global;
    let endpoint =
        |written: &Option<String>, default: &str| json!(written.as_deref().unwrap_or(default));
    [
        ("check_delay", json!(global.check_delay.as_secs_f64())),
        ("endpoint", endpoint(&global.endpoint, DEFAULT_ENDPOINT)),
        (
            "multicast_endpoint",
            endpoint(&global.multicast_endpoint, DEFAULT_MULTICAST_ENDPOINT),
        ),
        (
            "pubsub_endpoint",
            endpoint(&global.pubsub_endpoint, DEFAULT_PUBSUB_ENDPOINT),
        ),
        (
            "stats_endpoint",
            endpoint(&global.stats_endpoint, DEFAULT_STATS_ENDPOINT),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::amend;

    #[test]
    fn options_have_the_types_that_circus_gives_them() {
        let texts = [
            ("cmd", "serve"),
            ("stop_signal", "INT"),
            ("flapping.window", "3"),
            ("uid", "nobody"),
            ("gid", "7"),
            ("rlimit_core", ""),
            ("stdout_stream.class", "FileStream"),
            ("stdout_stream.filename", "/tmp/x"),
        ];
        let texts = texts
            .map(|(key, text)| (key.to_owned(), text.to_owned()))
            .into();
        let config = amend::defined("web", &texts).expect("defined");
        let options = of_watcher(&config, 4);
        for (key, value) in [
            ("stop_signal", json!(2)),
            ("flapping.window", json!("3")),
            ("numprocesses", json!(4)),
            ("graceful_timeout", json!(30.0)),
            ("warmup_delay", json!(0)),
            ("uid", json!("nobody")),
            ("gid", json!(7)),
            ("rlimit_core", json!(-1)),
            ("stdout_stream_conf", json!({"filename": "/tmp/x"})),
            ("executable", Value::Null),
            ("env", json!({})),
        ] {
            assert_eq!(options.get(key), Some(&value), "{key}");
        }
    }
}

//! Sections `[watcher:NAME]` (reference, section 5.8).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::coerce;
use super::defaults;
use super::depend;
use super::document::{Section, Source};
use super::hook;
use super::ini::quoted;
use super::keys;
use super::limits;
use super::model::{
    Backoff, BufferFull, EnvironmentBase, LimitValue, Probe, Resource, RetryLimit, SignalNumber,
    WatcherConfig,
};
use super::probe;
use super::rolling;
use super::section::{Findings, Reader};
use super::stream::{self, Output};
use super::suggest;
use super::variables::EnvironmentVariables;
use super::words;

/// What a watcher's environment came to.
pub(super) struct Environment {
    /// The entries of `[env]` and of matching `[env:...]` sections.
    pub(super) own: BTreeMap<String, String>,
    /// Those over the manager's environment, for `circus.env.NAME`.
    pub(super) variables: EnvironmentVariables,
}

/// Reads one section whose header names the watcher `name`.
pub(super) fn read(
    name: &str,
    section: &Section,
    environment: Environment,
    findings: &mut Findings,
) -> WatcherConfig {
    let title = format!("watcher {}", quoted(name));
    let variables = &environment.variables;
    let mut reader = Reader::new(title, section, keys::WATCHER, variables, findings);
    let base = WatcherConfig::with_defaults(name, reader.origin());
    let written_at = section
        .entries
        .iter()
        .map(|item| (item.entry.key.clone(), item.entry.value_location.clone()))
        .collect();
    let options = section
        .entries
        .iter()
        .filter(|item| {
            item.source == Source::Section || keys::find(keys::WATCHER, &item.entry.key).is_some()
        })
        .map(|item| {
            let value = environment.variables.expand(&item.entry.value);
            (item.entry.key.clone(), value)
        })
        .collect();
    let copy_env = reader.boolean("copy_env", false);
    let max_age = reader.whole_seconds("max_age", Duration::ZERO);
    let numprocesses = number(&mut reader, "numprocesses", limits::NUMPROCESSES, 1);
    let singleton = reader.boolean("singleton", false);
    let mut watcher = WatcherConfig {
        written_at,
        options,
        cmd: reader.text("cmd").unwrap_or_default(),
        args: reader.text("args").unwrap_or_default(),
        executable: reader.some_text("executable"),
        shell: reader.boolean("shell", false),
        shell_args: reader.some_text("shell_args"),
        numprocesses,
        warmup_delay: reader.seconds("warmup_delay", base.warmup_delay),
        priority: reader
            .integer("priority", i64::MIN..=i64::MAX)
            .unwrap_or(base.priority),
        singleton,
        respawn: reader.boolean("respawn", true),
        autostart: reader.boolean("autostart", true),
        on_demand: reader.boolean("on_demand", false),
        max_retry: max_retry(&mut reader).unwrap_or(base.max_retry),
        backoff: backoff(&mut reader),
        max_age: (!max_age.is_zero()).then_some(max_age),
        max_age_variance: reader.whole_seconds("max_age_variance", base.max_age_variance),
        graceful_timeout: reader.seconds("graceful_timeout", base.graceful_timeout),
        stop_signal: reader
            .parsed(
                "stop_signal",
                "a signal such as TERM, SIGINT or 15",
                SignalNumber::parse,
            )
            .unwrap_or(base.stop_signal),
        stop_children: reader.boolean("stop_children", false),
        send_hup: reader.boolean("send_hup", false),
        working_dir: reader.some_text("working_dir").map(PathBuf::from),
        uid: reader.some_text("uid"),
        gid: reader.some_text("gid"),
        environment: environment.own.clone(),
        environment_base: if copy_env {
            EnvironmentBase::Manager
        } else {
            EnvironmentBase::Empty
        },
        copy_path: reader.boolean("copy_path", false),
        virtualenv: reader.some_text("virtualenv").map(PathBuf::from),
        virtualenv_py_ver: reader.some_text("virtualenv_py_ver"),
        rlimits: rlimits(&mut reader),
        use_sockets: reader.boolean("use_sockets", false),
        stdin_socket: reader
            .some_text("stdin_socket")
            .map(|name| name.to_lowercase()),
        close_child_stdin: reader.boolean("close_child_stdin", true),
        close_child_stdout: reader.boolean("close_child_stdout", false),
        close_child_stderr: reader.boolean("close_child_stderr", false),
        stdout_stream: stream::read(&mut reader, Output::Stdout),
        stderr_stream: stream::read(&mut reader, Output::Stderr),
        buffer_bytes: reader
            .integer("buffer_bytes", limits::BUFFER_BYTES)
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(defaults::BUFFER_BYTES),
        buffer_full: reader
            .parsed("buffer_full", "drop or wait", |text| match text {
                "drop" => Some(BufferFull::Drop),
                "wait" => Some(BufferFull::Wait),
                _ => None,
            })
            .unwrap_or(BufferFull::Drop),
        use_papa: reader.boolean("use_papa", false),
        hooks: hook::read(&mut reader),
        hook_timeout: reader.seconds("hook_timeout", base.hook_timeout),
        success_exit_codes: success_exit_codes(&mut reader),
        max_rss: reader.parsed("max_rss", "a size such as 200M", coerce::size),
        ready: probe::read_ready(&mut reader),
        alive: probe::read_alive(&mut reader),
        watchdog: probe::read_watchdog(&mut reader),
        rolling: rolling::read(&mut reader, numprocesses, singleton),
        depends_on: depend::read(&mut reader),
        essential: reader.boolean("essential", false),
        env_file: reader.some_text("env_file").map(PathBuf::from),
        flapping: super::flapping::read(&mut reader),
        ..base
    };
    check(&watcher, &mut reader);
    reader.warn_unsupported(|_| false);
    let is_stream =
        |key: &str| key.starts_with(Output::Stdout.key()) || key.starts_with(Output::Stderr.key());
    watcher.other = reader.unknown(is_stream);
    watcher
}

/// What no single value shows to be wrong.
fn check(watcher: &WatcherConfig, reader: &mut Reader<'_>) {
    check_command(watcher, reader);
    if watcher.singleton
        && watcher.numprocesses > 1
        && let Some(written) = reader.written("numprocesses")
    {
        let problem = format!("must be 0 or 1 for a singleton: {}", watcher.numprocesses);
        reader.error(written.entry, &problem);
    }
    if watcher.numprocesses == 0
        && let Some(written) = reader.written("numprocesses")
    {
        reader.warn(written.entry, "is 0: nothing runs until it is raised");
    }
    if watcher.max_retry == RetryLimit::Attempts(0)
        && let Some(written) = reader.written("max_retry")
    {
        reader.warn(written.entry, "is 0: it gives up at the first failure");
    }
    if watcher.environment_base == EnvironmentBase::Empty {
        // Circus drops such a watcher when it creates it, with a line in the log.
        for (key, wanted) in [
            ("copy_path", watcher.copy_path),
            ("virtualenv", watcher.virtualenv.is_some()),
        ] {
            if wanted && let Some(written) = reader.written(key) {
                reader.error(written.entry, "needs copy_env = true");
            }
        }
    }
    if watcher.virtualenv.is_some()
        && watcher.virtualenv_py_ver.is_none()
        && let Some(written) = reader.written("virtualenv")
    {
        let problem = "without virtualenv_py_ver only adds its bin to PATH, not its packages to \
                       PYTHONPATH; its own python finds them";
        reader.warn(written.entry, problem);
    }
    if let Some(Probe::Tcp(address) | Probe::Http(address)) = &watcher.alive.probe
        && watcher.numprocesses > 1
        && !address.contains("$(")
        && !address.contains("((")
        && let Some(written) = reader.written("alive")
    {
        let problem = "asks all processes at one address, so that one that hangs is not noticed \
                       while another one answers; put $(circus.wid) into the address, or use \
                       watchdog or exec";
        reader.warn(written.entry, problem);
    }
    if !watcher.close_child_stdin
        && let Some(written) = reader.written("close_child_stdin")
    {
        let problem = "has no effect: a child that outlives the manager cannot share its input";
        reader.warn(written.entry, problem);
    }
}

fn check_command(watcher: &WatcherConfig, reader: &mut Reader<'_>) {
    let split = |reader: &mut Reader<'_>, key: &str| -> Option<Vec<String>> {
        let written = reader.written(key)?;
        match words::split(&written.value) {
            Ok(words) => Some(words),
            Err(error) => {
                reader.error(
                    written.entry,
                    &format!("cannot be split into words: {error}"),
                );
                None
            }
        }
    };
    match reader.written("cmd") {
        None => reader.section_error("cmd is missing"),
        Some(written) => {
            if split(reader, "cmd").is_some_and(|words| words.is_empty()) {
                reader.error(written.entry, "is empty");
            }
        }
    }
    split(reader, "args");
    split(reader, "shell_args");
    for key in ["cmd", "args"] {
        if let Some(written) = reader.written(key).filter(|w| w.value.contains("$WID")) {
            reader.warn(
                written.entry,
                "has $WID, which is not replaced; write $(circus.wid)",
            );
        }
    }
    if let Some(written) = reader.written("shell_args")
        && !watcher.shell
    {
        reader.warn(written.entry, "has no effect without shell = true");
    }
    if watcher.shell
        && let Some(written) = reader.written("cmd")
        && words::has_shell_syntax(&super::variables::expand(&written.value, &|_| {
            Some(String::new())
        }))
    {
        let problem = "is quoted word by word, as in Circus: the shell sees no operators and no \
                       variables; write cmd = sh -c '...' without shell";
        reader.warn(written.entry, problem);
    }
}

fn number(reader: &mut Reader<'_>, key: &str, max: i64, default: u32) -> u32 {
    let number = reader.integer(key, 0..=max);
    number
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(default)
}

fn max_retry(reader: &mut Reader<'_>) -> Option<RetryLimit> {
    let attempts = reader.integer("max_retry", -1..=i64::from(u32::MAX))?;
    Some(u32::try_from(attempts).map_or(RetryLimit::Forever, RetryLimit::Attempts))
}

fn backoff(reader: &mut Reader<'_>) -> Backoff {
    let backoff = Backoff {
        min: reader.seconds("backoff_min", defaults::BACKOFF.min),
        max: reader.seconds("backoff_max", defaults::BACKOFF.max),
        reset_after: reader.seconds("backoff_reset", defaults::BACKOFF.reset_after),
        factor_percent: hundredths(reader, "backoff_factor", 1.0..=100.0)
            .unwrap_or(defaults::BACKOFF.factor_percent),
        jitter_percent: hundredths(reader, "backoff_jitter", 0.0..=10.0)
            .unwrap_or(defaults::BACKOFF.jitter_percent),
    };
    if backoff.min > backoff.max
        && let Some(written) = reader
            .written("backoff_min")
            .or(reader.written("backoff_max"))
    {
        reader.error(
            written.entry,
            "leaves no range: backoff_min is above backoff_max",
        );
    }
    backoff
}

/// A number within a range, to two places behind the point.
fn hundredths(reader: &mut Reader<'_>, key: &str, range: RangeInclusive<f64>) -> Option<u32> {
    let expected = format!("a number from {} to {}", range.start(), range.end());
    let number = reader.parsed(key, &expected, |text| {
        coerce::float(text).filter(|number| range.contains(number))
    })?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the range"
    )]
    let hundredths = (number * 100.0).round() as u32;
    Some(hundredths)
}

fn success_exit_codes(reader: &mut Reader<'_>) -> BTreeSet<u8> {
    let codes = |text: &str| {
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        let words = words.filter(|word| !word.is_empty());
        words.map(|word| word.parse().ok()).collect()
    };
    let found = reader.parsed(
        "success_exit_codes",
        "a list of numbers from 0 to 255",
        codes,
    );
    found.unwrap_or_default()
}

fn rlimits(reader: &mut Reader<'_>) -> BTreeMap<Resource, LimitValue> {
    let mut limits = BTreeMap::new();
    for (name, written) in reader.with_prefix("rlimit_") {
        let Some(resource) = Resource::from_name(name) else {
            let names = Resource::ALL.into_iter().map(Resource::name);
            let problem = match suggest::nearest(name, names) {
                Some(meant) => format!("is no resource limit; did you mean rlimit_{meant}?"),
                None => "is no resource limit".to_owned(),
            };
            reader.error(written.entry, &problem);
            continue;
        };
        match coerce::limit(&written.value) {
            Some(value) => {
                limits.insert(resource, value);
            }
            None => {
                let value = quoted(&written.entry.value);
                let problem = format!("is neither a number from 0 nor unlimited: {value}");
                reader.error(written.entry, &problem);
            }
        }
    }
    limits
}

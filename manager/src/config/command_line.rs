//! A watcher's command line at the moment of a spawn: variables replaced, words split, shell added
//! (reference, sections 5.3 and 5.8).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::launch::{LaunchError, ResolvedIds};
use super::model::{EnvironmentBase, LimitValue, Resource, RetryLimit, WatcherConfig};
use super::variables::{self, EnvironmentVariables};
use super::words;

/// What the variables of one spawn stand for.
pub struct SpawnVariables<'a> {
    /// `circus.wid`.
    pub worker_id: u32,
    /// `circus.env.NAME`: the process's whole environment.
    pub environment: &'a BTreeMap<String, String>,
    /// `circus.working_dir`.
    pub working_directory: &'a Path,
    /// `circus.uid` and `circus.gid`.
    pub ids: Option<&'a ResolvedIds>,
    /// `circus.sockets.NAME`, by lower-cased name; `None` for what is no socket.
    pub socket: &'a dyn Fn(&str) -> Option<String>,
}

/// The words to execute. Variables that nobody knows stay as they are, as in Circus.
///
/// # Errors
/// Open quotation marks, which a variable's value may have brought in; no word at all.
pub fn expand_command(
    watcher: &WatcherConfig,
    spawn: &SpawnVariables<'_>,
) -> Result<Vec<String>, LaunchError> {
    let environment = EnvironmentVariables::new(spawn.environment);
    let lookup = |name: &str| -> Option<String> {
        if let Some(socket) = name.strip_prefix("sockets.") {
            return (spawn.socket)(socket);
        }
        environment
            .lookup(name)
            .or_else(|| option_text(watcher, spawn, name))
    };
    let split = |key: &'static str, text: &str| {
        let expanded = variables::expand(text, &lookup);
        words::split(&expanded).map_err(|source| LaunchError::Words {
            watcher: watcher.name.clone(),
            key,
            source,
        })
    };
    let mut command = split("cmd", &watcher.cmd)?;
    if command.is_empty() {
        return Err(LaunchError::NoCommand {
            watcher: watcher.name.clone(),
        });
    }
    command.extend(split("args", &watcher.args)?);
    if watcher.shell {
        let quoted: Vec<String> = command.iter().map(|word| words::quote(word)).collect();
        command = vec!["/bin/sh".to_owned(), "-c".to_owned(), quoted.join(" ")];
        command.extend(split(
            "shell_args",
            watcher.shell_args.as_deref().unwrap_or_default(),
        )?);
    }
    Ok(command)
}

/// A text of a watcher with its variables replaced as in its command line. Sockets stay as they
/// are written: their numbers mean something to the process only.
#[must_use]
pub fn expand_text(watcher: &WatcherConfig, spawn: &SpawnVariables<'_>, text: &str) -> String {
    let environment = EnvironmentVariables::new(spawn.environment);
    variables::expand(text, &|name| {
        let known = environment.lookup(name);
        known.or_else(|| option_text(watcher, spawn, name))
    })
}

/// Lower-cased names of the sockets that the command line asks for.
#[must_use]
pub fn sockets_in_command(watcher: &WatcherConfig) -> Vec<String> {
    let shell_args = watcher.shell_args.as_deref().filter(|_| watcher.shell);
    let texts = [
        watcher.cmd.as_str(),
        &watcher.args,
        shell_args.unwrap_or_default(),
    ];
    let names = texts.into_iter().flat_map(variables::names);
    names
        .filter_map(|name| name.strip_prefix("sockets.").map(str::to_owned))
        .collect()
}

/// An option as Python's `str()` shows it.
fn option_text(watcher: &WatcherConfig, spawn: &SpawnVariables<'_>, name: &str) -> Option<String> {
    if let Some(limit) = name.strip_prefix("rlimits.") {
        let value = watcher.rlimits.get(&Resource::from_name(limit)?)?;
        return Some(match value {
            LimitValue::Limit(value) => value.to_string(),
            LimitValue::Infinity => "-1".to_owned(),
        });
    }
    let seconds = |duration: Duration| duration.as_secs().to_string();
    Some(match name {
        "wid" => spawn.worker_id.to_string(),
        "cmd" => watcher.cmd.clone(),
        "args" => watcher.args.clone(),
        "executable" => text_or_none(watcher.executable.as_deref()),
        "shell" => truth(watcher.shell),
        "shell_args" => text_or_none(watcher.shell_args.as_deref()),
        "working_dir" => spawn.working_directory.to_string_lossy().into_owned(),
        "uid" => text_or_none(spawn.ids.map(|ids| ids.uid.to_string()).as_deref()),
        "gid" => text_or_none(spawn.ids.map(|ids| ids.gid.to_string()).as_deref()),
        "numprocesses" => watcher.numprocesses.to_string(),
        "warmup_delay" => seconds(watcher.warmup_delay),
        "priority" => watcher.priority.to_string(),
        "copy_env" => truth(watcher.environment_base == EnvironmentBase::Manager),
        "send_hup" => truth(watcher.send_hup),
        "stop_signal" => watcher.stop_signal.0.to_string(),
        "stop_children" => truth(watcher.stop_children),
        // Debug shows a whole number as 30.0, as Python does.
        "graceful_timeout" => format!("{:?}", watcher.graceful_timeout.as_secs_f64()),
        "max_retry" => match watcher.max_retry {
            RetryLimit::Attempts(attempts) => attempts.to_string(),
            RetryLimit::Forever => "-1".to_owned(),
        },
        "singleton" => truth(watcher.singleton),
        "use_sockets" | "use_fds" => truth(watcher.use_sockets),
        "on_demand" => truth(watcher.on_demand),
        "max_age" => seconds(watcher.max_age.unwrap_or_default()),
        "max_age_variance" => seconds(watcher.max_age_variance),
        "respawn" => truth(watcher.respawn),
        "close_child_stdin" => truth(watcher.close_child_stdin),
        "close_child_stdout" => truth(watcher.close_child_stdout),
        "close_child_stderr" => truth(watcher.close_child_stderr),
        other => {
            let mut options = watcher.other.iter();
            options
                .find(|(key, _)| key.to_lowercase() == other)?
                .1
                .clone()
        }
    })
}

fn truth(value: bool) -> String {
    if value { "True" } else { "False" }.to_owned()
}

fn text_or_none(value: Option<&str>) -> String {
    value.unwrap_or("None").to_owned()
}

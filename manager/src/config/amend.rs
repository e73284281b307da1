//! Options that are changed, and watchers that are made, at run time: JSON of a command to texts as
//! the file has them, and the texts laid over what the file says.
//!
//! The texts are read as those of a file are, so that an option means the same wherever it is
//! written, and what could not stand in a file is refused.

use std::collections::BTreeMap;

use serde_json::Value;

use super::diagnostic::{Diagnostic, Location};
use super::document::{Section, Source};
use super::ini::{IniEntry, quoted};
use super::keys::{self, Support};
use super::limits;
use super::model::WatcherConfig;
use super::section::Findings;
use super::suggest;
use super::variables::EnvironmentVariables;
use super::watcher::{self, Environment};

/// The option that is a watcher's whole environment; its text is a JSON object.
pub const ENVIRONMENT: &str = "env";

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmendError {
    /// No option of that name; in Circus's words, because scripts look for them.
    #[error("unknown key '{key}'{hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// What may be meant, or why it cannot be changed.
        hint: String,
    },
    /// A value of the wrong shape.
    #[error("'{key}' {problem}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// What does not stand together.
    #[error("{0}")]
    Refused(String),
}

/// New texts of options by key; `None` takes a change back.
pub type Changes = BTreeMap<String, Option<String>>;

/// What a command asks for, as texts. Objects under `hooks`, `stdout_stream` and `stderr_stream`
/// are taken apart into their keys.
///
/// # Errors
/// A key that nobody knows, a value that is no text, number or boolean.
pub fn changes(options: &BTreeMap<String, Value>) -> Result<Changes, AmendError> {
    let mut changes = Changes::new();
    for (key, value) in options {
        match (key.as_str(), value) {
            (ENVIRONMENT, value) => {
                changes.insert(key.clone(), environment_text(value)?);
            }
            ("hooks" | "stdout_stream" | "stderr_stream", Value::Object(parts)) => {
                for (part, value) in parts {
                    let key = format!("{key}.{part}");
                    check_key(&key)?;
                    let text = text(&key, value)?;
                    changes.insert(key, text);
                }
            }
            _ => {
                check_key(key)?;
                changes.insert(key.clone(), text(key, value)?);
            }
        }
    }
    Ok(changes)
}

fn text(key: &str, value: &Value) -> Result<Option<String>, AmendError> {
    let text = match value {
        Value::Null if key.starts_with("rlimit_") => String::new(),
        Value::Null => return Ok(None),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(words) if key == "args" => words
            .iter()
            .map(|word| word.as_str().map(super::words::quote))
            .collect::<Option<Vec<_>>>()
            .map(|words| words.join(" "))
            .ok_or_else(|| wrong(key, "isn't a list of texts"))?,
        Value::Array(_) | Value::Object(_) => {
            return Err(wrong(key, "isn't a text, a number or a boolean"));
        }
    };
    if text.contains('\0') {
        return Err(wrong(key, "contains a NUL character"));
    }
    Ok(Some(text))
}

fn wrong(key: &str, problem: &str) -> AmendError {
    AmendError::Value {
        key: key.to_owned(),
        problem: problem.to_owned(),
    }
}

fn environment_text(value: &Value) -> Result<Option<String>, AmendError> {
    if value.is_null() {
        return Ok(None);
    }
    let Value::Object(variables) = value else {
        return Err(wrong(ENVIRONMENT, "isn't a valid object"));
    };
    if let Some((name, _)) = variables.iter().find(|(_, value)| !value.is_string()) {
        return Err(wrong(name, "isn't a string"));
    }
    Ok(Some(value.to_string()))
}

/// A whole environment as the option that commands know.
#[must_use]
pub fn environment_option(environment: &BTreeMap<String, String>) -> Option<(String, String)> {
    let text = serde_json::to_string(environment).ok()?;
    Some((ENVIRONMENT.to_owned(), text))
}

/// Whether a watcher has an option of that name that a command may change.
fn check_key(key: &str) -> Result<(), AmendError> {
    let unknown = |hint: String| AmendError::UnknownKey {
        key: key.to_owned(),
        hint,
    };
    let stream = key
        .strip_prefix("stdout_stream.")
        .or_else(|| key.strip_prefix("stderr_stream."));
    let known = match stream {
        Some(option) => keys::find(keys::STREAM, option),
        None => keys::find(keys::WATCHER, key),
    };
    match known.map(|key| key.support) {
        Some(Support::Full | Support::Ours | Support::Ignored(_)) => Ok(()),
        Some(Support::NotYet(instead)) => Err(unknown(format!(": {instead}"))),
        None => {
            let names = keys::WATCHER
                .iter()
                .map(|key| key.name.trim_end_matches('*'));
            let hint = suggest::nearest(key, names)
                .map(|meant| format!("; did you mean '{meant}'?"))
                .unwrap_or_default();
            Err(unknown(hint))
        }
    }
}

/// A watcher whose options are changed.
///
/// # Errors
/// Everything that a file would be refused for.
pub fn amended(
    base: &WatcherConfig,
    changes: &BTreeMap<String, String>,
) -> Result<WatcherConfig, AmendError> {
    let mut options = base.options.clone();
    let mut own = base.environment.clone();
    for (key, text) in changes {
        if key == ENVIRONMENT {
            own = serde_json::from_str(text)
                .map_err(|error| wrong(ENVIRONMENT, &format!("isn't a valid object: {error}")))?;
        } else {
            options.insert(key.clone(), text.clone());
        }
    }
    let amended = read(&base.name, &base.origin, &options, own)?;
    let mut written_at = base.written_at.clone();
    written_at.retain(|key, _| !changes.contains_key(key));
    Ok(WatcherConfig {
        written_at,
        ..amended
    })
}

/// A watcher that no file knows, from its options alone.
///
/// # Errors
/// Everything that a file would be refused for.
pub fn defined(
    name: &str,
    options: &BTreeMap<String, String>,
) -> Result<WatcherConfig, AmendError> {
    let length = name.len().max(name.to_lowercase().len());
    if name.is_empty() || length > limits::NAME_BYTES || name.chars().any(char::is_control) {
        let text = format!(
            "a name of 1 to {} bytes without control characters is needed",
            limits::NAME_BYTES
        );
        return Err(AmendError::Refused(text));
    }
    let plain = WatcherConfig::with_defaults(name, Location::new("", 0, 0));
    amended(&plain, options)
}

fn read(
    name: &str,
    origin: &Location,
    options: &BTreeMap<String, String>,
    own: BTreeMap<String, String>,
) -> Result<WatcherConfig, AmendError> {
    let mut section = Section::new(format!("watcher:{name}"), origin.clone());
    for (key, value) in options {
        let entry = IniEntry {
            key: key.clone(),
            value: value.clone(),
            key_location: origin.clone(),
            value_location: origin.clone(),
        };
        section.push(entry, Source::Section);
    }
    let mut findings = Findings::default();
    // What the file refers to has been replaced when it was read; what a command brings is
    // replaced when a process is started, as in Circus.
    let environment = Environment {
        own,
        variables: EnvironmentVariables::default(),
    };
    let config = watcher::read(name, &section, environment, &mut findings);
    match findings.errors.as_slice() {
        [] => Ok(config),
        errors => Err(AmendError::Refused(messages(errors))),
    }
}

fn messages(errors: &[Diagnostic]) -> String {
    let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    messages.join("; ")
}

/// What a configuration says about one option, to see later whether it says something else.
#[must_use]
pub fn written(config: &WatcherConfig, key: &str) -> Option<String> {
    if key == ENVIRONMENT {
        return serde_json::to_string(&config.environment).ok();
    }
    config.options.get(key).cloned()
}

/// For messages about a watcher.
#[must_use]
pub fn title(name: &str) -> String {
    format!("watcher {}", quoted(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(value: Value) -> BTreeMap<String, Value> {
        serde_json::from_value(value).expect("an object")
    }

    fn texts(value: Value) -> BTreeMap<String, String> {
        let changes = changes(&asked(value)).expect("understood");
        changes
            .into_iter()
            .filter_map(|(key, text)| Some((key, text?)))
            .collect()
    }

    fn web() -> WatcherConfig {
        defined("Web", &texts(json!({"cmd": "serve", "numprocesses": 2}))).expect("defined")
    }

    #[test]
    fn values_mean_what_they_mean_in_a_file() {
        let changed = texts(json!({
            "graceful_timeout": 1.5, "send_hup": true, "stop_signal": "quit", "rlimit_core": null,
            "stdout_stream": {"class": "FileStream", "filename": "/tmp/x"}, "args": ["a b", "c"],
            "env": {"A": "1"},
        }));
        let config = amended(&web(), &changed).expect("amended");
        assert_eq!(config.graceful_timeout.as_millis(), 1500);
        assert!(config.send_hup);
        assert_eq!(config.stop_signal.0, 3);
        assert_eq!(config.args, "'a b' c");
        assert_eq!(config.numprocesses, 2);
        assert_eq!(config.environment.get("A").map(String::as_str), Some("1"));
        assert_eq!(config.rlimits.len(), 1);
        assert_ne!(config.stdout_stream, web().stdout_stream);
    }

    #[test]
    fn what_a_file_would_be_refused_for_is_refused_by_name() {
        let refused = |value: Value| changes(&asked(value)).unwrap_err().to_string();
        assert_eq!(refused(json!({"bogus": 1})), "unknown key 'bogus'");
        assert_eq!(
            refused(json!({"numproceses": 1})),
            "unknown key 'numproceses'; did you mean 'numprocesses'?"
        );
        assert_eq!(refused(json!({"env": 3})), "'env' isn't a valid object");
        assert_eq!(refused(json!({"env": {"A": 3}})), "'A' isn't a string");
        assert!(refused(json!({"cmd": {}})).contains("'cmd' isn't a text"));
        let error = amended(&web(), &texts(json!({"priority": "high"}))).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("priority is not an integer such as 5"),
            "{error}"
        );
        let error = amended(&web(), &texts(json!({"cmd": "'"}))).unwrap_err();
        assert!(error.to_string().contains("cannot be split"), "{error}");
        let error = defined("", &texts(json!({"cmd": "x"}))).unwrap_err();
        assert!(error.to_string().contains("a name of 1 to"), "{error}");
        let error = defined("x", &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("cmd is missing"), "{error}");
    }

    #[test]
    fn null_takes_a_change_back() {
        let changes = changes(&asked(json!({"cmd": null}))).expect("understood");
        assert_eq!(changes.get("cmd"), Some(&None));
    }
}

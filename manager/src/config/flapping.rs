//! Processes that end again and again: the settings of Circus's flapping plugin, which are the
//! manager's own here (reference, section 8.2), for all watchers and for single ones.

use std::time::Duration;

use serde::Serialize;

use super::coerce;
use super::ini::IniEntry;
use super::model::{PluginConfig, RetryLimit};
use super::plugin_watcher::{BuiltIn, built_in};
use super::section::Reader;

/// When a watcher's processes end too often, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Flapping {
    /// Whether anything follows at all.
    pub active: bool,
    /// So many ends ...
    pub attempts: u32,
    /// ... in this time stop the watcher.
    #[serde(serialize_with = "super::model::as_seconds")]
    pub window: Duration,
    /// It is started again after this time.
    #[serde(serialize_with = "super::model::as_seconds")]
    pub retry_in: Duration,
    /// So often; then it stays stopped.
    pub max_retry: RetryLimit,
}

impl Default for Flapping {
    /// The plugin's own.
    fn default() -> Self {
        Self {
            active: true,
            attempts: 2,
            window: Duration::from_secs(1),
            retry_in: Duration::from_secs(7),
            max_retry: RetryLimit::Attempts(5),
        }
    }
}

/// What one watcher says differently (`flapping.attempts` and so on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FlappingOverrides {
    /// See [`Flapping::active`].
    pub active: Option<bool>,
    /// See [`Flapping::attempts`].
    pub attempts: Option<u32>,
    /// See [`Flapping::window`].
    #[serde(skip)]
    pub window: Option<Duration>,
    /// See [`Flapping::retry_in`].
    #[serde(skip)]
    pub retry_in: Option<Duration>,
    /// See [`Flapping::max_retry`].
    pub max_retry: Option<RetryLimit>,
}

impl Flapping {
    /// As one watcher has it.
    #[must_use]
    pub fn with(self, overrides: &FlappingOverrides) -> Self {
        Self {
            active: overrides.active.unwrap_or(self.active),
            attempts: overrides.attempts.unwrap_or(self.attempts),
            window: overrides.window.unwrap_or(self.window),
            retry_in: overrides.retry_in.unwrap_or(self.retry_in),
            max_retry: overrides.max_retry.unwrap_or(self.max_retry),
        }
    }
}

/// Whether a plugin's class is the one whose work the manager does itself.
#[must_use]
pub fn is_flapping(class: &str) -> bool {
    built_in(class) == Some(BuiltIn::Flapping)
}

/// The settings for all watchers; none without the plugin's section. Errors have been found when
/// the section was read.
#[must_use]
pub fn of_plugins(plugins: &[PluginConfig]) -> Option<Flapping> {
    let class = |plugin: &&PluginConfig| plugin.class.as_deref().is_some_and(is_flapping);
    let plugin = plugins.iter().find(class)?;
    let mut found = FlappingOverrides::default();
    for (key, text) in &plugin.options {
        // What cannot be read is an error elsewhere.
        let _ = put(&mut found, key, text);
    }
    Some(Flapping::default().with(&found))
}

/// Reads one setting. `None` for a key that is none of them.
///
/// # Errors
/// What the value should be.
pub(super) fn put(
    settings: &mut FlappingOverrides,
    key: &str,
    text: &str,
) -> Option<Result<(), &'static str>> {
    let seconds = || coerce::float(text).and_then(coerce::duration);
    let number = || coerce::integer(text);
    Some(match key {
        "active" => {
            settings.active = coerce::boolean(text);
            settings.active.map(drop).ok_or("is not yes or no")
        }
        "attempts" => {
            settings.attempts = number()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| (1..=ATTEMPTS_MAX).contains(n));
            settings
                .attempts
                .map(drop)
                .ok_or("is not a number from 1 to 1000")
        }
        "window" => {
            settings.window = seconds();
            settings
                .window
                .map(drop)
                .ok_or("is not a number of seconds")
        }
        "retry_in" => {
            settings.retry_in = seconds();
            settings
                .retry_in
                .map(drop)
                .ok_or("is not a number of seconds")
        }
        "max_retry" => {
            settings.max_retry = number().and_then(|n| match n {
                -1 => Some(RetryLimit::Forever),
                n => u32::try_from(n).ok().map(RetryLimit::Attempts),
            });
            settings
                .max_retry
                .map(drop)
                .ok_or("is not a number from -1 (for ever)")
        }
        _ => return None,
    })
}

/// Ends that are remembered, so this bounds what one watcher remembers.
const ATTEMPTS_MAX: u32 = 1000;

/// Reads `flapping.*` of a watcher.
pub(super) fn read(reader: &mut Reader<'_>) -> FlappingOverrides {
    let mut settings = FlappingOverrides::default();
    for (key, written) in reader.with_prefix("flapping.") {
        report(
            reader,
            written.entry,
            put(&mut settings, key, &written.value),
        );
    }
    settings
}

fn report(reader: &mut Reader<'_>, entry: &IniEntry, outcome: Option<Result<(), &'static str>>) {
    match outcome {
        Some(Ok(())) => {}
        Some(Err(problem)) => {
            let value = super::ini::quoted(&entry.value);
            reader.error(entry, &format!("{problem}: {value}"));
        }
        None => reader.warn(
            entry,
            "is unknown; there are attempts, window, retry_in, max_retry and active",
        ),
    }
}

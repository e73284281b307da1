//! WatchDog and CommandReloader.

use std::time::Duration;

use regex_lite::Regex;

use super::options::{OptionError, PluginOptions};

/// WatchDog's options.
pub(super) const OPTIONS: [&str; 8] = [
    "loop_rate",
    "watchers_regex",
    "msg_regex",
    "max_count",
    "ip",
    "port",
    "watchers_stop_signal",
    "watchers_graceful_timeout",
];

/// WatchDog.
#[derive(Clone, Debug)]
pub struct WatchDogSettings {
    /// Whose processes are watched over.
    pub watchers: Regex,
    /// What a heartbeat looks like.
    pub message: Regex,
    /// How often it looks.
    pub period: Duration,
    /// Periods of silence that are too long.
    pub max_count: u32,
    /// What a silent process is sent, if not what its watcher says.
    pub stop_signal: Option<i32>,
    /// How long it then has, if not what its watcher says.
    pub graceful_timeout: Option<Duration>,
    /// Where heartbeats are received.
    pub ip: String,
    /// The same.
    pub port: u16,
}

/// As Python's `re.match`: from the beginning on.
fn anchored(
    options: &PluginOptions,
    key: &'static str,
    default: &str,
) -> Result<Regex, OptionError> {
    let text = options.text(key, default);
    let compiled = Regex::new(&format!(r"\A(?:{text})"));
    compiled.map_err(|error| OptionError::new(key, format!("is no expression: {error}")))
}

impl WatchDogSettings {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        let graceful_timeout = match options.get("watchers_graceful_timeout") {
            None => None,
            Some(_) => Some(options.seconds("watchers_graceful_timeout", 0.0)?),
        };
        let message = anchored(options, "msg_regex", "^(?P<pid>.*);(?P<timestamp>.*)$")?;
        if !message.capture_names().any(|name| name == Some("pid")) {
            return Err(OptionError::new("msg_regex", "has no group named pid"));
        }
        Ok(Self {
            watchers: anchored(options, "watchers_regex", ".*")?,
            message,
            period: options.seconds("loop_rate", 60.0)?,
            max_count: options.parsed("max_count")?.unwrap_or(3),
            stop_signal: options.signal("watchers_stop_signal")?,
            graceful_timeout,
            ip: options.text("ip", "127.0.0.1").to_owned(),
            port: options.parsed("port")?.unwrap_or(1664),
        })
    }
}

/// CommandReloader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandReloaderSettings {
    /// How often it looks.
    pub period: Duration,
}

impl CommandReloaderSettings {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        Ok(Self {
            period: options.seconds("loop_rate", 1.0)?,
        })
    }
}

//! ResourceWatcher.

use std::time::Duration;

use super::options::{OptionError, PluginOptions, size};
use super::statsd::StatsdSettings;
use crate::config::ini::quoted;

/// Its options beside those of statsd.
pub(super) const OPTIONS: [&str; 11] = [
    "watcher",
    "service",
    "loop_rate",
    "max_cpu",
    "min_cpu",
    "max_mem",
    "min_mem",
    "health_threshold",
    "max_count",
    "process_children",
    "child_signal",
];

/// A bound on memory: percent of the machine's, or bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    /// Percent of the machine's.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
}

impl Memory {
    fn read(options: &PluginOptions, key: &'static str) -> Result<Option<Self>, OptionError> {
        let Some(text) = options.get(key) else {
            return Ok(None);
        };
        match (text.parse(), size(text)) {
            (Ok(percent), _) => Ok(Some(Self::Percent(percent))),
            (_, Some(bytes)) => Ok(Some(Self::Bytes(bytes))),
            _ => {
                let text = quoted(text);
                let reason = format!("is neither percent nor a size such as 50M: {text}");
                Err(OptionError::new(key, reason))
            }
        }
    }
}

/// What processes may use. A bound of 0 is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Percent of a processor.
    pub max_cpu: f64,
    /// The same.
    pub min_cpu: Option<f64>,
    /// Resident memory.
    pub max_mem: Option<Memory>,
    /// The same.
    pub min_mem: Option<Memory>,
    /// Middle of the percentages.
    pub health: f64,
    /// More often in a row than this is too often.
    pub max_count: u64,
}

impl Bounds {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        Ok(Self {
            max_cpu: options.number("max_cpu", 90.0)?,
            min_cpu: options.parsed("min_cpu")?,
            max_mem: Memory::read(options, "max_mem")?.or(Some(Memory::Percent(90.0))),
            min_mem: Memory::read(options, "min_mem")?,
            health: options.number("health_threshold", 75.0)?,
            max_count: options.parsed("max_count")?.unwrap_or(3),
        })
    }
}

/// ResourceWatcher.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceWatcherSettings {
    /// Where metrics go.
    pub statsd: StatsdSettings,
    /// Whom it looks after.
    pub watcher: String,
    /// What is too much and too little.
    pub bounds: Bounds,
    /// Whether children of its processes are looked at one by one.
    pub process_children: bool,
    /// What a child is sent.
    pub child_signal: i32,
    /// How often it looks.
    pub period: Duration,
}

impl ResourceWatcherSettings {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        // The older name of the option.
        let watcher = options.get("watcher").or_else(|| options.get("service"));
        let missing =
            || OptionError::new("watcher", "is missing: which one shall be looked after?");
        Ok(Self {
            statsd: StatsdSettings::read(options, "app")?,
            watcher: watcher.ok_or_else(missing)?.to_owned(),
            bounds: Bounds::read(options)?,
            process_children: options.flag("process_children")?,
            child_signal: options.signal("child_signal")?.unwrap_or(15),
            period: options.seconds("loop_rate", 60.0)?,
        })
    }
}

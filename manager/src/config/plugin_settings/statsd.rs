//! Where metrics go, and FullStats.

use std::time::Duration;

use super::options::{OptionError, PluginOptions};

/// What all plugins with metrics share.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsdSettings {
    /// Part of every bucket's name.
    pub application: String,
    /// The server's.
    pub host: String,
    /// The server's.
    pub port: u16,
    /// Told to the server; everything is sent.
    pub sample_rate: f64,
}

impl StatsdSettings {
    /// Reads them; without `application_name` the plugin's own.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions, application: &str) -> Result<Self, OptionError> {
        Ok(Self {
            application: options.text("application_name", application).to_owned(),
            host: options.text("host", "localhost").to_owned(),
            port: options.parsed("port")?.unwrap_or(8125),
            sample_rate: options.number("sample_rate", 1.0)?,
        })
    }
}

/// FullStats.
#[derive(Clone, Debug, PartialEq)]
pub struct FullStatsSettings {
    /// Where metrics go.
    pub statsd: StatsdSettings,
    /// How often.
    pub period: Duration,
}

impl FullStatsSettings {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        Ok(Self {
            statsd: StatsdSettings::read(options, "app")?,
            period: options.seconds("loop_rate", 60.0)?,
        })
    }
}

//! Options of the plugins that are built in, as text and as what the plugins work with. Pure: the configuration is
//! checked with the same functions that a plugin begins with, so what is wrong is found before anything runs.

mod observers;
mod options;
mod resources;
mod statsd;
mod watchdog;

pub use self::observers::{HttpObserverSettings, RedisObserverSettings, RedisServer};
pub use self::options::{OptionError, PluginOptions};
pub use self::resources::{Bounds, Memory, ResourceWatcherSettings};
pub use self::statsd::{FullStatsSettings, StatsdSettings};
pub use self::watchdog::{CommandReloaderSettings, WatchDogSettings};

use super::plugin_watcher::BuiltIn;

/// What is wrong with the options of a plugin.
///
/// # Errors
/// The first option that makes no sense.
pub fn check(kind: BuiltIn, options: &PluginOptions) -> Result<(), OptionError> {
    is_active(options)?;
    match kind {
        // Read by the configuration itself.
        BuiltIn::Flapping => Ok(()),
        BuiltIn::StatsdEmitter => StatsdSettings::read(options, "app").map(drop),
        BuiltIn::FullStats => FullStatsSettings::read(options).map(drop),
        BuiltIn::ResourceWatcher => ResourceWatcherSettings::read(options).map(drop),
        BuiltIn::RedisObserver => RedisObserverSettings::read(options).map(drop),
        BuiltIn::HttpObserver => HttpObserverSettings::read(options).map(drop),
        BuiltIn::WatchDog => WatchDogSettings::read(options).map(drop),
        BuiltIn::CommandReloader => CommandReloaderSettings::read(options).map(drop),
    }
}

/// Whether a plugin runs at all (`active`).
///
/// # Errors
/// When that makes no sense.
pub fn is_active(options: &PluginOptions) -> Result<bool, OptionError> {
    match options.get("active") {
        None => Ok(true),
        Some(_) => options.flag("active"),
    }
}

/// The options that a plugin knows.
#[must_use]
pub fn known(kind: BuiltIn) -> Vec<&'static str> {
    // Those of every plugin; the name is only Circus's own affair.
    const ALL: [&str; 2] = ["active", "name"];
    const STATSD: [&str; 4] = ["application_name", "host", "port", "sample_rate"];
    let (statsd, own): (&[&str], &[&str]) = match kind {
        BuiltIn::Flapping => (&[], &["attempts", "window", "retry_in", "max_retry"]),
        BuiltIn::StatsdEmitter => (&STATSD, &[]),
        BuiltIn::FullStats => (&STATSD, &["loop_rate"]),
        BuiltIn::ResourceWatcher => (&STATSD, &resources::OPTIONS),
        BuiltIn::RedisObserver => (&STATSD, &observers::REDIS_OPTIONS),
        BuiltIn::HttpObserver => (&STATSD, &observers::HTTP_OPTIONS),
        BuiltIn::WatchDog => (&[], &watchdog::OPTIONS),
        BuiltIn::CommandReloader => (&[], &["loop_rate"]),
    };
    ALL.iter().chain(statsd).chain(own).copied().collect()
}

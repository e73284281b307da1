//! Which plugins are built in, and the watcher under which any other runs: Circus's own
//! `circus-plugin`, started as Circus started it (reference, section 8.1).

use std::fmt::Write as _;

use super::model::{
    DEFAULT_ENDPOINT, DEFAULT_PUBSUB_ENDPOINT, EnvironmentBase, GlobalSettings, PluginConfig,
    WatcherConfig,
};
use super::watcher::Environment;

/// A plugin whose work the manager does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// Stops watchers whose processes end too often.
    Flapping,
    /// Counts events for statsd.
    StatsdEmitter,
    /// Tells statsd what processes use.
    FullStats,
    /// Asks a redis server how it is.
    RedisObserver,
    /// Fetches an address.
    HttpObserver,
    /// Restarts a watcher that uses too much.
    ResourceWatcher,
    /// Stops processes that fall silent.
    WatchDog,
    /// Restarts watchers whose program is replaced.
    CommandReloader,
}

/// The classes that [`built_in`] knows.
pub(super) const BUILT_IN: [&str; 8] = [
    "circus.plugins.flapping.Flapping",
    "circus.plugins.statsd.StatsdEmitter",
    "circus.plugins.statsd.FullStats",
    "circus.plugins.redis_observer.RedisObserver",
    "circus.plugins.http_observer.HttpObserver",
    "circus.plugins.resource_watcher.ResourceWatcher",
    "circus.plugins.watchdog.WatchDog",
    "circus.plugins.command_reloader.CommandReloader",
];

/// What is built in under the name of a class of Circus's.
#[must_use]
pub fn built_in(class: &str) -> Option<BuiltIn> {
    match class.strip_prefix("circus.plugins.")? {
        "flapping.Flapping" => Some(BuiltIn::Flapping),
        "statsd.StatsdEmitter" => Some(BuiltIn::StatsdEmitter),
        "statsd.FullStats" => Some(BuiltIn::FullStats),
        "redis_observer.RedisObserver" => Some(BuiltIn::RedisObserver),
        "http_observer.HttpObserver" => Some(BuiltIn::HttpObserver),
        "resource_watcher.ResourceWatcher" => Some(BuiltIn::ResourceWatcher),
        "watchdog.WatchDog" => Some(BuiltIn::WatchDog),
        "command_reloader.CommandReloader" => Some(BuiltIn::CommandReloader),
        _ => None,
    }
}

/// The Python that has Circus, unless the section's `python` names another.
const PYTHON: &str = "python3";

/// The watcher for a plugin that is a Python class; nothing for one that is built in.
pub(super) fn watcher_of(
    plugin: &PluginConfig,
    global: &GlobalSettings,
    environment: &Environment,
) -> Option<WatcherConfig> {
    let class = plugin.class.as_deref()?;
    if built_in(class).is_some() {
        return None;
    }
    let mut config = format!("name:plugin:{}", plugin.name);
    for (key, value) in plugin.options.iter().filter(|(key, _)| *key != "python") {
        // Circus does not quote either: a value with ::: in it is two.
        let _ = write!(config, ":::{key}:{value}");
    }
    let endpoint = global.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT);
    let events = global.pubsub_endpoint.as_deref();
    let events = events.unwrap_or(DEFAULT_PUBSUB_ENDPOINT);
    let python = plugin.options.get("python").map_or(PYTHON, String::as_str);
    let level = if global.debug { "DEBUG" } else { "INFO" };
    let words = [
        python,
        "-c",
        "from circus import plugins;plugins.main()",
        "--endpoint",
        endpoint,
        "--pubsub",
        events,
        "--config",
        &config,
        "--log-level",
        level,
        class,
    ];
    let cmd = shlex::try_join(words).ok()?;
    let name = format!("plugin:{}", plugin.name);
    let mut watcher = WatcherConfig::with_defaults(&name, plugin.origin.clone());
    let yes = || "true".to_owned();
    watcher.options = [
        ("cmd", cmd.clone()),
        ("priority", plugin.priority.to_string()),
        ("singleton", yes()),
        ("copy_env", yes()),
        ("copy_path", yes()),
        ("close_child_stdout", (!global.debug).to_string()),
        ("close_child_stderr", (!global.debug).to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    watcher.cmd = cmd;
    watcher.priority = plugin.priority;
    watcher.singleton = true;
    watcher.environment = environment.own.clone();
    watcher.environment_base = EnvironmentBase::Manager;
    watcher.copy_path = true;
    watcher.close_child_stdout = !global.debug;
    watcher.close_child_stderr = !global.debug;
    Some(watcher)
}

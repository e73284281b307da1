//! Circus's plugins, built in: the same options, the same metrics, no process for each.
//!
//! A plugin looks at events and answers like any client, and asks for things in the same vocabulary; it
//! cannot do what a client could not. Plugins of others are Python programs, which run under a watcher
//! ([`crate::config::plugin_watcher`]); Flapping is a decision of the engine.

mod command_reloader;
mod http_observer;
mod redis_observer;
mod resource_watcher;
mod statsd;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::command::{Change, Command, Selection, StatsRequest, Wait, WatcherStatistics};
use crate::config::model::{Configuration, PluginConfig};
use crate::config::plugin_settings::{
    CommandReloaderSettings, FullStatsSettings, HttpObserverSettings, PluginOptions,
    RedisObserverSettings, ResourceWatcherSettings, StatsdSettings, WatchDogSettings, is_active,
};
use crate::config::plugin_watcher::{BuiltIn, built_in};
use crate::shells::asking::Asker;
use crate::shells::events::Events;
use crate::shells::log::Log;

/// What a plugin works with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Whom things are asked of.
    pub asker: Asker,
    /// What happens.
    pub events: Events,
    /// Where is said what it does.
    pub log: Log,
}

impl Tools {
    /// Restarts a watcher without waiting for it.
    async fn restart(&self, watcher: &str) -> Result<(), String> {
        let command = Command::Restart(Change {
            selection: Selection::one(watcher),
            wait: Wait::No,
        });
        let answer = self.asker.ask(command).await;
        answer.map(drop).map_err(|refusal| refusal.reason)
    }

    /// What processes use, of one watcher or all.
    async fn statistics(&self, watcher: Option<&str>) -> Result<Vec<WatcherStatistics>, String> {
        let request = StatsRequest {
            selection: watcher.map_or_else(Selection::default, Selection::one),
            ..StatsRequest::default()
        };
        match self.asker.ask(Command::Stats(request)).await {
            Ok(crate::command::Answer::Stats { watchers }) => Ok(watchers),
            Ok(_) => Err("the manager has answered another question".to_owned()),
            Err(refusal) => Err(refusal.reason),
        }
    }
}

/// Runs what the configuration names, and what it names after it has changed, until the event loop ends.
pub async fn run(mut configuration: watch::Receiver<Arc<Configuration>>, tools: Tools) {
    let mut running = JoinSet::new();
    let mut plugins: Vec<PluginConfig> = Vec::new();
    loop {
        let wanted = configuration.borrow_and_update().plugins.clone();
        if wanted != plugins {
            // Their counters begin anew, as those of a restarted plugin do.
            running.abort_all();
            running = JoinSet::new();
            for plugin in &wanted {
                if let Some(kind) = plugin.class.as_deref().and_then(built_in) {
                    let name = plugin.name.clone();
                    let options = PluginOptions::new(plugin.options.clone());
                    let tools = tools.clone();
                    running.spawn(async move {
                        if let Err(reason) = begin(kind, &options, tools.clone()).await {
                            let text = format!("plugin {name:?} does not run: {reason}");
                            tools.log.error(text);
                        }
                    });
                }
            }
            plugins = wanted;
        }
        if configuration.changed().await.is_err() {
            return;
        }
    }
}

/// Runs one until it is ended from outside. Its options made sense when the configuration was read; what
/// is wrong with the world (a port that is taken, a host that is unknown) is found here.
async fn begin(kind: BuiltIn, options: &PluginOptions, tools: Tools) -> Result<(), String> {
    let say = |error: crate::config::plugin_settings::OptionError| error.to_string();
    if !is_active(options).map_err(say)? {
        return Ok(());
    }
    match kind {
        BuiltIn::StatsdEmitter => {
            let settings = StatsdSettings::read(options, "app").map_err(say)?;
            statsd::emit(settings, tools).await
        }
        BuiltIn::FullStats => {
            let settings = FullStatsSettings::read(options).map_err(say)?;
            statsd::full_stats(settings, tools).await
        }
        BuiltIn::ResourceWatcher => {
            let settings = ResourceWatcherSettings::read(options).map_err(say)?;
            resource_watcher::run(settings, tools).await
        }
        BuiltIn::RedisObserver => {
            let settings = RedisObserverSettings::read(options).map_err(say)?;
            redis_observer::run(settings, tools).await
        }
        BuiltIn::HttpObserver => {
            let settings = HttpObserverSettings::read(options).map_err(say)?;
            http_observer::run(settings, tools).await
        }
        BuiltIn::WatchDog => {
            let settings = WatchDogSettings::read(options).map_err(say)?;
            watchdog::run(settings, tools).await
        }
        BuiltIn::CommandReloader => {
            let settings = CommandReloaderSettings::read(options).map_err(say)?;
            command_reloader::run(settings, tools).await
        }
        // The engine does it.
        BuiltIn::Flapping => Ok(()),
    }
}

/// Ticks every `period`, first after one.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

//! Random configurations, and random changes to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::kernel::{Weather, one_in};
use crate::config::model::{
    Backoff, Configuration, GlobalSettings, Location, RetryLimit, SocketConfig, WatcherConfig,
};
use crate::engine::random::Random;

/// How wild a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Only managers, connections and children fail: nobody may ever get a signal, and everything
    /// can be counted.
    Quiet,
    /// Operators, other configurations, ageing children, refused values as well.
    Wild,
}

pub(super) fn configuration(random: &mut Random, mood: Mood) -> Configuration {
    let watchers = (0..=random.up_to(2))
        .map(|index| watcher(random, index, mood))
        .collect();
    let mut configuration = Configuration {
        path: PathBuf::from("simulation.ini"),
        files: vec!["simulation.ini".to_owned()],
        global: GlobalSettings {
            warmup_delay: Duration::from_millis(500 * random.up_to(2)),
            ..GlobalSettings::default()
        },
        watchers,
        sockets: vec![SocketConfig::with_defaults(
            "web",
            Location::new("simulation.ini", 1, 1),
        )],
        plugins: Vec::new(),
        warnings: Vec::new(),
    };
    if one_in(random, 3) {
        configuration.sockets.clear();
    }
    configuration
}

fn watcher(random: &mut Random, index: u64, mood: Mood) -> WatcherConfig {
    let name = ["web", "Two Words", "dot.ted"][usize::try_from(index % 3).unwrap_or(0)];
    let mut config = WatcherConfig::with_defaults(name, Location::new("simulation.ini", 1, 1));
    config.cmd =
        ["serve", "serve $(circus.sockets.web)"][usize::from(one_in(random, 2))].to_owned();
    config.numprocesses = u32::try_from(random.up_to(3)).unwrap_or(1);
    config.priority = i64::try_from(random.up_to(2)).unwrap_or(0);
    config.warmup_delay = Duration::from_millis(700 * random.up_to(1) * random.up_to(2));
    config.graceful_timeout = Duration::from_millis(1000 * random.up_to(3));
    config.backoff = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(5),
        reset_after: Duration::from_secs(10),
    };
    config.max_retry = match random.up_to(2) {
        0 => RetryLimit::Forever,
        limit => RetryLimit::Attempts(u32::try_from(limit * 2).unwrap_or(2)),
    };
    config.stop_children = one_in(random, 4);
    config.use_papa = one_in(random, 3);
    if mood == Mood::Wild {
        config.autostart = !one_in(random, 6);
        config.respawn = !one_in(random, 6);
        config.singleton = config.numprocesses <= 1 && one_in(random, 4);
        config.send_hup = one_in(random, 6);
        config.max_age = one_in(random, 5).then_some(Duration::from_secs(20));
        config.max_age_variance = Duration::from_secs(5);
    }
    config
}

/// An edit of the file.
pub(super) fn edit(random: &mut Random, configuration: &Configuration) -> Configuration {
    let mut changed = configuration.clone();
    let count = u64::try_from(changed.watchers.len()).unwrap_or(0);
    let index = usize::try_from(random.up_to(count.saturating_sub(1))).unwrap_or(0);
    match random.up_to(3) {
        0 if count > 0 => {
            changed.watchers.remove(index);
        }
        1 if count < 3 => {
            let fresh = watcher(random, count, Mood::Wild);
            if changed.watcher(&fresh.name).is_none() {
                changed.watchers.push(fresh);
            }
        }
        2 if count > 0 => changed.watchers[index].cmd.push_str(" --new"),
        _ => {
            if let Some(watcher) = changed.watchers.get_mut(index).filter(|it| !it.singleton) {
                watcher.numprocesses = u32::try_from(random.up_to(4)).unwrap_or(0);
            }
        }
    }
    changed
}

pub(super) fn weather(random: &mut Random, mood: Mood) -> Weather {
    Weather {
        short_lived: [0, 2, 3, 10][usize::try_from(random.up_to(3)).unwrap_or(0)],
        stubborn: [0, 3][usize::from(one_in(random, 2))],
        failing_spawns: [0, 0, 3, 8][usize::try_from(random.up_to(3)).unwrap_or(0)],
        failing_sockets: [0, 2][usize::from(one_in(random, 2))],
        refused_values: match mood {
            Mood::Quiet => 0,
            Mood::Wild => [0, 0, 0, 20][usize::try_from(random.up_to(3)).unwrap_or(0)],
        },
    }
}

/// Labels of a process of somebody else are empty in the simulation.
pub(super) const fn no_labels() -> BTreeMap<String, String> {
    BTreeMap::new()
}

//! Random configurations, and random changes to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::hooks::{self, HookWeather};
use super::kernel::{Weather, one_in};
use crate::config::amend;
use crate::config::model::{
    Configuration, Flapping, GlobalSettings, Location, RetryLimit, SocketConfig, WatcherConfig,
};
use crate::engine::random::Random;

/// Longer than any child takes, if it is ever ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// How wild a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Only managers, connections and children fail: nobody may ever get a signal, and everything
    /// can be counted.
    Quiet,
    /// Operators, other configurations, ageing children, refused values as well.
    Wild,
}

/// Whether watchers of a run have hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hooked {
    No,
    Yes,
}

pub(super) fn configuration(random: &mut Random, mood: Mood, hooked: Hooked) -> Configuration {
    let watchers = (0..=random.up_to(2))
        .map(|index| watcher(random, index, mood, hooked))
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
        flapping: None,
        warnings: Vec::new(),
    };
    if mood == Mood::Wild && one_in(random, 2) {
        configuration.flapping = Some(Flapping {
            active: true,
            attempts: 1 + u32::try_from(random.up_to(2)).unwrap_or(1),
            window: Duration::from_secs(5),
            retry_in: Duration::from_secs(1 + random.up_to(20)),
            max_retry: match random.up_to(2) {
                0 => RetryLimit::Attempts(1),
                _ => RetryLimit::Forever,
            },
        });
    }
    if one_in(random, 3) {
        configuration.sockets.clear();
    }
    configuration
}

fn watcher(random: &mut Random, index: u64, mood: Mood, hooked: Hooked) -> WatcherConfig {
    let name = ["web", "Two Words", "dot.ted"][usize::try_from(index % 3).unwrap_or(0)];
    let mut options = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        options.insert(key.to_owned(), value);
    };
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64().to_string();
    let cmd = ["serve", "serve $(circus.sockets.web)"][usize::from(one_in(random, 2))];
    put("cmd", cmd.to_owned());
    let numprocesses = random.up_to(3);
    put("numprocesses", numprocesses.to_string());
    put("priority", random.up_to(2).to_string());
    put(
        "warmup_delay",
        seconds(700 * random.up_to(1) * random.up_to(2)),
    );
    put("graceful_timeout", random.up_to(3).to_string());
    put("backoff_min", "0.1".to_owned());
    put("backoff_max", "5".to_owned());
    put("backoff_reset", "10".to_owned());
    let max_retry = match random.up_to(2) {
        0 => "-1".to_owned(),
        limit => (limit * 2).to_string(),
    };
    put("max_retry", max_retry);
    put("stop_children", one_in(random, 4).to_string());
    put("use_papa", one_in(random, 3).to_string());
    if hooked == Hooked::Yes {
        for (key, value) in hooks::options(name) {
            put(&key, value);
        }
    }
    match random.up_to(4) {
        4 => {
            put("ready", "notify".to_owned());
            put("ready_timeout", READY_TIMEOUT.as_secs().to_string());
        }
        0 => put(
            "ready",
            format!("uptime {}", seconds(700 * random.up_to(4))),
        ),
        1 => {
            put("ready", "tcp 127.0.0.1:1".to_owned());
            put("ready_timeout", READY_TIMEOUT.as_secs().to_string());
        }
        _ => {}
    }
    // Later ones depend on earlier ones, so there is no circle.
    let below = ["web", "two words"];
    let below = below.get(..usize::try_from(index % 3).unwrap_or(0));
    let depends_on: Vec<&str> = below
        .into_iter()
        .flatten()
        .copied()
        .filter(|_| one_in(random, 3))
        .collect();
    if !depends_on.is_empty() {
        put("depends_on", depends_on.join(", "));
    }
    if mood == Mood::Wild {
        if one_in(random, 3) {
            put("alive", "tcp 127.0.0.1:2".to_owned());
            put("alive_interval", "10".to_owned());
            put("alive_failures", (1 + random.up_to(2)).to_string());
        }
        if one_in(random, 4) {
            put("watchdog", "20".to_owned());
        }
        put("autostart", (!one_in(random, 6)).to_string());
        put("respawn", (!one_in(random, 6)).to_string());
        let singleton = numprocesses <= 1 && one_in(random, 4);
        put("singleton", singleton.to_string());
        put("send_hup", one_in(random, 6).to_string());
        if one_in(random, 5) {
            put("max_age", "20".to_owned());
        }
        put("max_age_variance", "5".to_owned());
        put("on_demand", one_in(random, 6).to_string());
        if one_in(random, 5) {
            put("max_rss", "1M".to_owned());
        }
        if one_in(random, 5) {
            put("success_exit_codes", "1".to_owned());
        }
    }
    define(name, &options)
}

fn define(name: &str, options: &BTreeMap<String, String>) -> WatcherConfig {
    match amend::defined(name, options) {
        Ok(config) => config,
        Err(error) => panic!("the scenario makes no sense: {error}"),
    }
}

/// The watcher that operators make and remove, and no file knows.
pub(super) fn extra() -> WatcherConfig {
    define(EXTRA, &extra_options())
}

/// See [`extra`].
pub(super) const EXTRA: &str = "Extra";

pub(super) fn extra_options() -> BTreeMap<String, String> {
    [
        ("cmd", "serve extra"),
        ("numprocesses", "2"),
        ("backoff_max", "5"),
    ]
    .map(|(key, text)| (key.to_owned(), text.to_owned()))
    .into()
}

/// Other options for a watcher of the file.
fn rewrite(config: &mut WatcherConfig, key: &str, value: &str) {
    let mut options = config.options.clone();
    options.insert(key.to_owned(), value.to_owned());
    *config = define(&config.name, &options);
}

/// An edit of the file.
pub(super) fn edit(
    random: &mut Random,
    configuration: &Configuration,
    hooked: Hooked,
) -> Configuration {
    let mut changed = configuration.clone();
    let count = u64::try_from(changed.watchers.len()).unwrap_or(0);
    let index = usize::try_from(random.up_to(count.saturating_sub(1))).unwrap_or(0);
    match random.up_to(3) {
        0 if count > 0 => {
            changed.watchers.remove(index);
        }
        1 if count < 3 => {
            let fresh = watcher(random, count, Mood::Wild, hooked);
            if changed.watcher(&fresh.name).is_none() {
                changed.watchers.push(fresh);
            }
        }
        2 if count > 0 => changed = edit_program(random, configuration),
        _ => {
            if let Some(watcher) = changed.watchers.get_mut(index).filter(|it| !it.singleton) {
                rewrite(watcher, "numprocesses", &random.up_to(4).to_string());
            }
        }
    }
    changed
}

/// An edit after which processes have to be replaced.
pub(super) fn edit_program(random: &mut Random, configuration: &Configuration) -> Configuration {
    let mut changed = configuration.clone();
    let count = u64::try_from(changed.watchers.len()).unwrap_or(0);
    let index = usize::try_from(random.up_to(count.saturating_sub(1))).unwrap_or(0);
    if let Some(watcher) = changed.watchers.get_mut(index) {
        let key = ["cmd", "args"][usize::from(one_in(random, 2))];
        let number = random.up_to(9);
        rewrite(watcher, key, &format!("serve --{number}"));
    }
    changed
}

pub(super) fn weather(random: &mut Random, mood: Mood) -> Weather {
    Weather {
        short_lived: [0, 2, 3, 10][usize::try_from(random.up_to(3)).unwrap_or(0)],
        stubborn: [0, 3][usize::from(one_in(random, 2))],
        failing_spawns: [0, 0, 3, 8][usize::try_from(random.up_to(3)).unwrap_or(0)],
        failing_sockets: [0, 2][usize::from(one_in(random, 2))],
        never_ready: match mood {
            Mood::Quiet => 0,
            Mood::Wild => [0, 5][usize::from(one_in(random, 2))],
        },
        hanging: match mood {
            Mood::Quiet => 0,
            Mood::Wild => [0, 5][usize::from(one_in(random, 2))],
        },
        refused_values: match mood {
            Mood::Quiet => 0,
            Mood::Wild => [0, 0, 0, 20][usize::try_from(random.up_to(3)).unwrap_or(0)],
        },
    }
}

/// In quiet runs hooks are slow at most: one that refuses has processes stopped.
pub(super) fn hook_weather(random: &mut Random, mood: Mood) -> HookWeather {
    let [refusing, failing, silent] = match mood {
        Mood::Quiet => [0; 3],
        Mood::Wild => {
            [[0, 20], [0, 20], [0, 10]].map(|choice| choice[usize::from(one_in(random, 2))])
        }
    };
    HookWeather {
        refusing,
        failing,
        silent,
    }
}

/// Labels of a process of somebody else are empty in the simulation.
pub(super) const fn no_labels() -> BTreeMap<String, String> {
    BTreeMap::new()
}

//! `depends_on`: which watchers have to be up before another one is started.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::Diagnostic;
use super::ini::{quoted, strip};
use super::interpret::did_you_mean;
use super::limits;
use super::model::WatcherConfig;
use super::section::{Findings, Reader};
use super::suggest;

/// The option's name.
const KEY: &str = "depends_on";

/// Names with commas between, as the names themselves may have spaces.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<String> {
    let Some(written) = reader.written(KEY) else {
        return Vec::new();
    };
    let names = written.value.split(',').map(strip);
    let names: Vec<String> = names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.len() > limits::DEPENDENCIES {
        let problem = format!("names more than {} watchers", limits::DEPENDENCIES);
        reader.error(written.entry, &problem);
        return Vec::new();
    }
    names
}

/// Names that nobody has, and watchers that wait for each other.
pub(super) fn check(watchers: &[WatcherConfig], findings: &mut Findings) {
    let names: BTreeMap<String, &str> = watchers
        .iter()
        .map(|watcher| (watcher.key(), watcher.name.as_str()))
        .collect();
    for watcher in watchers {
        for name in &watcher.depends_on {
            if names.contains_key(&name.to_lowercase()) {
                continue;
            }
            let meant = did_you_mean(suggest::nearest(name, names.values().copied()));
            let problem = format!("names a watcher that does not exist: {}", quoted(name));
            error(watcher, &format!("{problem}{meant}"), findings);
        }
    }
    if let Some(chain) = cycle(watchers.iter()) {
        let first = watchers
            .iter()
            .find(|watcher| chain.first() == Some(&watcher.name));
        if let Some(watcher) = first {
            let problem = format!("goes in a circle: {}", chain.join(" -> "));
            error(watcher, &problem, findings);
        }
    }
}

fn error(watcher: &WatcherConfig, problem: &str, findings: &mut Findings) {
    let place = watcher.written_at.get(KEY).unwrap_or(&watcher.origin);
    let message = format!("watcher {}: {KEY} {problem}", quoted(&watcher.name));
    findings
        .errors
        .push(Diagnostic::error(place.clone(), message));
}

/// Names of watchers that wait for each other, the first one again at the end; nothing where all
/// of them can be started.
#[must_use]
pub fn cycle<'a>(watchers: impl Iterator<Item = &'a WatcherConfig>) -> Option<Vec<String>> {
    let watchers: BTreeMap<String, &WatcherConfig> =
        watchers.map(|watcher| (watcher.key(), watcher)).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in watchers.keys() {
        // A path from `start`, with what is left to look at behind each of its watchers.
        let mut path: Vec<(&str, std::slice::Iter<'_, String>)> = Vec::new();
        let mut next = Some(start.as_str());
        loop {
            if let Some(key) = next.take()
                && !done.contains(key)
                && let Some((key, watcher)) = watchers.get_key_value(key)
            {
                if let Some(begin) = path.iter().position(|(other, _)| other == key) {
                    let keys = path.iter().skip(begin).map(|(key, _)| *key);
                    let keys = keys.chain([key.as_str()]);
                    let names = keys.filter_map(|key| watchers.get(key));
                    return Some(names.map(|watcher| watcher.name.clone()).collect());
                }
                path.push((key, watcher.depends_on.iter()));
            }
            let Some((key, rest)) = path.last_mut() else {
                break;
            };
            match rest.next() {
                Some(name) => {
                    let lowered = name.to_lowercase();
                    next = watchers
                        .get_key_value(&lowered)
                        .map(|(key, _)| key.as_str());
                }
                None => {
                    done.insert(*key);
                    path.pop();
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Location;

    fn watcher(name: &str, depends_on: &[&str]) -> WatcherConfig {
        let mut config = WatcherConfig::with_defaults(name, Location::new("x.ini", 1, 1));
        config.depends_on = depends_on.iter().map(|name| (*name).to_owned()).collect();
        config
    }

    #[test]
    fn circles_are_named_from_their_beginning_to_it_again() {
        let all = [
            watcher("Web", &["cache", "db"]),
            watcher("cache", &["DB"]),
            watcher("db", &["disk"]),
            watcher("disk", &["cache"]),
            watcher("other", &["web", "nobody"]),
        ];
        assert_eq!(
            cycle(all.iter()),
            Some(["cache", "db", "disk", "cache"].map(str::to_owned).to_vec())
        );
        assert_eq!(cycle(all[..3].iter()), None);
        let own = [watcher("a", &["A"])];
        assert_eq!(
            cycle(own.iter()),
            Some(["a", "a"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn a_long_chain_and_many_ways_take_no_time() {
        let names: Vec<String> = (0..3000).map(|number| format!("w{number}")).collect();
        let mut all: Vec<WatcherConfig> = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let below: Vec<&str> = names[place + 1..]
                .iter()
                .take(5)
                .map(String::as_str)
                .collect();
            all.push(watcher(name, &below));
        }
        assert_eq!(cycle(all.iter()), None);
    }
}

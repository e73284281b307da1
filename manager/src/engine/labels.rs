//! Labels on our processes: how one manager recognises what another one started.

use std::collections::BTreeMap;

use super::ids::{WatcherKey, WorkerId};

/// Whose process it is: the namespace of the managers that care for it.
pub const NAMESPACE: &str = "kingpole.namespace";
/// Key of the watcher.
pub const WATCHER: &str = "kingpole.watcher";
/// Worker id.
pub const WORKER: &str = "kingpole.worker";
/// Fingerprint of the configuration it was started from.
pub const CONFIGURATION: &str = "kingpole.configuration";
/// Fingerprint of the part of it that does not depend on the manager's environment.
pub const PROGRAM: &str = "kingpole.program";
/// How many processes of the same worker id ended by themselves in a row before it.
pub const RESTARTS: &str = "kingpole.restarts";
/// Key of the spawn request that started it.
pub const SPAWN: &str = "kingpole.spawn";

/// How often it was told to say that it is alive, microseconds.
pub const WATCHDOG: &str = "kingpole.watchdog";

/// On a process that works for managers and is no child of anybody's: what it does.
pub const HELP: &str = "kingpole.help";

/// Whether it is one of those.
#[must_use]
pub fn is_help(labels: &BTreeMap<String, String>) -> bool {
    labels.contains_key(HELP)
}

/// What the labels of one of our processes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Watcher it belongs to.
    pub watcher: WatcherKey,
    /// Worker id.
    pub worker: WorkerId,
    /// Fingerprint of the configuration it was started from.
    pub configuration: String,
    /// Fingerprint without the environment; none for what an older manager started.
    pub program: Option<String>,
    /// How many processes of the worker id ended by themselves before it.
    pub restarts: u32,
    /// Key of the spawn request.
    pub spawn: String,
    /// How often it was told to say that it is alive, microseconds.
    pub watchdog_us: Option<u64>,
}

impl Identity {
    /// As labels in a namespace.
    #[must_use]
    pub fn into_labels(self, namespace: &str) -> BTreeMap<String, String> {
        let program = self.program.map(|text| (PROGRAM, text));
        let always = [
            (NAMESPACE, namespace.to_owned()),
            (WATCHER, self.watcher.as_str().to_owned()),
            (WORKER, self.worker.to_string()),
            (CONFIGURATION, self.configuration),
            (RESTARTS, self.restarts.to_string()),
            (SPAWN, self.spawn),
        ];
        let watchdog = self.watchdog_us.map(|us| (WATCHDOG, us.to_string()));
        let labels = always.into_iter().chain(program).chain(watchdog);
        labels.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Read back. `None` for a process of somebody else, which includes one whose labels carry our
    /// namespace but make no sense: what cannot be understood is not touched.
    #[must_use]
    pub fn from_labels(labels: &BTreeMap<String, String>, namespace: &str) -> Option<Self> {
        if labels.get(NAMESPACE)? != namespace {
            return None;
        }
        Some(Self {
            watcher: WatcherKey::of(labels.get(WATCHER)?),
            worker: WorkerId(labels.get(WORKER)?.parse().ok().filter(|id| *id > 0)?),
            configuration: labels.get(CONFIGURATION).cloned().unwrap_or_default(),
            program: labels.get(PROGRAM).cloned(),
            restarts: labels
                .get(RESTARTS)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            spawn: labels.get(SPAWN).cloned().unwrap_or_default(),
            watchdog_us: labels.get(WATCHDOG).and_then(|text| text.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            watcher: WatcherKey::of("Web Front"),
            worker: WorkerId(3),
            configuration: "abc".to_owned(),
            program: Some("def".to_owned()),
            restarts: 2,
            spawn: "k".to_owned(),
            watchdog_us: Some(5_000_000),
        }
    }

    #[test]
    fn labels_are_read_back_in_the_same_namespace_only() {
        let labels = identity().into_labels("one");
        assert_eq!(Identity::from_labels(&labels, "one"), Some(identity()));
        assert_eq!(Identity::from_labels(&labels, "two"), None);
    }

    #[test]
    fn labels_that_make_no_sense_belong_to_somebody_else() {
        for broken in ["", "0", "-1", "x", "99999999999"] {
            let mut labels = identity().into_labels("one");
            labels.insert(WORKER.to_owned(), broken.to_owned());
            assert_eq!(Identity::from_labels(&labels, "one"), None, "{broken}");
        }
        assert_eq!(Identity::from_labels(&BTreeMap::new(), "one"), None);
    }
}

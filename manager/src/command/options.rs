//! Arguments of the commands that look at options or change them, or watchers as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Selection, Wait};

/// Arguments of add.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Name of the new watcher.
    pub name: String,
    /// Its options as in a section `[watcher:NAME]`, `cmd` at least. Numbers and booleans may be
    /// given as such; `env` is an object of texts, and its whole environment.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    /// The watcher, by its exact name, whose command, environment and so on it has where `options` say nothing else: one process
    /// of the same kind, without its log files, and not replaced when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// Variables that are laid over that watcher's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Milliseconds after which it is removed; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_ms: Option<u64>,
    /// Whether it is started at once.
    #[serde(default)]
    pub start: bool,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

impl Add {
    /// One process more of a watcher, with other variables, for so many milliseconds.
    #[must_use]
    pub fn profile(watcher: &str, env: BTreeMap<String, String>, lifetime_ms: u64) -> Self {
        Self {
            name: format!("{watcher}-profile"),
            like: Some(watcher.to_owned()),
            env,
            lifetime_ms: Some(lifetime_ms),
            start: true,
            ..Self::default()
        }
    }
}

/// Arguments of rm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// What becomes of their processes.
    #[serde(default, rename = "nostop")]
    pub stopping: Stopping,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

/// What becomes of the processes of a watcher that is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub enum Stopping {
    /// They are stopped (`false`).
    #[default]
    Stop,
    /// They run on until they end by themselves (`true`).
    Leave,
}

impl From<bool> for Stopping {
    fn from(nostop: bool) -> Self {
        if nostop { Self::Leave } else { Self::Stop }
    }
}

impl From<Stopping> for bool {
    fn from(stopping: Stopping) -> Self {
        match stopping {
            Stopping::Stop => false,
            Stopping::Leave => true,
        }
    }
}

/// Arguments of set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetOptions {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// Options as in the file and their values; `null` takes back an earlier change (of an
    /// `rlimit_*` it means infinity, as in Circus). All are checked before any is changed.
    pub options: BTreeMap<String, Value>,
    /// When to answer: the processes are replaced if the change needs it.
    #[serde(default)]
    pub wait: Wait,
}

/// Arguments of get and options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetOptions {
    /// The watcher, by its exact name.
    pub watcher: String,
    /// Which options; all for the command `options`.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// Arguments of globaloptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalOptions {
    /// Only this one.
    #[serde(default)]
    pub option: Option<String>,
}

/// Arguments of reloadconfig.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadConfig {
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
}

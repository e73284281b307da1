//! Rolling runs: what they are told, and what is told about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Selection, Wait};
use crate::engine::{Moment, Pid, ProcessId, WorkerId};

/// Arguments of roll: processes are replaced so that never fewer than a number are ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// How.
    #[serde(flatten)]
    pub options: RollOptions,
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
    /// Who asks; known from the connection, never from what a client writes.
    #[serde(skip)]
    pub by: Caller,
}

/// Arguments of deploy: a new version of a watcher, rolled out, and taken back if it does not work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// The watcher, by its exact name.
    pub watcher: String,
    /// Options as in `set`.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    /// Variables that are added to the watcher's environment or changed in it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How.
    #[serde(flatten)]
    pub pace: RollOptions,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
    /// Who asks; see [`Roll::by`].
    #[serde(skip)]
    pub by: Caller,
}

/// Arguments of rollback: an earlier version is rolled out again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The watcher, by its exact name.
    pub watcher: String,
    /// Which version; the one before the current one if none is given.
    #[serde(default)]
    pub version: Option<u64>,
    /// How.
    #[serde(flatten)]
    pub pace: RollOptions,
    /// When to answer.
    #[serde(default)]
    pub wait: Wait,
    /// Who asks; see [`Roll::by`].
    #[serde(skip)]
    pub by: Caller,
}

/// One version of a watcher. What is secret in it, values of its environment, is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// Its number.
    pub version: u64,
    /// When it was rolled out, or found.
    pub at: Moment,
    /// By whom.
    pub by: Caller,
    /// As what; nothing for what was there before the first deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// What became of it.
    pub state: RunState,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is the one that runs.
    pub current: bool,
    /// What it is started with.
    pub cmd: String,
    /// Options other than the file's.
    pub options: BTreeMap<String, String>,
    /// Names of the variables of its environment, where that is not the file's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
}

/// How a rolling run replaces processes. What is left out is what the watcher's own options say, and
/// where those say nothing, the defaults given here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RollOptions {
    /// Never fewer than so many ready processes; default: all (`numprocesses`), and one less where
    /// there may be no extra ones.
    pub min_active: Option<u32>,
    /// So many extra processes at most; default: a quarter of `numprocesses`, at least one. None
    /// for a singleton.
    pub max_surge: Option<u32>,
    /// Milliseconds between two stops of old processes; default: none.
    pub skew_ms: Option<u64>,
    /// Milliseconds within which each new process has to become ready; default: `ready_timeout`.
    pub timeout_ms: Option<u64>,
    /// Old processes are killed without waiting for them to stop by themselves.
    pub force: bool,
    /// Only so many of the oldest processes are replaced; default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
}

/// Who gave a command, as the connection tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Number of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.user, self.uid) {
            (Some(user), _) => f.write_str(user),
            (None, Some(uid)) => write!(f, "user {uid}"),
            (None, None) => f.write_str("somebody"),
        }
    }
}

/// A rolling run: going on, over, or only thought of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// The watcher's name as configured.
    pub watcher: String,
    /// Which of the watcher's runs it is, counted from one; zero for one that was only thought of.
    pub run: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// The version that it brings, of a deploy or rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// How far it is.
    pub state: RunState,
    /// Who began it.
    pub by: Caller,
    /// When it was asked for.
    pub began: Moment,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
    /// What it keeps to, with defaults filled in.
    pub limits: RunLimits,
    /// How many old processes it found.
    pub to_replace: u32,
    /// How many of them are gone.
    pub replaced: u32,
    /// How many processes are ready now.
    pub ready: u32,
    /// How many processes there shall be.
    pub numprocesses: u32,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The process that stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The last lines of that process, as far as this manager remembers them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// What a rolling run keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Never fewer than so many ready processes.
    pub min_active: u32,
    /// So many extra processes at most.
    pub max_surge: u32,
    /// Milliseconds between two stops of old processes.
    #[serde(default)]
    pub skew_ms: u64,
    /// Milliseconds within which each new process has to become ready.
    pub timeout_ms: u64,
    /// Old processes are killed without waiting for them.
    #[serde(default)]
    pub force: bool,
}

/// What a rolling run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The same program, started afresh.
    Reload,
    /// A new version.
    Deploy,
    /// An earlier version.
    Rollback,
}

impl Purpose {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
        }
    }
}

/// How far a rolling run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Only thought of.
    Planned,
    /// Behind other commands.
    Queued,
    /// Going on.
    Rolling,
    /// A process did not become ready; what was replaced is being put back.
    Returning,
    /// Everything was replaced.
    Done,
    /// It was given up, and what it had replaced was put back.
    Failed,
    /// A later word made it pointless.
    Superseded,
}

impl RunState {
    /// Whether nothing more will come of it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Queued | Self::Rolling | Self::Returning => false,
            Self::Planned | Self::Done | Self::Failed | Self::Superseded => true,
        }
    }
}

/// The process that stopped a rolling run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What went wrong, for people.
    pub why: String,
    /// When.
    pub at: Moment,
    /// Which worker; nothing if none could be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Its pid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// The kernel's number of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
}

//! What is remembered in kernel values, one per watcher, so that the next manager decides as this
//! one would have. Nothing else survives; see [`super::context`] for when it is written.
//!
//! Everything here is removed again once it says nothing that the configuration does not say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::flapping::Flaps;
use super::ids::{Moment, Pid, ProcessId, WatcherKey, WorkerId};
use super::notify::Told;
use super::operation::Operation;
use super::restart_policy::Failures;
use super::rolling::{Rolled, Rolling, Version};
use crate::command::{ReloadMethod, Stopping};

/// Prefix of all values of a namespace.
#[must_use]
pub(super) fn prefix(namespace: &str) -> String {
    format!("kingpole.{namespace}.watcher.")
}

/// Name of a watcher's value.
#[must_use]
pub(super) fn key(namespace: &str, watcher: &WatcherKey) -> String {
    format!("{}{watcher}", prefix(namespace))
}

/// All that is remembered about one watcher. The value is this as JSON. Fields are only ever
/// added; each has a default, and those of a newer manager are carried along unread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// The last word on whether it runs, where it is not what `autostart` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<Run>,
    /// The last word on the number of processes, where it is not the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<Count>,
    /// Processes that are being replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollout: Option<Rollout>,
    /// The rolling run that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rolling: Option<Rolling>,
    /// What became of the last rolling run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rolled: Option<Rolled>,
    /// Versions, from the oldest on.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    pub(super) versions: VecDeque<Version>,
    /// No process is started until somebody says so.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) suspended: bool,
    /// How many rolling runs were asked for.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(super) runs: u64,
    /// The command it is busy with. Its effect is in the other fields; it is kept because those
    /// behind it wait for its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<Operation>,
    /// Commands that were accepted and not begun.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    pub(super) queue: VecDeque<Operation>,
    /// Worker ids whose processes fail.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) failures: BTreeMap<WorkerId, Failures>,
    /// Spawns in a row that failed for a permanent reason.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) failed_starts: u32,
    /// Processes that ended and shall not be replaced, because `respawn` is off.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) spent: u32,
    /// The newest of the processes that were asked to stop together: all up to it were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopping_through: Option<ProcessId>,
    /// Processes that were asked to stop for reasons or in ways of their own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) stopping: BTreeMap<ProcessId, StopRecord>,
    /// Ended processes whose end has had its effect here, but may be held by the kernel still.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) accounted: BTreeSet<ProcessId>,
    /// A start is under way that `before_start` has allowed and `after_start` has not seen.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) admitted: bool,
    /// Worker ids whose processes `after_spawn` has not answered for.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) unproven: BTreeSet<WorkerId>,
    /// Worker ids whose processes are not ready yet, where the watcher says when that is.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) starting: BTreeSet<WorkerId>,
    /// What processes said of themselves.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) told: BTreeMap<WorkerId, Told>,
    /// The last ends that nobody asked for, the newest one last.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    pub(super) ends: VecDeque<PastEnd>,
    /// How many processes ended by themselves and were replaced.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(super) restarts: u64,
    /// Ends too close to each other.
    #[serde(skip_serializing_if = "Flaps::is_nothing")]
    pub(super) flaps: Flaps,
    /// Options that operators changed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) options: BTreeMap<String, OptionWord>,
    /// It was made at run time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) added: Option<Added>,
    /// It was removed at run time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) removed: Option<Removed>,
    /// What a newer manager remembered.
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, serde_json::Value>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
const fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Memory {
    /// As the content of a value; `None` if there is nothing to remember.
    #[must_use]
    pub(super) fn to_value(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        // Cannot fail: no map here has keys that JSON cannot express.
        serde_json::to_string(self).ok()
    }

    /// Whether it says something about options or whether there is a watcher at all.
    #[must_use]
    pub(super) fn amends(&self) -> bool {
        !self.options.is_empty() || self.added.is_some() || self.removed.is_some()
    }

    /// Why and how a live process was asked to stop, if it was.
    pub(super) fn stop_of(&self, process: ProcessId) -> Option<StopRecord> {
        let together = self
            .stopping_through
            .is_some_and(|through| process <= through);
        let record = self.stopping.get(&process).copied();
        record.or(together.then_some(StopRecord::plain(StopCause::Unwanted)))
    }

    /// Read back.
    ///
    /// # Errors
    /// Where the text is not what a manager of this version writes.
    pub(super) fn from_value(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Whether a watcher runs, in the last word on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Run {
    /// It runs.
    Running,
    /// It does not.
    Stopped(StopReason),
}

/// Why a watcher does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StopReason {
    /// An operator said so.
    Command,
    /// Its processes could not be started, `max_retry` times in a row.
    GaveUp {
        /// The last error.
        error: String,
        /// Fingerprint of the configuration that could not be started. Another one is another
        /// chance.
        configuration: String,
    },
    /// All its processes ended and `respawn` is off.
    Finished,
    /// Its processes ended again and again.
    Flapping {
        /// When it is started again; never if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Moment>,
        /// Fingerprint of the configuration that did. Another one is another chance.
        configuration: String,
    },
}

/// The value of an option that operators changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OptionWord {
    /// As it would stand in the file.
    pub(super) value: String,
    /// Digest of what the configuration said then. Once it says something else, that is the later
    /// word.
    pub(super) written: String,
}

/// A watcher made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added {
    /// Its name as given.
    pub(super) name: String,
    /// Its options as they would stand in the file; `env` is a JSON object.
    pub(super) options: BTreeMap<String, String>,
    /// Digest of what the configuration said about the name then.
    pub(super) written: String,
    /// When it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Moment>,
}

/// A watcher removed at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    /// What becomes of its processes.
    pub(super) stopping: Stopping,
    /// Digest of what the configuration said about the name then.
    pub(super) written: String,
}

/// A number of processes other than the configured one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// What operators asked for.
    pub(super) numprocesses: u32,
    /// What the configuration said then. Once it says something else, that is the later word.
    pub(super) configured: u32,
}

/// Replacement of processes. Level-triggered: whoever reads this knows what is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rollout {
    /// The newest process that is replaced; the kernel's numbers grow.
    pub(super) through: ProcessId,
    /// In which order.
    pub(super) method: ReloadMethod,
}

/// A process that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StopRecord {
    /// Why.
    pub(super) cause: StopCause,
    /// Signal other than the watcher's `stop_signal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<i32>,
    /// Milliseconds other than the watcher's `graceful_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) graceful_timeout_ms: Option<u64>,
    /// It did not do what it should, so that its end counts as a failure.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) failed: bool,
}

impl StopRecord {
    /// A stop as the watcher's configuration says.
    #[must_use]
    pub(super) const fn plain(cause: StopCause) -> Self {
        Self {
            cause,
            signal: None,
            graceful_timeout_ms: None,
            failed: false,
        }
    }
}

/// What is remembered of a process that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PastEnd {
    /// Which worker it was.
    pub(super) worker: WorkerId,
    /// Linux's number.
    pub(super) pid: Pid,
    /// When it ended.
    pub(super) at: Moment,
    /// How long it had run, milliseconds.
    pub(super) lived_ms: u64,
    /// Exit status, or the negative number of the signal.
    pub(super) exit_code: i32,
    /// Why it was stopped, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

impl StopRecord {
    /// Why, for people.
    pub(super) const fn describe(&self) -> &'static str {
        match self.cause {
            StopCause::Unwanted => "it was asked to stop",
            StopCause::Aged => "it was older than max_age",
            StopCause::Outgrown => "it had more memory than max_rss",
            StopCause::Killed if self.failed => "it failed a probe",
            StopCause::Killed => "an operator killed it",
        }
    }
}

/// Why a process is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StopCause {
    /// Its watcher shall not have it, or not so many, or another one in its place.
    Unwanted,
    /// It is older than `max_age`.
    Aged,
    /// It has more memory than `max_rss`.
    Outgrown,
    /// An operator killed this one, or it failed a probe.
    Killed,
}

impl StopCause {
    /// Whether it counts as one of the ends after which a watcher without `respawn` has fewer
    /// processes.
    #[must_use]
    pub(super) const fn spends(self) -> bool {
        match self {
            Self::Unwanted => false,
            Self::Aged | Self::Outgrown | Self::Killed => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Memory {
        Memory {
            run: Some(Run::Stopped(StopReason::GaveUp {
                error: "no such program".to_owned(),
                configuration: "abc".to_owned(),
            })),
            count: Some(Count {
                numprocesses: 5,
                configured: 3,
            }),
            rollout: Some(Rollout {
                through: ProcessId(9),
                method: ReloadMethod::Sequential,
            }),
            rolling: None,
            rolled: None,
            versions: VecDeque::new(),
            suspended: false,
            runs: 0,
            current: Some(Operation::Start),
            queue: [Operation::Stop, Operation::Step { by: -2 }].into(),
            failures: [(
                WorkerId(1),
                Failures {
                    count: 3,
                    not_before: Moment(77),
                },
            )]
            .into(),
            failed_starts: 2,
            spent: 1,
            stopping_through: Some(ProcessId(2)),
            stopping: [(ProcessId(4), StopRecord::plain(StopCause::Aged))].into(),
            accounted: [ProcessId(3)].into(),
            admitted: false,
            unproven: BTreeSet::new(),
            starting: BTreeSet::new(),
            told: BTreeMap::new(),
            ends: VecDeque::new(),
            restarts: 12,
            flaps: Flaps::default(),
            options: BTreeMap::new(),
            added: None,
            removed: None,
            unknown: BTreeMap::new(),
        }
    }

    fn amended() -> Memory {
        Memory {
            options: [(
                "cmd".to_owned(),
                OptionWord {
                    value: "serve".to_owned(),
                    written: "0a".to_owned(),
                },
            )]
            .into(),
            added: Some(Added {
                name: "Web".to_owned(),
                options: [("cmd".to_owned(), "x".to_owned())].into(),
                written: "-".to_owned(),
                until: None,
            }),
            removed: Some(Removed {
                stopping: Stopping::Leave,
                written: "0b".to_owned(),
            }),
            run: Some(Run::Stopped(StopReason::Flapping {
                until: Some(Moment(7)),
                configuration: "abc".to_owned(),
            })),
            flaps: Flaps {
                ends: vec![Moment(5)],
                tries: 2,
            },
            queue: [Operation::Refresh {
                method: ReloadMethod::Graceful,
            }]
            .into(),
            ..Memory::default()
        }
    }

    #[test]
    fn memory_survives_the_value() {
        let text = full().to_value().expect("something to remember");
        assert_eq!(Memory::from_value(&text).expect("readable"), full());
    }

    #[test]
    fn the_value_with_changed_options_stays_readable() {
        let text = concat!(
            r#"{"run":{"stopped":{"flapping":{"until":7,"configuration":"abc"}}},"#,
            r#""queue":[{"refresh":{"method":"graceful"}}],"#,
            r#""flaps":{"ends":[5],"tries":2},"#,
            r#""options":{"cmd":{"value":"serve","written":"0a"}},"#,
            r#""added":{"name":"Web","options":{"cmd":"x"},"written":"-"},"#,
            r#""removed":{"stopping":true,"written":"0b"}}"#,
        );
        assert_eq!(Memory::from_value(text).expect("readable"), amended());
        assert_eq!(amended().to_value().as_deref(), Some(text));
    }

    #[test]
    fn nothing_to_remember_is_no_value() {
        assert_eq!(Memory::default().to_value(), None);
    }

    #[test]
    fn what_a_newer_manager_remembered_is_carried_along() {
        let memory = Memory::from_value(r#"{"restarts":1,"horizon":{"a":[1]}}"#).expect("readable");
        let text = memory.to_value().expect("something to remember");
        assert!(text.contains(r#""horizon":{"a":[1]}"#), "{text}");
    }

    #[test]
    fn the_value_of_version_1_stays_readable() {
        let text = concat!(
            r#"{"run":{"stopped":{"gave_up":{"error":"no such program","configuration":"abc"}}},"#,
            r#""count":{"numprocesses":5,"configured":3},"#,
            r#""rollout":{"through":9,"method":"sequential"},"current":"start","#,
            r#""queue":["stop",{"step":{"by":-2}}],"#,
            r#""failures":{"1":{"count":3,"not_before":77}},"failed_starts":2,"spent":1,"#,
            r#""stopping_through":2,"stopping":{"4":{"cause":"aged"}},"accounted":[3],"restarts":12}"#,
        );
        assert_eq!(Memory::from_value(text).expect("readable"), full());
        assert_eq!(full().to_value().as_deref(), Some(text));
    }
}

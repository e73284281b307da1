//! Watchers that depend on others: started when those are up and ready, stopped before them.
//!
//! Each watcher decides for itself; what it has to know of the others is here, and changes of it wake
//! those whom they concern. Only starts and stops of whole watchers are ordered: a process that is
//! replaced waits for nobody, and one that runs stays when what it depends on ends.

use std::collections::BTreeMap;

use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::ids::WatcherKey;
use super::manager::Engine;
use super::operation::Operation;
use super::remember::{Run, StopReason};
use super::watcher::{Stage, Standing, Watcher};
use crate::command::{ReloadMethod, Stopping};

/// How watchers stand, as far as others care.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    all: BTreeMap<WatcherKey, Standpoint>,
}

/// How one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standpoint {
    name: String,
    start: Start,
    going: Going,
    depends_on: Vec<WatcherKey>,
}

/// Whether those who depend on it may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Yes.
    Up,
    /// Not yet.
    Coming,
    /// Not before somebody does something about another one that it depends on.
    Stuck,
    /// Not before somebody does something.
    Stopped,
}

/// Whether it is on its way down and not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    No,
    Down,
}

/// Why a watcher is not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaiting {
    /// It will be.
    Coming(String),
    /// Somebody has to do something first.
    Stuck(String),
}

impl Awaiting {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Coming(text) | Self::Stuck(text) => text,
        }
    }
}

impl Watcher {
    fn standpoint(&self) -> Standpoint {
        // A job that has done its work, once, is as good as one that goes on.
        let done = matches!(self.memory().run, Some(Run::Stopped(StopReason::Finished)))
            && self
                .memory()
                .ends
                .back()
                .is_none_or(|end| end.exit_code == 0);
        let replaced = |operation: &Operation| {
            matches!(
                operation,
                Operation::Replace {
                    method: ReloadMethod::Terminate
                }
            )
        };
        let queue = &self.memory().queue;
        let to_be_stopped =
            |operation: &Operation| matches!(operation, Operation::Stop | Operation::Remove);
        let restarting = queue.iter().any(replaced)
            || self.memory().rollout.is_some_and(|rollout| {
                let old = self.children.through(rollout.through).next().is_some();
                rollout.method == ReloadMethod::Terminate && old
            });
        let stopping = !self.wanted() || queue.iter().any(to_be_stopped);
        let start = match self.stage {
            Stage::Up if restarting => Start::Coming,
            Stage::Up => Start::Up,
            // The first connection starts it, and whoever depends on it may make that one.
            Stage::Down if self.is_armed() => Start::Up,
            _ if self.memory().suspended => Start::Stuck,
            Stage::Down if matches!(self.awaiting, Some(Awaiting::Stuck(_))) => Start::Stuck,
            Stage::Down | Stage::Rising | Stage::Falling if self.wanted() => Start::Coming,
            Stage::Down if done => Start::Up,
            Stage::Down | Stage::Rising | Stage::Falling => Start::Stopped,
        };
        let left_alone = self.standing == Standing::Removed(Stopping::Leave);
        let down = (restarting || stopping) && !self.empty() && !left_alone;
        Standpoint {
            name: self.config.name.clone(),
            start,
            going: if down { Going::Down } else { Going::No },
            depends_on: self.dependencies().collect(),
        }
    }

    fn dependencies(&self) -> impl Iterator<Item = WatcherKey> {
        self.config
            .depends_on
            .iter()
            .map(|name| WatcherKey::of(name))
    }

    /// What keeps it from starting, if it has nothing that runs.
    pub(super) fn awaits(&self, cx: &Context) -> Option<Awaiting> {
        #[cfg(test)]
        if cx.fault == Fault::IgnoreDependencies {
            return None;
        }
        if self.config.depends_on.is_empty() || self.stage != Stage::Down || !self.empty() {
            return None;
        }
        for key in self.dependencies() {
            let Some(other) = cx.neighbours.all.get(&key) else {
                let text = format!("waits for watcher {:?}, which does not exist", key.as_str());
                return Some(Awaiting::Stuck(text));
            };
            match other.start {
                Start::Up => {}
                Start::Coming => {
                    let text = format!("waits for watcher {:?} to be up", other.name);
                    return Some(Awaiting::Coming(text));
                }
                Start::Stuck => {
                    let text = format!("waits for watcher {:?}, which waits itself", other.name);
                    return Some(Awaiting::Stuck(text));
                }
                Start::Stopped => {
                    let text = format!("waits for watcher {:?}, which is stopped", other.name);
                    return Some(Awaiting::Stuck(text));
                }
            }
        }
        None
    }

    /// Whether others that depend on it are stopping and have to be gone first.
    pub(super) fn lets_others_go_first(&self, cx: &Context) -> bool {
        let waits =
            |other: &Standpoint| other.going == Going::Down && other.depends_on.contains(&self.key);
        cx.neighbours.all.values().any(waits)
    }
}

impl Engine {
    /// Notes how a watcher stands after it has decided, and wakes those whom a change concerns.
    pub(super) fn note_standpoint(&mut self, key: &WatcherKey) {
        let now = self.watchers.get(key).map(Watcher::standpoint);
        let neighbours = &mut self.cx.neighbours.all;
        let before = match &now {
            Some(now) if neighbours.get(key) == Some(now) => return,
            Some(now) => neighbours.insert(key.clone(), now.clone()),
            None => neighbours.remove(key),
        };
        let others = [before, now].into_iter().flatten();
        let below = others.flat_map(|standpoint| standpoint.depends_on);
        let above = neighbours
            .iter()
            .filter(|(_, it)| it.depends_on.contains(key));
        let concerned: Vec<WatcherKey> = above.map(|(key, _)| key.clone()).chain(below).collect();
        self.dirty.extend(concerned);
    }

    /// All at once, after a connection or another configuration.
    pub(super) fn note_standpoints(&mut self) {
        let known = self.cx.neighbours.all.keys();
        let keys: Vec<WatcherKey> = self.watchers.keys().chain(known).cloned().collect();
        for key in keys {
            self.note_standpoint(&key);
        }
    }
}

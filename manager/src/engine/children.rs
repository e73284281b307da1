//! The live processes of a watcher, with what is asked of them all the time kept at hand: how many
//! are stopping, and when the next one has to be looked at. One event among ten thousand
//! processes must not cost a walk over all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Moment, ProcessId};
use super::worker::{Child, Drained, Stop};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Children {
    all: BTreeMap<ProcessId, Child>,
    stopping: usize,
    /// When to look at whom. May hold times that have lost their meaning, but never misses one.
    timers: BTreeSet<(Moment, ProcessId)>,
}

impl Children {
    pub(super) fn insert(&mut self, id: ProcessId, child: Child) {
        self.remove(id);
        let stop = child.stop.and_then(|stop| stop.force_at);
        self.stopping += usize::from(child.stop.is_some());
        self.timers.extend(
            [stop, child.expires]
                .into_iter()
                .flatten()
                .map(|at| (at, id)),
        );
        self.all.insert(id, child);
    }

    pub(super) fn remove(&mut self, id: ProcessId) -> Option<Child> {
        let child = self.all.remove(&id)?;
        let stop = child.stop.and_then(|stop| stop.force_at);
        self.stopping -= usize::from(child.stop.is_some());
        for at in [stop, child.expires].into_iter().flatten() {
            self.timers.remove(&(at, id));
        }
        Some(child)
    }

    /// Notes the progress of a stop.
    pub(super) fn set_stop(&mut self, id: ProcessId, stop: Stop) {
        let Some(child) = self.all.get_mut(&id) else {
            return;
        };
        match child.stop.replace(stop) {
            Some(before) => {
                if let Some(at) = before.force_at {
                    self.timers.remove(&(at, id));
                }
            }
            None => self.stopping += 1,
        }
        self.timers.extend(stop.force_at.map(|at| (at, id)));
    }

    /// Notes when each one is too old.
    pub(super) fn set_expiries(&mut self, mut expires: impl FnMut(&Child) -> Option<Moment>) {
        for (id, child) in &mut self.all {
            let at = expires(child);
            if let Some(before) = std::mem::replace(&mut child.expires, at) {
                let stop = child.stop.and_then(|stop| stop.force_at);
                if stop != Some(before) {
                    self.timers.remove(&(before, *id));
                }
            }
            self.timers.extend(at.map(|at| (at, *id)));
        }
    }

    pub(super) fn set_drained(&mut self, id: ProcessId) {
        if let Some(child) = self.all.get_mut(&id) {
            child.drained = Drained::Yes;
        }
    }

    /// Those whose time has come; each time comes once.
    pub(super) fn take_due(&mut self, now: Moment) -> Vec<ProcessId> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            due.push(id);
        }
        due
    }

    pub(super) fn next_timer(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many nobody asked to stop.
    pub(super) fn settled(&self) -> usize {
        self.all.len() - self.stopping
    }

    pub(super) const fn stopping(&self) -> usize {
        self.stopping
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, id: ProcessId) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn get(&self, id: ProcessId) -> Option<&Child> {
        self.all.get(&id)
    }

    /// From the oldest to the newest, as the kernel's numbers grow.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (ProcessId, &Child)> {
        self.all.iter().map(|(id, child)| (*id, child))
    }

    /// Those up to a number.
    pub(super) fn through(&self, id: ProcessId) -> impl Iterator<Item = (ProcessId, &Child)> {
        self.all.range(..=id).map(|(id, child)| (*id, child))
    }

    /// Those after a number.
    pub(super) fn after(&self, id: ProcessId) -> impl Iterator<Item = &Child> {
        self.all
            .range(ProcessId(id.0.saturating_add(1))..)
            .map(|(_, child)| child)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Child> {
        self.all.values()
    }

    pub(super) fn oldest(&self) -> Option<ProcessId> {
        self.all.keys().next().copied()
    }

    pub(super) fn newest(&self) -> Option<ProcessId> {
        self.all.keys().next_back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ids::{Pid, WatcherKey, WorkerId};
    use crate::engine::labels::Identity;
    use crate::engine::worker::Force;

    fn child(expires: Option<Moment>) -> Child {
        let identity = Identity {
            watcher: WatcherKey::of("web"),
            worker: WorkerId(1),
            configuration: String::new(),
            program: None,
            restarts: 0,
            spawn: String::new(),
        };
        Child {
            identity,
            pid: Pid(1),
            started: Moment(0),
            expires,
            stop: None,
            drained: Drained::NotYet,
        }
    }

    fn stop(at: u64) -> Stop {
        Stop {
            force_at: Some(Moment(at)),
            force: Force::NotYet,
        }
    }

    #[test]
    fn stopping_ones_are_counted_once() {
        let mut children = Children::default();
        children.insert(ProcessId(1), child(None));
        children.insert(ProcessId(2), child(None));
        children.set_stop(ProcessId(1), stop(5));
        children.set_stop(ProcessId(1), stop(6));
        assert_eq!((children.settled(), children.stopping()), (1, 1));
        assert_eq!(children.next_timer(), Some(Moment(6)));
        children.remove(ProcessId(1));
        assert_eq!((children.settled(), children.stopping()), (1, 0));
        assert_eq!(children.next_timer(), None);
    }

    #[test]
    fn each_time_comes_once() {
        let mut children = Children::default();
        children.insert(ProcessId(1), child(Some(Moment(3))));
        assert!(children.take_due(Moment(2)).is_empty());
        assert_eq!(children.take_due(Moment(3)), [ProcessId(1)]);
        assert!(children.take_due(Moment(9)).is_empty());
    }
}

//! The live processes of a watcher, with what is asked of them all the time kept at hand: how many
//! are stopping, and when the next one has to be looked at. One event among ten thousand
//! processes must not cost a walk over all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Moment, ProcessId};
use super::notify::Voice;
use super::readiness::Progress;
use super::worker::{Child, Drained, Stop};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Children {
    /// Boxed, as a map that grows at its end leaves almost half of its room empty: 0.2 KB for each process.
    all: BTreeMap<ProcessId, Box<Child>>,
    stopping: usize,
    /// Those that are ready and were not asked to stop.
    ready: usize,
    /// When to look at whom. May hold times that have lost their meaning, but never misses one.
    timers: BTreeSet<(Moment, ProcessId)>,
}

impl Children {
    pub(super) fn insert(&mut self, id: ProcessId, child: Child) {
        self.remove(id);
        self.stopping += usize::from(child.stop.is_some());
        self.ready += usize::from(counts_as_ready(&child));
        self.timers
            .extend(timers(&child).into_iter().flatten().map(|at| (at, id)));
        self.all.insert(id, Box::new(child));
    }

    pub(super) fn remove(&mut self, id: ProcessId) -> Option<Child> {
        let child = *self.all.remove(&id)?;
        self.stopping -= usize::from(child.stop.is_some());
        self.ready -= usize::from(counts_as_ready(&child));
        for at in timers(&child).into_iter().flatten() {
            self.timers.remove(&(at, id));
        }
        Some(child)
    }

    /// Notes the progress of a stop.
    pub(super) fn set_stop(&mut self, id: ProcessId, stop: Stop) {
        self.change(id, |child| child.stop = Some(stop));
    }

    /// Notes how far a process is on its way to be ready.
    pub(super) fn set_progress(&mut self, id: ProcessId, progress: Progress) {
        self.change(id, |child| child.progress = progress);
    }

    /// Notes what a process said.
    pub(super) fn set_voice(&mut self, id: ProcessId, voice: Voice) {
        self.change(id, |child| child.voice = voice);
    }

    fn change(&mut self, id: ProcessId, change: impl FnOnce(&mut Child)) {
        if let Some(mut child) = self.remove(id) {
            change(&mut child);
            self.insert(id, child);
        }
    }

    /// Notes when each one is too old.
    pub(super) fn set_expiries(&mut self, mut expires: impl FnMut(&Child) -> Option<Moment>) {
        for (id, child) in &mut self.all {
            let before = timers(child);
            child.expires = expires(child);
            for at in before.into_iter().flatten() {
                self.timers.remove(&(at, *id));
            }
            let after = timers(child).into_iter().flatten();
            self.timers.extend(after.map(|at| (at, *id)));
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

    /// The next time that is still to come. Earlier ones may be noted again with every change of
    /// a process, and must not hide it.
    pub(super) fn next_timer(&self, now: Moment) -> Option<Moment> {
        let to_come = (Moment(now.0.saturating_add(1)), ProcessId(0));
        self.timers.range(to_come..).next().map(|(at, _)| *at)
    }

    /// How many nobody asked to stop.
    pub(super) fn settled(&self) -> usize {
        self.all.len() - self.stopping
    }

    /// How many are ready and nobody asked to stop. Whether `after_spawn` has answered for them is
    /// not looked at.
    pub(super) const fn ready(&self) -> usize {
        self.ready
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
        self.all.get(&id).map(Box::as_ref)
    }

    /// From the oldest to the newest, as the kernel's numbers grow.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (ProcessId, &Child)> {
        self.all.iter().map(|(id, child)| (*id, child.as_ref()))
    }

    /// Those up to a number.
    pub(super) fn through(&self, id: ProcessId) -> impl Iterator<Item = (ProcessId, &Child)> {
        let range = self.all.range(..=id);
        range.map(|(id, child)| (*id, child.as_ref()))
    }

    /// Those after a number.
    pub(super) fn after(&self, id: ProcessId) -> impl Iterator<Item = &Child> {
        self.all
            .range(ProcessId(id.0.saturating_add(1))..)
            .map(|(_, child)| child.as_ref())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Child> {
        self.all.values().map(Box::as_ref)
    }

    pub(super) fn oldest(&self) -> Option<ProcessId> {
        self.all.keys().next().copied()
    }

    pub(super) fn newest(&self) -> Option<ProcessId> {
        self.all.keys().next_back().copied()
    }
}

/// When a process has to be looked at.
fn timers(child: &Child) -> [Option<Moment>; 4] {
    match child.stop {
        // That it is too old has had its effect, and would hide what comes later.
        Some(stop) => [stop.force_at, None, None, None],
        None => {
            let silent = child.voice.timer().filter(|_| child.progress.is_ready());
            [None, child.expires, child.progress.timer(), silent]
        }
    }
}

fn counts_as_ready(child: &Child) -> bool {
    child.stop.is_none() && child.progress.is_ready()
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
            watchdog_us: None,
        };
        Child {
            identity,
            pid: Pid(1),
            started: Moment(0),
            expires,
            progress: Progress::READY,
            voice: Voice::new(None, None, Moment(0)),
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
        assert_eq!(children.next_timer(Moment(0)), Some(Moment(6)));
        children.remove(ProcessId(1));
        assert_eq!((children.settled(), children.stopping()), (1, 0));
        assert_eq!(children.next_timer(Moment(0)), None);
    }

    #[test]
    fn what_is_asked_to_stop_because_of_its_age_is_looked_at_again() {
        let mut children = Children::default();
        children.insert(ProcessId(1), child(Some(Moment(3))));
        assert_eq!(children.take_due(Moment(3)), [ProcessId(1)]);
        children.set_stop(ProcessId(1), stop(9));
        assert_eq!(children.next_timer(Moment(3)), Some(Moment(9)));
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

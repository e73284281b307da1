//! Spawns that a dead kernel had begun, and whose processes they are.

use crate::entry::{Entry, Spawned};
use crate::memory::held::{HeldKind, Tag};
use crate::memory::slot::{End, EndStatus, EndedBy};
use crate::memory::{SlotIndex, StateMemory};
use crate::signals::has_called_exec;
use crate::spawn::{Resolution, resolve};
use crate::sys::pidfd_info::{Fate, fate};
use crate::sys::process::pidfd_open;
use nix::sys::stat::fstat;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A spawn whose outcome is not known yet, with what belongs to it.
#[derive(Debug)]
pub(in crate::event_loop) struct Unresolved {
    pub(super) slot: SlotIndex,
    pub(super) spawned: Spawned,
    pub(super) recorded_bytes: u64,
    pub(super) held: BTreeMap<Tag, OwnedFd>,
}

impl Unresolved {
    /// What the guard holds for it.
    pub(in crate::event_loop) fn held(&self) -> impl Iterator<Item = (Tag, &OwnedFd)> {
        self.held.iter().map(|(tag, fd)| (*tag, fd))
    }

    /// Opens a pidfd as soon as there is a pid: should the guard die, nothing else tells of its end.
    pub(super) fn find_pidfd(&mut self, memory: &StateMemory) {
        let tag = Tag::of_process(self.spawned.process, HeldKind::Pidfd);
        if !self.held.contains_key(&tag)
            && let Some(pidfd) = fresh_pidfd(memory, self.slot, &self.held)
        {
            self.held.insert(tag, pidfd);
        }
    }

    /// Its guard is dead: whoever reaps the child now publishes nothing, so we do.
    pub(super) fn resolve_foreign(&self, memory: &StateMemory) -> Resolution {
        let slot = memory.slot(self.slot);
        if let Some(failure) = slot.failure() {
            return Resolution::Failed(failure);
        }
        let tag = Tag::of_process(self.spawned.process, HeldKind::Pidfd);
        let Some(pid) = slot.pid() else {
            return Resolution::NotYet;
        };
        let fate = match self.held.get(&tag) {
            Some(pidfd) => fate(pidfd, pid),
            // Without one there is only its absence to go by.
            None if has_called_exec(pid).is_none() => Fate::Unknown,
            None => Fate::Runs,
        };
        let status = match fate {
            Fate::Runs => return Resolution::NotYet,
            Fate::Ended(status) => EndStatus::from_wait_status(status),
            Fate::Unknown => EndStatus::Unknown,
        };
        slot.publish_end(&End::now(status), EndedBy::Pidfd);
        resolve(slot)
    }

    /// Its record in the journal.
    pub(in crate::event_loop) fn entry(&self) -> Entry {
        Entry::Spawned(self.spawned.clone())
    }
}

/// A pidfd for the process of a slot. It is the right one if the process had not ended *after* it was
/// opened: ends are published before anybody reaps.
pub(super) fn fresh_pidfd(
    memory: &StateMemory,
    index: SlotIndex,
    held: &BTreeMap<Tag, OwnedFd>,
) -> Option<OwnedFd> {
    let slot = memory.slot(index);
    let pid = slot.pid()?;
    let fresh = pidfd_open(pid).ok()?;
    // One that neither guard nor kernel will reap may be gone, and its pid another one's: only one
    // of its own pipes proves who it is.
    let is_its_own =
        slot.epoch() >= memory.min_epoch() || held.values().any(|pipe| writes_to(pid, pipe));
    (is_its_own && slot.ended().is_none()).then_some(fresh)
}

/// Whether a pipe is the standard output or error of a process.
fn writes_to(pid: i32, pipe: &OwnedFd) -> bool {
    #[cfg(test)]
    if let Some(simulated) = crate::sys::simulated::writes_to(pid, pipe) {
        return simulated;
    }
    let Ok(stat) = fstat(pipe) else { return false };
    let name = format!("pipe:[{}]", stat.st_ino);
    let target = |number| std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
    [1, 2]
        .into_iter()
        .any(|number| target(number).is_ok_and(|found| found == Path::new(&name)))
}

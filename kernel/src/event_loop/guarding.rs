//! Life with a guard: what it publishes, what it is told, and taking its place when it is killed.

use super::adopt::kind_of_pipe;
use super::hands::Hands;
use super::listeners::ListenerOrigin;
use super::polled::{Interest, Ready, Token};
use super::{Kernel, LoopError};
use crate::crash::crash_point;
use crate::guard::image::Image;
use crate::guard::link;
use crate::guard::role::{Original, Part, Role, SharedNumbers};
use crate::guard::shared::take_announcements;
use crate::memory::cursor::Stream;
use crate::memory::held::{HeldKind, Tag};
use crate::memory::slot::{End, EndStatus, EndedBy};
use crate::sys::pidfd_info::{Fate, fate};
use kingpole_protocol::ids::ProcessId;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// What this process needs to take the guard's place.
#[derive(Debug)]
pub struct Heirloom {
    /// The program, and how it was started.
    pub image: Image,
    /// Where that program is installed, for an upgrade that names none.
    pub installed: PathBuf,
    /// What children get back.
    pub original: Original,
    /// The lock of the runtime directory.
    pub lock: Option<OwnedFd>,
    /// The guard's news of ends.
    pub ended: OwnedFd,
}

impl Kernel {
    /// Listens to the guard, and lets it hold what is new.
    pub(super) fn begin_guarded(&mut self, unknown: &[Tag]) -> Result<(), LoopError> {
        {
            let polled = self.polled.borrow();
            if let Some(heirloom) = &self.heirloom {
                let score = heirloom.original.oom_score;
                self.hands.spawner.restore_oom_score(score);
                polled.add(&heirloom.ended, Token::Ends, Interest::Read)?;
            }
            if let Some(link) = self.hands.guard.descriptor() {
                polled.add(link, Token::Link, Interest::Read)?;
            }
        }
        for tag in unknown {
            self.hands.guard.release(*tag);
        }
        let fresh = self
            .listeners
            .iter()
            .filter(|listener| listener.origin == ListenerOrigin::Opened)
            .map(|listener| (listener.tag(), listener.descriptor()))
            .collect::<Vec<_>>();
        if let Err(error) = self.hands.guard.hold(&fresh) {
            self.log_line(&error.to_string());
        }
        self.watch_foreign();
        Ok(())
    }

    /// Children of an earlier guard's earlier kernels: only their pidfds tell of their end.
    fn watch_foreign(&mut self) {
        for process in self.hands.children.keys().copied().collect::<Vec<_>>() {
            self.watch_if_foreign(process);
        }
    }

    fn watch_if_foreign(&mut self, process: ProcessId) {
        let memory = &self.hands.memory;
        let Some(child) = self.hands.children.get(&process) else {
            return;
        };
        let slot = memory.slot(child.slot);
        if slot.epoch() >= memory.min_epoch() || slot.ended().is_some() {
            return;
        }
        let token = Token::Foreign(process);
        let watched = child.pidfd.as_ref().is_some_and(|pidfd| {
            let polled = self.polled.borrow();
            polled.add(pidfd, token, Interest::Once).is_ok()
        });
        if !watched {
            self.end_foreign(process, EndStatus::Unknown);
        }
    }

    pub(super) fn handle_foreign(&mut self, process: ProcessId) {
        let Some(child) = self.hands.children.get(&process) else {
            return;
        };
        let Some(pidfd) = &child.pidfd else { return };
        match fate(pidfd, child.pid) {
            Fate::Runs => {}
            Fate::Ended(status) => {
                self.end_foreign(process, EndStatus::from_wait_status(status));
            }
            Fate::Unknown => self.end_foreign(process, EndStatus::Unknown),
        }
    }

    fn end_foreign(&mut self, process: ProcessId, status: EndStatus) {
        let Some(child) = self.hands.children.get(&process) else {
            return;
        };
        let slot = self.hands.memory.slot(child.slot);
        if slot.ended().is_none() {
            slot.publish_end(&End::now(status), EndedBy::Pidfd);
        }
        if let Some(pidfd) = &child.pidfd {
            self.polled.borrow().remove(pidfd);
        }
        self.look_for_ends();
    }

    pub(super) fn handle_ends(&mut self) {
        if let Some(heirloom) = &self.heirloom {
            take_announcements(&heirloom.ended);
        }
        self.look_for_ends();
        // It may have been the one that an unfinished spawn waited for.
        for input in self.hands.resolve() {
            self.drive(input);
        }
    }

    /// Sends the guard what has gathered in this turn.
    pub(super) fn flush_guard(&mut self) {
        for process in std::mem::take(&mut self.hands.newly_attached) {
            self.watch_if_foreign(process);
        }
        for input in self.hands.take_unpolled() {
            self.drive(input);
        }
        let waited = self.hands.guard.has_backlog();
        self.hands.guard.flush();
        let waits = self.hands.guard.has_backlog();
        if waited != waits
            && let Some(link) = self.hands.guard.descriptor()
        {
            let interest = if waits {
                Interest::ReadWrite
            } else {
                Interest::Read
            };
            let _ = self.polled.borrow().change(link, Token::Link, interest);
        }
    }

    /// The guard never says anything: what comes is its end.
    pub(super) fn handle_link(&mut self, ready: &Ready) {
        if ready.hung_up {
            return self.replace_guard();
        }
        if ready.readable
            && let Some(link) = self.hands.guard.descriptor()
        {
            while let Ok(link::Received::Message(_)) = link::receive(link) {}
        }
    }

    /// Becomes the guard. Our children stay ours; those of earlier kernels were the dead guard's, and
    /// nobody's now. Returns only if that failed: then this kernel goes on alone.
    fn replace_guard(&mut self) {
        self.log_line("the guard was killed: this process takes its place and starts a kernel");
        if let Some(link) = self.hands.guard.descriptor() {
            self.polled.borrow().remove(link);
        }
        self.hands.guard.close();
        self.hands.memory.set_min_epoch(self.hands.memory.epoch());
        crash_point("promotion: before the table");
        // It dies with this process, but this process is about to live on as another.
        if let Some(rehearsal) = self.rehearsing.as_mut() {
            rehearsal.give_up();
        }
        let cause = match &self.heirloom {
            Some(heirloom) => self.become_guard(heirloom),
            None => Errno::ENOENT,
        };
        self.state.about.guard_pid = 0;
        self.log_line(&format!(
            "cannot become the guard: {}; going on without one: a kill of this process will lose \
             everything",
            cause.desc()
        ));
    }

    pub(super) fn become_guard(&self, heirloom: &Heirloom) -> Errno {
        let hands = &self.hands;
        let held = hands.all_held(&self.listeners);
        let numbers = held.iter().map(|(tag, fd)| (*tag, fd.as_raw_fd()));
        hands.memory.replace_held(numbers);
        let shared = hands.shared_descriptors(heirloom);
        let role = Role {
            part: Part::Guard,
            shared: hands.shared_numbers(heirloom),
            link: None,
            saved: None,
            previous: None,
            polled: None,
            witness: None,
            failure: None,
            kernel: None,
            binary: None,
            original: heirloom.original,
        };
        let kept = held
            .iter()
            .map(|(_, fd)| *fd)
            .chain(shared)
            .collect::<Vec<_>>();
        crash_point("promotion: before exec");
        heirloom.image.become_it(&role, &kept)
    }
}

impl Hands {
    /// Everything that a guard holds, from our own descriptors.
    pub(super) fn all_held<'a>(
        &'a self,
        listeners: &'a [super::Listener],
    ) -> Vec<(Tag, BorrowedFd<'a>)> {
        let mut held = Vec::new();
        for (process, child) in &self.children {
            let mut add = |kind, fd: Option<BorrowedFd<'a>>| {
                held.extend(fd.map(|fd| (Tag::of_process(*process, kind), fd)));
            };
            for stream in Stream::ALL {
                add(kind_of_pipe(stream), child.pipe(stream).map(AsFd::as_fd));
            }
            add(
                HeldKind::Ring,
                child.ring.as_ref().map(crate::memory::Ring::descriptor),
            );
            add(HeldKind::Pidfd, child.pidfd.as_ref().map(AsFd::as_fd));
        }
        for unresolved in self.unresolved.values() {
            held.extend(unresolved.held().map(|(tag, fd)| (tag, fd.as_fd())));
        }
        for socket in self.sockets.values() {
            held.push((Tag::new(socket.number, HeldKind::Socket), socket.fd.as_fd()));
        }
        held.extend(listeners.iter().map(|one| (one.tag(), one.descriptor())));
        held
    }

    pub(super) fn shared_descriptors<'a>(&'a self, heirloom: &'a Heirloom) -> Vec<BorrowedFd<'a>> {
        let mut all = vec![
            self.memory.descriptor(),
            self.journal.descriptor(),
            self.bounce.read_end(),
            self.bounce.write_end(),
            heirloom.ended.as_fd(),
        ];
        all.extend(heirloom.lock.as_ref().map(AsFd::as_fd));
        all
    }

    pub(super) fn shared_numbers(&self, heirloom: &Heirloom) -> SharedNumbers {
        let (bounce_read, bounce_write) = self.bounce.raw_numbers();
        SharedNumbers {
            state: self.memory.descriptor().as_raw_fd(),
            journal: self.journal.descriptor().as_raw_fd(),
            bounce_read,
            bounce_write,
            ended: heirloom.ended.as_raw_fd(),
            lock: heirloom.lock.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        }
    }
}

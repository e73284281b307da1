//! The kernel's side of the link: what to hold, what to drop, and what if nobody listens.

use super::link::{self, TAGS_MAX};
use crate::memory::StateMemory;
use crate::memory::held::Tag;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a busy guard is waited for, once; a stopped one is not waited for again.
const PATIENCE_MS: u16 = 200;

/// How often it is looked whether the guard has closed something: it takes as long to wake up.
const SETTLE_STEP: Duration = Duration::from_micros(20);

/// What was not dropped yet may not grow without bounds while a guard is stopped. Past this, what
/// the guard holds for ended processes stays with it until the next kernel.
const DROPS_MAX: usize = 100_000;

/// The link, if there is a guard.
#[derive(Debug, Default)]
pub struct GuardLink {
    link: Option<OwnedFd>,
    drops: VecDeque<Tag>,
    stalled: bool,
    sent: u64,
}

/// The guard does not take descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// It is stopped, or far behind.
    #[error("the guard does not answer (is it stopped?); nothing can be started until it does")]
    Stalled,
    /// Linux refuses.
    #[error("the guard cannot be given descriptors: {}", .0.desc())]
    Refused(Errno),
}

impl GuardLink {
    /// A kernel without a guard has none. `sent` messages went over this one before.
    #[must_use]
    pub fn new(link: Option<OwnedFd>, sent: u64) -> Self {
        Self {
            link,
            sent,
            ..Self::default()
        }
    }

    /// The link, to be polled: a hang-up means that the guard is dead.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// There is no guard any more.
    pub fn close(&mut self) {
        self.link = None;
        self.drops.clear();
    }

    /// Lets the guard hold descriptors, all or none. After it returned they outlive this process.
    ///
    /// A dead guard is no error: this process is about to take its place, with its own descriptors.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn hold(&mut self, held: &[(Tag, BorrowedFd<'_>)]) -> Result<(), HoldError> {
        self.flush();
        for part in held.chunks(TAGS_MAX) {
            self.hold_part(part)?;
        }
        Ok(())
    }

    fn hold_part(&mut self, held: &[(Tag, BorrowedFd<'_>)]) -> Result<(), HoldError> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        let mut sent = link::send_hold(link, held);
        if is_busy(&sent) && !self.stalled {
            let mut polled = [PollFd::new(link.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut polled, PollTimeout::from(PATIENCE_MS));
            sent = link::send_hold(link, held);
        }
        self.stalled = is_busy(&sent);
        self.sent = self.sent.saturating_add(u64::from(sent.is_ok()));
        match sent {
            Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Ok(()),
            Err(Errno::EAGAIN) => Err(HoldError::Stalled),
            Err(cause) => Err(HoldError::Refused(cause)),
        }
    }

    /// Lets it drop one, with the next [`GuardLink::flush`].
    pub fn release(&mut self, tag: Tag) {
        if self.link.is_some() && self.drops.len() < DROPS_MAX {
            self.drops.push_back(tag);
        }
    }

    /// Sends what is to be dropped, as far as it goes.
    pub fn flush(&mut self) {
        let Some(link) = &self.link else { return };
        while !self.drops.is_empty() {
            let count = self.drops.len().min(TAGS_MAX);
            let some = self.drops.range(..count).copied().collect::<Vec<_>>();
            match link::send_drop(link, &some) {
                Err(Errno::EAGAIN) => return,
                sent => {
                    self.sent = self.sent.saturating_add(u64::from(sent.is_ok()));
                    drop(self.drops.drain(..count));
                }
            }
        }
    }

    /// Whether something could not be sent: poll for room.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.drops.is_empty()
    }

    /// Tells the guard that this kernel serves.
    pub fn tell_ready(&mut self) {
        if let Some(link) = &self.link {
            // A fresh link has room; a dead guard is noticed by its hang-up.
            let sent = link::send_ready(link);
            self.sent = self.sent.saturating_add(u64::from(sent.is_ok()));
        }
    }

    /// How many messages went over this link.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Lets it start this program from now on: it has come to serve.
    pub fn hand_binary(&mut self, binary: BorrowedFd<'_>) {
        if let Some(link) = &self.link {
            // Without it the guard goes back to the program before, which reads this state as well.
            let sent = link::send_binary(link, binary);
            self.sent = self.sent.saturating_add(u64::from(sent.is_ok()));
        }
    }

    /// Sends what is to be dropped and waits a moment until it is. Only for what somebody else waits
    /// to see closed, like the port of a socket; a guard that is stopped is not waited for.
    pub fn settle(&mut self, memory: &StateMemory) {
        self.flush();
        let begun = Instant::now();
        while self.link.is_some()
            && !self.stalled
            && self.drops.is_empty()
            && memory.link_handled() < self.sent
        {
            if begun.elapsed() > Duration::from_millis(u64::from(PATIENCE_MS)) {
                self.stalled = true;
                return;
            }
            std::thread::sleep(SETTLE_STEP);
        }
    }
}

fn is_busy(sent: &Result<(), Errno>) -> bool {
    *sent == Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::link::{Message, Received, pair, receive};
    use crate::memory::held::HeldKind;

    fn tag(id: u64) -> Tag {
        Tag::new(id, HeldKind::Ring)
    }

    #[test]
    fn drops_travel_together_and_in_front_of_the_next_hold() {
        let (guard, kernel) = pair().unwrap();
        let mut client = GuardLink::new(Some(kernel), 0);
        let null = std::fs::File::open("/dev/null").unwrap();
        client.release(tag(1));
        client.release(tag(2));
        client.hold(&[(tag(3), null.as_fd())]).unwrap();
        let next = || match receive(&guard).unwrap() {
            Received::Message(message) => message,
            other => panic!("{other:?}"),
        };
        assert!(matches!(next(), Message::Drop(tags) if tags == [tag(1), tag(2)]));
        assert!(matches!(next(), Message::Hold(held) if held.len() == 1));
    }

    #[test]
    fn a_stopped_guard_costs_one_wait_and_then_refusals_and_loses_no_drop() {
        let (guard, kernel) = pair().unwrap();
        let mut client = GuardLink::new(Some(kernel), 0);
        let null = std::fs::File::open("/dev/null").unwrap();
        let held = [(tag(3), null.as_fd())];
        let mut sent = 0;
        while client.hold(&held).is_ok() {
            sent += 1;
        }
        assert!(client.stalled, "the next ones do not wait");
        for _ in 0..5 {
            assert!(client.hold(&held).is_err());
            assert!(client.stalled);
        }
        client.release(tag(9));
        client.flush();
        assert!(client.has_backlog());
        let mut last = None;
        for _ in 0..=sent {
            if let Received::Message(message) = receive(&guard).unwrap() {
                last = Some(message);
            }
            client.flush();
        }
        assert!(matches!(last, Some(Message::Drop(tags)) if tags == [tag(9)]));
        assert!(client.hold(&held).is_ok());
    }

    #[test]
    fn a_dead_guard_is_no_reason_to_refuse() {
        let (guard, kernel) = pair().unwrap();
        drop(guard);
        let mut client = GuardLink::new(Some(kernel), 0);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(client.hold(&[(tag(3), null.as_fd())]), Ok(()));
    }
}

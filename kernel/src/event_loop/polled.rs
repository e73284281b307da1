//! The one epoll that everything hangs on, and the tokens that say what became ready.

use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::record::Stream;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::{AsFd, OwnedFd};

use crate::state::SessionId;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The signalfd.
    Signals,
    /// The log's descriptor, writable again.
    Log,
    /// A listener, by position.
    Listener(u64),
    /// A session.
    Session(SessionId),
    /// A child's pipe.
    Pipe(ProcessId, Stream),
    /// The link to the guard.
    Link,
    /// The guard's news of ends.
    Ends,
    /// The pidfd of a child that neither guard nor kernel will reap.
    Foreign(ProcessId),
}

// Ids count up from 1, so four bits less of them is no bound that anybody meets.
const KIND_BITS: u32 = 4;

impl Token {
    const fn to_word(self) -> u64 {
        let (kind, id) = match self {
            Self::Signals => (0, 0),
            Self::Log => (1, 0),
            Self::Listener(index) => (2, index),
            Self::Session(session) => (3, session.0),
            Self::Pipe(process, Stream::Stdout) => (4, process.0),
            Self::Pipe(process, Stream::Stderr) => (5, process.0),
            Self::Link => (6, 0),
            Self::Ends => (7, 0),
            Self::Foreign(process) => (8, process.0),
        };
        id << KIND_BITS | kind
    }

    const fn from_word(word: u64) -> Option<Self> {
        let id = word >> KIND_BITS;
        Some(match word & ((1 << KIND_BITS) - 1) {
            0 => Self::Signals,
            1 => Self::Log,
            2 => Self::Listener(id),
            3 => Self::Session(SessionId(id)),
            4 => Self::Pipe(ProcessId(id), Stream::Stdout),
            5 => Self::Pipe(ProcessId(id), Stream::Stderr),
            6 => Self::Link,
            7 => Self::Ends,
            8 => Self::Foreign(ProcessId(id)),
            _ => return None,
        })
    }
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    /// Which.
    pub(super) token: Token,
    /// Bytes, a connection, or the end.
    pub(super) readable: bool,
    /// Room.
    pub(super) writable: bool,
    /// The other side is gone for good.
    pub(super) hung_up: bool,
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Nothing but its end.
    None,
    /// Bytes.
    Read,
    /// Room.
    Write,
    /// Both.
    ReadWrite,
    /// Told once that there is something, whether it is taken or not.
    Once,
}

impl Interest {
    const fn flags(self) -> EpollFlags {
        match self {
            Self::None => EpollFlags::empty(),
            Self::Read => EpollFlags::EPOLLIN,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::ReadWrite => EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT),
            Self::Once => EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET),
        }
    }
}

/// Descriptors looked at per turn; more are found by the next.
const EVENTS_MAX: usize = 128;

/// The epoll, level-triggered.
#[derive(Debug)]
pub(super) struct Polled {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    pipes: Pipes,
}

/// Whether the children that are taken over hang on it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipes {
    /// They do: it is that of the program before in this process.
    Polled,
    /// They do not.
    Unpolled,
}

impl Polled {
    /// An empty one.
    ///
    /// # Errors
    /// Descriptor limits.
    pub(super) fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); EVENTS_MAX],
            pipes: Pipes::Unpolled,
        })
    }

    /// That of the program before in this process, with children's pipes on it: to look at thousands of
    /// them again, and to take the old ones down, is a fifth of the pause of an upgrade.
    pub(super) fn resume(epoll: OwnedFd) -> Self {
        Self {
            epoll: Epoll(epoll),
            events: vec![EpollEvent::empty(); EVENTS_MAX],
            pipes: Pipes::Polled,
        }
    }

    /// Whether the children that are taken over hang on it already.
    pub(super) const fn pipes(&self) -> Pipes {
        self.pipes
    }

    /// All children were taken over: from now on each has to be polled.
    pub(super) const fn settle(&mut self) {
        self.pipes = Pipes::Unpolled;
    }

    /// A second descriptor for it, to be registered with the runtime or handed over.
    ///
    /// # Errors
    /// Descriptor limits.
    pub(super) fn handle(&self) -> std::io::Result<OwnedFd> {
        self.epoll.0.try_clone()
    }

    /// Begins to wait for a descriptor; what hangs there already is waited for anew.
    ///
    /// # Errors
    /// `EPERM` for what is always ready (files), memory limits.
    pub(super) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        let event = EpollEvent::new(interest.flags(), token.to_word());
        match self.epoll.add(&fd, event) {
            Err(Errno::EEXIST) => self.change(fd, token, interest),
            added => added,
        }
    }

    /// Waits for something else on it.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn change(
        &self,
        fd: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> Result<(), Errno> {
        let mut event = EpollEvent::new(interest.flags(), token.to_word());
        self.epoll.modify(fd, &mut event)
    }

    /// Waits for it no longer. (Closing the last descriptor of a file does so too; of most the guard has
    /// another.)
    pub(super) fn remove(&self, fd: impl AsFd) {
        // Not being there is as good.
        let _ = self.epoll.delete(fd);
    }

    /// What is ready now; never waits.
    ///
    /// # Errors
    /// None that is documented applies.
    pub(super) fn take(&mut self, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        ready.clear();
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        ready.extend(self.events.iter().take(count).filter_map(|event| {
            let flags = event.events();
            let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
            Some(Ready {
                token: Token::from_word(event.data())?,
                readable: flags.intersects(EpollFlags::EPOLLIN | gone),
                writable: flags.contains(EpollFlags::EPOLLOUT),
                hung_up: flags.intersects(gone),
            })
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_word() {
        for token in [
            Token::Signals,
            Token::Log,
            Token::Listener(7),
            Token::Session(SessionId(1 << 40)),
            Token::Pipe(ProcessId(9), Stream::Stdout),
            Token::Pipe(ProcessId(9), Stream::Stderr),
            Token::Link,
            Token::Ends,
            Token::Foreign(ProcessId(3)),
        ] {
            assert_eq!(Token::from_word(token.to_word()), Some(token));
        }
        assert_eq!(Token::from_word(15), None);
    }
}

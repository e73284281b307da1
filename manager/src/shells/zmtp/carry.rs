//! Connections that go on when the manager becomes another program in the same process: the socket, what has arrived and was
//! not looked at, and what a subscriber subscribed to. The peer notices a pause.
//!
//! Only what is quiet is carried: a connection whose handshake is over, to which nothing is left to be sent. Others are
//! closed, and libzmq connects again by itself.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::greeting::Dialect;
use super::limits::{CARRIED_BYTES_MAX, CARRIED_UNREAD_BYTES_MAX};
use super::stream::Stream;

/// All about a connection but its descriptor, as one program tells it to the next. Frozen: what is added gets a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedState {
    /// Name of its listener.
    pub endpoint: String,
    /// Whether it is a unix socket.
    pub unix: bool,
    /// Version of ZMTP that was agreed on: 2 or 3.
    pub version: u8,
    /// What has arrived and was not looked at.
    pub unread: Vec<u8>,
    /// What a subscriber subscribed to, and how often.
    pub subscriptions: Vec<(Vec<u8>, u32)>,
}

impl CarriedState {
    pub(super) const fn dialect(&self) -> Option<Dialect> {
        match self.version {
            2 => Some(Dialect::V2),
            3 => Some(Dialect::V3),
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        let topics = self.subscriptions.iter().map(|(topic, _)| topic.len());
        let subscriptions: usize = topics.sum();
        self.unread.len().saturating_add(subscriptions)
    }
}

/// A connection between two programs.
#[derive(Debug)]
pub struct CarriedConnection {
    /// Its socket.
    pub socket: OwnedFd,
    /// Everything else.
    pub state: CarriedState,
}

impl CarriedConnection {
    /// Takes it up again.
    pub(super) fn into_stream(self) -> io::Result<(Stream, CarriedState)> {
        let stream = if self.state.unix {
            let socket = UnixStream::from(self.socket);
            socket.set_nonblocking(true)?;
            Stream::Unix(tokio::net::UnixStream::from_std(socket)?)
        } else {
            let socket = TcpStream::from(self.socket);
            socket.set_nonblocking(true)?;
            Stream::Tcp(tokio::net::TcpStream::from_std(socket)?)
        };
        Ok((stream, self.state))
    }
}

/// Connections that arrived from the program before, or that wait for the next; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Carry {
    connections: Arc<Mutex<Vec<CarriedConnection>>>,
    /// Set once the listener whose connections these are has ended for good.
    closed: Arc<AtomicBool>,
}

impl Carry {
    /// With what has arrived.
    #[must_use]
    pub fn new(arrived: Vec<CarriedConnection>) -> Self {
        Self {
            connections: Arc::new(Mutex::new(arrived)),
            closed: Arc::default(),
        }
    }

    /// The same for one listener, which may end before the others.
    #[must_use]
    pub fn of_listener(&self) -> Self {
        Self {
            connections: Arc::clone(&self.connections),
            closed: Arc::default(),
        }
    }

    /// What this listener's connections leave is closed from here on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Those of one listener.
    #[must_use]
    pub fn take_of(&self, endpoint: &str) -> Vec<CarriedConnection> {
        let mut all = self.lock();
        let (taken, rest) = std::mem::take(&mut *all)
            .into_iter()
            .partition(|one| one.state.endpoint == endpoint);
        *all = rest;
        taken
    }

    /// All of them.
    #[must_use]
    pub fn take(&self) -> Vec<CarriedConnection> {
        std::mem::take(&mut *self.lock())
    }

    /// Leaves one for the next program, if there is room.
    pub(super) fn leave(&self, stream: Stream, state: CarriedState) {
        let mut all = self.lock();
        let waiting: usize = all.iter().map(|one| one.state.bytes()).sum();
        if self.closed.load(Ordering::Relaxed)
            || state.unread.len() > CARRIED_UNREAD_BYTES_MAX
            || waiting.saturating_add(state.bytes()) > CARRIED_BYTES_MAX
        {
            return;
        }
        if let Ok(socket) = stream.into_descriptor() {
            all.push(CarriedConnection { socket, state });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<CarriedConnection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(endpoint: &str, unread: usize) -> CarriedState {
        CarriedState {
            endpoint: endpoint.to_owned(),
            unix: true,
            version: 3,
            unread: vec![7; unread],
            subscriptions: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_is_carried_is_bounded_and_found_by_its_listener() {
        let carry = Carry::default();
        let mut peers = Vec::new();
        let mut leave = |state| {
            let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
            peers.push(theirs);
            carry.leave(Stream::Unix(ours), state);
        };
        leave(state("a", 3));
        leave(state("b", 0));
        leave(state("a", CARRIED_UNREAD_BYTES_MAX + 1));
        let of_a = carry.take_of("a");
        assert_eq!(of_a.len(), 1);
        assert_eq!(of_a[0].state.unread, [7; 3]);
        for _ in 0..=CARRIED_BYTES_MAX / CARRIED_UNREAD_BYTES_MAX {
            leave(state("a", CARRIED_UNREAD_BYTES_MAX));
        }
        let all = carry.take();
        assert_eq!(all.len(), 1 + CARRIED_BYTES_MAX / CARRIED_UNREAD_BYTES_MAX);
        assert!(carry.take().is_empty());
        let of_listener = carry.of_listener();
        let (one, _peer) = tokio::net::UnixStream::pair().unwrap();
        of_listener.leave(Stream::Unix(one), state("a", 0));
        assert_eq!(carry.take().len(), 1);
        of_listener.close();
        let (two, _peer) = tokio::net::UnixStream::pair().unwrap();
        of_listener.leave(Stream::Unix(two), state("a", 0));
        assert!(carry.take().is_empty());
    }

    #[test]
    fn the_next_program_reads_what_this_one_writes() {
        let text = r#"{"endpoint":"endpoint","unix":false,"version":3,"unread":[0,255],"subscriptions":[[[119],1]]}"#;
        let read: CarriedState = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.dialect(), Some(Dialect::V3));
        let unknown = CarriedState { version: 4, ..read };
        assert_eq!(unknown.dialect(), None);
    }
}

//! Who has taken a connection: where several processes of a watcher share an address, another one may answer
//! in the place of the one that is looked at.
//!
//! Linux tells the inode of the socket at the other end (`sock_diag(7)`), and `/proc/PID/fd` who has it. Only an
//! answer of another process **of the watcher** is not counted: a proxy in front, another machine, and whoever
//! cannot be looked at (another user, another network namespace) were meant, as far as anybody can know.

use std::collections::VecDeque;
use std::net::SocketAddr;

use kingpole_protocol::peer::{Accepted, tcp_accepted};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::limits::{FAMILY_MAX, HANDSHAKE_MAX, TRY_PAUSE};
use crate::engine::ProbeRequest;

/// The process that is looked at, and those that may answer in its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    process: u32,
    siblings: Vec<u32>,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    /// The process, a descendant of it, or somebody whose answer counts as its own.
    Itself,
    /// Another process of the watcher.
    Sibling(u32),
    /// Somebody who has closed it before anybody could see who.
    Unseen,
}

impl Watched {
    pub(super) fn of(request: &ProbeRequest) -> Self {
        Self {
            process: request.pid.0,
            siblings: request.siblings.iter().map(|pid| pid.0).collect(),
        }
    }

    /// Whether it matters who answers.
    pub(super) fn has_siblings(&self) -> bool {
        !self.siblings.is_empty()
    }

    /// Waits until somebody takes the connection.
    pub(super) async fn taker(&self, stream: &TcpStream) -> Taker {
        if !self.has_siblings() {
            return Taker::Itself;
        }
        let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else {
            return Taker::Itself;
        };
        let inode = match accepted(peer, own).await {
            Ok(inode) => inode,
            Err(taker) => return taker,
        };
        let watched = self.clone();
        let found = tokio::task::spawn_blocking(move || watched.holder(inode)).await;
        found.unwrap_or(Taker::Itself)
    }

    fn holder(&self, inode: u32) -> Taker {
        let link = format!("socket:[{inode}]");
        if family(self.process).iter().any(|pid| holds(*pid, &link)) {
            return Taker::Itself;
        }
        let of_sibling = |sibling: &&u32| family(**sibling).iter().any(|pid| holds(*pid, &link));
        match self.siblings.iter().find(of_sibling) {
            Some(sibling) => Taker::Sibling(*sibling),
            None => Taker::Itself,
        }
    }
}

/// The inode of the accepted socket, or who counts as its holder without one.
async fn accepted(peer: SocketAddr, own: SocketAddr) -> Result<u32, Taker> {
    let handshake_until = Instant::now() + HANDSHAKE_MAX;
    loop {
        match tcp_accepted(peer, own) {
            Ok(Accepted::By(inode)) => return Ok(inode),
            Ok(Accepted::Closed) => return Err(Taker::Unseen),
            Ok(Accepted::Handshake) if Instant::now() > handshake_until => {
                return Err(Taker::Itself);
            }
            // The time of the look ends this.
            Ok(Accepted::NotYet | Accepted::Handshake) => sleep(TRY_PAUSE).await,
            Err(_) => return Err(Taker::Itself),
        }
    }
}

/// A process and its descendants, the nearest first.
fn family(process: u32) -> Vec<u32> {
    let mut family = Vec::new();
    let mut next = VecDeque::from([process]);
    while let Some(pid) = next.pop_front()
        && family.len() < FAMILY_MAX
    {
        family.push(pid);
        next.extend(crate::shells::processes::children(pid));
    }
    family
}

fn holds(process: u32, link: &str) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    let mut targets = descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    targets.any(|target| target.as_os_str() == link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_taken_a_connection_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let stream = stream.unwrap();
        let _accepted = listener.accept().unwrap();
        let own = std::process::id();
        let watched = |process, siblings| Watched { process, siblings };
        // Process 1 has none of our sockets, or cannot be looked at.
        assert_eq!(watched(own, vec![1]).taker(&stream).await, Taker::Itself);
        let other = watched(1, vec![own]).taker(&stream).await;
        // Process 1 may be what we descend from.
        if !family(1).contains(&own) {
            assert_eq!(other, Taker::Sibling(own));
        }
        let stranger = watched(u32::MAX, vec![u32::MAX - 1]);
        assert_eq!(stranger.taker(&stream).await, Taker::Itself);
        let sibling = watched(u32::MAX, vec![u32::MAX - 1, own]);
        assert_eq!(sibling.taker(&stream).await, Taker::Sibling(own));
    }
}

//! Who may come in on `manager.sock`: root and our own user, and only so many at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::next::{CarriedVisitor, NextManager};
use super::places::{Place, Places, Standing};
use super::turns::Turns;
use super::visit::{Visit, Visitor};
use super::{Stay, left};
use crate::command::Caller;
use crate::shells::listeners::{Connection, HeldListener};
use crate::shells::log::Log;

/// Connections served at once; see [`Places`] for what happens when more come.
const CONNECTIONS_MAX: usize = 128;

/// Pause after a failing accept (no descriptors left, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// `manager.sock`, as the server accepts from it.
#[derive(Debug)]
pub(super) struct Door {
    listener: HeldListener,
    next: NextManager,
    places: Places,
    own_uid: u32,
    log: Log,
    stay: watch::Receiver<Stay>,
    unread: watch::Sender<usize>,
    inside: watch::Sender<usize>,
}

impl Door {
    /// Those who arrived from the program before in this process come in first.
    pub(super) fn new(
        listener: HeldListener,
        next: NextManager,
        stay: watch::Receiver<Stay>,
        log: Log,
    ) -> Self {
        Self {
            stay,
            next,
            unread: watch::channel(0).0,
            inside: watch::channel(0).0,
            listener,
            places: Places::new(CONNECTIONS_MAX),
            own_uid: nix::unistd::geteuid().as_raw(),
            log,
        }
    }

    /// How many visitors have been let in of whom nothing was read yet. A server that leaves at that
    /// moment would lose their requests.
    pub(super) fn unread(&self) -> watch::Receiver<usize> {
        self.unread.subscribe()
    }

    /// How many visitors are inside.
    pub(super) fn inside(&self) -> watch::Receiver<usize> {
        self.inside.subscribe()
    }

    /// Somebody who arrived from the program before, or who knocks now.
    async fn arrival(&mut self) -> io::Result<(Connection, Vec<u8>)> {
        if let Some(CarriedVisitor { socket, unread }) = self.next.next_arrived() {
            let stream = std::os::unix::net::UnixStream::from(socket);
            stream.set_nonblocking(true)?;
            return Ok((Connection::Unix(UnixStream::from_std(stream)?), unread));
        }
        Ok((self.listener.accept().await?, Vec::new()))
    }

    fn admits(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }
}

/// The user at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    uid: u32,
    standing: Arc<Standing>,
}

impl Peer {
    /// The user of that number, in that place.
    pub(super) fn new(uid: u32, place: &Place) -> Self {
        Self {
            uid,
            standing: Arc::clone(place.standing()),
        }
    }

    /// Who that is, with a name if the system knows one. May take a while.
    pub(super) fn caller(&self) -> Caller {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        Caller {
            uid: Some(self.uid),
            user: user.map(|user| user.name),
        }
    }
}

impl Visitor for Peer {
    fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.remote_addr().clone()
    }
}

impl axum::serve::Listener for Door {
    type Io = Turns;
    type Addr = Peer;

    async fn accept(&mut self) -> (Turns, Peer) {
        loop {
            let place = self.places.take().await;
            let mut stay = self.stay.clone();
            let accepted = tokio::select! {
                biased;
                // From here on they wait in the socket's queue, for the next manager.
                () = left(&mut stay) => std::future::pending().await,
                accepted = self.arrival() => accepted,
            };
            match accepted {
                // The control server speaks with people of this machine only.
                Ok((Connection::Tcp(_), _)) => {}
                Ok((Connection::Unix(stream), ahead)) => match stream.peer_cred() {
                    Ok(peer) if self.admits(peer.uid()) => {
                        let peer = Peer::new(peer.uid(), &place);
                        let visit = Visit::counted(stream, place, &self.unread);
                        let (next, stay) = (self.next.clone(), self.stay.clone());
                        return (Turns::new(visit, ahead, next, stay, &self.inside), peer);
                    }
                    Ok(peer) => {
                        self.log
                            .warning(format!("control: user {} is turned away", peer.uid()));
                    }
                    Err(error) => self.log.warning(format!("control: unknown peer: {error}")),
                },
                Err(error) => {
                    self.log.warning(format!("control: cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

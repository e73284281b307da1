//! Who may come in on `manager.sock`: root and our own user, and only so many at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::places::{Place, Places, Standing};
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
    places: Places,
    own_uid: u32,
    log: Log,
    stay: watch::Receiver<Stay>,
    unread: watch::Sender<usize>,
}

impl Door {
    pub(super) fn new(listener: HeldListener, stay: watch::Receiver<Stay>, log: Log) -> Self {
        Self {
            stay,
            unread: watch::channel(0).0,
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
    type Io = Visit<UnixStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Visit<UnixStream>, Peer) {
        loop {
            let place = self.places.take().await;
            let accepted = tokio::select! {
                biased;
                // From here on they wait in the socket's queue, for the next manager.
                () = left(&mut self.stay) => std::future::pending().await,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                // The control server speaks with people of this machine only.
                Ok(Connection::Tcp(_)) => {}
                Ok(Connection::Unix(stream)) => match stream.peer_cred() {
                    Ok(peer) if self.admits(peer.uid()) => {
                        let peer = Peer::new(peer.uid(), &place);
                        return (Visit::counted(stream, place, &self.unread), peer);
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

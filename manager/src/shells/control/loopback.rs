//! HTTP on a port of the loopback interface. Linux is asked who owns the other end of each connection, as for Circus's clients:
//! root, our own user and `allow_users` are served.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::middleware::from_fn;
use axum::serve::IncomingStream;
use kingpole_protocol::peer::Guests;
use kingpole_protocol::places::Address;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::door::Peer;
use super::places::Places;
use super::visit::{Visit, whole_requests};
use super::{Control, Stay, left};
use crate::shells::listeners::{Connection, HeldListener, Listeners};
use crate::shells::log::Log;

/// Connections served at once; a scraper has one. See [`Places`] for what happens when more come.
const CONNECTIONS_MAX: usize = 16;

/// Pause after a failing accept (no descriptors left, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What is served on a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    /// What its socket is called among [`Listeners`].
    pub(super) name: &'static str,
    /// The key of the configuration, for the log.
    pub(super) key: &'static str,
    /// What is served, for the log.
    pub(super) what: &'static str,
}

impl Service {
    /// Serves until the manager leaves.
    pub(super) async fn serve(
        self,
        address: SocketAddr,
        listeners: Listeners,
        control: &Control,
        router: Router,
        log: Log,
    ) {
        let key = self.key;
        let users = control.configuration.borrow().global.allow_users.clone();
        let guests = Guests::new(nix::unistd::geteuid().as_raw(), &users);
        let opened =
            spawn_blocking(move || listeners.open(self.name, &Address::Tcp(address))).await;
        let (guests, listener) = match (guests, opened) {
            (Ok(guests), Ok(Ok(listener))) => (guests, listener),
            (Err(reason), _) => return log.error(format!("{key} {address}: {reason}")),
            (_, Ok(Err(error))) => return log.error(format!("{key}: {error}")),
            (_, Err(error)) => return log.error(format!("{key} {address}: {error}")),
        };
        log.info(format!("{key}: {} at {}", self.what, listener.address()));
        let mut stay = control.stay.clone();
        let port = Port {
            service: self,
            listener,
            guests,
            places: Places::new(CONNECTIONS_MAX),
            stay: stay.clone(),
            log: log.clone(),
        };
        let router = router
            .layer(from_fn(whole_requests::<Peer>))
            .into_make_service_with_connect_info::<Peer>();
        let served = axum::serve(port, router).with_graceful_shutdown(async move {
            left(&mut stay).await;
        });
        if let Err(error) = served.await {
            log.error(format!("{key}: {error}"));
        }
    }

    /// Closes what an earlier manager served, which the configuration does not name any more.
    pub(super) async fn forget(self, listeners: Listeners) {
        // Nothing depends on it.
        let _ = spawn_blocking(move || listeners.forget(self.name)).await;
    }
}

struct Port {
    service: Service,
    listener: HeldListener,
    guests: Guests,
    places: Places,
    stay: watch::Receiver<Stay>,
    log: Log,
}

impl Port {
    /// The user at the other end, if that is one of ours.
    fn admit(&self, stream: &TcpStream) -> io::Result<u32> {
        let admitted = self
            .guests
            .admit_tcp(stream.peer_addr()?, stream.local_addr()?);
        Ok(admitted.map_err(io::Error::other)?.uid)
    }
}

impl Connected<IncomingStream<'_, Port>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        stream.remote_addr().clone()
    }
}

impl axum::serve::Listener for Port {
    type Io = Visit<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Visit<TcpStream>, Peer) {
        let key = self.service.key;
        loop {
            let place = self.places.take().await;
            let accepted = tokio::select! {
                biased;
                // From here on they wait in the socket's queue, for the next manager.
                () = left(&mut self.stay) => std::future::pending().await,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                // It was opened as a port.
                Ok(Connection::Unix(_)) => {}
                Ok(Connection::Tcp(stream)) => match self.admit(&stream) {
                    Ok(uid) => {
                        let peer = Peer::new(uid, &place);
                        return (Visit::new(stream, place), peer);
                    }
                    Err(error) => self
                        .log
                        .warning(format!("{key}: somebody is turned away: {error}")),
                },
                Err(error) => {
                    self.log.warning(format!("{key}: cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

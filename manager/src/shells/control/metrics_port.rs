//! `metrics_endpoint`: `/metrics` and nothing else on a loopback port, for scrapers that know no unix sockets. Linux is asked who
//! owns the other end of each connection, as for Circus's clients: root, our own user and `allow_users` are served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::middleware::from_fn;
use axum::routing::get;
use axum::serve::IncomingStream;
use kingpole_protocol::peer::Guests;
use kingpole_protocol::places::Address;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::places::{Places, Standing};
use super::visit::{Visit, Visitor, whole_requests};
use super::{Control, Stay, left, method_not_allowed, metrics, not_found};
use crate::shells::listeners::{Connection, HeldListener, Listeners};
use crate::shells::log::Log;

/// What its socket is called among [`Listeners`].
const NAME: &str = "metrics";

/// Connections served at once; a scraper has one.
const CONNECTIONS_MAX: usize = 16;

/// Pause after a failing accept (no descriptors left, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Closes what an earlier manager served, which the configuration does not name any more.
pub async fn forget(listeners: Listeners) {
    // Nothing depends on it.
    let _ = spawn_blocking(move || listeners.forget(NAME)).await;
}

/// Serves until the manager leaves.
pub async fn serve(address: SocketAddr, listeners: Listeners, control: Control, log: Log) {
    let users = control.configuration.borrow().global.allow_users.clone();
    let guests = Guests::new(nix::unistd::geteuid().as_raw(), &users);
    let opened = spawn_blocking(move || listeners.open(NAME, &Address::Tcp(address))).await;
    let (guests, listener) = match (guests, opened) {
        (Ok(guests), Ok(Ok(listener))) => (guests, listener),
        (Err(reason), _) => return log.error(format!("metrics_endpoint {address}: {reason}")),
        (_, Ok(Err(error))) => return log.error(format!("metrics_endpoint: {error}")),
        (_, Err(error)) => return log.error(format!("metrics_endpoint {address}: {error}")),
    };
    log.info(format!(
        "metrics_endpoint: metrics are served at {}",
        listener.address()
    ));
    let mut stay = control.stay.clone();
    let port = Port {
        listener,
        guests,
        places: Places::new(CONNECTIONS_MAX),
        stay: stay.clone(),
        log: log.clone(),
    };
    let router = Router::new()
        .route("/metrics", get(metrics::get))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(whole_requests::<Scraper>))
        .with_state(control)
        .into_make_service_with_connect_info::<Scraper>();
    let served = axum::serve(port, router).with_graceful_shutdown(async move {
        left(&mut stay).await;
    });
    if let Err(error) = served.await {
        log.error(format!("metrics_endpoint: {error}"));
    }
}

struct Port {
    listener: HeldListener,
    guests: Guests,
    places: Places,
    stay: watch::Receiver<Stay>,
    log: Log,
}

impl Port {
    fn admit(&self, stream: &TcpStream) -> io::Result<()> {
        let admitted = self
            .guests
            .admit_tcp(stream.peer_addr()?, stream.local_addr()?);
        admitted.map(drop).map_err(io::Error::other)
    }
}

/// Who scrapes.
#[derive(Clone, Debug)]
struct Scraper(Arc<Standing>);

impl Visitor for Scraper {
    fn standing(&self) -> &Arc<Standing> {
        &self.0
    }
}

impl Connected<IncomingStream<'_, Port>> for Scraper {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        stream.remote_addr().clone()
    }
}

impl axum::serve::Listener for Port {
    type Io = Visit<TcpStream>;
    type Addr = Scraper;

    async fn accept(&mut self) -> (Visit<TcpStream>, Scraper) {
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
                    Ok(()) => {
                        let scraper = Scraper(Arc::clone(place.standing()));
                        return (Visit::new(stream, place), scraper);
                    }
                    Err(error) => self.log.warning(format!(
                        "metrics_endpoint: somebody is turned away: {error}"
                    )),
                },
                Err(error) => {
                    self.log
                        .warning(format!("metrics_endpoint: cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Scraper> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

//! A listening socket, from wherever it came, and who is let in by it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kingpole_protocol::peer::{Guests, PeerError};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::os::fd::AsRawFd;
use tokio::net::{TcpListener, UnixListener};

use super::stream::Stream;

/// Who is let in.
#[derive(Clone, Debug)]
pub enum Admission {
    /// These users, as Linux knows them. Peers of other machines are nobody.
    Users(Arc<Guests>),
    /// Whoever can reach the address (`allow_remote`).
    Anyone,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    admission: Admission,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// Somebody came who is not let in.
    #[error("{0}")]
    Refused(#[from] PeerError),
    /// The system says no.
    #[error("cannot accept: {0}")]
    System(#[from] io::Error),
}

impl Listener {
    /// Takes a socket that is bound and listening. Must be called within the event loop.
    ///
    /// # Errors
    /// When it is of another kind, or the event loop does not take it.
    pub fn adopt(socket: OwnedFd, admission: Admission) -> io::Result<Self> {
        let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        let kind = match address.family() {
            Some(AddressFamily::Unix) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                Kind::Unix(UnixListener::from_std(listener)?)
            }
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Kind::Tcp(TcpListener::from_std(listener)?)
            }
            _ => return Err(io::Error::other("neither TCP nor unix")),
        };
        Ok(Self { kind, admission })
    }

    /// The next peer that is let in.
    pub(super) async fn accept(&self) -> Result<Stream, AcceptError> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Admission::Users(guests) = &self.admission {
                    guests.admit_tcp(peer, stream.local_addr()?)?;
                }
                // Replies are small and somebody waits for each.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Admission::Users(guests) = &self.admission {
                    guests.admit_unix(&stream.as_fd())?;
                }
                Ok(Stream::Unix(stream))
            }
        }
    }
}

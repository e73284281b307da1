//! A listening socket and who is let in by it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use kingpole_protocol::peer::{Guests, PeerError};
use kingpole_protocol::places::Address;

use super::stream::Stream;
use crate::shells::listeners::{Connection, HeldListener};

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
    held: HeldListener,
    admission: Admission,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// Somebody came who is not let in.
    #[error("somebody is turned away: {0}")]
    Refused(#[from] PeerError),
    /// The system says no.
    #[error("cannot accept: {0}")]
    System(#[from] io::Error),
}

impl Listener {
    /// Lets these in by that socket.
    #[must_use]
    pub const fn new(held: HeldListener, admission: Admission) -> Self {
        Self { held, admission }
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> &Address {
        self.held.address()
    }

    /// The next peer that is let in. May be dropped at any time without losing one.
    pub(super) async fn accept(&mut self) -> Result<Stream, AcceptError> {
        match self.held.accept().await? {
            Connection::Tcp(stream) => {
                if let Admission::Users(guests) = &self.admission {
                    guests.admit_tcp(stream.peer_addr()?, stream.local_addr()?)?;
                }
                // Replies are small and somebody waits for each.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Connection::Unix(stream) => {
                if let Admission::Users(guests) = &self.admission {
                    guests.admit_unix(&stream.as_fd())?;
                }
                Ok(Stream::Unix(stream))
            }
        }
    }
}

//! A listening socket and who is let in by it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use kingpole_protocol::peer::{Guests, PeerError};
use kingpole_protocol::places::Address;

use super::carry::{CarriedConnection, CarriedState, Carry};
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
    /// Its name among those whose connections are carried.
    name: &'static str,
    carry: Carry,
    /// Connections that the program before in this process has had.
    arrived: Vec<CarriedConnection>,
}

/// A peer that is let in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: Stream,
    /// What was agreed on with it, when it is not new.
    pub(super) resumed: Option<CarriedState>,
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
    /// Lets these in by that socket, first those that `carry` brings under this name.
    #[must_use]
    pub fn new(
        held: HeldListener,
        admission: Admission,
        name: &'static str,
        carry: &Carry,
    ) -> Self {
        Self {
            held,
            admission,
            name,
            carry: carry.clone(),
            arrived: carry.take_of(name),
        }
    }

    /// What it is called.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Where its connections go when the manager becomes another program.
    pub(super) fn carry(&self) -> Carry {
        self.carry.clone()
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> &Address {
        self.held.address()
    }

    /// The next peer that is let in. May be dropped at any time without losing one.
    pub(super) async fn accept(&mut self) -> Result<Arrival, AcceptError> {
        if let Some(carried) = self.arrived.pop() {
            let (stream, state) = carried.into_stream()?;
            // Who is let in may be others now.
            self.admit(&stream)?;
            return Ok(Arrival {
                stream,
                resumed: Some(state),
            });
        }
        let stream = match self.held.accept().await? {
            Connection::Tcp(stream) => {
                // Replies are small and somebody waits for each.
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Connection::Unix(stream) => Stream::Unix(stream),
        };
        self.admit(&stream)?;
        Ok(Arrival {
            stream,
            resumed: None,
        })
    }

    fn admit(&self, stream: &Stream) -> Result<(), AcceptError> {
        let Admission::Users(guests) = &self.admission else {
            return Ok(());
        };
        match stream {
            Stream::Tcp(stream) => guests.admit_tcp(stream.peer_addr()?, stream.local_addr()?)?,
            Stream::Unix(stream) => guests.admit_unix(&stream.as_fd())?,
        };
        Ok(())
    }
}

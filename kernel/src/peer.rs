//! Whom the kernel lets in: [`kingpole_protocol::peer`] in the words of its command line and state.

use crate::state::Peer;
use kingpole_protocol::peer;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use thiserror::Error;

pub use kingpole_protocol::peer::tcp_unread;

/// Why a peer is not served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    /// A user that is not on the list.
    #[error("user {uid} may not use this kernel; see --allow-user")]
    NotAllowed {
        /// Who.
        uid: u32,
    },
    /// Linux does not say who it is, so it is nobody.
    #[error("cannot find out who you are: {reason}")]
    Unknown {
        /// What went wrong.
        reason: String,
    },
}

impl From<peer::PeerError> for PeerError {
    fn from(error: peer::PeerError) -> Self {
        match error {
            peer::PeerError::NotAllowed { uid } => Self::NotAllowed { uid },
            peer::PeerError::Unknown { reason } => Self::Unknown { reason },
        }
    }
}

/// Who is served.
#[derive(Debug, Clone, Default)]
pub struct Guests(peer::Guests);

impl Guests {
    /// Root, `own`, and those of the command line, by name or number.
    ///
    /// # Errors
    /// A name that no user has.
    pub fn new(own: u32, names: &[String]) -> Result<Self, String> {
        peer::Guests::new(own, names)
            .map(Self)
            .map_err(|reason| format!("--allow-user {reason}"))
    }

    /// Looks at the peer of a unix connection.
    ///
    /// # Errors
    /// It may not come in.
    pub fn admit_unix(&self, connection: &impl AsFd) -> Result<Peer, PeerError> {
        let who = self.0.admit_unix(connection)?;
        Ok(Peer {
            address: Peer::UNIX.to_owned(),
            uid: who.uid,
            pid: who.pid,
        })
    }

    /// Looks at the peer of a TCP connection within this machine. Call it before anything is read:
    /// a socket that was closed meanwhile has no owner any more.
    ///
    /// # Errors
    /// It may not come in.
    pub fn admit_tcp(&self, peer: SocketAddr, own: SocketAddr) -> Result<Peer, PeerError> {
        let who = self.0.admit_tcp(peer, own)?;
        Ok(Peer {
            address: peer.to_string(),
            uid: who.uid,
            pid: who.pid,
        })
    }
}

//! Where clients come in.

use crate::memory::held::{HeldKind, Tag};
use crate::options::Need;
use crate::peer::{Guests, PeerError};
use crate::state::Peer;
use crate::sys::process::accept;
use kingpole_protocol::places::Address;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect,
    getpeername, getsockname, listen, send, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use thiserror::Error;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Linux refuses.
    #[error("cannot listen on {address}: {}", cause.desc())]
    Refused {
        /// Where.
        address: Address,
        /// Why.
        cause: Errno,
    },
    /// Somebody answers there.
    #[error("cannot listen on {0}: another program answers there")]
    InUse(Address),
    /// Anybody on the network could connect.
    #[error("will not listen on {0}: only loopback addresses are served over TCP")]
    NotLoopback(Address),
    /// Something is there that is no socket.
    #[error("cannot listen on {0}: there is a file that is no socket")]
    NotASocket(Address),
}

/// Who may connect to a unix socket; checked again when somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// The owner (and root).
    Owner,
    /// Everybody; those who are not on the list are told so.
    Everybody,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// Where it is.
    pub address: Address,
    /// Its place among the addresses asked for, from 1 on: the guard knows it by that.
    pub place: u64,
    /// Whether the guard holds it already.
    pub origin: ListenerOrigin,
}

/// Where a listener comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerOrigin {
    /// Opened here.
    Opened,
    /// An earlier kernel's: connections wait in it.
    Inherited,
}

/// What accepting brought.
#[derive(Debug)]
pub enum Accepted {
    /// Somebody who may come in.
    Guest(OwnedFd, Peer),
    /// Somebody who may not; has been told.
    Refused(PeerError),
    /// Nobody waits.
    Nobody,
    /// Descriptors ran out.
    NoDescriptors,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn open(
        address: Address,
        permissions: Permissions,
        place: u64,
    ) -> Result<Self, ListenError> {
        let refused = |cause| ListenError::Refused {
            address: address.clone(),
            cause,
        };
        let socket = match &address {
            Address::Unix(path) => open_unix(path, &address, permissions)?,
            Address::Tcp(at) if !at.ip().is_loopback() => {
                return Err(ListenError::NotLoopback(address));
            }
            Address::Tcp(at) => open_tcp(*at).map_err(refused)?,
        };
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        listen(&socket, backlog).map_err(refused)?;
        let address = match address {
            // With port 0 Linux has picked one; the log tells which.
            Address::Tcp(at) => Address::Tcp(crate::sockets::bound_address(&socket).unwrap_or(at)),
            unix @ Address::Unix(_) => unix,
        };
        Ok(Self {
            socket,
            address,
            place,
            origin: ListenerOrigin::Opened,
        })
    }

    /// Goes on with the socket of an earlier kernel, if it is the one that is wanted.
    fn inherit(address: &Address, place: u64, socket: OwnedFd) -> Option<Self> {
        let bound: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
        let address = match address {
            Address::Unix(path) => {
                if bound.as_unix_addr()?.path()? != path {
                    return None;
                }
                address.clone()
            }
            Address::Tcp(wanted) => {
                let at = crate::sockets::bound_address(&socket).ok()?;
                let is_wanted = wanted.ip() == at.ip() && [0, at.port()].contains(&wanted.port());
                is_wanted.then_some(Address::Tcp(at))?
            }
        };
        Some(Self {
            socket,
            address,
            place,
            origin: ListenerOrigin::Inherited,
        })
    }

    /// Under what the guard holds it.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        Tag::new(self.place, HeldKind::Listener)
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one connection; never waits.
    #[must_use]
    pub fn accept(&self, guests: &Guests) -> Accepted {
        let connection = match accept(self.socket.as_fd()) {
            Ok(connection) => connection,
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                return Accepted::NoDescriptors;
            }
            // Gone again, or nobody.
            Err(_) => return Accepted::Nobody,
        };
        let peer = match &self.address {
            Address::Unix(_) => guests.admit_unix(&connection),
            Address::Tcp(_) => {
                // Replies are small and awaited; if it cannot be set they are only slower.
                let _ = setsockopt(&connection, sockopt::TcpNoDelay, &true);
                match ends(&connection) {
                    Ok((peer, own)) => guests.admit_tcp(peer, own),
                    Err(cause) => Err(PeerError::Unknown {
                        reason: cause.desc().to_owned(),
                    }),
                }
            }
        };
        match peer {
            Ok(peer) => Accepted::Guest(connection, peer),
            Err(error) => {
                // Strangers learn nothing more; the log does.
                tell(&connection, "Error: permission denied\n");
                Accepted::Refused(error)
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // Leaving it behind would do no harm: the next kernel replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A last word, if it fits.
pub(super) fn tell(connection: &OwnedFd, text: &str) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = send(connection.as_raw_fd(), text.as_bytes(), flags);
}

/// The peer's address and ours.
pub(super) fn ends(connection: &OwnedFd) -> Result<(SocketAddr, SocketAddr), Errno> {
    let peer: SockaddrStorage = getpeername(connection.as_raw_fd())?;
    let peer = match (peer.as_sockaddr_in(), peer.as_sockaddr_in6()) {
        (Some(inet), _) => SocketAddr::V4((*inet).into()),
        (_, Some(inet6)) => SocketAddr::V6((*inet6).into()),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    Ok((peer, crate::sockets::bound_address(connection)?))
}

fn open_tcp(at: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = stream_socket(family)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(socket)
}

fn open_unix(
    path: &Path,
    address: &Address,
    permissions: Permissions,
) -> Result<OwnedFd, ListenError> {
    let refused = |cause| ListenError::Refused {
        address: address.clone(),
        cause,
    };
    let unix = UnixAddr::new(path).map_err(refused)?;
    let socket = stream_socket(AddressFamily::Unix).map_err(refused)?;
    if let Ok(file) = std::fs::symlink_metadata(path) {
        if !file.file_type().is_socket() {
            return Err(ListenError::NotASocket(address.clone()));
        }
        let probe = stream_socket(AddressFamily::Unix).map_err(refused)?;
        if connect(probe.as_raw_fd(), &unix) != Err(Errno::ECONNREFUSED) {
            return Err(ListenError::InUse(address.clone()));
        }
        std::fs::remove_file(path)
            .map_err(|error| refused(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    }
    let mask = match permissions {
        Permissions::Owner => 0o177,
        Permissions::Everybody => 0o111,
    };
    let old = umask(Mode::from_bits_truncate(mask));
    let bound = bind(socket.as_raw_fd(), &unix);
    umask(old);
    bound.map_err(refused)?;
    Ok(socket)
}

fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

/// Opens `kernel.sock` and all of `listens`, or takes them out of `held`; those that are only a default may be missing, which `missing` hears of.
///
/// # Errors
/// One that was asked for cannot be had.
pub fn open_all(
    runtime_dir: &Path,
    listens: &[crate::options::Listen],
    permissions: Permissions,
    held: &mut BTreeMap<Tag, OwnedFd>,
    mut missing: impl FnMut(String),
) -> Result<Vec<Listener>, ListenError> {
    let own = Address::kernel_in(runtime_dir);
    let asked = listens
        .iter()
        .filter(|listen| listen.address != own)
        .map(|listen| (listen.address.clone(), listen.need));
    let all = std::iter::once((own.clone(), Need::Asked)).chain(asked);
    let mut listeners = Vec::new();
    for (place, (address, need)) in (1..).zip(all) {
        let socket = held.remove(&Tag::new(place, HeldKind::Listener));
        let inherited = socket.and_then(|socket| Listener::inherit(&address, place, socket));
        if let Some(listener) = inherited {
            listeners.push(listener);
            continue;
        }
        match (Listener::open(address, permissions, place), need) {
            (Ok(listener), _) => listeners.push(listener),
            (Err(error), Need::Default) => missing(format!("{error}; going on without it")),
            (Err(error), Need::Asked) => {
                // Those of an earlier kernel are not ours to close before we serve.
                listeners
                    .into_iter()
                    .filter(|listener| listener.origin == ListenerOrigin::Inherited)
                    .for_each(std::mem::forget);
                return Err(error);
            }
        }
    }
    Ok(listeners)
}

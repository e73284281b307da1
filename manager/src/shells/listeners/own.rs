//! Listening without the kernel.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kingpole_protocol::places::Address;
use nix::sys::stat::{Mode, umask};

use super::accepting::StdListener;
use crate::shells::link::describe;

/// Why nobody can listen somewhere.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something is in the way that is not ours to remove.
    #[error("{path}: is in the way and no socket; move it", path = .0.display())]
    NotASocket(PathBuf),
    /// Another program serves it.
    #[error("{0}: another program answers there")]
    InUse(Address),
    /// The system says no.
    #[error("cannot listen on {address}: {reason}", reason = describe(source))]
    System {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
}

/// How often, and with which pauses, an address is tried that a manager may just be giving up: one
/// that was killed is gone from its lock some moments before it is gone from its sockets, and there
/// is nothing to wait on that would also end.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(30);

/// Listens; a unix socket has mode 0600 from the first moment.
///
/// # Errors
/// See [`ListenError`].
pub(super) fn listen(address: &Address) -> Result<StdListener, ListenError> {
    let system = |source| ListenError::System {
        address: address.clone(),
        source,
    };
    match address {
        Address::Unix(path) => {
            if clear_path(path)? == Leftover::Socket {
                fs::remove_file(path).map_err(system)?;
            }
            let before = umask(Mode::from_bits_truncate(0o177));
            let bound = UnixListener::bind(path);
            umask(before);
            bound.map(StdListener::Unix).map_err(system)
        }
        Address::Tcp(at) => {
            for _ in 1..ATTEMPTS {
                match std::net::TcpListener::bind(at) {
                    Ok(listener) => return Ok(StdListener::Tcp(listener)),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        std::thread::sleep(PAUSE);
                    }
                    Err(error) => return Err(system(error)),
                }
            }
            let bound = std::net::TcpListener::bind(at);
            bound.map(StdListener::Tcp).map_err(system)
        }
    }
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// Nothing.
    Nothing,
    /// A socket that nobody serves.
    Socket,
}

/// Looks whether a socket may be put at `path`.
///
/// # Errors
/// When somebody serves one there, or something that is no socket is there.
pub(super) fn clear_path(path: &Path) -> Result<Leftover, ListenError> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::NotASocket(path.to_owned())),
        Err(_) => return Ok(Leftover::Nothing),
    }
    for _ in 1..ATTEMPTS {
        if !answers(path) {
            return Ok(Leftover::Socket);
        }
        std::thread::sleep(PAUSE);
    }
    if answers(path) {
        return Err(ListenError::InUse(Address::Unix(path.to_owned())));
    }
    Ok(Leftover::Socket)
}

/// Whether somebody listens at `path`.
pub(super) fn answers(path: &Path) -> bool {
    // Connecting would wait in a full queue, so a queue that is full is asked about without waiting.
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(probe) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return UnixStream::connect(path).is_ok();
    };
    let Ok(address) = UnixAddr::new(path) else {
        return false;
    };
    matches!(
        connect(probe.as_raw_fd(), &address),
        Ok(()) | Err(nix::errno::Errno::EAGAIN)
    )
}

/// Removes the path of a socket that is given up.
pub(super) fn remove_path(address: &Address) {
    if let Address::Unix(path) = address {
        let _ = fs::remove_file(path);
    }
}

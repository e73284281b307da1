//! Tells systemd how we are, if it asked (sd_notify(3)).

use nix::sys::socket::{UnixAddr, connect};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

/// Where systemd listens, and a socket to tell it something.
#[derive(Debug)]
pub struct Notifier {
    /// Connected, so that it tells when there is room; never waits.
    pub socket: UnixDatagram,
}

/// The one that the environment names.
#[must_use]
pub fn notifier() -> Option<Notifier> {
    let place = std::env::var_os("NOTIFY_SOCKET")?;
    let bytes = place.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(bytes),
    };
    let socket = UnixDatagram::unbound().ok()?;
    // A full queue must not stop us.
    socket.set_nonblocking(true).ok()?;
    connect(socket.as_raw_fd(), &address.ok()?).ok()?;
    Some(Notifier { socket })
}

/// Sends `state` there. Without an address, or if nobody reads there, nothing happens: it is news for a
/// manager, not a need of ours.
pub fn notify(state: &str) {
    if let Some(Notifier { socket }) = notifier() {
        let _ = socket.send(state.as_bytes());
    }
}

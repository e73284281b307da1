//! Asking the kernel for a listening socket, over a session of its own.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::places::{Address, own_uid};
use kingpole_protocol::reply::SocketPassed;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::{ErrorCode, Fence};
use nix::sys::socket::{getsockopt, sockopt};

use super::accepting::StdListener;
use super::own::{ListenError, answers, clear_path};

/// How long the kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that may wait; Linux's own default bound (`net.core.somaxconn`), for a queue that has
/// to hold everybody who comes while no manager is there.
const BACKLOG: u32 = 4096;

/// Whoever is not the owner may not connect.
const UMASK: u32 = 0o177;

/// How often a socket is made anew that then does not do; each time for a reason that was removed.
const ATTEMPTS: u32 = 3;

/// Why the kernel does not hold a socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotHeld {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Path(#[from] ListenError),
    #[error("it is too old to pass descriptors")]
    TooOld,
    #[error("it runs as user {0}, we as {own}", own = own_uid())]
    OtherUser(u32),
    #[error("what it holds under this name cannot be used")]
    Unusable,
}

/// Who serves an address at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// We do, with a listener that only we have: it may be replaced.
    Ourselves,
    /// Nobody of ours.
    Unserved,
}

/// The socket of this name and address, made if it is not there, and the number of the kernel's
/// state.
///
/// # Errors
/// When the kernel cannot hold it, or cannot be reached.
pub(super) fn hold(
    kernel_socket: &Path,
    fence: Option<Fence>,
    name: &str,
    address: &Address,
    now: Now,
) -> Result<(StdListener, u64), NotHeld> {
    let mut kernel = connect(kernel_socket, fence)?;
    if !kernel.passes_descriptors() {
        return Err(NotHeld::TooOld);
    }
    let peer = getsockopt(&kernel.descriptor(), sockopt::PeerCredentials);
    let uid = peer.map_or(u32::MAX, |peer| peer.uid());
    if uid != own_uid() {
        return Err(NotHeld::OtherUser(uid));
    }
    let spec = spec(name, address);
    for _ in 0..ATTEMPTS {
        match kernel.fetch_socket(name) {
            Ok((passed, descriptor)) => {
                if is_wanted(&passed, &spec) {
                    let instance = kernel.welcome().instance;
                    return Ok((listener(descriptor, address), instance));
                }
                // Another address, or clients do not reach it: what waits in it is lost either way.
                kernel.close_socket(name)?;
            }
            Err(ClientError::Refused(error)) if error.code == ErrorCode::NOT_FOUND => {
                if let (Address::Unix(path), Now::Unserved) = (address, now) {
                    // The kernel would replace whatever is there.
                    clear_path(path)?;
                }
                kernel.make_socket(spec.clone())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(NotHeld::Unusable)
}

/// Lets the kernel close a socket and remove its path.
///
/// # Errors
/// When it cannot be reached, or refuses.
pub(super) fn close(
    kernel_socket: &Path,
    fence: Option<Fence>,
    name: &str,
) -> Result<(), ClientError> {
    connect(kernel_socket, fence)?.close_socket(name)
}

fn connect(kernel_socket: &Path, fence: Option<Fence>) -> Result<Client, ClientError> {
    let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"), " listeners");
    let address = Address::Unix(kernel_socket.to_owned());
    let mut kernel = Client::connect(&address, client, Some(ANSWER_TIMEOUT))?;
    if let Some(fence) = fence {
        kernel.set_fence(fence);
    }
    Ok(kernel)
}

fn spec(name: &str, address: &Address) -> SocketSpec {
    let address = match address {
        Address::Unix(path) => SocketAddress::Unix {
            path: path.as_os_str().into(),
            umask: Some(UMASK),
        },
        Address::Tcp(at) if at.is_ipv4() => SocketAddress::Inet {
            host: at.ip().to_string(),
            port: at.port(),
        },
        Address::Tcp(at) => SocketAddress::Inet6 {
            host: at.ip().to_string(),
            port: at.port(),
        },
    };
    SocketSpec {
        name: name.to_owned(),
        address,
        kind: SocketKind::Stream,
        backlog: BACKLOG,
        interface: None,
        reuseport: false,
    }
}

/// Whether it is at the wanted address and clients find it there. Any port will do for port 0.
fn is_wanted(passed: &SocketPassed, wanted: &SocketSpec) -> bool {
    let mut wanted = wanted.clone();
    let held = &passed.socket.spec;
    if let (
        SocketAddress::Inet { port, .. } | SocketAddress::Inet6 { port, .. },
        SocketAddress::Inet { port: real, .. } | SocketAddress::Inet6 { port: real, .. },
    ) = (&mut wanted.address, &held.address)
        && *port == 0
    {
        *port = *real;
    }
    if *held != wanted || !passed.reachable {
        return false;
    }
    match &held.address {
        // A kernel that took over knows the file only by its path.
        SocketAddress::Unix { path, .. } => answers(Path::new(path.as_os_str())),
        SocketAddress::Inet { .. } | SocketAddress::Inet6 { .. } => true,
    }
}

fn listener(descriptor: OwnedFd, address: &Address) -> StdListener {
    match address {
        Address::Unix(_) => StdListener::Unix(descriptor.into()),
        Address::Tcp(_) => StdListener::Tcp(descriptor.into()),
    }
}

//! Accepting from a listener that may be replaced by its successor meanwhile.

use std::io;

use kingpole_protocol::places::Address;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;

/// A listener of the standard library.
#[derive(Debug)]
pub(super) enum StdListener {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl StdListener {
    /// Where it really is.
    pub(super) fn address(&self) -> Option<Address> {
        match self {
            Self::Unix(listener) => {
                let address = listener.local_addr().ok()?;
                Some(Address::Unix(address.as_pathname()?.to_owned()))
            }
            Self::Tcp(listener) => listener.local_addr().ok().map(Address::Tcp),
        }
    }
}

/// A connection that was accepted; whether its peer may come in is for the caller to decide.
#[derive(Debug)]
pub enum Connection {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

#[derive(Debug)]
enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A listening socket, usually held by the kernel.
#[derive(Debug)]
pub struct HeldListener {
    address: Address,
    /// Not known to the event loop yet; the newest last.
    fresh: Vec<StdListener>,
    /// The newest last. What waits in the older ones is served first; then they go.
    listening: Vec<Listening>,
    successors: mpsc::UnboundedReceiver<StdListener>,
}

impl HeldListener {
    pub(super) fn new(
        listener: StdListener,
        address: Address,
        successors: mpsc::UnboundedReceiver<StdListener>,
    ) -> Self {
        Self {
            address,
            fresh: vec![listener],
            listening: Vec::new(),
            successors,
        }
    }

    /// One that nobody else holds.
    #[must_use]
    pub fn from_unix(listener: std::os::unix::net::UnixListener, address: Address) -> Self {
        let (_, successors) = mpsc::unbounded_channel();
        Self::new(StdListener::Unix(listener), address, successors)
    }

    /// Where it is, with the port that Linux picked.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// As `accept`; most often that too many descriptors are open. Pause, and try again.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        loop {
            while let Ok(successor) = self.successors.try_recv() {
                self.fresh.push(successor);
            }
            for fresh in self.fresh.drain(..) {
                self.listening.push(fresh.try_into()?);
            }
            // No client finds an older one any more, so the first time that nobody waits in it is
            // the last.
            while self.listening.len() > 1 {
                match self.listening[0].try_accept() {
                    Some(connection) => return connection,
                    None => drop(self.listening.remove(0)),
                }
            }
            let Some(current) = self.listening.first() else {
                return Err(io::Error::other("this listener is closed"));
            };
            tokio::select! {
                connection = current.accept() => return connection,
                Some(successor) = self.successors.recv() => self.fresh.push(successor),
            }
        }
    }
}

impl TryFrom<StdListener> for Listening {
    type Error = io::Error;

    fn try_from(listener: StdListener) -> io::Result<Self> {
        Ok(match listener {
            StdListener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(listener)?)
            }
            StdListener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?)
            }
        })
    }
}

impl Listening {
    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Connection::Unix(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Connection::Tcp(stream))
            }
        }
    }

    /// A connection that waits already. Asks Linux, not the event loop, which learns late of what
    /// was there before it.
    fn try_accept(&self) -> Option<io::Result<Connection>> {
        use std::os::fd::{AsFd, BorrowedFd};
        fn copy(fd: BorrowedFd<'_>) -> io::Result<std::os::fd::OwnedFd> {
            fd.try_clone_to_owned()
        }
        let accepted = match self {
            Self::Unix(listener) => copy(listener.as_fd()).and_then(|fd| {
                let (stream, _) = std::os::unix::net::UnixListener::from(fd).accept()?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Connection::Unix)
            }),
            Self::Tcp(listener) => copy(listener.as_fd()).and_then(|fd| {
                let (stream, _) = std::net::TcpListener::from(fd).accept()?;
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Connection::Tcp)
            }),
        };
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    }
}

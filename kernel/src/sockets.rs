//! Making, binding and closing the sockets that children inherit.
//!
//! Addresses are numeric: looking names up needs threads, which the kernel does not have. It knows
//! nothing of who uses a socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockname,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use thiserror::Error;

/// Type of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// `SOCK_STREAM`, listening.
    Stream,
    /// `SOCK_DGRAM`.
    Datagram,
    /// `SOCK_SEQPACKET`, listening.
    SeqPacket,
}

/// Whether several sockets may share the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReusePort {
    /// One socket has it.
    No,
    /// `SO_REUSEPORT`, set before binding: make a fresh socket for each user.
    Yes,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

/// Where to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPlace {
    /// A unix path, absolute. Whatever is there (except a directory) is replaced.
    Unix {
        /// The path.
        path: PathBuf,
        /// File mode mask while binding; the kernel's own if absent.
        umask: Option<u32>,
    },
    /// A port.
    Inet {
        /// IPv4 or IPv6.
        family: IpFamily,
        /// Numeric, or `localhost`; all addresses (with an interface) or the loopback if absent.
        host: Option<String>,
        /// 0 lets Linux pick one.
        port: u16,
        /// Network interface to bind to (`SO_BINDTODEVICE`).
        interface: Option<String>,
        /// Whether the port is shared.
        reuse_port: ReusePort,
    },
}

/// What socket to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlan {
    /// Its type.
    pub kind: SocketKind,
    /// Connections that may wait to be accepted; capped by Linux.
    pub backlog: u32,
    /// Where.
    pub place: SocketPlace,
}

/// Which file a unix socket's path led to when it was bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixFile {
    /// The path.
    pub path: PathBuf,
    /// Device and inode: if they differ, somebody else has put another file there.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
}

/// Where a socket really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAt {
    /// This file.
    Unix(UnixFile),
    /// This address, with the port that Linux picked if it was asked to.
    Inet(SocketAddr),
}

/// A socket, bound and (unless it is for datagrams) listening. Closing it leaves a unix path
/// behind; see [`unlink_if_ours`].
#[derive(Debug)]
pub struct BoundSocket {
    /// The socket, close-on-exec and blocking, as children expect it.
    pub fd: OwnedFd,
    /// Where it is.
    pub at: BoundAt,
}

/// A socket that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SocketError {
    /// Papa's words for it.
    #[error("Bind failed on {place}: {}", cause.desc())]
    Bind {
        /// `HOST:PORT` or the path.
        place: String,
        /// Why.
        cause: Errno,
    },
    /// Nothing can be listening there.
    #[error("Listen failed on {place}: {}", cause.desc())]
    Listen {
        /// `HOST:PORT` or the path.
        place: String,
        /// Why.
        cause: Errno,
    },
    /// Papa's words for it.
    #[error("Absolute path required for Unix sockets")]
    RelativePath,
    /// The kernel does not resolve names.
    #[error("{host:?} is not a numeric {family} address (or \"localhost\")")]
    NotNumeric {
        /// As asked for.
        host: String,
        /// `inet` or `inet6`.
        family: &'static str,
    },
    /// No such network interface, or not allowed to bind to it.
    #[error("cannot bind to the interface {interface}: {}", cause.desc())]
    Interface {
        /// Its name.
        interface: String,
        /// Why.
        cause: Errno,
    },
    /// Linux has no such socket, or ran out of something.
    #[error("cannot {action}: {}", cause.desc())]
    Make {
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: Errno,
    },
}

impl SocketKind {
    /// From Papa's and Circus's words; `raw` and `rdm` are refused with the reason.
    ///
    /// # Errors
    /// A text that names the kinds there are.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match name {
            "stream" => Ok(Self::Stream),
            "dgram" => Ok(Self::Datagram),
            "seqpacket" => Ok(Self::SeqPacket),
            "raw" | "rdm" => Err(format!(
                "sockets of type {name} are not supported; use stream, dgram or seqpacket"
            )),
            _ => Err(format!(
                "unknown socket type {name:?}; use stream, dgram or seqpacket"
            )),
        }
    }

    const fn to_linux(self) -> SockType {
        match self {
            Self::Stream => SockType::Stream,
            Self::Datagram => SockType::Datagram,
            Self::SeqPacket => SockType::SeqPacket,
        }
    }
}

impl fmt::Display for SocketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(f, "{}", path.display()),
            Self::Inet {
                family,
                host,
                port,
                interface,
                ..
            } => {
                let host = host
                    .as_deref()
                    .unwrap_or_else(|| default_host(*family, interface));
                write!(f, "{host}:{port}")
            }
        }
    }
}

impl SocketPlan {
    /// Makes, binds and (unless for datagrams) listens.
    ///
    /// Changes the process's umask for an instant when the plan has one, so only call it from the
    /// kernel's one thread.
    ///
    /// # Errors
    /// See [`SocketError`]; nothing is left open.
    pub fn make(&self) -> Result<BoundSocket, SocketError> {
        let socket = match &self.place {
            SocketPlace::Unix { path, umask } => self.make_unix(path, *umask)?,
            SocketPlace::Inet {
                family,
                host,
                port,
                interface,
                reuse_port,
            } => {
                let host = host
                    .as_deref()
                    .unwrap_or_else(|| default_host(*family, interface));
                let address = SocketAddr::new(numeric(*family, host)?, *port);
                self.make_inet(address, interface.as_deref(), *reuse_port)?
            }
        };
        if self.kind != SocketKind::Datagram {
            let listening = listen(&socket.fd, backlog(self.backlog));
            if let Err(cause) = listening {
                if let BoundAt::Unix(file) = &socket.at {
                    let _ = unlink_if_ours(file);
                }
                return Err(SocketError::Listen {
                    place: self.place.to_string(),
                    cause,
                });
            }
        }
        Ok(socket)
    }

    fn make_unix(&self, path: &Path, mask: Option<u32>) -> Result<BoundSocket, SocketError> {
        if !path.is_absolute() {
            return Err(SocketError::RelativePath);
        }
        let failed = |cause| SocketError::Bind {
            place: self.place.to_string(),
            cause,
        };
        let address = UnixAddr::new(path).map_err(failed)?;
        let fd = self.open(AddressFamily::Unix)?;
        if self.kind == SocketKind::Datagram {
            // Who sends is only known of what is sent from then on, and whoever reads comes later.
            setsockopt(&fd, sockopt::PassCred, &true).map_err(|cause| SocketError::Make {
                action: "set SO_PASSCRED",
                cause,
            })?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(errno_of(&error)));
            }
            _ => {}
        }
        let old = mask.map(|mask| umask(Mode::from_bits_truncate(mask)));
        let bound = bind(fd.as_raw_fd(), &address);
        if let Some(old) = old {
            umask(old);
        }
        bound.map_err(failed)?;
        let file = fs::symlink_metadata(path).map_err(|error| failed(errno_of(&error)))?;
        let at = UnixFile {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
        };
        Ok(BoundSocket {
            fd,
            at: BoundAt::Unix(at),
        })
    }

    fn make_inet(
        &self,
        address: SocketAddr,
        interface: Option<&str>,
        reuse_port: ReusePort,
    ) -> Result<BoundSocket, SocketError> {
        let failed = |cause| SocketError::Bind {
            place: self.place.to_string(),
            cause,
        };
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let fd = self.open(family)?;
        let option = |action: &'static str| move |cause| SocketError::Make { action, cause };
        setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(option("set SO_REUSEADDR"))?;
        if reuse_port == ReusePort::Yes {
            setsockopt(&fd, sockopt::ReusePort, &true).map_err(option("set SO_REUSEPORT"))?;
        }
        if let Some(interface) = interface {
            setsockopt(&fd, sockopt::BindToDevice, &interface.into()).map_err(|cause| {
                SocketError::Interface {
                    interface: interface.into(),
                    cause,
                }
            })?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(failed)?;
        let real = bound_address(&fd).map_err(failed)?;
        Ok(BoundSocket {
            fd,
            at: BoundAt::Inet(real),
        })
    }

    fn open(&self, family: AddressFamily) -> Result<OwnedFd, SocketError> {
        socket(family, self.kind.to_linux(), SockFlag::SOCK_CLOEXEC, None).map_err(|cause| {
            SocketError::Make {
                action: "make a socket of this type",
                cause,
            }
        })
    }
}

/// Whether the file of a unix socket is still the one that was bound.
#[must_use]
pub fn is_in_place(file: &UnixFile) -> bool {
    fs::symlink_metadata(&file.path)
        .is_ok_and(|found| found.dev() == file.device && found.ino() == file.inode)
}

/// Removes the file of a unix socket, unless another file has taken its place.
///
/// # Errors
/// That of `unlink`; a file that is gone or somebody else's is not one.
pub fn unlink_if_ours(file: &UnixFile) -> io::Result<()> {
    if is_in_place(file) {
        fs::remove_file(&file.path)
    } else {
        Ok(())
    }
}

/// The address of an inet socket.
///
/// # Errors
/// `EAFNOSUPPORT` when it is not one.
pub fn bound_address(fd: impl AsFd) -> Result<SocketAddr, Errno> {
    let address: SockaddrStorage = getsockname(fd.as_fd().as_raw_fd())?;
    if let Some(inet) = address.as_sockaddr_in() {
        return Ok(SocketAddr::V4((*inet).into()));
    }
    let inet6 = address.as_sockaddr_in6().ok_or(Errno::EAFNOSUPPORT)?;
    Ok(SocketAddr::V6((*inet6).into()))
}

fn default_host(family: IpFamily, interface: &Option<String>) -> &'static str {
    match (family, interface) {
        (IpFamily::Inet, None) => "127.0.0.1",
        (IpFamily::Inet, Some(_)) => "0.0.0.0",
        (IpFamily::Inet6, None) => "::1",
        (IpFamily::Inet6, Some(_)) => "::",
    }
}

fn numeric(family: IpFamily, host: &str) -> Result<IpAddr, SocketError> {
    let (parsed, name) = match family {
        IpFamily::Inet if host == "localhost" => (Some(Ipv4Addr::LOCALHOST.into()), "inet"),
        IpFamily::Inet6 if host == "localhost" => (Some(Ipv6Addr::LOCALHOST.into()), "inet6"),
        IpFamily::Inet => (host.parse::<Ipv4Addr>().ok().map(IpAddr::from), "inet"),
        IpFamily::Inet6 => (host.parse::<Ipv6Addr>().ok().map(IpAddr::from), "inet6"),
    };
    parsed.ok_or_else(|| SocketError::NotNumeric {
        host: host.to_owned(),
        family: name,
    })
}

/// Linux caps it at `net.core.somaxconn` itself; nix refuses more than its idea of that.
fn backlog(backlog: u32) -> Backlog {
    let wanted = i32::try_from(backlog).unwrap_or(i32::MAX);
    Backlog::new(wanted).unwrap_or(Backlog::MAXCONN)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests;

//! Who is at the other end of a connection, and whether it may come in. The kernel's door and the
//! manager's ZeroMQ endpoints ask here.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recv, send, socket,
    sockopt,
};
use nix::unistd::User;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use thiserror::Error;

/// Why a peer is not served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    /// A user that is not on the list.
    #[error("user {uid} is not served")]
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

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process id; 0 over TCP, where Linux does not tell.
    pub pid: i32,
}

/// Who is served.
#[derive(Debug, Clone, Default)]
pub struct Guests {
    uids: BTreeSet<u32>,
}

impl Guests {
    /// Root, `own`, and those that are named, by name or number.
    ///
    /// # Errors
    /// A name that no user has, as a sentence.
    pub fn new(own: u32, names: &[String]) -> Result<Self, String> {
        let mut uids = BTreeSet::from([0, own]);
        for name in names {
            let uid = match name.parse::<u32>() {
                Ok(uid) => uid,
                Err(_) => match User::from_name(name) {
                    Ok(Some(user)) => user.uid.as_raw(),
                    Ok(None) => return Err(format!("{name}: there is no such user")),
                    Err(cause) => return Err(format!("{name}: {cause}")),
                },
            };
            uids.insert(uid);
        }
        Ok(Self { uids })
    }

    fn check(&self, uid: u32) -> Result<u32, PeerError> {
        if self.uids.contains(&uid) {
            Ok(uid)
        } else {
            Err(PeerError::NotAllowed { uid })
        }
    }

    /// Looks at the peer of a unix connection.
    ///
    /// # Errors
    /// It may not come in.
    pub fn admit_unix(&self, connection: &impl AsFd) -> Result<Peer, PeerError> {
        let who = getsockopt(connection, sockopt::PeerCredentials).map_err(unknown)?;
        let uid = self.check(who.uid())?;
        Ok(Peer {
            uid,
            pid: who.pid(),
        })
    }

    /// Looks at the peer of a TCP connection within this machine. Call it before anything is read:
    /// a socket that was closed meanwhile has no owner any more.
    ///
    /// # Errors
    /// It may not come in.
    pub fn admit_tcp(&self, peer: SocketAddr, own: SocketAddr) -> Result<Peer, PeerError> {
        if !peer.ip().to_canonical().is_loopback() {
            return Err(unknown_text(
                "the connection does not come from this machine",
            ));
        }
        let owner = socket_owner(peer, own).map_err(unknown)?;
        // Closing and closed sockets are nobody's; older versions of Linux call them root's.
        if owner.state != TCP_ESTABLISHED || owner.inode == 0 {
            return Err(unknown_text("the connection is being closed"));
        }
        let uid = self.check(owner.uid)?;
        Ok(Peer { uid, pid: 0 })
    }
}

fn unknown(cause: Errno) -> PeerError {
    unknown_text(cause.desc())
}

fn unknown_text(reason: &str) -> PeerError {
    PeerError::Unknown {
        reason: reason.to_owned(),
    }
}

/// `include/net/tcp_states.h`.
const TCP_ESTABLISHED: u8 = 1;
/// The same.
const TCP_SYN_RECV: u8 = 3;

/// What sock_diag(7) says about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    state: u8,
    uid: u32,
    inode: u32,
    /// Bytes that it has received and not read.
    unread: u32,
}

/// Bytes that the peer of a TCP connection within this machine has received and not read.
///
/// # Errors
/// The peer is not there any more.
pub fn tcp_unread(peer: SocketAddr, own: SocketAddr) -> Result<u32, Errno> {
    socket_owner(peer, own).map(|owner| owner.unread)
}

/// What the other end of a TCP connection within this machine is to those who look for it in
/// `/proc/PID/fd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Nobody has accepted the connection.
    NotYet,
    /// The handshake is not over; or it waits for data (`TCP_DEFER_ACCEPT`).
    Handshake,
    /// Somebody has, and the socket has this inode.
    By(u32),
    /// Somebody has, and has closed it.
    Closed,
}

/// Whether somebody has accepted a TCP connection within this machine at its other end.
///
/// # Errors
/// The other end is not here, or not any more.
pub fn tcp_accepted(peer: SocketAddr, own: SocketAddr) -> Result<Accepted, Errno> {
    let owner = socket_owner(peer, own)?;
    match (owner.state, owner.inode) {
        (TCP_SYN_RECV, _) => Ok(Accepted::Handshake),
        (TCP_ESTABLISHED, 0) => Ok(Accepted::NotYet),
        (_, 0) => Ok(Accepted::Closed),
        (_, inode) => Ok(Accepted::By(inode)),
    }
}

/// Asks Linux for the TCP socket whose own address is `source` and whose peer is `destination`.
fn socket_owner(source: SocketAddr, destination: SocketAddr) -> Result<Owner, Errno> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let request = diag_request(source, destination);
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 512];
    // The answer is made while the request is sent, so it is there.
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    parse_answer(answer.get(..length).unwrap_or_default())
}

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const NLM_F_REQUEST: u16 = 1;
/// `NLMSG_ERROR` of `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
/// Bytes of `struct nlmsghdr`.
const NLMSG_HEADER: usize = 16;

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (`linux/inet_diag.h`).
fn diag_request(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    const REQUEST_BYTES: u32 = 16 + 56;
    const IPPROTO_TCP: u8 = 6;
    let family = if source.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut request = Vec::new();
    request.extend_from_slice(&REQUEST_BYTES.to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: nothing else is asked on this socket.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[u8::try_from(family).unwrap_or(0), IPPROTO_TCP, 0, 0]);
    // All states.
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&source.port().to_be_bytes());
    request.extend_from_slice(&destination.port().to_be_bytes());
    request.extend_from_slice(&address_bytes(source.ip()));
    request.extend_from_slice(&address_bytes(destination.ip()));
    // Any interface; no cookie.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&[0xff; 8]);
    request
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip(address.octets()) {
                *to = from;
            }
            bytes
        }
    }
}

/// `struct inet_diag_msg`: family, state, timer, retransmits, id (48 bytes), then u32 words:
/// expires, rqueue, wqueue, uid, inode.
fn parse_answer(answer: &[u8]) -> Result<Owner, Errno> {
    let word = |at: usize| {
        let bytes = answer.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let kind = answer
        .get(4..6)
        .and_then(|kind| kind.try_into().ok())
        .map(u16::from_ne_bytes);
    match kind {
        Some(NLMSG_ERROR) => {
            let code = word(NLMSG_HEADER).unwrap_or(0).cast_signed();
            Err(Errno::from_raw(code.saturating_neg()))
        }
        Some(SOCK_DIAG_BY_FAMILY) => {
            const ID_END: usize = NLMSG_HEADER + 4 + 48;
            let fields = || {
                let state = *answer.get(NLMSG_HEADER + 1)?;
                Some(Owner {
                    state,
                    unread: word(ID_END + 4)?,
                    uid: word(ID_END + 12)?,
                    inode: word(ID_END + 16)?,
                })
            };
            fields().ok_or(Errno::EBADMSG)
        }
        _ => Err(Errno::EBADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn a_tcp_peer_on_this_machine_is_known_by_its_user() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let own = server.local_addr().unwrap();
            let guests = Guests::new(own_uid(), &[]).unwrap();
            assert_eq!(guests.admit_tcp(peer, own).map(|p| p.uid), Ok(own_uid()));
            let nobody = Guests {
                uids: BTreeSet::from([4711]),
            };
            let refused = PeerError::NotAllowed { uid: own_uid() };
            assert_eq!(nobody.admit_tcp(peer, own), Err(refused));
            drop(client);
            assert!(matches!(
                guests.admit_tcp(peer, own),
                Err(PeerError::Unknown { .. })
            ));
        }
    }

    #[test]
    fn whether_a_connection_was_accepted_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (own, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let before = tcp_accepted(peer, own).unwrap();
        assert!(!matches!(before, Accepted::By(_)), "{before:?}");
        let (server, _) = listener.accept().unwrap();
        let Accepted::By(inode) = tcp_accepted(peer, own).unwrap() else {
            panic!("it was accepted");
        };
        let link = format!("/proc/self/fd/{}", server.as_raw_fd());
        let target = std::fs::read_link(link).unwrap();
        assert_eq!(target.to_str(), Some(&*format!("socket:[{inode}]")));
        drop(server);
        let after = tcp_accepted(peer, own);
        assert!(matches!(after, Ok(Accepted::Closed) | Err(_)), "{after:?}");
    }

    #[test]
    fn a_unix_peer_is_known_by_its_user_and_pid() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let guests = Guests::new(own_uid(), &["4711".to_owned()]).unwrap();
        let peer = guests.admit_unix(&ours).unwrap();
        assert_eq!(
            (peer.uid, peer.pid),
            (own_uid(), std::process::id().cast_signed())
        );
        assert!(guests.uids.contains(&4711));
        let nobody = Guests {
            uids: BTreeSet::new(),
        };
        assert_eq!(
            nobody.admit_unix(&ours),
            Err(PeerError::NotAllowed { uid: own_uid() })
        );
    }

    #[test]
    fn a_user_that_is_not_there_cannot_be_allowed() {
        assert!(Guests::new(0, &["no such user".to_owned()]).is_err());
    }
}

//! Answers clients that look for a manager by UDP (`multicast_endpoint`): any datagram to the group is
//! answered to its sender with the control endpoint.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use serde_json::json;
use std::os::fd::AsRawFd;
use tokio::net::UdpSocket;

use super::json::to_bytes;

/// Longest datagram that is looked at, as in Circus; its content does not matter.
const DATAGRAM_BYTES: usize = 1024;

/// Pause after an error of the socket.
const ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Joins the group, on the interface that Linux routes it to as Circus does, and on the loopback
/// interface, so that clients on a machine without a network find it too.
///
/// # Errors
/// What the system says, when neither is possible.
pub fn join(group: SocketAddrV4) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // Several managers of a machine may all answer.
    setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
    setsockopt(&descriptor, sockopt::ReusePort, &true)?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port());
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(any))?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(descriptor))?;
    let local = socket.join_multicast_v4(*group.ip(), Ipv4Addr::LOCALHOST);
    match socket.join_multicast_v4(*group.ip(), Ipv4Addr::UNSPECIFIED) {
        Err(error) if local.is_err() => Err(error),
        _ => Ok(socket),
    }
}

/// Answers for ever.
pub async fn serve(socket: UdpSocket, control_endpoint: String) {
    let answer = to_bytes(&json!({ "endpoint": control_endpoint }));
    let mut datagram = [0; DATAGRAM_BYTES];
    loop {
        let asked: io::Result<(usize, SocketAddr)> = socket.recv_from(&mut datagram).await;
        match asked {
            // A sender that cannot be answered asks again, or does not.
            Ok((_, sender)) => drop(socket.send_to(&answer, sender).await),
            // Usually that an earlier sender has gone; whatever it is, not again at once.
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

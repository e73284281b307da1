//! The manager's own log as messages to syslog (RFC 3164), one datagram each, sent and forgotten: a
//! daemon that is not there or does not keep up costs lines and nothing else.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use crate::config::syslog::{SyslogOutput, SyslogReceiver};
use crate::engine::Level;

/// See the module.
#[derive(Debug)]
pub(super) struct Syslog {
    receiver: Receiver,
    facility: u8,
}

#[derive(Debug)]
enum Receiver {
    /// Connected to again when the daemon was replaced.
    Local {
        path: PathBuf,
        socket: Option<UnixDatagram>,
    },
    Udp {
        socket: UdpSocket,
        address: SocketAddr,
    },
}

impl Syslog {
    /// Gets ready to send. Looks up a host, so it may take a while.
    ///
    /// # Errors
    /// There is no such daemon or host.
    pub(super) fn open(output: &SyslogOutput) -> io::Result<Self> {
        let receiver = match &output.receiver {
            SyslogReceiver::Local(path) => Receiver::Local {
                path: path.clone(),
                socket: Some(connect(path)?),
            },
            SyslogReceiver::Udp { host, port } => {
                let mut found = (host.as_str(), *port).to_socket_addrs()?;
                let unknown = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                let address = found.next().ok_or_else(unknown)?;
                let any = if address.is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                Receiver::Udp { socket, address }
            }
        };
        Ok(Self {
            receiver,
            facility: output.facility,
        })
    }

    /// Sends a line without its end.
    pub(super) fn send(&mut self, level: Level, text: &str) -> io::Result<()> {
        let severity = match level {
            Level::Error => 3,
            Level::Warning => 4,
            Level::Info => 6,
            Level::Debug => 7,
        };
        let priority = u32::from(self.facility) * 8 + severity;
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
        let message = format!(
            "<{priority}>{time} kingpole[{}]: {text}",
            std::process::id()
        );
        match &mut self.receiver {
            Receiver::Udp { socket, address } => {
                socket.send_to(message.as_bytes(), *address).map(drop)
            }
            Receiver::Local { path, socket } => {
                if let Some(socket) = socket
                    && socket.send(message.as_bytes()).is_ok()
                {
                    return Ok(());
                }
                let again = socket.insert(connect(path)?);
                again.send(message.as_bytes()).map(drop)
            }
        }
    }
}

fn connect(path: &PathBuf) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

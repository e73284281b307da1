//! Endpoints as ZeroMQ writes them: `tcp://HOST:PORT`, `ipc://PATH`, and `off`.

use std::fmt;
use std::net::{IpAddr, SocketAddrV4};
use std::path::PathBuf;

/// Where clients of one kind are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Nowhere (`off`).
    Off,
    /// A port.
    Tcp {
        /// A name, an address, or `*` for all of this machine's.
        host: String,
        /// 0 for one that Linux picks.
        port: u16,
    },
    /// A unix socket; relative to the manager's working directory.
    Ipc(PathBuf),
}

/// Who could reach an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Programs on this machine, whose users Linux knows.
    Machine,
    /// Others too.
    Network,
}

/// What an endpoint must look like.
pub const EXPECTED: &str = "tcp://HOST:PORT, ipc://PATH or off";

/// Reads `udp://GROUP:PORT`, where clients look for managers.
#[must_use]
pub fn multicast_group(text: &str) -> Option<SocketAddrV4> {
    let address: SocketAddrV4 = text.trim().strip_prefix("udp://")?.parse().ok()?;
    address.ip().is_multicast().then_some(address)
}

impl Endpoint {
    /// Reads one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("off") {
            return Some(Self::Off);
        }
        if let Some(path) = text.strip_prefix("ipc://") {
            // A path that begins with @ would be an abstract socket, which anybody may open.
            let fits = !path.is_empty() && !path.starts_with('@');
            return fits.then(|| Self::Ipc(path.into()));
        }
        let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None => host,
        };
        let port = match port {
            // libzmq: any port.
            "*" => 0,
            number => number.parse().ok()?,
        };
        (!host.is_empty()).then(|| Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }

    /// Who could reach it. A name is the network, whatever it may stand for today.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match self {
            Self::Off | Self::Ipc(_) => Reach::Machine,
            Self::Tcp { host, .. } if host == "localhost" => Reach::Machine,
            Self::Tcp { host, .. } => match host.parse::<IpAddr>() {
                Ok(address) if address.to_canonical().is_loopback() => Reach::Machine,
                _ => Reach::Network,
            },
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_libzmq_writes_them() {
        for (text, reach) in [
            ("tcp://127.0.0.1:5555", Reach::Machine),
            ("tcp://localhost:5555", Reach::Machine),
            ("tcp://[::1]:5555", Reach::Machine),
            ("tcp://[::ffff:127.0.0.1]:1", Reach::Machine),
            ("tcp://*:5555", Reach::Network),
            ("tcp://0.0.0.0:5555", Reach::Network),
            ("tcp://example.test:5555", Reach::Network),
            ("ipc:///run/x.sock", Reach::Machine),
            ("ipc://x.sock", Reach::Machine),
            ("off", Reach::Machine),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(endpoint.reach(), reach, "{text}");
        }
        for text in [
            "",
            "5555",
            "tcp://:5555",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:65536",
            "tcp://[::1:5555",
            "udp://127.0.0.1:5555",
            "ipc://",
            "ipc://@abstract",
            "inproc://x",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
        let any = Endpoint::parse("tcp://127.0.0.1:*").unwrap();
        assert_eq!(any.to_string(), "tcp://127.0.0.1:0");
    }

    #[test]
    fn only_multicast_groups_are_where_managers_are_looked_for() {
        assert!(multicast_group("udp://237.219.251.97:12027").is_some());
        for wrong in [
            "udp://127.0.0.1:12027",
            "tcp://237.219.251.97:1",
            "udp://x:1",
            "",
        ] {
            assert_eq!(multicast_group(wrong), None, "{wrong}");
        }
    }
}

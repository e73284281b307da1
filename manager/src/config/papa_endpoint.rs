//! `papa_endpoint`: where the process kernel talks as Papa did.

use std::net::SocketAddr;

use kingpole_protocol::places::Address;

/// What it must look like.
pub const EXPECTED: &str = "ipc:/PATH or tcp://127.0.0.1:PORT";

/// Reads it in Circus's spellings. Ports are of this machine: a kernel serves nobody else.
#[must_use]
pub fn parse(text: &str) -> Option<Address> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("ipc:") {
        // As in Circus, any number of slashes begins an absolute path.
        let path = path.strip_prefix('/')?.trim_start_matches('/');
        return (!path.is_empty()).then(|| Address::Unix(format!("/{path}").into()));
    }
    let address = text.strip_prefix("tcp://")?;
    let address = address.replacen("localhost:", "127.0.0.1:", 1);
    let address: SocketAddr = address.parse().ok()?;
    let fits = address.ip().is_loopback() && address.port() != 0;
    fits.then_some(Address::Tcp(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_circus_wrote_them() {
        for (text, address) in [
            ("ipc:/run/papa.sock", "unix:/run/papa.sock"),
            ("ipc:///run/papa.sock", "unix:/run/papa.sock"),
            ("tcp://127.0.0.1:20202", "tcp:127.0.0.1:20202"),
            ("tcp://localhost:1", "tcp:127.0.0.1:1"),
            (" tcp://[::1]:7 ", "tcp:[::1]:7"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), address, "{text}");
        }
        for text in [
            "",
            "ipc:",
            "ipc:run/x",
            "ipc://",
            "/run/x",
            "tcp://0.0.0.0:1",
            "tcp://example.test:1",
            "tcp://127.0.0.1:0",
            "tcp:127.0.0.1:1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

//! The command line. Papa's own flags (-p, -u, -d) keep their meaning.

use crate::exit::EXIT_CODES;
use crate::guard::role::Role;
use crate::upgrade::rehearse::Script;
use clap::Parser;
use kingpole_protocol::places::{Address, PAPA_PORT};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Holds processes, sockets, values and unread output, so that managers may come and go.
#[derive(Debug, Clone, Parser)]
#[command(name = "kingpole-kernel", version, after_help = EXIT_CODES)]
pub struct Options {
    /// Listen on this TCP port of 127.0.0.1.
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Listen on a unix socket at this path.
    #[arg(short, long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// Listen on unix:PATH or tcp:HOST:PORT (loopback addresses only); may be repeated. Without -p,
    /// -u and --listen: kernel.sock in the runtime directory and TCP 127.0.0.1:20202.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<Address>,

    /// Serve this user (name or number) as well as root and the kernel's own; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub allow_user: Vec<String>,

    /// Where kernel.sock and the lock are. Default: $KINGPOLE_RUNTIME_DIR, /run/kingpole for root,
    /// $XDG_RUNTIME_DIR/kingpole, /tmp/kingpole-UID.
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// Go to the background; return once the kernel answers. The log goes to kernel.log in the
    /// runtime directory.
    #[arg(long)]
    pub daemonize: bool,

    /// Do without the guard, the second process that makes a kill of the kernel harmless.
    #[arg(long)]
    pub no_guard: bool,

    /// What guard and kernel tell each other.
    #[arg(long, hide = true)]
    pub role: Option<Role>,

    /// Whether this program could go on with a running kernel's state.
    #[arg(long, hide = true)]
    pub rehearse: Option<Script>,

    /// Where relative paths are taken from, in such a process.
    #[arg(long, hide = true)]
    pub started_in: Option<PathBuf>,

    /// Log more: sessions, requests that were refused.
    #[arg(short, long)]
    pub debug: bool,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// What to do when it cannot be had.
    pub need: Need,
}

/// Whether the kernel can do without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It was asked for: without it the kernel does not start.
    Asked,
    /// Papa's port, which another kernel may have: go without it.
    Default,
}

impl Options {
    /// Everything to listen on besides `kernel.sock`. Relative paths are taken from `current`.
    #[must_use]
    pub fn addresses(&self, current: &std::path::Path) -> Vec<Listen> {
        let asked = |address| Listen {
            address,
            need: Need::Asked,
        };
        let local = |port| Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let absolute = |address| match address {
            Address::Unix(path) => Address::Unix(current.join(path)),
            tcp @ Address::Tcp(_) => tcp,
        };
        let port = self.port.map(local);
        let path = self.unix_socket.clone().map(Address::Unix);
        let all = port
            .into_iter()
            .chain(path)
            .chain(self.listen.iter().cloned());
        let listens = all.map(absolute).map(asked).collect::<Vec<_>>();
        if listens.is_empty() {
            return vec![Listen {
                address: local(PAPA_PORT),
                need: Need::Default,
            }];
        }
        listens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn addresses(arguments: &[&str]) -> Vec<String> {
        let all = std::iter::once("kingpole-kernel").chain(arguments.iter().copied());
        let options = Options::try_parse_from(all).unwrap();
        let listens = options.addresses(Path::new("/here"));
        listens
            .iter()
            .map(|listen| listen.address.to_string())
            .collect()
    }

    #[test]
    fn papas_flags_replace_the_default_port() {
        assert_eq!(addresses(&[]), ["tcp:127.0.0.1:20202"]);
        assert_eq!(addresses(&["-p", "5"]), ["tcp:127.0.0.1:5"]);
        assert_eq!(addresses(&["-u", "x.sock"]), ["unix:/here/x.sock"]);
        assert_eq!(
            addresses(&["--listen", "unix:/a", "-p5", "--listen", "tcp:[::1]:7"]),
            ["tcp:127.0.0.1:5", "unix:/a", "tcp:[::1]:7"]
        );
    }

    #[test]
    fn a_name_is_no_address() {
        let arguments = ["kingpole-kernel", "--listen", "tcp:example.org:80"];
        assert!(Options::try_parse_from(arguments).is_err());
    }
}

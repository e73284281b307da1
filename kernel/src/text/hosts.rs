//! Host names, from the text of `/etc/hosts`.
//!
//! The kernel asks no name server: it would have to wait for it, and so would everybody else.

use kingpole_protocol::spec::SocketAddress;
use std::net::IpAddr;

/// The address with its host as a number, if the hosts file has it in that family.
#[must_use]
pub fn address_of(hosts: &str, address: &SocketAddress) -> Option<SocketAddress> {
    let named = |wanted: &str, is_family: fn(&IpAddr) -> bool| {
        hosts.lines().find_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let number = words.next()?.parse::<IpAddr>().ok().filter(is_family)?;
            words
                .any(|name| name.eq_ignore_ascii_case(wanted))
                .then(|| number.to_string())
        })
    };
    match address {
        SocketAddress::Unix { .. } => None,
        SocketAddress::Inet { host, port } => Some(SocketAddress::Inet {
            host: named(host, IpAddr::is_ipv4)?,
            port: *port,
        }),
        SocketAddress::Inet6 { host, port } => Some(SocketAddress::Inet6 {
            host: named(host, IpAddr::is_ipv6)?,
            port: *port,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_in_its_family_and_not_in_comments() {
        let hosts = "127.0.0.1 localhost\n::1 web\n10.0.0.7\tdb web # other\n# 10.0.0.8 other\n";
        let inet = |host: &str| {
            let address = SocketAddress::Inet {
                host: host.into(),
                port: 80,
            };
            match address_of(hosts, &address) {
                Some(SocketAddress::Inet { host, port: 80 }) => Some(host),
                _ => None,
            }
        };
        assert_eq!(inet("WEB").as_deref(), Some("10.0.0.7"));
        assert_eq!(inet("db").as_deref(), Some("10.0.0.7"));
        assert_eq!(inet("other"), None);
        let inet6 = SocketAddress::Inet6 {
            host: "web".into(),
            port: 1,
        };
        let want = SocketAddress::Inet6 {
            host: "::1".into(),
            port: 1,
        };
        assert_eq!(address_of(hosts, &inet6), Some(want));
    }
}

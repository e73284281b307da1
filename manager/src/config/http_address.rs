//! Addresses that are fetched: `http://HOST[:PORT][/PATH]`.

/// One, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAddress {
    /// Host and port, as a request repeats them.
    pub authority: String,
    /// The host, without brackets.
    pub host: String,
    /// 80 unless another is written.
    pub port: u16,
    /// With the query; at least a slash.
    pub path: String,
}

impl HttpAddress {
    /// Reads one.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let clean = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        if authority.is_empty() || !clean(authority) || !clean(path) {
            return None;
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, 80),
        };
        let path = path.split('#').next().unwrap_or("/");
        Some(Self {
            authority: authority.to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }

    /// What asks for it.
    #[must_use]
    pub fn request(&self) -> String {
        format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: kingpole\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        )
    }
}

/// The status of an answer that begins like this: `HTTP/1.1 200 OK` and so on.
#[must_use]
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address = HttpAddress::parse("http://127.0.0.1:8080/x?y=1#z").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("127.0.0.1", 8080));
        assert_eq!(address.path, "/x?y=1");
        let address = HttpAddress::parse("http://[::1]?q").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("::1", 80));
        assert_eq!(address.path, "/?q");
        for wrong in [
            "https://x/",
            "http://",
            "http://x:y/",
            "http://x/\r\nA: b",
            "x",
        ] {
            assert_eq!(HttpAddress::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 503 Down\r\n\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0 200\r\n"), None);
        assert_eq!(status(b""), None);
    }
}

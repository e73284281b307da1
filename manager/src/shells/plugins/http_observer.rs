//! HttpObserver: fetches an address, tells statsd how long it took, and restarts a watcher when that
//! fails. Only `http:`; a redirection counts as an answer and is not followed.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::options::Options;
use super::statsd::Statsd;
use super::{Tools, every};

/// What an answer is read into; its content does not matter.
const PIECE_BYTES: usize = 16 << 10;

/// Code of failures without an answer, as Tornado has it.
const NO_ANSWER: u16 = 599;

#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// Host and port, as the request repeats them.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let wrong = || format!("check_url = {url} is no http:// address");
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let clean = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        if authority.is_empty() || !clean(authority) || !clean(path) {
            return Err(wrong());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (authority, 80),
        };
        let path = path.split('#').next().unwrap_or("/");
        Ok(Self {
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

    /// The status of the answer, once it has been read to its end.
    async fn fetch(&self) -> std::io::Result<Option<u16>> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: kingpole\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        );
        stream.write_all(request.as_bytes()).await?;
        let mut beginning = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = stream.read(&mut piece).await?;
            if count == 0 {
                return Ok(status(&beginning));
            }
            if beginning.len() < PIECE_BYTES {
                beginning.extend_from_slice(piece.get(..count).unwrap_or_default());
            }
        }
    }
}

/// `HTTP/1.1 200 OK` and so on.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

pub(super) async fn run(options: Options, tools: Tools) -> Result<(), String> {
    let url = options.text("check_url", "http://localhost/");
    let target = Target::parse(url)?;
    let patience: Duration = options.seconds("timeout", 10.0)?;
    let statsd = Statsd::open(&options, "http_observer").await?;
    let mut ticks = every(options.seconds("loop_rate", 60.0)?);
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        let fetched = timeout(patience, target.fetch()).await;
        let code = match fetched {
            Ok(Ok(status)) => status.unwrap_or(NO_ANSWER),
            Ok(Err(_)) | Err(_) => NO_ANSWER,
        };
        if (200..400).contains(&code) {
            statsd.timed("http_stats.request_time", begun.elapsed().as_millis());
            continue;
        }
        statsd.increment("http_stats.error");
        statsd.increment(&format!("http_stats.error.{code}"));
        if let Some(watcher) = options.get("restart_on_error") {
            tools.log.warning(format!(
                "http_observer: {url} answers {code}; restarting watcher {watcher:?}"
            ));
            if let Err(reason) = tools.restart(watcher).await {
                tools.log.warning(format!("http_observer: {reason}"));
            }
            statsd.increment("http_stats.restart_on_error");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let target = Target::parse("http://127.0.0.1:8080/x?y=1#z").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("127.0.0.1", 8080));
        assert_eq!(target.path, "/x?y=1");
        let target = Target::parse("http://[::1]?q").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 80));
        assert_eq!(target.path, "/?q");
        for wrong in [
            "https://x/",
            "http://",
            "http://x:y/",
            "http://x/\r\nA: b",
            "x",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 503 Down\r\n\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0 200\r\n"), None);
        assert_eq!(status(b""), None);
    }
}

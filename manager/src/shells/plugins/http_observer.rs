//! HttpObserver: fetches an address, tells statsd how long it took, and restarts a watcher when that
//! fails. Only `http:`; a redirection counts as an answer and is not followed.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::statsd::Statsd;
use super::{Tools, every};
use crate::config::http_address::{HttpAddress, status};
use crate::config::plugin_settings::HttpObserverSettings;

/// What an answer is read into; its content does not matter.
const PIECE_BYTES: usize = 16 << 10;

/// Code of failures without an answer, as Tornado has it.
const NO_ANSWER: u16 = 599;

/// The status of the answer, once it has been read to its end.
async fn fetch(address: &HttpAddress) -> std::io::Result<Option<u16>> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.write_all(address.request().as_bytes()).await?;
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

pub(super) async fn run(settings: HttpObserverSettings, tools: Tools) -> Result<(), String> {
    let url = &settings.url;
    let statsd = Statsd::open(&settings.statsd).await?;
    let mut ticks = every(settings.period);
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        let fetched = timeout(settings.timeout, fetch(&settings.address)).await;
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
        if let Some(watcher) = &settings.restart {
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

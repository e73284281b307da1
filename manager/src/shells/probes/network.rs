//! Looks at addresses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::limits::{ANSWER_BYTES_MAX, TRIES_MAX, TRY_PAUSE};
use super::taker::{Taker, Watched};
use crate::config::http_address::{HttpAddress, status};

/// Whether somebody accepts connections at `HOST:PORT`; if others share it, whether the one that is looked
/// at does.
pub(super) async fn reach(address: &str, watched: &Watched) -> Result<(), String> {
    let mut other = None;
    for _ in 0..TRIES_MAX {
        let stream = connect(address).await?;
        match watched.taker(&stream).await {
            Taker::Itself => return Ok(()),
            Taker::Sibling(pid) => other = Some(pid),
            Taker::Unseen => {}
        }
        sleep(TRY_PAUSE).await;
    }
    // Whoever was never seen counts, as somebody accepts.
    other.map_or(Ok(()), |pid| Err(others_answer(address, pid)))
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await;
    stream.map_err(|error| format!("{address}: {error}"))
}

fn others_answer(address: &str, pid: u32) -> String {
    format!("{address} is answered by pid {pid} of the same watcher, not by this process")
}

/// Whether a GET is answered with a status from 200 to 399, by the one that is looked at if others share
/// the address. Redirections are not followed.
pub(super) async fn fetch(url: &str, watched: &Watched) -> Result<(), String> {
    let address = HttpAddress::parse(url).ok_or_else(|| format!("{url} is no http:// address"))?;
    let host = match address.host.contains(':') {
        true => format!("[{}]", address.host),
        false => address.host.clone(),
    };
    let place = format!("{host}:{}", address.port);
    let mut other = 0;
    for _ in 0..TRIES_MAX {
        let stream = connect(&place).await?;
        let (taker, answer) = ask(stream, url, &address.request(), watched).await?;
        match taker {
            Taker::Itself | Taker::Unseen => return judge(url, &answer),
            Taker::Sibling(pid) => other = pid,
        }
        sleep(TRY_PAUSE).await;
    }
    Err(others_answer(url, other))
}

/// Asks over one connection: who has taken it, and the beginning of the answer.
async fn ask(
    mut stream: TcpStream,
    url: &str,
    request: &str,
    watched: &Watched,
) -> Result<(Taker, Vec<u8>), String> {
    let fail = |error: std::io::Error| format!("{url}: {error}");
    // Whoever takes it cannot answer, and so not close it, before its last byte; and it has something to
    // read, for servers that are only woken by that.
    let (most, last) = request.split_at(request.len().saturating_sub(1));
    stream.write_all(most.as_bytes()).await.map_err(fail)?;
    let taker = watched.taker(&stream).await;
    stream.write_all(last.as_bytes()).await.map_err(fail)?;
    let mut answer = Vec::new();
    let mut piece = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        let count = stream.read(&mut piece).await.map_err(fail)?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    Ok((taker, answer))
}

fn judge(url: &str, answer: &[u8]) -> Result<(), String> {
    match status(answer) {
        Some(200..400) => Ok(()),
        Some(code) => Err(format!("{url} answers {code}")),
        None if answer.is_empty() => Err(format!("{url} closes the connection without an answer")),
        None => Err(format!("{url} does not speak HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// An address that gives one connection this answer.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address.to_string()
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status() {
        for (answer, problem) in [
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("HTTP/1.0 302 Found\r\n\r\n", None),
            ("HTTP/1.1 503 Down\r\n\r\n", Some("answers 503")),
            ("SSH-2.0-x\r\n", Some("does not speak HTTP")),
            ("", Some("closes the connection without an answer")),
        ] {
            let url = format!("http://{}/health", server(answer).await);
            let found = fetch(&url, &Watched::default()).await;
            match problem {
                None => assert_eq!(found, Ok(()), "{answer}"),
                Some(problem) => {
                    let why = found.unwrap_err();
                    assert!(why.contains(problem), "{answer}: {why}");
                }
            }
        }
    }

    #[tokio::test]
    async fn who_does_not_listen_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(connect(&address).await.is_ok());
        drop(listener);
        let why = connect(&address).await.unwrap_err();
        assert!(why.starts_with(&address), "{why}");
    }
}

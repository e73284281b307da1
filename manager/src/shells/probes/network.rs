//! Looks at addresses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::limits::ANSWER_BYTES_MAX;
use crate::config::http_address::{HttpAddress, status};

/// Whether somebody accepts connections at `HOST:PORT`.
pub(super) async fn connect(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await;
    stream.map_err(|error| format!("{address}: {error}"))
}

/// Whether a GET is answered with a status from 200 to 399. Redirections are not followed.
pub(super) async fn fetch(url: &str) -> Result<(), String> {
    let address = HttpAddress::parse(url).ok_or_else(|| format!("{url} is no http:// address"))?;
    let host = match address.host.contains(':') {
        true => format!("[{}]", address.host),
        false => address.host.clone(),
    };
    let mut stream = connect(&format!("{host}:{}", address.port)).await?;
    let fail = |error: std::io::Error| format!("{url}: {error}");
    stream
        .write_all(address.request().as_bytes())
        .await
        .map_err(fail)?;
    let mut answer = Vec::new();
    let mut piece = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        let count = stream.read(&mut piece).await.map_err(fail)?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    match status(&answer) {
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
            let found = fetch(&url).await;
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

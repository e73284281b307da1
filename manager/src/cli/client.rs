//! The way to the manager: HTTP on `manager.sock`.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use kingpole_protocol::places::{MANAGER_SOCKET, runtime_dir};
use serde_json::Value;
use tokio::net::UnixStream;

use super::exit::Exit;
use super::failure::Failure;
use crate::command::{Answer, Command};
use crate::shells::control::error::ErrorBody;
use crate::shells::link::describe;
use crate::shells::place::{Living, living_manager};

/// How long an answer may take that needs no waiting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a manager that has begun may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two attempts to connect to it.
const START_PAUSE: Duration = Duration::from_millis(10);

/// Longest line that is taken from a body that goes on.
const LINE_BYTES_MAX: usize = 1 << 20;

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as answers usually take at most.
    Usual,
    /// So long.
    For(Duration),
    /// For ever.
    Endless,
}

/// A piece of an answer that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// There is a manager, or a socket that is kept for the next one.
    Reached,
    /// The manager has said yes.
    Begins,
    /// A line.
    Line(&'a [u8]),
}

/// A manager to talk to. Nothing is opened before the first request.
#[derive(Debug)]
pub struct ManagerClient {
    runtime_dir: PathBuf,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// The runtime directory as the options say.
#[must_use]
pub fn directory(explicit: Option<&Path>) -> PathBuf {
    runtime_dir(explicit)
}

impl ManagerClient {
    /// The manager of a runtime directory.
    ///
    /// # Errors
    /// When the system has no room for an event loop.
    pub fn new(runtime_dir: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("no event loop: {error}")))?;
        Ok(Self {
            runtime_dir: runtime_dir.to_owned(),
            socket: runtime_dir.join(MANAGER_SOCKET),
            runtime,
        })
    }

    /// Asks for something with GET.
    ///
    /// # Errors
    /// When there is no manager, or it says no.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.wait(Patience::Usual, async {
            let response = self.send(Method::GET, path, Vec::new()).await?;
            whole(response).await
        })
    }

    /// The same, for at most so long.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_within(&self, path: &str, limit: Duration) -> Result<Value, Failure> {
        self.wait(Patience::For(limit), async {
            let response = self.send(Method::GET, path, Vec::new()).await?;
            whole(response).await
        })
    }

    /// Sends a command and waits for its answer as it came.
    ///
    /// # Errors
    /// When there is no manager, or it says no, or patience ends.
    pub fn command_value(&self, command: &Command, patience: Patience) -> Result<Value, Failure> {
        let body = serde_json::to_vec(command)
            .map_err(|error| Failure::failed(format!("the command cannot be written: {error}")))?;
        self.wait(patience, async {
            let response = self.send(Method::POST, "/v1/commands", body).await?;
            whole(response).await
        })
    }

    /// Sends something else with POST and waits for its answer.
    ///
    /// # Errors
    /// As [`Self::command_value`].
    pub fn post(
        &self,
        path: &str,
        body: &impl serde::Serialize,
        patience: Patience,
    ) -> Result<Value, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::failed(format!("the request cannot be written: {error}")))?;
        self.wait(patience, async {
            let response = self.send(Method::POST, path, body).await?;
            whole(response).await
        })
    }

    /// As [`Self::command_value`], read.
    ///
    /// # Errors
    /// The same.
    pub fn command(&self, command: &Command, patience: Patience) -> Result<Answer, Failure> {
        let value = self.command_value(command, patience)?;
        serde_json::from_value(value).map_err(|error| {
            Failure::failed(format!("the manager's answer is not understood: {error}"))
        })
    }

    /// Asks with GET for a body of lines and hands them on as they come.
    ///
    /// # Errors
    /// When there is no manager, it says no or goes away, or a line cannot be handled.
    pub fn lines(
        &self,
        path: &str,
        mut handle: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.body(path, |part| match part {
            Part::Reached | Part::Begins => Ok(()),
            Part::Line(line) => handle(line),
        })
    }

    /// As [`Self::lines`], and tells when there is a manager and when it begins to answer.
    ///
    /// # Errors
    /// The same.
    pub fn body(
        &self,
        path: &str,
        mut handle: impl FnMut(Part<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let stream = self.connect().await?;
            handle(Part::Reached)?;
            let response = self.send_over(stream, Method::GET, path, Vec::new());
            let response = response.await?;
            if !response.status().is_success() {
                whole(response).await?;
                return Ok(());
            }
            handle(Part::Begins)?;
            let mut body = response.into_body();
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else {
                    let socket = self.socket.display();
                    let text = format!("the manager at {socket} has ended; see: kingpole status");
                    return Err(Failure::new(Exit::CannotReach, text));
                };
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                rest.extend_from_slice(&data);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    handle(Part::Line(&rest[..end]))?;
                    rest.drain(..=end);
                }
                if rest.len() > LINE_BYTES_MAX {
                    return Err(Failure::failed("the manager sends a line without an end"));
                }
            }
            Ok(())
        })
    }

    /// Asks with GET for text.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn text(&self, path: &str) -> Result<String, Failure> {
        let mut text = String::new();
        self.lines(path, |line| {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
            Ok(())
        })?;
        Ok(text)
    }

    fn wait<T>(
        &self,
        patience: Patience,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = match patience {
            Patience::Usual => ANSWER_TIMEOUT,
            Patience::For(limit) => limit,
            Patience::Endless => return self.runtime.block_on(work),
        };
        self.runtime.block_on(async {
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                let text = format!(
                    "not finished within {limit:?}; the manager goes on with it, see: kingpole status"
                );
                Err(Failure::new(Exit::Unfinished, text))
            })
        })
    }

    /// Connects, if there is a manager: its socket may be held by the process kernel without one,
    /// and whoever connects then waits for the next.
    async fn connect(&self) -> Result<UnixStream, Failure> {
        let since = Instant::now();
        loop {
            let living = living_manager(&self.runtime_dir);
            if living == Living::No && self.socket.exists() {
                return Err(Failure::new(
                    Exit::NotRunning,
                    format!(
                        "no manager runs in {}; start it with: kingpole run FILE",
                        self.runtime_dir.display()
                    ),
                ));
            }
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // It is just about to listen.
                Err(_) if living == Living::Yes && since.elapsed() < START_PATIENCE => {
                    tokio::time::sleep(START_PAUSE).await;
                }
                Err(error) => return Err(unreachable_manager(&self.socket, &error)),
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = self.connect().await?;
        self.send_over(stream, method, path, body).await
    }

    async fn send_over(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // It ends with the request; what goes wrong in it shows there.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "manager")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::failed(format!("{path}: {error}")))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &hyper::Error) -> Failure {
        let text = format!(
            "the manager at {} went away before it answered ({error}); see: kingpole status",
            self.socket.display()
        );
        Failure::new(Exit::CannotReach, text)
    }
}

/// Nobody there is something else than somebody who cannot be reached.
fn unreachable_manager(socket: &Path, error: &io::Error) -> Failure {
    let absent = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    );
    let (exit, advice) = if absent {
        (
            Exit::NotRunning,
            "; is it running? start it with: kingpole run FILE",
        )
    } else {
        (Exit::CannotReach, "")
    };
    let (socket, reason) = (socket.display(), describe(error));
    Failure::new(
        exit,
        format!("cannot reach the manager at {socket}: {reason}{advice}"),
    )
}

/// The whole body of an answer, or what the manager says is wrong.
async fn whole(response: Response<Incoming>) -> Result<Value, Failure> {
    let status = response.status();
    let broken = |error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::CannotReach,
            format!("the manager's answer broke off: {error}"),
        )
    };
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| broken(&error))?
        .to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| broken(&error));
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(said) => Err(Failure::failed(tidy(&said.error.message))),
        Err(_) => Err(Failure::failed(format!("the manager answers {status}"))),
    }
}

/// A sentence that may repeat what somebody typed, for one line of a terminal.
fn tidy(message: &str) -> String {
    const CHARACTERS_MAX: usize = 1000;
    let mut tidy: String = message
        .chars()
        .take(CHARACTERS_MAX)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if message.chars().nth(CHARACTERS_MAX).is_some() {
        tidy.push_str("...");
    }
    tidy
}

/// A text as part of a query (RFC 3986, 2.1).
#[must_use]
pub fn encode_query(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A pattern that only this name matches: special characters stand in brackets.
#[must_use]
pub fn exact_pattern(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '*' | '?' | '[' => format!("[{c}]"),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_told_from_somebody_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        let client = ManagerClient::new(dir.path()).unwrap();
        let failure = client.get("/v1/status").unwrap_err();
        assert_eq!(failure.exit, Exit::NotRunning);
        let expected = format!(
            "cannot reach the manager at {}/manager.sock: no such file or directory; is it \
             running? start it with: kingpole run FILE",
            dir.path().display()
        );
        assert_eq!(failure.message, Some(expected));
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let failure = unreachable_manager(Path::new("/x"), &denied);
        assert_eq!(failure.exit, Exit::CannotReach);
        let message = failure.message.unwrap();
        assert_eq!(message, "cannot reach the manager at /x: permission denied");
    }

    #[test]
    fn a_name_that_was_mistyped_does_not_flood_the_terminal() {
        assert_eq!(
            tidy("program a\nb\x1b[2J not found"),
            "program a?b?[2J not found"
        );
        assert_eq!(tidy(&"x".repeat(10_000)).len(), 1003);
    }

    #[test]
    fn names_survive_a_query() {
        assert_eq!(encode_query("my web&x=é"), "my%20web%26x%3D%C3%A9");
    }

    #[test]
    fn names_with_special_characters_match_only_themselves() {
        assert_eq!(exact_pattern("web"), "web");
        assert_eq!(exact_pattern("a*[b]?"), "a[*][[]b][?]");
    }
}

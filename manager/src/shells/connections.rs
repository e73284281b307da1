//! Waits for connections at sockets that the process kernel holds, without accepting them: their
//! descriptors are fetched from the kernel and only looked at. Whoever is started then accepts.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::places::Address;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::sys::watch_readable;

/// How long the kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a kernel that is out of reach is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// News that may wait for the manager: one for each socket would do.
const NEWS_WAITING_MAX: usize = 64;

/// What became of the waiting at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionNews {
    /// Its name in the configuration.
    pub socket: String,
    /// Why it cannot be said whether a connection waits; otherwise one does.
    pub blind: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Connections {
    kernel_socket: PathBuf,
    sender: mpsc::Sender<ConnectionNews>,
    news: mpsc::Receiver<ConnectionNews>,
    task: Option<AbortHandle>,
}

impl Connections {
    /// Waits for nothing yet.
    #[must_use]
    pub fn new(kernel_socket: PathBuf) -> Self {
        let (sender, news) = mpsc::channel(NEWS_WAITING_MAX);
        Self {
            kernel_socket,
            sender,
            news,
            task: None,
        }
    }

    /// Waits at these sockets, their names in the kernel by those in the configuration, and at no
    /// others. Each is told of once.
    pub fn wait_at(&mut self, sockets: BTreeMap<String, String>) {
        self.stop();
        if sockets.is_empty() {
            return;
        }
        let work = wait_at(self.kernel_socket.clone(), sockets, self.sender.clone());
        self.task = Some(tokio::spawn(work).abort_handle());
    }

    /// What happens next.
    pub async fn next(&mut self) -> ConnectionNews {
        match self.news.recv().await {
            Some(news) => news,
            // Not while there is a sender, which is in here.
            None => std::future::pending().await,
        }
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn wait_at(
    kernel_socket: PathBuf,
    sockets: BTreeMap<String, String>,
    sender: mpsc::Sender<ConnectionNews>,
) {
    let fetched = loop {
        let (kernel_socket, sockets) = (kernel_socket.clone(), sockets.clone());
        match spawn_blocking(move || fetch(&kernel_socket, sockets)).await {
            Ok(Ok(fetched)) => break fetched,
            // It comes back, or whoever asked learns that it is lost.
            Ok(Err(_)) | Err(_) => sleep(RETRY_PAUSE).await,
        }
    };
    let mut waits = JoinSet::new();
    for (socket, descriptor) in fetched {
        waits.spawn(async move {
            let waited = match descriptor {
                Ok(descriptor) => connection(descriptor).await.map_err(|it| it.to_string()),
                Err(why) => Err(why),
            };
            let blind = waited.err();
            ConnectionNews { socket, blind }
        });
    }
    while let Some(news) = waits.join_next().await {
        let Ok(news) = news else { continue };
        if sender.send(news).await.is_err() {
            return;
        }
    }
}

/// A descriptor of each socket, or why the kernel does not hand it out.
type Fetched = Vec<(String, Result<OwnedFd, String>)>;

fn fetch(kernel: &Path, sockets: BTreeMap<String, String>) -> Result<Fetched, ClientError> {
    let client = concat!(
        "kingpole-manager/",
        env!("CARGO_PKG_VERSION"),
        " connections"
    );
    let address = Address::Unix(kernel.to_owned());
    let mut kernel = Client::connect(&address, client, Some(ANSWER_TIMEOUT))?;
    let mut fetched = Vec::new();
    for (socket, kernel_name) in sockets {
        let descriptor = match kernel.fetch_socket(&kernel_name) {
            Ok((_, descriptor)) => Ok(descriptor),
            Err(ClientError::Refused(reply)) => Err(reply.to_string()),
            Err(error @ ClientError::DescriptorLost) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        fetched.push((socket, descriptor));
    }
    Ok(fetched)
}

/// Returns when a connection, or a datagram, waits there.
async fn connection(socket: OwnedFd) -> io::Result<()> {
    let socket = watch_readable(socket)?;
    loop {
        let mut ready = socket.readable().await?;
        // Somebody else may have taken it.
        if is_readable(socket.get_ref())? {
            return Ok(());
        }
        ready.clear_ready();
    }
}

fn is_readable(socket: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].any() == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[tokio::test]
    async fn a_connection_is_told_of_and_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let held: OwnedFd = listener.try_clone().unwrap().into();
        let waited = tokio::spawn(connection(held));
        tokio::task::yield_now().await;
        assert!(!waited.is_finished());
        let _client = UnixStream::connect(&path).unwrap();
        waited.await.unwrap().unwrap();
        listener.accept().unwrap();
    }

    #[tokio::test]
    async fn one_that_waits_already_is_told_of_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        connection(listener.into()).await.unwrap();
    }
}

//! How often connections came to the managed sockets (`stat.sockets` of circus-top).
//!
//! Circus counts, every ten milliseconds, whether a connection waits in a listening socket. So does
//! this, on descriptors that the process kernel hands out, and only while somebody listens.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::places::Address;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::feed::{BEGINNING, wait_for_listeners};
use super::json::Tree;
use crate::command::{Answer, Command, SocketDetail};
use crate::shells::asking::Asker;
use crate::shells::zmtp::Publisher;

/// Time between two looks, as in circusd-stats.
const PERIOD: Duration = Duration::from_millis(10);

/// How long one list of sockets is good: the configuration may change while somebody listens.
const FETCHED_FOR: Duration = Duration::from_secs(30);

/// How long the kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Each costs a descriptor of the manager while somebody listens.
const SOCKETS_MAX: usize = 256;

/// A socket that is looked at.
#[derive(Debug)]
pub(super) struct Watched {
    /// The number under which children have it.
    pub(super) fd: i32,
    /// Where it is, for people.
    pub(super) address: String,
    /// The socket itself.
    pub(super) socket: OwnedFd,
}

/// What was counted for one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    fd: i32,
    address: String,
    reads: u64,
}

/// Counts of all sockets since they were last taken.
#[derive(Clone, Debug, Default)]
pub struct SocketReads {
    counts: Arc<Mutex<BTreeMap<i32, Count>>>,
}

impl SocketReads {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<i32, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count these and no others.
    fn begin(&self, sockets: &[Watched]) {
        let counts = sockets.iter().map(|socket| {
            let count = Count {
                fd: socket.fd,
                address: socket.address.clone(),
                reads: 0,
            };
            (socket.fd, count)
        });
        *self.counts() = counts.collect();
    }

    /// The counts so far; they begin again at nothing.
    #[must_use]
    pub fn take(&self) -> Vec<Count> {
        let mut counts = self.counts();
        let taken = counts.values().cloned().collect();
        for count in counts.values_mut() {
            count.reads = 0;
        }
        taken
    }

    /// Counts until `goes_on` says no.
    async fn count(&self, sockets: Vec<Watched>, goes_on: impl Fn() -> bool) {
        self.begin(&sockets);
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while goes_on() {
            ticks.tick().await;
            self.look(&sockets);
        }
        self.counts().clear();
    }

    fn look(&self, sockets: &[Watched]) {
        let mut polled: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|watched| PollFd::new(watched.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        if polled.is_empty() || poll(&mut polled, PollTimeout::ZERO).is_err() {
            return;
        }
        let mut counts = self.counts();
        for (watched, polled) in sockets.iter().zip(&polled) {
            if polled.any() == Some(true)
                && let Some(count) = counts.get_mut(&watched.fd)
            {
                count.reads = count.reads.saturating_add(1);
            }
        }
    }
}

/// Counts while somebody listens to `publisher`, for as long as the manager answers.
pub(super) async fn watch(asker: Asker, publisher: Publisher, reads: SocketReads, kernel: PathBuf) {
    let mut changes = publisher.changes();
    while wait_for_listeners(&publisher, &mut changes).await {
        let Ok(answer) = asker.ask(Command::ListSockets).await else {
            return;
        };
        let Answer::Sockets { sockets } = answer else {
            return;
        };
        let kernel = kernel.clone();
        let fetched = spawn_blocking(move || fetch(&kernel, sockets)).await;
        let until = Instant::now() + FETCHED_FOR;
        let goes_on = || publisher.is_wanted(BEGINNING) && Instant::now() < until;
        reads.count(fetched.unwrap_or_default(), goes_on).await;
    }
}

/// Descriptors of the sockets that the kernel holds; those it cannot pass are not counted.
fn fetch(kernel: &Path, sockets: Vec<SocketDetail>) -> Vec<Watched> {
    let client = concat!(
        "kingpole-manager/",
        env!("CARGO_PKG_VERSION"),
        " statistics"
    );
    let address = Address::Unix(kernel.to_owned());
    let Ok(mut kernel) = Client::connect(&address, client, Some(ANSWER_TIMEOUT)) else {
        return Vec::new();
    };
    let watched = sockets.into_iter().filter_map(|detail| {
        let (_, socket) = kernel.fetch_socket(&detail.kernel_name).ok()?;
        let address = match (detail.path, detail.host, detail.port) {
            (Some(path), _, _) => path,
            (None, host, port) => format!("{}:{}", host?, port?),
        };
        let fd = detail.fd?;
        Some(Watched {
            fd,
            address,
            socket,
        })
    });
    watched.take(SOCKETS_MAX).collect()
}

/// The messages of one second; none where there are no sockets.
pub(super) fn messages(counts: &[Count]) -> Vec<(String, Tree)> {
    if counts.is_empty() {
        return Vec::new();
    }
    let mut messages: Vec<(String, Tree)> = counts
        .iter()
        .map(|count| {
            let payload = Tree::Object(vec![
                ("fd".to_owned(), count.fd.into()),
                ("subtopic".to_owned(), count.fd.into()),
                ("reads".to_owned(), count.reads.into()),
                ("address".to_owned(), count.address.clone().into()),
            ]);
            (format!("stat.sockets.{}", count.fd), payload)
        })
        .collect();
    let addresses: Vec<&str> = counts.iter().map(|count| count.address.as_str()).collect();
    let total: u64 = counts.iter().map(|count| count.reads).sum();
    let payload = Tree::Object(vec![
        ("addresses".to_owned(), json!(addresses).into()),
        ("reads".to_owned(), total.into()),
    ]);
    messages.push(("stat.sockets".to_owned(), payload));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shells::circus::json::to_bytes;

    #[test]
    fn a_connection_that_waits_is_counted_at_each_look() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let watched = [Watched {
            fd: 7,
            address: address.to_string(),
            socket: listener.into(),
        }];
        let reads = SocketReads::default();
        reads.begin(&watched);
        reads.look(&watched);
        let connection = std::net::TcpStream::connect(address).unwrap();
        reads.look(&watched);
        reads.look(&watched);
        drop(connection);
        let counts = reads.take();
        assert_eq!((counts[0].fd, counts[0].reads), (7, 2));
        assert_eq!(reads.take()[0].reads, 0);
        let messages = messages(&counts);
        let texts: Vec<String> = messages
            .iter()
            .map(|(topic, payload)| {
                format!("{topic} {}", String::from_utf8(to_bytes(payload)).unwrap())
            })
            .collect();
        assert_eq!(
            texts,
            [
                format!(
                    r#"stat.sockets.7 {{"fd": 7, "subtopic": 7, "reads": 2, "address": "{address}"}}"#
                ),
                format!(r#"stat.sockets {{"addresses": ["{address}"], "reads": 2}}"#),
            ]
        );
    }
}

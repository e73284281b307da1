//! PUB: tells each subscriber what it wants to hear, and never waits for one.
//!
//! What is published goes into a bounded queue per subscriber. When one is full, messages for it are
//! dropped whole and counted, until it has read again.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::carry::{CarriedState, Carry};
use super::complaints::Complaints;
use super::connection::{Connection, Event, Role};
use super::limits::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, LINGER, PUBLISHED_BYTES_MAX, READ_BYTES,
};
use super::listener::{AcceptError, Arrival, Listener};
use super::message::write_message;
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use crate::engine::Level;
use crate::shells::control::Stay;
use crate::shells::log::Log;

/// Where things are published; clones publish to the same subscribers.
#[derive(Clone, Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    subscribers: Mutex<BTreeMap<u64, Subscriber>>,
    /// Counts changes of what is subscribed to.
    changes: watch::Sender<u64>,
}

/// What is known of one subscriber.
#[derive(Debug, Default)]
struct Subscriber {
    subscriptions: Subscriptions,
    queue: VecDeque<Arc<[u8]>>,
    queued_bytes: usize,
    /// Messages dropped since it was last told about in the log.
    dropped: u64,
    wake: Arc<Notify>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                subscribers: Mutex::default(),
                changes: watch::Sender::new(0),
            }),
        }
    }
}

impl Publisher {
    fn subscribers(&self) -> MutexGuard<'_, BTreeMap<u64, Subscriber>> {
        // What a panicking holder leaves is a map like any other.
        self.shared
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a message whose first part is its topic.
    pub fn publish(&self, topic: &[u8], payload: &[u8]) {
        let mut message: Option<Arc<[u8]>> = None;
        for subscriber in self.subscribers().values_mut() {
            if !subscriber.subscriptions.wants(topic) {
                continue;
            }
            let message = message.get_or_insert_with(|| {
                let mut bytes = Vec::with_capacity(topic.len() + payload.len() + 18);
                write_message(&[topic, payload], &mut bytes);
                bytes.into()
            });
            if subscriber.queued_bytes.saturating_add(message.len()) > PUBLISHED_BYTES_MAX {
                subscriber.dropped = subscriber.dropped.saturating_add(1);
                continue;
            }
            subscriber.queued_bytes += message.len();
            subscriber.queue.push_back(Arc::clone(message));
            subscriber.wake.notify_one();
        }
    }

    /// Whether anybody may want a topic that begins so.
    #[must_use]
    pub fn is_wanted(&self, beginning: &[u8]) -> bool {
        self.subscribers()
            .values()
            .any(|subscriber| subscriber.subscriptions.may_want(beginning))
    }

    /// Changes whenever somebody subscribes, cancels or leaves.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn changed(&self) {
        self.shared
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Serves until the manager leaves.
    pub async fn serve(self, mut listener: Listener, mut stay: watch::Receiver<Stay>, log: Log) {
        let name = listener.name();
        let mut complaints = Complaints::new(log.clone(), name);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut visits = JoinSet::new();
        let mut next = 0_u64;
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, listener.accept().await)
            };
            tokio::select! {
                (place, arrival) = accepted => match arrival {
                    Ok(arrival) => {
                        let visit = Visit {
                            publisher: self.clone(),
                            number: next,
                            stay: stay.clone(),
                            log: log.clone(),
                            name,
                            carry: listener.carry(),
                        };
                        next += 1;
                        visits.spawn(async move {
                            let ended = visit.run(arrival).await;
                            drop(place);
                            ended
                        });
                    }
                    Err(error) => {
                        complaints.tell(Level::Warning, &error.to_string());
                        if matches!(error, AcceptError::System(_)) {
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                },
                Some(ended) = visits.join_next(), if !visits.is_empty() => {
                    if let Ok(Err(reason)) = ended {
                        let text = format!("a connection is closed: {reason}");
                        complaints.tell(Level::Info, &text);
                    }
                }
                () = over(&mut stay) => break,
            }
        }
        drop(listener);
        while visits.join_next().await.is_some() {}
    }
}

/// One subscriber's connection; whatever way it ends, the subscriber is forgotten.
struct Visit {
    publisher: Publisher,
    number: u64,
    stay: watch::Receiver<Stay>,
    log: Log,
    name: &'static str,
    /// Where it goes when the manager becomes another program.
    carry: Carry,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let gone = self.publisher.subscribers().remove(&self.number);
        if let Some(subscriber) = gone {
            self.tell_dropped(subscriber.dropped);
            self.publisher.changed();
        }
    }
}

impl Visit {
    fn tell_dropped(&self, count: u64) {
        if count > 0 {
            self.log.warning(format!(
                "{}: a subscriber did not read; {count} messages were dropped for it",
                self.name
            ));
        }
    }

    /// Until the peer has closed or the manager leaves; fails when the peer is let go.
    async fn run(mut self, arrival: Arrival) -> Result<(), String> {
        let (mut reader, mut writer) = tokio::io::split(arrival.stream);
        let mut input = vec![0; READ_BYTES];
        let wake = Arc::new(Notify::new());
        let mut connection = match arrival.resumed {
            None => Connection::new(Role::Publisher),
            Some(state) => {
                let mut connection = self.resume(state, &wake)?;
                // What the program before has left unread.
                self.hear(&mut connection, &[], &wake)?;
                connection
            }
        };
        let handshake_until = Instant::now() + HANDSHAKE_TIMEOUT;
        loop {
            if connection.is_open() && connection.output.is_empty() {
                self.take_message(&mut connection.output);
            }
            let waiting = connection.output.len();
            tokio::select! {
                // PONGs pile up for one who pings and does not read; then nobody listens to it.
                read = reader.read(&mut input), if waiting < PUBLISHED_BYTES_MAX => {
                    let bytes = match read {
                        Ok(0) | Err(_) => return Ok(()),
                        Ok(count) => input.get(..count).unwrap_or_default(),
                    };
                    if let Err(reason) = self.hear(&mut connection, bytes, &wake) {
                        let _ = timeout(LINGER, writer.write_all(&connection.output)).await;
                        return Err(reason);
                    }
                }
                written = writer.write(&connection.output), if waiting > 0 => match written {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(count) => drop(connection.output.drain(..count)),
                },
                () = wake.notified(), if waiting == 0 => {}
                () = handshake_end(&connection, handshake_until) => {
                    return Err("no handshake in time".to_owned());
                }
                () = over(&mut self.stay) => {
                    let told = timeout(LINGER, async {
                        loop {
                            writer.write_all(&connection.output).await?;
                            connection.output.clear();
                            self.take_message(&mut connection.output);
                            if connection.output.is_empty() {
                                return std::io::Result::Ok(());
                            }
                        }
                    })
                    .await;
                    if let Ok(Ok(())) = told {
                        self.leave(&connection, reader.unsplit(writer));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Goes on with a peer of the program before.
    fn resume(&self, state: CarriedState, wake: &Arc<Notify>) -> Result<Connection, String> {
        let dialect = state.dialect().ok_or("an unknown version of ZMTP")?;
        let subscriptions = Subscriptions::resumed(state.subscriptions);
        let subscriber = Subscriber {
            wake: Arc::clone(wake),
            subscriptions: subscriptions.map_err(|error| error.to_string())?,
            ..Subscriber::default()
        };
        self.publisher.subscribers().insert(self.number, subscriber);
        self.publisher.changed();
        Ok(Connection::resumed(Role::Publisher, dialect, &state.unread))
    }

    /// Leaves the peer to the next program, if there is one.
    fn leave(&self, connection: &Connection, stream: Stream) {
        let Some((version, unread)) = connection.carried() else {
            return;
        };
        let subscriptions = match self.publisher.subscribers().get(&self.number) {
            Some(subscriber) => subscriber.subscriptions.counts(),
            None => return,
        };
        let state = CarriedState {
            endpoint: self.name.to_owned(),
            unix: stream.is_unix(),
            version,
            unread,
            subscriptions,
        };
        self.carry.leave(stream, state);
    }

    fn hear(
        &self,
        connection: &mut Connection,
        bytes: &[u8],
        wake: &Arc<Notify>,
    ) -> Result<(), String> {
        connection
            .handle_bytes(bytes)
            .map_err(|violation| violation.to_string())?;
        loop {
            let event = connection
                .poll_event()
                .map_err(|violation| violation.to_string())?;
            let mut subscribers = self.publisher.subscribers();
            match event {
                None => return Ok(()),
                Some(Event::Ready { .. }) => {
                    let subscriber = Subscriber {
                        wake: Arc::clone(wake),
                        ..Subscriber::default()
                    };
                    subscribers.insert(self.number, subscriber);
                }
                Some(Event::Subscribe(topic)) => {
                    if let Some(subscriber) = subscribers.get_mut(&self.number) {
                        let added = subscriber.subscriptions.add(topic);
                        added.map_err(|error| error.to_string())?;
                    }
                }
                Some(Event::Cancel(topic)) => {
                    if let Some(subscriber) = subscribers.get_mut(&self.number) {
                        subscriber.subscriptions.remove(&topic);
                    }
                }
                Some(Event::Message(_)) => {}
            }
            drop(subscribers);
            self.publisher.changed();
        }
    }

    /// Moves what is queued into an empty buffer, as far as it fills a packet or two.
    fn take_message(&self, output: &mut Vec<u8>) {
        let mut subscribers = self.publisher.subscribers();
        let Some(subscriber) = subscribers.get_mut(&self.number) else {
            return;
        };
        let mut dropped = 0;
        while output.len() < READ_BYTES {
            let Some(message) = subscriber.queue.pop_front() else {
                // It has caught up.
                dropped = std::mem::take(&mut subscriber.dropped);
                break;
            };
            subscriber.queued_bytes = subscriber.queued_bytes.saturating_sub(message.len());
            output.extend_from_slice(&message);
        }
        drop(subscribers);
        self.tell_dropped(dropped);
    }
}

/// Until nothing happens any more; before that subscribers hear it.
async fn over(stay: &mut watch::Receiver<Stay>) {
    // Gone without a word is gone too.
    let _ = stay.wait_for(|stay| *stay == Stay::Over).await;
}

async fn handshake_end(connection: &Connection, until: Instant) {
    if connection.is_open() {
        pending::<()>().await;
    }
    sleep_until(until).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(publisher: &Publisher, number: u64, topic: &[u8]) {
        let mut subscriber = Subscriber::default();
        subscriber.subscriptions.add(topic.to_vec()).unwrap();
        publisher.subscribers().insert(number, subscriber);
    }

    #[test]
    fn a_subscriber_that_does_not_read_loses_messages_and_the_others_none() {
        let publisher = Publisher::default();
        subscriber(&publisher, 1, b"stat.");
        subscriber(&publisher, 2, b"other.");
        let payload = vec![b'x'; 1000];
        let published = PUBLISHED_BYTES_MAX / 1000 + 100;
        for _ in 0..published {
            publisher.publish(b"stat.web", &payload);
        }
        publisher.publish(b"other.web", b"{}");
        let subscribers = publisher.subscribers();
        let slow = &subscribers[&1];
        assert!(slow.queued_bytes <= PUBLISHED_BYTES_MAX);
        assert_eq!(slow.queue.len() as u64 + slow.dropped, published as u64);
        assert!(slow.dropped >= 100);
        assert_eq!(
            (subscribers[&2].queue.len(), subscribers[&2].dropped),
            (1, 0)
        );
    }

    #[test]
    fn what_nobody_wants_is_known() {
        let publisher = Publisher::default();
        assert!(!publisher.is_wanted(b"stat."));
        subscriber(&publisher, 1, b"watcher.web");
        assert!(!publisher.is_wanted(b"stat."));
        assert!(publisher.is_wanted(b"watcher."));
    }
}

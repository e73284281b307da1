//! ROUTER: takes requests from many peers and answers each on its own connection.
//!
//! A peer is its connection, not its identity: two that call themselves the same are two. Requests
//! of one connection are begun in the order in which they came. Their replies go out as they become
//! ready, except that those of [`Turn::InOrder`] never overtake each other.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::carry::{CarriedState, Carry};
use super::complaints::Complaints;
use super::connection::{Connection, Event, Role};
use super::limits::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, LEAVE_TIMEOUT, LINGER, READ_BYTES,
    REPLIES_BYTES_HIGH, REPLIES_BYTES_MAX, REQUESTS_AT_ONCE_MAX, STALL_TIMEOUT,
};
use super::listener::{AcceptError, Arrival, Listener};
use super::message::{Parts, write_message};
use super::stream::Stream;
use crate::engine::Level;
use crate::shells::control::Stay;
use crate::shells::log::Log;

/// When a reply may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As soon as it is ready: the peer can tell what it answers.
    WhenReady,
    /// After all earlier ones of its kind: the peer takes the next reply for the answer.
    InOrder,
}

/// An answer that is being worked on.
pub struct Pending {
    /// When it may go out.
    pub turn: Turn,
    /// The parts of the reply; nothing when it will never come.
    pub reply: Making,
}

/// What becomes of a message.
pub enum Begun {
    /// It gets no reply.
    NoReply,
    /// The reply is there already.
    Ready(Turn, Parts),
    /// The reply takes its time.
    Later(Pending),
}

/// Whoever answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Begins to answer a message. The next message of the same connection is not looked at before
    /// this is done, so that what they ask for begins in their order; work that takes time belongs
    /// into the reply.
    fn begin(&self, message: Parts) -> impl Future<Output = Begun> + Send;
}

/// Serves until the manager leaves.
pub async fn serve(
    mut listener: Listener,
    service: impl Service,
    mut stay: watch::Receiver<Stay>,
    log: Log,
) {
    let mut complaints = Complaints::new(log, listener.name());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut visits = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, arrival) = accepted => match arrival {
                Ok(arrival) => {
                    let going_on = (listener.name(), listener.carry());
                    let visit = Visit::new(arrival, service.clone(), stay.clone(), going_on);
                    visits.spawn(async move {
                        let ended = match visit {
                            Some(visit) => visit.run().await,
                            None => Ended::Left,
                        };
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
                if let Ok(Ended::Misbehaved(reason)) = ended {
                    let text = format!("a connection is closed: {reason}");
                    complaints.tell(Level::Info, &text);
                }
            }
            () = left(&mut stay) => break,
        }
    }
    drop(listener);
    // Each ends by itself when its last replies are out, or too slow.
    while visits.join_next().await.is_some() {}
}

async fn left(stay: &mut watch::Receiver<Stay>) {
    // Gone without a word is gone too.
    let _ = stay.wait_for(|stay| *stay != Stay::Yes).await;
}

enum Ended {
    /// The peer has closed, or the manager leaves.
    Left,
    /// For the log.
    Misbehaved(String),
}

/// What the peer's socket took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    Something,
    /// The peer is gone.
    Gone,
}

/// A reply that is being made.
type Making = Pin<Box<dyn Future<Output = Option<Parts>> + Send>>;

/// Replies that may not overtake each other, the next one first. Only that is worked on: what the others have asked
/// for was asked for when they began.
type Line = VecDeque<Making>;

struct Visit<S> {
    service: S,
    stay: watch::Receiver<Stay>,
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    connection: Connection,
    /// Replies that go out as they become ready; they end with the connection.
    working: JoinSet<Option<Parts>>,
    line: Line,
    /// Where it goes when the manager becomes another program, and under which name.
    going_on: (&'static str, Carry),
}

impl<S: Service> Visit<S> {
    /// Nothing when the program before has spoken what is not spoken here.
    fn new(
        arrival: Arrival,
        service: S,
        stay: watch::Receiver<Stay>,
        going_on: (&'static str, Carry),
    ) -> Option<Self> {
        let connection = match arrival.resumed {
            None => Connection::new(Role::Router),
            Some(state) => Connection::resumed(Role::Router, state.dialect()?, &state.unread),
        };
        let (reader, writer) = tokio::io::split(arrival.stream);
        Some(Self {
            service,
            stay,
            reader,
            writer,
            connection,
            working: JoinSet::new(),
            line: Line::new(),
            going_on,
        })
    }

    async fn run(mut self) -> Ended {
        let mut input = vec![0; READ_BYTES];
        let mut deadline = Some(Instant::now() + HANDSHAKE_TIMEOUT);
        // What the program before has left unread.
        if let Err(reason) = self.hear().await {
            return self.dismiss(reason).await;
        }
        loop {
            let waiting = self.connection.output.len();
            if waiting > REPLIES_BYTES_MAX {
                return Ended::Misbehaved("it does not read its replies".to_owned());
            }
            if self.connection.is_open() {
                deadline = match (waiting, deadline) {
                    (0, _) => None,
                    (_, None) => Some(Instant::now() + STALL_TIMEOUT),
                    (_, set) => set,
                };
            }
            let busy = self.unfinished() >= REQUESTS_AT_ONCE_MAX;
            let hears = !busy && waiting < REPLIES_BYTES_HIGH;
            tokio::select! {
                read = self.reader.read(&mut input), if hears => {
                    let bytes = match read {
                        Ok(0) | Err(_) => return Ended::Left,
                        Ok(count) => input.get(..count).unwrap_or_default(),
                    };
                    if let Err(violation) = self.connection.handle_bytes(bytes) {
                        return self.dismiss(violation.to_string()).await;
                    }
                }
                written = self.writer.write(&self.connection.output), if waiting > 0 => {
                    match written {
                        Ok(0) | Err(_) => return Ended::Left,
                        Ok(count) => drop(self.connection.output.drain(..count)),
                    }
                    if self.connection.is_open() {
                        deadline = None;
                    }
                }
                Some(reply) = self.working.join_next(), if !self.working.is_empty() => {
                    if let Ok(Some(parts)) = reply {
                        write_message(&parts, &mut self.connection.output);
                    }
                }
                reply = front(&mut self.line), if !self.line.is_empty() => {
                    self.line.pop_front();
                    if let Some(parts) = reply {
                        write_message(&parts, &mut self.connection.output);
                    }
                }
                () = at(deadline), if deadline.is_some() => {
                    let reason = match self.connection.is_open() {
                        true => "it does not read its replies",
                        false => "no handshake in time",
                    };
                    return Ended::Misbehaved(reason.to_owned());
                }
                () = left(&mut self.stay) => return self.leave().await,
            }
            if let Err(reason) = self.hear().await {
                return self.dismiss(reason).await;
            }
            match self.write_at_once().await {
                Written::Nothing => {}
                Written::Something if self.connection.is_open() => deadline = None,
                Written::Something => {}
                Written::Gone => return Ended::Left,
            }
        }
    }

    /// Begins what has been asked for, as far as there is room. Replies that are there already pile up and go out
    /// in one write.
    async fn hear(&mut self) -> Result<(), String> {
        while self.unfinished() < REQUESTS_AT_ONCE_MAX
            && self.connection.output.len() < REPLIES_BYTES_HIGH
        {
            match self.connection.poll_event() {
                Ok(Some(Event::Message(message))) => match self.service.begin(message).await {
                    Begun::NoReply => {}
                    Begun::Ready(Turn::InOrder, parts) if !self.line.is_empty() => {
                        self.line.push_back(Box::pin(ready(Some(parts))));
                    }
                    Begun::Ready(_, parts) => {
                        write_message(&parts, &mut self.connection.output);
                    }
                    Begun::Later(pending) => self.work_on(pending),
                },
                Ok(Some(Event::Ready { .. } | Event::Subscribe(_) | Event::Cancel(_))) => {}
                Ok(None) => return Ok(()),
                Err(violation) => return Err(violation.to_string()),
            }
        }
        Ok(())
    }

    /// Writes what the socket takes without waiting: a reply that was ready costs no turn of the loop with its timers.
    async fn write_at_once(&mut self) -> Written {
        if self.connection.output.is_empty() {
            return Written::Nothing;
        }
        let (writer, output) = (&mut self.writer, &self.connection.output);
        let written = poll_fn(|cx| Poll::Ready(Pin::new(&mut *writer).poll_write(cx, output)));
        match written.await {
            Poll::Ready(Ok(0) | Err(_)) => Written::Gone,
            Poll::Ready(Ok(count)) => {
                self.connection.output.drain(..count);
                Written::Something
            }
            Poll::Pending => Written::Nothing,
        }
    }

    fn unfinished(&self) -> usize {
        self.line.len() + self.working.len()
    }

    fn work_on(&mut self, pending: Pending) {
        match pending.turn {
            Turn::InOrder => self.line.push_back(pending.reply),
            Turn::WhenReady => drop(self.working.spawn(pending.reply)),
        }
    }

    /// Tells the peer what is left to be told, and closes.
    async fn dismiss(mut self, reason: String) -> Ended {
        let _ = timeout(LINGER, self.flush()).await;
        Ended::Misbehaved(reason)
    }

    /// Replies that are on their way are the last. If the manager becomes another program, the connection goes on.
    async fn leave(mut self) -> Ended {
        let answered = timeout(LEAVE_TIMEOUT, async {
            while let Some(reply) = self.working.join_next().await {
                if let Ok(Some(parts)) = reply {
                    write_message(&parts, &mut self.connection.output);
                }
            }
            while !self.line.is_empty() {
                let reply = front(&mut self.line).await;
                self.line.pop_front();
                if let Some(parts) = reply {
                    write_message(&parts, &mut self.connection.output);
                }
            }
            self.writer.write_all(&self.connection.output).await
        })
        .await;
        if let Ok(Ok(())) = answered {
            self.connection.output.clear();
            if let Some((version, unread)) = self.connection.carried() {
                let stream = self.reader.unsplit(self.writer);
                let (endpoint, carry) = self.going_on;
                let state = CarriedState {
                    endpoint: endpoint.to_owned(),
                    unix: stream.is_unix(),
                    version,
                    unread,
                    subscriptions: Vec::new(),
                };
                carry.leave(stream, state);
            }
        }
        Ended::Left
    }

    async fn flush(&mut self) {
        let _ = self.writer.write_all(&self.connection.output).await;
        let _ = self.writer.shutdown().await;
    }
}

/// The reply at the front of a line that is not empty.
async fn front(line: &mut Line) -> Option<Parts> {
    match line.front_mut() {
        Some(reply) => reply.await,
        None => pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

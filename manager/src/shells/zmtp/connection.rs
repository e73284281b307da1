//! One connection of ROUTER or PUB, from bytes to events, without a socket.
//!
//! Bytes that arrive go in by [`Connection::handle_bytes`]; what they mean comes out of
//! [`Connection::poll_event`], and what has to be sent piles up in [`Connection::output`]. Handle,
//! then poll until there is nothing, then send. After a [`Violation`] the connection is only good
//! for sending what is left and closing.

use super::frame::{Frame, FrameError, FrameKind, FrameReader, write_frame};
use super::greeting::{self, Dialect, GreetingError};
use super::limits::{
    COMMAND_BYTES_MAX, PARTS_MAX, REQUEST_BYTES_MAX, REQUEST_FRAME_BYTES_MAX,
    SUBSCRIBER_FRAME_BYTES_MAX,
};
use super::message::{Parts, read_properties, split_command, write_command, write_property};

/// Which of ZeroMQ's sockets the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests from DEALER, REQ and ROUTER.
    Router,
    /// Tells things to SUB and XSUB.
    Publisher,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Router => "ROUTER",
            Self::Publisher => "PUB",
        }
    }

    /// Its number in ZMTP 2.0.
    const fn number(self) -> u8 {
        match self {
            Self::Router => 6,
            Self::Publisher => 1,
        }
    }

    fn serves(self, socket_type: &str) -> bool {
        match self {
            Self::Router => matches!(socket_type, "DEALER" | "REQ" | "ROUTER"),
            Self::Publisher => matches!(socket_type, "SUB" | "XSUB"),
        }
    }

    const fn frame_limit(self) -> usize {
        match self {
            Self::Router => REQUEST_FRAME_BYTES_MAX,
            Self::Publisher => SUBSCRIBER_FRAME_BYTES_MAX,
        }
    }
}

/// Something a peer has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is over.
    Ready {
        /// What it calls itself; often nothing.
        identity: Vec<u8>,
    },
    /// A message (to ROUTER).
    Message(Parts),
    /// It wants topics that begin so (to PUB).
    Subscribe(Vec<u8>),
    /// It does not want them any more.
    Cancel(Vec<u8>),
}

/// Why a peer is let go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// See [`GreetingError`].
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// See [`FrameError`].
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Too many parts, or too many bytes in all.
    #[error("a message of more than {PARTS_MAX} parts or {REQUEST_BYTES_MAX} bytes")]
    MessageTooLong,
    /// Not allowed where it came.
    #[error("{0}")]
    OutOfPlace(&'static str),
    /// A socket that does not go with ours.
    #[error("a {theirs} socket cannot talk to {ours}")]
    SocketType {
        /// The peer's.
        theirs: String,
        /// Ours.
        ours: &'static str,
    },
}

#[derive(Debug)]
enum State {
    /// Bytes of the greeting so far, and how the peer goes on if that is known.
    Greeting(Vec<u8>, Option<Dialect>),
    /// READY, or the identity of ZMTP 2.0, has to come.
    Handshake(Dialect),
    Open(Dialect),
    Broken,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    state: State,
    frames: FrameReader,
    parts: Parts,
    parts_bytes: usize,
    /// What is to be sent. The caller takes from its front.
    pub output: Vec<u8>,
}

impl Connection {
    /// A connection that was just accepted; its opening waits to be sent at once.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            state: State::Greeting(Vec::new(), None),
            frames: FrameReader::new(role.frame_limit()),
            parts: Vec::new(),
            parts_bytes: 0,
            output: greeting::OPENING.to_vec(),
        }
    }

    /// A connection that another program has had: nothing is greeted again.
    #[must_use]
    pub(super) fn resumed(role: Role, dialect: Dialect, unread: &[u8]) -> Self {
        let mut frames = FrameReader::new(role.frame_limit());
        frames.extend(unread);
        Self {
            state: State::Open(dialect),
            frames,
            output: Vec::new(),
            ..Self::new(role)
        }
    }

    /// What another program needs to go on, if the peer is between two things: the version that is spoken, and the
    /// bytes that were not looked at.
    pub(super) fn carried(&self) -> Option<(u8, Vec<u8>)> {
        let State::Open(dialect) = self.state else {
            return None;
        };
        if !self.output.is_empty() {
            return None;
        }
        let version = match dialect {
            Dialect::V2 => 2,
            Dialect::V3 => 3,
        };
        let mut unread = Vec::new();
        for part in &self.parts {
            write_frame(FrameKind::Part, part, &mut unread);
        }
        unread.extend_from_slice(self.frames.unread());
        Some((version, unread))
    }

    /// Whether messages can be exchanged.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Bytes have arrived.
    ///
    /// # Errors
    /// When they are no greeting that is answered here.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        match self.take_bytes(bytes) {
            Ok(()) => Ok(()),
            Err(violation) => {
                self.state = State::Broken;
                Err(violation)
            }
        }
    }

    fn take_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let State::Greeting(collected, dialect) = &mut self.state {
            let wanted = match dialect {
                None => greeting::OPENING.len(),
                Some(dialect) => greeting::length(*dialect),
            };
            let missing = wanted.saturating_sub(collected.len()).min(bytes.len());
            let (now, later) = bytes.split_at(missing);
            collected.extend_from_slice(now);
            bytes = later;
            if dialect.is_none() {
                let Some(known) = greeting::read_version(collected)? else {
                    return Ok(());
                };
                *dialect = Some(known);
                match known {
                    Dialect::V3 => self.output.extend(greeting::rest_for_version_3()),
                    Dialect::V2 => {
                        self.output.push(self.role.number());
                        write_frame(FrameKind::Last, b"", &mut self.output);
                    }
                }
                continue;
            }
            if collected.len() < wanted {
                return Ok(());
            }
            let (collected, dialect) = (std::mem::take(collected), *dialect);
            self.end_greeting(&collected, dialect.unwrap_or(Dialect::V3))?;
        }
        if !matches!(self.state, State::Broken) {
            self.frames.extend(bytes);
        }
        Ok(())
    }

    fn end_greeting(&mut self, greeting: &[u8], dialect: Dialect) -> Result<(), Violation> {
        match dialect {
            Dialect::V3 => {
                greeting::check_mechanism(greeting)?;
                let mut data = Vec::new();
                write_property("Socket-Type", self.role.name().as_bytes(), &mut data);
                write_property("Identity", b"", &mut data);
                write_command("READY", &data, &mut self.output);
            }
            Dialect::V2 => {
                let number = greeting.last().copied().unwrap_or_default();
                self.check_type(name_of_number(number))?;
            }
        }
        self.state = State::Handshake(dialect);
        Ok(())
    }

    fn check_type(&self, theirs: &str) -> Result<(), Violation> {
        if self.role.serves(theirs) {
            return Ok(());
        }
        // A peer's words go into the log; they are cut to what fits there.
        let theirs: String = theirs.chars().take(20).collect();
        let ours = self.role.name();
        Err(Violation::SocketType { theirs, ours })
    }

    /// What the bytes so far mean, one thing at a time.
    ///
    /// # Errors
    /// When the peer has broken the protocol or a bound.
    pub fn poll_event(&mut self) -> Result<Option<Event>, Violation> {
        match self.next_event() {
            Ok(event) => Ok(event),
            Err(violation) => {
                if matches!(violation, Violation::SocketType { .. }) {
                    // libzmq then says so instead of trying again for ever.
                    let reason = b"\x13Invalid socket type";
                    write_command("ERROR", reason, &mut self.output);
                }
                self.state = State::Broken;
                Err(violation)
            }
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            let dialect = match self.state {
                State::Greeting(..) | State::Broken => return Ok(None),
                State::Handshake(dialect) | State::Open(dialect) => dialect,
            };
            let Some(frame) = self.frames.next_frame()? else {
                return Ok(None);
            };
            if frame.kind == FrameKind::Command && dialect == Dialect::V2 {
                return Err(Violation::OutOfPlace("a command from a peer of ZMTP 2"));
            }
            let event = match (&self.state, frame.kind) {
                (State::Handshake(_), _) => Some(self.handle_handshake(frame, dialect)?),
                (_, FrameKind::Command) => self.handle_command(&frame.body)?,
                (_, FrameKind::Part | FrameKind::Last) => self.handle_part(frame)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn handle_handshake(&mut self, frame: Frame, dialect: Dialect) -> Result<Event, Violation> {
        let identity = match (dialect, frame.kind) {
            (Dialect::V2, FrameKind::Last) => frame.body,
            (Dialect::V3, FrameKind::Command) => {
                let properties = match split_command(&frame.body) {
                    Some((b"READY", data)) => read_properties(data),
                    _ => None,
                };
                let Some(properties) = properties else {
                    return Err(Violation::OutOfPlace("the handshake is not READY"));
                };
                self.check_type(&properties.socket_type)?;
                properties.identity
            }
            _ => return Err(Violation::OutOfPlace("a message before the handshake")),
        };
        // Longer ones are not allowed by any version (rfc 15, 23).
        if identity.len() > usize::from(u8::MAX) {
            return Err(Violation::OutOfPlace("an identity of more than 255 bytes"));
        }
        self.state = State::Open(dialect);
        Ok(Event::Ready { identity })
    }

    fn handle_command(&mut self, body: &[u8]) -> Result<Option<Event>, Violation> {
        if body.len() > COMMAND_BYTES_MAX {
            return Err(FrameError::TooLong {
                bytes: body.len() as u64,
                limit: COMMAND_BYTES_MAX,
            }
            .into());
        }
        match split_command(body) {
            Some((b"PING", data)) => {
                // Two bytes of time to live, then a context of at most 16 (rfc 37).
                let context = data.get(2..).unwrap_or_default();
                let context = context.get(..16).unwrap_or(context);
                write_command("PONG", context, &mut self.output);
                Ok(None)
            }
            Some((b"SUBSCRIBE", topic)) if self.role == Role::Publisher => {
                Ok(Some(Event::Subscribe(topic.to_vec())))
            }
            Some((b"CANCEL", topic)) if self.role == Role::Publisher => {
                Ok(Some(Event::Cancel(topic.to_vec())))
            }
            Some((b"READY", _)) => Err(Violation::OutOfPlace("READY a second time")),
            Some((b"ERROR", _)) => Err(Violation::OutOfPlace("the peer says ERROR")),
            // Later versions may have more.
            Some(_) => Ok(None),
            None => Err(Violation::OutOfPlace("a command without a name")),
        }
    }

    fn handle_part(&mut self, frame: Frame) -> Result<Option<Event>, Violation> {
        self.parts_bytes = self.parts_bytes.saturating_add(frame.body.len());
        if self.parts.len() >= PARTS_MAX || self.parts_bytes > REQUEST_BYTES_MAX {
            return Err(Violation::MessageTooLong);
        }
        self.parts.push(frame.body);
        if frame.kind == FrameKind::Part {
            return Ok(None);
        }
        self.parts_bytes = 0;
        let parts = std::mem::take(&mut self.parts);
        Ok(match self.role {
            Role::Router => Some(Event::Message(parts)),
            Role::Publisher => subscription(&parts),
        })
    }
}

/// The older form of a subscription: a message that begins with 1 or 0. Anything else is what XSUB
/// may send upstream, and nobody here reads.
fn subscription(parts: &[Vec<u8>]) -> Option<Event> {
    let [only] = parts else {
        return None;
    };
    match only.split_first()? {
        (1, topic) => Some(Event::Subscribe(topic.to_vec())),
        (0, topic) => Some(Event::Cancel(topic.to_vec())),
        _ => None,
    }
}

/// Socket types of ZMTP 2.0.
const fn name_of_number(number: u8) -> &'static str {
    match number {
        0 => "PAIR",
        1 => "PUB",
        2 => "SUB",
        3 => "REQ",
        4 => "REP",
        5 => "DEALER",
        6 => "ROUTER",
        7 => "PULL",
        8 => "PUSH",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;

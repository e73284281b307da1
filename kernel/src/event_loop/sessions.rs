//! Sessions as the loop sees them: let in, read from, their requests taken as long as the answers are
//! read, and parted with.

use super::connections::{Connection, Course, Received, Sent, Speech};
use super::listeners::{Accepted, tell};
use super::polled::{Interest, Ready, Token};
use super::{Detail, Kernel, Listening};
use crate::input::Input;
use crate::limits::{LINE_BYTES_MAX, REQUESTS_PER_TURN_MAX, SESSIONS_MAX};
use crate::session::framed;
use crate::state::SessionId;
use crate::text::lines::LineEvent;

/// Connections accepted per turn and listener.
const ACCEPTED_PER_TURN_MAX: usize = 16;

impl Kernel {
    pub(super) fn accept(&mut self, index: u64) {
        for _ in 0..ACCEPTED_PER_TURN_MAX {
            let Some(listener) = usize::try_from(index)
                .ok()
                .and_then(|index| self.listeners.get(index))
            else {
                return;
            };
            match listener.accept(&self.guests) {
                Accepted::Nobody => return,
                Accepted::Refused(error) => {
                    let line = format!("{}: a connection was refused: {error}", listener.address);
                    // Somebody who tries again and again shall not fill the log.
                    if line != self.last_refusal || self.detail == Detail::Debug {
                        self.log_line(&line);
                        self.last_refusal = line;
                    }
                }
                Accepted::NoDescriptors => {
                    self.listening = Listening::NoDescriptors;
                    for listener in &self.listeners {
                        self.polled.borrow().remove(listener.descriptor());
                    }
                    self.log_line("no descriptors for more sessions: waiting until one has gone");
                    return;
                }
                Accepted::Guest(socket, _) if !self.has_room_for_a_session() => {
                    tell(
                        &socket,
                        &format!("Error: {SESSIONS_MAX} sessions are open, the limit\n"),
                    );
                    self.log_line("a connection was refused: too many sessions");
                }
                Accepted::Guest(socket, peer) => {
                    let session = SessionId(self.state.newest_session.0.saturating_add(1));
                    let made = Connection::new(socket, session, &self.polled.borrow());
                    let Ok(connection) = made else { continue };
                    if self.detail == Detail::Debug {
                        let text = format!("session {}: {peer:?} connected", session.0);
                        self.log_line(&text);
                    }
                    self.connections.insert(session, connection);
                    self.drive(Input::Connected { session, peer });
                }
            }
        }
    }

    /// Whether another session can be opened, if need be in place of one that does nothing.
    fn has_room_for_a_session(&mut self) -> bool {
        if self.connections.len() >= SESSIONS_MAX
            && let Some(session) = self.state.idlest_text_session()
        {
            self.drive(Input::Displaced { session });
        }
        self.connections.len() < SESSIONS_MAX
    }

    pub(super) fn listen_again(&mut self) {
        if self.listening == Listening::Yes {
            return;
        }
        self.listening = Listening::Yes;
        for (index, listener) in (0..).zip(&self.listeners) {
            let token = Token::Listener(index);
            // Without memory for it now, the next session that goes tries again.
            if self
                .polled
                .borrow()
                .add(listener.descriptor(), token, Interest::Read)
                .is_err()
            {
                self.listening = Listening::NoDescriptors;
            }
        }
    }

    pub(super) fn handle_session(&mut self, session: SessionId, ready: &Ready) {
        let Some(connection) = self.connections.get_mut(&session) else {
            return;
        };
        if ready.writable && !connection.queue.is_empty() {
            match connection.flush() {
                Sent::All => self.handle_drained(session),
                Sent::Broken | Sent::TooSlow => return self.disconnect(session),
                Sent::Queued => {}
            }
        }
        let Some(connection) = self.connections.get_mut(&session) else {
            return;
        };
        let reads = connection.course == Course::Open && !connection.stalled;
        if !reads && ready.hung_up {
            // Nobody is there to read what is queued.
            return self.disconnect(session);
        }
        if reads && ready.readable {
            match connection.receive(&mut self.scratch) {
                Received::Bytes => self.take_requests(session),
                Received::Nothing => {}
                Received::Broken => return self.disconnect(session),
                Received::End => {
                    connection.course = Course::HalfClosed;
                    self.close_if_drained(session);
                }
            }
        }
        self.tidy(session);
    }

    fn handle_drained(&mut self, session: SessionId) {
        if let Some(connection) = self.connections.get_mut(&session) {
            if connection.stalled {
                connection.stalled = false;
                self.unparsed.insert(session);
            }
            self.drive(Input::Drained { session });
        }
        self.close_if_drained(session);
    }

    /// A session that was busy takes requests again.
    pub(super) fn resume(&mut self, session: SessionId) {
        if let Some(connection) = self.connections.get_mut(&session) {
            connection.stalled = false;
            self.unparsed.insert(session);
        }
    }

    fn close_if_drained(&mut self, session: SessionId) {
        let Some(connection) = self.connections.get(&session) else {
            return;
        };
        let unasked = self.unparsed.contains(&session) || connection.stalled;
        let done = match connection.course {
            Course::Open => false,
            Course::HalfClosed => !unasked && self.state.is_silent(session),
            Course::Closing => true,
        };
        if done && connection.queue.is_empty() {
            self.disconnect(session);
        }
    }

    /// Takes the whole requests that have arrived, as long as their answers are read.
    pub(super) fn take_requests(&mut self, session: SessionId) {
        for _ in 0..REQUESTS_PER_TURN_MAX {
            let Some(connection) = self.connections.get_mut(&session) else {
                return;
            };
            if connection.course == Course::Closing {
                return;
            }
            if self.order.is_some() || self.decided.is_some() {
                // What came behind it is for whoever this process is then.
                self.unparsed.insert(session);
                return;
            }
            if connection.queue.is_high() || !self.state.takes_requests(session) {
                connection.stalled = true;
                return self.tidy(session);
            }
            let input = match connection.speech {
                Speech::Frames => framed::poll_input(session, &mut connection.decoder),
                Speech::Text => match connection.poll_line() {
                    Some(LineEvent::Line(line)) => Some(Input::Line { session, line }),
                    Some(LineEvent::Interrupt) => Some(Input::Interrupt { session }),
                    Some(LineEvent::TooLong) => Some(Input::Garbage {
                        session,
                        reason: format!("The line has more than {LINE_BYTES_MAX} bytes"),
                    }),
                    Some(LineEvent::EndOfInput) => {
                        connection.course = Course::HalfClosed;
                        // Whoever types Ctrl-D is done with what goes on, too.
                        if !self.state.is_silent(session) {
                            self.drive(Input::Interrupt { session });
                        }
                        self.close_if_drained(session);
                        return self.tidy(session);
                    }
                    Some(LineEvent::Answer(bytes)) => {
                        if matches!(connection.send(&[&bytes]), Sent::Broken | Sent::TooSlow) {
                            return self.disconnect(session);
                        }
                        continue;
                    }
                    None => None,
                },
            };
            match input {
                Some(input) => self.drive(input),
                None => {
                    self.close_if_drained(session);
                    return self.tidy(session);
                }
            }
        }
        self.unparsed.insert(session);
    }

    fn tidy(&mut self, session: SessionId) {
        if let Some(connection) = self.connections.get_mut(&session) {
            connection.update_interest(&self.polled.borrow());
        }
    }

    /// Ends a session at once.
    fn disconnect(&mut self, session: SessionId) {
        if self.connections.remove(&session).is_some() {
            self.unparsed.remove(&session);
            self.listen_again();
            self.drive(Input::Disconnected { session });
        }
    }
}

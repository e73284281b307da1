//! Sessions: who is connected, and the end of it.

use super::{Refusal, Step};
use crate::effect::{Asker, Effect};
use crate::input::Room;
use crate::limits::SESSIONS_MAX;
use crate::state::text::TextSession;
use crate::state::{Leaving, Peer, Phase, Session, SessionId, Subscribed};
use kingpole_protocol::event::{Event, Goodbye};
use kingpole_protocol::ids::ProcessId;
use std::collections::{BTreeMap, BTreeSet};

impl Step<'_> {
    pub(super) fn handle_connected(&mut self, id: SessionId, peer: Peer) {
        self.state.newest_session = self.state.newest_session.max(id);
        let session = Session {
            id,
            peer,
            client: String::new(),
            connected_ns: self.now.unix_ns,
            phase: Phase::Text,
            subscribed: Subscribed::No,
            follows: BTreeMap::new(),
            rings: BTreeMap::new(),
            pending: BTreeSet::new(),
            serve_next: ProcessId(0),
            queue: Room::Free,
            text: TextSession {
                active_ns: self.now.monotonic_ns,
                ..TextSession::default()
            },
        };
        self.state.sessions.insert(id, session);
        // Somebody came in between.
        self.state.leaving = Leaving::No;
        self.greet(id);
    }

    pub(super) fn handle_disconnected(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.remove(&id) else {
            return;
        };
        self.state.serving.remove(&id);
        self.state
            .first_batches
            .retain(|(_, session)| *session != id);
        for process in session.follows.keys() {
            if let Some(process) = self.state.processes.get_mut(process) {
                process.followers.remove(&id);
            }
        }
        for lease in self.state.leases.values_mut() {
            if lease.session == Some(id) {
                lease.session = None;
            }
        }
        for process in session.follows.keys() {
            self.release(*process);
        }
        if session.phase != Phase::Text {
            self.log(format!("session {}: {} has gone", id.0, session.client));
        }
        if self.state.leaving == Leaving::WhenAlone && self.state.sessions.is_empty() {
            if self.state.is_idle() {
                self.log("nothing is held and the last session has gone".to_owned());
                self.effects.push(Effect::Exit);
            } else {
                self.state.leaving = Leaving::No;
            }
        }
    }

    pub(super) fn handle_displaced(&mut self, id: SessionId) {
        let text = format!("Error: {SESSIONS_MAX} sessions are open, and this one was idle\n");
        self.effects.push(Effect::Text {
            session: id,
            text: text.into_bytes(),
        });
        self.effects.push(Effect::Close { session: id });
    }

    pub(super) fn handle_congested(&mut self, id: SessionId) {
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.queue = Room::Congested;
        }
        self.state.serving.remove(&id);
    }

    pub(super) fn handle_drained(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.queue = Room::Free;
        // A watcher may also have the end of a process to hear of that is not there any more.
        let waits = !session.pending.is_empty() || session.phase == Phase::Text;
        if waits && session.takes_output() {
            self.state.serving.insert(id);
        }
        self.continue_listing(id);
    }

    /// Bytes that are no frames: what follows cannot be understood either.
    pub(super) fn handle_garbage(&mut self, id: SessionId, reason: &str) {
        let Some(session) = self.state.sessions.get(&id) else {
            return;
        };
        let client = session.client.clone();
        match session.phase {
            Phase::Text => {
                let text = format!("Error: {reason}\n> ").into_bytes();
                self.effects.push(Effect::Text { session: id, text });
            }
            Phase::Hello | Phase::Open => {
                let event = Box::new(Event::from(Goodbye {
                    reason: reason.to_owned(),
                }));
                self.effects.push(Effect::Event { session: id, event });
            }
        }
        self.log(format!("session {} ({client}): {reason}; closed", id.0));
        self.effects.push(Effect::Close { session: id });
    }

    pub(super) fn subscribe(&mut self, asker: Asker) -> Result<(), Refusal> {
        if let Some(session) = self.state.sessions.get_mut(&asker.session) {
            session.subscribed = Subscribed::Yes;
        }
        self.done(asker)
    }

    pub(super) fn tell_subscribers(&mut self, event: impl Fn() -> Event) {
        let subscribed = |session: &&Session| session.subscribed == Subscribed::Yes;
        let sessions = &self.state.sessions;
        let told = sessions
            .values()
            .filter(subscribed)
            .map(|s| s.id)
            .collect::<Vec<_>>();
        for session in told {
            self.event(session, event());
        }
    }

    pub(super) fn say_goodbye(&mut self, reason: &str) {
        for session in self.state.sessions.keys().copied().collect::<Vec<_>>() {
            self.event(
                session,
                Goodbye {
                    reason: reason.to_owned(),
                },
            );
        }
    }
}

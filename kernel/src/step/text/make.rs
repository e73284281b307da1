//! `make process` and `make socket`.

use super::Step;
use crate::effect::{Effect, Question};
use crate::input::Answer;
use crate::state::SessionId;
use crate::state::text::{Awaiting, TextMode, Then};
use crate::text::error::TextError;
use crate::text::hosts;
use crate::text::make_process::{ProcessDraft, WatchFromStart, referenced_sockets};
use crate::text::render;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::request::{MakeSocket, Request, Spawn};
use kingpole_protocol::spec::{SocketAddress, SocketSpec, UserSpec};
use std::net::IpAddr;

impl Step<'_> {
    pub(super) fn make_process_by_words(
        &mut self,
        id: SessionId,
        draft: Box<ProcessDraft>,
    ) -> Result<(), TextError> {
        if draft.user.is_none() && draft.group.is_none() {
            return self.make_process(id, *draft, None);
        }
        self.look_up(id, Question::Users(draft));
        Ok(())
    }

    pub(super) fn make_socket_by_words(
        &mut self,
        id: SessionId,
        spec: Box<SocketSpec>,
    ) -> Result<(), TextError> {
        match &spec.address {
            SocketAddress::Unix { path, .. } => {
                let taken = self.state.sockets.values().any(|other| {
                    let at = &other.info.spec.address;
                    other.info.spec.name != spec.name
                        && matches!(at, SocketAddress::Unix { path: other, .. } if other == path)
                });
                if taken {
                    let path = path.to_text().into_owned();
                    return Err(TextError::PathTaken { path });
                }
            }
            SocketAddress::Inet { host, .. } | SocketAddress::Inet6 { host, .. } => {
                if host != "localhost" && host.parse::<IpAddr>().is_err() {
                    self.look_up(id, Question::Host(spec));
                    return Ok(());
                }
            }
        }
        self.make_socket_at(id, *spec);
        Ok(())
    }

    fn make_socket_at(&mut self, id: SessionId, spec: SocketSpec) {
        let then = Then::Socket(Box::new(spec.clone()));
        self.ask(id, then, vec![Request::MakeSocket(MakeSocket { spec })]);
    }

    /// Files of the system are read by the event loop; the answer comes as an input.
    fn look_up(&mut self, id: SessionId, question: Question) {
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.text.mode = TextMode::Awaiting(Box::new(Awaiting {
                then: Then::LookedUp,
                missing: 1,
                refused: None,
                signalled: 0,
            }));
        }
        self.effects.push(Effect::LookUp {
            session: id,
            question,
        });
    }

    pub(in crate::step) fn handle_looked_up(&mut self, id: SessionId, answer: Answer) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.text.mode = TextMode::Prompt;
        self.effects.push(Effect::TakeRequests { session: id });
        if let Err(error) = self.go_on_with(id, answer) {
            self.text_error(id, &error);
        }
    }

    fn go_on_with(&mut self, id: SessionId, answer: Answer) -> Result<(), TextError> {
        let unreadable = |name: &str, reason: String| TextError::LookUp {
            name: name.to_owned(),
            reason,
        };
        match answer {
            Answer::Users { draft, database } => {
                let (user, group) = (draft.user.as_deref(), draft.group.as_deref());
                let database = database
                    .map_err(|reason| unreadable(user.or(group).unwrap_or_default(), reason))?;
                let user = database.resolve(user, group, self.own_identity())?;
                self.make_process(id, *draft, user)
            }
            Answer::Host { mut spec, hosts } => {
                if let SocketAddress::Inet { host, .. } | SocketAddress::Inet6 { host, .. } =
                    &spec.address
                {
                    let hosts = hosts.map_err(|reason| unreadable(host, reason))?;
                    let address = hosts::address_of(&hosts, &spec.address).ok_or_else(|| {
                        let host = host.chars().take(300).collect();
                        TextError::UnknownHost { host }
                    })?;
                    spec.address = address;
                }
                self.make_socket_at(id, *spec);
                Ok(())
            }
        }
    }

    fn make_process(
        &mut self,
        id: SessionId,
        draft: ProcessDraft,
        user: Option<UserSpec>,
    ) -> Result<(), TextError> {
        let watch = draft.watch;
        let (mut key, spec) = draft.into_spec(user)?;
        let existing = self.visible_named(&spec.name).last();
        if let Some(process) = existing {
            let same = process.key.strip_prefix(&key);
            if same.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')) {
                let process = process.id;
                self.answer_process(id, process, watch);
                return Ok(());
            }
            let mut line = Vec::new();
            render::push_process(&mut line, &process.info(), self.own_identity());
            return Err(TextError::ProcessExists {
                name: spec.name,
                line: String::from_utf8_lossy(&line).into_owned(),
            });
        }
        for name in referenced_sockets(&spec.arguments) {
            if !self.state.sockets.contains_key(&name) {
                return Err(TextError::SocketNotFound { name });
            }
        }
        // One that is gone for us may still be kept for its output.
        if self.state.keys.contains_key(&key) {
            let newest = self.state.processes.keys().next_back();
            key = format!("{key}:{}", newest.map_or(0, |newest| newest.0));
        }
        let then = Then::Process {
            spec: Box::new(spec.clone()),
            watch,
        };
        self.ask(id, then, vec![Request::Spawn(Spawn { key, spec })]);
        Ok(())
    }

    pub(super) fn answer_process(
        &mut self,
        id: SessionId,
        process: ProcessId,
        watch: WatchFromStart,
    ) {
        let mut line = Vec::new();
        if let Some(process) = self.state.processes.get(&process) {
            render::push_process(&mut line, &process.info(), self.own_identity());
        }
        match watch {
            WatchFromStart::No => self.text_reply(id, line),
            WatchFromStart::Yes => {
                line.push(b'\n');
                self.text(id, line);
                self.start_watch(id, &[process]);
            }
        }
    }
}

//! Text sessions: lines become the requests that frames carry, replies become Papa's words.
//!
//! One file per subject. What is peculiar to text is only how things are said, who is meant
//! (names, wildcards, numbers), and how a watcher acknowledges.

mod errors;
mod listing;
mod make;
mod tail;
mod watch;

use super::Step;
use crate::effect::{Asker, Effect};
use crate::limits::WORDS_MAX;
use crate::state::text::{Awaiting, Listed, TextMode, Then};
use crate::state::{Leaving, Phase, Process, SessionId, flags};
use crate::text::command::{Command, Things, parse_line};
use crate::text::error::TextError;
use crate::text::make_process::is_text_key;
use crate::text::render;
use crate::text::selector::{Selection, parse_number};
use crate::text::users::OwnIdentity;
use crate::text::{GREETING, PROMPT};
use kingpole_protocol::hello::{ATTACHED_PREFIX, VERSION_MAX, VERSION_MIN};
use kingpole_protocol::ids::{Fence, ProcessId, RequestId};
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    CloseSocket, Commit, GetValue, Remove, Request, Signal, SignalTarget, Status, ValueChange,
};

impl Step<'_> {
    pub(super) fn greet(&mut self, id: SessionId) {
        self.text(id, GREETING);
    }

    pub(super) fn handle_line(&mut self, id: SessionId, line: Vec<u8>) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.text.active_ns = self.now.monotonic_ns;
        match session.text.mode {
            TextMode::Prompt => match parse_line(&line, WORDS_MAX) {
                Ok(command) => self.command(id, command),
                Err(error) => self.text_error(id, &error),
            },
            TextMode::Watching(_) => self.handle_watchers_line(id, line),
            TextMode::Tailing(_) => self.end_tail(id),
            // None is taken then.
            TextMode::Awaiting(_) | TextMode::Listing(_) => {}
        }
    }

    /// Ctrl-C: whatever goes on stops. A watcher that is interrupted has acknowledged nothing.
    pub(super) fn handle_interrupt(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        match session.text.mode {
            TextMode::Watching(_) => self.end_watch(id, "Stopped watching\n> "),
            TextMode::Tailing(_) => self.end_tail(id),
            TextMode::Prompt => self.text(id, "\n> "),
            TextMode::Awaiting(_) | TextMode::Listing(_) => {}
        }
    }

    fn command(&mut self, id: SessionId, command: Command) {
        let done = match command {
            Command::Blank => {
                self.text(id, PROMPT);
                Ok(())
            }
            Command::Help(text) => {
                self.text_reply(id, text.into_bytes());
                Ok(())
            }
            Command::Quit => {
                self.text(id, "ok\n");
                self.effects.push(Effect::Close { session: id });
                Ok(())
            }
            Command::ExitIfIdle => {
                self.exit_when_alone(id);
                Ok(())
            }
            Command::Attach { version } => {
                self.attach(id, version);
                Ok(())
            }
            Command::List { things, selection } => {
                let what = match things {
                    Things::Processes => Listed::Processes,
                    Things::Sockets => Listed::Sockets,
                    Things::Values => Listed::Values,
                };
                self.list(id, what, selection);
                Ok(())
            }
            Command::Stats(selection) => {
                self.list(id, Listed::Stats, selection);
                Ok(())
            }
            Command::Sessions => {
                self.list(id, Listed::Sessions, Selection::All);
                Ok(())
            }
            Command::Leases => {
                self.list(id, Listed::Leases, Selection::All);
                Ok(())
            }
            Command::Version => {
                self.ask(id, Then::Version, vec![Request::Status(Status {})]);
                Ok(())
            }
            Command::Get { key } => {
                self.ask(id, Then::Value, vec![Request::GetValue(GetValue { key })]);
                Ok(())
            }
            Command::Set { key, value } => {
                let values = vec![ValueChange { key, value }];
                self.ask(id, Then::Done, vec![commit(values)]);
                Ok(())
            }
            Command::Remove { things, selection } => self.remove_things(id, things, &selection),
            Command::Upgrade { path, extent } => {
                self.log(format!("session {}: upgrade to {}", id.0, path.display()));
                if let Some(session) = self.state.sessions.get_mut(&id) {
                    session.text.mode = TextMode::Awaiting(Box::new(Awaiting {
                        then: Then::Upgraded,
                        missing: 1,
                        refused: None,
                        signalled: 0,
                    }));
                }
                self.effects.push(Effect::Upgrade {
                    session: id,
                    path,
                    extent,
                });
                Ok(())
            }
            Command::Watch(selection) => self.watch(id, &selection),
            Command::Tail { mode, name, lines } => self.tail(id, mode, &name, lines),
            Command::Signal {
                selection,
                signal,
                target,
            } => self.signal_processes(id, &selection, signal, target),
            Command::MakeSocket(spec) => self.make_socket_by_words(id, spec),
            Command::MakeProcess(draft) => self.make_process_by_words(id, draft),
        };
        if let Err(error) = done {
            self.text_error(id, &error);
        }
    }

    /// Papa ends when its last session has gone, unless somebody came in between.
    fn exit_when_alone(&mut self, id: SessionId) {
        if !self.state.is_idle() {
            return self.text(id, "not idle\n> ");
        }
        self.state.leaving = Leaving::WhenAlone;
        self.text(id, "Exiting papa!\n> ");
        self.effects.push(Effect::Close { session: id });
    }

    fn attach(&mut self, id: SessionId, version: u16) {
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            let text = format!(
                "Error: This kernel speaks frames {VERSION_MIN} to {VERSION_MAX}, not {version}\n> "
            );
            return self.text(id, text);
        }
        let text = format!(
            "{ATTACHED_PREFIX} with frames {version}; this kernel speaks {VERSION_MIN} to \
             {VERSION_MAX}.\n"
        );
        self.text(id, text);
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.phase = Phase::Hello;
        }
        self.effects.push(Effect::SwitchToFrames { session: id });
    }

    fn remove_things(
        &mut self,
        id: SessionId,
        things: Things,
        selection: &Selection,
    ) -> Result<(), TextError> {
        let requests = match things {
            Things::Processes => self
                .selected_processes(selection)?
                .into_iter()
                .map(|process| Request::Remove(Remove { process }))
                .collect(),
            Things::Sockets => self
                .selected_sockets(selection)?
                .into_iter()
                .map(|name| Request::CloseSocket(CloseSocket { name }))
                .collect(),
            Things::Values => {
                let keys = self.state.values.keys();
                let selected = keys.filter(|key| selection.matches(key, None, |_| false));
                let values = selected
                    .map(|key| ValueChange {
                        key: key.clone(),
                        value: None,
                    })
                    .collect::<Vec<_>>();
                if values.is_empty() {
                    Vec::new()
                } else {
                    vec![commit(values)]
                }
            }
        };
        self.ask(id, Then::Done, requests);
        Ok(())
    }

    fn signal_processes(
        &mut self,
        id: SessionId,
        selection: &Selection,
        signal: i32,
        target: SignalTarget,
    ) -> Result<(), TextError> {
        let mut processes = self.selected_processes(selection)?;
        if selection.required().next().is_none() {
            // A wildcard means those that can be signalled.
            processes.retain(|process| self.is_running(*process));
        }
        if processes.is_empty() {
            return Err(TextError::NothingToSignal);
        }
        let requests = processes
            .into_iter()
            .map(|process| {
                Request::Signal(Signal {
                    process,
                    signal,
                    target,
                })
            })
            .collect();
        self.ask(id, Then::Signalled, requests);
        Ok(())
    }

    fn is_running(&self, process: ProcessId) -> bool {
        let process = self.state.processes.get(&process);
        process.is_some_and(|process| process.end.is_none())
    }

    /// Makes requests for a session, exactly as frames would bring them, and answers when all are.
    fn ask(&mut self, id: SessionId, then: Then, requests: Vec<Request>) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.text.mode = TextMode::Awaiting(Box::new(Awaiting {
            then,
            missing: requests.len(),
            refused: None,
            signalled: 0,
        }));
        if requests.is_empty() {
            return self.finish_asking(id, None);
        }
        for request in requests {
            let asker = Asker {
                session: id,
                request: RequestId(0),
            };
            self.handle_request(asker, Fence::NONE, request);
        }
    }

    /// An answer to one of them.
    pub(super) fn reply_in_text(&mut self, id: SessionId, reply: Reply) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        let TextMode::Awaiting(awaiting) = &mut session.text.mode else {
            return;
        };
        awaiting.missing = awaiting.missing.saturating_sub(1);
        match &reply {
            Reply::ErrorReply(error) if awaiting.refused.is_none() => {
                awaiting.refused = Some(Box::new(error.clone()));
            }
            Reply::Signalled(reply) => {
                awaiting.signalled = awaiting.signalled.saturating_add(reply.count);
            }
            _ => {}
        }
        if awaiting.missing == 0 {
            self.finish_asking(id, Some(reply));
        }
    }

    fn finish_asking(&mut self, id: SessionId, last: Option<Reply>) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        let TextMode::Awaiting(awaiting) = std::mem::take(&mut session.text.mode) else {
            return;
        };
        self.effects.push(Effect::TakeRequests { session: id });
        let Awaiting {
            then,
            refused,
            signalled,
            ..
        } = *awaiting;
        if let Some(error) = refused {
            let line = self.refusal_line(&then, &error);
            return self.text(id, format!("Error: {line}\n> "));
        }
        match (then, last) {
            (Then::Value, Some(Reply::Value(reply))) => {
                let mut text = Vec::new();
                if let Some(value) = reply.value {
                    render::push_on_one_line(&mut text, &value);
                }
                self.text_reply(id, text);
            }
            (Then::Signalled, _) => self.text_reply(id, format!("Signalled {signalled}").into()),
            (Then::Version, Some(Reply::KernelStatus(status))) => {
                self.text_reply(id, render::version_lines(&status).into_bytes());
            }
            (Then::Process { watch, .. }, Some(Reply::Spawned(reply))) => {
                self.answer_process(id, reply.process.process, watch);
            }
            (Then::Socket(_), Some(Reply::SocketMade(reply))) => {
                let mut text = Vec::new();
                render::push_socket(&mut text, &reply.socket);
                self.text_reply(id, text);
            }
            _ => self.text_reply(id, Vec::new()),
        }
    }

    /// Processes that text sessions see: one whose end a text session has acknowledged is gone for
    /// them, even while a descendant still holds its output open.
    fn visible(process: &Process) -> bool {
        !(is_text_key(&process.key) && process.flags & flags::END_ACKNOWLEDGED != 0)
    }

    fn visible_named(&self, name: &str) -> impl Iterator<Item = &Process> {
        self.state
            .processes_named(name)
            .filter(|process| Self::visible(process))
    }

    fn is_process_name(&self, name: &str) -> bool {
        self.visible_named(name).next().is_some()
    }

    /// Those that are meant, in order of their names. Each plain name has to be there.
    fn selected_processes(&self, selection: &Selection) -> Result<Vec<ProcessId>, TextError> {
        let is_name = |name: &str| self.is_process_name(name);
        let names = self.state.names.iter();
        let mut found = Vec::new();
        for (name, id) in names {
            let Some(process) = self.state.processes.get(id) else {
                continue;
            };
            if Self::visible(process) && selection.matches(name, Some(process.pid), is_name) {
                found.push(*id);
            }
        }
        for name in selection.required() {
            let number = parse_number(name);
            let by_number = |id: &ProcessId| {
                let process = self.state.processes.get(id);
                process.is_some_and(|process| Some(process.pid) == number)
            };
            if !is_name(name) && !found.iter().any(by_number) {
                return Err(not_found(name));
            }
        }
        Ok(found)
    }

    fn selected_sockets(&self, selection: &Selection) -> Result<Vec<String>, TextError> {
        let sockets = &self.state.sockets;
        let is_name = |name: &str| sockets.contains_key(name);
        let selected = sockets
            .iter()
            .filter(|(name, socket)| selection.matches(name, socket.info.fileno, is_name));
        let found = selected.map(|(name, _)| name.clone()).collect::<Vec<_>>();
        for name in selection.required() {
            let number = parse_number(name);
            let by_number = |found: &String| {
                let fileno = sockets.get(found).and_then(|socket| socket.info.fileno);
                fileno.is_some() && fileno == number
            };
            if !is_name(name) && !found.iter().any(by_number) {
                return Err(not_found(name));
            }
        }
        Ok(found)
    }

    fn own_identity(&self) -> OwnIdentity {
        let about = &self.state.about;
        OwnIdentity {
            uid: about.uid,
            gid: about.gid,
        }
    }

    pub(in crate::step) fn text(&mut self, session: SessionId, text: impl Into<Vec<u8>>) {
        let text = text.into();
        self.effects.push(Effect::Text { session, text });
    }

    /// A reply and the prompt, which stands at the start of a line.
    fn text_reply(&mut self, session: SessionId, mut text: Vec<u8>) {
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(PROMPT.as_bytes());
        self.text(session, text);
    }

    fn text_error(&mut self, session: SessionId, error: &TextError) {
        self.text(session, format!("Error: {error}\n> "));
    }
}

fn commit(values: Vec<ValueChange>) -> Request {
    Request::Commit(Commit {
        values,
        ..Commit::default()
    })
}

fn not_found(name: &str) -> TextError {
    TextError::NotFound {
        name: name.chars().take(300).collect(),
    }
}

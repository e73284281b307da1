//! The only place where the kernel's state changes: `step(state, input) -> effects`.
//!
//! Pure: no clock, no descriptors, no randomness. One file per subject. Effects are carried out in
//! their order; what they bring comes back as inputs before anything else is looked at, so between
//! two inputs from outside everything is settled.

mod inheritance;
mod leases;
mod listings;
mod output;
mod processes;
mod sessions;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod sockets;
mod text;
mod values;

use crate::effect::{After, Asker, Effect};
use crate::input::{Input, Now, Termination};
use crate::state::{Access, Phase, SessionId, State};
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::Event;
use kingpole_protocol::hello::{VERSION_MAX, VERSION_MIN, Welcome, capability};
use kingpole_protocol::ids::Fence;
use kingpole_protocol::names::check_name;
use kingpole_protocol::reply::{Done, Reply};
use kingpole_protocol::request::Request;
use kingpole_protocol::status::KernelStatus;

/// A refusal, boxed because it is large and rare.
type Refusal = Box<ErrorReply>;

/// Lets `input` happen and appends what is to be done to `effects`.
pub fn step(state: &mut State, now: Now, input: Input, effects: &mut Vec<Effect>) {
    Step {
        state,
        now,
        effects,
    }
    .handle(input);
}

struct Step<'a> {
    state: &'a mut State,
    now: Now,
    effects: &'a mut Vec<Effect>,
}

fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Box::new(ErrorReply::new(code, message))
}

impl Step<'_> {
    fn handle(&mut self, input: Input) {
        match input {
            Input::Connected { session, peer } => self.handle_connected(session, peer),
            Input::Disconnected { session } => self.handle_disconnected(session),
            Input::Line { session, line } => self.handle_line(session, line),
            Input::Displaced { session } => self.handle_displaced(session),
            Input::Interrupt { session } => self.handle_interrupt(session),
            Input::LookedUp { session, answer } => self.handle_looked_up(session, *answer),
            Input::Counted { session, counts } => self.handle_counted(session, &counts),
            Input::TailRead {
                session,
                bytes,
                mark,
            } => self.handle_tail_read(session, bytes, mark),
            Input::TextSent {
                session,
                process,
                mark,
                bytes,
                line,
                room,
            } => self.handle_text_sent(session, process, mark, bytes, line, room),
            Input::Request {
                asker,
                fence,
                request,
            } => self.handle_request(asker, fence, *request),
            Input::BadRequest { asker, error } => self.refuse(asker, error),
            Input::Garbage { session, reason } => self.handle_garbage(session, &reason),
            Input::Congested { session } => self.handle_congested(session),
            Input::Drained { session } => self.handle_drained(session),
            Input::TurnEnded => self.serve_followers(),
            Input::TimeReached => {
                self.give_memory_back();
                self.read_again();
                self.ask_whether_read();
                self.look_at_intents();
            }
            Input::LineRead { session, answer } => self.handle_line_read(session, answer),
            Input::Inherited { process } => self.insert_process(*process),
            Input::Adopted { intents } => self.handle_adopted(intents),
            Input::IntentResolved { process, running } => {
                self.handle_intent_resolved(process, running);
            }
            Input::UpgradeAnswered { session, text } => {
                self.handle_upgrade_answered(session, &text);
            }
            Input::Resumed {
                newest_session,
                sessions,
                holders,
                counts,
            } => self.handle_resumed(newest_session, sessions, holders, counts),
            Input::Readable { process, stream } => self.handle_readable(process, stream),
            Input::Ended { process, end } => self.handle_ended(process, end),
            Input::Terminate(why) => self.handle_terminate(why),
            Input::Spawned { order, started } => self.handle_spawned(*order, started),
            Input::SpawnFailed { order, error } => self.handle_spawn_failed(&order, error),
            Input::Signalled { asker, result } => self.handle_signalled(asker, result),
            Input::Measured {
                asker,
                resident_kib,
                descriptors,
            } => {
                self.handle_measured(asker, resident_kib, descriptors);
            }
            Input::SocketMade { asker, result } => self.handle_socket_made(asker, result),
            Input::Recorded { after, result } => self.handle_recorded(*after, result),
            Input::OutputRead {
                process,
                stream,
                outcome,
            } => {
                self.handle_output_read(process, stream, outcome);
            }
            Input::ReadFailed {
                process,
                output,
                reason,
            } => self.handle_read_failed(process, output, &reason),
            Input::Acknowledged { process, output } => self.handle_acknowledged(process, output),
            Input::OutputGap {
                session,
                process,
                gap,
                mark,
            } => {
                self.handle_output_gap(session, process, &gap, mark);
            }
            Input::OutputSent {
                session,
                process,
                mark,
                bytes,
                passed,
                room,
            } => {
                self.note_passed_ring(session, process, passed);
                self.handle_output_sent(session, process, mark, bytes, room);
            }
            Input::RingDamaged { process, reason } => self.handle_ring_damaged(process, &reason),
        }
    }

    fn handle_request(&mut self, asker: Asker, fence: Fence, request: Request) {
        let Some(session) = self.state.sessions.get(&asker.session) else {
            return;
        };
        if session.phase == Phase::Hello && !matches!(request, Request::Hello(_)) {
            let text = format!("the first frame must be a hello, not {}", request.name());
            return self.refuse(asker, refusal(ErrorCode::HELLO_EXPECTED, text));
        }
        // Taking a lease is how a holder whose number is void comes back, so it needs no number.
        let exempt = matches!(
            request,
            Request::Hello(_) | Request::TakeLease(_) | Request::Grant(_) | Request::Ping(_)
        );
        if !exempt && let Err(error) = self.check_fence(fence) {
            return self.refuse(asker, error);
        }
        let refused = match request {
            Request::Hello(hello) => self.hello(asker, hello),
            Request::Ping(_) => self.done(asker),
            Request::Status(_) => {
                self.effects.push(Effect::Measure { asker });
                Ok(())
            }
            Request::ListProcesses(list) => self.list_processes(asker, &list),
            Request::ListSockets(list) => self.list_sockets(asker, &list),
            Request::ListValues(list) => self.list_values(asker, &list),
            Request::ListSessions(list) => self.list_sessions(asker, &list),
            Request::ListLeases(list) => self.list_leases(asker, &list),
            Request::Spawn(spawn) => self.spawn(asker, spawn),
            Request::Signal(signal) => self.signal(asker, &signal),
            Request::Remove(remove) => self.remove(asker, remove.process),
            Request::Commit(commit) => self.commit(asker, commit),
            Request::GetValue(get) => self.get_value(asker, &get.key),
            Request::MakeSocket(make) => self.make_socket(asker, make.spec),
            Request::CloseSocket(close) => self.close_socket(asker, &close.name),
            Request::FetchSocket(fetch) => self.fetch_socket(asker, &fetch.name),
            Request::TakeLease(take) => self.take_lease(asker, take),
            Request::ReleaseLease(release) => self.release_lease(asker, release.lease),
            Request::Follow(follow) => self.follow(asker, &follow, Access::Sent),
            Request::FollowMapped(follow) => self.follow_mapped(asker, &follow),
            Request::Grant(grant) => {
                self.grant(asker.session, grant.process, grant.credit_bytes);
                Ok(())
            }
            Request::Unfollow(unfollow) => self.unfollow(asker, unfollow.process),
            Request::Subscribe(_) => self.subscribe(asker),
            Request::ExitIfIdle(_) => self.exit_if_idle(asker),
        };
        if let Err(error) = refused {
            self.refuse(asker, error);
        }
    }

    fn handle_recorded(&mut self, after: After, result: Result<(), Refusal>) {
        let asker = match &after {
            After::Commit { asker, .. }
            | After::SocketMade { asker, .. }
            | After::SocketClosed { asker, .. }
            | After::LeaseTaken { asker, .. }
            | After::LeaseReleased { asker, .. } => *asker,
        };
        if let Err(error) = result {
            self.log(format!("journal: {error}; a request is refused"));
            if let After::SocketMade { socket, .. } = after {
                self.effects.push(Effect::CloseSocket { socket });
            }
            return self.refuse(asker, error);
        }
        match after {
            After::Commit { asker, commit } => self.handle_values_stored(asker, commit),
            After::SocketMade { asker, socket } => self.handle_socket_recorded(asker, *socket),
            After::SocketClosed { asker, name } => self.handle_socket_forgotten(asker, &name),
            After::LeaseTaken { asker, lease } => self.handle_lease_taken(asker, *lease),
            After::LeaseReleased { asker, name } => self.handle_lease_released(asker, &name),
        }
    }

    fn hello(
        &mut self,
        asker: Asker,
        hello: kingpole_protocol::hello::Hello,
    ) -> Result<(), Refusal> {
        if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
            let text = format!(
                "this kernel speaks frames {VERSION_MIN} to {VERSION_MAX}, the client {} to {}",
                hello.version_min, hello.version_max
            );
            return Err(refusal(ErrorCode::UNSUPPORTED, text));
        }
        check_name("client", &hello.client)
            .map_err(|error| refusal(ErrorCode::INVALID, error.to_string()))?;
        let about = &self.state.about;
        let offered = match self.passes_descriptors(asker.session) {
            true => capability::DESCRIPTORS | capability::MAPPED_OUTPUT,
            false => 0,
        };
        let welcome = Welcome {
            version: VERSION_MAX.min(hello.version_max),
            capabilities: hello.capabilities & offered,
            release: about.release.clone(),
            pid: about.pid,
            generation: about.generation,
            epoch: about.epoch,
            instance: about.instance,
            started_ns: about.started_ns,
            session: asker.session.0,
            newest_fence: self.state.newest_fence,
        };
        let Some(session) = self.state.sessions.get_mut(&asker.session) else {
            return Ok(());
        };
        if session.phase == Phase::Open {
            return Err(refusal(
                ErrorCode::INVALID,
                "this session has had its hello",
            ));
        }
        session.phase = Phase::Open;
        let line = format!("session {}: {} attached", session.id.0, hello.client);
        session.client = hello.client;
        self.log(line);
        self.reply(asker, welcome);
        Ok(())
    }

    fn handle_measured(&mut self, asker: Asker, resident_kib: u64, descriptors: u64) {
        let state = &*self.state;
        let about = &state.about;
        let held = u64::try_from(state.processes.len()).unwrap_or(u64::MAX);
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let outputs = || state.processes.values().map(|process| &process.output);
        let status = KernelStatus {
            release: about.release.clone(),
            pid: about.pid,
            guard_pid: about.guard_pid,
            generation: about.generation,
            epoch: about.epoch,
            instance: about.instance,
            started_ns: about.started_ns,
            now_ns: self.now.unix_ns,
            processes_running: state.running,
            processes_ended: held.saturating_sub(state.running),
            sockets: count(state.sockets.len()),
            values: count(state.values.len()),
            values_bytes: state
                .values
                .iter()
                .map(|(k, v)| count(k.len() + v.len()))
                .sum(),
            sessions: count(state.sessions.len()),
            leases: count(state.leases.len()),
            output_bytes: outputs().map(|output| output.cursor.used()).sum(),
            output_capacity_bytes: outputs().map(|output| output.capacity_bytes).sum(),
            resident_kib,
            descriptors,
            descriptors_limit: about.descriptors_limit,
        };
        self.reply(asker, status);
    }

    fn exit_if_idle(&mut self, asker: Asker) -> Result<(), Refusal> {
        if !self.state.is_idle() {
            let text = format!("not idle: {}", self.held());
            return Err(refusal(ErrorCode::NOT_IDLE, text));
        }
        self.reply(asker, Done {});
        self.say_goodbye("the kernel ends, as it was asked to");
        self.log("nothing is held and a client asked for the end".to_owned());
        self.effects.push(Effect::Exit);
        Ok(())
    }

    fn handle_terminate(&mut self, why: Termination) {
        let (Termination::Polite(signal) | Termination::Forced(signal)) = why;
        if matches!(why, Termination::Polite(_)) && !self.state.is_idle() {
            let held = self.held();
            self.log(format!(
                "{signal}: {held} are held, so the kernel stays; SIGQUIT ends it"
            ));
            return;
        }
        self.log(format!("{signal}: the kernel ends with {}", self.held()));
        self.say_goodbye(&format!("the kernel ends after {signal}"));
        self.effects.push(Effect::Exit);
    }

    fn held(&self) -> String {
        let state = &self.state;
        format!(
            "{} processes ({} running), {} sockets and {} values",
            state.processes.len(),
            state.running,
            state.sockets.len(),
            state.values.len()
        )
    }

    fn done(&mut self, asker: Asker) -> Result<(), Refusal> {
        self.reply(asker, Done {});
        Ok(())
    }

    /// The one way in which requests are answered, whatever the session speaks.
    fn reply(&mut self, asker: Asker, reply: impl Into<Reply>) {
        let reply = reply.into();
        match self
            .state
            .sessions
            .get(&asker.session)
            .map(|session| session.phase)
        {
            None => {}
            Some(Phase::Text) => self.reply_in_text(asker.session, reply),
            Some(Phase::Hello | Phase::Open) => {
                self.effects.push(Effect::Reply {
                    asker,
                    reply: Box::new(reply),
                });
            }
        }
    }

    fn is_text(&self, session: SessionId) -> bool {
        let session = self.state.sessions.get(&session);
        session.is_some_and(|session| session.phase == Phase::Text)
    }

    #[expect(clippy::boxed_local, reason = "refusals travel boxed, see Refusal")]
    fn refuse(&mut self, asker: Asker, error: Refusal) {
        self.reply(asker, *error);
    }

    fn event(&mut self, session: SessionId, event: impl Into<Event>) {
        let framed = self
            .state
            .sessions
            .get(&session)
            .is_some_and(|s| s.phase == Phase::Open);
        if framed {
            self.effects.push(Effect::Event {
                session,
                event: Box::new(event.into()),
            });
        }
    }

    fn log(&mut self, line: String) {
        self.effects.push(Effect::Log(line));
    }
}

#[cfg(test)]
mod tests;

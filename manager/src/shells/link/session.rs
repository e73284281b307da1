//! One session with the kernel as a state machine: bytes in and requests out, facts for the engine
//! out. It greets, takes the lease, subscribes, reads all that the kernel holds, and from then on
//! carries requests and their answers. Pure: sockets and waiting are the business of [`super`].
//!
//! **The lease.** Each connection acts under a new fencing number, also after a reconnect: what the
//! connection before had sent and the kernel not yet read is then refused instead of being done
//! behind the back of the survey. To get one without ever stealing another manager's lease, a
//! reconnecting manager resumes its lease by the old number (which proves that nobody had it in
//! between), gives it back and takes it again.

use std::collections::VecDeque;

use kingpole_protocol::client::connection::{Connection, ConnectionError, Incoming};
use kingpole_protocol::codec::CodecError;
use kingpole_protocol::event::Event;
use kingpole_protocol::hello::Welcome;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    CloseSocket, Commit, Follow, Grant, ListLeases, ListSessions, MakeSocket,
    OutputAcknowledgement, ReleaseLease, Request, Signal, Spawn, Subscribe, TakeLease, ValueChange,
};
use kingpole_protocol::spec::{ProcessSpec, SocketSpec};
use kingpole_protocol::status::LeaseInfo;
use kingpole_protocol::{ErrorCode, ErrorReply, Fence, RequestId, Sequence};

use super::survey::Survey;
use super::translate;
use super::{Holder, LinkEvent, OldLease};
use crate::config::model::SignalNumber;
use crate::engine::{Input, Level, ProcessId, SignalTarget, SpawnFailure, Ticket, WriteId};
use crate::shells::clock::Clocks;

/// A request whose answer is awaited. The kernel answers in order.
#[derive(Debug)]
enum Awaited {
    Resume,
    Release,
    Take,
    Leases,
    HolderSession(LeaseInfo),
    Subscribe,
    Page,
    Spawn {
        ticket: Ticket,
        request: Box<Spawn>,
    },
    Signal {
        process: ProcessId,
        signal: SignalNumber,
    },
    SetValue {
        write: WriteId,
    },
    End {
        process: ProcessId,
    },
    MakeSocket {
        socket: String,
    },
    CloseSocket {
        name: String,
    },
    /// Nobody waits for it; what was asked is told if it is refused.
    Quiet(&'static str),
}

#[derive(Debug)]
enum Phase {
    /// Greeting, lease and the like.
    Opening,
    Surveying(Box<Survey>),
    Open,
    /// The lease is another's; nothing may be asked any more.
    Void,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    lease: String,
    old: Option<OldLease>,
    values_prefix: String,
    phase: Phase,
    welcome: Option<Welcome>,
    fence: Fence,
    awaited: VecDeque<(RequestId, Awaited)>,
    /// Spawns that the kernel could not decide yet.
    postponed: Vec<(Ticket, Box<Spawn>)>,
    events: VecDeque<LinkEvent>,
    goodbye: Option<String>,
    gives_back: bool,
}

impl Session {
    pub(super) fn new(
        client: &str,
        lease: &str,
        values_prefix: &str,
        old: Option<OldLease>,
    ) -> Result<Self, CodecError> {
        Ok(Self {
            connection: Connection::new(client, 0)?,
            lease: lease.to_owned(),
            old,
            values_prefix: values_prefix.to_owned(),
            phase: Phase::Opening,
            welcome: None,
            fence: Fence::NONE,
            awaited: VecDeque::new(),
            postponed: Vec::new(),
            events: VecDeque::new(),
            goodbye: None,
            gives_back: false,
        })
    }

    /// Whether the old lease was found to be still ours and is about to be given back: told once.
    /// Should the connection break now, its number being void says nothing about other managers.
    pub(super) fn take_gives_back(&mut self) -> bool {
        std::mem::take(&mut self.gives_back)
    }

    /// Whether the engine has been given its facts and may ask for things.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Why the kernel closes the session, if it said so.
    pub(super) fn goodbye(&self) -> Option<&str> {
        self.goodbye.as_deref()
    }

    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        self.connection.take_outgoing()
    }

    pub(super) fn has_outgoing(&self) -> bool {
        self.connection.has_outgoing()
    }

    pub(super) fn space(&mut self) -> &mut [u8] {
        self.connection.space()
    }

    /// So many bytes were read into [`Self::space`].
    pub(super) fn handle_read(&mut self, count: usize) -> Result<(), ConnectionError> {
        self.connection.advance(count);
        loop {
            // What is kept must not borrow the decoder.
            let (request, result) = match self.connection.poll_incoming()? {
                None => return Ok(()),
                Some(Incoming::Output(output)) => {
                    let records = output.records();
                    let records = records.map(|it| (it.header.sequence, it.data.to_vec()));
                    self.events.push_back(LinkEvent::Output {
                        process: ProcessId(output.process.0),
                        records: records.collect(),
                        credit_bytes: output.credit_bytes() as u64,
                    });
                    continue;
                }
                Some(Incoming::Welcome(welcome)) => {
                    self.handle_welcome(welcome);
                    continue;
                }
                Some(Incoming::Event(event)) => {
                    self.handle_event(event);
                    continue;
                }
                Some(Incoming::Reply { request, result }) => (request, result),
            };
            self.handle_reply(request, result);
        }
    }

    /// The next thing that happened.
    pub(super) fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn ask(&mut self, request: impl Into<Request>, awaited: Awaited) {
        if matches!(self.phase, Phase::Void) {
            return;
        }
        match self.connection.send(&request.into()) {
            Ok(id) => self.awaited.push_back((id, awaited)),
            // Only what came from a configuration can be too long.
            Err(error) => {
                let error = ErrorReply::new(ErrorCode::INVALID, error.to_string());
                self.handle_refusal(awaited, error);
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.events.push_back(LinkEvent::Input(input));
    }

    fn log(&mut self, level: Level, text: String) {
        self.events.push_back(LinkEvent::Log(level, text));
    }

    fn handle_welcome(&mut self, welcome: Welcome) {
        // Numbers of another state mean nothing in this one.
        let old = self.old.filter(|old| old.instance == welcome.instance);
        self.welcome = Some(welcome);
        let (resume, awaited) = match old {
            Some(old) => (old.fence, Awaited::Resume),
            None => (Fence::NONE, Awaited::Take),
        };
        self.take_lease(resume, awaited);
    }

    fn take_lease(&mut self, resume: Fence, awaited: Awaited) {
        let request = TakeLease {
            name: self.lease.clone(),
            resume,
            // The session that lost its connection may not have been noticed yet; with a number
            // to resume it can only be our own.
            take_over: resume != Fence::NONE,
        };
        self.ask(request, awaited);
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::LeaseLost(lost) => {
                if lost.lease == self.fence {
                    self.lose_lease();
                }
                return;
            }
            Event::Goodbye(goodbye) => {
                self.goodbye = Some(goodbye.reason);
                return;
            }
            _ => {}
        }
        match &mut self.phase {
            Phase::Surveying(survey) => survey.handle_event(event),
            Phase::Open => {
                // Starts of ours are told by the answers; other people's are not our business.
                if let Event::ProcessEnded(ended) = event {
                    let end = translate::process_end(&ended.end, Clocks::read());
                    self.input(Input::ProcessEnded {
                        process: ProcessId(ended.process.0),
                        end,
                    });
                } else if let Event::StreamEnded(ended) = event {
                    self.events.push_back(LinkEvent::OutputEnded {
                        process: ProcessId(ended.process.0),
                        next: ended.next,
                    });
                }
            }
            Phase::Opening | Phase::Void => {}
        }
    }

    fn lose_lease(&mut self) {
        if !matches!(self.phase, Phase::Void) {
            self.phase = Phase::Void;
            self.input(Input::LeaseLost);
        }
    }

    fn handle_reply(&mut self, id: RequestId, result: Result<Reply, ErrorReply>) {
        // Answers come in order, so it is the first; nothing here depends on that.
        let place = self.awaited.iter().position(|(awaited, _)| *awaited == id);
        let Some((_, awaited)) = place.and_then(|place| self.awaited.remove(place)) else {
            let text = format!("the kernel answered request {id}, which was not asked; ignored");
            return self.log(Level::Warning, text);
        };
        match result {
            Ok(reply) => self.handle_answer(awaited, reply),
            Err(error) => self.handle_refusal(awaited, error),
        }
    }

    fn handle_answer(&mut self, awaited: Awaited, reply: Reply) {
        match (awaited, reply) {
            (Awaited::Resume, Reply::LeaseTaken(taken)) => {
                self.gives_back = true;
                self.connection.set_fence(taken.fence);
                self.ask(ReleaseLease { lease: taken.fence }, Awaited::Release);
                self.connection.set_fence(Fence::NONE);
            }
            // Only now: asked for before it is given back, the old number would be given again.
            (Awaited::Release, _) => self.take_lease(Fence::NONE, Awaited::Take),
            (Awaited::Take, Reply::LeaseTaken(taken)) => {
                self.fence = taken.fence;
                self.connection.set_fence(taken.fence);
                self.phase = Phase::Surveying(Box::new(Survey::new(&self.values_prefix)));
                self.ask(Subscribe {}, Awaited::Subscribe);
                self.next_page();
            }
            (Awaited::Leases, Reply::Leases(page)) => {
                match page
                    .items
                    .iter()
                    .find(|lease| lease.name == self.lease)
                    .cloned()
                {
                    Some(lease) => {
                        let after = lease.session.saturating_sub(1);
                        let request = ListSessions { after, limit: 1 };
                        self.ask(request, Awaited::HolderSession(lease));
                    }
                    None => match page.items.last().filter(|_| page.more) {
                        Some(last) => {
                            let after = last.name.clone();
                            self.ask(
                                ListLeases {
                                    after,
                                    limit: u32::MAX,
                                },
                                Awaited::Leases,
                            );
                        }
                        // Given back in the meantime.
                        None => self.take_lease(Fence::NONE, Awaited::Take),
                    },
                }
            }
            (Awaited::HolderSession(lease), Reply::Sessions(page)) => {
                let session = page
                    .items
                    .iter()
                    .find(|session| session.session == lease.session);
                let holder = Holder {
                    client: lease.client,
                    pid: session.map_or(0, |session| session.pid),
                };
                self.phase = Phase::Void;
                self.events.push_back(LinkEvent::Refused(holder));
            }
            (Awaited::Page, reply) => self.handle_page(reply),
            (Awaited::Spawn { ticket, .. }, Reply::Spawned(spawned)) => {
                let clocks = Clocks::read();
                let (info, existed) = (spawned.process, spawned.existed);
                let process = ProcessId(info.process.0);
                let (pid, started) = (translate::pid(info.pid), translate::started(&info, clocks));
                self.input(Input::Spawned {
                    ticket,
                    process,
                    pid,
                    started,
                });
                // One that an earlier connection had started may have ended unheard.
                if let Some(end) = info.end.filter(|_| existed) {
                    let end = translate::process_end(&end, clocks);
                    self.input(Input::ProcessEnded { process, end });
                }
            }
            (Awaited::SetValue { write }, Reply::Done(_)) => {
                self.input(Input::ValueStored { write });
            }
            (Awaited::MakeSocket { socket }, Reply::SocketMade(_)) => {
                self.input(Input::SocketReady { socket });
            }
            (
                Awaited::Subscribe
                | Awaited::Signal { .. }
                | Awaited::End { .. }
                | Awaited::CloseSocket { .. }
                | Awaited::Quiet(_),
                _,
            ) => {}
            (awaited, reply) => {
                let text = format!(
                    "the kernel answered {} where that makes no sense",
                    reply.name()
                );
                self.handle_refusal(awaited, ErrorReply::new(ErrorCode::MALFORMED, text));
            }
        }
    }

    fn handle_refusal(&mut self, awaited: Awaited, error: ErrorReply) {
        let resuming = matches!(awaited, Awaited::Resume);
        if error.code == ErrorCode::FENCED && !matches!(awaited, Awaited::Release) {
            return self.lose_lease();
        }
        match awaited {
            // Nobody has it, the kernel only forgot the number.
            Awaited::Resume if error.code == ErrorCode::NOT_FOUND => {
                self.take_lease(Fence::NONE, Awaited::Take);
            }
            Awaited::Resume | Awaited::Take if error.code == ErrorCode::LEASE_HELD => {
                if resuming {
                    self.lose_lease();
                } else {
                    let request = ListLeases {
                        after: String::new(),
                        limit: u32::MAX,
                    };
                    self.ask(request, Awaited::Leases);
                }
            }
            // Somebody was quicker, or nobody is left to give it back to; taking it will tell.
            Awaited::Release => self.take_lease(Fence::NONE, Awaited::Take),
            Awaited::Resume
            | Awaited::Take
            | Awaited::Leases
            | Awaited::HolderSession(_)
            | Awaited::Subscribe
            | Awaited::Page => {
                // Without these there is no session; the link starts anew.
                self.events.push_back(LinkEvent::Broken(error.to_string()));
            }
            Awaited::Spawn { ticket, request } if error.code == ErrorCode::PENDING => {
                self.postponed.push((ticket, request));
            }
            Awaited::Spawn { ticket, .. } => {
                let failure = translate::spawn_failure(error);
                self.input(Input::SpawnFailed { ticket, failure });
            }
            Awaited::Signal { process, signal } => {
                if !matches!(error.code, ErrorCode::ENDED | ErrorCode::NOT_FOUND) {
                    let error = format!("process {process}: signal {}: {error}", signal.0);
                    self.input(Input::ActionFailed { error });
                }
            }
            Awaited::SetValue { write } => {
                self.input(Input::ValueRefused {
                    write,
                    error: error.message,
                });
            }
            Awaited::End { process } => {
                let error = format!("process {process}: its end is not acknowledged: {error}");
                self.input(Input::ActionFailed { error });
            }
            Awaited::MakeSocket { socket } => {
                self.input(Input::SocketFailed {
                    socket,
                    error: error.message,
                });
            }
            // A process that is gone by now is no reason for a word.
            Awaited::Quiet(what) => {
                if error.code != ErrorCode::NOT_FOUND {
                    self.log(Level::Warning, format!("{what}: {error}"));
                }
            }
            Awaited::CloseSocket { name } => {
                if error.code != ErrorCode::NOT_FOUND {
                    let error = format!("socket {name:?} is not closed: {error}");
                    self.input(Input::ActionFailed { error });
                }
            }
        }
    }

    fn handle_page(&mut self, reply: Reply) {
        let Phase::Surveying(survey) = &mut self.phase else {
            return;
        };
        let name = reply.name();
        if survey.handle_page(reply) {
            self.next_page();
        } else {
            let text = format!("the kernel answered {name} to a listing");
            self.events.push_back(LinkEvent::Broken(text));
        }
    }

    fn next_page(&mut self) {
        let Phase::Surveying(survey) = &mut self.phase else {
            return;
        };
        if let Some(request) = survey.poll_request() {
            return self.ask(request, Awaited::Page);
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Open);
        let (Phase::Surveying(survey), Some(welcome)) = (phase, self.welcome.clone()) else {
            return;
        };
        for key in &survey.unreadable {
            let text = format!("value {key:?} in the kernel is no text and is passed over");
            self.events.push_back(LinkEvent::Log(Level::Warning, text));
        }
        let generation = welcome.generation;
        self.events.push_back(LinkEvent::Opened {
            welcome,
            fence: self.fence,
        });
        let facts = survey.into_facts(self.fence, generation, Clocks::read());
        self.input(Input::KernelConnected(facts));
    }
}

/// What the engine may ask for once the session is open; before that it is dropped.
impl Session {
    fn act(&mut self, request: impl Into<Request>, awaited: Awaited) {
        if self.is_open() {
            self.ask(request, awaited);
        }
    }

    pub(super) fn spawn(&mut self, ticket: Ticket, key: String, spec: ProcessSpec) {
        let request = Spawn { key, spec };
        // Kept until it is decided: a request that is asked again must be the same.
        let kept = Box::new(request.clone());
        self.act(
            request,
            Awaited::Spawn {
                ticket,
                request: kept,
            },
        );
    }

    /// Whether [`Self::ask_again`] has something to do, some time later.
    pub(super) fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Repeats the spawns that were not decided.
    pub(super) fn ask_again(&mut self) {
        for (ticket, request) in std::mem::take(&mut self.postponed) {
            self.act((*request).clone(), Awaited::Spawn { ticket, request });
        }
    }

    pub(super) fn fail_spawn(&mut self, ticket: Ticket, failure: SpawnFailure) {
        if self.is_open() {
            self.input(Input::SpawnFailed { ticket, failure });
        }
    }

    pub(super) fn fail_socket(&mut self, socket: String, error: String) {
        if self.is_open() {
            self.input(Input::SocketFailed { socket, error });
        }
    }

    pub(super) fn signal(&mut self, process: ProcessId, signal: SignalNumber, to: SignalTarget) {
        let request = Signal {
            process: kingpole_protocol::ProcessId(process.0),
            signal: signal.0,
            target: translate::target(to),
        };
        self.act(request, Awaited::Signal { process, signal });
    }

    pub(super) fn set_value(&mut self, write: WriteId, key: String, value: Option<String>) {
        let values = vec![ValueChange {
            key,
            value: value.map(Into::into),
        }];
        self.act(
            Commit {
                values,
                ..Commit::default()
            },
            Awaited::SetValue { write },
        );
    }

    pub(super) fn acknowledge_end(&mut self, process: ProcessId) {
        let ends = vec![kingpole_protocol::ProcessId(process.0)];
        self.act(
            Commit {
                ends,
                ..Commit::default()
            },
            Awaited::End { process },
        );
    }

    pub(super) fn follow(&mut self, process: ProcessId, credit_bytes: u64) {
        let process = kingpole_protocol::ProcessId(process.0);
        let from = Sequence(0);
        let request = Follow {
            process,
            from,
            credit_bytes,
        };
        self.act(request, Awaited::Quiet("output is not followed"));
    }

    pub(super) fn grant(&mut self, process: ProcessId, credit_bytes: u64) {
        if self.is_open() {
            let process = kingpole_protocol::ProcessId(process.0);
            let grant = Grant {
                process,
                credit_bytes,
            };
            // Not answered, and far too short to be refused.
            let _ = self.connection.send(&grant.into());
        }
    }

    pub(super) fn acknowledge_output(&mut self, process: ProcessId, through: Sequence) {
        let outputs = vec![OutputAcknowledgement {
            process: kingpole_protocol::ProcessId(process.0),
            through,
        }];
        self.act(
            Commit {
                outputs,
                ..Commit::default()
            },
            Awaited::Quiet("output is not acknowledged"),
        );
    }

    pub(super) fn make_quietly(&mut self, spec: SocketSpec) {
        self.act(
            MakeSocket { spec },
            Awaited::Quiet("the socket for notifications of processes is not made"),
        );
    }

    pub(super) fn make_socket(&mut self, socket: String, spec: SocketSpec) {
        self.act(MakeSocket { spec }, Awaited::MakeSocket { socket });
    }

    pub(super) fn close_socket(&mut self, name: String) {
        self.act(
            CloseSocket { name: name.clone() },
            Awaited::CloseSocket { name },
        );
    }
}

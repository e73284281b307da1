//! A manager: starts children, writes what it is sent into a log that outlives it, and acknowledges
//! together with a value that says how far. It comes and goes; its log stays.

mod book;
pub(super) mod in_place;

use self::in_place::InPlace;
use super::oracle::may_drop;
use super::world::World;
use crate::event_loop::connections::Connection as Server;
use crate::input::Input;
use crate::state::{Peer, SessionId};
use crate::sys::simulated;
use kingpole_protocol::client::connection::{Connection, Incoming};
use kingpole_protocol::client::{Descriptors, receive_with_descriptors};
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::{Fence, ProcessId, Sequence};
use kingpole_protocol::record::Stream;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    Commit, Grant, ListProcesses, Remove, Request, Signal, SignalTarget, Subscribe, TakeLease,
    ValueChange,
};
use kingpole_protocol::spec::{OutputSpec, Overflow, ProcessSpec};
use kingpole_protocol::status::{End, ProcessInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

const CREDIT_BYTES: u64 = 100_000;
const LEASE: &str = "manager";

type Values = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub(super) struct Manager {
    session: Option<Session>,
    /// Its log file.
    log: BTreeMap<ProcessId, Logged>,
    /// Asked for, and not known to be started.
    wanted: BTreeMap<String, ProcessSpec>,
    /// Started, as it was told, and not given up.
    started: BTreeMap<String, ProcessId>,
    /// Given up, or about to be.
    parted: BTreeSet<ProcessId>,
    /// Those whose output was given up, too.
    removed: BTreeSet<ProcessId>,
    gone: BTreeSet<ProcessId>,
    /// What the kernel has said is stored.
    values: Values,
    /// Commits without an answer: the first few of them may have happened.
    pending: Vec<(u64, Vec<ValueChange>)>,
    newest_fence: Fence,
    pub(super) asks_no_more: bool,
}

#[derive(Debug)]
struct Session {
    socket: UnixStream,
    connection: Connection,
    unsent: Vec<u8>,
    asked: BTreeMap<u64, Asked>,
    follows: BTreeSet<ProcessId>,
    has_lease: bool,
    descriptors: Descriptors,
    in_place: InPlace,
}

#[derive(Debug, Clone)]
enum Asked {
    Lease,
    List,
    Spawn(String),
    Commit,
    Stale,
    /// Output of this process, to be read in place.
    InPlace(ProcessId),
    Other,
}

/// What the log says of a process.
#[derive(Debug, Clone)]
struct Logged {
    next: Sequence,
    /// How far each stream was written, or told to be missing.
    offsets: [u64; 2],
    missing: u64,
    ended: [bool; 2],
    acknowledged: Sequence,
    end: Option<End>,
}

impl Logged {
    fn new() -> Self {
        Self {
            next: Sequence(1),
            offsets: [0; 2],
            missing: 0,
            ended: [false; 2],
            acknowledged: Sequence(0),
            end: None,
        }
    }
}

fn key_of(id: ProcessId) -> String {
    format!("position/{id}")
}

fn apply(values: &mut Values, changes: &[ValueChange]) {
    for ValueChange { key, value } in changes {
        match value {
            Some(value) => values.insert(key.clone(), value.0.clone()),
            None => values.remove(key),
        };
    }
}

fn is_ours(info: &ProcessInfo) -> bool {
    info.name.starts_with('f')
}

impl World {
    /// A connection to the kernel, let in.
    pub(super) fn connect(&mut self) -> Option<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.let_kernel(|kernel| {
            let session = SessionId(kernel.state.newest_session.0 + 1);
            let server = Server::new(theirs.into(), session, &kernel.polled.borrow()).unwrap();
            kernel.connections.insert(session, server);
            let peer = Peer {
                address: Peer::UNIX.to_owned(),
                uid: 0,
                pid: 1,
            };
            kernel.drive(Input::Connected { session, peer });
        });
        self.kernel.as_ref().map(|_| ours)
    }

    pub(super) fn manager_moves(&mut self) {
        if self.manager.session.is_none() {
            return self.manager_connects();
        }
        match self.random.below(16) {
            0..=2 => self.manager_spawns(),
            3..=5 => self.manager_commits(),
            6 => self.manager_signals(),
            7 => self.manager_is_stale(),
            8 if self.random.one_in(2) => {
                self.note("the manager is gone");
                self.manager.session = None;
            }
            9 if self.random.one_in(3) => self.manager_removes(),
            _ => {}
        }
        self.manager_exchanges();
    }

    /// What is left to do in the end.
    pub(super) fn manager_works(&mut self) {
        if self.manager.session.is_none() {
            self.manager_connects();
        }
        self.manager.ask_for_wanted();
        self.manager_commits();
        self.manager_exchanges();
    }

    fn manager_connects(&mut self) {
        let Some(socket) = self.connect() else { return };
        self.note("a manager connects");
        let mut session = Session {
            socket,
            connection: Connection::new("simulated/1", 0).unwrap(),
            unsent: Vec::new(),
            asked: BTreeMap::new(),
            follows: BTreeSet::new(),
            has_lease: false,
            descriptors: Descriptors::new(),
            in_place: InPlace::default(),
        };
        let lease = TakeLease {
            name: LEASE.to_owned(),
            resume: Fence::NONE,
            take_over: true,
        };
        session.ask(lease, Asked::Lease);
        self.manager.session = Some(session);
        self.manager_exchanges();
    }

    pub(super) fn manager_spawns(&mut self) {
        if self.manager.asks_no_more || self.manager.started.len() >= 6 {
            return;
        }
        self.keys += 1;
        let number = self.keys;
        let spec = ProcessSpec {
            name: format!("f{number}"),
            arguments: vec!["/bin/simulated".into()],
            buffer_bytes: self.random.pick(&[3000, 3000, 20_000, 2 << 20]).unwrap(),
            overflow: match self.random.one_in(2) {
                true => Overflow::Block,
                false => Overflow::DropOldest,
            },
            stderr: match self.random.one_in(4) {
                true => OutputSpec::Null,
                false => OutputSpec::Capture,
            },
            labels: BTreeMap::from([("worker".to_owned(), number.to_string())]),
            ..ProcessSpec::default()
        };
        let key = format!("key{number}");
        if self.random.one_in(5) {
            simulated::with(|linux| linux.next_child.fails = true);
        }
        self.manager.wanted.insert(key, spec);
        self.manager.ask_for_wanted();
    }

    fn manager_commits(&mut self) {
        let padding = match self.random.one_in(4) {
            true => 50_000,
            false => 10,
        };
        self.manager.commit(padding);
    }

    fn manager_signals(&mut self) {
        let ids = self.manager.started.values().copied().collect::<Vec<_>>();
        if let (Some(process), Some(session)) = (self.random.pick(&ids), &mut self.manager.session)
        {
            let signal = Signal {
                process,
                signal: 15,
                target: SignalTarget::Process,
            };
            session.ask_with_lease(signal, Asked::Other);
        }
    }

    fn manager_removes(&mut self) {
        let ids = self.manager.started.values().copied().collect::<Vec<_>>();
        if let (Some(process), Some(session)) = (self.random.pick(&ids), &mut self.manager.session)
            && session.has_lease
        {
            session.ask_with_lease(Remove { process }, Asked::Other);
            self.manager.part_with(process);
            self.manager.removed.insert(process);
            self.note(format!("process {process} is removed"));
        }
    }

    /// A request of an earlier manager arrives after all.
    fn manager_is_stale(&mut self) {
        let newest = self.manager.newest_fence;
        if let (Some(session), true) = (&mut self.manager.session, newest.0 > 1) {
            let fence = session.connection.fence();
            session.connection.set_fence(Fence(newest.0 - 1));
            let values = vec![ValueChange {
                key: "stale".to_owned(),
                value: Some(b"must not be there".to_vec().into()),
            }];
            let commit = Commit {
                values,
                ..Commit::default()
            };
            session.ask_with_lease(commit, Asked::Stale);
            session.connection.set_fence(fence);
        }
    }

    /// Sends and receives what there is.
    fn manager_exchanges(&mut self) {
        let Some(mut session) = self.manager.session.take() else {
            return;
        };
        if let Some(output) = session.in_place.take_put_off() {
            if self.random.one_in(2) && !self.manager.asks_no_more {
                session.in_place.put_off(output);
                self.manager.session = Some(session);
                return;
            }
            self.manager.copy(&mut session, &output);
            if session.in_place.is_over() {
                return self
                    .note("the manager has lost the kernel, with output that was announced");
            }
        }
        session.unsent.extend(session.connection.take_outgoing());
        match session.socket.write(&session.unsent) {
            Ok(count) => drop(session.unsent.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return self.note("the manager has lost the kernel"),
        }
        let mut bytes = vec![0; 200_000];
        let received =
            receive_with_descriptors(&session.socket, &mut bytes, &mut session.descriptors);
        match received {
            Ok(0) => return self.note("the manager has lost the kernel"),
            Ok(count) => session.connection.handle_bytes(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return self.note("the manager has lost the kernel"),
        }
        loop {
            let Session {
                connection,
                in_place,
                ..
            } = &mut session;
            match connection.poll_incoming() {
                Ok(Some(Incoming::Welcome(_))) => {}
                Ok(Some(Incoming::Output(frame))) if in_place.passes_over(frame.process) => {}
                Ok(Some(Incoming::Output(frame))) => {
                    let credit = self.manager.handle_output(&frame);
                    let grant = Grant {
                        process: frame.process,
                        credit_bytes: credit,
                    };
                    connection.send(&grant.into()).unwrap();
                }
                // What was announced may be gone when it is looked for.
                Ok(Some(Incoming::Event(Event::MappedOutput(output)))) if self.random.one_in(3) => {
                    in_place.put_off(output);
                    break;
                }
                Ok(Some(Incoming::Event(event))) => {
                    if let Some(event) = self.manager.read_in_place(&mut session, event) {
                        self.handle_event(event);
                    }
                    if session.in_place.is_over() {
                        return self.note("the manager has lost the kernel");
                    }
                }
                Ok(Some(Incoming::Reply { request, result })) => {
                    let asked = session.asked.remove(&request.0);
                    let asked = asked.unwrap_or_else(|| panic!("nobody asked: {result:?}"));
                    self.handle_reply(&mut session, request.0, asked, result);
                }
                Ok(None) => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.manager.session = Some(session);
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::ProcessStarted(_) | Event::LeaseLost(_) => {}
            Event::ProcessEnded(ended) => self.manager.learn_end(ended.process, &ended.end),
            Event::ProcessRemoved(removed) => self.manager.forget(removed.process),
            Event::Gap(gap) => {
                let id = gap.process;
                let logged = self.manager.log.get_mut(&id).unwrap();
                assert_eq!(gap.from, logged.next, "process {id}: a gap elsewhere");
                logged.missing += gap.to.0 - gap.from.0;
                logged.next = gap.to;
                logged.offsets = [gap.stdout_offset, gap.stderr_offset];
                let process = self.kernel.as_ref().and_then(|running| {
                    let process = running.kernel.state.processes.get(&id)?;
                    let ledger = simulated::with(|linux| linux.ledger[&id].clone())?;
                    Some(may_drop(&ledger, process))
                });
                assert!(
                    process != Some(false) || self.manager.removed.contains(&id),
                    "process {id}: a needless gap: {gap:?}"
                );
            }
            Event::StreamEnded(ended) => {
                let index = usize::from(ended.stream == Stream::Stderr);
                let logged = self.manager.log.get_mut(&ended.process).unwrap();
                assert_eq!(
                    logged.offsets[index], ended.bytes,
                    "process {}",
                    ended.process
                );
                logged.ended[index] = true;
            }
            Event::RingPassed(_) | Event::MappedOutput(_) => panic!("not asked for: {event:?}"),
            Event::Goodbye(goodbye) => panic!("{goodbye:?}"),
        }
    }

    fn handle_reply(
        &mut self,
        session: &mut Session,
        request: u64,
        asked: Asked,
        result: Result<Reply, ErrorReply>,
    ) {
        match (asked, result) {
            (Asked::Lease, Ok(Reply::LeaseTaken(taken))) => {
                let newest = self.manager.newest_fence;
                assert!(taken.fence > newest, "{taken:?} after {newest:?}");
                self.manager.newest_fence = taken.fence;
                session.connection.set_fence(taken.fence);
                session.has_lease = true;
                let Some(running) = &self.kernel else { return };
                // What was sent before is done by now or refused.
                self.manager.settle_values(&running.kernel);
                for logged in self.manager.log.values_mut() {
                    logged.acknowledged = Sequence(0);
                }
                session.ask(Subscribe {}, Asked::Other);
                let list = ListProcesses {
                    after: ProcessId(0),
                    limit: 1000,
                };
                session.ask(list, Asked::List);
                self.manager.ask_for_wanted_of(session);
            }
            (Asked::List, Ok(Reply::Processes(page))) => {
                for info in page.items.iter().filter(|info| is_ours(info)) {
                    self.manager.take(session, info);
                }
            }
            (Asked::Spawn(key), Ok(Reply::Spawned(spawned))) => {
                let info = spawned.process;
                assert_eq!(info.key, key);
                self.manager.wanted.remove(&key);
                if self.manager.parted.contains(&info.process) {
                    // The listing told of it before, and it has been dealt with since.
                    return;
                }
                let before = self.manager.started.insert(key, info.process);
                assert!(
                    before.is_none_or(|before| before == info.process),
                    "{before:?} is {} now",
                    info.process
                );
                self.manager.take(session, &info);
            }
            (Asked::Spawn(key), Err(error)) => {
                if error.code != ErrorCode::PENDING {
                    self.manager.wanted.remove(&key);
                    self.note(format!("{key} is not started: {}", error.message));
                }
            }
            (Asked::Commit, Ok(_)) => {
                let place = self.manager.pending.iter().position(|one| one.0 == request);
                let (_, changes) = self.manager.pending.remove(place.unwrap());
                apply(&mut self.manager.values, &changes);
            }
            (Asked::Stale, result) => {
                let error = result.expect_err("it has an old number");
                assert_eq!(error.code, ErrorCode::FENCED, "{error:?}");
            }
            (Asked::InPlace(process), result) => {
                self.manager.follows_in_place(session, process, result);
            }
            (Asked::Other, _) => {}
            (asked, result) => panic!("{asked:?}: {result:?}"),
        }
    }
}

impl Session {
    fn ask(&mut self, request: impl Into<Request>, asked: Asked) -> u64 {
        let id = self.connection.send(&request.into()).unwrap().0;
        if id != 0 {
            self.asked.insert(id, asked);
        }
        id
    }

    fn ask_with_lease(&mut self, request: impl Into<Request>, asked: Asked) -> Option<u64> {
        self.has_lease.then(|| self.ask(request, asked))
    }
}

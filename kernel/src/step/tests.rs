//! The decision core against a simulated world: random requests, children, losses and refusals.

mod text;

use super::step;
use crate::effect::{Effect, Question};
use crate::input::{
    Answer, Input, LineRead, Now, OutputPosition, ReadOutcome, Room, Started, Termination,
};
use crate::memory::SlotIndex;
use crate::memory::cursor::{EofBits, RingCursor, Sequence, Stream};
use crate::memory::ring::{Gap, ReadMark};
use crate::state::text::LineEnd;
use crate::state::{About, Peer, Phase, SessionId, State};
use crate::text::users::UserDatabase;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::Event;
use kingpole_protocol::hello::Hello;
use kingpole_protocol::ids::{Fence, ProcessId};
use kingpole_protocol::reply::{Reply, SocketPassed};
use kingpole_protocol::request::*;
use kingpole_protocol::spec::{ProcessSpec, SocketAddress, SocketSpec};
use kingpole_protocol::status::{End, EndStatus, SocketInfo};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Every record of the simulated rings takes this much.
const SPAN: u64 = 64;
/// So many records fit.
const RECORDS_MAX: usize = 4;

/// What a session was told.
#[derive(Debug, Default)]
struct Heard {
    replies: Vec<(u64, Reply)>,
    events: Vec<Event>,
    text: String,
    /// Next record expected of each followed process.
    next: BTreeMap<ProcessId, u64>,
    closed: bool,
}

#[derive(Debug)]
struct Ring {
    cursor: RingCursor,
    oldest: u64,
}

/// Stands in for Linux: carries effects out and checks what a world can check.
struct World {
    state: State,
    clock: u64,
    rings: BTreeMap<ProcessId, Ring>,
    heard: BTreeMap<SessionId, Heard>,
    congested: BTreeSet<SessionId>,
    next_process: u64,
    /// Spawns and journal writes fail while this is set.
    fails: bool,
    exits: bool,
    effects: u64,
    /// A child has written and the kernel has not read it yet.
    written: bool,
    /// What may be released, told by whoever watches over it.
    releasable: Option<BTreeMap<ProcessId, u64>>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(About {
                descriptors_limit: 1 << 20,
                ..About::default()
            }),
            clock: 0,
            rings: BTreeMap::new(),
            heard: BTreeMap::new(),
            congested: BTreeSet::new(),
            next_process: 1,
            fails: false,
            exits: false,
            effects: 0,
            written: false,
            releasable: None,
        }
    }

    fn input(&mut self, input: Input) {
        self.written = matches!(input, Input::Readable { .. });
        let mut inbox = VecDeque::from([input]);
        while let Some(input) = inbox.pop_front() {
            let mut effects = Vec::new();
            self.clock += 1_000_000;
            let now = Now {
                unix_ns: self.clock,
                monotonic_ns: self.clock,
            };
            step(&mut self.state, now, input, &mut effects);
            for effect in effects {
                self.effects += 1;
                inbox.extend(self.carry_out(effect));
            }
            check(&self.state);
        }
    }

    fn refused(&self) -> Box<ErrorReply> {
        Box::new(ErrorReply::new(ErrorCode::SYSTEM, "the world refuses"))
    }

    fn position(&self, process: ProcessId) -> Option<OutputPosition> {
        let ring = self.rings.get(&process)?;
        Some(OutputPosition {
            cursor: ring.cursor,
            oldest: Sequence(ring.oldest),
        })
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Reply { asker, reply } => {
                let heard = self
                    .heard
                    .get_mut(&asker.session)
                    .expect("answers to the living");
                heard.replies.push((asker.request.0, *reply));
                None
            }
            Effect::Event { session, event } => {
                let heard = self.heard.get_mut(&session).expect("events to the living");
                if let Event::Gap(gap) = &*event {
                    let next = heard.next.entry(gap.process).or_insert(gap.from.0);
                    assert_eq!(*next, gap.from.0, "a gap begins where the output stopped");
                    assert!(gap.to > gap.from);
                    *next = gap.to.0;
                }
                if let Event::StreamEnded(end) = &*event {
                    let next = heard.next.get(&end.process).copied();
                    assert_eq!(next.unwrap_or(end.next.0), end.next.0, "told too early");
                }
                heard.events.push(*event);
                None
            }
            Effect::Text { session, text } => {
                self.heard
                    .get_mut(&session)
                    .expect("text to the living")
                    .text += &String::from_utf8_lossy(&text);
                None
            }
            Effect::LookUp { session, question } => {
                let answer = match question {
                    Question::Users(draft) => Answer::Users {
                        draft,
                        database: Ok(UserDatabase {
                            passwd: "ann:x:1000:1000:::\n".into(),
                            group: "ann:x:1000:\n".into(),
                        }),
                    },
                    Question::Host(spec) => Answer::Host {
                        spec,
                        hosts: Err("the world has no names".into()),
                    },
                };
                Some(Input::LookedUp {
                    session,
                    answer: Box::new(answer),
                })
            }
            Effect::AskWhetherRead { session } => {
                let answer = match self.congested.contains(&session) {
                    true => LineRead::No,
                    false => LineRead::Yes,
                };
                Some(Input::LineRead { session, answer })
            }
            Effect::ReadTail {
                session, process, ..
            } => {
                let ring = self.rings.get(&process)?;
                let mark = ReadMark {
                    seq: ring.cursor.next_seq,
                    position: ring.cursor.head,
                };
                Some(Input::TailRead {
                    session,
                    bytes: b"tail\n".to_vec(),
                    mark,
                })
            }
            Effect::SendText {
                session,
                process,
                mark,
                ..
            } => self.send_text(session, process, mark),
            Effect::TellWhenDrained { session } => Some(Input::Drained { session }),
            Effect::Close { session } => {
                self.heard.get_mut(&session)?.closed = true;
                Some(Input::Disconnected { session })
            }
            Effect::Spawn(order) if self.fails => {
                let error = self.refused();
                Some(Input::SpawnFailed { order, error })
            }
            Effect::Spawn(order) => {
                let process = ProcessId(self.next_process);
                self.next_process += 1;
                let cursor = RingCursor::new(EofBits::NONE);
                self.rings.insert(process, Ring { cursor, oldest: 1 });
                let started = Started {
                    process,
                    slot: SlotIndex::new(process.0 % 1000).unwrap(),
                    pid: 1000 + process.0 as i32,
                    started_ns: self.clock,
                    output: self.position(process)?,
                    capacity_bytes: SPAN * RECORDS_MAX as u64,
                    recorded_bytes: 100,
                };
                Some(Input::Spawned { order, started })
            }
            Effect::Signal { asker, .. } => Some(Input::Signalled {
                asker,
                result: Ok(1),
            }),
            Effect::Measure { asker } => Some(Input::Measured {
                asker,
                resident_kib: 1,
                descriptors: 1,
            }),
            Effect::MakeSocket { asker, .. } if self.fails => {
                let result = Err(self.refused());
                Some(Input::SocketMade { asker, result })
            }
            Effect::MakeSocket { asker, spec } => {
                let number = self.state.newest_socket + 1;
                let info = SocketInfo {
                    spec: *spec,
                    fileno: Some(64 + number as i32),
                };
                Some(Input::SocketMade {
                    asker,
                    result: Ok((number, Box::new(info))),
                })
            }
            // Descriptors are the event loop's business.
            Effect::PassSocket { asker, socket } => self.carry_out(Effect::Reply {
                asker,
                reply: Box::new(Reply::from(SocketPassed {
                    socket: *socket,
                    reachable: true,
                })),
            }),
            Effect::Record { after, .. } => {
                let result = if self.fails {
                    Err(self.refused())
                } else {
                    Ok(())
                };
                Some(Input::Recorded { after, result })
            }
            Effect::Read {
                process, stream, ..
            } => {
                if std::mem::take(&mut self.written) {
                    return self.read(process, stream);
                }
                Some(Input::OutputRead {
                    process,
                    stream,
                    outcome: ReadOutcome::Nothing,
                })
            }
            Effect::Acknowledge { process, through } => {
                if let Some(releasable) = &self.releasable
                    && through.0 != u64::MAX
                {
                    let most = releasable.get(&process).copied().unwrap_or(0);
                    assert!(
                        through.0 <= most,
                        "{process}: {through} released, {most} allowed"
                    );
                }
                let ring = self.rings.get_mut(&process)?;
                while ring.cursor.tail < ring.cursor.head && ring.oldest <= through.0 {
                    ring.cursor.tail += SPAN;
                    ring.oldest += 1;
                }
                let output = self.position(process)?;
                Some(Input::Acknowledged { process, output })
            }
            Effect::AbandonOutput { process } => {
                let ring = self.rings.get_mut(&process)?;
                ring.cursor.tail = ring.cursor.head;
                ring.oldest = ring.cursor.next_seq.0;
                let output = self.position(process)?;
                Some(Input::Acknowledged { process, output })
            }
            Effect::Forget { process } => {
                assert!(self.rings.remove(&process).is_some(), "forgotten once");
                None
            }
            Effect::SendOutput {
                session,
                process,
                mark,
                credit,
            } => self.send_output(session, process, mark, credit),
            Effect::Exit => {
                self.exits = true;
                None
            }
            Effect::SwitchToFrames { .. }
            | Effect::TakeRequests { .. }
            | Effect::CloseSocket { .. }
            | Effect::SetFlags { .. }
            | Effect::PauseReading { .. }
            | Effect::ResumeReading { .. }
            | Effect::GiveBack { .. }
            | Effect::ResolveIntents
            | Effect::Upgrade { .. }
            | Effect::Log(_) => None,
        }
    }

    fn read(&mut self, process: ProcessId, stream: Stream) -> Option<Input> {
        let ring = self.rings.get_mut(&process)?;
        let mut dropped_records = 0;
        if ring.cursor.used() >= SPAN * RECORDS_MAX as u64 {
            ring.cursor.tail += SPAN;
            ring.oldest += 1;
            dropped_records = 1;
        }
        ring.cursor.head += SPAN;
        ring.cursor.next_seq = ring.cursor.next_seq.next();
        match stream {
            Stream::Stdout => ring.cursor.stdout_bytes += 10,
            Stream::Stderr => ring.cursor.stderr_bytes += 10,
        }
        let output = self.position(process)?;
        let outcome = ReadOutcome::Record {
            output,
            dropped_records,
            dropped_bytes: dropped_records * 10,
        };
        Some(Input::OutputRead {
            process,
            stream,
            outcome,
        })
    }

    fn end_stream(&mut self, process: ProcessId, stream: Stream) {
        if let Some(ring) = self.rings.get_mut(&process)
            && !ring.cursor.eof.has(stream)
        {
            ring.cursor = ring.cursor.after_eof(stream);
            let output = self.position(process).unwrap();
            let outcome = ReadOutcome::EndOfStream(output);
            self.input(Input::OutputRead {
                process,
                stream,
                outcome,
            });
        }
    }

    fn send_output(
        &mut self,
        session: SessionId,
        process: ProcessId,
        mark: ReadMark,
        credit: u64,
    ) -> Option<Input> {
        assert!(credit > 0, "nothing is sent on credit that is not there");
        if self.congested.contains(&session) {
            let room = Room::Congested;
            return Some(Input::OutputSent {
                session,
                process,
                mark,
                bytes: 0,
                room,
            });
        }
        let ring = self.rings.get(&process).expect("only what is held is sent");
        if mark.seq.0 < ring.oldest {
            let to = Sequence(ring.oldest);
            let gap = Gap {
                from: mark.seq,
                to,
                stdout_offset: 0,
                stderr_offset: 0,
            };
            let mark = ReadMark {
                seq: to,
                position: ring.cursor.tail,
            };
            return Some(Input::OutputGap {
                session,
                process,
                gap,
                mark,
            });
        }
        assert!(
            mark.seq < ring.cursor.next_seq,
            "there is something to send"
        );
        let heard = self.heard.get_mut(&session).expect("output to the living");
        let next = heard.next.entry(process).or_insert(mark.seq.0);
        assert_eq!(*next, mark.seq.0, "records come in order, each once");
        *next += 1;
        let mark = ReadMark {
            seq: mark.seq.next(),
            position: 0,
        };
        Some(Input::OutputSent {
            session,
            process,
            mark,
            bytes: SPAN,
            room: Room::Free,
        })
    }

    fn send_text(
        &mut self,
        session: SessionId,
        process: ProcessId,
        mark: ReadMark,
    ) -> Option<Input> {
        let ring = self.rings.get(&process).expect("only what is held is sent");
        if mark.seq.0 < ring.oldest {
            let to = Sequence(ring.oldest);
            let gap = Gap {
                from: mark.seq,
                to,
                stdout_offset: 0,
                stderr_offset: 0,
            };
            let mark = ReadMark {
                seq: to,
                position: ring.cursor.tail,
            };
            return Some(Input::OutputGap {
                session,
                process,
                gap,
                mark,
            });
        }
        let heard = self.heard.get_mut(&session).expect("output to the living");
        let line = format!("record:{}:{}\n", process.0, mark.seq.0);
        heard.text += &line;
        let room = match self.congested.contains(&session) {
            true => Room::Congested,
            false => Room::Free,
        };
        Some(Input::TextSent {
            session,
            process,
            mark: ReadMark {
                seq: mark.seq.next(),
                position: 0,
            },
            bytes: line.len() as u64,
            line: LineEnd::AtStart,
            room,
        })
    }

    fn connect(&mut self) -> SessionId {
        let session = SessionId(self.state.newest_session.0 + 1);
        self.heard.insert(session, Heard::default());
        let peer = Peer {
            address: "unix".into(),
            uid: 0,
            pid: 1,
        };
        self.input(Input::Connected { session, peer });
        session
    }

    /// A session that speaks frames.
    fn attach(&mut self) -> SessionId {
        let session = self.connect();
        self.input(Input::Line {
            session,
            line: b"attach 1".to_vec(),
        });
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            capabilities: 0,
            client: "test/1".into(),
        };
        let welcome = self.ask(session, hello);
        assert!(matches!(welcome, Some(Reply::Welcome(_))), "{welcome:?}");
        session
    }

    fn ask_under(
        &mut self,
        session: SessionId,
        fence: Fence,
        request: impl Into<Request>,
    ) -> Option<Reply> {
        let id = self.heard[&session].replies.len() as u64 + 1;
        self.input(Input::request(session, id, fence, request.into()));
        let (answered, reply) = self.heard[&session].replies.last()?;
        (*answered == id).then(|| reply.clone())
    }

    fn ask(&mut self, session: SessionId, request: impl Into<Request>) -> Option<Reply> {
        self.ask_under(session, Fence::NONE, request)
    }

    fn spawn(&mut self, session: SessionId, name: &str) -> ProcessId {
        match self.ask(
            session,
            Spawn {
                key: format!("{name}/key"),
                spec: spec(name),
            },
        ) {
            Some(Reply::Spawned(spawned)) => spawned.process.process,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, process: ProcessId) {
        self.input(Input::Readable {
            process,
            stream: Stream::Stdout,
        });
    }

    fn finish(&mut self, process: ProcessId) {
        for stream in Stream::ALL {
            self.end_stream(process, stream);
        }
        self.input(Input::Ended {
            process,
            end: end(),
        });
    }

    fn turns(&mut self) {
        for _ in 0..100 {
            if self.state.serving.is_empty() {
                return;
            }
            self.input(Input::TurnEnded);
        }
        panic!("serving never ends: {:?}", self.state.serving);
    }
}

fn spec(name: &str) -> ProcessSpec {
    ProcessSpec {
        name: name.into(),
        arguments: vec!["/bin/true".into()],
        ..Default::default()
    }
}

fn end() -> End {
    let status = EndStatus::Exited(0);
    End {
        status,
        time_ns: 1,
        user_us: 0,
        system_us: 0,
        max_rss_kib: 0,
    }
}

fn error_of(reply: Option<Reply>) -> ErrorCode {
    match reply {
        Some(Reply::ErrorReply(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

/// What holds between any two steps.
fn check(state: &State) {
    let running = state
        .processes
        .values()
        .filter(|process| process.end.is_none())
        .count();
    assert_eq!(state.running, running as u64);
    assert_eq!(state.keys.len(), state.processes.len());
    assert_eq!(state.names.len(), state.processes.len());
    let mut running_names = BTreeSet::new();
    for (id, process) in &state.processes {
        assert_eq!(state.keys.get(&process.key), Some(id));
        assert!(state.names.contains(&(process.name.clone(), *id)));
        assert!(
            process.end.is_some() || running_names.insert(&process.name),
            "names are unique"
        );
        for session in &process.followers {
            assert!(state.sessions[session].follows.contains_key(id));
        }
    }
    let recorded = state
        .processes
        .values()
        .map(|p| p.recorded_bytes)
        .sum::<u64>()
        + state
            .sockets
            .values()
            .map(|s| s.recorded_bytes)
            .sum::<u64>();
    assert_eq!(state.recorded_bytes, recorded);
    let values = state
        .values
        .iter()
        .map(|(k, v)| k.len() as u64 + v.len() as u64 + 64)
        .sum();
    assert_eq!(state.values_bytes, values);
    for (id, session) in &state.sessions {
        for process in session.follows.keys() {
            assert!(state.processes[process].followers.contains(id));
        }
        assert!(
            session
                .pending
                .iter()
                .all(|process| session.follows.contains_key(process))
        );
    }
    assert!(
        state
            .serving
            .iter()
            .all(|session| state.sessions.contains_key(session))
    );
    assert!(
        state
            .leases
            .values()
            .all(|lease| lease.fence <= state.newest_fence)
    );
}

#[test]
fn a_process_is_kept_until_end_and_output_are_acknowledged() {
    let mut world = World::new();
    let session = world.attach();
    let process = world.spawn(session, "a");
    world.write(process);
    world.finish(process);
    world.ask(
        session,
        Commit {
            ends: vec![process],
            ..Commit::default()
        },
    );
    assert!(
        world.state.processes.contains_key(&process),
        "its output is unread"
    );
    let through = Sequence(1);
    let outputs = vec![OutputAcknowledgement { process, through }];
    world.ask(
        session,
        Commit {
            outputs,
            ..Commit::default()
        },
    );
    assert!(world.state.processes.is_empty() && world.rings.is_empty());
}

#[test]
fn end_and_output_acknowledged_in_one_commit_forget_the_process() {
    let mut world = World::new();
    let session = world.attach();
    let process = world.spawn(session, "a");
    world.write(process);
    world.finish(process);
    let outputs = vec![OutputAcknowledgement {
        process,
        through: Sequence(1),
    }];
    let commit = Commit {
        outputs,
        ends: vec![process],
        values: Vec::new(),
    };
    assert!(matches!(world.ask(session, commit), Some(Reply::Done(_))));
    assert!(world.state.processes.is_empty());
}

#[test]
fn a_refused_commit_changes_nothing() {
    let mut world = World::new();
    let session = world.attach();
    let process = world.spawn(session, "a");
    world.write(process);
    let values = vec![ValueChange {
        key: "k".into(),
        value: Some("v".into()),
    }];
    let ahead = vec![OutputAcknowledgement {
        process,
        through: Sequence(2),
    }];
    let commit = Commit {
        values: values.clone(),
        outputs: ahead,
        ends: Vec::new(),
    };
    assert_eq!(error_of(world.ask(session, commit)), ErrorCode::INVALID);
    let early = Commit {
        values: values.clone(),
        ends: vec![process],
        outputs: Vec::new(),
    };
    assert_eq!(error_of(world.ask(session, early)), ErrorCode::INVALID);
    world.fails = true;
    let done = vec![OutputAcknowledgement {
        process,
        through: Sequence(1),
    }];
    let commit = Commit {
        values,
        outputs: done,
        ends: Vec::new(),
    };
    assert_eq!(error_of(world.ask(session, commit)), ErrorCode::SYSTEM);
    assert!(world.state.values.is_empty());
    assert_eq!(world.rings[&process].oldest, 1);
}

#[test]
fn a_name_is_free_again_once_its_process_ended() {
    let mut world = World::new();
    let session = world.attach();
    let first = world.spawn(session, "a");
    let again = Spawn {
        key: "other".into(),
        spec: spec("a"),
    };
    assert_eq!(
        error_of(world.ask(session, again.clone())),
        ErrorCode::ALREADY_EXISTS
    );
    world.finish(first);
    assert!(matches!(world.ask(session, again), Some(Reply::Spawned(s)) if !s.existed));
    assert_eq!(world.state.process_named("a").unwrap().key, "other");
}

#[test]
fn a_repeated_key_finds_the_process_even_after_its_end() {
    let mut world = World::new();
    let session = world.attach();
    let first = world.spawn(session, "a");
    world.finish(first);
    let again = Spawn {
        key: "a/key".into(),
        spec: spec("a"),
    };
    match world.ask(session, again) {
        Some(Reply::Spawned(s)) => assert!(s.existed && s.process.process == first),
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_two_holders_only_the_newer_may_act() {
    let mut world = World::new();
    let (one, two) = (world.attach(), world.attach());
    let take = |take_over| TakeLease {
        name: "m".into(),
        resume: Fence::NONE,
        take_over,
    };
    let Some(Reply::LeaseTaken(first)) = world.ask(one, take(false)) else {
        panic!()
    };
    assert_eq!(error_of(world.ask(two, take(false))), ErrorCode::LEASE_HELD);
    let Some(Reply::LeaseTaken(second)) = world.ask(two, take(true)) else {
        panic!()
    };
    assert!(second.fence > first.fence);
    assert!(matches!(
        world.heard[&one].events[..],
        [Event::LeaseLost(_)]
    ));
    let spawn = Spawn {
        key: "k".into(),
        spec: spec("a"),
    };
    let reply = world.ask_under(one, first.fence, spawn.clone());
    assert_eq!(error_of(reply), ErrorCode::FENCED);
    assert!(matches!(
        world.ask_under(two, second.fence, spawn),
        Some(Reply::Spawned(_))
    ));
    // The holder comes back with its number; without it, whoever comes gets a new one.
    world.input(Input::Disconnected { session: two });
    let three = world.attach();
    let resume = TakeLease {
        name: "m".into(),
        resume: second.fence,
        take_over: false,
    };
    let Some(Reply::LeaseTaken(third)) = world.ask(three, resume.clone()) else {
        panic!()
    };
    assert_eq!(third.fence, second.fence);
    world.input(Input::Disconnected { session: three });
    let Some(Reply::LeaseTaken(fourth)) = world.ask(one, take(false)) else {
        panic!()
    };
    assert!(fourth.fence > third.fence);
    assert_eq!(error_of(world.ask(one, resume)), ErrorCode::FENCED);
}

#[test]
fn a_follower_that_fell_behind_gets_a_gap_and_goes_on() {
    let mut world = World::new();
    let session = world.attach();
    let process = world.spawn(session, "a");
    world.ask(
        session,
        Follow {
            process,
            from: Sequence(0),
            credit_bytes: 1,
        },
    );
    for _ in 0..10 {
        world.write(process);
    }
    world.turns();
    assert_eq!(
        world.heard[&session].next[&process], 8,
        "gap to 7, then one record on credit 1"
    );
    world.input(Input::request(
        session,
        0,
        Fence::NONE,
        Grant {
            process,
            credit_bytes: 1000,
        }
        .into(),
    ));
    world.finish(process);
    world.turns();
    let events = &world.heard[&session].events;
    assert!(matches!(
        events[..],
        [Event::Gap(_), Event::StreamEnded(_), Event::StreamEnded(_)]
    ));
    assert_eq!(world.heard[&session].next[&process], 11);
}

#[test]
fn a_follower_hears_how_it_ended_although_somebody_else_acknowledged() {
    let mut world = World::new();
    let (follower, other) = (world.attach(), world.attach());
    let process = world.spawn(other, "a");
    world.congested.insert(follower);
    world.ask(
        follower,
        Follow {
            process,
            from: Sequence(0),
            credit_bytes: 1000,
        },
    );
    world.write(process);
    world.finish(process);
    let outputs = vec![OutputAcknowledgement {
        process,
        through: Sequence(1),
    }];
    world.ask(
        other,
        Commit {
            outputs,
            ends: vec![process],
            values: Vec::new(),
        },
    );
    assert!(world.state.processes.is_empty());
    let events = &world.heard[&follower].events;
    assert!(
        matches!(
            events[..],
            [Event::Gap(_), Event::StreamEnded(_), Event::StreamEnded(_)]
        ),
        "{events:?}"
    );
}

#[test]
fn a_removed_process_is_not_signalled_and_vanishes_at_its_end() {
    let mut world = World::new();
    let session = world.attach();
    world.ask(session, Subscribe {});
    let process = world.spawn(session, "a");
    world.write(process);
    world.ask(session, Remove { process });
    world.write(process);
    assert!(
        world.rings[&process].cursor.is_empty(),
        "what it writes is thrown away"
    );
    assert!(world.state.processes.contains_key(&process));
    world.input(Input::Ended {
        process,
        end: end(),
    });
    assert!(world.state.processes.is_empty());
    let events = &world.heard[&session].events;
    let removed = matches!(
        events[..],
        [
            Event::ProcessStarted(_),
            Event::ProcessEnded(_),
            Event::ProcessRemoved(_)
        ]
    );
    assert!(removed, "{events:?}");
}

#[test]
fn a_drained_ring_gives_its_memory_back_once_and_then_sleeps() {
    let mut world = World::new();
    let session = world.attach();
    let process = world.spawn(session, "a");
    assert_eq!(world.state.deadline_ns(), None);
    world.write(process);
    let outputs = vec![OutputAcknowledgement {
        process,
        through: Sequence(1),
    }];
    world.ask(
        session,
        Commit {
            outputs,
            ..Commit::default()
        },
    );
    let deadline = world.state.deadline_ns().unwrap();
    world.clock = deadline;
    world.input(Input::TimeReached);
    assert_eq!(world.state.deadline_ns(), None, "no timer without a need");
}

#[test]
fn a_polite_signal_leaves_a_kernel_that_holds_something() {
    let mut world = World::new();
    let session = world.attach();
    let process = world.spawn(session, "a");
    world.input(Input::Terminate(Termination::Polite("SIGTERM")));
    assert!(!world.exits);
    assert_eq!(
        error_of(world.ask(session, ExitIfIdle {})),
        ErrorCode::NOT_IDLE
    );
    world.finish(process);
    world.ask(
        session,
        Commit {
            ends: vec![process],
            ..Commit::default()
        },
    );
    world.input(Input::Terminate(Termination::Polite("SIGTERM")));
    assert!(world.exits);
}

#[test]
fn socket_numbers_are_replaced_wherever_they_stand() {
    let mut world = World::new();
    let session = world.attach();
    let address = SocketAddress::Inet {
        host: "127.0.0.1".into(),
        port: 80,
    };
    let socket = SocketSpec {
        name: "web".into(),
        address,
        kind: Default::default(),
        backlog: 5,
        interface: None,
        reuseport: false,
    };
    world.ask(session, MakeSocket { spec: socket });
    let fetch = |name: &str| FetchSocket {
        name: name.to_owned(),
    };
    let fetched = world.ask(session, fetch("web"));
    assert!(
        matches!(fetched, Some(Reply::SocketPassed(_))),
        "{fetched:?}"
    );
    let refused = world.ask(session, fetch("nope"));
    assert!(
        matches!(&refused, Some(Reply::ErrorReply(e)) if e.code == ErrorCode::NOT_FOUND),
        "{refused:?}"
    );
    let with = |argument: &str| {
        let mut spec = spec("a");
        spec.arguments.push(argument.into());
        Spawn {
            key: argument.into(),
            spec,
        }
    };
    let refused = world.ask(session, with("$(socket.nope.fileno)"));
    assert_eq!(error_of(refused), ErrorCode::NOT_FOUND);
    for bad in ["$(socket.web)", "$(socket.web.fileno", "$(socket.web.size)"] {
        assert_eq!(
            error_of(world.ask(session, with(bad))),
            ErrorCode::INVALID,
            "{bad}"
        );
    }
    let good = with("x$(socket.web.fileno)y$(socket.web.port)$(socket.web.fileno)z");
    match world.ask(session, good) {
        Some(Reply::Spawned(s)) => assert_eq!(s.process.arguments[1], "x65y8065z".into()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_frame_must_be_a_hello() {
    let mut world = World::new();
    let session = world.connect();
    world.input(Input::Line {
        session,
        line: b"attach 1\r".to_vec(),
    });
    assert_eq!(world.state.sessions[&session].phase, Phase::Hello);
    assert_eq!(
        error_of(world.ask(session, Ping {})),
        ErrorCode::HELLO_EXPECTED
    );
    let newer = Hello {
        version_min: 2,
        version_max: 9,
        capabilities: 0,
        client: "x".into(),
    };
    assert_eq!(error_of(world.ask(session, newer)), ErrorCode::UNSUPPORTED);
}

/// A step of the random test: who, what, to which process.
#[derive(Debug, Clone)]
enum Move {
    Connect,
    Disconnect(usize),
    Ask(usize, Asked, u64),
    Write(u64, bool),
    EndStream(u64, bool),
    End(u64),
    Congest(usize, bool),
    Fail(bool),
    Turn,
    Time,
    Line(usize, String),
}

#[derive(Debug, Clone)]
enum Asked {
    Spawn(u8),
    Remove,
    Follow(u64, u64),
    Grant(u64),
    Unfollow,
    Acknowledge(u64, bool),
    Value(u8, usize, bool),
    Lease(u8, u64, bool),
    Release(u64),
    Socket(u8, u16),
    CloseSocket(u8),
    Subscribe,
    Lists(u32),
    Status,
    Bad,
}

fn moves() -> impl Strategy<Value = Move> {
    let asked = prop_oneof![
        any::<u8>().prop_map(|n| Asked::Spawn(n % 6)),
        Just(Asked::Remove),
        (0_u64..8, 0_u64..400).prop_map(|(from, credit)| Asked::Follow(from, credit)),
        (0_u64..400).prop_map(Asked::Grant),
        Just(Asked::Unfollow),
        (0_u64..12, any::<bool>()).prop_map(|(through, end)| Asked::Acknowledge(through, end)),
        (0_u8..4, 0_usize..300, any::<bool>()).prop_map(|(k, n, set)| Asked::Value(k, n, set)),
        (0_u8..2, 0_u64..5, any::<bool>()).prop_map(|(n, r, over)| Asked::Lease(n, r, over)),
        (0_u64..5).prop_map(Asked::Release),
        (0_u8..3, 0_u16..3).prop_map(|(name, port)| Asked::Socket(name, port)),
        (0_u8..3).prop_map(Asked::CloseSocket),
        Just(Asked::Subscribe),
        (0_u32..5).prop_map(Asked::Lists),
        Just(Asked::Status),
        Just(Asked::Bad),
    ];
    let line = "(l p|list values|help|list s x\\*|\\PC{0,12})";
    prop_oneof![
        1 => Just(Move::Connect),
        1 => (0_usize..4).prop_map(Move::Disconnect),
        12 => (0_usize..4, asked, 0_u64..8).prop_map(|(s, a, p)| Move::Ask(s, a, p)),
        8 => (0_u64..8, any::<bool>()).prop_map(|(p, err)| Move::Write(p, err)),
        2 => (0_u64..8, any::<bool>()).prop_map(|(p, err)| Move::EndStream(p, err)),
        2 => (0_u64..8).prop_map(Move::End),
        2 => (0_usize..4, any::<bool>()).prop_map(|(s, on)| Move::Congest(s, on)),
        1 => any::<bool>().prop_map(Move::Fail),
        4 => Just(Move::Turn),
        1 => Just(Move::Time),
        1 => (0_usize..4, line).prop_map(|(s, line)| Move::Line(s, line)),
    ]
}

fn request(asked: &Asked, process: ProcessId) -> Request {
    match asked {
        Asked::Spawn(n) => Spawn {
            key: format!("k{n}"),
            spec: spec(&format!("name{}", n % 3)),
        }
        .into(),
        Asked::Remove => Remove { process }.into(),
        Asked::Follow(from, credit_bytes) => Follow {
            process,
            from: Sequence(*from),
            credit_bytes: *credit_bytes,
        }
        .into(),
        Asked::Grant(credit_bytes) => Grant {
            process,
            credit_bytes: *credit_bytes,
        }
        .into(),
        Asked::Unfollow => Unfollow { process }.into(),
        Asked::Acknowledge(through, end) => Commit {
            outputs: vec![OutputAcknowledgement {
                process,
                through: Sequence(*through),
            }],
            ends: if *end { vec![process] } else { Vec::new() },
            values: Vec::new(),
        }
        .into(),
        Asked::Value(key, bytes, set) => {
            let value = set.then(|| vec![b'x'; *bytes].into());
            let values = vec![ValueChange {
                key: format!("v{key}"),
                value,
            }];
            Commit {
                values,
                ..Commit::default()
            }
            .into()
        }
        Asked::Lease(name, resume, take_over) => TakeLease {
            name: format!("lease{name}"),
            resume: Fence(*resume),
            take_over: *take_over,
        }
        .into(),
        Asked::Release(lease) => ReleaseLease {
            lease: Fence(*lease),
        }
        .into(),
        Asked::Socket(name, port) => MakeSocket {
            spec: SocketSpec {
                name: format!("s{name}"),
                address: SocketAddress::Inet {
                    host: "127.0.0.1".into(),
                    port: *port,
                },
                kind: Default::default(),
                backlog: 5,
                interface: None,
                reuseport: false,
            },
        }
        .into(),
        Asked::CloseSocket(name) => CloseSocket {
            name: format!("s{name}"),
        }
        .into(),
        Asked::Subscribe => Subscribe {}.into(),
        Asked::Lists(limit) => ListProcesses {
            after: ProcessId(0),
            limit: *limit,
        }
        .into(),
        Asked::Status => Status {}.into(),
        Asked::Bad => Signal {
            process,
            signal: i32::try_from(process.0).unwrap() * 20,
            target: SignalTarget::Process,
        }
        .into(),
    }
}

fn stream(is_stderr: bool) -> Stream {
    if is_stderr {
        Stream::Stderr
    } else {
        Stream::Stdout
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_request_is_answered_once_and_the_state_stays_whole(
        moves in proptest::collection::vec(moves(), 1..120),
    ) {
        let mut world = World::new();
        let mut sessions = vec![world.attach(), world.attach()];
        let mut asked: BTreeMap<SessionId, u64> = sessions.iter().map(|s| (*s, 1)).collect();
        for step in moves {
            match step {
                Move::Connect if sessions.len() < 6 => {
                    let session = world.attach();
                    asked.insert(session, 1);
                    sessions.push(session);
                }
                Move::Connect => {}
                Move::Disconnect(index) => {
                    if index < sessions.len() {
                        let session = sessions.remove(index);
                        world.input(Input::Disconnected { session });
                        world.heard.remove(&session);
                    }
                }
                Move::Ask(index, what, process) => {
                    let Some(session) = sessions.get(index).copied() else { continue };
                    if let Asked::Follow(..) = what {
                        // A second follow moves the cursor.
                        world.heard.get_mut(&session).unwrap().next.remove(&ProcessId(process));
                    }
                    let is_grant = matches!(what, Asked::Grant(_));
                    let count = asked.get_mut(&session).unwrap();
                    if !is_grant { *count += 1; }
                    let id = if is_grant { 0 } else { *count };
                    let request = request(&what, ProcessId(process));
                    let fence = Fence(if process == 7 { 3 } else { 0 });
                    world.input(Input::request(session, id, fence, request));
                }
                Move::Write(process, err) => {
                    let process = ProcessId(process);
                    let open = world.rings.get(&process)
                        .is_some_and(|ring| !ring.cursor.eof.has(stream(err)));
                    if open {
                        world.input(Input::Readable { process, stream: stream(err) });
                    }
                }
                Move::EndStream(process, err) => world.end_stream(ProcessId(process), stream(err)),
                Move::End(process) => {
                    world.input(Input::Ended { process: ProcessId(process), end: end() });
                }
                Move::Congest(index, on) => {
                    let Some(session) = sessions.get(index).copied() else { continue };
                    if on {
                        world.congested.insert(session);
                    } else if world.congested.remove(&session) {
                        world.input(Input::Drained { session });
                    }
                }
                Move::Fail(on) => world.fails = on,
                Move::Turn => world.input(Input::TurnEnded),
                Move::Time => {
                    world.clock += 3_000_000_000;
                    world.input(Input::TimeReached);
                }
                Move::Line(index, line) => {
                    // Lines only reach text sessions.
                    let session = world.connect();
                    let _ = index;
                    world.input(Input::Line { session, line: line.into_bytes() });
                    prop_assert!(world.heard[&session].closed
                        || world.heard[&session].text.ends_with("> ")
                        || world.state.sessions[&session].phase == Phase::Hello);
                    world.input(Input::Disconnected { session });
                    world.heard.remove(&session);
                }
            }
            for session in &sessions {
                let answered = world.heard[session].replies.iter().map(|r| r.0).collect::<Vec<_>>();
                prop_assert_eq!(answered, (1..=asked[session]).collect::<Vec<_>>());
            }
        }
        world.congested.clear();
        for session in sessions {
            world.input(Input::Drained { session });
        }
        world.turns();
        prop_assert!(world.effects < 100_000);
    }
}

//! The decision core in a simulated world: Linux and clients are played, and whatever happens is
//! checked. For tests, and for the fuzzer, which has the feature `simulation`.
#![cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the fuzzer plays text sessions, the tests play everything"
    )
)]

mod check;
mod hands;
pub mod text_sessions;

use super::step;
use crate::input::{Input, Now, ReadOutcome};
use crate::memory::cursor::{RingCursor, Stream};
use crate::state::{About, Peer, SessionId, State};
use check::check;
use kingpole_protocol::event::Event;
use kingpole_protocol::hello::Hello;
use kingpole_protocol::ids::{Fence, ProcessId};
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Request, Spawn};
use kingpole_protocol::spec::ProcessSpec;
use kingpole_protocol::status::{End, EndStatus};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Every record of the simulated rings takes this much.
pub(crate) const SPAN: u64 = 64;
/// So many records fit.
pub(crate) const RECORDS_MAX: usize = 4;

/// What a session was told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) replies: Vec<(u64, Reply)>,
    pub(crate) events: Vec<Event>,
    pub(crate) text: String,
    /// Next record expected of each followed process.
    pub(crate) next: BTreeMap<ProcessId, u64>,
    /// Whose rings it has, as far as it has not asked anew.
    pub(crate) rings: BTreeSet<ProcessId>,
    pub(crate) closed: bool,
}

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) cursor: RingCursor,
    pub(crate) oldest: u64,
}

/// Stands in for Linux: carries effects out and checks what a world can check.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) clock: u64,
    pub(crate) rings: BTreeMap<ProcessId, Ring>,
    pub(crate) heard: BTreeMap<SessionId, Heard>,
    pub(crate) congested: BTreeSet<SessionId>,
    pub(crate) next_process: u64,
    /// Spawns and journal writes fail while this is set.
    pub(crate) fails: bool,
    pub(crate) exits: bool,
    pub(crate) effects: u64,
    /// A child has written and the kernel has not read it yet.
    pub(crate) written: bool,
    /// What may be released, told by whoever watches over it.
    pub(crate) releasable: Option<BTreeMap<ProcessId, u64>>,
}

impl World {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn input(&mut self, input: Input) {
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

    pub(crate) fn end_stream(&mut self, process: ProcessId, stream: Stream) {
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

    pub(crate) fn connect(&mut self) -> SessionId {
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
    pub(crate) fn attach(&mut self) -> SessionId {
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

    pub(crate) fn ask_under(
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

    pub(crate) fn ask(&mut self, session: SessionId, request: impl Into<Request>) -> Option<Reply> {
        self.ask_under(session, Fence::NONE, request)
    }

    pub(crate) fn spawn(&mut self, session: SessionId, name: &str) -> ProcessId {
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

    pub(crate) fn write(&mut self, process: ProcessId) {
        self.input(Input::Readable {
            process,
            stream: Stream::Stdout,
        });
    }

    pub(crate) fn finish(&mut self, process: ProcessId) {
        for stream in Stream::ALL {
            self.end_stream(process, stream);
        }
        self.input(Input::Ended {
            process,
            end: end(),
        });
    }

    pub(crate) fn turns(&mut self) {
        for _ in 0..100 {
            if self.state.serving.is_empty() {
                return;
            }
            self.input(Input::TurnEnded);
        }
        panic!("serving never ends: {:?}", self.state.serving);
    }
}

pub(crate) fn spec(name: &str) -> ProcessSpec {
    ProcessSpec {
        name: name.into(),
        arguments: vec!["/bin/true".into()],
        ..Default::default()
    }
}

pub(crate) fn end() -> End {
    let status = EndStatus::Exited(0);
    End {
        status,
        time_ns: 1,
        user_us: 0,
        system_us: 0,
        max_rss_kib: 0,
    }
}

pub(crate) fn stream(is_stderr: bool) -> Stream {
    if is_stderr {
        Stream::Stderr
    } else {
        Stream::Stdout
    }
}

//! Text sessions as lists of operations, beside a framed manager: whatever they do, nothing is
//! released that nobody acknowledged, nothing is stolen, and nobody is left without a prompt.

use super::{World, end, spec, stream};
use crate::input::Input;
use crate::memory::cursor::Stream;
use crate::state::text::{Batch, TextMode};
use crate::state::{Phase, SessionId};
use crate::text::make_process::is_text_key;
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::request::{Commit, Follow, OutputAcknowledgement, Spawn, Unfollow};
use std::collections::BTreeMap;

/// Text sessions at once.
pub(crate) const SESSIONS: usize = 3;

/// What happens next; numbers name sessions and processes.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    Line(usize, String),
    Interrupt(usize),
    Reconnect(usize),
    /// A framed manager hosts a process of its own.
    Host(u8),
    Follow(u64),
    Unfollow(u64),
    Acknowledge(u64, u64, bool),
    Write(u64, bool),
    EndStream(u64, bool),
    End(u64),
    Congest(usize, bool),
    Fail(bool),
    Turn,
    Time,
}

/// Text sessions beside a framed manager.
pub(crate) struct Scene {
    world: World,
    manager: SessionId,
    sessions: Vec<SessionId>,
    /// The highest record of each process that may be released now.
    acknowledged: BTreeMap<ProcessId, u64>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let mut world = World::new();
        let manager = world.attach();
        let sessions = (0..SESSIONS).map(|_| world.connect()).collect();
        world.releasable = Some(BTreeMap::new());
        Self {
            world,
            manager,
            sessions,
            acknowledged: BTreeMap::new(),
        }
    }

    fn input(&mut self, input: Input) {
        self.world.releasable = Some(self.acknowledged.clone());
        self.world.input(input);
    }

    /// What a watcher was sent in the batch that its next line acknowledges.
    fn note_acknowledgement(&mut self, id: SessionId) {
        let session = &self.world.state.sessions[&id];
        let TextMode::Watching(watch) = &session.text.mode else {
            return;
        };
        if watch.batch != Batch::Sent {
            return;
        }
        for (process, follow) in &session.follows {
            let held = &self.world.state.processes[process];
            if !is_text_key(&held.key) {
                continue;
            }
            let seen = follow.mark.seq.0 - 1;
            let most = self.acknowledged.entry(*process).or_insert(0);
            *most = (*most).max(seen);
        }
    }

    fn line(&mut self, id: SessionId, line: &str) {
        if !self.world.state.takes_requests(id) {
            return;
        }
        if self.world.state.sessions[&id].phase != Phase::Text {
            return;
        }
        // A held line acknowledges a batch that is sent later.
        let waits = match &self.world.state.sessions[&id].text.mode {
            TextMode::Watching(watch) => watch.batch != Batch::Sent,
            _ => false,
        };
        self.note_acknowledgement(id);
        if waits {
            self.allow_all_text();
        }
        self.input(Input::Line {
            session: id,
            line: line.as_bytes().to_vec(),
        });
    }

    /// From here on whatever is sent may be acknowledged by a line that came before.
    fn allow_all_text(&mut self) {
        for (process, held) in &self.world.state.processes {
            if is_text_key(&held.key) {
                self.acknowledged.insert(*process, u64::MAX - 1);
            }
        }
    }

    /// Whoever has left is followed by somebody else.
    fn refill(&mut self) {
        for session in &mut self.sessions {
            if !self.world.state.sessions.contains_key(session) {
                self.world.heard.remove(session);
                self.world.congested.remove(session);
                *session = self.world.connect();
            }
        }
    }

    /// Lets it happen.
    pub(crate) fn play(&mut self, step: Move) {
        self.refill();
        match step {
            Move::Line(index, line) => self.line(self.sessions[index], &line),
            Move::Interrupt(index) => {
                let session = self.sessions[index];
                if self.world.state.sessions[&session].phase == Phase::Text {
                    self.input(Input::Interrupt { session });
                }
            }
            Move::Reconnect(index) => {
                let session = self.sessions[index];
                self.input(Input::Disconnected { session });
                self.world.heard.remove(&session);
                self.world.congested.remove(&session);
                self.sessions[index] = self.world.connect();
            }
            Move::Host(number) => {
                let running = self
                    .world
                    .state
                    .processes_named("hosted")
                    .any(|p| p.end.is_none());
                if !running && !self.world.fails {
                    let name = if number == 0 { "hosted" } else { "hosted.too" };
                    let _ = self.world.ask(
                        self.manager,
                        Spawn {
                            key: format!("manager/{name}"),
                            spec: spec(name),
                        },
                    );
                }
            }
            Move::Follow(process) => {
                let process = ProcessId(process);
                self.world
                    .heard
                    .get_mut(&self.manager)
                    .unwrap()
                    .next
                    .remove(&process);
                let follow = Follow {
                    process,
                    from: Sequence(0),
                    credit_bytes: 1000,
                };
                let _ = self.world.ask(self.manager, follow);
            }
            Move::Unfollow(process) => {
                let process = ProcessId(process);
                self.world.releasable = Some(self.acknowledged.clone());
                let _ = self.world.ask(self.manager, Unfollow { process });
            }
            Move::Acknowledge(process, through, end) => {
                let process = ProcessId(process);
                let through = Sequence(through);
                // Frames may release anything.
                let most = self.acknowledged.entry(process).or_insert(0);
                *most = (*most).max(through.0);
                self.world.releasable = Some(self.acknowledged.clone());
                let output = OutputAcknowledgement { process, through };
                let commit = Commit {
                    outputs: vec![output],
                    ends: end.then_some(process).into_iter().collect(),
                    ..Commit::default()
                };
                let _ = self.world.ask(self.manager, commit);
            }
            Move::Write(process, err) => {
                let process = ProcessId(process);
                let ring = self.world.rings.get(&process);
                if ring.is_some_and(|ring| !ring.cursor.eof.has(stream(err))) {
                    self.input(Input::Readable {
                        process,
                        stream: stream(err),
                    });
                }
            }
            Move::EndStream(process, err) => {
                self.world.releasable = Some(self.acknowledged.clone());
                self.world.end_stream(ProcessId(process), stream(err));
            }
            Move::End(process) => self.input(Input::Ended {
                process: ProcessId(process),
                end: end(),
            }),
            Move::Congest(index, on) => {
                let session = self.sessions[index];
                if on {
                    self.world.congested.insert(session);
                } else if self.world.congested.remove(&session) {
                    self.input(Input::Drained { session });
                }
            }
            Move::Fail(on) => self.world.fails = on,
            Move::Turn => self.input(Input::TurnEnded),
            Move::Time => {
                self.world.clock += 3_000_000_000;
                self.input(Input::TimeReached);
            }
        }
    }

    fn settle(&mut self) {
        self.world.fails = false;
        self.world.releasable = None;
        self.world.congested.clear();
        for session in self.sessions.clone() {
            self.world.input(Input::Drained { session });
        }
        self.world.clock += 3_000_000_000;
        self.world.input(Input::TimeReached);
        self.world.turns();
        self.refill();
    }

    /// Ends every child, lets whoever watches go on acknowledging, and checks that all have come
    /// back to a prompt and nothing is left over.
    pub(crate) fn finish(mut self) {
        self.settle();
        let processes = self
            .world
            .state
            .processes
            .keys()
            .copied()
            .collect::<Vec<_>>();
        for process in processes {
            for which in Stream::ALL {
                self.world.end_stream(process, which);
            }
            self.world.input(Input::Ended {
                process,
                end: end(),
            });
        }
        self.settle();
        // Whoever goes on acknowledging has nothing left to watch in the end.
        for _ in 0..20 {
            for session in self.sessions.clone() {
                let watches = matches!(
                    self.world.state.sessions[&session].text.mode,
                    TextMode::Watching(_)
                );
                if watches && self.world.state.takes_requests(session) {
                    self.world.input(Input::Line {
                        session,
                        line: Vec::new(),
                    });
                }
            }
            self.settle();
        }
        for id in &self.sessions {
            let session = &self.world.state.sessions[id];
            if session.phase != Phase::Text {
                continue;
            }
            assert!(
                matches!(session.text.mode, TextMode::Prompt),
                "{:?}",
                session.text
            );
            let text = &self.world.heard[id].text;
            assert!(text.ends_with("> "), "{text:?}");
            assert!(session.follows.is_empty() && session.pending.is_empty());
        }
        assert!(self.world.state.first_batches.is_empty());
    }
}

/// Bytes as a list of things that happen: the structured input of the fuzzer. One byte says what,
/// the next ones with which numbers; a line is words from [`WORDS`], or the bytes as they are.
#[must_use]
pub(crate) fn moves_of(bytes: &[u8]) -> Vec<Move> {
    let mut bytes = bytes.iter().copied();
    let mut moves = Vec::new();
    while moves.len() < MOVES_MAX
        && let Some(what) = bytes.next()
    {
        let mut next = || bytes.next().unwrap_or_default();
        let session = usize::from(next()) % SESSIONS;
        moves.push(match what % 24 {
            0..=7 => Move::Line(session, line_of(&mut next)),
            8 => Move::Interrupt(session),
            9 => Move::Reconnect(session),
            10 => Move::Host(next() % 2),
            11 => Move::Follow(u64::from(next() % 8)),
            12 => Move::Unfollow(u64::from(next() % 8)),
            13 => {
                let (process, through) = (next() % 8, next());
                Move::Acknowledge(process.into(), (through % 8).into(), through >= 128)
            }
            14..=16 => Move::Write(u64::from(next() % 8), what >= 128),
            17 => Move::EndStream(u64::from(next() % 8), what >= 128),
            18 => Move::End(u64::from(next() % 8)),
            19 => Move::Congest(session, what >= 128),
            20 => Move::Fail(what >= 128),
            21 | 22 => Move::Turn,
            _ => Move::Time,
        });
    }
    moves
}

/// So many things happen in a run: more are no different, only slower.
const MOVES_MAX: usize = 200;

/// Words that commands are made of.
const WORDS: [&str; 48] = [
    "make",
    "m",
    "process",
    "p",
    "socket",
    "s",
    "value",
    "watch",
    "w",
    "list",
    "l",
    "remove",
    "r",
    "set",
    "get",
    "tail",
    "-f",
    "signal",
    "stats",
    "sessions",
    "leases",
    "version",
    "help",
    "q",
    "quit",
    "attach",
    "exit-if-idle",
    "upgrade",
    "--check",
    "a",
    "b",
    "c",
    "hosted",
    "*",
    "a*",
    "1001",
    "/bin/true",
    "watch=1",
    "uid=ann",
    "uid=eve",
    "env.X=1",
    "bufsize=0",
    "stdout=0",
    "stderr=stdout",
    "TERM",
    "tree",
    "3",
    "host=web",
];

fn line_of(next: &mut impl FnMut() -> u8) -> String {
    let count = next();
    if count >= 240 {
        let bytes = (0..count - 240).map(|_| next()).collect::<Vec<_>>();
        return String::from_utf8_lossy(&bytes).replace('\n', " ");
    }
    let words = (0..count % 8).map(|_| WORDS[usize::from(next()) % WORDS.len()]);
    words.collect::<Vec<_>>().join(" ")
}

/// Plays what the bytes say, and checks what must hold all the time and in the end.
///
/// # Panics
/// When it does not hold.
pub fn play(bytes: &[u8]) {
    let mut scene = Scene::new();
    for step in moves_of(bytes) {
        scene.play(step);
    }
    scene.finish();
}

//! Text sessions as lists of operations, beside a framed manager: whatever they do, nothing is
//! released that nobody acknowledged, nothing is stolen, and nobody is left without a prompt.

use super::{World, end, stream};
use crate::input::Input;
use crate::memory::cursor::Stream;
use crate::state::text::{Batch, TextMode};
use crate::state::{Phase, SessionId};
use crate::text::make_process::is_text_key;
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::request::{Commit, Follow, OutputAcknowledgement, Unfollow};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Text sessions at once.
const SESSIONS: usize = 3;

#[derive(Debug, Clone)]
enum Move {
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

fn moves() -> impl Strategy<Value = Move> {
    let line = prop_oneof![
        6 => "(q|)",
        3 => "make process (a|b|c)( watch=1)? /bin/true",
        1 => "m p a uid=ann /bin/true",
        1 => "make process (a|b) uid=eve env.X=1 /bin/false",
        4 => "w p( (a|b\\*|\\*|hosted|1001))?",
        2 => "tail (-f )?(a|b|hosted|1002)( 3)?",
        1 => "(l p|stats|sessions|leases|version|l s|l v|help watch)",
        1 => "r p (a|b|\\*)",
        1 => "signal (a|\\*) (TERM|9)( tree)?",
        1 => "(set|get) v( 1 2)?",
        1 => "(make socket|r s) s( host=web)?",
        1 => "\\PC{0,8}",
    ];
    prop_oneof![
        16 => (0..SESSIONS, line).prop_map(|(s, line)| Move::Line(s, line)),
        1 => (0..SESSIONS).prop_map(Move::Interrupt),
        1 => (0..SESSIONS).prop_map(Move::Reconnect),
        1 => (0_u8..2).prop_map(Move::Host),
        1 => (0_u64..8).prop_map(Move::Follow),
        1 => (0_u64..8).prop_map(Move::Unfollow),
        2 => (0_u64..8, 0_u64..8, any::<bool>()).prop_map(|(p, n, e)| Move::Acknowledge(p, n, e)),
        10 => (0_u64..8, any::<bool>()).prop_map(|(p, err)| Move::Write(p, err)),
        2 => (0_u64..8, any::<bool>()).prop_map(|(p, err)| Move::EndStream(p, err)),
        2 => (0_u64..8).prop_map(Move::End),
        2 => (0..SESSIONS, any::<bool>()).prop_map(|(s, on)| Move::Congest(s, on)),
        1 => any::<bool>().prop_map(Move::Fail),
        8 => Just(Move::Turn),
        3 => Just(Move::Time),
    ]
}

struct Scene {
    world: World,
    manager: SessionId,
    sessions: Vec<SessionId>,
    /// The highest record of each process that may be released now.
    acknowledged: BTreeMap<ProcessId, u64>,
}

impl Scene {
    fn new() -> Self {
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

    fn play(&mut self, step: Move) {
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
                        kingpole_protocol::request::Spawn {
                            key: format!("manager/{name}"),
                            spec: super::spec(name),
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
}

#[test]
fn end_of_a_removed_process_reaches_a_watcher_that_could_not_be_sent_it_at_once() {
    let mut world = World::new();
    let (watcher, other) = (world.connect(), world.connect());
    let say = |world: &mut World, session, line: &str| {
        let line = line.as_bytes().to_vec();
        world.input(Input::Line { session, line });
    };
    say(&mut world, watcher, "make process a watch=1 /bin/true");
    world.clock += 3_000_000_000;
    world.input(Input::TimeReached);
    world.write(ProcessId(1));
    world.congested.insert(watcher);
    world.turns();
    say(&mut world, watcher, "");
    say(&mut world, other, "remove processes a");
    world.input(Input::Ended {
        process: ProcessId(1),
        end: end(),
    });
    world.turns();
    world.congested.clear();
    world.input(Input::Drained { session: watcher });
    world.turns();
    let text = &world.heard[&watcher].text;
    assert!(
        text.contains("closed:a:") && text.ends_with("] "),
        "{text:?}"
    );
    say(&mut world, watcher, "");
    let text = &world.heard[&watcher].text;
    assert!(text.ends_with("Nothing left to watch\n> "), "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn text_sessions_release_only_what_was_acknowledged_and_always_come_back_to_a_prompt(
        moves in proptest::collection::vec(moves(), 1..150),
    ) {
        let mut scene = Scene::new();
        for step in moves {
            scene.play(step);
        }
        scene.settle();
        let processes = scene.world.state.processes.keys().copied().collect::<Vec<_>>();
        for process in processes {
            for which in Stream::ALL {
                scene.world.end_stream(process, which);
            }
            scene.world.input(Input::Ended { process, end: end() });
        }
        scene.settle();
        // Whoever goes on acknowledging has nothing left to watch in the end.
        for _ in 0..20 {
            for session in scene.sessions.clone() {
                let watches = matches!(
                    scene.world.state.sessions[&session].text.mode,
                    TextMode::Watching(_)
                );
                if watches && scene.world.state.takes_requests(session) {
                    scene.world.input(Input::Line { session, line: Vec::new() });
                }
            }
            scene.settle();
        }
        for id in &scene.sessions {
            let session = &scene.world.state.sessions[id];
            if session.phase != Phase::Text {
                continue;
            }
            prop_assert!(matches!(session.text.mode, TextMode::Prompt), "{:?}", session.text);
            let text = &scene.world.heard[id].text;
            prop_assert!(text.ends_with("> "), "{text:?}");
            prop_assert!(session.follows.is_empty() && session.pending.is_empty());
        }
        prop_assert!(scene.world.state.first_batches.is_empty());
    }

    #[test]
    fn records_of_a_watch_come_in_order_and_each_once(
        writes in proptest::collection::vec((1_u64..3, any::<bool>(), 0_u8..4), 1..60),
    ) {
        let mut world = World::new();
        let session = world.connect();
        for name in ["a", "b"] {
            let line = format!("make process {name} /bin/true").into_bytes();
            world.input(Input::Line { session, line });
        }
        world.input(Input::Line { session, line: b"w p".to_vec() });
        let from = world.heard[&session].text.len();
        for (process, err, turns) in writes {
            world.input(Input::Readable { process: ProcessId(process), stream: stream(err) });
            for _ in 0..turns {
                world.clock += 10_000_000;
                world.input(Input::TimeReached);
                world.turns();
                let sent = matches!(
                    &world.state.sessions[&session].text.mode,
                    TextMode::Watching(watch) if watch.batch == Batch::Sent
                );
                if sent {
                    world.input(Input::Line { session, line: b"-".to_vec() });
                }
            }
        }
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for line in world.heard[&session].text[from..].lines() {
            let Some((_, record)) = line.split_once("record:") else { continue };
            let (process, number) = record.split_once(':').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = last.insert(process.to_owned(), number);
            prop_assert!(before.is_none_or(|before| before < number), "{before:?} then {number}");
        }
    }
}

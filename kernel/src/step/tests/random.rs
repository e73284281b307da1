//! Random requests, children, losses and refusals.

use super::*;
use proptest::prelude::*;

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
    FollowMapped(u64, u64),
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
        (0_u64..8, 0_u64..400).prop_map(|(from, credit)| Asked::FollowMapped(from, credit)),
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
        Asked::FollowMapped(from, credit_bytes) => FollowMapped {
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
                    if let Asked::Follow(..) | Asked::FollowMapped(..) = what {
                        // A second follow moves the cursor.
                        world.heard.get_mut(&session).unwrap().next.remove(&ProcessId(process));
                    }
                    if let Asked::FollowMapped(..) | Asked::Unfollow = what {
                        // Whoever asks closes what it had.
                        world.heard.get_mut(&session).unwrap().rings.remove(&ProcessId(process));
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

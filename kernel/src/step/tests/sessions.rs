//! Greeting, leases, sockets, and a kernel that is told to end.

use super::*;

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

//! Processes, their names and keys, and what has to be acknowledged before one is forgotten.

use super::*;
use kingpole_protocol::spec::{OutputSpec, ProcessSpec};

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
fn processes_without_captured_output_take_one_descriptor_and_are_counted_so() {
    let mut world = World::new();
    world.state.about.descriptors_limit = 20;
    let session = world.attach();
    // Half of so low a limit is kept back: two captured ones take eight of the ten.
    world.spawn(session, "a");
    world.spawn(session, "b");
    let spawn = |name: &str, output| Spawn {
        key: format!("{name}/key"),
        spec: ProcessSpec {
            stdout: output,
            stderr: output,
            ..spec(name)
        },
    };
    let refused = world.ask(session, spawn("c", OutputSpec::Capture));
    assert_eq!(error_of(refused), ErrorCode::LIMIT);
    for name in ["d", "e"] {
        let reply = world.ask(session, spawn(name, OutputSpec::Null));
        assert!(matches!(reply, Some(Reply::Spawned(_))), "{reply:?}");
    }
    let refused = world.ask(session, spawn("f", OutputSpec::Null));
    assert_eq!(error_of(refused), ErrorCode::LIMIT);
}

//! Followers of output, gaps, and memory that is given back.

use super::*;

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

//! Promise: an exit status stays until somebody has taken it, whoever was there when it happened.

use kingpole_protocol::client::blocking::Notice;
use kingpole_protocol::event::Event;
use kingpole_protocol::request::Commit;
use kingpole_protocol::status::{EndStatus, ProcessInfo};
use kingpole_protocol::{ErrorCode, Sequence};
use kingpole_tests::kernel::refused;
use kingpole_tests::output::{Acknowledge, Follower};
use kingpole_tests::process::Handle;
use kingpole_tests::puppet::{self, Puppet};
use kingpole_tests::{Kernel, wait};
use std::collections::BTreeMap;

fn all_ended(kernel: &Kernel) -> Vec<ProcessInfo> {
    wait::until("all have ended", || {
        let all = kernel.client().processes().unwrap();
        if all.iter().all(|p| p.end.is_some()) {
            Ok(all)
        } else {
            Err(format!("{all:?}"))
        }
    })
}

#[test]
fn ends_are_kept_while_nobody_is_there() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut expected = BTreeMap::new();
    let mut pids = Vec::new();
    for code in 0..30 {
        let (script, status) = if code % 3 == 2 {
            (
                format!("die {}", 1 + code % 2 * 8),
                EndStatus::Signaled {
                    signal: 1 + code % 2 * 8,
                    core_dumped: false,
                },
            )
        } else {
            (format!("exit {code}"), EndStatus::Exited(code))
        };
        let name = format!("child {code}");
        let stage = puppet::Stage::new(kernel.scratch());
        let spec = puppet::spec(&name, &[stage.command(), &script]);
        let spawned = client.spawn(&name, spec).unwrap().process;
        pids.push((Handle::open(spawned.pid).unwrap(), stage.accept().unwrap()));
        expected.insert(spawned.process, status);
    }
    drop(client);
    // The control connections go, so the scripts go on to their ends.
    for (handle, connection) in pids {
        drop(connection);
        handle.wait_ended("a child");
    }
    // Twice: looking takes nothing away.
    for _ in 0..2 {
        let found: BTreeMap<_, _> = all_ended(&kernel)
            .into_iter()
            .map(|p| (p.process, p.end.unwrap().status))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn an_end_is_forgotten_when_it_and_the_output_are_acknowledged() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let spec = puppet::spec("short", &["text out last words", "exit 5"]);
    let process = client.spawn("short", spec).unwrap().process.process;
    all_ended(&kernel);
    client
        .commit(Commit {
            ends: vec![process],
            ..Commit::default()
        })
        .unwrap();
    let left = client.processes().unwrap();
    assert_eq!(left.len(), 1, "its output is still there");
    let mut follower = Follower::new(kernel.client(), process, Acknowledge::Each);
    follower.read_to_end();
    wait::until("it is forgotten", || {
        let left = client.processes().unwrap();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    // A commit that comes twice, because its answer was lost, is no error.
    client
        .commit(Commit {
            ends: vec![process],
            ..Commit::default()
        })
        .unwrap();
}

#[test]
fn the_end_of_a_running_process_cannot_be_acknowledged() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "alive", |_| {});
    let commit = Commit {
        ends: vec![puppet.process()],
        ..Commit::default()
    };
    let error = refused(client.commit(commit));
    assert_eq!(error.code, ErrorCode::INVALID, "{error:?}");
    puppet.tell("exit 0");
}

#[test]
fn every_subscriber_hears_of_start_end_and_removal_once() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut subscribers: Vec<_> = (0..5).map(|_| kernel.client()).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe().unwrap();
    }
    let spec = puppet::program("heard", &["/bin/sh", "-c", "exit 9"]);
    let process = client.spawn("heard", spec).unwrap().process.process;
    let end = all_ended(&kernel)[0].end.unwrap();
    assert_eq!(end.status, EndStatus::Exited(9));
    Follower::from(kernel.client(), process, Sequence(0), Acknowledge::Each).read_to_end();
    client
        .commit(Commit {
            ends: vec![process],
            ..Commit::default()
        })
        .unwrap();
    for subscriber in &mut subscribers {
        let mut heard = Vec::new();
        while heard.last() != Some(&"removed") {
            match subscriber
                .next_notice(Some(wait::PATIENCE))
                .unwrap()
                .expect("an event")
            {
                Notice::Event(Event::ProcessStarted(e)) if e.process.process == process => {
                    heard.push("started");
                }
                Notice::Event(Event::ProcessEnded(e)) if e.process == process => {
                    assert_eq!(e.end, end);
                    heard.push("ended");
                }
                Notice::Event(Event::ProcessRemoved(e)) if e.process == process => {
                    heard.push("removed");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, ["started", "ended", "removed"]);
    }
}

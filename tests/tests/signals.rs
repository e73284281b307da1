//! Promise: a signal reaches exactly those it was meant for.

use kingpole_protocol::ErrorCode;
use kingpole_protocol::ProcessId;
use kingpole_protocol::request::SignalTarget;
use kingpole_protocol::status::EndStatus;
use kingpole_tests::kernel::refused;
use kingpole_tests::process::Handle;
use kingpole_tests::puppet::Puppet;
use kingpole_tests::{Kernel, wait};

/// A child, its child in the same group, that one's child in a session of its own, and a neighbour.
struct Family {
    leader: Puppet,
    child: Handle,
    grandchild: Handle,
    neighbour: Puppet,
}

fn family(kernel: &Kernel) -> Family {
    let mut client = kernel.client();
    let neighbour = Puppet::spawn(kernel, &mut client, "neighbour", |_| {});
    let mut leader = Puppet::spawn(kernel, &mut client, "leader", |_| {});
    let stage = kingpole_tests::puppet::Stage::new(kernel.scratch());
    let child = leader
        .ask(&format!("fork {}", stage.command()))
        .as_i64()
        .unwrap();
    let mut son = stage.accept().unwrap();
    let stage = kingpole_tests::puppet::Stage::new(kernel.scratch());
    // The session is its own before it reports.
    let answer = son.ask(&format!("fork session; {}; wait", stage.command()));
    let grandchild = answer.as_i64().unwrap();
    stage.accept().unwrap();
    // It goes on waiting for a signal when its control connection has gone.
    son.tell("wait");
    let open = |pid: i64| Handle::open(i32::try_from(pid).unwrap()).unwrap();
    Family {
        leader,
        child: open(child),
        grandchild: open(grandchild),
        neighbour,
    }
}

#[track_caller]
fn check(target: SignalTarget, expected: [bool; 3]) {
    let kernel = Kernel::start();
    let mut family = family(&kernel);
    let mut client = kernel.client();
    let leader = Handle::open(family.leader.info.pid).unwrap();
    let count = client
        .signal(family.leader.process(), libc::SIGKILL, target)
        .unwrap();
    let wanted = expected.iter().filter(|&&hit| hit).count();
    assert_eq!(usize::try_from(count).unwrap(), wanted, "{target:?}");
    for (handle, hit, who) in [
        (&leader, expected[0], "leader"),
        (&family.child, expected[1], "child"),
        (&family.grandchild, expected[2], "grandchild"),
    ] {
        if hit {
            handle.wait_ended(who);
        } else {
            assert!(handle.runs(), "{target:?} reached the {who}");
        }
    }
    assert_eq!(
        family.neighbour.ask("report")["pid"],
        family.neighbour.info.pid
    );
}

#[test]
fn process_reaches_the_process_alone() {
    check(SignalTarget::Process, [true, false, false]);
}

#[test]
fn group_reaches_those_of_the_same_session() {
    check(SignalTarget::Group, [true, true, false]);
}

#[test]
fn tree_reaches_all_of_it_in_whatever_session() {
    check(SignalTarget::Tree, [true, true, true]);
}

#[test]
fn descendants_leave_the_process_itself_alone() {
    check(SignalTarget::Descendants, [false, true, true]);
}

#[test]
fn children_are_the_direct_ones() {
    check(SignalTarget::Children, [false, true, false]);
}

#[test]
fn signals_that_cannot_be_sent_say_why() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "target", |_| {});
    let process = puppet.process();
    assert_eq!(client.signal(process, 0, SignalTarget::Process).unwrap(), 1);
    let error = refused(client.signal(process, 4711, SignalTarget::Process));
    assert_eq!(error.code, ErrorCode::INVALID, "{error:?}");
    let error = refused(client.signal(ProcessId(4711), 15, SignalTarget::Process));
    assert_eq!(error.code, ErrorCode::NOT_FOUND, "{error:?}");
    puppet.tell("exit 0");
    wait::until("it has ended", || {
        let process = client.processes().unwrap().remove(0);
        process.end.map(drop).ok_or("it runs")
    });
    let error = refused(client.signal(process, 15, SignalTarget::Process));
    assert_eq!(error.code, ErrorCode::ENDED, "{error:?}");
}

#[test]
fn a_signal_that_is_ignored_stays_without_effect() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "stubborn", |_| {});
    puppet.ask("ignore 15");
    client
        .signal(puppet.process(), 15, SignalTarget::Process)
        .unwrap();
    assert_eq!(puppet.report()["pid"], puppet.info.pid);
    client
        .signal(puppet.process(), 9, SignalTarget::Process)
        .unwrap();
    wait::until("it is told", || {
        let process = client.processes().unwrap().remove(0);
        match process.end.map(|e| e.status) {
            Some(EndStatus::Signaled { signal: 9, .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

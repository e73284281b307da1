//! Promise: nothing happens when nothing happens. A kernel runs without a manager for ever, at zero
//! wake-ups, in one thread; with an idle manager nobody wakes up either, nor waits for a time at which it would.

use kingpole_protocol::Sequence;
use kingpole_tests::puppet;
use kingpole_tests::{Kernel, Manager, measure, wait};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// The measured interval: not a race, but how long "nothing" is looked at.
const INTERVAL: Duration = Duration::from_secs(3);

#[test]
fn an_idle_kernel_with_children_sessions_and_followers_does_not_wake_up() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut first = None;
    for n in 0..30 {
        let name = format!("sleeper {n}");
        let spec = puppet::program(&name, &["/bin/sh", "-c", "echo up; exec sleep 1000"]);
        let process = client.spawn(&name, spec).unwrap().process.process;
        first.get_or_insert(process);
    }
    // A follower that waits, a subscriber, a text session that says nothing.
    let mut follower = kernel.client();
    follower.subscribe().unwrap();
    follower
        .follow(first.unwrap(), Sequence(0), 1 << 20)
        .unwrap();
    let _silent = std::os::unix::net::UnixStream::connect(kernel.socket()).unwrap();
    // The kernel, and its guard where there is one.
    let pids = BTreeSet::from([client.welcome().pid, kernel.process().handle().pid()]);
    for &pid in &pids {
        assert_eq!(measure::threads(pid).unwrap(), 1);
    }
    wait_for_sleep("the kernel sleeps through an interval", &pids);
}

#[test]
fn an_idle_manager_and_its_kernel_do_not_wake_up_and_wait_for_no_time() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("idle.log");
    // Each writes a line, so that there is something to remember for each; then nothing happens.
    let text = format!(
        "[watcher:idle]\ncmd = /bin/sh -c \"echo up; exec sleep 100000\"\nnumprocesses = 30\n\
         stdout_stream.class = FileStream\nstdout_stream.filename = {}\n",
        log.display()
    );
    let configuration = scratch.write("idle.ini", &text);
    let mut manager = Manager::start(&scratch, &configuration);
    let guard = kernel.process().handle().pid();
    // One that has started them, and one that has found them.
    for what in ["the first manager", "the next manager"] {
        wait::until("every line is stored", || {
            let lines = std::fs::read_to_string(&log).unwrap_or_default();
            match lines.lines().count() {
                30 => Ok(()),
                count => Err(format!("{count} lines")),
            }
        });
        let pids = BTreeSet::from([
            kernel.client().welcome().pid,
            guard,
            manager.process_mut().handle().pid(),
        ]);
        wait_for_sleep(&format!("{what} sleeps through an interval"), &pids);
        wait::within(PATIENCE, &format!("{what} waits for no time"), || {
            pids.iter()
                .try_for_each(|&pid| measure::waits_without_a_timer(pid).expect("it runs"))
        });
        manager.replace();
        manager.wait_ready();
    }
}

/// Deadlines that are due once, such as giving memory back, may pass first.
const PATIENCE: Duration = Duration::from_secs(90);

#[track_caller]
fn wait_for_sleep(what: &str, pids: &BTreeSet<i32>) {
    wait::within(PATIENCE, what, || {
        let counts = || {
            pids.iter()
                .map(|&pid| measure::wake_ups(pid).unwrap())
                .collect::<Vec<_>>()
        };
        let before = counts();
        std::thread::sleep(INTERVAL);
        let after = counts();
        if after == before {
            Ok(())
        } else {
            Err(format!("wake-ups of {pids:?}: {before:?}, then {after:?}"))
        }
    });
}

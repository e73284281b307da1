//! Promise: nothing happens when nothing happens. A kernel runs without a manager for ever, at zero
//! wake-ups, in one thread.

use kingpole_protocol::Sequence;
use kingpole_tests::puppet;
use kingpole_tests::{Kernel, measure, wait};
use std::collections::BTreeSet;
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
    // Deadlines that are due once, such as giving memory back, may pass first.
    let patience = Duration::from_secs(90);
    wait::within(patience, "the kernel sleeps through an interval", || {
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

//! Promise: `kill -9` of the kernel loses nothing, nor does that of its guard.
//!
//! The storm lasts `KINGPOLE_STORM_SECONDS` (20) and starts from `KINGPOLE_STORM_SEED`; a failing
//! run prints the command that repeats it.

use kingpole_protocol::client::blocking::Client;
use kingpole_tests::process::{children, descriptors};
use kingpole_tests::storm::{Driver, Killer, Verified};
use kingpole_tests::{Kernel, wait};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn number_from(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// How many were killed so far.
#[derive(Debug, Default)]
struct Kills {
    kernels: AtomicU64,
    guards: AtomicU64,
}

impl Kills {
    /// Whether so many make a storm of so many seconds.
    fn enough(&self, seconds: u64) -> bool {
        self.kernels.load(Ordering::Relaxed) > 3 * seconds
            && self.guards.load(Ordering::Relaxed) >= seconds / 5
    }
}

/// Pipes, sockets and shared memory that a guard holds, by kind.
fn kinds(pid: i32) -> Vec<String> {
    let mut kinds = descriptors(pid)
        .unwrap()
        .into_values()
        .map(|target| target.split('[').next().unwrap_or_default().to_owned())
        .filter(|kind| {
            ["pipe:", "socket:", "/memfd:"]
                .iter()
                .any(|held| kind.starts_with(held))
        })
        .collect::<Vec<_>>();
    kinds.sort();
    kinds
}

#[test]
fn a_storm_of_kills_loses_no_byte_no_end_no_value_and_no_connection() {
    let seconds = number_from("KINGPOLE_STORM_SECONDS", 20);
    let seed = number_from("KINGPOLE_STORM_SEED", 1);
    eprintln!(
        "repeat: KINGPOLE_STORM_SEED={seed} KINGPOLE_STORM_SECONDS={seconds} cargo test -p \
         kingpole-tests --test guard storm"
    );
    let kernel = Kernel::start();
    let mut driver = Driver::new(&kernel, seed);
    driver.start_server();
    let over = AtomicBool::new(false);
    let kills = &Kills::default();
    std::thread::scope(|scope| {
        let mut killer = Killer::new(&kernel, seed ^ 0xdead);
        let over = &over;
        let killing = scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if killer.chance(12) {
                    killer.kill_guard();
                } else {
                    // Now and then inside the recovery from the one before.
                    let most = if killer.chance(3) { 5_000 } else { 50_000 };
                    killer.pause(most);
                    killer.kill_kernel();
                }
                kills.kernels.store(killer.kernels, Ordering::Relaxed);
                kills.guards.store(killer.guards, Ordering::Relaxed);
            }
        });
        // The killer stops when the driver fails, too.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = Stop(over);
        let begun = Instant::now();
        // A busy machine takes longer until it was a storm.
        let enough = |verified: &Verified| {
            begun.elapsed() >= Duration::from_secs(seconds)
                && kills.enough(seconds)
                && verified.children > seconds
        };
        while !enough(&driver.verified) {
            driver.act();
            assert!(
                begun.elapsed() < Duration::from_secs(10 * seconds) + wait::PATIENCE,
                "no storm comes up: {kills:?}, {:?}",
                driver.verified
            );
        }
        drop(stop);
        killing.join().expect("the killer is alive");
    });
    driver.finish();
    println!("{kills:?}; {:?}", driver.verified);
    assert!(driver.verified.bytes > 0, "{:?}", driver.verified);

    // Nothing is left over: no process, no descriptor.
    let status = driver.status();
    let mut left = driver.insist("the list", Client::processes);
    left.retain(|process| process.name != "server");
    assert!(left.is_empty(), "{left:?}");
    wait::until("only the server is left of all children", || {
        let of_guard = children(status.guard_pid);
        let of_kernel = children(status.pid);
        let others = of_guard
            .iter()
            .filter(|pid| **pid != status.pid)
            .chain(&of_kernel);
        match others.count() {
            // It is nobody's child once the guard that had it was killed.
            0 | 1 => Ok(()),
            count => Err(format!("{count}: {of_guard:?} {of_kernel:?}")),
        }
    });
    // The server, its socket, the listeners, what both share, and no more.
    let fresh = Kernel::start();
    let mut other = Driver::new(&fresh, seed);
    other.start_server();
    let calm = other.status();
    wait::until("the guard holds what that of a calm kernel holds", || {
        let (stormy, calm) = (kinds(driver.status().guard_pid), kinds(calm.guard_pid));
        if stormy == calm {
            Ok(())
        } else {
            Err(format!("{stormy:?}, not {calm:?}"))
        }
    });
}

#[test]
fn a_kernel_after_one_that_was_killed_with_its_guard_says_so() {
    let scratch = std::rc::Rc::new(kingpole_tests::Scratch::new());
    let none: &[&str] = &[];
    let mut kernel = Kernel::start_in(std::rc::Rc::clone(&scratch), none);
    let status = kernel.client().status().unwrap();
    // Stopped first, so that neither can replace the other.
    let serving = kernel.serving();
    kernel.process().handle().stop();
    serving.signal(libc::SIGKILL).unwrap();
    serving.wait_ended("the kernel");
    kernel.process_mut().kill();
    let next = Kernel::start_in(scratch, none);
    let said = format!(
        "the kernel before this one (pid {}) was killed together with its guard (pid {})",
        status.pid, status.guard_pid
    );
    assert!(next.log().contains(&said), "{}", next.log());
    assert_eq!(next.client().status().unwrap().epoch, 1);
}

#[test]
fn what_was_started_while_the_guard_was_stopped_survives_the_kernel() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let guard = kernel.process().handle();
    guard.stop();
    let mut pids = Vec::new();
    for n in 0..30 {
        let name = format!("child {n}");
        let spec = kingpole_tests::puppet::program(&name, &["/bin/sleep", "1000"]);
        pids.push(client.spawn(&name, spec).unwrap().process.pid);
    }
    // What the guard has not received yet is safe in its queue.
    kernel.serving().signal(libc::SIGKILL).unwrap();
    guard.signal(libc::SIGCONT).unwrap();
    let found = wait::until("the next kernel", || {
        let mut client = kernel
            .try_client("t/1")
            .map_err(|error| error.to_string())?;
        client.processes().map_err(|error| error.to_string())
    });
    let running = found
        .iter()
        .filter(|one| one.end.is_none())
        .map(|one| one.pid);
    assert_eq!(running.collect::<Vec<_>>(), pids);
}

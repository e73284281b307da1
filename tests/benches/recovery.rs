//! How long clients wait when the kernel is killed, when its guard is, and when it is upgraded, with
//! 60 and with 1,000 children. Measured from outside: from the kill (or the request) to the first
//! answered request of a new (or the same) session.
//!
//! The pause of an upgrade is what another session sees that asks all the time: its longest wait. Its limit
//! is a bare start of the same program in the same run: exec, and its end.

use kingpole_protocol::client::blocking::Client;
use kingpole_tests::process::Handle;
use kingpole_tests::storm::Killer;
use kingpole_tests::{Kernel, binaries, puppet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 20;

fn main() {
    for count in [60, 1000] {
        let kernel = Kernel::start();
        let mut client = kernel.client();
        for n in 0..count {
            let name = format!("sleeper {n}");
            let spec = puppet::program(&name, &["/bin/sleep", "100000"]);
            client.spawn(&name, spec).expect("a child");
        }
        let killer = Killer::new(&kernel, 1);
        let mut kernels = Vec::new();
        let mut guards = Vec::new();
        let mut upgrades = Vec::new();
        for _ in 0..ROUNDS {
            let status = killer.serving();
            let handle = Handle::open(status.pid).expect("the kernel");
            kernels.push(until_answered(
                &kernel,
                || handle.signal(libc::SIGKILL).expect("kill"),
                status.pid,
            ));
        }
        for _ in 0..ROUNDS {
            let status = killer.serving();
            let handle = Handle::open(status.guard_pid).expect("the guard");
            guards.push(until_answered(
                &kernel,
                || handle.signal(libc::SIGKILL).expect("kill"),
                status.pid,
            ));
        }
        let mut pauses = Vec::new();
        for _ in 0..ROUNDS {
            let (asked, pause) = upgrade(&kernel);
            upgrades.push(asked);
            pauses.push(pause);
        }
        let bare = (0..ROUNDS).map(|_| bare_start()).collect::<Vec<_>>();
        println!("{count} children:");
        for (what, mut times) in [
            ("kernel killed", kernels),
            ("guard killed ", guards),
            ("upgrade      ", upgrades),
            ("its pause    ", pauses),
            ("bare start   ", bare),
        ] {
            times.sort();
            println!(
                "  {what}: median {:.1} ms, most {:.1} ms",
                times[times.len() / 2].as_secs_f64() * 1e3,
                times[times.len() - 1].as_secs_f64() * 1e3
            );
        }
        assert_eq!(killer.serving().processes_running, count, "all are there");
    }
}

/// From `act` to the first answer of a kernel with another pid.
fn until_answered(kernel: &Kernel, act: impl FnOnce(), before: i32) -> Duration {
    let begun = Instant::now();
    act();
    loop {
        let answer = kernel
            .try_client("bench/1")
            .and_then(|mut client: Client| client.status());
        if answer.is_ok_and(|status| status.pid != before) {
            return begun.elapsed();
        }
    }
}

/// What the session that asks sees of an upgrade, its rehearsal included, and the longest that another
/// one waits for an answer meanwhile.
fn upgrade(kernel: &Kernel) -> (Duration, Duration) {
    let mut text = UnixStream::connect(kernel.socket()).expect("a session");
    let read = |text: &mut UnixStream| {
        let mut bytes = Vec::new();
        let mut some = [0; 4096];
        while !bytes.ends_with(b"> ") {
            let count = text.read(&mut some).expect("an answer");
            bytes.extend_from_slice(&some[..count]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    read(&mut text);
    let mut other = kernel.client();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                other.values("none").expect("an answer");
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        let begun = Instant::now();
        let line = format!("upgrade {}\n", binaries::kernel().display());
        text.write_all(line.as_bytes()).expect("a line");
        let answer = read(&mut text);
        let asked = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        assert!(answer.contains(" carried in "), "{answer}");
        (asked, asks.join().expect("the other session"))
    })
}

/// The same program, started for nothing.
fn bare_start() -> Duration {
    let begun = Instant::now();
    let status = Command::new(binaries::kernel())
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("it runs").success());
    begun.elapsed()
}

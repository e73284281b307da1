//! How a kernel begins, stays, sleeps and ends.

use crate::harness::{Kernel, PATIENCE, follow_to_the_end, script, until};
use crate::{end_of, refused};
use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::ids::Sequence;
use kingpole_protocol::places::Address;
use kingpole_protocol::request::{Commit, ExitIfIdle};
use kingpole_protocol::status::EndStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};

#[test]
fn a_kernel_that_holds_something_stays_on_sigterm_and_goes_on_sigquit() {
    let mut kernel = Kernel::start();
    let mut client = kernel.connect();
    let child = client
        .spawn("k", script("a", "exec sleep 600"))
        .unwrap()
        .process;
    assert_eq!(
        refused(client.call(ExitIfIdle {})).code,
        ErrorCode::NOT_IDLE
    );
    kill(
        Pid::from_raw(kernel.process.id().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    until("word of SIGTERM in the log", || {
        let log = kernel.log();
        if log.contains("so the kernel stays") {
            Ok(())
        } else {
            Err(log)
        }
    });
    client.status().unwrap();
    kill(Pid::from_raw(kernel.pid()), Signal::SIGQUIT).unwrap();
    assert_eq!(kernel.process.wait().unwrap().code(), Some(0));
    kill(Pid::from_raw(child.pid), Signal::SIGKILL).expect("children are not signalled");
}

#[test]
fn a_terminal_that_goes_away_takes_nothing_along() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let before = client.welcome().epoch;
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", kernel.pid());
        std::fs::read_to_string(path).unwrap()
    };
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        for pid in children()
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
        {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
        kill(Pid::from_raw(kernel.pid()), signal).unwrap();
    }
    client.status().unwrap();
    assert_eq!(kernel.connect().welcome().epoch, before);
    // Nor do children inherit that they are deaf to it.
    let text = "kill -HUP $$; echo survived";
    let process = client
        .spawn("k", script("a", text))
        .unwrap()
        .process
        .process;
    let signaled = EndStatus::Signaled {
        signal: 1,
        core_dumped: false,
    };
    assert_eq!(end_of(&mut client, process), signaled);
}

#[test]
fn an_idle_kernel_ends_when_asked_and_says_goodbye() {
    let mut kernel = Kernel::start();
    let mut client = kernel.connect();
    let process = client
        .spawn("k", script("a", "true"))
        .unwrap()
        .process
        .process;
    let seen = follow_to_the_end(&mut client, process);
    end_of(&mut client, process);
    assert_eq!(seen.last, Sequence(0));
    client
        .commit(Commit {
            ends: vec![process],
            ..Commit::default()
        })
        .unwrap();
    client.call(ExitIfIdle {}).unwrap();
    assert_eq!(kernel.process.wait().unwrap().code(), Some(0));
    assert!(!kernel.socket().exists());
}

#[test]
fn a_second_kernel_on_the_same_directory_is_refused() {
    let kernel = Kernel::start();
    let second = Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
        .arg("--runtime-dir")
        .arg(kernel.directory.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(73));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        text.contains(&format!("(pid {}) is already running", kernel.process.id())),
        "{text}"
    );
    kernel.connect().status().unwrap();
}

#[test]
fn in_the_background_it_returns_once_it_answers() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kernel.sock");
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
            .arg("--daemonize")
            .arg("--runtime-dir")
            .arg(directory.path())
            .arg("--listen")
            .arg(format!(
                "unix:{}",
                directory.path().join("other.sock").display()
            ))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    assert_eq!(run().status.code(), Some(0));
    let mut client = Client::connect(&Address::Unix(socket), "test/1", Some(PATIENCE)).unwrap();
    assert_eq!(run().status.code(), Some(73));
    assert!(directory.path().join("kernel.log").exists());
    client.call(ExitIfIdle {}).unwrap();
}

#[test]
fn a_public_address_or_a_taken_path_is_refused_at_the_start() {
    let run = |address: &str| {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
            .arg("--runtime-dir")
            .arg(directory.path())
            .arg("--listen")
            .arg(address)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = run("tcp:0.0.0.0:0");
    assert_eq!(code, Some(69));
    assert!(text.contains("only loopback addresses"), "{text}");
    assert_eq!(run("unix:/etc/passwd").0, Some(69));
    assert_eq!(run("http:x").0, Some(2));
}

#[test]
fn a_quiet_kernel_sleeps_in_one_thread() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    client.spawn("k", script("a", "exec sleep 1000")).unwrap();
    client.status().unwrap();
    assert_eq!(kernel.status("Threads"), 1);
    let switches = || kernel.status("voluntary_ctxt_switches");
    // It may still be on its way to sleep, or have something to do once a moment later.
    until("an interval without a wake-up", || {
        let before = switches();
        // Nothing to wait for: the absence of wake-ups is what is tested.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let after = switches();
        if after == before {
            Ok(())
        } else {
            Err(format!("{before} wake-ups, then {after}"))
        }
    });
}

//! Promise: a kernel starts where it is told, never beside another one, and ends only when it is
//! told and holds nothing.

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::places::Address;
use kingpole_tests::process::{Guarded, Handle};
use kingpole_tests::puppet::Puppet;
use kingpole_tests::{Kernel, Scratch, wait};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::rc::Rc;

/// Runs a kernel that is expected to end at once.
fn refused(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut command = Kernel::command(scratch);
    command.args(arguments);
    let log = scratch.fresh("refused");
    let mut process = Guarded::start("kingpole-kernel", command, log.clone());
    let status = process.wait();
    Output {
        status,
        stdout: Vec::new(),
        stderr: std::fs::read(log).unwrap(),
    }
}

#[track_caller]
fn check(output: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(says), "{says:?} is not said: {said}");
}

#[test]
fn a_second_kernel_says_so_and_exits_with_73() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "held", |_| {});
    for _ in 0..3 {
        let second = refused(kernel.scratch(), &[]);
        check(
            &second,
            73,
            &kernel.scratch().runtime_dir().display().to_string(),
        );
    }
    assert_eq!(puppet.report()["pid"], puppet.info.pid);
    assert_eq!(kernel.client().processes().unwrap().len(), 1);
}

#[test]
fn a_kernel_takes_the_place_of_one_that_was_killed() {
    // Without a guard: where there is one, it and this test would start the next kernel in a race.
    let mut kernel = Kernel::start_in(Rc::new(Scratch::new()), &["--no-guard"]);
    let scratch = Rc::clone(kernel.scratch());
    kernel.process_mut().kill();
    let next = Kernel::start_in(scratch, &["--no-guard"]);
    assert_eq!(next.client().processes().unwrap(), []);
}

#[test]
fn a_runtime_directory_that_others_may_write_to_is_refused_with_77() {
    let scratch = Scratch::new();
    let directory = scratch.runtime_dir();
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    check(
        &refused(&scratch, &[]),
        77,
        &directory.display().to_string(),
    );
}

#[test]
fn an_address_that_cannot_be_had_is_refused_with_69() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    check(&refused(&scratch, &["--listen", &address]), 69, &address);
}

#[test]
fn a_command_line_without_sense_is_refused_with_2() {
    let scratch = Scratch::new();
    check(&refused(&scratch, &["--frobnicate"]), 2, "--frobnicate");
    check(&refused(&scratch, &["--listen", "nonsense"]), 2, "nonsense");
    for outside in ["tcp:0.0.0.0:0", "tcp:192.0.2.1:1"] {
        let answer = refused(&scratch, &["--listen", outside]);
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(
            !answer.status.success() && said.contains("loopback"),
            "{outside}: {said}"
        );
    }
}

#[test]
fn tcp_sessions_are_the_same_as_unix_ones() {
    let scratch = Rc::new(Scratch::new());
    let kernel = Kernel::start_in(scratch, &["--listen", "tcp:127.0.0.1:0"]);
    let address: Address = wait::until("the port is logged", || {
        let log = kernel.log();
        let place = log
            .split_whitespace()
            .find(|word| word.starts_with("tcp:127.0.0.1:"));
        place.and_then(|p| p.parse().ok()).ok_or(log)
    });
    let mut client = Client::connect(&address, "tcp/1", Some(wait::PATIENCE)).unwrap();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "over tcp", |_| {});
    assert_eq!(puppet.report()["pid"], puppet.info.pid);
    assert_eq!(
        kernel.client().processes().unwrap(),
        client.processes().unwrap()
    );
    puppet.tell("exit 0");
}

#[test]
fn sigterm_ends_a_kernel_that_holds_nothing_and_no_other() {
    let mut kernel = Kernel::start();
    let mut puppet = Puppet::spawn(&kernel, &mut kernel.client(), "held", |_| {});
    let lines = kernel.log().lines().count();
    kernel.process().handle().signal(libc::SIGTERM).unwrap();
    wait::until("it says why it stays", || {
        let log = kernel.log();
        let news: Vec<&str> = log.lines().skip(lines).collect();
        if news.iter().any(|l| l.contains("process")) {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(puppet.report()["pid"], puppet.info.pid);
    let mut client = kernel.client();
    client
        .call(kingpole_protocol::request::Remove {
            process: puppet.process(),
        })
        .unwrap();
    puppet.tell("exit 0");
    wait::until("it holds nothing", || {
        let left = client.processes().unwrap();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    drop(client);
    kernel.process().handle().signal(libc::SIGTERM).unwrap();
    assert!(kernel.process_mut().wait().success());
    assert!(!kernel.socket().exists(), "its socket goes with it");
}

#[test]
fn systemd_is_told_when_it_is_ready() {
    let scratch = Scratch::new();
    let path = scratch.join("notify.sock");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let mut command = Kernel::command(&scratch);
    command.env("NOTIFY_SOCKET", &path);
    let _kernel = Guarded::start("kingpole-kernel", command, scratch.join("kernel.log"));
    let mut buffer = [0; 1024];
    let count = listener.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    assert!(text.lines().any(|line| line == "READY=1"), "{text}");
}

#[test]
fn in_the_background_it_answers_before_the_command_returns() {
    let scratch = Rc::new(Scratch::new());
    let output = refused(&scratch, &["--daemonize"]);
    let socket = Address::kernel_in(&scratch.runtime_dir());
    let client = Client::connect(&socket, "after/1", Some(wait::PATIENCE));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let mut client = client.unwrap_or_else(|e| panic!("{e}; {said}"));
    let status = client.status().unwrap();
    let [kernel, guard] = [status.pid, status.guard_pid].map(|pid| Handle::open(pid).unwrap());
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(status.pid))).unwrap();
    // Killing either would only make the other replace it.
    kernel.signal(libc::SIGQUIT).unwrap();
    assert_ne!(
        session,
        nix::unistd::getsid(None).unwrap(),
        "it has left the terminal's session"
    );
    kernel.wait_ended("the kernel in the background");
    guard.wait_ended("its guard");
}

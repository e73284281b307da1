//! Promise: a watcher that is `on_demand` costs nothing until somebody connects to it, and nobody who
//! connects is lost, whatever happens to managers (P1, P10).

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::{Kernel, Manager, Scratch, binaries, wait};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// A puppet that tells its pid to whoever connects, below a manager that does without it for now.
fn configuration(scratch: &Scratch) -> std::path::PathBuf {
    let text = format!(
        "[circus]\ncheck_delay = 0.5\n[socket:door]\npath = {}\n\
         [watcher:server]\ncmd = {} 'serve $(circus.sockets.door)' wait\non_demand = true\n\
         [watcher:other]\ncmd = /bin/sleep 100000\n",
        scratch.join("door.sock").display(),
        binaries::puppet().display()
    );
    scratch.write("stack.ini", text)
}

fn connect(scratch: &Scratch) -> UnixStream {
    let path = scratch.join("door.sock");
    let connection = wait::until("the socket is there", || UnixStream::connect(&path));
    connection.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    connection
}

/// The pid of who has accepted.
#[track_caller]
fn served_by(mut connection: UnixStream) -> i64 {
    let mut said = String::new();
    connection.read_to_string(&mut said).unwrap();
    said.trim()
        .parse()
        .unwrap_or_else(|e| panic!("{said:?}: {e}"))
}

#[track_caller]
fn wait_for_state(manager: &Manager, wanted: &str) {
    wait::until("the server is as it shall be", || {
        let status = manager.status()?;
        let watchers = status["watchers"].as_array().cloned().unwrap_or_default();
        let server = watchers.iter().find(|it| it["name"] == "server").cloned();
        let server = server.ok_or("there is no server")?;
        match server["state"] == wanted {
            true => Ok(()),
            false => Err(server.to_string()),
        }
    });
}

#[track_caller]
fn command(scratch: &Scratch, arguments: &[&str]) {
    let answer = kingpole(scratch, arguments);
    assert!(
        answer.status.success(),
        "{arguments:?}: {}",
        describe(&answer)
    );
}

#[test]
fn the_first_connection_starts_it_and_the_next_one_after_its_end_does_so_again() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let manager = Manager::start(&scratch, &configuration(&scratch));
    wait::until("the other one runs", || manager.pids("other"));
    wait_for_state(&manager, "stopped");
    command(&scratch, &["start", "server", "--wait"]);
    wait_for_state(&manager, "stopped");
    let first = served_by(connect(&scratch));
    assert_eq!(wait::until("it runs", || manager.pids("server")), [first]);
    assert_eq!(served_by(connect(&scratch)), first, "it goes on serving");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for_state(&manager, "stopped");
    let second = served_by(connect(&scratch));
    assert_ne!(first, second);
    command(&scratch, &["stop", "server", "--wait"]);
    let waiting = connect(&scratch);
    wait_for_state(&manager, "stopped");
    command(&scratch, &["start", "server"]);
    assert_ne!(served_by(waiting), second);
}

#[test]
fn a_connection_while_no_manager_or_no_kernel_is_there_starts_it_later() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let mut manager = Manager::start(&scratch, &configuration(&scratch));
    wait::until("the other one runs", || manager.pids("other"));
    wait_for_state(&manager, "stopped");
    manager.kill();
    let waiting = connect(&scratch);
    manager.replace();
    let first = served_by(waiting);
    manager.wait_ready();
    assert_eq!(wait::until("it runs", || manager.pids("server")), [first]);
    manager.kill();
    manager.replace();
    manager.wait_ready();
    assert_eq!(
        wait::until("it is known", || manager.pids("server")),
        [first]
    );
    command(&scratch, &["stop", "server", "--wait"]);
    command(&scratch, &["start", "server", "--wait"]);
    let before = kernel.serving();
    before.signal(libc::SIGKILL).unwrap();
    before.wait_ended("the kernel");
    assert_ne!(served_by(connect(&scratch)), first);
}

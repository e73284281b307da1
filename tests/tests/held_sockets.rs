//! Promise: whoever connects to the manager while there is none waits for the next one instead of
//! failing, for the kernel holds the manager's sockets; a manager that quits takes them along.

use kingpole_tests::http;
use kingpole_tests::manager::{Manager, describe, kingpole};
use kingpole_tests::{Kernel, Scratch, wait};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const STACK: &str = "[watcher:one]\ncmd = /bin/sleep 100000\n";

fn manager_socket(scratch: &Scratch) -> PathBuf {
    scratch.runtime_dir().join("manager.sock")
}

/// Sends a request and does not wait for the answer.
#[track_caller]
fn ask(socket: &Path) -> UnixStream {
    let mut connection = UnixStream::connect(socket).unwrap();
    connection.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let request = b"GET /v1/status HTTP/1.1\r\nHost: manager\r\nConnection: close\r\n\r\n";
    connection.write_all(request).unwrap();
    connection
}

#[track_caller]
fn answer(mut connection: UnixStream) -> String {
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let (status, body) = http::parse(&answer).expect("a whole answer");
    assert_eq!(status, 200, "{body}");
    body
}

#[test]
fn requests_wait_for_the_next_manager_and_for_the_next_kernel() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write("stack.ini", STACK);
    let mut manager = Manager::start(&scratch, &configuration);
    let socket = manager_socket(&scratch);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let inode = std::fs::metadata(&socket).unwrap().ino();
    manager.kill();
    let waiting = [ask(&socket), ask(&socket)];
    let status = kingpole(&scratch, &["list"]);
    assert_eq!(status.status.code(), Some(3), "{}", describe(&status));
    let before = kernel.serving();
    before.signal(libc::SIGKILL).unwrap();
    before.wait_ended("the kernel");
    let late = ask(&socket);
    manager.replace();
    let own = format!("\"pid\":{}", manager.process().handle().pid());
    for connection in waiting.into_iter().chain([late]) {
        let body = answer(connection);
        assert!(body.replace(' ', "").contains(&own), "{body}");
    }
    assert_eq!(
        std::fs::metadata(&socket).unwrap().ino(),
        inode,
        "the same socket"
    );
}

#[test]
fn leaving_keeps_the_socket_and_quitting_does_not() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write("stack.ini", STACK);
    let mut manager = Manager::start(&scratch, &configuration);
    let socket = manager_socket(&scratch);
    let left = kingpole(&scratch, &["detach"]);
    assert!(left.status.success(), "{}", describe(&left));
    assert!(manager.process_mut().wait().success());
    let waiting = ask(&socket);
    manager.replace();
    answer(waiting);
    manager.wait_ready();
    let quit = kingpole(&scratch, &["quit"]);
    assert!(quit.status.success(), "{}", describe(&quit));
    assert!(manager.process_mut().wait().success());
    assert!(!socket.exists());
    assert!(kernel.client().sockets().unwrap().is_empty());
}

#[test]
fn endpoints_that_the_file_names_no_more_are_closed_by_the_next_manager() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.join("stack.ini");
    let control = scratch.join("control.sock");
    let named = format!(
        "[circus]\nendpoint = ipc://{}\nmetrics_endpoint = 127.0.0.1:0\n{STACK}",
        control.display()
    );
    scratch.write("stack.ini", named);
    let mut manager = Manager::start(&scratch, &configuration);
    let held = || -> Vec<String> {
        let sockets = kernel.client().sockets().unwrap();
        sockets.into_iter().map(|it| it.spec.name).collect()
    };
    let all = ["kingpole.control", "kingpole.endpoint", "kingpole.metrics"];
    let becomes = |wanted: &[&str]| {
        wait::until(&format!("the kernel holds {wanted:?}"), || {
            let held = held();
            if held == wanted {
                Ok(())
            } else {
                Err(held.join(", "))
            }
        });
    };
    becomes(&all);
    manager.kill();
    scratch.write("stack.ini", format!("[circus]\nendpoint = off\n{STACK}"));
    assert_eq!(held(), all, "nobody is there to close them");
    manager.replace();
    becomes(&all[..1]);
    assert!(!control.exists());
}

#[test]
fn a_socket_whose_path_was_lost_is_made_again() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write("stack.ini", STACK);
    let mut manager = Manager::start(&scratch, &configuration);
    let socket = manager_socket(&scratch);
    manager.kill();
    std::fs::remove_file(&socket).unwrap();
    manager.replace();
    manager.wait_ready();
    manager.kill();
    // One that nobody serves any more, at the place of the one that is held.
    std::fs::remove_file(&socket).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    manager.replace();
    manager.wait_ready();
    assert_eq!(kernel.client().sockets().unwrap().len(), 1);
}

#[test]
fn a_manager_that_was_there_first_hands_its_socket_over() {
    let scratch = Rc::new(Scratch::new());
    let configuration = scratch.write("stack.ini", STACK);
    let mut manager = Manager::launch(&scratch, &configuration);
    wait::until("the manager answers without a kernel", || {
        let answer = kingpole(&scratch, &["status"]);
        let text = describe(&answer);
        match answer.status.success() && text.contains("out of reach") {
            true => Ok(()),
            false => Err(text),
        }
    });
    let kernel = Kernel::start_in(Rc::clone(&scratch), &[] as &[&str]);
    wait::until("the kernel holds it", || {
        let sockets = kernel.client().sockets().unwrap();
        match sockets.len() {
            1 => Ok(()),
            _ => Err(format!("{sockets:?}")),
        }
    });
    manager.wait_ready();
    manager.kill();
    let waiting = ask(&manager_socket(&scratch));
    manager.replace();
    answer(waiting);
}

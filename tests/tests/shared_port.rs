//! Promise: where the processes of a watcher share a port, a look whether one of them is ready counts only what that one
//! answers itself.

use kingpole_tests::manager::{describe, kingpole, kingpole_command};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use serde_json::Value;
use std::rc::Rc;

/// Serves on a socket that it is given once a file is there.
const SERVER: &str = r#"
import os, socket, sys, time
listener = socket.socket(fileno=int(sys.argv[1]))
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
while True:
    connection, _ = listener.accept()
    request = b""
    while b"\r\n\r\n" not in request:
        piece = connection.recv(4096)
        if not piece:
            break
        request += piece
    else:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    connection.close()
"#;

struct Bench {
    // In this order: the manager ends before its kernel.
    manager: Manager,
    scratch: Rc<Scratch>,
    _kernel: Kernel,
}

impl Bench {
    /// A process that serves once `go-1` is there, as it is; the next one waits for `go-2`.
    fn new(probe: &str, socket: &str) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let server = scratch.write("server.py", SERVER);
        scratch.write("go-1", "");
        // An address that nobody else on this machine has, with a port that was free.
        let [_, b, c, d] = std::process::id().to_be_bytes();
        let host = format!("127.{}.{c}.{d}", b | 0x40);
        let port = {
            let listener = std::net::TcpListener::bind((&*host, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let directory = scratch.path().display();
        let probe = probe.replace("PLACE", &format!("{host}:{port}"));
        let configuration = format!(
            "[watcher:web]\n\
             cmd = python3 {} $(circus.sockets.web) {directory}/go-$(circus.wid)\n\
             copy_env = true\nready = {probe}\nready_interval = 0.1\nready_timeout = 300\n\
             [socket:web]\nhost = {host}\nport = {port}\n{socket}",
            server.display()
        );
        let file = scratch.write("web.ini", configuration);
        let manager = Manager::start(&scratch, &file);
        let bench = Self {
            manager,
            scratch,
            _kernel: kernel,
        };
        bench.until("the first one is ready", |watcher| watcher["ready"] == 1);
        bench
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || {
            let status = self.manager.status()?;
            let watcher = status["watchers"][0].clone();
            match is(&watcher) {
                true => Ok(watcher),
                false => Err(format!("{watcher}\n{}", self.manager.log())),
            }
        })
    }

    /// A rolling reload goes on only once the new process itself answers, and the old one serves until then.
    #[track_caller]
    fn roll(&self, why: impl Fn(&Bench, &Value) -> bool) {
        let old = wait::until("the first one runs", || self.manager.pids("web"));
        let roll = ["reload", "web", "--rolling", "--timeout", "300s"];
        let mut roll = kingpole_command(&self.scratch, &roll);
        let roll = roll.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let reason = self.until("the new one is looked at", |watcher| {
            let new = &watcher["processes"][1];
            new["readiness"] == "starting" && why(self, new)
        });
        assert_eq!(reason["processes"][0]["pid"], old[0], "{reason}");
        assert_eq!(reason["processes"][0]["readiness"], "ready", "{reason}");
        self.scratch.write("go-2", "");
        let output = roll.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", describe(&output));
        let new = wait::until("the new one runs", || self.manager.pids("web"));
        assert!(new.len() == 1 && new != old, "{new:?} for {old:?}");
    }
}

/// What is said of a process when the first one has answered for it.
fn names_the_other(bench: &Bench, process: &Value) -> bool {
    let other = bench.manager.status().expect("a status");
    let other = &other["watchers"][0]["processes"][0]["pid"];
    let reason = process["readiness_reason"].as_str().unwrap_or_default();
    reason.contains(&format!("is answered by pid {other} of the same watcher"))
}

#[test]
fn a_request_that_another_one_answers_does_not_count() {
    Bench::new("http http://PLACE/", "").roll(names_the_other);
}

#[test]
fn a_connection_that_another_one_takes_does_not_count() {
    Bench::new("tcp PLACE", "").roll(names_the_other);
}

#[test]
fn nor_does_what_somebody_else_with_a_socket_of_its_own_answers() {
    let bench = Bench::new("http http://PLACE/", "so_reuseport = true\n");
    // Linux hands some connections to the new one, which takes none yet.
    bench.roll(|_, _| true);
}

#[test]
fn whoever_else_is_asked_counts_as_before() {
    // Not a process of the watcher, as a proxy in front would be.
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let bench = Bench::new(&format!("tcp {address}"), "");
    std::thread::spawn(move || proxy.incoming().for_each(drop));
    let rolled = kingpole(&bench.scratch, &["reload", "web", "--rolling"]);
    assert!(rolled.status.success(), "{}", describe(&rolled));
}

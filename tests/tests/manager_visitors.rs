//! Promise: whoever is connected to `manager.sock` when the manager becomes another program goes on with
//! the next one: what was asked in advance is answered once and on the same connection, whether the new
//! program stays or gives way to the one before.

use kingpole_tests::manager::Manager;
use kingpole_tests::{Kernel, Scratch, binaries, wait};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Processes that the watcher begins with.
const FIRST: usize = 1;

struct Started {
    manager: Manager,
    scratch: Rc<Scratch>,
    // Ends last.
    _kernel: Kernel,
}

fn started() -> Started {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let text = format!("[watcher:one]\ncmd = /bin/sleep 100000\nnumprocesses = {FIRST}\n");
    let configuration = scratch.write("stack.ini", text);
    let manager = Manager::start(&scratch, &configuration);
    wait::until("it runs", || manager.pids("one"));
    Started {
        manager,
        scratch,
        _kernel: kernel,
    }
}

/// A connection that is kept.
struct Visitor(BufReader<UnixStream>);

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: m\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn incr() -> String {
    request(
        "POST",
        "/v1/commands",
        &json!({"command": "incr", "watchers": ["one"]}).to_string(),
    )
}

impl Visitor {
    fn new(scratch: &Scratch) -> Self {
        let stream = UnixStream::connect(scratch.runtime_dir().join("manager.sock")).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("asks");
    }

    /// One answer, which says nothing of an end of the connection.
    fn answer(&mut self) -> Value {
        let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            let count = self.0.read_line(&mut line).expect("is answered");
            assert!(count > 0, "the connection was closed after {status:?}");
            let text = line.trim_end();
            match text.split_once(": ") {
                None if text.is_empty() => break,
                None => status = text.to_owned(),
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().expect("a length");
                }
                Some((name, value)) => {
                    let ends = name.eq_ignore_ascii_case("connection") && value == "close";
                    assert!(!ends, "the connection is to end");
                }
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole answer");
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(status.contains(" 200 "), "{status}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn ask(&mut self, text: &str) -> Value {
        self.send(text);
        self.answer()
    }

    /// The attempt that is the last one, once it is over.
    fn wait_upgraded(&mut self, attempt: &Value) -> Value {
        wait::until("the attempt is over", || {
            let answer = self.ask(&request("GET", "/v1/upgrade", ""));
            match answer["last"]["attempt"] == *attempt {
                true => Ok(answer["last"].clone()),
                false => Err(answer.to_string()),
            }
        })
    }
}

fn wanted(program: &Path) -> String {
    request(
        "POST",
        "/v1/upgrade",
        &json!({ "program": program }).to_string(),
    )
}

fn check_upgrade_in_the_middle(it: &Started, program: &Path) -> Value {
    let (mut kept, mut silent) = (Visitor::new(&it.scratch), Visitor::new(&it.scratch));
    let status = request("GET", "/v1/status", "");
    kept.ask(&status);
    // Asked in one go: the upgrade, and behind it what only the next manager can get to.
    let mut asking = Visitor::new(&it.scratch);
    let ahead = 5;
    let half = incr();
    let (begun, rest) = half.split_at(half.len() / 2);
    asking.send(&(wanted(program) + &incr().repeat(ahead) + begun));
    let going = asking.answer();
    assert_eq!(going["state"], "going", "{going}");
    for _ in 0..ahead {
        asking.answer();
    }
    // One was half asked to one manager, and half to the next.
    asking.ask(rest);
    let last = asking.wait_upgraded(&going["attempt"]);
    kept.ask(&status);
    silent.ask(&status);
    let count = FIRST + ahead + 1;
    let pids = wait::until("each was done once", || {
        let pids = it.manager.pids("one")?;
        match pids.len() == count {
            true => Ok(pids),
            false => Err(format!("{} processes, not {count}", pids.len())),
        }
    });
    assert_eq!(pids.len(), count);
    last
}

#[test]
fn what_was_asked_in_advance_is_answered_once_by_the_next_manager() {
    let it = started();
    let last = check_upgrade_in_the_middle(&it, binaries::manager());
    assert_eq!(last["reason"], Value::Null, "{last}");
}

#[test]
fn what_was_asked_in_advance_is_answered_once_when_the_next_manager_gives_way() {
    let it = started();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*--resume-reason*) ;;\n\
         *--resume*) exec {real} \"$@\" --pidfile /nowhere/manager.pid;;\nesac\nexec {real} \"$@\"\n",
        real = binaries::manager().display()
    );
    let program = it.scratch.program("candidate", script.as_bytes());
    let last = check_upgrade_in_the_middle(&it, &program);
    let reason = last["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("/nowhere/manager.pid"), "{last}");
}

#[test]
fn clients_that_ask_without_waiting_lose_no_answer_while_managers_follow_each_other() {
    let it = started();
    let over = AtomicBool::new(false);
    let scratch: &Scratch = &it.scratch;
    let clients: Vec<Visitor> = (0..3).map(|_| Visitor::new(scratch)).collect();
    let answered = std::thread::scope(|scope| {
        let over = &over;
        let clients = clients.into_iter().map(|mut visitor| {
            scope.spawn(move || {
                let get = request("GET", "/v1/watchers/one", "");
                let mut answered = 0_usize;
                while !over.load(Ordering::Relaxed) {
                    visitor.send(&get.repeat(7));
                    for _ in 0..7 {
                        assert_eq!(visitor.answer()["name"], "one");
                        answered += 1;
                    }
                }
                answered
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut asking = Visitor::new(scratch);
        for _ in 0..4 {
            let going = asking.ask(&wanted(binaries::manager()));
            let last = asking.wait_upgraded(&going["attempt"]);
            assert_eq!(last["reason"], Value::Null, "{last}");
        }
        over.store(true, Ordering::Relaxed);
        let answered = clients.into_iter().map(|client| client.join().unwrap());
        answered.collect::<Vec<_>>()
    });
    assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
    assert_eq!(it.manager.log().matches("upgrade: manager").count(), 4);
}

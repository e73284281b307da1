//! Promise: the manager becomes another program, and a ZeroMQ client notices at most a pause: what it has asked is
//! answered once, on the same connection, and what it has subscribed to it hears.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::puppet::Stage;
use kingpole_tests::zeromq::{Kind, Peer};
use kingpole_tests::{Kernel, Manager, Scratch, binaries, wait};
use serde_json::{Value, json};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an upgrade waits for commands that somebody waits for.
const ANSWERS_PATIENCE: Duration = Duration::from_secs(5);

/// Requests of one client that wait for their answers.
const UNDER_WAY: u64 = 5;

struct Served {
    manager: Manager,
    scratch: Rc<Scratch>,
    _kernel: Kernel,
}

fn served(more: &str) -> Served {
    served_by(Kernel::start(), more)
}

fn served_by(kernel: Kernel, more: &str) -> Served {
    let scratch = Rc::clone(kernel.scratch());
    let directory = scratch.path().display();
    let configuration = format!(
        "[circus]\nendpoint = ipc://{directory}/control.sock\n\
         pubsub_endpoint = ipc://{directory}/events.sock\n\
         [watcher:sleeper]\ncmd = /bin/sleep 100000\n{more}"
    );
    let file = scratch.write("circus.ini", configuration);
    let manager = Manager::start(&scratch, &file);
    wait::until("it runs", || manager.pids("sleeper"));
    Served {
        manager,
        scratch,
        _kernel: kernel,
    }
}

fn connect(scratch: &Scratch, name: &str, kind: Kind) -> Peer {
    let endpoint = format!("ipc://{}/{name}.sock", scratch.path().display());
    wait::until("the endpoint is there", || Peer::connect(&endpoint, kind))
}

#[track_caller]
fn upgrade(scratch: &Scratch, program: Option<&Path>) -> bool {
    let mut arguments = vec!["upgrade", "--manager"];
    arguments.extend(program.and_then(Path::to_str));
    let done = kingpole(scratch, &arguments);
    let said = describe(&done);
    assert!(
        done.status.success() == said.contains("became"),
        "neither done nor undone: {said}"
    );
    done.status.success()
}

/// Asks without end, `UNDER_WAY` at a time; how often it was answered. Nothing is ever asked again.
fn ask_until(stop: &AtomicBool, mut peer: Peer, answered: &AtomicU64) {
    let ask = |peer: &mut Peer, id: u64| {
        let request = json!({"command": "numwatchers", "id": id}).to_string();
        peer.send(request.as_bytes())
            .expect("the connection is there");
    };
    let (mut asked, mut heard) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        while asked - heard < UNDER_WAY {
            ask(&mut peer, asked);
            asked += 1;
        }
        expect(&mut peer, heard);
        heard += 1;
        answered.fetch_add(1, Ordering::Relaxed);
    }
    while heard < asked {
        expect(&mut peer, heard);
        heard += 1;
    }
}

#[track_caller]
fn expect(peer: &mut Peer, id: u64) {
    let answer = peer.answer().expect("answered");
    assert_eq!(
        (&answer["status"], &answer["id"]),
        (&json!("ok"), &json!(id)),
        "{answer}"
    );
    assert_eq!(answer["numwatchers"], 1, "{answer}");
}

#[test]
fn who_asks_while_the_manager_is_upgraded_is_answered_once_on_the_same_connection() {
    let served = served("");
    let scratch: &Scratch = &served.scratch;
    let broken = {
        let real = binaries::manager().display();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n*--resume*) exec {real} \"$@\" --pidfile /nowhere/x.pid;;\nesac\n\
             exec {real} \"$@\"\n"
        );
        scratch.program("broken", script.as_bytes())
    };
    let mut subscriber = connect(scratch, "events", Kind::Subscriber);
    subscriber
        .send(b"\x01watcher.sleeper.updated")
        .expect("subscribed");
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = || answered.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let peer = connect(scratch, "control", Kind::Dealer);
            scope.spawn(|| ask_until(&stop, peer, &answered));
        }
        // Also when a test fails.
        let _stop = StopAtEnd(&stop);
        for (program, becomes) in [(None, true), (Some(broken.as_path()), false), (None, true)] {
            assert_eq!(upgrade(scratch, program), becomes);
            let before = count();
            wait::until_true("the clients go on", || count() > before + 10 * UNDER_WAY);
        }
    });
    let log = served.manager.log();
    assert!(log.contains("upgrade: failed"), "{log}");
    // Three programs later, the subscription of the first is heard.
    let set = kingpole(scratch, &["set", "sleeper", "graceful_timeout=5"]);
    assert!(set.status.success(), "{}", describe(&set));
    let (flags, topic) = subscriber.receive().expect("an event");
    assert_eq!((flags, topic), (1, b"watcher.sleeper.updated".as_slice()));
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn half_a_request_is_completed_with_the_next_program() {
    let served = served("");
    let mut peer = connect(&served.scratch, "control", Kind::Dealer);
    let request = br#"{"command": "numwatchers", "id": "whole"}"#;
    let mut frame = vec![0, u8::try_from(request.len()).expect("short")];
    frame.extend_from_slice(request);
    // A part before the body comes back in front of the answer, so it must not be lost either.
    peer.send_raw(b"\x01\x05route").expect("sent");
    peer.send_raw(&frame[..10]).expect("sent");
    // What was sent before on another connection has been read by now, and so has this.
    for _ in 0..20 {
        connect(&served.scratch, "control", Kind::Dealer)
            .ask(r#"{"command": "list"}"#)
            .expect("answered");
    }
    assert!(upgrade(&served.scratch, None));
    peer.send_raw(&frame[10..]).expect("sent");
    let (flags, route) = peer.receive().expect("answered");
    assert_eq!((flags, route), (1, b"route".as_slice()));
    let answer = peer.answer().expect("answered");
    assert_eq!(answer["id"], "whole", "{answer}");
}

#[test]
fn a_command_that_takes_its_time_is_answered_before_the_upgrade_goes_on() {
    let kernel = Kernel::start();
    let stage = Stage::new(kernel.scratch());
    let slow = format!(
        "[watcher:slow]\ncmd = {} \"{}\"\ngraceful_timeout = 1\n",
        binaries::puppet().display(),
        stage.command()
    );
    let served = served_by(kernel, &slow);
    let mut puppet = stage.accept().expect("it runs");
    puppet.ask("ignore 15");
    let mut peer = connect(&served.scratch, "control", Kind::Dealer);
    let stop = json!({"command": "stop", "id": 1, "properties": {"name": "slow", "waiting": true}});
    let begun = Instant::now();
    peer.send(stop.to_string().as_bytes()).expect("sent");
    wait::until("the command is being done", || {
        let state = served.manager.status()?["watchers"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["name"] == "slow"))
            .map(|slow| slow["state"].clone());
        match state == Some(Value::from("stopping")) {
            true => Ok(()),
            false => Err(format!("{state:?}")),
        }
    });
    assert!(upgrade(&served.scratch, None));
    let answer = peer.answer().expect("answered");
    assert_eq!(answer["id"], 1, "{answer}");
    // An upgrade does not wait for ever; where a second takes five, whoever asked is told so.
    if begun.elapsed() < ANSWERS_PATIENCE {
        assert_eq!(answer["status"], "ok", "{answer}");
    }
    wait::until("it is stopped", || {
        let next = peer.ask(r#"{"command": "status", "properties": {"name": "slow"}}"#);
        match next.expect("answered")["status"].as_str() {
            Some("stopped") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

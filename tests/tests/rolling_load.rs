//! Promise: an application, the manager and the kernel are each replaced under full load, and no request
//! fails; at no time are fewer processes ready than were asked for.
//!
//! `KINGPOLE_ROLLS=200` makes it as many reloads instead of ten.

use kingpole_tests::manager::{describe, json, kingpole, kingpole_command};
use kingpole_tests::storm::Killer;
use kingpole_tests::{Kernel, Manager, Scratch, binaries, http, wait};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How many processes there are, and never fewer ready ones.
const WORKERS: usize = 3;

/// How often the ready ones are counted.
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn configuration(scratch: &Scratch) -> String {
    let (puppet, here) = (binaries::puppet().display(), scratch.path().display());
    format!(
        "[socket:web]\npath = {here}/web.sock\n\
         [watcher:web]\nuse_sockets = true\nnumprocesses = {WORKERS}\n\
         cmd = {puppet} 'web $(circus.sockets.web) {here}/ready/$(circus.wid)'\n\
         ready = exec test -e {here}/ready/$(circus.wid)\nready_interval = 0.1\n"
    )
}

fn get(server: &Path) -> Result<(), String> {
    let said = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mut connection = UnixStream::connect(server).map_err(|it| said("connect", it))?;
    let patience = Some(wait::PATIENCE);
    connection
        .set_read_timeout(patience)
        .map_err(|it| said("set", it))?;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    connection
        .write_all(request)
        .map_err(|it| said("write", it))?;
    let mut answer = Vec::new();
    connection
        .read_to_end(&mut answer)
        .map_err(|it| said("read", it))?;
    match http::parse(&answer) {
        Some((200, _)) => Ok(()),
        _ => Err(format!("no answer: {:?}", String::from_utf8_lossy(&answer))),
    }
}

/// Clients that ask without a pause, and somebody who counts those that are ready.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    fewest: Arc<AtomicUsize>,
    looks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn begin(server: PathBuf, ready: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let fewest = Arc::new(AtomicUsize::new(usize::MAX));
        let looks = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (stop, answered, server) = (stop.clone(), answered.clone(), server.clone());
            threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    get(&server)?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        let (stopped, least, count) = (stop.clone(), fewest.clone(), looks.clone());
        threads.push(thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let there = fs::read_dir(&ready).map_err(|error| error.to_string())?;
                least.fetch_min(there.count(), Ordering::Relaxed);
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(LOOK_EVERY);
            }
            Ok(())
        }));
        Self {
            stop,
            answered,
            fewest,
            looks,
            threads,
        }
    }

    #[track_caller]
    fn check(&self, after: &str, log: &dyn Fn() -> String) {
        let broken = self.threads.iter().any(JoinHandle::is_finished);
        let fewest = self.fewest.load(Ordering::Relaxed);
        assert!(
            !broken,
            "a request failed, {after}; the manager:\n{}",
            log()
        );
        assert!(
            fewest >= WORKERS,
            "{fewest} were ready, {after}; the manager:\n{}",
            log()
        );
    }

    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let ended = thread.join().expect("a thread ends");
            ended.unwrap_or_else(|error| panic!("a request failed: {error}"));
        }
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (load(&self.answered), load(&self.looks))
    }
}

/// Runs a command to its end; its lines, and whether it was done.
#[track_caller]
fn run(scratch: &Scratch, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = kingpole(scratch, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", describe(&output)))
    });
    (output.status.code(), lines.collect())
}

#[track_caller]
fn done(scratch: &Scratch, arguments: &[&str]) -> Value {
    let (code, mut lines) = run(scratch, arguments);
    let last = lines.pop().unwrap_or_default();
    assert_eq!(code, Some(0), "{arguments:?}: {last}");
    assert_eq!(last["state"], "done", "{arguments:?}: {last}");
    last
}

/// A reload in the middle of which something happens; it is done all the same.
#[track_caller]
fn reload_during(scratch: &Scratch, happens: impl FnOnce()) {
    let arguments = ["reload", "web", "--rolling", "--max-surge", "1"];
    let mut command = kingpole_command(scratch, &arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    assert!(line.contains("\"run\""), "{line}");
    happens();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("text");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{line}{rest}");
    assert!(
        rest.trim_end().ends_with('}') && rest.contains("\"done\""),
        "{rest}"
    );
}

#[test]
fn everything_is_replaced_under_load_and_no_request_fails() {
    let kernel = Kernel::start();
    let scratch = kernel.scratch();
    let ready = scratch.join("ready");
    fs::create_dir(&ready).expect("a directory");
    let file = scratch.write("web.ini", configuration(scratch));
    let mut manager = Manager::start(scratch, &file);
    wait::until("all are ready", || {
        let status = json(scratch, &["status", "--json"]).map_err(|error| error.clone())?;
        let there = status["watchers"][0]["ready"].as_u64();
        if there == Some(WORKERS as u64) {
            Ok(())
        } else {
            Err(format!("{there:?}"))
        }
    });
    let rolls = std::env::var("KINGPOLE_ROLLS").ok();
    let rolls: usize = rolls.map_or(10, |text| text.parse().expect("KINGPOLE_ROLLS is a number"));
    let load = Load::begin(scratch.join("web.sock"), ready);
    let mut killer = Killer::new(&kernel, 1);
    let log = || fs::read_to_string(scratch.join("manager.log")).unwrap_or_default();

    for round in 0..rolls {
        let surge = ["1", "2", "3"][round % 3];
        let last = done(
            scratch,
            &["reload", "web", "--rolling", "--max-surge", surge],
        );
        assert_eq!(last["replaced"], WORKERS as u64, "{last}");
        load.check("after a reload", &log);
    }
    let deployed = done(scratch, &["deploy", "web", "--env", "RELEASE=2"]);
    assert_eq!(deployed["version"], 2, "{deployed}");
    load.check("after a deploy", &log);
    let broken = format!(
        "--cmd={} 'text err I am broken' 'exit 3'",
        binaries::puppet().display()
    );
    let (code, lines) = run(scratch, &["deploy", "web", &broken]);
    let last = lines.last().expect("lines");
    assert_eq!(
        (code, last["state"].as_str()),
        (Some(1), Some("failed")),
        "{last}"
    );
    let why = last["trouble"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("exited with status 3"), "{last}");
    assert_eq!(last["output"][0], "I am broken", "{last}");
    load.check("after a failed deploy", &log);
    done(scratch, &["rollback", "web", "1"]);
    load.check("after a rollback", &log);

    let program = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let upgraded = kingpole(
        scratch,
        &["upgrade", "--manager", &program(binaries::manager())],
    );
    assert!(upgraded.status.success(), "{}", describe(&upgraded));
    load.check("after an upgrade of the manager", &log);
    let upgraded = kingpole(
        scratch,
        &["upgrade", "--kernel", &program(binaries::kernel())],
    );
    assert!(upgraded.status.success(), "{}", describe(&upgraded));
    load.check("after an upgrade of the kernel", &log);
    reload_during(scratch, || manager.replace());
    load.check("after a kill of the manager", &log);
    reload_during(scratch, || killer.kill_kernel());
    load.check("after a kill of the kernel", &log);
    reload_during(scratch, || killer.kill_guard());
    load.check("after a kill of the guard", &log);

    assert!(killer.kernels == 1 && killer.guards == 1);
    let (answered, looks) = load.end();
    println!("{answered} requests, none failed; {looks} looks, never fewer than {WORKERS} ready");
    assert!(
        answered > 100 && looks > 100,
        "{answered} requests, {looks} looks"
    );
}

//! Promise: an application, the manager and the kernel are each replaced under full load, and no request
//! fails; at no time are fewer processes ready than were asked for.
//!
//! `KINGPOLE_ROLLS=200` makes it as many reloads instead of ten.

use kingpole_tests::rolling::{Counting, replace_everything, wait_ready};
use kingpole_tests::{Kernel, Manager, Scratch, binaries, http, wait};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// How many processes there are, and never fewer ready ones.
const WORKERS: usize = 3;

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

/// Clients that ask without a pause.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Clients {
    fn begin(server: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let client = |_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            let server: PathBuf = server.to_owned();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    get(&server)?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..2).map(client).collect();
        Self {
            stop,
            answered,
            threads,
        }
    }

    /// Whether a request has failed.
    fn failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let ended = thread.join().expect("a thread ends");
            ended.unwrap_or_else(|error| panic!("a request failed: {error}"));
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[test]
fn everything_is_replaced_under_load_and_no_request_fails() {
    let kernel = Kernel::start();
    let scratch = kernel.scratch();
    let ready = scratch.join("ready");
    fs::create_dir(&ready).expect("a directory");
    let file = scratch.write("web.ini", configuration(scratch));
    let mut manager = Manager::start(scratch, &file);
    wait_ready(scratch, WORKERS);
    let rolls = std::env::var("KINGPOLE_ROLLS").ok();
    let rolls: usize = rolls.map_or(10, |text| text.parse().expect("KINGPOLE_ROLLS is a number"));
    let clients = Clients::begin(&scratch.join("web.sock"));
    let counting = Counting::begin(ready);
    replace_everything(&kernel, &mut manager, WORKERS, rolls, &|after| {
        let log = || fs::read_to_string(scratch.join("manager.log")).unwrap_or_default();
        assert!(
            !clients.failed(),
            "a request failed, {after}; the manager:\n{}",
            log()
        );
        let fewest = counting.fewest();
        assert!(
            fewest >= WORKERS,
            "{fewest} were ready, {after}; the manager:\n{}",
            log()
        );
    });
    let (answered, looks) = (clients.end(), counting.end());
    println!("{answered} requests, none failed; {looks} looks, never fewer than {WORKERS} ready");
    assert!(
        answered > 100 && looks > 100,
        "{answered} requests, {looks} looks"
    );
}

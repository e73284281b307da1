//! Configurations as people have them, with the programs that they have: six kinds of web servers
//! behind nginx, and redis, all in one file, and all of it reloaded under load. Runs only with
//! `KINGPOLE_STACKS` set, because the programs are not ours and come from Debian and PyPI.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::stacks::{
    are_wanted, copy_with, example, free_port, python_programs, wait_answer,
};
use kingpole_tests::{Kernel, Manager, Scratch, binaries, http, wait};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// What nginx has behind it; each answers with the pid of whoever did the work.
const BACKENDS: [&str; 6] = [
    "gunicorn",
    "uvicorn",
    "uwsgi",
    "chaussette",
    "php",
    "mongrel2",
];

/// How often everything is reloaded.
const RELOADS: u64 = 3;

/// Everybody who answered, or the first failure. `count` is how many did so far.
fn load(
    front: SocketAddr,
    backend: &str,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Result<BTreeSet<String>, String> {
    let mut answered = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        match http::get(front, &format!("/{backend}")) {
            Ok((200, pid)) => answered.insert(pid.trim().to_owned()),
            other => return Err(format!("{backend}: {other:?}")),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(answered)
}

/// A client of redis that keeps its connection.
fn ping(redis: &Path, stop: &AtomicBool) -> io::Result<u64> {
    let mut redis = BufReader::new(UnixStream::connect(redis)?);
    redis.get_ref().set_read_timeout(Some(wait::PATIENCE))?;
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        redis.get_mut().write_all(b"PING\r\n")?;
        let mut line = String::new();
        redis.read_line(&mut line)?;
        if line != "+PONG\r\n" {
            return Err(io::Error::other(format!("{line:?} instead of PONG")));
        }
        answered += 1;
    }
    Ok(answered)
}

#[track_caller]
fn done(scratch: &Scratch, arguments: &[&str]) {
    let output = kingpole(scratch, arguments);
    assert!(output.status.success(), "{}", describe(&output));
}

/// The example with ports of our own; answers its configuration and nginx's port.
fn the_example(scratch: &Scratch) -> (PathBuf, u16) {
    let ports = ["8080", "8081", "8082"].map(|port| (port, free_port()));
    let replaced = ports.map(|(old, new)| (old, new.to_string()));
    copy_with(scratch, &example(), &replaced);
    fs::create_dir(scratch.join("var")).expect("a directory");
    (scratch.join("stack.ini"), ports[0].1)
}

#[test]
fn everything_is_reloaded_under_load_and_no_request_fails() {
    let programs = [
        "nginx",
        "redis-server",
        "uwsgi",
        "php-cgi",
        "mongrel2",
        "m2sh",
    ];
    if !are_wanted(&programs) {
        return;
    }
    let bin = python_programs();
    let kernel = Kernel::start();
    let scratch = kernel.scratch();
    let (file, port) = the_example(scratch);
    let path = std::env::var("PATH").expect("a PATH");
    let path = format!("{}:{path}", bin.display());
    let environment = [
        ("PATH", path.as_str()),
        ("KINGPOLE_DEFAULT_ENDPOINTS", "off"),
    ];
    let mut manager = Manager::launch_with(scratch, &file, binaries::manager(), &environment);
    manager.wait_ready();
    for backend in BACKENDS {
        wait_answer(port, &format!("/{backend}"));
    }
    let redis = scratch.join("var/redis.sock");
    wait::until("redis listens", || UnixStream::connect(&redis));

    let front = SocketAddr::from(([127, 0, 0, 1], port));
    let stop = Arc::new(AtomicBool::new(false));
    let pinging = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || ping(&redis, &stop))
    };
    let clients = BACKENDS.map(|backend| {
        let (stop, count) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&count);
        let client = thread::spawn(move || load(front, backend, &stop, &counted));
        (backend, client, count)
    });
    let answers_of_all = || {
        let before = clients
            .each_ref()
            .map(|(_, _, count)| count.load(Ordering::Relaxed));
        for ((backend, client, count), before) in clients.iter().zip(before) {
            wait::until("it goes on to answer", || {
                // The failure is told below.
                if client.is_finished() || count.load(Ordering::Relaxed) >= before + 20 {
                    Ok(())
                } else {
                    Err(*backend)
                }
            });
        }
    };
    answers_of_all();
    let before = manager.pids("mongrel2-worker").expect("up");
    for round in 0..RELOADS {
        if round == 1 {
            done(scratch, &["incr", "mongrel2-worker", "--wait"]);
        }
        done(scratch, &["reload", "--wait"]);
        answers_of_all();
    }
    let after = manager.pids("mongrel2-worker").expect("up");
    assert_eq!(after.len(), 3, "{after:?}");
    assert!(before.iter().all(|pid| !after.contains(pid)), "{after:?}");

    stop.store(true, Ordering::Relaxed);
    for (backend, client, count) in clients {
        let answered = client.join().expect("the client ends");
        let answered = answered.unwrap_or_else(|error| panic!("{error}\n{}", manager.log()));
        // One of each generation at the least.
        let generations = usize::try_from(RELOADS).expect("few") + 1;
        assert!(answered.len() >= generations, "{backend}: {answered:?}");
        println!(
            "{backend}: {} requests, none failed",
            count.load(Ordering::Relaxed)
        );
    }
    let answered = pinging.join().expect("the client ends");
    println!(
        "redis: {} answers",
        answered.expect("redis answers each time")
    );
    let log = manager.log();
    assert!(log.contains("hook before_signal: paused"), "{log}");
}

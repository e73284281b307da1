//! A watcher under load whose program, manager and kernel are replaced in every way there is, while
//! somebody counts those of its processes that are ready.

use crate::manager::{describe, json, kingpole, kingpole_command};
use crate::storm::Killer;
use crate::{Kernel, Manager, Scratch, binaries, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the ready ones are counted.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Counts the processes that are ready, again and again. Each has a file in a directory from when it
/// accepts requests until it is asked to stop.
pub struct Counting {
    stop: Arc<AtomicBool>,
    fewest: Arc<AtomicUsize>,
    looks: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Counting {
    /// Begins with it.
    #[must_use]
    pub fn begin(ready: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let fewest = Arc::new(AtomicUsize::new(usize::MAX));
        let looks = Arc::new(AtomicU64::new(0));
        let (stopped, least, count) = (stop.clone(), fewest.clone(), looks.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let there = std::fs::read_dir(&ready).map_or(0, Iterator::count);
                least.fetch_min(there, Ordering::Relaxed);
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(LOOK_EVERY);
            }
        });
        Self {
            stop,
            fewest,
            looks,
            thread,
        }
    }

    /// The fewest there ever were.
    #[must_use]
    pub fn fewest(&self) -> usize {
        self.fewest.load(Ordering::Relaxed)
    }

    /// Ends it; answers how often it has looked.
    ///
    /// # Panics
    /// When the counting itself has.
    #[must_use]
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the counting ends");
        self.looks.load(Ordering::Relaxed)
    }
}

/// Waits until this many processes of the only watcher are ready.
///
/// # Panics
/// When they are not.
#[track_caller]
pub fn wait_ready(scratch: &Scratch, processes: usize) {
    wait::until("all are ready", || {
        let status = json(scratch, &["status", "--json"])?;
        let watcher = &status["watchers"][0];
        if watcher["ready"].as_u64() == Some(processes as u64) {
            Ok(())
        } else {
            Err(watcher.to_string())
        }
    });
}

/// Replaces everything about the watcher `web`: so many reloads, a deploy, a deploy of what does not
/// work, a rollback, upgrades of manager and kernel, and a kill of manager, kernel and guard in the
/// middle of a reload each. `check` is called after each of these.
///
/// # Panics
/// When something is not done as it should be.
#[track_caller]
pub fn replace_everything(
    kernel: &Kernel,
    manager: &mut Manager,
    processes: usize,
    reloads: usize,
    check: &dyn Fn(&str),
) {
    let scratch = kernel.scratch();
    let mut killer = Killer::new(kernel, 1);
    for round in 0..reloads {
        let surge = ["1", "2", "3"][round % 3];
        let last = done(
            scratch,
            &["reload", "web", "--rolling", "--max-surge", surge],
        );
        assert_eq!(last["replaced"], processes as u64, "{last}");
        check("after a reload");
    }
    let deployed = done(scratch, &["deploy", "web", "--env", "RELEASE=2"]);
    assert_eq!(deployed["version"], 2, "{deployed}");
    check("after a deploy");
    fail_to_deploy(scratch);
    check("after a failed deploy");
    done(scratch, &["rollback", "web", "1"]);
    check("after a rollback");

    upgrade(scratch, "--manager", binaries::manager());
    check("after an upgrade of the manager");
    upgrade(scratch, "--kernel", binaries::kernel());
    check("after an upgrade of the kernel");
    reload_during(scratch, || manager.replace());
    check("after a kill of the manager");
    reload_during(scratch, || killer.kill_kernel());
    check("after a kill of the kernel");
    reload_during(scratch, || killer.kill_guard());
    check("after a kill of the guard");
    assert!(killer.kernels == 1 && killer.guards == 1);
}

/// Runs a command to its end; its lines, and how it ended.
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

#[track_caller]
fn fail_to_deploy(scratch: &Scratch) {
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
}

#[track_caller]
fn upgrade(scratch: &Scratch, which: &str, program: &Path) {
    let program = program.to_str().expect("UTF-8");
    let upgraded = kingpole(scratch, &["upgrade", which, program]);
    assert!(upgraded.status.success(), "{}", describe(&upgraded));
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

//! Promise: a process says by systemd's protocol that it is ready, that it stops and that it is alive;
//! what it says is neither lost nor does it wait, whoever is killed or replaced meanwhile, and nobody
//! else can say it.

use kingpole_tests::manager::{Manager, describe, kingpole};
use kingpole_tests::puppet::{Stage, Strings};
use kingpole_tests::{Kernel, Scratch, binaries, wait};
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

/// Messages that Linux lets wait in a socket that nobody reads (`net.unix.max_dgram_qlen`), many times.
const MANY: usize = 200;

struct Bench {
    // In this order: the manager ends before its kernel.
    manager: Manager,
    scratch: Rc<Scratch>,
    kernel: Kernel,
}

impl Bench {
    /// A stack in which `PUPPET` stands for a puppet, and `STAGE` for what makes it report.
    fn new(configuration: &str) -> (Self, Stage) {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let stage = Stage::new(&scratch);
        let configuration = configuration
            .replace("PUPPET", &binaries::puppet().display().to_string())
            .replace("STAGE", &format!("'{}'", stage.command()));
        let file = scratch.write("notify.ini", configuration);
        let manager = Manager::start(&scratch, &file);
        let bench = Self {
            manager,
            scratch,
            kernel,
        };
        (bench, stage)
    }

    fn watcher(&self, name: &str) -> Result<Value, String> {
        let status = self.manager.status()?;
        let watchers = status["watchers"].as_array().ok_or("no watchers")?;
        let found = watchers.iter().find(|watcher| watcher["name"] == name);
        found.cloned().ok_or_else(|| status.to_string())
    }

    /// Waits until the first process of a watcher is as `is` wants it, and gives it.
    #[track_caller]
    fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait::until(&format!("{name} {what}"), || {
            let watcher = self.watcher(name)?;
            let process = watcher["processes"][0].clone();
            match is(&process) {
                true => Ok(process),
                false => Err(format!("{watcher}\n{}", self.manager.log())),
            }
        })
    }

    #[track_caller]
    fn until_ready(&self, name: &str) -> Value {
        self.until(name, "is ready", |process| process["readiness"] == "ready")
    }

    #[track_caller]
    fn until_logged(&self, part: &str) {
        wait::until(&format!("the log says {part:?}"), || {
            let log = self.manager.log();
            log.contains(part).then_some(()).ok_or(log)
        });
    }

    /// Another kernel process has taken over.
    fn kill_kernel(&self) {
        let before = self.kernel.serving();
        before.signal(9).expect("killed");
        wait::until("another kernel serves", || {
            match self.kernel.pid_in("kernel.pid") {
                Some(pid) if pid != before.pid() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

fn says(puppet: &mut Strings, text: &str) {
    puppet.ask(&format!("notify {text}"));
}

const STACK: &str = "[watcher:web]\ncmd = PUPPET STAGE wait\nready = notify\nready_timeout = 300\n";

#[test]
fn a_process_says_what_it_does_and_those_who_depend_on_it_wait() {
    let (bench, stage) = Bench::new(&format!(
        "{STACK}graceful_timeout = 300\n\n[watcher:app]\ncmd = sleep 1000000\ndepends_on = web\n"
    ));
    let mut puppet = stage.accept().unwrap();
    says(&mut puppet, "STATUS=loading,MAINPID=1,UNKNOWN=x");
    let process = bench.until("web", "says what it does", |it| it["says"] == "loading");
    assert_eq!(process["readiness"], "starting", "{process}");
    assert_eq!(bench.watcher("app").unwrap()["actual"], 0);
    says(&mut puppet, "READY=1,STATUS=serving");
    let process = bench.until_ready("web");
    assert_eq!(process["says"], "serving", "{process}");
    bench.until_ready("app");
    for verb in ["status", "explain"] {
        let told = describe(&kingpole(&bench.scratch, &[verb, "web"]));
        assert!(told.contains("serving"), "{told}");
    }
    says(&mut puppet, "RELOADING=1");
    says(&mut puppet, "STOPPING=1,STATUS=bye");
    let process = bench.until("web", "is not ready", |it| it["readiness"] == "unready");
    assert_eq!(process["readiness_reason"], "it says that it is stopping");
    says(&mut puppet, "READY=1");
    bench.until_ready("web");
}

#[test]
fn only_the_process_and_its_descendants_are_heard() {
    let (bench, stage) = Bench::new(STACK);
    let mut puppet = stage.accept().unwrap();
    let place = bench.scratch.runtime_dir().join("notify.sock");
    let stranger = UnixDatagram::unbound().unwrap();
    for text in [
        &b"READY=1"[..],
        b"STATUS=stranger",
        b"",
        b"=\n\0\xff",
        b"KINGPOLE_MARK=1",
    ] {
        stranger.send_to(text, &place).unwrap();
    }
    stranger.send_to(&[b'x'; 8192], &place).unwrap();
    bench.until_logged("notifications of processes were too long");
    // What came before that was heard before it.
    let watcher = bench.watcher("web").unwrap();
    let process = &watcher["processes"][0];
    assert_eq!(process["readiness"], "starting", "{watcher}");
    assert!(process["says"].is_null(), "{watcher}");
    puppet.ask("fork notify READY=1; wait");
    bench.until_ready("web");
}

#[test]
fn what_is_said_while_no_manager_is_there_waits_for_the_next_one_and_blocks_nobody() {
    let (mut bench, stage) = Bench::new(STACK);
    let mut puppet = stage.accept().unwrap();
    says(&mut puppet, "STATUS=loading");
    let before = bench.until("web", "says what it does", |it| it["says"] == "loading");
    bench.manager.kill();
    says(&mut puppet, "READY=1");
    for number in 0..MANY {
        says(&mut puppet, &format!("STATUS={number}"));
    }
    bench.kill_kernel();
    says(&mut puppet, "STATUS=last");
    bench.manager.replace();
    bench.manager.wait_ready();
    let process = bench.until("web", "said that last", |it| it["says"] == "last");
    assert_eq!(process["readiness"], "ready", "{process}");
    assert_eq!(process["pid"], before["pid"]);
    // Once more, after it has been acknowledged: it is remembered.
    bench.manager.replace();
    bench.manager.wait_ready();
    let process = bench.until("web", "said that last", |it| it["says"] == "last");
    assert_eq!(process["readiness"], "ready", "{process}");
    assert_eq!(process["pid"], before["pid"]);
}

#[test]
fn it_is_heard_through_kills_and_upgrades_of_everything() {
    let (bench, stage) = Bench::new(STACK);
    let mut puppet = stage.accept().unwrap();
    let hears = |puppet: &mut Strings, text: &str| {
        says(puppet, &format!("STATUS={text}"));
        bench.until("web", "is heard", |it| it["says"] == text);
    };
    hears(&mut puppet, "begun");
    let kernel = binaries::kernel().display().to_string();
    let upgraded = kingpole(&bench.scratch, &["upgrade", "--kernel", &kernel]);
    assert!(upgraded.status.success(), "{}", describe(&upgraded));
    hears(&mut puppet, "kernel-upgraded");
    let manager = binaries::manager().display().to_string();
    let upgraded = kingpole(&bench.scratch, &["upgrade", "--manager", &manager]);
    assert!(upgraded.status.success(), "{}", describe(&upgraded));
    hears(&mut puppet, "manager-upgraded");
    bench.kill_kernel();
    hears(&mut puppet, "kernel-killed");
    // The process that reads the socket is no better than others.
    let mut client = bench.kernel.client();
    let listener = client.processes().unwrap();
    let listener = listener.iter().find(|it| it.name == "kingpole.notify");
    let listener = listener.expect("a listener").process;
    let target = kingpole_protocol::request::SignalTarget::Process;
    client.signal(listener, 9, target).unwrap();
    hears(&mut puppet, "listener-killed");
    says(&mut puppet, "READY=1");
    bench.until_ready("web");
}

#[test]
fn who_falls_silent_is_replaced_and_who_speaks_is_not() {
    let (mut bench, stage) = Bench::new(
        "[watcher:web]\ncmd = PUPPET STAGE wait\nready = notify\nwatchdog = 3\nready_timeout = 300\ngraceful_timeout = 1\n",
    );
    let mut puppet = stage.accept().unwrap();
    puppet.ask("notify-every 100 READY=1,WATCHDOG=1");
    let before = bench.until_ready("web");
    let spoken = |puppet: &mut Strings, more: u64| {
        let from = puppet.ask("said").as_u64().unwrap();
        wait::until("it has spoken for a while", || {
            let said = puppet.ask("said").as_u64().unwrap();
            if said >= from + more {
                Ok(())
            } else {
                Err(said.to_string())
            }
        });
    };
    // Longer than it may be silent: with a manager, without one, and with the next.
    spoken(&mut puppet, 40);
    bench.manager.kill();
    spoken(&mut puppet, 40);
    bench.manager.replace();
    bench.manager.wait_ready();
    spoken(&mut puppet, 40);
    let after = bench.until_ready("web");
    assert_eq!(after["pid"], before["pid"], "{}", bench.manager.log());
    // Stopped like this, it says nothing.
    let pid = i32::try_from(before["pid"].as_i64().unwrap()).unwrap();
    let handle = kingpole_tests::process::Handle::open(pid).unwrap();
    handle.signal(19).unwrap();
    bench.until_logged("it has not sent WATCHDOG=1 for");
    handle.wait_ended("the silent process");
    let mut next = stage.accept().unwrap();
    says(&mut next, "READY=1,WATCHDOG=1");
    bench.until_ready("web");
    says(&mut next, "WATCHDOG=trigger");
    bench.until_logged("it asked for it (WATCHDOG=trigger)");
}

#[test]
fn a_roll_waits_for_the_word_of_each_process_and_says_what_a_silent_one_wrote() {
    let (bench, _stage) = Bench::new(
        "[watcher:web]\ncmd = PUPPET 'notify READY=1' wait\nnumprocesses = 2\nready = notify\n",
    );
    let pids = wait::until("both are ready", || bench.manager.pids("web"));
    let rolled = kingpole(&bench.scratch, &["reload", "--rolling", "web"]);
    assert!(rolled.status.success(), "{}", describe(&rolled));
    let after = wait::until("both are there", || bench.manager.pids("web"));
    assert!(after.iter().all(|pid| !pids.contains(pid)), "{after:?}");
    let silent = format!(
        "{} 'text err the database is away' wait",
        binaries::puppet().display()
    );
    let arguments = ["deploy", "web", "--cmd", &silent, "--timeout", "1"];
    let failed = kingpole(&bench.scratch, &arguments);
    assert_eq!(failed.status.code(), Some(1), "{}", describe(&failed));
    let told = describe(&failed);
    for part in ["was not ready within 1 s", "the database is away"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    bench.until_logged("wrote last: the database is away");
    let long = "x".repeat(5000);
    let crashing = format!(
        "{} 'text out {long}' 'text err no such table' 'exit 3'",
        binaries::puppet().display()
    );
    let failed = kingpole(&bench.scratch, &["deploy", "web", "--cmd", &crashing]);
    assert_eq!(failed.status.code(), Some(1), "{}", describe(&failed));
    bench.until_logged("wrote last: no such table");
    let log = bench.manager.log();
    let mut words = log
        .lines()
        .filter_map(|line| line.split_once("wrote last: "));
    assert!(words.all(|(_, last)| last.chars().count() <= 501), "{log}");
    assert!(log.contains("xxx…"), "{log}");
    let same = wait::until("the old version runs", || bench.manager.pids("web"));
    assert_eq!(same.len(), 2, "{same:?}");
}

#[test]
fn nothing_is_left_when_everything_is_stopped() {
    let (mut bench, _stage) =
        Bench::new("[watcher:web]\ncmd = PUPPET 'notify READY=1' wait\nready = notify\n");
    bench.until_ready("web");
    let quit = kingpole(&bench.scratch, &["quit", "--all"]);
    let quit = if quit.status.code() == Some(2) {
        kingpole(&bench.scratch, &["quit"])
    } else {
        quit
    };
    assert!(quit.status.success(), "{}", describe(&quit));
    wait::until("the manager ends", || {
        let status = bench.manager.process_mut().try_wait();
        status.map(drop).ok_or_else(|| "it runs".to_owned())
    });
    let mut client = bench.kernel.client();
    let left = client.processes().unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(!bench.scratch.runtime_dir().join("notify.sock").exists());
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no {program} on this machine");
    }
    found
}

#[test]
fn redis_says_when_it_is_ready() {
    if !has("redis-server") {
        return;
    }
    let (bench, _stage) = Bench::new(
        "[watcher:redis]\n\
         cmd = redis-server --port 0 --unixsocket redis.sock --supervised systemd --save ''\n\
         ready = notify\nready_timeout = 300\n",
    );
    bench.until_ready("redis");
    assert!(Path::new(&bench.scratch.join("redis.sock")).exists());
}

//! Promise: the manager becomes another program in the same process; no child notices, no request
//! fails, no line of a log is missing or doubled, and a program that is no good changes nothing.

use kingpole_protocol::request::TakeLease;
use kingpole_protocol::{ErrorCode, Fence};
use kingpole_tests::kernel::refused;
use kingpole_tests::manager::{Manager, describe, kingpole};
use kingpole_tests::puppet::Stage;
use kingpole_tests::{Kernel, Scratch, binaries, http, lines, process, rotated, wait};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const STACK: &str = "[watcher:one]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n";

struct Started {
    kernel: Kernel,
    scratch: Rc<Scratch>,
    manager: Manager,
    pids: Vec<i64>,
}

fn started() -> Started {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write("stack.ini", STACK);
    let manager = Manager::start(&scratch, &configuration);
    let pids = wait::until("it runs", || manager.pids("one"));
    Started {
        kernel,
        scratch,
        manager,
        pids,
    }
}

/// A program that is a manager only as far as `script` lets it be.
fn candidate(scratch: &Scratch, script: &str) -> PathBuf {
    let real = binaries::manager().display();
    let script = format!("#!/bin/sh\nreal={real}\n{script}\n");
    scratch.program("candidate", script.as_bytes())
}

fn upgrade(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut all = vec!["upgrade"];
    all.extend(arguments);
    kingpole(scratch, &all)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Started {
    #[track_caller]
    fn check_unharmed(&mut self) {
        assert!(
            self.manager.process_mut().try_wait().is_none(),
            "same process"
        );
        let pids = wait::until("it answers", || self.manager.pids("one"));
        assert_eq!(pids, self.pids);
        let status = self.manager.status().unwrap();
        let pid = self.manager.process().handle().pid();
        assert_eq!(status["manager"]["pid"], pid, "{status}");
    }
}

#[test]
fn the_manager_becomes_another_program_in_the_same_process() {
    let mut it = started();
    let own = candidate(&it.scratch, "exec $real \"$@\"");
    let checked = upgrade(&it.scratch, &["--manager", text(&own), "--check", "--json"]);
    assert!(checked.status.success(), "{}", describe(&checked));
    let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(checked["done"], true, "{checked}");
    assert!(!it.manager.log().contains("became"), "nothing has happened");
    for program in [Some(text(&own)), None] {
        let mut arguments = vec!["--manager"];
        arguments.extend(program);
        let done = upgrade(&it.scratch, &arguments);
        assert!(done.status.success(), "{}", describe(&done));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(said.contains("became"), "{said}");
        it.check_unharmed();
    }
    let log = it.manager.log();
    assert_eq!(log.matches("upgrade: manager").count(), 2, "{log}");
    // It is a whole manager: it obeys, and it leaves when it is told to.
    let done = kingpole(&it.scratch, &["incr", "one", "--wait"]);
    assert!(done.status.success(), "{}", describe(&done));
    assert_eq!(it.manager.pids("one").unwrap().len(), 3);
    let left = kingpole(&it.scratch, &["detach"]);
    assert!(left.status.success(), "{}", describe(&left));
    assert!(it.manager.process_mut().wait().success());
}

#[test]
fn a_program_that_is_no_good_changes_nothing_and_is_named() {
    let mut it = started();
    let exits = candidate(&it.scratch, "echo cannot work here >&2; exit 3");
    let plain = it.scratch.write("plain", "no program");
    let cases = [
        (text(&exits), "cannot work here"),
        ("/nowhere/kingpole-manager", "no such file"),
        (text(&plain), "permission denied"),
        ("/bin/true", "it says nothing"),
    ];
    for (program, reason) in cases {
        let refused = upgrade(&it.scratch, &["--manager", program]);
        assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
        let said = describe(&refused);
        assert!(
            said.contains(reason) && said.contains("nothing has happened"),
            "{said}"
        );
    }
    std::fs::write(it.scratch.join("stack.ini"), "no section\n").unwrap();
    let broken = upgrade(&it.scratch, &["--manager"]);
    assert_eq!(broken.status.code(), Some(1), "{}", describe(&broken));
    assert!(
        describe(&broken).contains("stack.ini"),
        "{}",
        describe(&broken)
    );
    it.check_unharmed();
    let none = upgrade(&it.scratch, &[]);
    assert_eq!(none.status.code(), Some(2), "{}", describe(&none));
    assert!(describe(&none).contains("--kernel"), "{}", describe(&none));
}

/// One that rehearses well and is started with `more` when it takes over.
fn taking_over_with(scratch: &Scratch, more: &str) -> PathBuf {
    let script =
        format!("case \"$*\" in\n*--resume*) exec $real \"$@\" {more};;\nesac\nexec $real \"$@\"");
    candidate(scratch, &script)
}

#[track_caller]
fn goes_on(it: &mut Started, failed: &Output, reason: &str) {
    assert_eq!(failed.status.code(), Some(1), "{}", describe(failed));
    let said = describe(failed);
    assert!(said.contains("goes on") && said.contains(reason), "{said}");
    it.check_unharmed();
    let log = it.manager.log();
    assert!(
        log.contains("upgrade: failed") && log.contains(reason),
        "{log}"
    );
}

#[test]
fn a_new_manager_that_ends_gives_way_to_the_one_before() {
    let mut it = started();
    let bad = taking_over_with(&it.scratch, "--pidfile /nowhere/manager.pid");
    let failed = upgrade(&it.scratch, &["--manager", text(&bad)]);
    goes_on(&mut it, &failed, "/nowhere/manager.pid");
    // And the next attempt may succeed.
    let done = upgrade(&it.scratch, &["--manager"]);
    assert!(done.status.success(), "{}", describe(&done));
    it.check_unharmed();
}

/// A manager hangs when it opens this for its log: nobody reads it.
fn unread_pipe(scratch: &Scratch) -> PathBuf {
    let path = scratch.join("unread");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    path
}

#[test]
fn a_new_manager_that_hangs_gives_way_to_the_one_before() {
    let mut it = started();
    let pipe = unread_pipe(&it.scratch);
    let bad = taking_over_with(&it.scratch, &format!("--log-output {}", pipe.display()));
    let arguments = ["--manager", text(&bad), "--patience", "2s"];
    let failed = upgrade(&it.scratch, &arguments);
    goes_on(&mut it, &failed, "not healthy in time");
}

#[test]
fn a_new_manager_that_crashes_gives_way_to_the_one_before() {
    let mut it = started();
    let pipe = unread_pipe(&it.scratch);
    let bad = taking_over_with(&it.scratch, &format!("--log-output {}", pipe.display()));
    let pid = it.manager.process().handle().pid();
    let failed = std::thread::scope(|scope| {
        let scratch: &Scratch = &it.scratch;
        let (socket, bad) = (scratch.runtime_dir(), text(&bad));
        let asked = scope.spawn(move || {
            std::process::Command::new(binaries::kingpole())
                .args([
                    "upgrade",
                    "--manager",
                    bad,
                    "--patience",
                    "40s",
                    "--runtime-dir",
                ])
                .arg(socket)
                .output()
                .unwrap()
        });
        wait::until("the new one is on probation", || {
            let path = PathBuf::from(format!("/proc/{pid}/status"));
            let fields = process::status_fields(&path).map_err(|e| e.to_string())?;
            let caught = u64::from_str_radix(&fields["SigCgt"], 16).map_err(|e| e.to_string())?;
            match caught & (1 << (libc::SIGALRM - 1)) {
                0 => Err(fields["SigCgt"].clone()),
                _ => Ok(()),
            }
        });
        it.manager.process().handle().signal(libc::SIGSEGV).unwrap();
        asked.join().unwrap()
    });
    goes_on(&mut it, &failed, "crashed (SIGSEGV)");
}

#[test]
fn no_request_fails_while_managers_follow_each_other() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let stage = Stage::new(&scratch);
    let log = scratch.join("out.log");
    let configuration = scratch.write(
        "stack.ini",
        format!(
            "[watcher:writer]\ncmd = {} \"{}\"\nstdout_stream.class = FileStream\n\
             stdout_stream.filename = {}\nstdout_stream.max_bytes = 40000\n\
             stdout_stream.backup_count = 10000\n",
            binaries::puppet().display(),
            stage.command(),
            log.display()
        ),
    );
    let manager = Manager::start(&scratch, &configuration);
    let mut writer = stage.accept().unwrap();
    writer.ask("background lines out p 0 0 1000");
    let over = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let socket = scratch.runtime_dir().join("manager.sock");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut connection = UnixStream::connect(&socket).expect("connects");
                    connection.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                    connection
                        .write_all(
                            b"GET /v1/status HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
                        )
                        .expect("asks");
                    let mut answer = Vec::new();
                    connection.read_to_end(&mut answer).expect("is answered");
                    let (status, body) = http::parse(&answer).expect("a whole answer");
                    assert_eq!(status, 200, "{body}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            let before = answered.load(Ordering::Relaxed);
            let done = upgrade(&scratch, &["--manager"]);
            assert!(done.status.success(), "{}", describe(&done));
            wait::until("clients are served", || {
                let now = answered.load(Ordering::Relaxed);
                if now > before { Ok(()) } else { Err(now) }
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(manager.log().matches("upgrade: manager").count(), 5);
    let count = writer.ask("enough")["p"].as_u64().unwrap();
    wait::until("all lines are in the log", || {
        let found = lines::check("p", &rotated::content(&log), 0)?;
        if found == count {
            Ok(())
        } else {
            Err(format!("{found} of {count}"))
        }
    });
}

#[test]
fn the_lease_goes_from_one_to_the_next_and_an_old_number_is_void() {
    let mut it = started();
    let mut client = it.kernel.client();
    let before = client.welcome().newest_fence;
    let done = upgrade(&it.scratch, &["--manager"]);
    assert!(done.status.success(), "{}", describe(&done));
    it.check_unharmed();
    // Somebody with the number of the manager before, as one that was stopped would come back.
    client.set_fence(before);
    let error = refused(client.status().map(drop));
    assert_eq!(error.code, ErrorCode::FENCED, "{error}");
    client.set_fence(Fence::NONE);
    let held = refused(client.take_lease(TakeLease {
        name: "manager".into(),
        resume: Fence::NONE,
        take_over: false,
    }));
    assert_eq!(held.code, ErrorCode::LEASE_HELD, "{held}");
}

//! Promise: what is wrong in a file, in the system or on the disk is said once and clearly, and
//! stops nothing else.

use kingpole_tests::manager::{self, Manager, describe};
use kingpole_tests::process::Guarded;
use kingpole_tests::puppet::Stage;
use kingpole_tests::{Kernel, Scratch, binaries, lines, wait};
use serde_json::Value;
use std::net::TcpListener;
use std::process::Command;
use std::rc::Rc;

const GOOD: &str = "[watcher:good]\ncmd = /bin/sleep 100000\n";

fn watcher(status: &Value, name: &str) -> Value {
    let watchers = status["watchers"].as_array().expect("watchers");
    watchers
        .iter()
        .find(|w| w["name"] == name)
        .cloned()
        .unwrap_or_default()
}

/// Lines of a log that say something.
fn saying(log: &str, what: &str) -> Vec<String> {
    log.lines()
        .filter(|line| line.contains(what))
        .map(str::to_owned)
        .collect()
}

/// Starts a manager on [`GOOD`] and something bad, and waits until the good part runs and the bad
/// watcher has given up for the reason that contains `reason`.
#[track_caller]
fn check_given_up(bad: &str, reason: &str) {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write("bad.ini", format!("{GOOD}{bad}"));
    let manager = Manager::start(&scratch, &configuration);
    wait::until("the good watcher runs", || manager.pids("good"));
    wait::until("the bad one has given up and says why", || {
        let found = watcher(&manager.status()?, "bad");
        let said = found["reason"]
            .as_str()
            .unwrap_or_default()
            .contains(reason);
        if found["state"] == "stopped" && said {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
    let said = saying(&manager.log(), reason);
    assert!(!said.is_empty(), "nothing is logged:\n{}", manager.log());
    assert!(
        said.len() <= 2,
        "said more than once (and that it gave up): {said:#?}"
    );
    assert!(said[0].contains("bad"), "the watcher is named: {said:?}");
}

#[test]
fn a_command_that_is_not_there_is_named() {
    check_given_up(
        "[watcher:bad]\ncmd = /nowhere/at/all --x\n",
        "/nowhere/at/all",
    );
}

#[test]
fn a_working_directory_that_is_not_there_is_named() {
    check_given_up(
        "[watcher:bad]\ncmd = /bin/sleep 9\nworking_dir = /nowhere/dir\n",
        "/nowhere/dir",
    );
}

#[test]
fn a_start_that_fails_names_the_line_of_what_is_wrong() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    // Watchers and the lines that are to be named; each begins at a line that is not.
    let cases = [
        (
            "cmd",
            "autostart = true\nmax_retry = 1\ncmd = /nowhere/at/all\n",
            4,
        ),
        (
            "dir",
            "cmd = /bin/sleep 9\nmax_retry = 1\nworking_dir = /nowhere/dir\n",
            8,
        ),
        (
            "uid",
            "max_retry = 1\nuid = nobody-here\ncmd = /bin/sleep 9\n",
            11,
        ),
        (
            "limit",
            "max_retry = 1\ncmd = /bin/sleep 9\nrlimit_NOFILE = 999999999999\n",
            16,
        ),
        (
            "program",
            "max_retry = 1\ncmd = /bin/sleep 9\nexecutable = /etc/passwd\n",
            20,
        ),
    ];
    let sections = cases.map(|(name, text, _)| format!("[watcher:{name}]\n{text}"));
    let configuration = scratch.write("lines.ini", sections.concat());
    let manager = Manager::start(&scratch, &configuration);
    let reason_of = |name: &str, expected: &str| {
        wait::until(&format!("{name} says {expected}"), || {
            let found = watcher(&manager.status()?, name);
            let reason = found["reason"].as_str().unwrap_or_default();
            if found["state"] == "stopped" && reason.contains(expected) {
                Ok(())
            } else {
                Err(found.to_string())
            }
        });
    };
    for (name, _, line) in cases {
        reason_of(name, &format!("(line {line} of "));
    }
    // What no line says names none.
    let set = manager::kingpole(&scratch, &["set", "dir", "working_dir=/nowhere/else"]);
    assert!(set.status.success(), "{}", describe(&set));
    let start = manager::kingpole(&scratch, &["start", "dir"]);
    assert!(start.status.success(), "{}", describe(&start));
    reason_of("dir", "(working_dir was changed at run time)");
}

#[test]
fn a_port_in_use_is_said_and_taken_when_it_is_free() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    // An address that nobody else uses: who took the port once it is free would keep it.
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = format!("127.{high}.{low}.9");
    let taken = TcpListener::bind((host.as_str(), 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let configuration = scratch.write(
        "port.ini",
        format!(
            "{GOOD}[watcher:web]\ncmd = {} \"serve $(circus.sockets.web)\" wait\n\
             [socket:web]\nhost = {host}\nport = {port}\n",
            binaries::puppet().display()
        ),
    );
    let manager = Manager::start(&scratch, &configuration);
    wait::until("the good watcher runs", || manager.pids("good"));
    let place = format!("{host}:{port}");
    wait::until("the port is named", || {
        let log = manager.log();
        if log.contains(&place) {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert!(manager.pids("web").is_err());
    drop(taken);
    wait::until("the web watcher runs", || manager.pids("web"));
    let said = saying(&manager.log(), &place);
    assert!(said.len() <= 3, "said again and again: {said:#?}");
}

#[test]
fn a_broken_file_changes_nothing_and_names_its_line() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    for (name, text, line) in [
        (
            "number.ini",
            format!("{GOOD}[watcher:bad]\ncmd = x\nnumprocesses = many\n"),
            5,
        ),
        (
            "boolean.ini",
            format!("{GOOD}[watcher:bad]\ncmd = x\nsingleton = maybe\n"),
            5,
        ),
        (
            "separator.ini",
            format!("{GOOD}[watcher:bad]\njust words\n"),
            4,
        ),
        (
            "name.ini",
            format!("{GOOD}[watcher:{}]\ncmd = x\n", "x".repeat(10_000)),
            3,
        ),
    ] {
        let file = scratch.write(name, text);
        let place = format!("{name}:{line}");
        let named = |text: &str| {
            text.contains(&place) || (text.contains(name) && text.contains(&format!("line {line}")))
        };
        let manager = Manager::command(&scratch, &file).output().unwrap();
        let said = String::from_utf8_lossy(&manager.stderr).into_owned();
        assert!(!manager.status.success(), "{name}: {}", describe(&manager));
        assert!(named(&said), "{name}: {said}");
        let check = manager::kingpole(&scratch, &["check", file.to_str().unwrap()]);
        assert_eq!(check.status.code(), Some(1), "{name}: {}", describe(&check));
        assert!(named(&describe(&check)), "{name}: {}", describe(&check));
        assert!(
            describe(&check).len() < 4000,
            "{name}: the message is not the file"
        );
    }
    assert_eq!(kernel.client().processes().unwrap(), []);
}

#[test]
fn names_with_spaces_work_and_unknown_keys_are_named() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let file = scratch.write(
        "odd.ini",
        "[watcher:a b.c]\ncmd = /bin/sleep 100000\nnumproceses = 3\n",
    );
    let manager = Manager::start(&scratch, &file);
    wait::until("it runs", || manager.pids("a b.c"));
    let answer = manager::kingpole(&scratch, &["restart", "a b.c", "--wait"]);
    assert!(answer.status.success(), "{}", describe(&answer));
    let log = manager.log();
    let said = saying(&log, "numproceses");
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("odd.ini"), "{said:?}");
}

/// Starts a manager that has a file system of 1 MiB, seen by nobody else, at `disk`.
fn manager_with_small_disk(scratch: &Rc<Scratch>, configuration: &std::path::Path) -> Guarded {
    let disk = scratch.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec"])
        .arg(
            "mount -t tmpfs -o size=1m none \"$1\"; head -c 1000000 /dev/zero > \"$1/ballast\"; \
             shift; exec \"$@\"",
        )
        .arg("sh")
        .arg(disk)
        .arg(binaries::manager())
        .arg(configuration)
        .current_dir(scratch.path())
        .env(
            kingpole_protocol::places::RUNTIME_DIR_VARIABLE,
            scratch.runtime_dir(),
        );
    Guarded::start("kingpole-manager", command, scratch.join("manager.log"))
}

#[test]
fn a_full_disk_under_one_log_is_said_once_and_loses_nothing() {
    let can = Command::new("unshare").args(["--mount", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must allow a mount namespace"
        );
        eprintln!("skipped: a small disk of its own needs a mount namespace");
        return;
    }
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let (full, roomy) = (Stage::new(&scratch), Stage::new(&scratch));
    let section = |name: &str, stage: &Stage, log: &std::path::Path| {
        format!(
            "[watcher:{name}]\ncmd = {} \"{}\"\nstdout_stream.filename = {}\n",
            binaries::puppet().display(),
            stage.command(),
            log.display()
        )
    };
    let (full_log, roomy_log) = (scratch.join("disk/full.log"), scratch.join("roomy.log"));
    let text = section("full", &full, &full_log) + &section("roomy", &roomy, &roomy_log);
    let configuration = scratch.write("disk.ini", text);
    let manager = manager_with_small_disk(&scratch, &configuration);
    let (mut full, mut roomy) = (full.accept().unwrap(), roomy.accept().unwrap());
    // Some 460 KB each, where the disk has room for 45.
    let count = 10_000;
    full.ask(&format!("lines out full 0 {count} 0"));
    roomy.ask(&format!("lines out roomy 0 {count} 0"));
    let whole = |path: &std::path::Path, tag: &str| {
        let content = std::fs::read(path).map_err(|e| e.to_string())?;
        match lines::check(tag, &content, 0) {
            Ok(found) if found == count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    wait::until("the other log is complete", || whole(&roomy_log, "roomy"));
    wait::until("the full disk is said", || {
        let said = saying(&manager.log(), "full.log");
        let space = said.iter().any(|l| l.contains("is the disk full?"));
        if space { Ok(()) } else { Err(manager.log()) }
    });
    let root = format!("/proc/{}/root", manager.handle().pid());
    let inside = |path: &std::path::Path| format!("{root}{}", path.display());
    std::fs::remove_file(inside(&scratch.join("disk/ballast"))).unwrap();
    let there = inside(&full_log);
    wait::until("the log is complete", || {
        whole(std::path::Path::new(&there), "full")
    });
    let said = saying(&manager.log(), "full.log");
    assert!(said.len() <= 4, "said again and again: {said:#?}");
    let status = manager::json(&scratch, &["status", "--json"]).unwrap();
    assert_eq!(
        full.report()["pid"],
        manager::pids(&status, "full").unwrap()[0]
    );
}

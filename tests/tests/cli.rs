//! Promise: scripts can rely on the command line: exit codes, JSON, and what goes to which stream.

use kingpole_tests::manager::{self, Manager, describe, json, kingpole};
use kingpole_tests::{Kernel, Scratch, binaries, wait};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;
use std::rc::Rc;

const STACK: &str = "[watcher:one]\ncmd = /bin/sleep 100000\n\
                     [watcher:two]\ncmd = /bin/sh -c \"echo hello; exec sleep 100000\"\n\
                     numprocesses = 2\n";

fn started() -> (Kernel, Rc<Scratch>, Manager) {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write("stack.ini", STACK);
    let manager = Manager::start(&scratch, &configuration);
    wait::until("both are active", || {
        manager
            .pids("one")
            .and_then(|_| manager.pids("two"))
            .map(drop)
    });
    (kernel, scratch, manager)
}

#[track_caller]
fn code(answer: &Output, expected: i32) -> &Output {
    assert_eq!(answer.status.code(), Some(expected), "{}", describe(answer));
    if expected != 0 {
        assert!(
            !answer.stderr.is_empty(),
            "a failure says why on stderr: {}",
            describe(answer)
        );
    }
    answer
}

#[test]
fn exit_codes_are_as_documented() {
    let (_kernel, scratch, _manager) = started();
    code(&kingpole(&scratch, &["status"]), 0);
    code(&kingpole(&scratch, &["list"]), 0);
    code(&kingpole(&scratch, &["--help"]), 0);
    code(&kingpole(&scratch, &["--version"]), 0);
    code(&kingpole(&scratch, &["stop", "nobody"]), 1);
    let check = kingpole(&scratch, &["check", "/nowhere.ini"]);
    assert_eq!(check.status.code(), Some(1), "{}", describe(&check));
    assert!(
        String::from_utf8_lossy(&check.stdout).contains("/nowhere.ini"),
        "findings are output"
    );
    code(&kingpole(&scratch, &["frobnicate"]), 2);
    code(&kingpole(&scratch, &["incr"]), 2);
    code(&kingpole(&scratch, &["status", "--no-such-option"]), 2);
}

#[test]
fn without_a_manager_and_without_a_kernel_they_say_so() {
    let nobody = Scratch::new();
    for command in [
        &["status"][..],
        &["stop", "x"],
        &["quit"],
        &["kernel", "status"],
    ] {
        let answer = kingpole(&nobody, command);
        let found = answer.status.code();
        assert!(
            matches!(found, Some(3 | 4)),
            "{command:?}: {}",
            describe(&answer)
        );
        assert!(!answer.stderr.is_empty(), "{command:?}");
    }
    let kernel = Kernel::start();
    code(&kingpole(kernel.scratch(), &["kernel", "status"]), 0);
    code(&kingpole(kernel.scratch(), &["status"]), 3);
}

#[test]
fn json_has_its_shapes() {
    let (kernel, scratch, _manager) = started();
    let status = json(&scratch, &["status", "--json"]).unwrap();
    assert!(status["manager"]["pid"].is_u64(), "{status}");
    assert_eq!(manager::pids(&status, "one").unwrap().len(), 1);
    assert_eq!(manager::pids(&status, "two").unwrap().len(), 2);
    let list = json(&scratch, &["list", "--json"]).unwrap();
    assert!(list.to_string().contains("\"one\""), "{list}");

    let held = json(&scratch, &["kernel", "status", "--json"]).unwrap();
    assert_eq!(held["kernel"]["pid"], kernel.client().welcome().pid);
    assert_eq!(held["processes"].as_array().unwrap().len(), 3);
    for part in ["sockets", "values", "sessions", "leases"] {
        assert!(held[part].is_array(), "{part}: {held}");
    }

    let check = json(
        &scratch,
        &[
            "check",
            "--json",
            scratch.join("stack.ini").to_str().unwrap(),
        ],
    );
    assert!(check.unwrap().is_object());
}

#[test]
fn commands_change_what_they_say() {
    let (_kernel, scratch, manager) = started();
    let before = manager.pids("two").unwrap();
    code(&kingpole(&scratch, &["incr", "two", "--wait"]), 0);
    assert_eq!(manager.pids("two").unwrap().len(), 3);
    code(&kingpole(&scratch, &["decr", "two", "--wait"]), 0);
    assert_eq!(manager.pids("two").unwrap().len(), 2);
    code(&kingpole(&scratch, &["restart", "two", "--wait"]), 0);
    let after = manager.pids("two").unwrap();
    assert!(
        after.iter().all(|pid| !before.contains(pid)),
        "{before:?} and {after:?}"
    );
    code(&kingpole(&scratch, &["stop", "one", "--wait"]), 0);
    let state = |name: &str| -> Value {
        let status = manager.status().unwrap();
        let watchers = status["watchers"].as_array().unwrap();
        watchers.iter().find(|w| w["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!(state("one"), "stopped");
    code(&kingpole(&scratch, &["start", "one", "--wait"]), 0);
    assert_eq!(state("one"), "active");
    let pid = manager.pids("one").unwrap()[0];
    code(&kingpole(&scratch, &["signal", "KILL", "one"]), 0);
    wait::until("another one takes its place", || {
        match manager.pids("one") {
            Ok(pids) if pids[0] != pid => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn logs_show_what_children_said() {
    let (_kernel, scratch, _manager) = started();
    wait::until("both have said it", || {
        let answer = kingpole(&scratch, &["logs", "two"]);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let said = text.lines().filter(|l| l.ends_with("hello")).count();
        if answer.status.success() && said == 2 {
            Ok(())
        } else {
            Err(describe(&answer))
        }
    });
    code(&kingpole(&scratch, &["logs", "nobody"]), 1);
}

#[test]
fn check_understands_our_examples_and_what_circus_users_have() {
    let scratch = Scratch::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in ["docs/examples", "manager/src/config/load/corpus"] {
        let directory = binaries::workspace().join(directory);
        let entries = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "ini")));
    }
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let answer = kingpole(&scratch, &["check", file.to_str().unwrap()]);
        assert_eq!(
            answer.status.code(),
            Some(0),
            "{}: {}",
            file.display(),
            describe(&answer)
        );
    }
}

//! Promise: scripts can rely on the command line: exit codes, JSON, and what goes to which stream.

use kingpole_tests::manager::{self, Manager, describe, json, kingpole};
use kingpole_tests::terminal::Terminal;
use kingpole_tests::{Kernel, Scratch, binaries, wait};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;
use std::rc::Rc;

const STACK: &str = "[watcher:one]\ncmd = /bin/sleep 100000\n\
                     [watcher:two]\ncmd = /bin/sh -c \"echo hello; exec sleep 100000\"\n\
                     numprocesses = 2\n";

fn started() -> (Kernel, Rc<Scratch>, Manager) {
    Manager::with_kernel(STACK, &["one", "two"])
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

#[test]
fn options_watchers_and_the_file_change_at_run_time() {
    let (_kernel, scratch, mut manager) = started();
    let before = manager.pids("one").unwrap();
    let done = |arguments: &[&str]| {
        let answer = kingpole(&scratch, arguments);
        code(&answer, 0);
        String::from_utf8(answer.stdout).unwrap()
    };
    done(&["set", "two", "args=again", "graceful_timeout=1.5", "--wait"]);
    assert_eq!(
        done(&["get", "two", "graceful_timeout", "args"]),
        "args: again\ngraceful_timeout: 1.5\n"
    );
    assert!(done(&["options", "two"]).contains("numprocesses: 2\n"));
    assert!(done(&["globaloptions"]).contains("check_delay: 5.0\n"));
    code(&kingpole(&scratch, &["set", "two", "nonsense=1"]), 1);
    code(&kingpole(&scratch, &["set", "two"]), 2);
    code(&kingpole(&scratch, &["get", "two", "nonsense"]), 1);
    done(&[
        "add",
        "--start",
        "Run time",
        "--env",
        "A=b c",
        "--wait",
        "--",
        "/bin/sh",
        "-c",
        "echo $A; exec sleep 100000",
    ]);
    code(&kingpole(&scratch, &["add", "run time", "--", "x"]), 1);
    wait::until("its environment is what was given", || {
        let lines = done(&["logs", "run time"]);
        if lines.contains("b c") {
            Ok(())
        } else {
            Err(lines)
        }
    });
    done(&["scale", "3", "Run time", "--wait"]);
    assert_eq!(done(&["numprocesses", "run time"]), "3\n");
    assert_eq!(
        done(&["list", "--match", "regex", "run|one$"]),
        "Run time\none\n"
    );
    done(&[
        "kill",
        "run time",
        "--worker",
        "2",
        "--graceful-timeout",
        "1s",
        "--wait",
    ]);

    manager.replace();
    manager.wait_ready();
    wait::until("the next manager has all of them", || {
        manager.pids("Run time").map(drop)
    });
    assert_eq!(manager.pids("one").unwrap(), before);
    assert_eq!(done(&["get", "two", "args"]), "args: again\n");
    let stats = json(&scratch, &["stats", "--json"]).unwrap();
    let stats = stats.as_array().unwrap();
    assert_eq!(stats.len(), 3, "{stats:?}");
    assert!(
        stats
            .iter()
            .all(|it| it["processes"][0]["info"]["resident_bytes"].as_u64() > Some(0)),
        "{stats:?}"
    );
    assert!(done(&["stats", "one"]).contains("sleep"));
    assert!(json(&scratch, &["dstats", "--json"]).unwrap()["info"]["pid"].is_u64());
    assert_eq!(done(&["listsockets"]), "no sockets are configured\n");

    scratch.write(
        "stack.ini",
        format!("{STACK}[watcher:three]\ncmd = /bin/sleep 100000\n[socket:s]\nport = 0\n"),
    );
    let plan = done(&["reloadconfig", "--dry-run"]);
    assert_eq!(
        plan,
        "would change:\nsocket \"s\": bound\nwatcher \"three\": added\n"
    );
    done(&["reloadconfig", "--wait"]);
    manager.pids("three").unwrap();
    assert!(
        done(&["listsockets"]).contains("127.0.0.1:"),
        "{}",
        done(&["listsockets"])
    );
    assert_eq!(manager.pids("one").unwrap(), before);
    done(&["rm", "Run time", "three", "--wait"]);
    assert_eq!(done(&["list"]), "one\ntwo\n");
    scratch.write("stack.ini", "[watcher:one]\nbad line\n");
    let refused = kingpole(&scratch, &["reloadconfig"]);
    code(&refused, 1);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("line 2 of"),
        "{}",
        describe(&refused)
    );
    assert_eq!(manager.pids("one").unwrap(), before);
}

#[test]
fn the_kernel_is_upgraded_from_the_command_line() {
    let (kernel, scratch, manager) = started();
    let (pid, before) = (kernel.client().welcome().pid, manager.pids("two").unwrap());
    let program = binaries::kernel().to_str().unwrap();
    let check = kingpole(&scratch, &["upgrade", "--kernel", program, "--check"]);
    let said = describe(code(&check, 0));
    assert!(said.contains("nothing has happened"), "{said}");
    let refused = kingpole(&scratch, &["upgrade", "--kernel", "/bin/true"]);
    let said = describe(code(&refused, 1));
    assert!(said.contains("/bin/true"), "{said}");
    assert_eq!(kernel.client().welcome().generation, 1);
    let done = kingpole(&scratch, &["upgrade", "--kernel", program, "--json"]);
    let done: Value = serde_json::from_slice(&code(&done, 0).stdout).unwrap();
    assert_eq!(done["done"], true, "{done}");
    assert!(
        done["message"].as_str().unwrap().contains("became"),
        "{done}"
    );
    let welcome = kernel.client().welcome().clone();
    assert_eq!((welcome.pid, welcome.generation), (pid, 2));
    assert_eq!(manager.pids("two").unwrap(), before);
    // Without a path: the one that is installed beside the command.
    let done = kingpole(&scratch, &["upgrade", "--kernel"]);
    code(&done, 0);
    assert_eq!(kernel.client().welcome().generation, 3);
    let nobody = Scratch::new();
    code(&kingpole(&nobody, &["upgrade", "--kernel", program]), 3);
    code(&kingpole(&nobody, &["upgrade", "--manager"]), 3);
}

#[test]
fn commands_come_from_a_pipe_and_stop_at_the_first_failure() {
    let (_kernel, scratch, manager) = started();
    let shell = |commands: &str| {
        let file = scratch.write("commands", commands);
        manager::kingpole_command(&scratch, &["shell"])
            .stdin(std::fs::File::open(file).expect("the commands"))
            .output()
            .expect("kingpole shell runs")
    };
    let answer = shell("# two at once\nlist\n\nstop --wait one\n");
    code(&answer, 0);
    assert!(
        String::from_utf8_lossy(&answer.stdout).starts_with("one\ntwo\n"),
        "{}",
        describe(&answer)
    );
    assert_eq!(manager.pids("two").expect("two is left alone").len(), 2);
    let answer = shell("stop nobody\nstop two\n");
    code(&answer, 1);
    assert_eq!(manager.pids("two").expect("not reached").len(), 2);
    code(&shell("list\nexit\nfrobnicate\n"), 0);
    code(&shell("stop 'two\n"), 2);
}

#[test]
fn a_prompt_completes_names_and_asks_before_the_manager_ends() {
    let (_kernel, scratch, manager) = started();
    let mut command = manager::kingpole_command(&scratch, &["shell"]);
    command.env("XDG_STATE_HOME", scratch.path());
    let mut shell = Terminal::start(command);
    shell.wait_for("kingpole> ");
    shell.keys("numpr\ton\t\r");
    shell.wait_for("kingpole> numprocesses one");
    shell.wait_for("\n1\nkingpole>");
    // What is typed ahead, or pasted, is done line by line.
    shell.keys("numprocesses two\rnumprocesses one\rlist\r");
    shell.wait_for("two\n2\nkingpole> numprocesses one\n1\nkingpole> list\none\ntwo\nkingpole>");
    shell.keys("quit\r");
    shell.wait_for("end the manager? (y/n)");
    shell.keys("n\r");
    wait::until_true("the prompt is there again", || {
        shell.screen().trim_end().ends_with("\nkingpole>")
    });
    assert!(manager.status().is_ok());
    shell.keys("\x04");
    assert!(shell.ended().success());
    let history = std::fs::read_to_string(scratch.join("kingpole/history")).expect("a history");
    assert!(history.contains("numprocesses one"), "{history}");
}

#[test]
fn colours_are_as_the_command_line_says() {
    let (_kernel, scratch, _manager) = started();
    wait::until("there is output", || {
        let logs = kingpole(&scratch, &["logs", "two", "--color", "always"]);
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        if text.contains("\x1b[") && text.contains("hello") {
            Ok(())
        } else {
            Err(text)
        }
    });
    let logs = manager::kingpole_command(&scratch, &["logs", "two", "--color", "never"])
        .env("CLICOLOR_FORCE", "1")
        .output()
        .expect("logs");
    assert!(!logs.stdout.contains(&0x1b), "{}", describe(&logs));
}

#[test]
fn explain_tells_why_and_what_comes_next() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write(
        "stack.ini",
        "[watcher:bad]\ncmd = /bin/sh -c \"echo cannot open the database; exit 3\"\n\
         backoff_min = 600\nbackoff_max = 600\n[watcher:good]\ncmd = /bin/sleep 100000\n",
    );
    let _manager = Manager::start(&scratch, &configuration);
    let text = wait::until("the bad one is held back", || {
        let answer = kingpole(&scratch, &["explain", "bad"]);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        if text.contains("held back for") && text.contains("cannot open the database") {
            Ok(text)
        } else {
            Err(describe(&answer))
        }
    });
    assert!(text.contains("ended with exit status 3"), "{text}");
    assert!(
        text.ends_with("next: a process is started when the time is over\n"),
        "{text}"
    );
    let value = json(&scratch, &["explain", "bad", "--json"]).expect("JSON");
    assert_eq!(value["watcher"]["ends"][0]["exit_code"], 3, "{value}");
    let text = value["output"].to_string();
    assert!(text.contains("cannot open the database"), "{value}");
    code(&kingpole(&scratch, &["explain", "nobody"]), 1);
    code(&kingpole(&scratch, &["explain"]), 2);
}

//! Promise: `kingpole top` shows what is, does what its keys say, and leaves the terminal as it was.

use std::rc::Rc;

use kingpole_tests::manager::{Manager, kingpole, kingpole_command};
use kingpole_tests::terminal::Terminal;
use kingpole_tests::{Kernel, Scratch, process, wait};
use serde_json::Value;

const STACK: &str = "[socket:door]\nhost = 127.0.0.1\nport = 0\n\
    [watcher:talker]\n\
    cmd = /bin/sh -c \"i=0; while :; do i=$((i+1)); echo said $i; sleep 0.05; done\"\n\
    stop_children = true\n\
    [watcher:sleeper]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n";

fn started() -> (Kernel, Rc<Scratch>, Manager) {
    Manager::with_kernel(STACK, &["talker", "sleeper"])
}

#[test]
fn keys_act_and_the_terminal_is_given_back() {
    let (_kernel, scratch, manager) = started();
    let mut top = Terminal::start(kingpole_command(&scratch, &["top", "-d", "100ms"]));
    let screen = top.wait_for("socket door  127.0.0.1:");
    assert!(
        screen.contains("sleeper.2") && screen.contains("talker.1"),
        "{screen}"
    );
    assert!(top.is_alternate());

    // Stopped and started.
    top.keys("/sleep\r");
    wait::until_true("the filter holds", || !top.screen().contains("talker"));
    top.keys("x");
    top.wait_for("stop sleeper? (y/n)");
    top.keys("y");
    top.wait_for("stopped        0/2");
    assert!(manager.pids("talker").is_ok(), "nobody asked for that");
    top.keys("u");
    top.wait_for("active         2/2");

    // A process is restarted by itself.
    let before = manager.pids("sleeper").expect("pids");
    top.keys("\x1b[B");
    top.keys("r");
    top.wait_for("restart sleeper.");
    top.keys("y");
    wait::until("one of them is another", || {
        let now = manager.pids("sleeper")?;
        let kept = now.iter().filter(|pid| before.contains(pid)).count();
        if now.len() == 2 && kept == 1 {
            Ok(())
        } else {
            Err(format!("{before:?} {now:?}"))
        }
    });

    // Output, as it comes.
    top.keys("/");
    top.wait_for("filter: sleep_");
    top.keys("\x7f\x7f\x7f\x7f\x7f\r");
    top.wait_for("talker.1");
    top.keys("\x1b[F");
    top.keys("l");
    top.wait_for("output of talker");
    top.wait_for("said ");
    top.keys("q");
    top.wait_for("sleeper.2");
    top.keys("?");
    top.wait_for("send a signal");
    top.keys(" q");
    assert!(top.ended().success());
    assert!(!top.is_alternate(), "{}", top.screen());
}

#[test]
fn a_manager_that_dies_and_the_next_one_are_seen() {
    let (_kernel, scratch, mut manager) = started();
    let top = Terminal::start(kingpole_command(&scratch, &["top", "-d", "100ms"]));
    let pid = manager.pids("talker").expect("a pid")[0].to_string();
    assert!(top.wait_for("talker.1").contains(&pid));
    manager.kill();
    top.wait_for("no manager runs in");
    assert!(top.screen().contains(&pid), "the last that is known stays");
    manager.replace();
    wait::until_true("it goes on", || !top.screen().contains("no manager runs"));
    assert!(top.wait_for("talker.1").contains(&pid), "the same process");
    process::Handle::open(i32::try_from(top.pid()).expect("a pid"))
        .and_then(|top| top.signal(15))
        .expect("SIGTERM");
    wait::until_true("the screen is given back", || !top.is_alternate());
}

#[test]
fn without_a_terminal_it_prints() {
    let (_kernel, scratch, _manager) = started();
    let once = kingpole(&scratch, &["top", "--once"]);
    let text = String::from_utf8_lossy(&once.stdout).into_owned();
    assert!(
        once.status.success() && text.contains("sleeper.2"),
        "{text}"
    );
    let json = kingpole(&scratch, &["top", "--once", "--json", "talker"]);
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let watchers = value["watchers"].as_array().expect("watchers");
    assert_eq!(watchers.len(), 1, "{value}");
    assert_eq!(watchers[0]["name"], "talker");
    let process = &watchers[0]["processes"][0];
    assert!(process["resident_bytes"].as_u64() > Some(0), "{value}");
    assert!(process["output_bytes_per_second"].is_u64(), "{value}");
    assert_eq!(value["sockets"][0]["waiting"], 0, "{value}");
    let full = kingpole(&scratch, &["top"]);
    assert_eq!(full.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&full.stderr).contains("--once"));
}

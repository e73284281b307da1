//! Promise: who follows logs or events goes on following when managers are killed or upgraded, and
//! sees every line once.

use kingpole_tests::manager::{Manager, describe, kingpole, kingpole_command};
use kingpole_tests::process::Handle;
use kingpole_tests::puppet::Stage;
use kingpole_tests::terminal::Terminal;
use kingpole_tests::{Kernel, Scratch, binaries, lines, wait};
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::rc::Rc;

/// `kingpole` with arguments, which goes on and writes into a file.
struct Following {
    child: Child,
    output: PathBuf,
}

impl Following {
    fn start(scratch: &Scratch, name: &str, arguments: &[&str]) -> Self {
        let output = scratch.join(name);
        let errors = File::create(scratch.join(format!("{name}.errors"))).unwrap();
        let child = kingpole_command(scratch, arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .stderr(errors)
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// Whole lines so far, read.
    fn seen(&mut self) -> Vec<Value> {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("it has ended: {status}");
        }
        let text = std::fs::read_to_string(&self.output).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let read =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(read).collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Our own child, not reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn logs_and_events_go_on_across_kills_and_upgrades_without_a_line_missing_or_doubled() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let stage = Stage::new(&scratch);
    let configuration = scratch.write(
        "stack.ini",
        format!(
            "[watcher:writer]\ncmd = {} \"{}\"\nstdout_stream.class = FileStream\n\
             stdout_stream.filename = {}\n\
             [watcher:other]\ncmd = /bin/sleep 100000\n",
            binaries::puppet().display(),
            stage.command(),
            scratch.join("out.log").display()
        ),
    );
    let mut manager = Manager::start(&scratch, &configuration);
    let mut writer = stage.accept().unwrap();
    let arguments = ["logs", "-f", "-n", "1000", "--json", "writer"];
    let mut logs = Following::start(&scratch, "logs", &arguments);
    let mut events = Following::start(&scratch, "events", &["events", "-f", "--json", "other"]);
    // Before the first line, so that none is older than what they begin with.
    writer.ask("lines out p 0 3 1000");
    wait::until("the first lines", || {
        let seen = logs.seen().len();
        if seen == 3 { Ok(()) } else { Err(seen) }
    });
    // Who has not begun to follow a first manager does not wait for a second one.
    wait::until("the events so far", || match events.seen().is_empty() {
        true => Err("none"),
        false => Ok(()),
    });
    writer.ask("background lines out p 3 0 300");
    for round in 0..5 {
        let before = logs.seen().len();
        if round % 2 == 0 {
            manager.replace();
            manager.wait_ready();
        } else {
            let done = kingpole(&scratch, &["upgrade", "--manager"]);
            assert!(done.status.success(), "{}", describe(&done));
        }
        wait::until("lines of the next manager", || {
            let now = logs.seen().len();
            if now > before + 20 { Ok(()) } else { Err(now) }
        });
        let pids = wait::until("it runs", || manager.pids("other"));
        let pid = i32::try_from(pids[0]).unwrap();
        Handle::open(pid).unwrap().signal(libc::SIGKILL).unwrap();
        wait::until("its end is an event", || {
            let seen = events.seen();
            let reaped = |event: &Value| event["action"] == "reap" && event["pid"] == pid;
            if seen.iter().any(reaped) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
    }
    let count = writer.ask("enough")["p"].as_u64().unwrap();
    wait::until("all lines", || {
        let mut content = Vec::new();
        for line in logs.seen() {
            let text = line["text"].as_str().ok_or_else(|| line.to_string())?;
            content.extend_from_slice(text.as_bytes());
            content.push(b'\n');
        }
        let found = lines::check("p", &content, 0)?;
        if found == count {
            Ok(())
        } else {
            Err(format!("{found} of {count}"))
        }
    });
    let mut told = events.seen();
    let all = told.len();
    told.dedup();
    assert_eq!(told.len(), all, "none is told twice");
}

/// Lines that the manager has from one watcher or several, in its order.
fn texts(scratch: &Scratch, arguments: &[&str]) -> Result<Vec<String>, String> {
    let all = [&["logs", "--json", "-n", "1000"], arguments].concat();
    let answer = kingpole(scratch, &all);
    if !answer.status.success() {
        return Err(describe(&answer));
    }
    let lines = String::from_utf8_lossy(&answer.stdout).into_owned();
    let text = |line: &str| {
        let entry: Value =
            serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        Ok(entry["text"].as_str().unwrap_or_default().to_owned())
    };
    lines.lines().map(text).collect()
}

#[test]
fn on_a_terminal_the_lines_of_many_are_one_story_in_colours_with_its_gaps() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let names = ["alpha", "web.a", "web.b", "other"];
    let stages = names.map(|name| (name, Stage::new(&scratch)));
    let section = |(name, stage): &(&str, Stage)| {
        let puppet = binaries::puppet().display();
        let command = stage.command();
        format!("[watcher:{name}]\ncmd = {puppet} \"{command}\"\nbuffer_bytes = 8192\n")
    };
    let stack: String = stages.iter().map(section).collect();
    let configuration = scratch.write("stack.ini", stack);
    let mut manager = Manager::start(&scratch, &configuration);
    let mut puppets = stages.map(|(_, stage)| stage.accept().unwrap());
    // Each only when the one before is known, so that their order is no chance.
    let mut said: Vec<String> = Vec::new();
    for (number, who) in [0, 1, 0, 2, 3, 1, 0].into_iter().enumerate() {
        let text = format!("said-{number}");
        puppets[who].ask(&format!("text out {text}"));
        said.push(text);
        wait::until("it is known", || match texts(&scratch, &[])? {
            seen if seen == said => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
    }
    let meant: Vec<String> = said.iter().filter(|it| *it != "said-4").cloned().collect();
    assert_eq!(texts(&scratch, &["alpha", "web.*"]).unwrap(), meant);
    puppets[0].ask("text err oops-1");
    wait::until("only standard error", || {
        match texts(&scratch, &["--stderr"])?.as_slice() {
            [one] if one == "oops-1" => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    assert_eq!(
        texts(&scratch, &["--grep", "said-[35]$"]).unwrap(),
        ["said-3", "said-5"]
    );
    assert_eq!(texts(&scratch, &["--since", "1h"]).unwrap().len(), 8);

    let mut command = kingpole_command(&scratch, &["logs", "-f", "-n", "100", "alpha", "web.*"]);
    command.env_remove("NO_COLOR");
    // Nothing shall leave the screen: the gap stands before all that the buffer holds.
    let terminal = Terminal::with_rows(4000, command);
    let screen = terminal.wait_for("oops-1");
    let shown = screen
        .split_whitespace()
        .filter(|it| it.starts_with("said-"));
    assert_eq!(shown.collect::<Vec<_>>(), meant);
    for name in ["alpha.1", "web.a.1", "web.b.1"] {
        assert_eq!(terminal.is_coloured(name), Some(true), "{name}: {screen}");
    }
    // More than the kernel keeps of one process, while nobody takes it.
    manager.kill();
    puppets[0].ask("lines out much 0 3000 0");
    manager.replace();
    manager.wait_ready();
    // By whom it is told depends on whether the terminal's program finds the next manager before or
    // after that one has heard of the loss.
    wait::until("the gap shows", || {
        let screen = terminal.screen();
        let told = [
            "bytes were lost here",
            "bytes between two managers are not shown",
        ];
        match told.iter().any(|words| screen.contains(words)) {
            true => Ok(()),
            false => Err(screen),
        }
    });
    puppets[2].ask("text out afterwards");
    terminal.wait_for("afterwards");
}

#[test]
fn a_rolling_reload_shows_its_progress_on_a_terminal() {
    let stack = "[watcher:web]\ncmd = /bin/sleep 100000\nnumprocesses = 3\nready = uptime 0.1\n";
    let (_kernel, scratch, _manager) = Manager::with_kernel(stack, &["web"]);
    let start = |arguments: &[&str]| Terminal::start(kingpole_command(&scratch, arguments));
    let mut planned = start(&["reload", "web", "--dry-run", "--workers", "2"]);
    planned
        .wait_for("web: would replace 2 processes, never fewer than 3 of 3 ready, at most 1 extra");
    assert!(planned.ended().success());
    let mut running = start(&["reload", "web", "--rolling"]);
    let screen = running.wait_for("web: reload done, 3 replaced");
    let begun = screen.contains("of 3 replaced") && screen.contains("ready (never fewer than 3)");
    assert!(begun, "{screen}");
    assert!(!screen.contains('{'), "no JSON for people: {screen}");
    assert!(running.ended().success());
}

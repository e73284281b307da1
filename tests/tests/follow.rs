//! Promise: who follows logs or events goes on following when managers are killed or upgraded, and
//! sees every line once.

use kingpole_tests::manager::{Manager, describe, kingpole, kingpole_command};
use kingpole_tests::process::Handle;
use kingpole_tests::puppet::Stage;
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

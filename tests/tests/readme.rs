//! Promise: the commands of the README do what it says, as written.
//!
//! They run below a shell in process and network namespaces of their own, where the machine allows
//! that, so that `pgrep` and the port mean ours. `KINGPOLE_README=as-written` runs the release build
//! of the first command as well; otherwise the binaries of this test run stand in for it.

use kingpole_protocol::places::RUNTIME_DIR_VARIABLE;
use kingpole_tests::process::Guarded;
use kingpole_tests::{Scratch, binaries, wait};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Lines of the `sh` blocks, block by block.
fn blocks() -> Vec<Vec<String>> {
    let readme = std::fs::read_to_string(binaries::workspace().join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut block: Option<Vec<String>> = None;
    for line in readme.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(Vec::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(lines), line) => lines.push(line.to_owned()),
            (None, _) => {}
        }
    }
    blocks
}

/// A shell that takes one command at a time.
struct Shell {
    process: Guarded,
    connection: BufReader<UnixStream>,
}

/// Runs what it reads line by line and answers with the output and the exit code.
const SERVER: &str = r#"
import json, socket, subprocess, sys
if sys.argv[2] == "isolated":
    import fcntl, struct
    s = socket.socket()
    request = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(s, 0x8913, request))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
wire = socket.socket(socket.AF_UNIX)
wire.connect(sys.argv[1])
background = []
for line in wire.makefile("r"):
    order = json.loads(line)
    if order["background"]:
        log = open(order["log"], "ab")
        background.append(subprocess.Popen(["sh", "-c", order["command"]], stdout=log, stderr=log,
                                           stdin=subprocess.DEVNULL, start_new_session=True))
        answer = {"pid": background[-1].pid}
    elif order["command"] == "":
        answer = {"code": background[-1].wait(timeout=60)}
    else:
        done = subprocess.run(["sh", "-c", order["command"]], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)
        answer = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
    wire.sendall((json.dumps(answer) + "\n").encode())
"#;

impl Shell {
    fn start(scratch: &Scratch) -> Self {
        let path = scratch.join("shell.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let isolated = ["--pid", "--fork", "--mount-proc", "--net", "--kill-child"];
        let can = Command::new("unshare").args(isolated).arg("true").output();
        let can = can.is_ok_and(|output| output.status.success());
        let mut command = if can {
            let mut command = Command::new("unshare");
            command.args(isolated).arg("python3");
            command
        } else {
            let others = Command::new("pgrep")
                .args(["-x", "kingpole"])
                .output()
                .unwrap();
            assert!(
                others.stdout.is_empty(),
                "another kingpole runs, which the README's kill would hit, and this machine allows \
                 no process namespace"
            );
            Command::new("python3")
        };
        let home = scratch.join("home");
        std::fs::create_dir(&home).unwrap();
        for (variable, default) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let old_home = std::env::var("HOME").unwrap_or_default();
            let there = std::env::var(variable).unwrap_or(format!("{old_home}/{default}"));
            command.env(variable, there);
        }
        // What cargo tells its tests is not there for somebody who follows the README.
        for (name, _) in
            std::env::vars().filter(|(n, _)| n.starts_with("CARGO_") && n != "CARGO_HOME")
        {
            command.env_remove(name);
        }
        command
            .current_dir(binaries::workspace())
            .env("HOME", home)
            .env(RUNTIME_DIR_VARIABLE, scratch.runtime_dir())
            .args(["-c", SERVER])
            .arg(&path)
            .arg(if can { "isolated" } else { "shared" });
        let process = Guarded::start("shell", command, scratch.join("shell.log"));
        let (connection, _) = listener.accept().unwrap();
        Self {
            process,
            connection: BufReader::new(connection),
        }
    }

    #[track_caller]
    fn order(&mut self, order: &serde_json::Value) -> serde_json::Value {
        writeln!(self.connection.get_ref(), "{order}").unwrap();
        let mut answer = String::new();
        self.connection.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer)
            .unwrap_or_else(|e| panic!("{e} after {order}; {}", self.process.log()))
    }

    /// Runs a command to its end; answers code and output.
    #[track_caller]
    fn run(&mut self, command: &str) -> (i64, String) {
        let answer = self.order(&serde_json::json!({ "background": false, "command": command }));
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        (answer["code"].as_i64().unwrap(), text("out") + &text("err"))
    }

    /// Starts a command as in a terminal of its own; answers its pid as the shell sees it.
    #[track_caller]
    fn start_terminal(&mut self, command: &str, log: &Path) -> i64 {
        let order = serde_json::json!({ "background": true, "command": command, "log": log });
        self.order(&order)["pid"].as_i64().unwrap()
    }

    /// Waits for the end of the command started last; answers its code.
    #[track_caller]
    fn wait_terminal(&mut self) -> i64 {
        self.order(&serde_json::json!({ "background": false, "command": "" }))["code"]
            .as_i64()
            .unwrap()
    }
}

/// The command with the binaries of this run, unless all of it is to run as written.
fn localized(command: &str) -> String {
    if std::env::var("KINGPOLE_README").is_ok_and(|how| how == "as-written") {
        return command.to_owned();
    }
    let directory = binaries::kingpole().parent().unwrap().display().to_string();
    let command = command
        .strip_prefix("cargo build --release && ")
        .unwrap_or(command);
    command.replace("target/release", &directory)
}

fn pids(status: &str) -> BTreeSet<String> {
    let status: serde_json::Value =
        serde_json::from_str(status).unwrap_or_else(|e| panic!("{e}: {status}"));
    let watchers = status["watchers"].as_array().unwrap();
    watchers
        .iter()
        .flat_map(|w| w["processes"].as_array().unwrap())
        .map(|p| p["pid"].to_string())
        .collect()
}

/// A terminal for the example, and a second one to look at it.
struct Screen {
    shell: Shell,
    log: PathBuf,
}

impl Screen {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The pids of all workers, once there are any.
    #[track_caller]
    fn pids(&mut self, patience: Duration) -> BTreeSet<String> {
        let status = format!("{} status --json", binaries::kingpole().display());
        wait::within(patience, "all four workers of the example run", || {
            let (code, text) = self.shell.run(&status);
            let found = if code == 0 {
                pids(&text)
            } else {
                BTreeSet::new()
            };
            if found.len() == 4 {
                Ok(found)
            } else {
                Err(format!("{text}; {}", self.said()))
            }
        })
    }

    /// Runs a command of the README in the second terminal and checks that it shows what it should.
    #[track_caller]
    fn obey(&mut self, command: &str, workers: &BTreeSet<String>) {
        let text = wait::until(command, || {
            let (code, text) = self.shell.run(&localized(command));
            // The workers may still be starting their interpreters.
            if code == 0 {
                Ok(text)
            } else {
                Err(format!("{code}, {text}; {}", self.said()))
            }
        });
        if command.starts_with("curl") {
            assert!(text.contains("worker "), "{command}: {text}");
        } else if command.contains(" status") {
            for pid in workers {
                assert!(
                    text.contains(pid.as_str()),
                    "{command} shows no {pid}: {text}"
                );
            }
        }
    }
}

#[test]
fn the_first_screen_works_as_written() {
    let blocks = blocks();
    let [run, look, again, test] = blocks.as_slice() else {
        panic!("four sh blocks: {blocks:?}")
    };
    let [run] = run.as_slice() else {
        panic!("one command runs it: {run:?}")
    };
    assert_eq!(test, &["cargo test --workspace"]);
    let kill = look
        .iter()
        .position(|l| l.starts_with("kill -9"))
        .expect("the manager is killed");

    let scratch = Scratch::new();
    let log = scratch.join("terminal.log");
    let mut screen = Screen {
        shell: Shell::start(&scratch),
        log: log.clone(),
    };
    screen.shell.start_terminal(&localized(run), &log);
    // A release build from a clean clone comes first where it is run as written.
    let before = screen.pids(Duration::from_secs(1500));
    for command in &look[..=kill] {
        screen.obey(command, &before);
    }
    assert_ne!(screen.shell.wait_terminal(), 0, "it was killed");
    for command in &look[kill + 1..] {
        screen.obey(command, &before);
    }

    // An interactive shell survives Ctrl-C; so must the one that stands in for it.
    let leader = format!("trap : INT; {}", localized(run));
    let leader = screen.shell.start_terminal(&leader, &log);
    // At first it may not yet have asked the kernel.
    let after = screen.pids(wait::PATIENCE);
    assert_eq!(after, before, "the same pids");
    for command in again {
        screen.obey(command, &before);
    }

    // Ctrl-C: the terminal's whole process group.
    screen.shell.run(&format!("kill -INT -{leader}"));
    assert_eq!(screen.shell.wait_terminal(), 0, "{}", screen.said());
    for pid in &before {
        let (code, _) = screen.shell.run(&format!("kill -0 {pid}"));
        assert_ne!(code, 0, "{pid} was stopped by Ctrl-C: {}", screen.said());
    }
    check_ticks(&before);
}

/// `ticker.log` has every line of the example's last run once and in order.
fn check_ticks(pids: &BTreeSet<String>) {
    let log = binaries::workspace().join("ticker.log");
    let text = std::fs::read_to_string(&log).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .filter_map(|line| {
            let (number, pid) = line.split_once("| line ")?.1.split_once(" of pid ")?;
            pids.contains(pid).then(|| number.parse().ok())?
        })
        .collect();
    assert!(!numbers.is_empty());
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    std::fs::remove_file(log).unwrap();
}

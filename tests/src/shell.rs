//! A shell that takes one command at a time, in process and network namespaces of its own where the machine allows
//! that, so that what documentation shows can be run as it is written: its ports and `pgrep` mean ours.

use crate::process::Guarded;
use crate::{Scratch, binaries};
use kingpole_protocol::places::RUNTIME_DIR_VARIABLE;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

/// Runs what it reads line by line and answers with the output and the exit code.
const SERVER: &str = r#"
import json, os, pty, select, signal, socket, subprocess, sys, termios, fcntl, time
if sys.argv[2] == "isolated":
    import struct
    s = socket.socket()
    request = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(s, 0x8913, request))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
# Whoever is started in the background of a shell ignores Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
wire = socket.socket(socket.AF_UNIX)
wire.connect(sys.argv[1])
background = {}

def start(order, **streams):
    return subprocess.Popen(["sh", "-c", order["command"]], start_new_session=True, **streams)

def finish(order):
    child = start(order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = child.communicate(order.get("stdin", "").encode(), timeout=order["patience"])
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        err += b"[not done in time]"
        child.returncode = -1
    return {"code": child.returncode, "out": out.decode(errors="replace"), "err": err.decode(errors="replace")}

def follow(order):
    # Until it has written something; then as Ctrl-C ends it.
    child = start(order, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ready, _, _ = select.select([child.stdout], [], [], order["patience"])
    out = os.read(child.stdout.fileno(), 65536) if ready else b""
    runs = child.poll() is None
    if runs:
        os.killpg(child.pid, signal.SIGINT)
    try:
        more, err = child.communicate(timeout=order["patience"])
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        more, err = child.communicate()
        runs = False
    text = (out + more).decode(errors="replace")
    return {"code": child.returncode, "out": text, "err": err.decode(errors="replace"), "ran on": runs}

def terminal(order):
    # Keys are pressed once something is on the screen.
    ours, theirs = pty.openpty()
    def take():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    environment = dict(os.environ, TERM="xterm")
    child = start(order, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take, env=environment)
    os.close(theirs)
    until = time.monotonic() + order["patience"]
    screen, stages, seen = b"", order["stages"], 0
    while time.monotonic() < until:
        ready, _, _ = select.select([ours], [], [], 0.1)
        if not ready:
            if child.poll() is not None:
                break
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        screen += piece
        while stages and stages[0][0].encode() in screen[seen:]:
            seen = screen.index(stages[0][0].encode(), seen) + len(stages[0][0])
            os.write(ours, stages.pop(0)[1].encode())
    else:
        os.killpg(child.pid, signal.SIGKILL)
    os.close(ours)
    return {"code": child.wait(), "out": screen.decode(errors="replace"), "err": ""}

for line in wire.makefile("r"):
    order = json.loads(line)
    if order["how"] == "background":
        log = open(order["log"], "ab")
        child = start(order, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        background[child.pid] = child
        answer = {"pid": child.pid}
    elif order["how"] == "wait":
        answer = {"code": background.pop(order["pid"]).wait(timeout=order["patience"])}
    else:
        answer = {"finish": finish, "follow": follow, "terminal": terminal}[order["how"]](order)
    wire.sendall((json.dumps(answer) + "\n").encode())
"#;

/// How long a command may take before it counts as one that hangs, seconds.
const PATIENCE_SECONDS: u32 = 90;

/// See the module.
pub struct Shell {
    process: Guarded,
    connection: BufReader<UnixStream>,
    isolated: bool,
}

/// What became of a command.
#[derive(Debug)]
pub struct Done {
    /// Its exit code, negative for a signal.
    pub code: i64,
    /// What it wrote to standard output, or to its terminal.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Shell {
    /// Starts one in a directory. `PATH` begins with the directory of the programs under test.
    ///
    /// # Panics
    /// When there is no Python, or somebody else's manager would be hit.
    #[must_use]
    #[track_caller]
    pub fn start(scratch: &Scratch, directory: &Path, environment: &[(&str, String)]) -> Self {
        let path = scratch.join("shell.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let isolation = ["--pid", "--fork", "--mount-proc", "--net", "--kill-child"];
        let can = Command::new("unshare").args(isolation).arg("true").output();
        let isolated = can.is_ok_and(|output| output.status.success());
        let mut command = Command::new(if isolated { "unshare" } else { "python3" });
        if isolated {
            command.args(isolation).arg("python3");
        }
        // What cargo tells its tests is not there for somebody who follows the documentation.
        for (name, _) in
            std::env::vars().filter(|(n, _)| n.starts_with("CARGO_") && n != "CARGO_HOME")
        {
            command.env_remove(name);
        }
        command
            .current_dir(directory)
            .env(RUNTIME_DIR_VARIABLE, scratch.runtime_dir())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(["-c", SERVER])
            .arg(&path)
            .arg(if isolated { "isolated" } else { "shared" });
        let process = Guarded::start("shell", command, scratch.join("shell.log"));
        let (connection, _) = listener.accept().expect("the shell comes");
        Self {
            process,
            connection: BufReader::new(connection),
            isolated,
        }
    }

    /// Whether ports and processes in it are its own.
    #[must_use]
    pub const fn is_isolated(&self) -> bool {
        self.isolated
    }

    #[track_caller]
    fn order(&mut self, order: &Value) -> Value {
        writeln!(self.connection.get_ref(), "{order}").expect("the shell reads");
        let mut answer = String::new();
        self.connection
            .read_line(&mut answer)
            .expect("the shell answers");
        serde_json::from_str(&answer)
            .unwrap_or_else(|e| panic!("{e} after {order}; {}", self.process.log()))
    }

    #[track_caller]
    fn ask(&mut self, order: &Value) -> Done {
        let answer = self.order(order);
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Done {
            code: answer["code"].as_i64().expect("a code"),
            out: text("out"),
            err: text("err"),
        }
    }

    /// Runs a command to its end, with something to read.
    #[track_caller]
    pub fn finish(&mut self, command: &str, stdin: &str) -> Done {
        self.ask(&json!({
            "how": "finish", "command": command, "stdin": stdin, "patience": PATIENCE_SECONDS
        }))
    }

    /// Runs a command to its end; answers code and output.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> (i64, String) {
        let done = self.finish(command, "");
        (done.code, done.out + &done.err)
    }

    /// Runs a command that goes on until Ctrl-C, which comes after its first output.
    ///
    /// # Panics
    /// When it ends by itself, or says nothing.
    #[track_caller]
    pub fn follow(&mut self, command: &str) -> Done {
        let order = json!({ "how": "follow", "command": command, "patience": PATIENCE_SECONDS });
        let answer = self.order(&order);
        assert_eq!(answer["ran on"], true, "{command}: {answer}");
        assert_ne!(answer["out"], "", "{command}: {answer}");
        Done {
            code: answer["code"].as_i64().expect("a code"),
            out: answer["out"].to_string(),
            err: answer["err"].to_string(),
        }
    }

    /// Runs a command in a terminal; each time that it shows something presses keys.
    #[track_caller]
    pub fn terminal(&mut self, command: &str, stages: &[(&str, &str)]) -> Done {
        self.ask(&json!({
            "how": "terminal", "command": command, "stages": stages, "patience": PATIENCE_SECONDS
        }))
    }

    /// Starts a command as in a terminal of its own; answers its pid as the shell sees it.
    #[track_caller]
    pub fn start_terminal(&mut self, command: &str, log: &Path) -> i64 {
        let order = json!({ "how": "background", "command": command, "log": log });
        self.order(&order)["pid"].as_i64().expect("a pid")
    }

    /// Waits for the end of a command that was started like this; answers its code.
    #[track_caller]
    pub fn wait_terminal(&mut self, pid: i64) -> i64 {
        let order = json!({ "how": "wait", "pid": pid, "patience": PATIENCE_SECONDS });
        self.order(&order)["code"].as_i64().expect("a code")
    }
}

/// `PATH` with the programs under test in front.
#[must_use]
pub fn path_with_programs() -> String {
    let ours = binaries::kingpole().parent().expect("a directory");
    let usual = std::env::var("PATH").unwrap_or_default();
    format!("{}:{usual}", ours.display())
}

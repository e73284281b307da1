//! Promise: Circus's own clients work unmodified against us, and clients that mean no good disturb
//! nobody.
//!
//! The programs come from PyPI, as in `interop`; where there is no fitting Python, or no PyPI, the tests
//! say that they are skipped; with `CI` set that is a failure.

use kingpole_tests::python::{self, scripts};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;

/// The environment's interpreter, or why there is none.
fn interpreter() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(python::environment) {
        Ok(path) => Some(path),
        Err(why) => {
            eprintln!("SKIPPED: Circus's own clients were not tried: {why}");
            assert!(
                std::env::var_os("CI").is_none(),
                "skipped with CI set: {why}"
            );
            None
        }
    }
}

fn command(python: &Path, script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .arg(scripts().join(script))
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn run(python: &Path, script: &str, arguments: &[&str]) -> Output {
    let output = command(python, script, arguments)
        .output()
        .expect("the interpreter runs");
    assert!(
        output.status.success(),
        "{script} {arguments:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A manager with endpoints below its scratch directory.
struct Served {
    manager: Manager,
    scratch: Rc<Scratch>,
    _kernel: Kernel,
}

impl Served {
    fn start(configuration: &str) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let directory = scratch.path().display();
        let global = format!(
            "[circus]\ncheck_delay = 0.5\nendpoint = ipc://{directory}/control.sock\n\
             pubsub_endpoint = ipc://{directory}/events.sock\n\
             stats_endpoint = ipc://{directory}/stats.sock\n"
        );
        let file = scratch.write("circus.ini", format!("{global}{configuration}"));
        let manager = Manager::start(&scratch, &file);
        let served = Self {
            manager,
            scratch,
            _kernel: kernel,
        };
        served.wait_for_endpoints();
        served
    }

    /// Endpoints are opened beside everything else that a manager does when it begins.
    fn wait_for_endpoints(&self) {
        wait::until_true("the endpoints are there", || {
            ["control", "events", "stats"].iter().all(|name| {
                std::os::unix::net::UnixStream::connect(self.scratch.join(format!("{name}.sock")))
                    .is_ok()
            })
        });
    }

    fn endpoint(&self, name: &str) -> String {
        format!("ipc://{}/{name}.sock", self.scratch.path().display())
    }

    fn pids(&self, watcher: &str) -> Vec<String> {
        let pids = wait::until("all processes run", || self.manager.pids(watcher));
        pids.iter().map(ToString::to_string).collect()
    }
}

const SLEEPER: &str = "[watcher:sleeper]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n";

#[test]
fn circusctl_says_the_same_of_us_as_of_circusd() {
    let Some(python) = interpreter() else { return };
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let directory = scratch.path().display().to_string();
    let printed = run(
        python,
        "circus_commands.py",
        &["--configuration", &directory],
    );
    let text = String::from_utf8(printed.stdout).expect("text");
    let file = scratch.write("circus.ini", &text);
    let mut manager = Manager::start(&scratch, &file);
    let endpoint = format!("ipc://{directory}/control.sock");
    run(python, "circus_commands.py", &[&directory, &endpoint]);
    // The last command was quit.
    wait::until("the manager has quit", || {
        manager
            .process_mut()
            .try_wait()
            .map_or(Err("it runs"), |status| {
                assert!(status.success(), "{status}");
                Ok(())
            })
    });
}

#[test]
fn circus_client_and_bare_sockets_are_answered_as_circusd_answers() {
    let Some(python) = interpreter() else { return };
    let served = Served::start(SLEEPER);
    served.pids("sleeper");
    let endpoint = served.endpoint("control");
    run(python, "circus_clients.py", &["client", &endpoint]);
}

#[test]
fn circus_top_draws_our_processes() {
    let Some(python) = interpreter() else { return };
    let served = Served::start(SLEEPER);
    let pids = served.pids("sleeper");
    let endpoint = served.endpoint("stats");
    let mut arguments = vec!["top", &endpoint];
    arguments.extend(pids.iter().map(String::as_str));
    run(python, "circus_clients.py", &arguments);
}

#[test]
fn hostile_clients_disturb_nobody() {
    let Some(python) = interpreter() else { return };
    let served = Served::start(SLEEPER);
    served.pids("sleeper");
    let (control, events) = (served.endpoint("control"), served.endpoint("events"));
    let pid = served.manager.process().handle().pid().to_string();
    run(
        python,
        "circus_clients.py",
        &["hostile", &control, &events, &pid],
    );
}

/// Ends the script when a test fails before it has.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_manager_is_a_pause_to_a_client() {
    let Some(python) = interpreter() else { return };
    let mut served = Served::start(SLEEPER);
    served.pids("sleeper");
    let endpoint = served.endpoint("control");
    let mut script = command(python, "circus_clients.py", &["pause", &endpoint, "3"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Script)
        .expect("the interpreter runs");
    let output = script.0.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(output).lines();
    let begun = lines.next().expect("a line").expect("text");
    assert_eq!(begun, "begun");
    for _ in 0..3 {
        served.manager.replace();
        served.manager.wait_ready();
    }
    let said: Vec<String> = lines.map_while(Result::ok).collect();
    let status = script.0.wait().expect("it ends");
    assert!(status.success(), "{said:?}");
}

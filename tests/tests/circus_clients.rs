//! Promise: Circus's own clients work unmodified against us, and clients that mean no good disturb
//! nobody.
//!
//! The programs come from PyPI, as in `interop`; where there is no fitting Python, or no PyPI, the tests
//! say that they are skipped; with `CI` set that is a failure.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::python::{self, scripts};
use kingpole_tests::{Kernel, Manager, Scratch, binaries, wait};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
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
fn circuss_own_test_suite_passes() {
    let Some(python) = interpreter() else { return };
    let scratch = Scratch::new();
    let kingpole = binaries::kingpole().display().to_string();
    let output = run(
        python,
        "circus_suite.py",
        &[&kingpole, &scratch.path().display().to_string()],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    // Of 94, none is left out in silence.
    assert!(said.contains("\n94 passed, 0 failed\n"), "{said}");
}

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
    let status = manager.process_mut().wait();
    assert!(status.success(), "{status}");
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

/// A section that runs a class of `circus_plugin.py`.
fn python_plugin(python: &Path, name: &str, class: &str, options: &str) -> String {
    format!(
        "[plugin:{name}]\nuse = circus_plugin.{class}\npython = {}\n{options}\n\
         [env:plugin:{name}]\nPYTHONPATH = {}\n",
        python.display(),
        scripts().display()
    )
}

#[test]
fn a_python_plugin_hears_events_and_is_answered() {
    let Some(python) = interpreter() else { return };
    let directory = Scratch::new();
    let file = directory.join("recorded");
    let options = format!("file = {}", file.display());
    let plugin = python_plugin(python, "recorder", "Recorder", &options);
    let served = Served::start(&format!("{SLEEPER}{plugin}"));
    let recorded = || std::fs::read_to_string(&file).unwrap_or_default();
    let has = |line: &str| {
        let text = recorded();
        match text.lines().any(|one| one == line) {
            true => Ok(()),
            false => Err(format!("{text}\n{}", served.manager.log())),
        }
    };
    wait::until("the plugin is ready", || has("ready"));
    let pid: i64 = served.pids("sleeper")[0].parse().expect("a number");
    // What was published before a subscriber was there is lost, with Circus as with us.
    wait::until("an event reaches the plugin", || {
        let set = ["set", "sleeper", "graceful_timeout=5"];
        let answer = kingpole(&served.scratch, &set);
        assert!(answer.status.success(), "{}", describe(&answer));
        has("sleeper.updated None")
    });
    wait::until("the plugin is answered", || has("count 2"));
    wait::until("what it asked for is done", || {
        match served.manager.status()?["watchers"][1]["numprocesses"].as_u64() {
            Some(3..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("it runs");
    wait::until("it hears of the end", || {
        has(&format!("sleeper.reap {pid}"))
    });
}

/// A statsd of the test's own.
struct Metrics(UdpSocket);

impl Metrics {
    fn listen() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("a socket");
        Self(socket)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("bound").port()
    }

    /// Everything that has come so far.
    fn take(&self, seen: &mut Vec<String>) {
        let mut buffer = [0; 1000];
        while let Ok(count) = self.0.recv(&mut buffer) {
            seen.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
    }
}

#[test]
fn statsd_hears_from_us_what_it_hears_from_circus() {
    let Some(python) = interpreter() else { return };
    let (ours, theirs) = (Metrics::listen(), Metrics::listen());
    let options = |port| format!("host = 127.0.0.1\nport = {port}\nsample_rate = 0.5\n");
    let configuration = format!(
        "{SLEEPER}[watcher:probe]\ncmd = /bin/sleep 100000\n\
         [plugin:ours]\nuse = circus.plugins.statsd.StatsdEmitter\n{}{}",
        options(ours.port()),
        python_plugin(python, "theirs", "TheirEmitter", &options(theirs.port()))
    );
    let served = Served::start(&configuration);
    let ask = |words: &[&str]| {
        let answer = kingpole(&served.scratch, words);
        assert!(answer.status.success(), "{}", describe(&answer));
    };
    let (mut from_us, mut from_them) = (Vec::new(), Vec::new());
    wait::until("Circus's plugin hears events", || {
        ask(&["set", "probe", "graceful_timeout=5"]);
        theirs.take(&mut from_them);
        match from_them.is_empty() {
            true => Err(served.manager.log()),
            false => Ok(()),
        }
    });
    ask(&["stop", "sleeper", "--wait"]);
    ask(&["start", "sleeper", "--wait"]);
    let last = "circus.app.watcher.sleeper.start:1|c|@0.5";
    let of_sleeper = |all: &[String]| -> Vec<String> {
        let from = all.iter().position(|one| one.contains("sleeper.kill"));
        let all = all.iter().skip(from.unwrap_or(all.len()));
        all.filter(|one| one.contains(".sleeper."))
            .cloned()
            .collect()
    };
    for (metrics, seen) in [(&ours, &mut from_us), (&theirs, &mut from_them)] {
        wait::until("both have heard of the start", || {
            metrics.take(seen);
            match of_sleeper(seen).iter().any(|one| one == last) {
                true => Ok(()),
                false => Err(format!("{seen:?}")),
            }
        });
    }
    assert_eq!(of_sleeper(&from_us), of_sleeper(&from_them));
}

#[test]
fn a_redis_server_that_hangs_is_restarted() {
    let found = Command::new("redis-server").arg("--version").output();
    if found.is_err() {
        eprintln!("SKIPPED: there is no redis-server");
        return;
    }
    let metrics = Metrics::listen();
    // Redis chooses no port by itself; one that was free a moment ago may be taken, and then it ends
    // and is started again until it is free.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let served = Served::start(&format!(
        "[watcher:redis]\ncmd = redis-server --port {port} --save \"\" --appendonly no\n\
         copy_env = true\ngraceful_timeout = 1\nclose_child_stdout = true\n\
         [plugin:redis]\nuse = circus.plugins.redis_observer.RedisObserver\n\
         redis_url = redis://127.0.0.1:{port}/0\ntimeout = 2\nloop_rate = 0.2\n\
         restart_on_timeout = redis\nhost = 127.0.0.1\nport = {}\n",
        metrics.port()
    ));
    let mut seen = Vec::new();
    let mut heard = |what: &str| {
        wait::until(what, || {
            metrics.take(&mut seen);
            match seen.iter().any(|one| one.contains(what)) {
                true => Ok(()),
                false => Err(format!("{seen:?}\n{}", served.manager.log())),
            }
        });
    };
    heard("circus.redis_observer.watcher.redis_stats.uptime_in_seconds:");
    let hung = served.pids("redis");
    let pid: i32 = hung[0].parse().expect("a number");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGSTOP,
    )
    .expect("it runs");
    heard("circus.redis_observer.watcher.redis_stats.restart_on_error:1|c");
    wait::until("another redis runs", || {
        let now = served.manager.pids("redis")?;
        match now.iter().all(|one| *one != i64::from(pid)) && !now.is_empty() {
            true => Ok(()),
            false => Err(format!("{now:?}")),
        }
    });
}

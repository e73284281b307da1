//! Promise: programs of others that speak systemd's protocol are heard as systemd hears them.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::python::{self, scripts};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;

/// The Python with the libraries, or why there is none.
fn python() -> Option<PathBuf> {
    // Two tests at a time would make it twice, in one place.
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let requirements = scripts().join("notify-requirements.txt");
        python::environment_of(&requirements, "notify-python")
    });
    match made {
        Ok(path) => Some(path.clone()),
        Err(why) => {
            eprintln!("SKIPPED: no Python library was heard: {why}");
            assert!(
                std::env::var_os("CI").is_none(),
                "skipped with CI set: {why}"
            );
            None
        }
    }
}

struct Bench {
    // In this order: the manager ends before its kernel.
    manager: Manager,
    scratch: Rc<Scratch>,
    _kernel: Kernel,
}

impl Bench {
    /// The watchers of a configuration in which `SCRATCH` is the test's directory.
    fn new(configuration: &str, prepare: impl FnOnce(&Scratch)) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        prepare(&scratch);
        let directory = scratch.path().display().to_string();
        let file = scratch.write("notify.ini", configuration.replace("SCRATCH", &directory));
        let manager = Manager::start(&scratch, &file);
        Self {
            manager,
            scratch,
            _kernel: kernel,
        }
    }

    /// Waits until the first process is as `is` wants it, and gives it.
    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || {
            let status = self.manager.status()?;
            let process = status["watchers"][0]["processes"][0].clone();
            match is(&process) {
                true => Ok(process),
                false => Err(format!("{status}\n{}", self.manager.log())),
            }
        })
    }
}

fn order(file: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    // In one piece, as it is read line by line.
    file.write_all(format!("{text}\n").as_bytes()).unwrap();
}

#[test]
fn the_usual_python_library_is_heard() {
    let Some(python) = python() else { return };
    let configuration = format!(
        "[watcher:web]\ncmd = {} {} SCRATCH/orders\nready = notify\nready_timeout = 300\nwatchdog = 300\n",
        python.display(),
        scripts().join("says_how_it_is.py").display()
    );
    let mut bench = Bench::new(&configuration, |scratch| {
        scratch.write("orders", "");
    });
    let orders = bench.scratch.join("orders");
    let process = bench.until("it has begun", |it| it["says"] == "begun");
    assert_eq!(process["readiness"], "starting", "{process}");
    order(&orders, "READY=1");
    bench.until("it is ready", |it| it["readiness"] == "ready");
    order(&orders, "STATUS=3 requests");
    bench.until("it says more", |it| it["says"] == "3 requests");
    // What it has said once the next manager has not heard, but the one before.
    bench.manager.replace();
    bench.manager.wait_ready();
    let process = bench.until("the next one knows", |it| it["says"] == "3 requests");
    assert_eq!(process["readiness"], "ready", "{process}");
    for arguments in [
        &["status", "web"][..],
        &["explain", "web"],
        &["top", "--once", "--json"],
    ] {
        let told = describe(&kingpole(&bench.scratch, arguments));
        assert!(told.contains("3 requests"), "{arguments:?}: {told}");
    }
    order(&orders, "STOPPING=1");
    let process = bench.until("it stops", |it| it["readiness"] == "unready");
    assert_eq!(process["readiness_reason"], "it says that it is stopping");
    order(&orders, "READY=1");
    bench.until("it does not", |it| it["readiness"] == "ready");
    order(&orders, "WATCHDOG=trigger");
    bench.until("another one has begun", |it| {
        it["says"] == "begun" && it["pid"] != process["pid"]
    });
}

#[test]
fn gunicorn_says_when_it_is_ready() {
    let Some(python) = python() else { return };
    let configuration = format!(
        "[watcher:web]\n\
         cmd = {} -m gunicorn --bind unix:SCRATCH/web.sock --worker-tmp-dir SCRATCH app\n\
         ready = notify\nready_timeout = 300\n",
        python.display(),
    );
    let application = "def application(environ, start_response):\n    \
                       start_response('200 OK', [])\n    return [b'served']\n";
    let bench = Bench::new(&configuration, |scratch| {
        scratch.write("app.py", application);
    });
    let before = bench.until("it is ready", |it| it["readiness"] == "ready");
    assert_eq!(before["says"], "Gunicorn arbiter booted", "{before}");
    // Its old process serves until the new one has spoken.
    let rolled = kingpole(&bench.scratch, &["reload", "web", "--wait"]);
    assert!(rolled.status.success(), "{}", describe(&rolled));
    let after = bench.until("the next one is ready", |it| it["readiness"] == "ready");
    assert_ne!(after["pid"], before["pid"], "{after}");
}

#[test]
fn systemds_own_program_is_heard() {
    if Command::new("systemd-notify")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED: there is no systemd-notify on this machine");
        return;
    }
    // It ends at once, and only its parent is the process.
    let bench = Bench::new(
        "[watcher:web]\n\
         cmd = sh -c 'systemd-notify --ready --status=\"all is well\"; sleep 1000000'\n\
         ready = notify\nready_timeout = 300\n",
        |_| {},
    );
    let process = bench.until("it is ready", |it| it["readiness"] == "ready");
    assert_eq!(process["says"], "all is well", "{process}");
}

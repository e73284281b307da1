//! Promise: a process counts once it works, by whatever its watcher says that is; what stops working
//! is replaced; who depends on others waits for them; and a manager's restart changes none of it.

use kingpole_tests::manager::{Manager, describe, kingpole};
use kingpole_tests::{Kernel, Scratch, wait};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// A program that only runs.
const IDLE: &str = "sleep 1000000";

struct Bench {
    // In this order: the manager ends before its kernel.
    manager: Manager,
    scratch: Rc<Scratch>,
    _kernel: Kernel,
}

impl Bench {
    fn new(configuration: &str) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let file = scratch.write("ready.ini", configuration);
        let manager = Manager::start(&scratch, &file);
        Self {
            manager,
            scratch,
            _kernel: kernel,
        }
    }

    fn watcher(&self, name: &str) -> Result<Value, String> {
        let status = self.manager.status()?;
        let watchers = status["watchers"].as_array().ok_or("no watchers")?;
        let found = watchers.iter().find(|watcher| watcher["name"] == name);
        found.cloned().ok_or_else(|| status.to_string())
    }

    /// Waits until the first process of a watcher has this readiness, and gives it.
    #[track_caller]
    fn until(&self, name: &str, readiness: &str) -> Value {
        wait::until(&format!("{name} is {readiness}"), || {
            let watcher = self.watcher(name)?;
            let process = watcher["processes"][0].clone();
            match process["readiness"] == readiness {
                true => Ok(process),
                false => Err(format!("{watcher}\n{}", self.manager.log())),
            }
        })
    }

    #[track_caller]
    fn until_reason(&self, name: &str, part: &str) {
        wait::until(&format!("{name} says {part:?}"), || {
            let process = self.until(name, "starting");
            let reason = process["readiness_reason"].as_str().unwrap_or_default();
            match reason.contains(part) {
                true => Ok(()),
                false => Err(format!("{reason:?}")),
            }
        });
    }

    #[track_caller]
    fn until_logged(&self, part: &str) {
        wait::until(&format!("the log says {part:?}"), || {
            let log = self.manager.log();
            log.contains(part).then_some(()).ok_or(log)
        });
    }
}

#[test]
fn a_command_says_when_a_process_is_ready_and_the_next_manager_remembers() {
    let mut bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {IDLE}\nready = exec test -e ready.$(circus.wid)\nready_interval = 0.1\n"
    ));
    bench.until_reason("web", "test exited with status 1");
    assert_eq!(bench.watcher("web").unwrap()["state"], "starting");
    let file = bench.scratch.write("ready.1", "");
    let process = bench.until("web", "ready");
    assert_eq!(bench.watcher("web").unwrap()["ready"], 1);
    std::fs::remove_file(file).unwrap();
    bench.manager.replace();
    bench.manager.wait_ready();
    let after = bench.until("web", "ready");
    assert_eq!(after["pid"], process["pid"]);
}

#[test]
fn a_port_that_listens_makes_a_process_ready() {
    // Bound and not listening: nobody else can have the port, and nobody gets a connection.
    let own = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    use std::os::fd::AsRawFd;
    bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let port = getsockname::<SockaddrIn>(own.as_raw_fd()).unwrap().port();
    let bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {IDLE}\nready = tcp 127.0.0.1:{port}\nready_interval = 0.1\n"
    ));
    bench.until_reason("web", "refused");
    listen(&own, Backlog::new(16).unwrap()).unwrap();
    bench.until("web", "ready");
}

#[test]
fn an_address_that_answers_well_makes_a_process_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let code = Arc::new(AtomicU16::new(503));
    let answered = Arc::clone(&code);
    // Ends with the test's process; it holds nothing but its port.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                continue;
            };
            let mut request = [0; 1024];
            let _ = connection.read(&mut request);
            let code = answered.load(Ordering::Relaxed);
            let _ = write!(connection, "HTTP/1.0 {code} So\r\n\r\n");
        }
    });
    let bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {IDLE}\nready = http http://{address}/health\nready_interval = 0.1\n"
    ));
    bench.until_reason("web", "answers 503");
    code.store(204, Ordering::Relaxed);
    bench.until("web", "ready");
}

#[test]
fn a_process_that_is_never_ready_is_replaced_and_everybody_is_told_why() {
    let bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {IDLE}\nready = exec sh -c 'echo no database; exit 3'\n\
         ready_interval = 0.1\nready_timeout = 0.5\n"
    ));
    bench.until_logged("is replaced, because it was not ready after");
    bench.until_logged("sh exited with status 3: no database");
    wait::until("the next one comes", || {
        let watcher = bench.watcher("web")?;
        match watcher["restarts"].as_u64() {
            Some(1..) => Ok(()),
            _ => Err(watcher.to_string()),
        }
    });
}

#[test]
fn a_process_that_stops_answering_is_replaced() {
    let bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {IDLE}\nalive = exec test ! -e hang\nalive_interval = 0.1\n\
         alive_failures = 2\n"
    ));
    let process = bench.until("web", "ready");
    let file = bench.scratch.write("hang", "");
    bench.until_logged("it did not answer 2 times in a row: test exited with status 1");
    std::fs::remove_file(file).unwrap();
    wait::until("another one is ready", || {
        let watcher = bench.watcher("web")?;
        let after = &watcher["processes"][0];
        let other = after["pid"].is_u64() && after["pid"] != process["pid"];
        match other && after["readiness"] == "ready" {
            true => Ok(()),
            false => Err(watcher.to_string()),
        }
    });
}

#[test]
fn a_watcher_waits_for_what_it_depends_on() {
    let bench = Bench::new(&format!(
        "[watcher:app]\ncmd = {IDLE}\ndepends_on = db\npriority = 5\n\n\
         [watcher:db]\ncmd = {IDLE}\nready = exec test -e ready\nready_interval = 0.1\n"
    ));
    bench.until_reason("db", "test exited with status 1");
    let app = bench.watcher("app").unwrap();
    assert_eq!(app["actual"], 0, "{app}");
    assert_eq!(app["reason"], "waits for watcher \"db\" to be up", "{app}");
    bench.scratch.write("ready", "");
    bench.until("app", "ready");
}

#[test]
fn a_circle_of_dependencies_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    let text = "[watcher:a]\ncmd = x\ndepends_on = b\n\n[watcher:b]\ncmd = x\ndepends_on = A, c\n";
    scratch.write("circle.ini", text);
    let output = kingpole(&scratch, &["check", "circle.ini"]);
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    let text = describe(&output);
    for part in [
        "depends_on goes in a circle: a -> b -> a",
        "depends_on names a watcher that does not exist: \"c\"",
        "circle.ini:3:",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_essential_watcher_takes_everything_along_and_gives_its_status() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = format!(
        "[watcher:main]\ncmd = sh -c 'until test -e go; do sleep 0.05; done; exit 7'\n\
         respawn = false\nessential = true\n\n[watcher:helper]\ncmd = {IDLE}\n"
    );
    let file = scratch.write("essential.ini", &configuration);
    let mut manager = Manager::start(&scratch, &file);
    wait::until("all run", || manager.pids("helper"));
    scratch.write("go", "");
    let status = wait::until("the manager ends", || {
        manager
            .process_mut()
            .try_wait()
            .ok_or_else(|| "it runs".to_owned())
    });
    assert_eq!(status.code(), Some(7), "{}", manager.log());
    assert!(
        manager.log().contains("watcher \"main\" is essential"),
        "{}",
        manager.log()
    );
    drop(kernel);
}

/// Writes what is in the file `say`, once it is there.
const TALKER: &str = "sh -c 'echo loading; until test -e say; do sleep 0.05; done; cat say >&2; \
                      exec sleep 1000000'";

#[test]
fn a_line_of_output_makes_a_process_ready_and_the_next_manager_remembers() {
    let mut bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {TALKER}\nready = log ^Listening on [0-9]+$\nready_timeout = 300\n\
         stderr_stream.class = FileStream\nstderr_stream.filename = err.log\n"
    ));
    let before = bench.until("web", "starting");
    bench
        .scratch
        .write("say", "not Listening on 1\nListening on 2\n");
    bench.until("web", "ready");
    wait::until("the log has it", || {
        let log = std::fs::read_to_string(bench.scratch.join("err.log")).unwrap_or_default();
        log.contains("Listening on 2").then_some(()).ok_or(log)
    });
    bench.manager.replace();
    bench.manager.wait_ready();
    let after = bench.until("web", "ready");
    assert_eq!(after["pid"], before["pid"]);
}

#[test]
fn a_line_that_was_written_while_no_manager_was_there_is_found() {
    let mut bench = Bench::new(&format!(
        "[watcher:web]\ncmd = {TALKER}\nready = log Listening\nready_timeout = 300\n"
    ));
    let before = bench.until("web", "starting");
    bench.manager.kill();
    // Is renamed to its place, so that it is read whole.
    let words = bench.scratch.write("words", "Listening\n");
    std::fs::rename(words, bench.scratch.join("say")).unwrap();
    let mut client = bench._kernel.client();
    wait::until("the kernel has it", || {
        let all = client.processes().map_err(|error| error.to_string())?;
        let output = all.iter().map(|it| it.output).next();
        match output.map(|output| output.next.0) {
            Some(3..) => Ok(()),
            _ => Err(format!("{output:?}")),
        }
    });
    bench.manager.replace();
    bench.manager.wait_ready();
    let after = bench.until("web", "ready");
    assert_eq!(after["pid"], before["pid"]);
}

#[test]
fn a_process_that_is_replaced_is_told_of_with_what_it_wrote_last() {
    let bench = Bench::new(
        "[watcher:web]\ncmd = sh -c 'echo the disk is full; exec sleep 1000000'\n\
         ready = log never\nready_timeout = 0.5\nbackoff_min = 30\n",
    );
    bench.until_logged("wrote last: the disk is full");
    wait::until("the report has it", || {
        let watcher = bench.watcher("web")?;
        match watcher["ends"][0]["output"][0] == "the disk is full" {
            true => Ok(()),
            false => Err(watcher.to_string()),
        }
    });
    for verb in ["explain", "status"] {
        let told = describe(&kingpole(&bench.scratch, &[verb, "web"]));
        assert!(told.contains("the disk is full"), "{told}");
    }
}

#[test]
fn a_circle_cannot_be_made_at_run_time() {
    let bench = Bench::new(&format!(
        "[watcher:a]\ncmd = {IDLE}\n\n[watcher:b]\ncmd = {IDLE}\ndepends_on = a\n"
    ));
    let refused = kingpole(&bench.scratch, &["set", "a", "depends_on=b"]);
    assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
    let told = describe(&refused);
    assert!(
        told.contains("depends_on goes in a circle: a -> b -> a"),
        "{told}"
    );
    let done = kingpole(&bench.scratch, &["set", "b", "depends_on="]);
    assert!(done.status.success(), "{}", describe(&done));
    let done = kingpole(&bench.scratch, &["set", "a", "depends_on=b"]);
    assert!(done.status.success(), "{}", describe(&done));
}

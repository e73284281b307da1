//! Promise: what a scraper gets is what Prometheus's own parser reads, says what is so, and does not grow with restarts.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::python::{self, scripts};
use kingpole_tests::sys::become_user;
use kingpole_tests::{Kernel, Manager, Scratch, http, wait};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;

/// Prometheus's parser, or why there is none.
fn parser() -> Option<PathBuf> {
    let requirements = scripts().join("metrics-requirements.txt");
    match python::environment_of(&requirements, "metrics-python") {
        Ok(path) => Some(path),
        Err(why) => {
            eprintln!("SKIPPED: metrics were not read by Prometheus's parser: {why}");
            assert!(
                std::env::var_os("CI").is_none(),
                "skipped with CI set: {why}"
            );
            None
        }
    }
}

fn parse(parser: &PathBuf, page: &str) -> Value {
    let mut child = Command::new(parser)
        .arg(scripts().join("check_metrics.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the interpreter runs");
    // The parser reads all before it writes.
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(page.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{page}", describe(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn scrape(scratch: &Scratch) -> String {
    let output = kingpole(scratch, &["metrics"]);
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// The value of the one sample with these labels.
fn value(families: &Value, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let samples = families[family]["samples"].as_array()?;
    let fits = |sample: &&Value| labels.iter().all(|(key, value)| sample[1][*key] == *value);
    let mut found = samples.iter().filter(fits);
    let only = found.next()?[2].as_f64();
    assert!(
        found.next().is_none(),
        "{family} {labels:?} is not one: {samples:?}"
    );
    only
}

#[test]
fn prometheus_reads_what_is_so() {
    let Some(parser) = parser() else { return };
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let file = scratch.write(
        "metrics.ini",
        "[watcher:Web \"1\"]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n\
         [watcher:writer]\ncmd = /bin/sh -c \"echo 123456789; echo 1234 >&2; exec sleep 100000\"\n\
         stdout_stream.class = FileStream\nstdout_stream.filename = out.log\n\
         [watcher:failing]\ncmd = /bin/sh -c \"exit 3\"\nmax_retry = -1\nautostart = false\n",
    );
    let manager = Manager::start(&scratch, &file);
    wait::until("it runs", || manager.pids("Web \"1\""));
    let killed = wait::until("it runs", || manager.pids("writer"))[0];
    let web = [("watcher", "Web \"1\""), ("worker", "2")];
    let writer = [("watcher", "writer"), ("worker", "1")];
    let families = wait::until("the output is acknowledged", || {
        let families = parse(&parser, &scrape(&scratch));
        match value(
            &families,
            "kingpole_process_output_acknowledged_bytes",
            &writer,
        ) {
            Some(15.0) => Ok(families),
            other => Err(format!("{other:?} {families}")),
        }
    });
    let is = |family: &str, labels: &[(&str, &str)], expected: f64| {
        let found = value(&families, family, labels);
        assert_eq!(
            found,
            Some(expected),
            "{family} {labels:?}: {}",
            families[family]
        );
    };
    is("kingpole_kernel_up", &[], 1.0);
    is("kingpole_kernel_generation", &[], 1.0);
    is(
        "kingpole_kernel_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    is("kingpole_kernel_processes", &[("state", "running")], 3.0);
    is("kingpole_watcher_up", &[("watcher", "Web \"1\"")], 1.0);
    is("kingpole_watcher_up", &[("watcher", "failing")], 0.0);
    is(
        "kingpole_watcher_processes_ready",
        &[("watcher", "Web \"1\"")],
        2.0,
    );
    is(
        "kingpole_watcher_state",
        &[("watcher", "failing"), ("state", "stopped")],
        1.0,
    );
    is(
        "kingpole_watcher_state",
        &[("watcher", "writer"), ("state", "active")],
        1.0,
    );
    is("kingpole_process_up", &web, 1.0);
    is("kingpole_process_ready", &web, 1.0);
    let stdout = [writer[0], writer[1], ("stream", "stdout")];
    is("kingpole_process_output_bytes", &stdout, 10.0);
    is("kingpole_process_output_dropped_bytes", &writer, 0.0);
    is("kingpole_process_output_buffer_used_bytes", &writer, 0.0);
    is("kingpole_processes_without_metrics", &[], 0.0);
    let resident = value(&families, "kingpole_process_resident_bytes", &web).expect("told");
    assert!((4096.0..1e9).contains(&resident), "{resident}");
    assert!(value(&families, "kingpole_process_cpu_seconds", &web).is_some());
    assert_eq!(families["kingpole_watcher_restarts"]["type"], "counter");

    // Restarts make no new series; ends are counted by their kind.
    let series = |families: &Value| {
        families["kingpole_process_up"]["samples"]
            .as_array()
            .map(Vec::len)
    };
    let before = series(&families);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(killed).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    let started = kingpole(&scratch, &["start", "failing"]);
    assert!(started.status.success(), "{}", describe(&started));
    wait::until("ends and restarts are counted", || {
        let families = parse(&parser, &scrape(&scratch));
        let ends = |watcher, reason| {
            let labels = [("watcher", watcher), ("reason", reason)];
            value(&families, "kingpole_watcher_exits", &labels).unwrap_or(0.0)
        };
        let restarts = value(
            &families,
            "kingpole_watcher_restarts",
            &[("watcher", "writer")],
        );
        let again = value(&families, "kingpole_process_restarts", &writer);
        let so = ends("writer", "signal") == 1.0
            && ends("failing", "error") >= 2.0
            && restarts == Some(1.0)
            && again == Some(1.0);
        match so {
            true => Ok(()),
            false => Err(families.to_string()),
        }
    });
    let stopped = kingpole(&scratch, &["stop", "failing", "--wait"]);
    assert!(stopped.status.success(), "{}", describe(&stopped));
    assert_eq!(series(&parse(&parser, &scrape(&scratch))), before);
}

#[test]
fn scrapers_are_told_the_form_and_that_the_kernel_is_gone() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let file = scratch.write("metrics.ini", "[watcher:one]\ncmd = /bin/sleep 100000\n");
    let manager = Manager::start(&scratch, &file);
    wait::until("it runs", || manager.pids("one"));
    let mut stream =
        UnixStream::connect(scratch.runtime_dir().join("manager.sock")).expect("it listens");
    stream
        .set_read_timeout(Some(wait::PATIENCE))
        .expect("an option");
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let head = answer
        .split("\r\n\r\n")
        .next()
        .expect("a head")
        .to_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    drop(kernel);
    wait::until("the kernel is missed", || {
        let page = scrape(&scratch);
        match page.contains("\nkingpole_kernel_up 0\n") {
            true => Ok(()),
            false => Err(page),
        }
    });
}

/// Status and body, or nothing when the connection is closed without a word; as this user.
fn get_as(user: u32, server: SocketAddr, path: &'static str) -> Option<(u16, String)> {
    let thread = std::thread::spawn(move || {
        become_user(user).expect("root may be anybody, and everybody himself");
        http::get(server, path).ok()
    });
    thread.join().expect("it does not panic")
}

#[test]
fn a_port_for_scrapers_has_metrics_only_and_serves_named_users_only() {
    let own = nix::unistd::geteuid().as_raw();
    for allowed in [false, true] {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let users = if allowed {
            "allow_users = nobody\n"
        } else {
            ""
        };
        let text = format!(
            "[circus]\nmetrics_endpoint = 127.0.0.1:0\n{users}[watcher:one]\ncmd = /bin/sleep 100000\n"
        );
        let file = scratch.write("metrics.ini", text);
        let manager = Manager::start(&scratch, &file);
        let server: SocketAddr = wait::until("the port is open", || {
            let log = manager.log();
            let line = log
                .lines()
                .find_map(|line| line.split_once("metrics are served at tcp:"));
            line.and_then(|(_, address)| address.trim().parse().ok())
                .ok_or(log)
        });
        let (status, page) = get_as(own, server, "/metrics").expect("answered");
        assert!(
            status == 200 && page.contains("kingpole_kernel_up 1"),
            "{status} {page}"
        );
        for path in ["/v1/status", "/v1/kernel", "/"] {
            assert_eq!(
                get_as(own, server, path).expect("answered").0,
                404,
                "{path}"
            );
        }
        if own == 0 {
            let stranger = get_as(65534, server, "/metrics");
            assert_eq!(stranger.map(|(status, _)| status), allowed.then_some(200));
        }
    }
    let scratch = Scratch::new();
    for wrong in ["0.0.0.0:9187", "192.0.2.1:9187", "9187", "ipc:///x"] {
        let text =
            format!("[circus]\nmetrics_endpoint = {wrong}\n[watcher:one]\ncmd = /bin/true\n");
        let file = scratch.write("wrong.ini", text);
        let refused = kingpole(&scratch, &["check", file.to_str().expect("text")]);
        let said = describe(&refused);
        assert!(!refused.status.success(), "{said}");
        assert!(
            said.contains("wrong.ini:2") && said.contains("a port of the loopback interface"),
            "{said}"
        );
    }
}

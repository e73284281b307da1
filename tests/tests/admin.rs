//! Promise: scripts for Wiseguy's admin server find what they knew, and what the file says about replacing processes holds for
//! every reload.

use kingpole_tests::manager::{Manager, describe, json, kingpole};
use kingpole_tests::{Kernel, Scratch, http, wait};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

const STACK: &str = "[admin]\nendpoint = 127.0.0.1:0\nwatchers = web\n\
                     [watcher:other]\ncmd = /bin/sleep 100000\n\
                     [watcher:web]\ncmd = sh -c 'echo V is $V; exec sleep 100000'\nnumprocesses = 4\n\
                     [env:web*]\nV = usual\nPATH = /usr/bin:/bin\n";

struct Admin {
    scratch: Rc<Scratch>,
    manager: Manager,
    server: SocketAddr,
    _kernel: Kernel,
}

impl Admin {
    fn start() -> Self {
        let (kernel, scratch, manager) = Manager::with_kernel(STACK, &["web", "other"]);
        let server = wait::until("the port is open", || {
            let log = manager.log();
            let said = log
                .lines()
                .find_map(|line| line.split_once("Wiseguy's paths are served at tcp:"));
            said.and_then(|(_, address)| address.trim().parse().ok())
                .ok_or(log)
        });
        Self {
            scratch,
            manager,
            server,
            _kernel: kernel,
        }
    }

    #[track_caller]
    fn get(&self, path: &str) -> (u16, String) {
        http::get(self.server, path).expect("an answer")
    }

    /// What is answered to something that is done.
    #[track_caller]
    fn done(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Waits until the watcher has so many processes.
    #[track_caller]
    fn wait_for(&self, watcher: &str, count: usize) -> Vec<i64> {
        wait::until(&format!("{watcher} has {count} processes"), || {
            let status = json(&self.scratch, &["status", watcher, "--json"])?;
            let processes = status["watchers"][0]["processes"].as_array().cloned();
            let pids = processes
                .iter()
                .flatten()
                .filter_map(|it| it["pid"].as_i64());
            let found: Vec<i64> = pids.collect();
            match found.len() == count {
                true => Ok(found),
                false => Err(status.to_string()),
            }
        })
    }
}

#[test]
fn the_paths_cycle_suspend_resume_and_limit() {
    let admin = Admin::start();
    let before = admin.wait_for("web", 4);
    let (status, index) = admin.get("/");
    assert!(status == 200 && index.contains("/server-cycle"), "{index}");
    let run = admin.done("/server-cycle?workers=2&skew=0&force=1&max_surge=2&wait=1");
    assert_eq!(run["watchers"][0]["result"], "done", "{run}");
    let after = admin.wait_for("web", 4);
    let kept = before.iter().filter(|pid| after.contains(pid)).count();
    assert_eq!(kept, 2, "{before:?}, {after:?}");
    assert!(!after.contains(&before[0]), "the oldest ones go");
    admin.done("/server-suspend-spawning");
    let kill = kingpole(
        &admin.scratch,
        &["signal", "KILL", "web", "--pid", &after[0].to_string()],
    );
    assert!(kill.status.success(), "{}", describe(&kill));
    admin.wait_for("web", 3);
    wait::until("it says why there are no more", || {
        let report = json(&admin.scratch, &["status", "web", "--json"])?.to_string();
        match report.contains("kingpole resume web") {
            true => Ok(()),
            false => Err(report),
        }
    });
    admin.done("/server-resume-spawning?name=w*");
    admin.wait_for("web", 4);
    admin.done("/server-set-max-rss?max_rss=300");
    let limit = json(&admin.scratch, &["get", "web", "max_rss", "--json"]).expect("an option");
    assert!(limit.to_string().contains("300M"), "{limit}");
    let status = admin.done("/server-status");
    assert_eq!(
        status["watchers"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
}

#[test]
fn what_is_not_understood_or_could_come_from_a_web_page_changes_nothing() {
    let admin = Admin::start();
    let before = admin.wait_for("web", 4);
    for (path, expected) in [
        ("/server-cycle?worker=2", 400),
        ("/server-cycle?skew=soon", 400),
        ("/server-cycle?name=nobody", 404),
        ("/server-set-max-rss?max_rss=19", 400),
        ("/server-set-max-rss", 400),
        ("/server-profile?env=novalue", 400),
        ("/server-restart", 404),
    ] {
        let (status, body) = admin.get(path);
        assert_eq!(status, expected, "{path}: {body}");
    }
    for header in [
        "Host: evil.example",
        "Host: 127.0.0.1\r\nOrigin: http://evil.example",
        "Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site",
    ] {
        let mut connection = TcpStream::connect(admin.server).expect("a connection");
        connection.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let request =
            format!("GET /server-cycle?force=1 HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let (status, body) = http::parse(&answer).expect("an answer");
        assert_eq!(status, 403, "{header}: {body}");
    }
    assert_eq!(admin.wait_for("web", 4), before);
}

#[test]
fn one_process_more_runs_with_other_variables_and_goes_by_itself() {
    let mut admin = Admin::start();
    let before = admin.wait_for("web", 4);
    let answer = admin.done("/server-profile?seconds=300&env=V=profiled");
    assert_eq!(answer["watchers"][0]["result"], "done", "{answer}");
    admin.wait_for("web-profile", 1);
    wait::until("it has said what it was given", || {
        let (_, said) = admin.get("/server-profile-data");
        match said.contains("V is profiled") {
            true => Ok(()),
            false => Err(said),
        }
    });
    let used = admin.done("/server-profile-memory?name=web-profile");
    assert!(used.to_string().contains("web-profile"), "{used}");
    let again = kingpole(&admin.scratch, &["profile", "web"]);
    assert_eq!(again.status.code(), Some(1), "{}", describe(&again));
    let rm = kingpole(&admin.scratch, &["rm", "web-profile", "--wait"]);
    assert!(rm.status.success(), "{}", describe(&rm));
    // From the command line, and the manager that was asked is not the one that ends it.
    let begun = kingpole(
        &admin.scratch,
        &["profile", "web", "--env", "V=x", "--seconds", "3", "--wait"],
    );
    assert!(begun.status.success(), "{}", describe(&begun));
    admin.manager.kill();
    admin.manager.replace();
    admin.manager.wait_ready();
    wait::until("it is gone", || {
        let names = describe(&kingpole(&admin.scratch, &["list"]));
        match names.contains("web-profile") {
            true => Err(names),
            false => Ok(()),
        }
    });
    assert_eq!(admin.wait_for("web", 4), before);
}

#[test]
fn a_reload_is_a_rolling_run_where_the_file_says_so() {
    let stack = "[watcher:web]\ncmd = sh -c 'exec sleep 100000'\nnumprocesses = 2\nrolling = true\nrolling_max_surge = 2\n\
                 ready = uptime 0.1\n[env]\nPATH = /usr/bin:/bin\n";
    let (_kernel, scratch, manager) = Manager::with_kernel(stack, &["web"]);
    let both = || {
        wait::until("both run", || match manager.pids("web")? {
            found if found.len() == 2 => Ok(found),
            found => Err(format!("{found:?}")),
        })
    };
    let before = both();
    let reload = kingpole(&scratch, &["reload", "web", "--wait"]);
    assert!(reload.status.success(), "{}", describe(&reload));
    let after = both();
    assert!(
        before.iter().all(|pid| !after.contains(pid)),
        "{before:?}, {after:?}"
    );
    let done = |count: usize| {
        wait::until(&format!("{count} runs are told"), || {
            let log = manager.log();
            match log.matches("rolling reload done, 2 replaced").count() == count {
                true => Ok(()),
                false => Err(log),
            }
        });
    };
    done(1);
    // A command that does not work stops at its first process, and the others run on.
    scratch.write("stack.ini", stack.replace("exec sleep 100000", "exit 3"));
    let refused = kingpole(&scratch, &["reloadconfig", "--wait"]);
    assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
    assert_eq!(both(), after);
    scratch.write("stack.ini", stack.replace("100000", "200000"));
    let changed = kingpole(&scratch, &["reloadconfig", "--wait"]);
    assert!(changed.status.success(), "{}", describe(&changed));
    done(2);
    let last = both();
    assert!(
        after.iter().all(|pid| !last.contains(pid)),
        "{after:?}, {last:?}"
    );
}

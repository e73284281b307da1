//! Promise: the vassals of a real uWSGI emperor are reloaded under a load generator while enough of
//! them accept requests, and no request fails; one that does not come back ends the run. Runs only
//! with `KINGPOLE_STACKS` set.

use kingpole_tests::manager::{describe, kingpole_command};
use kingpole_tests::process::Guarded;
use kingpole_tests::stacks::{Generator, are_wanted, copy_with, example, free_port, wait_answer};
use kingpole_tests::{Scratch, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const VASSALS: [&str; 3] = ["a", "b", "c"];

/// An emperor, its vassals, and nginx in front of its router.
struct Empire {
    // Ended before the directory goes.
    _processes: [Guarded; 2],
    scratch: Scratch,
    port: u16,
}

impl Empire {
    #[track_caller]
    fn start() -> Self {
        let scratch = Scratch::new();
        let port = free_port();
        copy_with(&scratch, &example(), &[]);
        let files = example().with_file_name("vassals");
        copy_with(&scratch, &files, &[("8080", port.to_string())]);
        for name in ["var", "vassals"] {
            fs::create_dir(scratch.join(name)).expect("a directory");
        }
        let original = scratch.join("vassal.ini");
        fs::copy(&original, scratch.join("second.ini")).expect("a copy");
        for name in VASSALS {
            let file = if name == "b" {
                "second.ini"
            } else {
                "vassal.ini"
            };
            let link = scratch.join(format!("vassals/{name}.ini"));
            std::os::unix::fs::symlink(format!("../{file}"), link).expect("a link");
        }
        let start = |name, arguments: &[&str]| {
            let mut command = Command::new(name);
            command.args(arguments).current_dir(scratch.path());
            Guarded::start(name, command, scratch.fresh(name))
        };
        let processes = [
            start("uwsgi", &["emperor.ini"]),
            start("nginx", &["-p", ".", "-c", "nginx.conf"]),
        ];
        let empire = Self {
            _processes: processes,
            scratch,
            port,
        };
        wait_answer(port, "/");
        wait::until("all accept requests and are routed", || {
            let output = empire.vassals_reload(&["--dry-run", "--min-active", "2"]);
            if output.status.success() {
                Ok(())
            } else {
                Err(describe(&output))
            }
        });
        empire
    }

    fn vassals_reload(&self, more: &[&str]) -> Output {
        let mut command = kingpole_command(&self.scratch, &["vassals", "reload", "vassals"]);
        command.args(["--emperor-stats", "var/emperor.sock"]);
        command.args(["--router-stats", "var/router-stats.sock"]);
        command.args(more).output().expect("kingpole runs")
    }

    fn load(&self) -> Generator {
        let url = format!("http://127.0.0.1:{}/", self.port);
        Generator::ab(&self.scratch, 4, &url)
    }
}

/// What the emperor says.
fn statistics(socket: &PathBuf) -> Option<Value> {
    let mut text = Vec::new();
    let mut connection = UnixStream::connect(socket).ok()?;
    connection.set_read_timeout(Some(wait::PATIENCE)).ok()?;
    connection.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Counts those that accept requests, again and again; answers the fewest and how often it looked.
fn count(socket: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<(usize, u64)> {
    thread::spawn(move || {
        let (mut fewest, mut looks) = (usize::MAX, 0);
        while !stop.load(Ordering::Relaxed) {
            if let Some(said) = statistics(&socket) {
                let vassals = said["vassals"].as_array().into_iter().flatten();
                let accepting = vassals.filter(|it| it["accepting"] == 1);
                fewest = fewest.min(accepting.count());
                looks += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
        (fewest, looks)
    })
}

#[test]
fn vassals_are_reloaded_under_ab_and_no_request_fails() {
    if !are_wanted(&["uwsgi", "nginx", "ab"]) {
        return;
    }
    let empire = Empire::start();
    let stop = Arc::new(AtomicBool::new(false));
    let counting = count(empire.scratch.join("var/emperor.sock"), stop.clone());
    let mut load = empire.load();
    for min_active in ["1", "2", "1"] {
        let before = touched(&empire);
        let output = empire.vassals_reload(&["--min-active", min_active]);
        assert!(output.status.success(), "{}", describe(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        for name in VASSALS {
            assert!(said.contains(&format!("{name}.ini: done after")), "{said}");
        }
        let after = touched(&empire);
        assert_eq!(after.len(), VASSALS.len(), "{after:?}");
        assert!(
            after.iter().all(|(id, time)| time > &before[id]),
            "{before:?} {after:?}"
        );
        load.check("after a reload");
    }
    stop.store(true, Ordering::Relaxed);
    let (fewest, looks) = counting.join().expect("the counting ends");
    let answered = load.end();
    println!("{answered} requests, none failed; {looks} looks, never fewer than {fewest}");
    assert!(
        fewest >= 1 && looks > 20 && answered > 100,
        "{fewest} {looks} {answered}"
    );
}

/// When the file of each vassal was touched, as far as the emperor knows.
fn touched(empire: &Empire) -> BTreeMap<String, i64> {
    let socket = empire.scratch.join("var/emperor.sock");
    let said = wait::until("the emperor answers", || {
        statistics(&socket).ok_or("no statistics")
    });
    let vassals = said["vassals"].as_array().expect("vassals").iter();
    let times = vassals.map(|it| (it["id"].to_string(), it["last_mod"].as_i64()));
    times
        .map(|(id, time)| (id, time.expect("a time")))
        .collect()
}

#[test]
fn a_vassal_that_does_not_come_back_ends_the_run() {
    if !are_wanted(&["uwsgi", "nginx", "ab"]) {
        return;
    }
    let empire = Empire::start();
    let load = empire.load();
    // The emperor looks at the links only, so it learns of this when one is touched.
    let broken =
        "[uwsgi]\nplugin = python3\nmaster = true\nneed-app = true\nwsgi-file = /missing.py\n";
    empire.scratch.write("second.ini", broken);
    let output = empire.vassals_reload(&["--min-active", "2", "--timeout", "30"]);
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("b.ini was not back within 30 s"), "{told}");
    assert!(told.contains("1 of 3 were reloaded"), "{told}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("a.ini: done") && !said.contains("c.ini: reloading"),
        "{said}"
    );

    // What is left has to stay: nothing more may be touched.
    let refused = empire.vassals_reload(&["--min-active", "2"]);
    assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("2 of 3 vassals accept requests"), "{told}");
    assert!(told.contains("--min-active 2 cannot be kept"), "{told}");
    assert!(refused.stdout.is_empty(), "{}", describe(&refused));
    println!("{} requests, none failed", load.end());
}

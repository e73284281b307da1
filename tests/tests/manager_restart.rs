//! Promise: a manager may vanish at any instant. No child is signalled, stopped, reparented or made
//! to wait because of it, no request fails, and the log files have every line once and in order.

use kingpole_protocol::request::TakeLease;
use kingpole_protocol::spec::SocketAddress;
use kingpole_protocol::{Fence, client::blocking::Client};
use kingpole_tests::manager::{self, Manager, describe, json};
use kingpole_tests::puppet::{Stage, Strings};
use kingpole_tests::rotated::{content, parts};
use kingpole_tests::{Kernel, Scratch, binaries, http, lines, pattern, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const KILLS: u64 = 50;

/// A watcher of puppets that report on `stage`.
fn puppets(name: &str, stage: &Stage, count: u32, more: &str) -> String {
    format!(
        "[watcher:{name}]\ncmd = {} \"{}\"\nnumprocesses = {count}\n{more}\n",
        binaries::puppet().display(),
        stage.command()
    )
}

fn file_stream(path: &Path, more: &str) -> String {
    format!(
        "stdout_stream.class = FileStream\nstdout_stream.filename = {}\n{more}",
        path.display()
    )
}

fn kernel_pids(client: &mut Client) -> BTreeMap<String, i32> {
    let all = client.processes().unwrap();
    all.into_iter()
        .filter(|p| p.end.is_none())
        .map(|p| (p.name, p.pid))
        .collect()
}

struct Requests {
    failures: Mutex<Vec<String>>,
    answered: AtomicU64,
    over: AtomicBool,
}

fn request_for_ever(server: SocketAddr, requests: &Requests) {
    while !requests.over.load(Ordering::Relaxed) {
        match http::get(server, "/") {
            Ok((200, _)) => {
                requests.answered.fetch_add(1, Ordering::Relaxed);
            }
            other => requests.failures.lock().unwrap().push(format!("{other:?}")),
        }
    }
}

#[test]
fn fifty_kills_under_load_cost_no_child_no_request_and_no_line() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let stages = [
        Stage::new(&scratch),
        Stage::new(&scratch),
        Stage::new(&scratch),
    ];
    let logs = ["alone1.log", "alone2.log", "shared.log"].map(|name| scratch.join(name));
    let rotated = "stdout_stream.max_bytes = 60000\nstdout_stream.backup_count = 10000";
    let timed = format!("{rotated}\nstdout_stream.time_format = %Y-%m-%d %H:%M:%S");
    let web = binaries::workspace().join("docs/examples/web.py");
    let configuration = scratch.write(
        "stack.ini",
        [
            puppets("alone1", &stages[0], 1, &file_stream(&logs[0], rotated)),
            puppets("alone2", &stages[1], 1, &file_stream(&logs[1], rotated)),
            puppets("shared", &stages[2], 2, &file_stream(&logs[2], &timed)),
            format!(
                "[watcher:web]\ncmd = python3 {} --fd $(circus.sockets.web)\n\
                 numprocesses = 3\nuse_sockets = True\ncopy_env = True\n\n\
                 [socket:web]\nhost = 127.0.0.1\nport = 0\n",
                web.display()
            ),
        ]
        .concat(),
    );
    let mut manager = Manager::start(&scratch, &configuration);
    let mut writers: Vec<(String, Strings)> = Vec::new();
    for (stage, count) in stages.iter().zip([1, 1, 2]) {
        for _ in 0..count {
            let mut strings = stage.accept().unwrap();
            let tag = format!("p{}", strings.report()["pid"]);
            strings.ask(&format!("background lines out {tag} 0 0 1000"));
            writers.push((tag, strings));
        }
    }
    let mut client = kernel.client();
    let port = match client.sockets().unwrap()[0].spec.address {
        SocketAddress::Inet { port, .. } => port,
        ref other => panic!("{other:?}"),
    };
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("the web workers answer", || {
        http::get(server, "/").map(drop)
    });
    let before = kernel_pids(&mut client);
    assert_eq!(before.len(), 7, "{before:?}");

    let requests = Requests {
        failures: Mutex::default(),
        answered: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let requests = &requests;
    std::thread::scope(|scope| {
        let over = scopeguard(|| requests.over.store(true, Ordering::Relaxed));
        for _ in 0..2 {
            scope.spawn(|| request_for_ever(server, requests));
        }
        for round in 0..KILLS {
            manager.replace();
            if round % 5 == 0 {
                manager.wait_ready();
            }
            // When it is killed next: from before it has begun to well into its work.
            let moment = u64::from(pattern::byte_at(round)) * 2;
            std::thread::sleep(Duration::from_millis(moment));
        }
        manager.replace();
        manager.wait_ready();
        wait::until("requests were answered all the time", || {
            match requests.answered.load(Ordering::Relaxed) {
                answered if answered > KILLS => Ok(()),
                answered => Err(format!("{answered}: {:?}", requests.failures)),
            }
        });
        drop(over);
    });
    wait::until("the logs were rotated", || {
        let found = [&logs[0], &logs[1]].map(|log| parts(log).len());
        if found.iter().all(|&count| count > 2) {
            Ok(())
        } else {
            Err(format!("{found:?} files"))
        }
    });

    let after = kernel_pids(&mut client);
    assert_eq!(after, before, "pids");
    let status = manager.status().unwrap();
    for watcher in ["alone1", "alone2", "shared", "web"] {
        manager::pids(&status, watcher).unwrap();
    }
    assert_eq!(*requests.failures.lock().unwrap(), [] as [String; 0]);
    let mut counts = BTreeMap::new();
    for (tag, strings) in &mut writers {
        let count = strings.ask("enough")[tag.as_str()].as_u64().unwrap();
        counts.insert(tag.clone(), count);
    }
    let total: u64 = counts.values().sum();
    wait::until("all lines are in the logs", || {
        let found: usize = logs
            .iter()
            .map(|log| content(log).iter().filter(|&&b| b == b'\n').count())
            .sum();
        if found as u64 >= total {
            Ok(())
        } else {
            Err(format!("{found} of {total}"))
        }
    });
    for (log, (tag, _)) in logs.iter().zip(&writers).take(2) {
        assert_eq!(
            lines::check(tag, &content(log), 0),
            Ok(counts[tag]),
            "{}",
            log.display()
        );
    }
    let shared = String::from_utf8(content(&logs[2])).unwrap();
    let mut by_writer: BTreeMap<String, String> = BTreeMap::new();
    for line in shared.lines() {
        let (prefix, text) = line
            .split_once(" | ")
            .unwrap_or_else(|| panic!("torn: {line:?}"));
        let pid = prefix
            .rsplit_once('[')
            .and_then(|(_, pid)| pid.strip_suffix(']'));
        let pid = pid.unwrap_or_else(|| panic!("no pid: {line:?}"));
        let of = by_writer.entry(format!("p{pid}")).or_default();
        of.push_str(text);
        of.push('\n');
    }
    for (tag, _) in &writers[2..] {
        assert_eq!(
            lines::check(tag, by_writer[tag].as_bytes(), 0),
            Ok(counts[tag]),
            "{tag}"
        );
    }
    assert_eq!(by_writer.len(), 2);
}

/// Does something when it goes, also by a panic.
struct Guard<F: FnMut()>(F);

impl<F: FnMut()> Drop for Guard<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn scopeguard<F: FnMut()>(last: F) -> Guard<F> {
    Guard(last)
}

/// One watcher of one puppet, running.
struct Single {
    manager: Manager,
    strings: Strings,
    stage: Stage,
    scratch: Rc<Scratch>,
    kernel: Kernel,
}

fn single(more: &str) -> Single {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let stage = Stage::new(&scratch);
    let configuration = scratch.write("one.ini", puppets("one", &stage, 1, more));
    let manager = Manager::start(&scratch, &configuration);
    let strings = stage.accept().unwrap();
    Single {
        manager,
        strings,
        stage,
        scratch,
        kernel,
    }
}

impl Single {
    #[track_caller]
    fn pid(&self) -> i64 {
        let pids = wait::until("the watcher is active", || self.manager.pids("one"));
        pids[0]
    }
}

#[test]
fn a_second_manager_is_refused_and_the_first_goes_on() {
    let single = single("");
    let pid = single.pid();
    let configuration = single.scratch.join("one.ini");
    let second = Manager::command(&single.scratch, &configuration)
        .output()
        .expect("the second manager");
    assert!(!second.status.success(), "{}", describe(&second));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let first = single.manager.process().handle().pid().to_string();
    assert!(
        said.contains("another manager") && said.contains(&first),
        "{said}"
    );
    assert_eq!(single.pid(), pid);
}

#[test]
fn a_stopped_manager_that_comes_back_after_its_successor_does_nothing_any_more() {
    let mut single = single("");
    let old = single.pid();
    let manager = single.manager.process().handle();
    manager.stop();
    // What a successor on another machine's disk, or of another lock, would do.
    let mut successor = single.kernel.client();
    let lease = successor
        .call(kingpole_protocol::request::ListLeases {
            after: String::new(),
            limit: 10,
        })
        .unwrap();
    let kingpole_protocol::reply::Reply::Leases(leases) = lease else {
        panic!("{lease:?}")
    };
    let name = leases.items[0].name.clone();
    let taken = successor
        .take_lease(TakeLease {
            name,
            resume: Fence::NONE,
            take_over: true,
        })
        .unwrap();
    assert!(taken > leases.items[0].fence);
    single.strings.tell("exit 1");
    wait::until("the kernel has seen the child's end", || {
        let running = kernel_pids(&mut successor);
        if running.values().all(|&pid| i64::from(pid) != old) {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    manager.signal(libc::SIGCONT).unwrap();
    wait::until("the stale manager knows that it is", || {
        let log = single.manager.log();
        if log.contains("taken over") || log.contains("another manager") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let running = kernel_pids(&mut successor);
    assert!(
        running.is_empty(),
        "the stale manager has started {running:?}"
    );
}

#[test]
fn an_end_while_the_manager_was_away_is_taken_up_by_the_next_one() {
    let mut single = single("");
    let old = single.pid();
    single.manager.kill();
    single.strings.tell("exit 3");
    let ended = wait::until("the kernel has seen the end", || {
        let all = single.kernel.client().processes().unwrap();
        all.into_iter().find_map(|p| p.end).ok_or("it runs")
    });
    assert_eq!(
        ended.status,
        kingpole_protocol::status::EndStatus::Exited(3)
    );
    single.manager.replace();
    single.manager.wait_ready();
    let new = single.pid();
    assert_ne!(new, old);
    single.strings = single.stage.accept().unwrap();
    wait::until("the end is acknowledged", || {
        let ended: Vec<_> = single
            .kernel
            .client()
            .processes()
            .unwrap()
            .into_iter()
            .filter(|p| p.end.is_some())
            .collect();
        if ended.is_empty() {
            Ok(())
        } else {
            Err(format!("{ended:?}"))
        }
    });
    assert_eq!(single.strings.report()["pid"], new);
}

#[test]
fn leaving_in_any_way_but_quit_leaves_the_children_running() {
    let mut single = single("");
    let pid = single.pid();
    for way in ["SIGTERM", "detach"] {
        match way {
            "detach" => {
                let answer = manager::kingpole(&single.scratch, &["detach"]);
                assert!(answer.status.success(), "{}", describe(&answer));
            }
            _ => single
                .manager
                .process()
                .handle()
                .signal(libc::SIGTERM)
                .unwrap(),
        }
        let status = single.manager.process_mut().wait();
        assert!(status.success(), "{way}: {status}");
        assert_eq!(single.strings.report()["pid"], pid, "{way}");
        single.manager.replace();
        single.manager.wait_ready();
        assert_eq!(single.pid(), pid, "{way}");
    }
}

#[test]
fn quit_stops_what_is_not_use_papa_and_leaves_the_rest() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let (kept, stopped) = (Stage::new(&scratch), Stage::new(&scratch));
    let configuration = scratch.write(
        "quit.ini",
        [
            puppets("kept", &kept, 1, "use_papa = True"),
            puppets("stopped", &stopped, 1, ""),
        ]
        .concat(),
    );
    let mut manager = Manager::start(&scratch, &configuration);
    let mut kept = kept.accept().unwrap();
    let _stopped = stopped.accept().unwrap();
    wait::until("both are active", || {
        manager
            .pids("kept")
            .and_then(|_| manager.pids("stopped"))
            .map(drop)
    });
    let pid = manager.pids("kept").unwrap()[0];
    let answer = manager::kingpole(&scratch, &["quit"]);
    assert!(answer.status.success(), "{}", describe(&answer));
    assert!(manager.process_mut().wait().success());
    let left: Vec<i32> = kernel_pids(&mut kernel.client()).into_values().collect();
    assert_eq!(left, [i32::try_from(pid).unwrap()]);
    assert_eq!(kept.report()["pid"], pid);
}

#[test]
fn a_hung_manager_makes_no_child_wait() {
    let mut single = single("");
    let manager = single.manager.process().handle();
    manager.stop();
    // Far more than every buffer on the way: the oldest goes, the child does not wait.
    single.strings.ask("flood out 0 30000000 65536");
    manager.signal(libc::SIGCONT).unwrap();
    single.manager.wait_ready();
    assert_eq!(single.strings.report()["pid"], single.pid());
}

#[test]
fn kills_while_it_starts_its_processes_never_make_two_of_a_worker() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write(
        "many.ini",
        "[watcher:many]\ncmd = /bin/sleep 100000\nnumprocesses = 12\n",
    );
    let mut manager = Manager::launch(&scratch, &configuration);
    let mut client = kernel.client();
    let mut seen: BTreeMap<String, i32> = BTreeMap::new();
    for round in 0..25 {
        std::thread::sleep(Duration::from_micros(
            u64::from(pattern::byte_at(900 + round)) * 120,
        ));
        manager.replace();
        for (name, pid) in kernel_pids(&mut client) {
            let first = *seen.entry(name.clone()).or_insert(pid);
            assert_eq!(pid, first, "{name} was started twice");
        }
    }
    manager.wait_ready();
    let pids = wait::until("all twelve run", || manager.pids("many"));
    let held = kernel_pids(&mut client);
    assert_eq!(held.len(), 12, "{held:?}");
    let distinct: BTreeSet<i64> = pids.into_iter().collect();
    assert_eq!(distinct.len(), 12);
}

#[test]
fn what_an_operator_said_is_remembered_by_the_next_manager() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let configuration = scratch.write(
        "said.ini",
        "[watcher:grown]\ncmd = /bin/sleep 100000\nnumprocesses = 1\n\
         [watcher:stopped]\ncmd = /bin/sleep 100000\n",
    );
    let mut manager = Manager::start(&scratch, &configuration);
    wait::until("both are active", || {
        manager
            .pids("grown")
            .and_then(|_| manager.pids("stopped"))
            .map(drop)
    });
    for command in [["incr", "grown", "--wait"], ["stop", "stopped", "--wait"]] {
        let answer = manager::kingpole(&scratch, &command);
        assert!(
            answer.status.success(),
            "{command:?}: {}",
            describe(&answer)
        );
    }
    let before = manager.pids("grown").unwrap();
    assert_eq!(before.len(), 2);
    manager.replace();
    manager.wait_ready();
    let after = wait::until("the grown one is active", || manager.pids("grown"));
    assert_eq!(after, before);
    let status = json(&scratch, &["status", "--json"]).unwrap();
    let stopped = status["watchers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|w| w["name"] == "stopped");
    assert_eq!(stopped.unwrap()["state"], "stopped");
    assert_eq!(kernel_pids(&mut kernel.client()).len(), 2);
}

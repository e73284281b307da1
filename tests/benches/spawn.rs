//! How many full-featured children a second the kernel starts, against a bare `vfork` and `execve`
//! with the same pipes; with a small kernel, and with one that holds 500 MB of output.

use kingpole_protocol::ProcessId;
use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Remove, Spawn};
use kingpole_protocol::spec::{LimitSpec, ProcessSpec};
use kingpole_tests::measure::{Comparison, Effort};
use kingpole_tests::sys::{Image, vfork_exec};
use kingpole_tests::{Kernel, puppet, wait};
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use std::cell::Cell;
use std::time::Instant;

/// Requests under way at a time.
const WINDOW: usize = 16;

const PROGRAM: &str = "/bin/true";

/// Children that keep their 2 MB of output full.
const HOARDERS: u64 = 250;

fn main() {
    let effort = Effort::asked_for();
    let count = effort.pick(1000, 100);
    let rounds = effort.pick(7, 3);
    println!("full-featured spawns, against vfork + execve with the same pipes");
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let number = Cell::new(0);
    for (name, big) in [("spawn/small kernel", false), ("spawn/500 MB kernel", true)] {
        let ballast = if big {
            hoard(&kernel, &mut client)
        } else {
            Vec::new()
        };
        let comparison = Comparison::measure(
            name,
            "1/s",
            rounds,
            || bare(&ballast, count),
            || through_the_kernel(&mut client, &number, count, WINDOW),
        );
        comparison.print(0.7);
        let waiting = Comparison::measure(
            format!("{name}, one by one"),
            "1/s",
            rounds,
            || bare(&ballast, count),
            || through_the_kernel(&mut client, &number, count, 1),
        );
        println!("{waiting}");
    }
}

/// Lets the kernel hold 500 MB, and this process as much, so that both parents are as big.
fn hoard(kernel: &Kernel, client: &mut Client) -> Vec<u8> {
    for n in 0..HOARDERS {
        let name = format!("hoarder {n}");
        let spec = puppet::spec(&name, &["same out 2090000 65536", "wait"]);
        client.spawn(&name, spec).expect("a hoarder");
    }
    wait::until("500 MB of output are held", || {
        let held = kernel.client().status().expect("status").output_bytes;
        if held > HOARDERS * 2_000_000 {
            Ok(())
        } else {
            Err(format!("{held} bytes"))
        }
    });
    vec![1; 500 << 20]
}

fn bare(ballast: &[u8], count: u64) -> f64 {
    let image = Image::new(PROGRAM, &[PROGRAM]);
    let begun = Instant::now();
    let mut started = Vec::new();
    let mut pipes = Vec::new();
    for _ in 0..count {
        let (out, out_end) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (err, err_end) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        started.push(vfork_exec(&image, &out_end, &err_end).expect("a child"));
        pipes.push((out, err));
        // As the kernel does: the ended are collected while others are started.
        if started.len() >= WINDOW {
            collect(&mut started, &mut pipes);
        }
    }
    collect(&mut started, &mut pipes);
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    assert!(ballast.iter().step_by(4096).all(|&b| b == 1));
    rate
}

fn collect<P>(started: &mut Vec<i32>, pipes: &mut Vec<P>) {
    for pid in started.drain(..) {
        waitpid(Pid::from_raw(pid), None).expect("its end");
    }
    pipes.clear();
}

fn spec(name: &str, directory: &str) -> ProcessSpec {
    let mut spec = puppet::program(name, &[PROGRAM]);
    spec.environment = (0..20)
        .map(|n| {
            (
                format!("VARIABLE_{n}").into(),
                "a value of usual length".into(),
            )
        })
        .collect();
    spec.working_directory = directory.into();
    spec.umask = Some(0o022);
    spec.limits = vec![LimitSpec {
        resource: libc::RLIMIT_NOFILE,
        soft: 1024,
        hard: 4096,
    }];
    spec.labels = [("watcher".to_owned(), "bench".to_owned())].into();
    spec
}

fn through_the_kernel(client: &mut Client, number: &Cell<u64>, count: u64, window: usize) -> f64 {
    let begun = Instant::now();
    let mut under_way = std::collections::VecDeque::new();
    let mut started: Vec<ProcessId> = Vec::new();
    for _ in 0..count {
        number.set(number.get() + 1);
        let name = format!("spawned {}", number.get());
        let request = Spawn {
            key: name.clone(),
            spec: spec(&name, "/tmp"),
        };
        under_way.push_back(client.send(request).expect("a request"));
        if under_way.len() >= window {
            started.extend(under_way.pop_front().map(|id| spawned(client, id)));
        }
    }
    for id in under_way {
        started.push(spawned(client, id));
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    for process in started {
        client.call(Remove { process }).expect("forgotten");
    }
    wait::until("the kernel has forgotten them", || {
        let left = client.status().expect("status");
        let ended = left.processes_ended;
        if ended == 0 {
            Ok(())
        } else {
            Err(format!("{ended} left"))
        }
    });
    rate
}

fn spawned(client: &mut Client, id: kingpole_protocol::RequestId) -> ProcessId {
    match client.wait_for(id).expect("a child") {
        Reply::Spawned(spawned) => spawned.process.process,
        other => panic!("{other:?}"),
    }
}

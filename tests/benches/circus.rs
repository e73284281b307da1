//! `status` of 100 processes over one connection, our manager beside circusd in the same run, asked by the same client of few
//! lines, so that the servers are measured; beside it two threads that pass messages of the same length to and fro over the
//! same kind of socket. And what both use while nobody asks, with statistics on and off.

use kingpole_tests::measure::{Effort, median};
use kingpole_tests::process::{self, Guarded};
use kingpole_tests::zeromq::{Kind, Peer};
use kingpole_tests::{Kernel, Manager, Scratch, python, wait};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

const REQUEST: &str = r#"{"command": "status", "id": "x", "properties": {}}"#;

/// Requests under way in the second figure.
const AT_ONCE: u64 = 50;

/// How 100 processes are spread over watchers.
const SHAPES: [(u32, u32); 2] = [(100, 1), (1, 100)];

/// How often as many as circusd.
const WANTED: f64 = 10.0;

/// Takes one figure.
type Figure = fn(&Rate) -> f64;

/// One daemon that serves Circus's clients.
struct Daemon {
    name: &'static str,
    endpoint: String,
    /// The programs whose processor time counts.
    pids: Vec<i32>,
}

/// What a client sees.
struct Rate {
    per_second: f64,
    median_us: f64,
    at_once: f64,
    reply_bytes: usize,
}

fn main() {
    let interpreter = match python::environment() {
        Ok(path) => path,
        Err(why) => return println!("SKIPPED: no circusd to compare with: {why}"),
    };
    let effort = Effort::asked_for();
    for (watchers, each) in SHAPES {
        println!("{watchers} watchers with {each} processes each");
        let ours = Ours::start(watchers, each, "False");
        let theirs = Theirs::start(&interpreter, watchers, each, "False");
        let (mut from_us, mut from_them, mut limits) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.pick(5, 1) {
            from_them.push(measure(&theirs.daemon, effort));
            from_us.push(measure(&ours.daemon, effort));
            let bytes = from_us.last().expect("just measured").reply_bytes;
            limits.push(ping_pong(bytes, effort));
        }
        let of = |rates: &[Rate], take: Figure| median(rates.iter().map(take).collect());
        let figures: [(&str, Figure); 3] = [
            ("one at a time", |rate| rate.per_second),
            ("50 under way", |rate| rate.at_once),
            ("median latency", |rate| 1e6 / rate.median_us),
        ];
        for (name, take) in figures {
            let (ours, theirs) = (of(&from_us, take), of(&from_them, take));
            let ratio = ours / theirs;
            let verdict = if ratio >= WANTED { "good" } else { "BELOW" };
            println!(
                "{name:<16} ours {ours:>8.0}  circusd {theirs:>8.0} 1/s  ratio {ratio:.1}  wanted {WANTED}  {verdict}"
            );
        }
        let latency = of(&from_us, |rate| rate.median_us);
        let limit = median(limits);
        println!(
            "latency          ours {latency:.0} us  circusd {:.0} us  to and fro of {} bytes {limit:.0} us  ratio {:.1}  wanted below 5",
            of(&from_them, |rate| rate.median_us),
            from_us[0].reply_bytes,
            latency / limit
        );
    }
    for statistics in ["False", "True"] {
        let ours = Ours::start(100, 1, statistics);
        let theirs = Theirs::start(&interpreter, 100, 1, statistics);
        for daemon in [&ours.daemon, &theirs.daemon] {
            let used = idle(daemon, effort);
            println!(
                "idle, 100 processes, statsd = {statistics}: {} {used:.2} % of a processor",
                daemon.name
            );
        }
    }
}

fn configuration(
    scratch: &Scratch,
    endpoints: &str,
    watchers: u32,
    each: u32,
    statsd: &str,
) -> std::path::PathBuf {
    let mut text = format!("[circus]\nstatsd = {statsd}\ncheck_delay = 5\n{endpoints}");
    for number in 0..watchers {
        text.push_str(&format!(
            "[watcher:w{number}]\ncmd = /bin/sleep 100000\nnumprocesses = {each}\n"
        ));
    }
    scratch.write("circus.ini", text)
}

struct Ours {
    daemon: Daemon,
    _manager: Manager,
    _kernel: Kernel,
}

impl Ours {
    fn start(watchers: u32, each: u32, statsd: &str) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let endpoints = "endpoint = tcp://127.0.0.1:0\npubsub_endpoint = tcp://127.0.0.1:0\nstats_endpoint = tcp://127.0.0.1:0\n";
        let file = configuration(&scratch, endpoints, watchers, each, statsd);
        let manager = Manager::start(&scratch, &file);
        let endpoint = wait::until("the endpoint is open", || {
            let log = manager.log();
            let line = log.lines().find_map(|line| line.split_once("] endpoint: "));
            line.and_then(|(_, said)| said.split_once(" at tcp:"))
                .map(|(_, address)| format!("tcp://{}", address.trim()))
                .ok_or(log)
        });
        let daemon = Daemon {
            name: "ours",
            endpoint,
            pids: vec![
                manager.process().handle().pid(),
                kernel.serving().pid(),
                kernel.process().handle().pid(),
            ],
        };
        wait_for_processes(&daemon, watchers * each);
        Self {
            daemon,
            _manager: manager,
            _kernel: kernel,
        }
    }
}

struct Theirs {
    daemon: Daemon,
    _process: Guarded,
    _scratch: Scratch,
}

impl Theirs {
    fn start(interpreter: &Path, watchers: u32, each: u32, statsd: &str) -> Self {
        let scratch = Scratch::new();
        let ports = free_ports();
        let [control, events, stats] = ports.map(|port| format!("tcp://127.0.0.1:{port}"));
        let endpoints =
            format!("endpoint = {control}\npubsub_endpoint = {events}\nstats_endpoint = {stats}\n");
        let file = configuration(&scratch, &endpoints, watchers, each, statsd);
        let mut command = Command::new(interpreter);
        command
            .args(["-c", "from circus.circusd import main; main()"])
            .arg(&file);
        let process = Guarded::start("circusd", command, scratch.join("circusd.log"));
        let pid = process.handle().pid();
        let mut daemon = Daemon {
            name: "circusd",
            endpoint: control,
            pids: vec![pid],
        };
        wait_for_processes(&daemon, watchers * each + u32::from(statsd == "True"));
        // What feeds circus-top is a process of its own there.
        let children = process::children(pid);
        let feed = |pid: &i32| process::command_line(*pid).contains("stats");
        daemon.pids.extend(children.into_iter().filter(feed));
        Self {
            daemon,
            _process: process,
            _scratch: scratch,
        }
    }
}

impl Drop for Theirs {
    /// Its processes end with it.
    fn drop(&mut self) {
        let asked = Peer::connect(&self.daemon.endpoint, Kind::Dealer).and_then(|mut peer| {
            peer.ask(r#"{"command": "quit", "properties": {"waiting": true}}"#)
        });
        if let Err(error) = asked {
            eprintln!("circusd was not asked to quit: {error}");
        }
    }
}

/// For a daemon that chooses none itself; somebody else may take one, and then this run fails.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}

fn wait_for_processes(daemon: &Daemon, wanted: u32) {
    wait::until("all processes run", || {
        let mut peer = Peer::connect(&daemon.endpoint, Kind::Dealer)?;
        let answer = peer.ask(r#"{"command": "numprocesses", "id": 1, "properties": {}}"#)?;
        match answer["numprocesses"].as_u64() {
            Some(number) if number >= u64::from(wanted) => Ok(()),
            _ => Err(std::io::Error::other(answer.to_string())),
        }
    });
}

fn measure(daemon: &Daemon, effort: Effort) -> Rate {
    let patience = Duration::from_millis(effort.pick(3000, 300));
    let mut peer = Peer::connect(&daemon.endpoint, Kind::Dealer).expect("it serves");
    let mut times = Vec::new();
    let mut reply_bytes = 0;
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let at = Instant::now();
        peer.send(REQUEST.as_bytes()).expect("sent");
        reply_bytes = peer.receive().expect("answered").1.len();
        times.push(at.elapsed().as_secs_f64() * 1e6);
    }
    let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let (mut sent, mut received) = (0, 0);
    while begun.elapsed() < patience {
        while sent - received < AT_ONCE {
            peer.send(REQUEST.as_bytes()).expect("sent");
            sent += 1;
        }
        peer.receive().expect("answered");
        received += 1;
    }
    Rate {
        per_second,
        median_us: median(times),
        at_once: received as f64 / begun.elapsed().as_secs_f64(),
        reply_bytes,
    }
}

/// Median microseconds of a message and an answer of that length between two threads that do nothing else.
fn ping_pong(reply_bytes: usize, effort: Effort) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let mut request = vec![0; REQUEST.len()];
        let reply = vec![7; reply_bytes];
        while stream.read_exact(&mut request).is_ok() && stream.write_all(&reply).is_ok() {}
    });
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("an option");
    let mut reply = vec![0; reply_bytes];
    let mut times = Vec::new();
    for _ in 0..effort.pick(20_000, 2_000) {
        let at = Instant::now();
        stream.write_all(REQUEST.as_bytes()).expect("sent");
        stream.read_exact(&mut reply).expect("answered");
        times.push(at.elapsed().as_secs_f64() * 1e6);
    }
    drop(stream);
    echo.join().expect("it ends");
    median(times)
}

/// Percent of a processor while nobody asks.
fn idle(daemon: &Daemon, effort: Effort) -> f64 {
    let used = || {
        daemon
            .pids
            .iter()
            .map(|pid| process::processor_seconds(*pid))
            .sum::<f64>()
    };
    let (before, begun) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(effort.pick(30, 2)));
    (used() - before) / begun.elapsed().as_secs_f64() * 100.0
}

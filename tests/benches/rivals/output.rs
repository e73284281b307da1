//! A child's output into a log file: how fast, for how much processor time, and how much of it is lost.

use super::bell::Bell;
use super::rival::{Job, Rival, Running};
use super::table::{Better, LIMIT, Row};
use super::watching::{logged_bytes, logged_lines, processor_seconds};
use kingpole_tests::measure::Effort;
use kingpole_tests::{Scratch, binaries};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a log must not have grown for it to be all that comes.
const SETTLED: Duration = Duration::from_secs(2);
/// How long one may take at all.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the child writes.
struct Shape {
    name: &'static str,
    verb: &'static str,
    /// As the contestant is told it.
    amount: u64,
    bytes: u64,
    /// Of the limit.
    wanted: f64,
}

/// Both shapes.
pub(super) fn measure(rivals: &[Box<dyn Rival>], effort: Effort) -> Vec<Row> {
    let mebibytes = effort.pick(512, 32);
    let block = (64 << 10) / 100 * 100;
    let lines = effort.pick(2_000_000, 100_000);
    let shapes = [
        Shape {
            name: "64 KiB blocks",
            verb: "blocks",
            amount: mebibytes,
            bytes: (mebibytes << 20) / block * block,
            wanted: 0.8,
        },
        Shape {
            name: "a write per line of 100 bytes",
            verb: "lines",
            amount: lines,
            bytes: lines * 100,
            wanted: 1.4,
        },
    ];
    shapes
        .iter()
        .flat_map(|shape| rows(shape, rivals, effort))
        .collect()
}

fn rows(shape: &Shape, rivals: &[Box<dyn Rival>], effort: Effort) -> [Row; 3] {
    let row = |what: &str, better, wanted| {
        Row::new(format!("output, {}: {what}", shape.name), better, wanted)
    };
    let mut rate = row("MB/s", Better::More, Some(shape.wanted));
    let mut lost = row("lines lost", Better::Less, Some(0.0));
    let mut cost = row("processor seconds per GB", Better::Less, None);
    for _ in 0..effort.pick(5, 1) {
        let (megabytes_per_second, seconds) = bare(shape);
        rate.add(LIMIT, megabytes_per_second);
        cost.add(LIMIT, seconds);
        for rival in rivals.iter().filter(|it| it.keeps_running()) {
            eprintln!("output, {}: {}", shape.name, rival.name());
            let flow = one(shape, rival.as_ref());
            rate.add(rival.name(), flow.megabytes_per_second);
            cost.add(rival.name(), flow.seconds_per_gigabyte);
            lost.add(rival.name(), flow.lost as f64);
        }
    }
    [rate, lost, cost]
}

struct Flow {
    megabytes_per_second: f64,
    seconds_per_gigabyte: f64,
    lost: u64,
}

fn one(shape: &Shape, rival: &dyn Rival) -> Flow {
    let bell = Bell::new();
    let job = Job {
        name: "flow".to_owned(),
        command: command(shape, &bell),
        processes: 1,
        logged: true,
    };
    let running: Running = rival.start(std::slice::from_ref(&job), Rc::new(Scratch::new()));
    let deadline = Instant::now() + PATIENCE;
    let child = bell.wait_for("begin", deadline).expect("the child runs");
    let own = running.family().own;
    let logs = running.log_dir(&job);
    let before = processor_seconds(&own);
    let begun = bell.let_begin(child.pid);
    // What is lost never comes: then the end is the last growth after the child's last word.
    let (mut bytes, mut grown, mut done) = (0, begun, false);
    while bytes < shape.bytes && !(done && grown.elapsed() > SETTLED) && Instant::now() < deadline {
        let now = logged_bytes(&logs);
        if now > bytes {
            (bytes, grown) = (now, Instant::now());
        }
        done |= bell.next(Instant::now()).is_some();
    }
    let megabytes = bytes as f64 / 1e6;
    Flow {
        megabytes_per_second: megabytes / (grown - begun).as_secs_f64(),
        seconds_per_gigabyte: (processor_seconds(&own) - before) / megabytes * 1e3,
        lost: (shape.bytes / 100).saturating_sub(logged_lines(&logs)),
    }
}

fn command(shape: &Shape, bell: &Bell) -> Vec<String> {
    vec![
        binaries::contestant().display().to_string(),
        shape.verb.to_owned(),
        bell.address(),
        shape.amount.to_string(),
    ]
}

/// The same child into a loop of read and write: megabytes per second, and its processor seconds per gigabyte.
fn bare(shape: &Shape) -> (f64, f64) {
    let (bell, scratch) = (Bell::new(), Scratch::new());
    let path = scratch.join("bare.log");
    let words = command(shape, &bell);
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child");
    let pipe = child.stdout.take().expect("its pipe");
    let mut reader = Command::new(&words[0])
        .arg("copy")
        .arg(&path)
        .stdin(pipe)
        .spawn()
        .expect("the reader");
    let pid = i32::try_from(reader.id()).expect("a pid");
    let deadline = Instant::now() + PATIENCE;
    let waits = bell.wait_for("begin", deadline).expect("it runs");
    let begun = bell.let_begin(waits.pid);
    let length = || std::fs::metadata(&path).map_or(0, |it| it.len());
    while length() < shape.bytes && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(500));
    }
    let megabytes = shape.bytes as f64 / 1e6;
    let rate = megabytes / begun.elapsed().as_secs_f64();
    let seconds = processor_seconds(&[pid]) / megabytes * 1e3;
    for child in [&mut child, &mut reader] {
        let _ = child.kill();
        let _ = child.wait();
    }
    (rate, seconds)
}

//! A watcher at our kernel beside one at Papa's own daemon, with the same reader: throughput, lines
//! lost, processor time per gigabyte, how late a line arrives, and memory with 100 idle children.
//!
//! Beside each throughput stand two limits of the same run, with no daemon in the middle: the same child
//! whose pipe is read here and thrown away, and the same reader with batches that lie ready, each sent
//! when the one before was acknowledged. No daemon can be faster than the slower of the two.

use kingpole_tests::measure::{Comparison, Effort, median, pss_kib};
use kingpole_tests::process::Guarded;
use kingpole_tests::text::{Place, TextSession, Watched};
use kingpole_tests::{Kernel, Scratch, binaries, python, wait};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A daemon that speaks Papa's protocol.
struct Side {
    place: Place,
    pid: i32,
    /// Our kernel's guard.
    guard: Option<i32>,
}

/// What one watch of a child that writes lines brought.
struct Flow {
    megabytes_per_second: f64,
    processor_seconds_per_gigabyte: f64,
    lines: u64,
}

fn main() {
    let interpreter = match python::environment() {
        Ok(path) => path,
        Err(why) => return println!("SKIPPED: no Papa to compare with: {why}"),
    };
    let effort = Effort::asked_for();
    let kernel = Kernel::start();
    let ours = Side {
        place: Place::Unix(kernel.scratch().join("text.sock")),
        pid: kernel.client().welcome().pid,
        guard: kernel.pid_in("guard.pid"),
    };
    let scratch = Scratch::new();
    let (papa, theirs) = start_papa(&interpreter, &scratch);

    let lines = effort.pick(3_000_000, 100_000);
    let mut flows: (Vec<Flow>, Vec<Flow>) = (Vec::new(), Vec::new());
    let throughput = Comparison::measure(
        "watch/lines",
        "MB/s",
        effort.pick(3, 1),
        || keep(&mut flows.0, watch_lines(&theirs, lines)),
        || keep(&mut flows.1, watch_lines(&ours, lines)),
    );
    throughput.print(10.0);
    print_limits("lines", LINE_BYTES, effort, || {
        child_alone(&lines_script(lines)).expect("the child")
    });
    for (name, flows) in [("papa", &flows.0), ("ours", &flows.1)] {
        let lost = flows.iter().map(|flow| lines.saturating_sub(flow.lines));
        let lost = lost.map(|lost| lost as f64).collect();
        let cost = flows.iter().map(|flow| flow.processor_seconds_per_gigabyte);
        println!(
            "watch/lines lost, {name}       {:.0} of {lines}",
            median(lost)
        );
        println!(
            "watch/processor, {name}        {:.2} s per GB",
            median(cost.collect())
        );
    }
    let blocks = effort.pick(8_192, 512);
    Comparison::measure(
        "watch/blocks of 64 KiB",
        "MB/s",
        effort.pick(3, 1),
        || watch_blocks(&theirs, blocks),
        || watch_blocks(&ours, blocks),
    )
    .print(10.0);
    print_limits("blocks of 64 KiB", BLOCK_BYTES, effort, || {
        child_alone(&blocks_script(blocks)).expect("the child")
    });
    let rounds = effort.pick(400, 40);
    for (name, side) in [("papa", &theirs), ("ours", &ours)] {
        let late = latencies(side, &interpreter, &scratch, rounds);
        println!(
            "watch/latency, {name}          {:.3} ms median",
            median(late)
        );
    }
    for (name, side) in [("papa", &theirs), ("ours", &ours)] {
        let [idle, full] = memory(side);
        println!(
            "watch/memory, {name}           {idle:.1} MiB idle, {full:.1} MiB with {CHILDREN} children"
        );
    }
    drop(papa);
}

/// Idle children whose memory is measured.
const CHILDREN: u64 = 100;

/// Proportional memory in MiB of all that a side consists of, before and after it has [`CHILDREN`].
fn memory(side: &Side) -> [f64; 2] {
    let mebibytes = || {
        let pids = [Some(side.pid), side.guard];
        let kib = pids
            .into_iter()
            .flatten()
            .map(|pid| pss_kib(pid).expect("its memory"));
        kib.sum::<u64>() as f64 / 1024.0
    };
    let before = mebibytes();
    let mut session = TextSession::open(&side.place);
    for number in 0..CHILDREN {
        session.ask(&format!("make process idle.{number} /bin/sleep 100000"));
    }
    [before, mebibytes()]
}

fn keep(flows: &mut Vec<Flow>, flow: Flow) -> f64 {
    let rate = flow.megabytes_per_second;
    flows.push(flow);
    rate
}

fn start_papa(interpreter: &Path, scratch: &Scratch) -> (Guarded, Side) {
    let socket = scratch.join("papa.sock");
    let mut command = Command::new(interpreter);
    command
        .arg(python::scripts().join("original_papa.py"))
        .arg("-u")
        .arg(&socket);
    let papa = Guarded::start("papa", command, scratch.join("papa.log"));
    let place = Place::Unix(socket);
    wait::until("Papa listens", || {
        TextSession::try_connect(&place).map(drop)
    });
    let pid = papa.handle().pid();
    let side = Side {
        place,
        pid,
        guard: None,
    };
    (papa, side)
}

/// Watches a child that writes lines of 100 bytes as fast as it can, with the default buffer.
fn watch_lines(side: &Side, lines: u64) -> Flow {
    let mut session = TextSession::open(&side.place);
    let puppet = binaries::puppet().display();
    let script = lines_script(lines).replace(' ', "\\ ");
    let make = format!("make process flow watch=1 {puppet} {script}\n");
    watch_flow(side, &mut session, &make)
}

/// Watches a child that writes large blocks as fast as it can, with room for all of them; the rate
/// at which they are delivered.
fn watch_blocks(side: &Side, blocks: u64) -> f64 {
    let mut session = TextSession::open(&side.place);
    let puppet = binaries::puppet().display();
    let script = blocks_script(blocks).replace(' ', "\\ ");
    let make = format!("make process flow watch=1 bufsize=900m {puppet} {script}\n");
    watch_flow(side, &mut session, &make).megabytes_per_second
}

fn watch_flow(side: &Side, session: &mut TextSession, make: &str) -> Flow {
    let before = processor_seconds(side.pid);
    let begun = Instant::now();
    session.send(make.as_bytes());
    session.read_until("\n");
    let Delivered { bytes, lines } = read_all(session);
    session.expect("Nothing left to watch\n> ");
    let megabytes = bytes as f64 / 1e6;
    Flow {
        megabytes_per_second: megabytes / begun.elapsed().as_secs_f64(),
        processor_seconds_per_gigabyte: (processor_seconds(side.pid) - before) / megabytes * 1e3,
        lines,
    }
}

/// What a reader got.
#[derive(Default)]
struct Delivered {
    bytes: u64,
    lines: u64,
}

impl Delivered {
    fn add(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.lines += data.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

/// Reads and acknowledges until the one process that is watched has ended.
fn read_all(session: &mut TextSession) -> Delivered {
    let mut delivered = Delivered::default();
    loop {
        let batch = session.read_batch();
        session.send(b"\n");
        let mut closed = false;
        for item in batch {
            match item {
                Watched::Output { data, .. } => delivered.add(&data),
                Watched::Closed { .. } => closed = true,
            }
        }
        if closed {
            return delivered;
        }
    }
}

/// Prints what the same child and the same reader reach without a daemon between them.
fn print_limits(what: &str, record_bytes: usize, effort: Effort, child: impl Fn() -> f64) {
    let rounds = effort.pick(3, 1);
    let spread = |rates: &[f64]| {
        let (least, most) = rates
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(least, most), rate| {
                (least.min(*rate), most.max(*rate))
            });
        format!(
            "{:.0} MB/s ({least:.0} to {most:.0})",
            median(rates.to_vec())
        )
    };
    let alone = (0..rounds).map(|_| child()).collect::<Vec<_>>();
    println!(
        "watch/{what}, limit: the child, read and thrown away: {}",
        spread(&alone)
    );
    let batches = effort.pick(8_192, 512);
    let reader = || reader_alone(batches, record_bytes).expect("the reader");
    let reader = (0..rounds).map(|_| reader()).collect::<Vec<_>>();
    println!(
        "watch/{what}, limit: the reader, batches at hand: {}",
        spread(&reader)
    );
}

/// The rate at which a child's pipe is read here.
fn child_alone(script: &str) -> std::io::Result<f64> {
    let begun = Instant::now();
    let mut child = Command::new(binaries::puppet())
        .arg(script)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut delivered = Delivered::default();
    let mut buffer = vec![0; BLOCK_BYTES];
    if let Some(mut pipe) = child.stdout.take() {
        loop {
            match pipe.read(&mut buffer)? {
                0 => break,
                count => delivered.add(&buffer[..count]),
            }
        }
    }
    child.wait()?;
    Ok(delivered.bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

/// The rate at which the reader takes batches of 64 KiB that somebody else has at hand.
fn reader_alone(batches: u64, record_bytes: usize) -> std::io::Result<f64> {
    let (mut sends, reads) = UnixStream::pair()?;
    let mut batch = Vec::new();
    while batch.len() < BLOCK_BYTES {
        writeln!(batch, "out:flow:1700000000.000000:{record_bytes}")?;
        batch.extend(std::iter::repeat_n(b'x', record_bytes - 1));
        batch.extend_from_slice(b"\n\n");
    }
    batch.extend_from_slice(b"] ");
    let begun = Instant::now();
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut acknowledgement = [0; 1];
        for _ in 0..batches {
            sends.write_all(&batch)?;
            sends.read_exact(&mut acknowledgement)?;
        }
        sends.write_all(b"closed:flow:1700000000.000000:0\n] ")?;
        sends.read_exact(&mut acknowledgement)
    });
    let delivered = read_all(&mut TextSession::over(reads));
    let rate = delivered.bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    sender.join().expect("the sender ends")?;
    Ok(rate)
}

/// A block, and what a batch holds at least.
const BLOCK_BYTES: usize = 64 << 10;

/// What a line has with [`TAG`], on average.
const LINE_BYTES: usize = 127;

fn lines_script(lines: u64) -> String {
    format!("lines out {TAG} 0 {lines} 0")
}

fn blocks_script(blocks: u64) -> String {
    format!("same out {} {BLOCK_BYTES}", blocks * BLOCK_BYTES as u64)
}

/// Makes lines of some 100 bytes.
const TAG: &str =
    "a-tag-that-makes-a-line-as-long-as-lines-of-a-log-usually-are-which-is-a-hundred-bytes";

/// User and system time so far.
fn processor_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let (_, fields) = stat.rsplit_once(") ").expect("the format of proc(5)");
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    // USER_HZ is 100 on every Linux that Rust's std runs on.
    ticks / 100.0
}

/// How many milliseconds after a child wrote a line its watcher has it.
fn latencies(side: &Side, interpreter: &Path, scratch: &Scratch, rounds: u64) -> Vec<f64> {
    let program = format!(
        "import os, time\nfor i in range({rounds}):\n    \
         os.write(1, b'%.6f\\n' % time.time())\n    time.sleep(0.01)\n"
    );
    let program: PathBuf = scratch.write("clock.py", program);
    let mut session = TextSession::open(&side.place);
    let make = format!(
        "make process clock watch=1 {} {}\n",
        interpreter.display(),
        program.display()
    );
    session.send(make.as_bytes());
    session.read_until("\n");
    let mut late = Vec::new();
    loop {
        let batch = session.read_batch();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        session.send(b"\n");
        for item in batch {
            match item {
                Watched::Output { data, .. } => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    let written = text.lines().filter_map(|line| line.parse::<f64>().ok());
                    late.extend(written.map(|then| (now.as_secs_f64() - then) * 1e3));
                }
                Watched::Closed { .. } => {
                    session.expect("Nothing left to watch\n> ");
                    return late;
                }
            }
        }
    }
}

//! What it costs to write log files effectively once.
//!
//! First the price of the promise: batches appended to a file with one message to the kernel each
//! (a value of usual size and an acknowledgement), against the same batches without. Then the whole
//! way: a child's output through kernel and manager into a file, against a loop that reads the same
//! pipe in blocks of 64 KiB and writes them to a file.
//!
//! No option of the manager turns the promise off, so what it costs is seen from two sides: against the same
//! manager with a stream that promises nothing (its own standard output, which is a file here), and
//! against a plain client of the kernel that writes the same batches to a file and acknowledges them: no
//! lines, no history for `kingpole logs`, no positions.

use kingpole_protocol::client::blocking::Notice;
use kingpole_protocol::request::{Commit, OutputAcknowledgement, ValueChange};
use kingpole_protocol::{ProcessId, Sequence};
use kingpole_tests::manager::Manager;
use kingpole_tests::measure::{Comparison, Effort, median};
use kingpole_tests::{Kernel, Scratch, puppet, wait};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A sink's value with an intention over two sources.
const VALUE_BYTES: usize = 420;

fn main() {
    let effort = Effort::asked_for();
    commits(effort);
    whole_way(effort);
}

fn message(number: u64) -> Commit {
    Commit {
        values: vec![ValueChange {
            key: "log/1/0123456789abcdef0123456789abcdef".to_owned(),
            value: Some(vec![number as u8; VALUE_BYTES].into()),
        }],
        // Nobody has this number: the kernel passes over it after looking.
        outputs: vec![OutputAcknowledgement {
            process: ProcessId(u64::MAX),
            through: Sequence(number),
        }],
        ends: Vec::new(),
    }
}

fn commits(effort: Effort) {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let rounds = effort.pick(20_000, 500);
    let mut times = Vec::new();
    for number in 0..rounds {
        let begun = Instant::now();
        client.commit(message(number)).expect("committed");
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "commit of {VALUE_BYTES} bytes and an acknowledgement: median {:.1} us, 90 % {:.1}, 99 % {:.1}",
        median(times.clone()),
        at(0.9),
        at(0.99)
    );
    println!("appending batches, each after a commit, against appending alone");
    for (name, batch) in [
        ("log/commit 4 KiB", 4_usize << 10),
        ("log/commit 64 KiB", 64 << 10),
        ("log/commit 256 KiB", 256 << 10),
        ("log/commit 1 MiB", 1 << 20),
    ] {
        let bytes = effort.pick(256 << 20, 8 << 20);
        let path = kernel.scratch().join("batches.log");
        let client = std::cell::RefCell::new(&mut client);
        let run = |commits: bool| {
            let block = vec![b'x'; batch];
            let mut file = fresh(&path);
            let begun = Instant::now();
            for number in 0..bytes / batch as u64 {
                if commits {
                    client
                        .borrow_mut()
                        .commit(message(number))
                        .expect("committed");
                }
                file.write_all(&block).expect("written");
            }
            bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
        };
        let rounds = effort.pick(5, 2);
        let comparison = Comparison::measure(name, "MB/s", rounds, || run(false), || run(true));
        comparison.print(if batch >= 256 << 10 { 0.7 } else { 0.0 });
    }
}

fn fresh(path: &Path) -> File {
    let _ = std::fs::remove_file(path);
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("a file")
}

fn whole_way(effort: Effort) {
    println!("child -> kernel -> manager -> file, against reading the pipe and writing a file");
    for (name, line, full) in [
        ("log/lines of 100 B", 100_usize, 64_u64 << 20),
        ("log/lines of 4 KiB", 4096, 256 << 20),
    ] {
        let bytes = effort.pick(full, full / 16) / line as u64 * line as u64;
        let scratch = Rc::new(Scratch::new());
        let mut text = vec![b'x'; line - 1];
        text.push(b'\n');
        let source = scratch.write("source", text.repeat(bytes as usize / line));
        let comparison = Comparison::measure(
            name,
            "MB/s",
            effort.pick(5, 1),
            || plain(&source, bytes),
            || managed(&source, bytes, Kept::Once),
        );
        comparison.print(0.8);
        let comparison = Comparison::measure(
            format!("{name}, promise"),
            "MB/s",
            effort.pick(5, 1),
            || managed(&source, bytes, Kept::Perhaps),
            || managed(&source, bytes, Kept::Once),
        );
        comparison.print(0.8);
        let comparison = Comparison::measure(
            format!("{name}, client"),
            "MB/s",
            effort.pick(5, 1),
            || unpromised(&source, bytes),
            || managed(&source, bytes, Kept::Once),
        );
        comparison.print(0.0);
    }
}

fn plain(source: &Path, bytes: u64) -> f64 {
    let scratch = Scratch::new();
    let mut file = fresh(&scratch.join("plain.log"));
    let begun = Instant::now();
    let mut child = Command::new("cat")
        .arg(source)
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat");
    let mut pipe = child.stdout.take().expect("its pipe");
    let mut buffer = vec![0; 65_536];
    loop {
        match pipe.read(&mut buffer).expect("read") {
            0 => break,
            count => file.write_all(&buffer[..count]).expect("written"),
        }
    }
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    child.wait().expect("its end");
    rate
}

/// What the manager holds of one process at most, and writes at once.
const CREDIT_BYTES: u64 = 1 << 20;
const BATCH_BYTES: usize = 256 << 10;

/// The same kernel, the same child and batches of the same size, without positions and intentions: what is
/// written when this is killed, is written again.
fn unpromised(source: &Path, bytes: u64) -> f64 {
    let kernel = Kernel::start();
    let mut file = fresh(&kernel.scratch().join("unpromised.log"));
    let mut client = kernel.client();
    let source = source.to_str().expect("text");
    let mut spec = puppet::program("w", &["/bin/cat", source]);
    spec.buffer_bytes = BUFFER_BYTES;
    let process = client.spawn("w", spec).expect("a child").process.process;
    client
        .follow(process, Sequence(0), CREDIT_BYTES)
        .expect("its output");
    let (mut batch, mut owed, mut written) = (Vec::new(), 0, 0);
    let mut begun = None;
    let mut first = 0;
    while written < bytes {
        let notice = client.next_notice(Some(wait::PATIENCE)).expect("a session");
        let Some(Notice::Output { header, data, .. }) = notice else {
            continue;
        };
        batch.extend_from_slice(&data);
        owed += (RECORD_HEADER_BYTES + u64::from(header.length)).next_multiple_of(32);
        let last = written + batch.len() as u64 >= bytes;
        if batch.len() < BATCH_BYTES && !last && begun.is_some() {
            continue;
        }
        file.write_all(&batch).expect("written");
        written += batch.len() as u64;
        batch.clear();
        let outputs = vec![OutputAcknowledgement {
            process,
            through: header.sequence,
        }];
        client
            .commit(Commit {
                outputs,
                ..Commit::default()
            })
            .expect("acknowledged");
        client.grant(process, owed).expect("granted");
        owed = 0;
        if begun.is_none() {
            first = written;
            begun = Some(Instant::now());
        }
    }
    let begun = begun.expect("it has begun");
    (written - first) as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

/// Room for all that a child writes, so that nothing is dropped if whoever reads is slow.
const BUFFER_BYTES: u64 = 512 << 20;

/// Of each record in the kernel's buffer, counted as credit.
const RECORD_HEADER_BYTES: u64 = 32;

/// What a manager's stream promises.
#[derive(Clone, Copy)]
enum Kept {
    /// Every line once, whatever is killed.
    Once,
    /// Nothing.
    Perhaps,
}

/// The child starts with the manager; the time runs from its first bytes in the file to its last.
/// Its buffer in the kernel takes all, so that nothing is dropped if we are slow.
fn managed(source: &Path, bytes: u64, kept: Kept) -> f64 {
    let scratch = Rc::new(Scratch::new());
    let (log, stream) = match kept {
        Kept::Once => {
            let log = scratch.join("managed.log");
            let stream = format!(
                "class = FileStream\nstdout_stream.filename = {}",
                log.display()
            );
            (log, stream)
        }
        // Where the harness lets the manager's standard output go, together with its own few lines.
        Kept::Perhaps => (
            scratch.join("manager.log"),
            "class = StdoutStream".to_owned(),
        ),
    };
    let ini = format!(
        "[circus]\n[watcher:w]\ncmd = cat {}\nrespawn = false\nbuffer_bytes = {BUFFER_BYTES}\n\
         stdout_stream.{stream}\n",
        source.display()
    );
    let configuration = scratch.write("bench.ini", ini);
    let _kernel = Kernel::start_in(Rc::clone(&scratch), &[] as &[&str]);
    let manager = Manager::launch(&scratch, &configuration);
    let length = || std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let deadline = Instant::now() + Duration::from_secs(300);
    let wait = |least: u64| {
        loop {
            let now = length();
            if now >= least {
                return now;
            }
            assert!(
                Instant::now() < deadline,
                "{now} of {least} bytes; {}",
                manager.log()
            );
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    let first = wait(BATCH_BYTES as u64);
    let begun = Instant::now();
    let last = wait(bytes);
    (last - first) as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

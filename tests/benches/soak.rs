//! Whether cost grows with uptime: children crash, logs are rotated, managers are killed and replaced, the kernel is upgraded in
//! place and killed, and memory, descriptors and processor time stay what they were.
//!
//! `cargo bench --bench soak -- 60` runs an hour and prints a line for each quarter of a minute; it fails if what was measured in
//! the last quarter of the run is more than in the first. `KINGPOLE_SOAK=60` says the same. Without a number nothing is run.

use kingpole_tests::measure::{dirty_kib, median};
use kingpole_tests::process::{self, Handle};
use kingpole_tests::{Kernel, Manager, Scratch, binaries, manager, wait};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Watchers whose process dies after a second, and watchers whose process writes 100 lines a second.
const CRASHING: u32 = 10;
/// See [`CRASHING`].
const WRITING: u32 = 10;
/// Nothing is done to anybody for so long; then figures are taken.
const CALM: Duration = Duration::from_secs(12);

/// What is looked at, in the order of the columns.
const COLUMNS: [&str; 9] = [
    "kernel KiB",
    "guard KiB",
    "manager KiB",
    "kernel fds",
    "guard fds",
    "manager fds",
    "kernel cpu %",
    "guard cpu %",
    "manager cpu %",
];

fn main() {
    let asked: Option<u64> = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let asked = asked.or_else(|| std::env::var("KINGPOLE_SOAK").ok()?.parse().ok());
    let Some(minutes) = asked else {
        return println!("SKIPPED: say how many minutes: cargo bench --bench soak -- 60");
    };
    let length = Duration::from_secs(60 * minutes);
    let begun = Instant::now();
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let file = configuration(&scratch);
    let mut manager = Manager::start(&scratch, &file);
    let mut samples: Vec<[f64; 9]> = Vec::new();
    println!("minutes {} restarts", COLUMNS.join(" "));
    for round in 1_u32.. {
        samples.push(sample(&kernel, &manager));
        let sample = samples[samples.len() - 1];
        let shown: Vec<String> = COLUMNS
            .iter()
            .zip(sample)
            .map(|(name, figure)| format!("{figure:>width$.1}", width = name.len()))
            .collect();
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        println!(
            "{minutes:>7.1} {} {:>8}",
            shown.join(" "),
            restarts(&manager)
        );
        if begun.elapsed() >= length {
            break;
        }
        disturb(round, &kernel, &scratch, &mut manager);
    }
    judge(&samples);
}

fn configuration(scratch: &Scratch) -> PathBuf {
    let mut text = "[circus]\ncheck_delay = 5\n".to_owned();
    for number in 0..CRASHING {
        text.push_str(&format!(
            "[watcher:crash{number}]\ncmd = /bin/sh -c \"echo begins; sleep 1; kill -9 $$\"\nshell = False\n\
             stdout_stream.class = FileStream\nstdout_stream.filename = {}\n\
             stdout_stream.max_bytes = 20000\nstdout_stream.backup_count = 2\n",
            scratch.join(format!("crash{number}.log")).display()
        ));
    }
    for number in 0..WRITING {
        text.push_str(&format!(
            "[watcher:write{number}]\ncmd = {} ticks /nobody 1000000000\n\
             stdout_stream.class = FileStream\nstdout_stream.filename = {}\n\
             stdout_stream.max_bytes = 100000\nstdout_stream.backup_count = 2\n",
            binaries::contestant().display(),
            scratch.join(format!("write{number}.log")).display()
        ));
    }
    scratch.write("soak.ini", text)
}

/// One thing in each round; the rarer ones are the harder ones.
fn disturb(round: u32, kernel: &Kernel, scratch: &Rc<Scratch>, manager: &mut Manager) {
    if round.is_multiple_of(8) {
        let before = kernel.serving();
        before.signal(libc::SIGKILL).expect("it runs");
        before.wait_ended("the killed kernel");
        wait::until("another kernel serves", || {
            let mut client = kernel.try_client("kingpole-tests/soak")?;
            client.status().map(drop)
        });
    } else if round.is_multiple_of(4) {
        manager.replace();
        manager.wait_ready();
    } else if round.is_multiple_of(2) {
        let mut upgrade = manager::kingpole_command(scratch, &["upgrade", "--kernel"]);
        let output = upgrade
            .arg(binaries::kernel())
            .output()
            .expect("the command runs");
        assert!(output.status.success(), "{}", manager::describe(&output));
    } else {
        let output = manager::kingpole(scratch, &["restart", "write0"]);
        assert!(output.status.success(), "{}", manager::describe(&output));
    }
}

fn restarts(manager: &Manager) -> u64 {
    let status = wait::until("the manager says how it is", || manager.status());
    let watchers = status["watchers"].as_array().cloned().unwrap_or_default();
    let counts = watchers.iter().filter_map(|it| it["restarts"].as_u64());
    counts.sum()
}

fn sample(kernel: &Kernel, manager: &Manager) -> [f64; 9] {
    let pids = [
        kernel.serving().pid(),
        kernel.process().handle().pid(),
        manager.process().handle().pid(),
    ];
    let used = || pids.map(process::processor_seconds);
    let (before, begun) = (used(), Instant::now());
    // Nobody may end meanwhile.
    for pid in pids {
        let handle = Handle::open(pid).expect("it runs");
        let left = CALM.saturating_sub(begun.elapsed());
        assert!(!handle.ended_within(left), "process {pid} has ended");
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let after = used();
    let mut figures = [0.0; 9];
    for (index, pid) in pids.into_iter().enumerate() {
        figures[index] = dirty_kib(pid).expect("its memory") as f64;
        figures[3 + index] = process::descriptors(pid).expect("its descriptors").len() as f64;
        figures[6 + index] = (after[index] - before[index]) / elapsed * 100.0;
    }
    figures
}

/// The last quarter against the second: in the first, what is made once is still being made.
fn judge(samples: &[[f64; 9]]) {
    let quarter = samples.len() / 4;
    if quarter < 4 {
        return println!("too short to judge: {} samples", samples.len());
    }
    let mut failed = Vec::new();
    for (index, name) in COLUMNS.iter().enumerate() {
        let of = |part: &[[f64; 9]]| median(part.iter().map(|sample| sample[index]).collect());
        let early = of(&samples[quarter..2 * quarter]);
        let late = of(&samples[samples.len() - quarter..]);
        // Processes and rotations come and go, and processor time depends on who else runs.
        let (share, slack) = match index {
            0..3 => (1.1, 300.0),
            3..6 => (1.0, 12.0),
            _ => (1.5, 1.0),
        };
        let grows = late > early * share + slack;
        let verdict = if grows { "GROWS" } else { "flat" };
        println!("{name:<14} second quarter {early:.1}, last {late:.1}: {verdict}");
        failed.extend(grows.then_some(*name));
    }
    assert!(failed.is_empty(), "these grow with uptime: {failed:?}");
}

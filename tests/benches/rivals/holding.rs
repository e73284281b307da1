//! What it costs to hold idle children: private memory of the supervisor's own processes, and of us alone also ten thousand,
//! idle processor time, and the start of a manager that finds them running.

use super::kingpole;
use super::rival::{Job, Rival, Running};
use super::table::{Better, Row};
use super::watching::{private_kib, processor_seconds, wake_ups};
use kingpole_tests::measure::Effort;
use kingpole_tests::{Scratch, manager};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

fn idle(count: u32) -> Vec<Job> {
    let job = Job {
        name: "idle".to_owned(),
        command: vec!["/bin/sleep".to_owned(), "100000".to_owned()],
        processes: count,
        logged: false,
    };
    // A watcher with nothing to run is refused by some.
    Vec::from_iter((count > 0).then_some(job))
}

/// Waits until so many jobs run; how long it took.
fn wait_for(running: &Running, count: u32, patience: Duration) -> Option<f64> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let looking = Instant::now();
        if running.family().jobs.len() as u32 >= count {
            return Some(begun.elapsed().as_secs_f64());
        }
        // Looking at thousands of processes shall not be what keeps the machine busy.
        std::thread::sleep(Duration::from_millis(20).max(4 * looking.elapsed()));
    }
    None
}

/// Private memory: MiB with none, KiB for each child.
pub(super) fn memory(rivals: &[Box<dyn Rival>], effort: Effort) -> [Row; 2] {
    let count = u32::try_from(effort.pick(1000, 40)).expect("few");
    let mut rows = [
        Row::new("private memory without children, MiB", Better::Less, None),
        Row::new(
            format!("private memory for each of {count} children, KiB"),
            Better::Less,
            None,
        ),
    ];
    for rival in rivals {
        eprintln!("memory: {}", rival.name());
        let few = 1;
        let count = count.min(rival.processes_max());
        let mut sizes = Vec::new();
        for count in [few, count] {
            let running = rival.start(&idle(count), Rc::new(Scratch::new()));
            if wait_for(&running, count, Duration::from_secs(120)).is_none() {
                rows[1].note(rival.name(), format!("{count} did not run within 120 s"));
                break;
            }
            // Whatever it does after a start is done.
            std::thread::sleep(Duration::from_secs(effort.pick(5, 1)));
            sizes.push(private_kib(&running.family().own) as f64);
        }
        if let [empty, full] = sizes[..] {
            rows[0].add(rival.name(), empty / 1024.0);
            let each = (full - empty) / f64::from(count - few);
            rows[1].add(rival.name(), each);
        }
        if count < u32::try_from(effort.pick(1000, 40)).expect("few") {
            rows[1].note(rival.name(), format!("{count} children"));
        }
    }
    rows
}

/// Round trips of `status` on an open connection, per second, with 100 processes.
pub(super) fn status(rivals: &[Box<dyn Rival>], effort: Effort) -> Row {
    let name = "status of 100 processes on an open connection, requests per second";
    let mut row = Row::new(name, Better::More, None);
    for _ in 0..effort.pick(5, 1) {
        for rival in rivals {
            eprintln!("status: {}", rival.name());
            let running = rival.start(&idle(100), Rc::new(Scratch::new()));
            let Some(connect) = &running.connect else {
                row.note(rival.name(), "no such connection");
                continue;
            };
            wait_for(&running, 100, Duration::from_secs(60)).expect("all run");
            let mut ask = connect();
            let (begun, mut count) = (Instant::now(), 0_u32);
            while begun.elapsed() < Duration::from_millis(effort.pick(2000, 300)) {
                ask();
                count += 1;
            }
            row.add(
                rival.name(),
                f64::from(count) / begun.elapsed().as_secs_f64(),
            );
        }
    }
    row
}

/// What becomes of the output of many, and how many descriptors of the kernel each takes.
#[derive(Clone, Copy)]
struct Kept {
    what: &'static str,
    options: &'static str,
    descriptors: u64,
}

const KEPT: [Kept; 2] = [
    Kept {
        what: "captured",
        options: "",
        descriptors: 4,
    },
    Kept {
        what: "none",
        options: "close_child_stdout = True\nclose_child_stderr = True\n",
        descriptors: 1,
    },
];

/// Ourselves with many: printed as it comes, as nobody else is measured.
pub(super) fn many(effort: Effort) {
    println!(
        "\n| output | processes | start, s | kernel with guard, private KiB each | manager, private KiB each | idle for 30 s: processor s, wake-ups | manager that finds them, s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for kept in KEPT {
        let counts = match effort {
            Effort::Full => [100, 1000, descriptors_allow(10_000, kept.descriptors)],
            Effort::Quick => [50, 100, 300],
        };
        let mut empty = None;
        for count in std::iter::once(1).chain(counts) {
            eprintln!("many: {count}, output {}", kept.what);
            let figures = hold(count, kept, effort);
            let (kernel, manager) = *empty.get_or_insert((figures.kernel_kib, figures.manager_kib));
            let each = |kib: f64, base: f64| (kib - base) / f64::from((count - 1).max(1));
            println!(
                "| {} | {count} | {:.2} | {:.2} (all {:.0}) | {:.2} (all {:.0}) | {:.3}, {} | {:.3} |",
                kept.what,
                figures.start,
                each(figures.kernel_kib, kernel),
                figures.kernel_kib,
                each(figures.manager_kib, manager),
                figures.manager_kib,
                figures.idle,
                figures.wake_ups,
                figures.adopt,
            );
        }
    }
}

/// At most `wanted` processes, or as many as descriptors allow. Only who may raise the hard limit, or whose
/// service manager has done so (`LimitNOFILE=`), can hold more.
fn descriptors_allow(wanted: u32, each: u64) -> u32 {
    const OTHERS: u64 = 600;
    let needed = u64::from(wanted) * each + OTHERS;
    let limit = Resource::RLIMIT_NOFILE;
    let (_, hard) = getrlimit(limit).expect("a limit");
    if hard >= needed || setrlimit(limit, needed, needed).is_ok() {
        return wanted;
    }
    let count = u32::try_from((hard - OTHERS) / each).expect("fewer than wanted");
    println!(
        "\nThe hard limit of {hard} descriptors cannot be raised here: {count} processes instead of {wanted}."
    );
    count
}

/// Seconds that a manager took until everything was up, once it says so. Looking at thousands of processes from outside would
/// keep the machine busy.
fn told(log: &Path, said: &str, patience: Duration) -> f64 {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let rest = text.split_once(said).map(|(_, rest)| rest);
        let ms = rest.and_then(|rest| {
            rest.split_once(" ms")?
                .0
                .rsplit(' ')
                .next()?
                .parse::<f64>()
                .ok()
        });
        if let Some(ms) = ms {
            return ms / 1000.0;
        }
        assert!(
            begun.elapsed() < patience,
            "{said:?} is not in the log:\n{text}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Held {
    start: f64,
    kernel_kib: f64,
    manager_kib: f64,
    idle: f64,
    wake_ups: u64,
    adopt: f64,
}

fn hold(count: u32, kept: Kept, effort: Effort) -> Held {
    let patience = Duration::from_secs(300);
    let scratch = Rc::new(Scratch::new());
    let running = kingpole::start_with(&idle(count), Rc::clone(&scratch), kept.options);
    let [_, old] = running.programs[..] else {
        unreachable!("two programs");
    };
    let said = format!("0 children adopted, {count} started, ");
    let start = told(&scratch.join("manager.log"), &said, patience);
    // The kernel may give memory back when it is quiet.
    std::thread::sleep(Duration::from_secs(effort.pick(8, 1)));
    let own = running.family().own;
    let kernel: Vec<i32> = own.iter().copied().filter(|pid| *pid != old).collect();
    let (kernel_kib, manager_kib) = (private_kib(&kernel) as f64, private_kib(&[old]) as f64);
    let (used, woken) = (processor_seconds(&own), wake_ups(&own));
    std::thread::sleep(Duration::from_secs(effort.pick(30, 2)));
    let (idle, wake_ups) = (
        processor_seconds(&own) - used,
        wake_ups(&own).saturating_sub(woken),
    );
    // The next manager, with the old one gone without a word.
    let victim = kingpole_tests::process::Handle::open(old).expect("it runs");
    victim.signal(libc::SIGKILL).expect("ours");
    victim.wait_ended("the old manager");
    let next = manager::Manager::launch(&scratch, &scratch.join("jobs.ini"));
    let said = match count {
        1 => "1 child adopted, 0 started, ".to_owned(),
        count => format!("{count} children adopted, 0 started, "),
    };
    let adopt = told(&scratch.join("manager.log"), &said, patience);
    drop(next);
    Held {
        start,
        kernel_kib,
        manager_kib,
        idle,
        wake_ups,
        adopt,
    }
}

//! Promise: log files are effectively once (P6) and losses are told exactly (P2) also where the manager reads
//! output in place, from the kernel's rings.

use kingpole_tests::manager::Manager;
use kingpole_tests::process::Handle;
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Kernel, Scratch, binaries, wait};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Numbered lines, `bytes` of them or a little more.
fn numbered(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 128);
    let mut number = 0_u64;
    while text.len() < bytes {
        let _ = writeln!(text, "{number:>12} {:a<1$}", "", (number % 97) as usize);
        number += 1;
    }
    text
}

/// Rings that a process has open.
fn open_rings(pid: i32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = entries.into_iter().flatten().flatten();
    let is_ring = |path: PathBuf| path.to_string_lossy().contains("memfd:kingpole-ring");
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| is_ring(target.clone())).count()
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[track_caller]
fn wait_length(log: &Path, least: u64, manager: &Manager) {
    wait::until("the log file grows", || match length(log) {
        now if now >= least => Ok(()),
        now => Err(format!("{now} of {least} bytes; {}", manager.log())),
    });
}

/// Kernel and guard that are both there, and neither of which is this one.
#[track_caller]
fn wait_whole(kernel: &Kernel, killed: i32) -> (i32, i32) {
    wait::until("kernel and guard serve", || {
        let mut client = kernel.try_client("waiting").map_err(|e| e.to_string())?;
        let status = client.status().map_err(|e| e.to_string())?;
        let (pid, guard) = (status.pid, status.guard_pid);
        match pid != killed && guard != killed && guard != 0 {
            true => Ok((pid, guard)),
            false => Err(format!("{pid}, {guard}")),
        }
    })
}

fn kill(pid: i32) {
    let process = Handle::open(pid).expect("it is there");
    process.signal(libc::SIGKILL).expect("killed");
}

#[test]
fn a_flood_is_in_its_file_once_whatever_is_killed_and_no_ring_is_kept_open() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("flood.log");
    let text = numbered(24 << 20);
    let source = scratch.write("source", &text);
    let configuration = write_flood(&scratch, &source, &log);
    let mut manager = Manager::launch(&scratch, &configuration);
    let mut saw_ring = false;
    let total = text.len() as u64;
    for round in 1..=8_u64 {
        let least = total * round / 9;
        wait::until("the log file grows", || {
            saw_ring |= open_rings(manager.process().handle().pid()) > 0;
            match length(&log) {
                now if now >= least => Ok(()),
                now => Err(format!("{now} of {least} bytes; {}", manager.log())),
            }
        });
        let (pid, guard) = wait_whole(&kernel, 0);
        match round % 4 {
            0 => manager.replace(),
            1 => {
                kill(pid);
                wait_whole(&kernel, pid);
            }
            2 => manager.replace(),
            _ => {
                kill(guard);
                wait_whole(&kernel, guard);
            }
        }
    }
    wait_length(&log, total, &manager);
    assert!(saw_ring, "nothing was read in place");
    wait::until("the process is forgotten, and its ring with it", || {
        let left = kernel.client().processes().map_err(|e| e.to_string())?;
        let open = open_rings(manager.process().handle().pid());
        match left.is_empty() && open == 0 {
            true => Ok(()),
            false => Err(format!("{open} rings, {left:?}")),
        }
    });
    let found = std::fs::read_to_string(&log).unwrap();
    assert!(found == text, "{}", first_difference(&found, &text));
}

fn first_difference(found: &str, wanted: &str) -> String {
    let mut pairs = (1..).zip(found.lines().zip(wanted.lines()));
    let differs = pairs.find(|(_, (found, wanted))| found != wanted);
    format!(
        "{} bytes instead of {}; {differs:?}",
        found.len(),
        wanted.len()
    )
}

/// How many bytes a line says are lost.
fn lost_in(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("kingpole: ")?;
    let (count, _) = rest.split_once(" bytes of stdout of ")?;
    count.parse().ok()
}

/// What is in the file, what its notices say is lost, and nothing else, is what was written. How much is lost.
#[track_caller]
fn check_with_gaps(found: &str, written: &str) -> usize {
    let (mut at, mut lost) = (0, 0);
    let mut piece = String::new();
    for line in found
        .split_inclusive('\n')
        .chain(["kingpole: 0 bytes of stdout of "])
    {
        let Some(gap) = lost_in(line) else {
            piece += line;
            continue;
        };
        if !written[at..].starts_with(&piece) {
            // A line that was cut by what is lost got an end of ours.
            piece.pop();
        }
        assert!(
            written[at..].starts_with(&piece),
            "from byte {at} on: {}",
            first_difference(&piece, &written[at..])
        );
        at += piece.len() + gap;
        lost += gap;
        piece.clear();
    }
    assert_eq!(at, written.len(), "bytes in the file and told to be lost");
    lost
}

#[test]
fn a_manager_that_was_overtaken_while_it_slept_tells_an_exact_gap() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("slow.log");
    let text = numbered(10 << 20);
    let (first, second) = text.split_at(text[..2 << 20].rfind('\n').unwrap() + 1);
    let (gate, first_part) = (scratch.join("gate"), scratch.write("first", first));
    let second_part = scratch.write("second", second);
    let script = scratch.write(
        "writer.sh",
        format!(
            "cat {}\nwhile [ ! -e {} ]; do sleep 0.01; done\ncat {}\n",
            first_part.display(),
            gate.display(),
            second_part.display()
        ),
    );
    let configuration = scratch.write(
        "slow.ini",
        format!(
            "[circus]\n[watcher:slow]\ncmd = /bin/sh {}\nrespawn = false\nbuffer_bytes = 4194304\n\
             stdout_stream.class = FileStream\nstdout_stream.filename = {}\n",
            script.display(),
            log.display()
        ),
    );
    let manager = Manager::launch(&scratch, &configuration);
    wait_length(&log, first.len() as u64, &manager);
    let process = manager.process().handle();
    wait::until("it reads in place", || match open_rings(process.pid()) {
        0 => Err("no ring is open".to_owned()),
        _ => Ok(()),
    });
    process.signal(libc::SIGSTOP).unwrap();
    std::fs::write(&gate, "").unwrap();
    wait::until("the kernel has read it all", || {
        let all = kernel.client().processes().map_err(|e| e.to_string())?;
        match all.first().map(|one| one.output.stdout_bytes) {
            Some(bytes) if bytes == text.len() as u64 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    process.signal(libc::SIGCONT).unwrap();
    let last = text.lines().last().unwrap();
    wait::until("its last line is in the file", || {
        let found = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
        match found.ends_with(&format!("{last}\n")) {
            true => Ok(()),
            false => Err(manager.log()),
        }
    });
    let lost = check_with_gaps(&std::fs::read_to_string(&log).unwrap(), &text);
    // The buffer takes half of what was written meanwhile; the rest had been announced at most.
    assert!(lost >= 3 << 20, "{lost} bytes lost");
}

#[test]
fn upgrades_of_the_kernel_lose_nothing_of_a_flood() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("upgrade.log");
    let text = numbered(24 << 20);
    let source = scratch.write("source", &text);
    let configuration = write_flood(&scratch, &source, &log);
    let manager = Manager::launch(&scratch, &configuration);
    let total = text.len() as u64;
    for round in 1..=3_u64 {
        wait_length(&log, total * round / 8, &manager);
        let program = binaries::kernel();
        let answer = upgrade(&kernel, program);
        assert!(answer.contains(" carried in "), "{answer}");
    }
    wait_length(&log, total, &manager);
    let found = std::fs::read_to_string(&log).unwrap();
    assert!(found == text, "{}", first_difference(&found, &text));
}

fn write_flood(scratch: &Scratch, source: &Path, log: &Path) -> PathBuf {
    scratch.write(
        "flood.ini",
        format!(
            "[circus]\n[watcher:flood]\ncmd = cat {}\nrespawn = false\nbuffer_full = wait\n\
             stdout_stream.class = FileStream\nstdout_stream.filename = {}\n",
            source.display(),
            log.display()
        ),
    )
}

fn upgrade(kernel: &Kernel, program: &Path) -> String {
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    text.ask(&format!("upgrade {}", program.display()))
}

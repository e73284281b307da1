//! Looking at processes from outside: who belongs to whom, what they use, what they have written.

use kingpole_tests::process::Handle;
use std::collections::BTreeMap;
use std::path::Path;

/// A supervisor's own processes, and those of its jobs.
#[derive(Clone, Debug, Default)]
pub(super) struct Family {
    /// Its own.
    pub(super) own: Vec<i32>,
    /// Those that it was asked to run.
    pub(super) jobs: Vec<i32>,
}

/// What jobs are known by: no supervisor has it in its command line.
const MARKS: [&str; 2] = ["/contestant\0", "/bin/sleep\x00100000\0"];

/// All that descends from `roots`, and they themselves.
pub(super) fn family(roots: &[i32]) -> Family {
    let mut below: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(parent) = kingpole_tests::process::parent(pid) {
            below.entry(parent).or_default().push(pid);
        }
    }
    let mut family = Family::default();
    let mut left = roots.to_vec();
    while let Some(pid) = left.pop() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        // A supervisor that has just forked shows its own line until the exec; one that names a job does so in the middle.
        let is_job = MARKS.iter().any(|mark| {
            let first = mark.split('\0').next().unwrap_or(mark);
            line.contains(mark)
                && line
                    .split('\0')
                    .next()
                    .is_some_and(|it| it.ends_with(first))
        });
        match is_job {
            true => family.jobs.push(pid),
            false => family.own.push(pid),
        }
        left.extend(below.get(&pid).into_iter().flatten());
    }
    family
}

/// Ends all of a family, the supervisor first, each stopped before, so that nothing is started meanwhile.
pub(super) fn end(family: &Family) {
    let all = family.own.iter().chain(&family.jobs);
    let handles: Vec<Handle> = all.filter_map(|pid| Handle::open(*pid).ok()).collect();
    for signal in [libc::SIGSTOP, libc::SIGKILL] {
        for handle in &handles {
            let _ = handle.signal(signal);
        }
    }
}

/// Seconds on a processor so far.
pub(super) fn processor_seconds(pids: &[i32]) -> f64 {
    let each = pids.iter().copied();
    each.map(kingpole_tests::process::processor_seconds).sum()
}

/// KiB that would be free if these processes were gone.
pub(super) fn private_kib(pids: &[i32]) -> u64 {
    let sizes = pids
        .iter()
        .map(|pid| kingpole_tests::measure::private_kib(*pid));
    sizes.flatten().sum()
}

/// How often these processes have waited and were woken.
pub(super) fn wake_ups(pids: &[i32]) -> u64 {
    let woken = pids
        .iter()
        .map(|pid| kingpole_tests::measure::wake_ups(*pid));
    woken.flatten().sum()
}

/// Bytes in all log files below a directory.
pub(super) fn logged_bytes(directory: &Path) -> u64 {
    let lengths = log_files(directory).map(|entry| entry.metadata().map_or(0, |it| it.len()));
    lengths.sum()
}

/// Line ends in all log files below a directory.
pub(super) fn logged_lines(directory: &Path) -> u64 {
    let count = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        bytes.iter().filter(|byte| **byte == b'\n').count() as u64
    };
    log_files(directory).map(count).sum()
}

/// Without what log programs keep beside them.
fn log_files(directory: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| {
        let name = entry.file_name();
        !["lock", "config", "state", "status"]
            .iter()
            .any(|other| name == *other)
    })
}

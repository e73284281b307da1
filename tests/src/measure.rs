//! Figures about processes and their statistics, for benchmarks and for claims that are intervals.

use crate::process::status_fields;
use std::fmt;
use std::io;
use std::path::Path;

/// Proportional set size of a process in KiB (`/proc/PID/smaps_rollup`): its own pages, and its
/// share of those that it shares.
///
/// # Errors
/// When it is gone, or somebody else's.
pub fn pss_kib(pid: i32) -> io::Result<u64> {
    let fields = status_fields(Path::new(&format!("/proc/{pid}/smaps_rollup")))?;
    number(&fields, "Pss")
}

/// KiB that would be free if a process were gone: its private pages, clean and dirty.
///
/// # Errors
/// When it is gone, or somebody else's.
pub fn private_kib(pid: i32) -> io::Result<u64> {
    let fields = status_fields(Path::new(&format!("/proc/{pid}/smaps_rollup")))?;
    Ok(number(&fields, "Private_Clean")? + number(&fields, "Private_Dirty")?)
}

/// KiB that a process has written: unlike [`private_kib`] it does not depend on who else runs the same program.
///
/// # Errors
/// When it is gone, or somebody else's.
pub fn dirty_kib(pid: i32) -> io::Result<u64> {
    let fields = status_fields(Path::new(&format!("/proc/{pid}/smaps_rollup")))?;
    number(&fields, "Private_Dirty")
}

/// How often the threads of a process have been put on a processor again after waiting: any
/// wake-up of any of them counts.
///
/// # Errors
/// When it is gone.
pub fn wake_ups(pid: i32) -> io::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let fields = status_fields(&task?.path().join("status"))?;
        sum += number(&fields, "voluntary_ctxt_switches")?;
    }
    Ok(sum)
}

/// Whether every thread of a process waits for something to happen and for no time to pass: then it never wakes up by itself.
/// What one does instead is the error.
///
/// # Errors
/// It is gone, or somebody else's.
pub fn waits_without_a_timer(pid: i32) -> io::Result<Result<(), String>> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let call = std::fs::read_to_string(path.join("syscall"))?;
        if !is_endless(&call) {
            let name = std::fs::read_to_string(path.join("comm"))?;
            let (name, call) = (name.trim(), call.trim());
            return Ok(Err(format!("thread {name} of {pid} is in {call}")));
        }
    }
    Ok(Ok(()))
}

/// Whether this line of `/proc/PID/syscall` (proc_pid_syscall(5): number, six arguments, stack, code) is a wait without an end.
fn is_endless(call: &str) -> bool {
    let mut words = call.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse().ok());
    let arguments: Vec<u64> = words
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect();
    let argument = |index: usize| arguments.get(index).copied();
    // An int is passed in half a register, whose other half may hold anything.
    let never = |index| argument(index).map(|word| word & 0xFFFF_FFFF) == Some(0xFFFF_FFFF);
    let nothing = |index| argument(index) == Some(0);
    match number {
        #[cfg(target_arch = "x86_64")]
        Some(libc::SYS_poll) => never(2),
        #[cfg(target_arch = "x86_64")]
        Some(libc::SYS_epoll_wait) => never(3),
        Some(libc::SYS_epoll_pwait) => never(3),
        Some(libc::SYS_ppoll) => nothing(2),
        Some(libc::SYS_epoll_pwait2 | libc::SYS_futex) => nothing(3),
        Some(libc::SYS_read | libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_accept4) => true,
        _ => false,
    }
}

/// How many threads a process has.
///
/// # Errors
/// When it is gone.
pub fn threads(pid: i32) -> io::Result<u64> {
    number(
        &status_fields(Path::new(&format!("/proc/{pid}/status")))?,
        "Threads",
    )
}

fn number(fields: &std::collections::BTreeMap<String, String>, name: &str) -> io::Result<u64> {
    fields
        .get(name)
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {name}")))
}

/// The middle one of some measurements.
///
/// # Panics
/// Without measurements.
#[must_use]
pub fn median(mut measurements: Vec<f64>) -> f64 {
    measurements.sort_by(f64::total_cmp);
    measurements[measurements.len() / 2]
}

/// Whether benchmarks run long enough for figures, or only long enough to see that they work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For figures.
    Full,
    /// For CI.
    Quick,
}

impl Effort {
    /// What `KINGPOLE_BENCH` asks for.
    #[must_use]
    pub fn asked_for() -> Self {
        let quick = std::env::var("KINGPOLE_BENCH").is_ok_and(|value| value == "quick");
        if quick { Self::Quick } else { Self::Full }
    }

    /// One of two amounts.
    #[must_use]
    pub const fn pick(self, full: u64, quick: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// What is measured beside what it is measured against, in turns so that both see the same machine.
pub struct Comparison {
    name: String,
    unit: &'static str,
    ours: Vec<f64>,
    limit: Vec<f64>,
}

impl Comparison {
    /// Measures both `rounds` times; more is better.
    pub fn measure(
        name: impl Into<String>,
        unit: &'static str,
        rounds: u64,
        mut limit: impl FnMut() -> f64,
        mut ours: impl FnMut() -> f64,
    ) -> Self {
        let mut comparison = Self {
            name: name.into(),
            unit,
            ours: Vec::new(),
            limit: Vec::new(),
        };
        for _ in 0..rounds {
            comparison.limit.push(limit());
            comparison.ours.push(ours());
        }
        comparison
    }

    /// Median of ours over median of the limit.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        median(self.ours.clone()) / median(self.limit.clone())
    }

    /// Prints the line, with whether the ratio is at least `wanted`.
    pub fn print(&self, wanted: f64) {
        let verdict = if self.ratio() >= wanted {
            "good"
        } else {
            "BELOW"
        };
        println!("{self}  wanted {wanted:.2}  {verdict}");
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread = |values: &[f64]| {
            let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = values.iter().copied().fold(0.0, f64::max);
            format!(
                "{:.0} ({lowest:.0} to {highest:.0})",
                median(values.to_vec())
            )
        };
        write!(
            f,
            "{:<28} {:>24}  limit {:>24} {}  ratio {:.2}",
            self.name,
            spread(&self.ours),
            spread(&self.limit),
            self.unit,
            self.ratio()
        )
    }
}

/// Prints one figure with its bound; less is better.
pub fn print_bounded(name: &str, value: f64, bound: f64, unit: &str) {
    let verdict = if value < bound { "good" } else { "ABOVE" };
    println!("{name:<28} {value:.2} {unit}  wanted below {bound} {unit}  {verdict}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_with_a_timer_is_told_from_one_without() {
        let never = format!(
            "{} 0x3 0x7f 0x400 0xffffffff 0x0 0x0 0x7f 0x7f",
            libc::SYS_epoll_pwait
        );
        let soon = format!(
            "{} 0x3 0x7f 0x400 0x7530 0x0 0x0 0x7f 0x7f",
            libc::SYS_epoll_pwait
        );
        assert!(is_endless(&never) && !is_endless(&soon));
        let parked = format!(
            "{} 0x7f 0x89 0x0 0x0 0x0 0xffffffff 0x7f 0x7f",
            libc::SYS_futex
        );
        let resting = format!(
            "{} 0x7f 0x89 0x0 0x7f12 0x0 0xffffffff 0x7f 0x7f",
            libc::SYS_futex
        );
        assert!(is_endless(&parked) && !is_endless(&resting));
        assert!(!is_endless("running") && !is_endless(""));
    }
}

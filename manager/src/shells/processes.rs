//! What Linux knows of processes: CPU time, memory, names, children (proc(5)). Reads files, which
//! can block on a busy machine: not for the manager's loop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, Uid, User, sysconf};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::command::ProcessInfo;

/// Samples that are remembered for the next question. Beyond that, percentages begin at 0 again.
const SAMPLES_MAX: usize = 100_000;

/// A sample that nobody asked for again within this time is dropped.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(600);

/// Looks at processes, and remembers their CPU time for the percentage at the next look.
#[derive(Debug, Default)]
pub struct Sampler {
    samples: BTreeMap<u32, Sample>,
    users: BTreeMap<u32, String>,
    machine: Option<Machine>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// With the pid it says which process it was.
    start_ticks: u64,
    cpu_seconds: f64,
    at: Instant,
}

/// What does not change while the machine runs.
#[derive(Clone, Copy, Debug)]
struct Machine {
    ticks_per_second: f64,
    page_bytes: u64,
    memory_bytes: u64,
    /// Seconds since 1970 at boot.
    booted: f64,
}

impl Machine {
    fn read() -> Option<Self> {
        let positive = |name| {
            let value = sysconf(name).ok().flatten()?;
            u64::try_from(value).ok().filter(|value| *value > 0)
        };
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
        let total = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let total: u64 = total.trim().trim_end_matches(" kB").parse().ok()?;
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(Self {
            ticks_per_second: positive(SysconfVar::CLK_TCK)? as f64,
            page_bytes: positive(SysconfVar::PAGE_SIZE)?,
            memory_bytes: total * 1024,
            booted: booted.trim().parse().ok()?,
        })
    }
}

impl Sampler {
    /// A process with its direct children; nothing when it has gone.
    pub fn info_with_children(&mut self, pid: u32) -> Option<ProcessInfo> {
        let mut info = self.info(pid)?;
        let children = children(pid);
        info.children = children
            .into_iter()
            .filter_map(|it| self.info(it))
            .collect();
        Some(info)
    }

    /// A process; nothing when it has gone.
    pub fn info(&mut self, pid: u32) -> Option<ProcessInfo> {
        let machine = match self.machine {
            Some(machine) => machine,
            None => *self.machine.insert(Machine::read()?),
        };
        let stat = Stat::read(pid)?;
        let seconds = |ticks: u64| ticks as f64 / machine.ticks_per_second;
        let cpu_seconds = seconds(stat.own_ticks + stat.childrens_ticks);
        let cpu = self.percent(pid, &stat, seconds(stat.own_ticks));
        let resident_bytes = stat.resident_pages * machine.page_bytes;
        let create_time = machine.booted + seconds(stat.start_ticks);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Some(ProcessInfo {
            pid,
            cmdline: program_name(pid).unwrap_or_else(|| stat.name.clone()),
            username: self.user_of(pid)?,
            nice: stat.nice,
            resident_bytes,
            virtual_bytes: stat.virtual_bytes,
            cpu,
            mem: round(
                resident_bytes as f64 * 100.0 / machine.memory_bytes.max(1) as f64,
                1000.0,
            ),
            cpu_seconds,
            create_time,
            age: (now.as_secs_f64() - create_time).max(0.0),
            children: Vec::new(),
        })
    }

    fn percent(&mut self, pid: u32, stat: &Stat, cpu_seconds: f64) -> f64 {
        let at = Instant::now();
        let sample = Sample {
            start_ticks: stat.start_ticks,
            cpu_seconds,
            at,
        };
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.clear();
        }
        let before = self.samples.insert(pid, sample);
        let before = before.filter(|before| before.start_ticks == stat.start_ticks);
        before.map_or(0.0, |before| {
            let passed = at.duration_since(before.at).as_secs_f64();
            if passed <= 0.0 {
                return 0.0;
            }
            round(
                ((cpu_seconds - before.cpu_seconds) * 100.0 / passed).max(0.0),
                10.0,
            )
        })
    }

    /// Drops what nobody has asked for in a while.
    pub fn forget_old(&mut self) {
        self.samples
            .retain(|_, sample| sample.at.elapsed() < SAMPLE_AGE_MAX);
    }

    fn user_of(&mut self, pid: u32) -> Option<String> {
        let uid = {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(format!("/proc/{pid}")).ok()?.uid()
        };
        let name = self.users.entry(uid).or_insert_with(|| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name)
        });
        Some(name.clone())
    }
}

/// Rounded to one part in so many.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// What proc_pid_stat(5) says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    own_ticks: u64,
    childrens_ticks: u64,
    nice: i64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name is in brackets and may itself contain brackets and spaces.
        let (head, tail) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        // Field 3 of the manual is the first one here.
        let number = |field: usize| -> Option<u64> { fields.get(field - 3)?.parse().ok() };
        let signed = |field: usize| -> Option<i64> { fields.get(field - 3)?.parse().ok() };
        let ticks = |field: usize| signed(field).map(|ticks| u64::try_from(ticks).unwrap_or(0));
        Some(Self {
            name,
            parent: u32::try_from(number(4)?).ok()?,
            own_ticks: number(14)? + number(15)?,
            childrens_ticks: ticks(16)? + ticks(17)?,
            nice: signed(19)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: ticks(24)?,
        })
    }
}

/// Base name of the first argument, as Circus shows it.
fn program_name(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = bytes.split(|byte| *byte == 0).next()?;
    let first = String::from_utf8_lossy(first);
    let word = first.split_ascii_whitespace().next()?;
    PathBuf::from(word)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
}

/// Direct children of all threads of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut children: Vec<u32> = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text
                .split_ascii_whitespace()
                .map(str::parse)
                .map(Result::ok);
            pids.flatten().collect::<Vec<u32>>()
        })
        .collect();
    children.sort_unstable();
    children
}

/// Sends a signal to a process if, and only if, it is a direct child of another one.
///
/// # Errors
/// Why not, for people.
pub fn signal_child(parent: u32, child: u32, signal: i32) -> Result<(), String> {
    let gone = || format!("process no longer exists (pid={child})");
    let pid = i32::try_from(child)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(gone)?;
    let signal = Signal::from_named_raw(signal)
        .ok_or_else(|| format!("signal {signal} cannot be sent to a child of a process"))?;
    // First held, then looked at: the number cannot become somebody else's in between.
    let held = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    let stat = Stat::read(child).ok_or_else(gone)?;
    if stat.parent != parent {
        return Err(format!("pid {child} is no child of pid {parent}"));
    }
    pidfd_send_signal(held, signal).map_err(|error| format!("pid {child}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = "7 (a) (b c) S 1 7 7 0 -1 4194304 1 0 0 0 30 12 5 3 20 -5 1 0 100 8192 2 1 1";
        let stat = Stat::parse(line).expect("readable");
        let expected = Stat {
            name: "a) (b c".to_owned(),
            parent: 1,
            own_ticks: 42,
            childrens_ticks: 8,
            nice: -5,
            start_ticks: 100,
            virtual_bytes: 8192,
            resident_pages: 2,
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("7 (x"), None);
    }

    #[test]
    fn our_own_process_is_found() {
        let mut sampler = Sampler::default();
        let info = sampler
            .info_with_children(std::process::id())
            .expect("alive");
        assert!(info.resident_bytes > 0 && info.mem > 0.0, "{info:?}");
        assert!(info.cpu >= 0.0 && info.age >= 0.0, "{info:?}");
        assert!(
            !info.username.is_empty() && !info.cmdline.is_empty(),
            "{info:?}"
        );
        assert_eq!(sampler.info(u32::MAX), None);
    }

    #[test]
    fn only_a_child_of_the_parent_is_signalled() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("sleep runs");
        let pid = child.id();
        let error = signal_child(1, pid, 9).unwrap_err();
        assert!(error.contains("no child of pid 1"), "{error}");
        assert!(children(std::process::id()).contains(&pid));
        signal_child(std::process::id(), pid, 9).expect("sent");
        child.wait().expect("ends");
        signal_child(std::process::id(), pid, 9).unwrap_err();
    }
}

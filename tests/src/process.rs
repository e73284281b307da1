//! Processes by handle: looking at them, signalling them, and ending exactly what a test started.

use crate::{sys, wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// One process, whatever becomes of its number.
#[derive(Debug)]
pub struct Handle {
    pid: i32,
    pidfd: OwnedFd,
}

impl Handle {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self {
            pid,
            pidfd: sys::pidfd_open(pid)?,
        })
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; one that has ended is none the worse for it.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match sys::pidfd_signal(&self.pidfd, signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Stops it and waits until it stands: what follows finds it doing nothing.
    ///
    /// # Panics
    /// When it does not stop.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP).expect("it may be stopped");
        wait::until("the process stands", || match state(self.pid) {
            Some('T' | 'Z') | None => Ok(()),
            other => Err(format!("its state is {other:?}")),
        });
    }

    /// Waits for its end; answers whether it came.
    #[must_use]
    pub fn ended_within(&self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut set, timeout), Ok(count) if count > 0)
    }

    /// Whether it runs (a zombie does not).
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.ended_within(Duration::ZERO)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_ended(&self, what: &str) {
        assert!(
            self.ended_within(wait::PATIENCE),
            "{what}: process {} still runs: {:?}",
            self.pid,
            command_line(self.pid)
        );
    }
}

/// A process that a test has started; ended with everything below it when the guard goes, also by
/// a panic, in which case its log is shown.
pub struct Guarded {
    child: Child,
    handle: Handle,
    name: &'static str,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn start(name: &'static str, mut command: Command, log: PathBuf) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let also = file.try_clone().expect("a second descriptor");
        command.stdin(Stdio::null()).stdout(file).stderr(also);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {name} ({command:?}): {error}"),
        };
        let pid = i32::try_from(child.id()).expect("a pid");
        // Nobody else can collect our own child, so the number cannot have been used again.
        let handle = Handle::open(pid).expect("a pidfd");
        Self {
            child,
            handle,
            name,
            log,
        }
    }

    /// Its process.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Kills it alone, as `kill -9` does, and collects it.
    pub fn kill(&mut self) {
        let _ = self.handle.signal(libc::SIGKILL);
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        if !self.handle.ended_within(wait::PATIENCE) {
            panic!("{} does not end; its log:\n{}", self.name, self.log());
        }
        self.child.wait().expect("our own child can be collected")
    }

    /// Whether it has ended, and how.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(80).collect();
            eprintln!(
                "--- end of the log of {} ({}):",
                self.name,
                self.handle.pid()
            );
            for line in tail.into_iter().rev() {
                eprintln!("    {line}");
            }
        }
        if self.try_wait().is_none() {
            end_tree(&self.handle);
            let _ = self.child.wait();
        }
    }
}

/// Ends a process and all that descends from it. Each is stopped before its children are listed,
/// so that none can be missed.
pub fn end_tree(root: &Handle) {
    let mut found = Vec::new();
    stop_below(root.pid(), root, &mut found);
    let _ = root.signal(libc::SIGKILL);
    for handle in &found {
        let _ = handle.signal(libc::SIGKILL);
    }
}

fn stop_below(pid: i32, handle: &Handle, found: &mut Vec<Handle>) {
    if handle.signal(libc::SIGSTOP).is_err() {
        return;
    }
    let begun = std::time::Instant::now();
    while matches!(state(pid), Some('R' | 'S' | 'D')) && begun.elapsed() < Duration::from_secs(2) {
        std::thread::yield_now();
    }
    for child in children(pid) {
        let Ok(handle) = Handle::open(child) else {
            continue;
        };
        // Between the listing and the opening the number may have changed hands.
        if parent(child) == Some(pid) {
            stop_below(child, &handle, found);
            found.push(handle);
        }
    }
}

/// The fields of `/proc/PID/stat` behind the name, the state being the first.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// The letter that Linux gives the state of a process (`proc_pid_stat(5)`).
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The children of a process, zombies included.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&candidate| parent(candidate) == Some(pid))
        .collect()
}

/// Seconds that a process has been on a processor so far, with all its threads, as exact as Linux counts it; 0 when it is gone.
#[must_use]
pub fn processor_seconds(pid: i32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let nanos = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

/// The arguments of a process, for messages.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The lines of a `/proc/PID/status`-like file by their names.
///
/// # Errors
/// When the file cannot be read.
pub fn status_fields(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path)?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

/// The open descriptors of a process and what they point at.
///
/// # Errors
/// When it is gone, or somebody else's.
pub fn descriptors(pid: i32) -> io::Result<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Some(number), Ok(target)) = (number, std::fs::read_link(entry.path())) {
            found.insert(number, target.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

//! Who writes to log files holds this lock. A lease fences the kernel, not the disk: an old manager
//! that was stopped just before its write would write later. So whoever takes over waits until the
//! old one is dead, and if it does not go by itself, sees to that.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Name of the lock in the runtime directory.
pub const STREAMS_LOCK: &str = "streams.lock";

/// How long an old writer may take to leave by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to die.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the lock is tried: closing a file wakes nobody.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The lock cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// The file cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody holds it who cannot be made out, or not be ended.
    #[error(
        "{path}: held by a process that is not known to be a manager (it says pid {pid:?}); end it, \
         log files are not written until then",
        path = .path.display()
    )]
    Held {
        /// Which.
        path: PathBuf,
        /// What stands in it.
        pid: String,
    },
}

/// The right to write log files, for as long as this lives.
#[derive(Debug)]
pub struct StreamsLock {
    _file: File,
}

impl StreamsLock {
    /// Takes it; ends an old holder that does not leave in time.
    ///
    /// # Errors
    /// When it cannot be had. Nothing must be written to any log file then.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        Self::take_within(&directory.join(STREAMS_LOCK), LEAVE_TIMEOUT)
    }

    fn take_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let broken = |source| LockError::File {
            path: path.to_owned(),
            source,
        };
        // Close-on-exec, as every file of the standard library: no hook inherits it.
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(path).map_err(broken)?;
        if !try_until(&file, Instant::now() + patience).map_err(broken)? {
            let holder = Holder::find(&mut file).map_err(broken)?;
            let Some(holder) = holder else {
                let pid = read(&mut file).map_err(broken)?;
                return Err(LockError::Held {
                    path: path.to_owned(),
                    pid,
                });
            };
            holder.end().map_err(broken)?;
            if !try_until(&file, Instant::now() + DEATH_TIMEOUT).map_err(broken)? {
                let pid = read(&mut file).map_err(broken)?;
                return Err(LockError::Held {
                    path: path.to_owned(),
                    pid,
                });
            }
        }
        let text = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)).map(drop))
            .map_err(broken)?;
        file.write_all(text.as_bytes()).map_err(broken)?;
        Ok(Self { _file: file })
    }
}

fn try_until(file: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY_EVERY),
        }
    }
}

fn read(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(32).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// The process that holds the lock.
struct Holder {
    pidfd: std::os::fd::OwnedFd,
}

impl Holder {
    /// Whom the file names, if that process has the file open: a number alone may have been used
    /// again.
    fn find(file: &mut File) -> io::Result<Option<Self>> {
        let number = read(file)?.parse().ok();
        let Some(pid) = number.and_then(Pid::from_raw) else {
            return Ok(None);
        };
        if pid.as_raw_nonzero().get().cast_unsigned() == std::process::id() {
            return Ok(None);
        }
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(None);
        };
        let ours = file.metadata()?;
        let directory = format!("/proc/{}/fd", pid.as_raw_nonzero());
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Ok(None);
        };
        let mut files = entries
            .flatten()
            .filter_map(|entry| std::fs::metadata(entry.path()).ok());
        let holds = files.any(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()));
        // The descriptor was opened first: if the process is the same until here, it is that one.
        Ok(holds.then_some(Self { pidfd }))
    }

    /// Kills it. It is dead when the lock is free: a process in an uninterruptible write still
    /// writes, and still holds it.
    fn end(&self) -> io::Result<()> {
        pidfd_send_signal(&self.pidfd, Signal::KILL).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Not a test: the other process of the tests below.
    #[test]
    #[ignore = "is run by other tests"]
    fn hold_the_lock() {
        let path = std::env::var_os("KINGPOLE_TEST_LOCK").expect("told by the parent");
        let lock = StreamsLock::take_within(Path::new(&path), Duration::ZERO).expect("free");
        println!("held");
        // Until the parent closes our input, or kills us.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        drop(lock);
    }

    fn holder(path: &Path) -> std::process::Child {
        let name = "shells::streams::lock::tests::hold_the_lock";
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([name, "--exact", "--ignored", "--nocapture"])
            .env("KINGPOLE_TEST_LOCK", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut said = Vec::new();
        let out = child.stdout.as_mut().expect("piped");
        while !said.ends_with(b"held\n") {
            let mut byte = [0];
            assert_eq!(out.read(&mut byte).expect("readable"), 1, "it ended early");
            said.push(byte[0]);
        }
        child
    }

    #[test]
    fn a_holder_that_does_not_leave_is_killed_before_the_lock_is_ours() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join(STREAMS_LOCK);
        let mut old = holder(&path);
        let lock = StreamsLock::take_within(&path, Duration::from_millis(50)).expect("taken");
        let status = old.wait().expect("waited");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGKILL)
        );
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(text.trim(), std::process::id().to_string());
        drop(lock);
    }

    #[test]
    fn a_holder_that_leaves_is_left_alone() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join(STREAMS_LOCK);
        let mut old = holder(&path);
        drop(old.stdin.take());
        StreamsLock::take_within(&path, Duration::from_secs(30)).expect("taken");
        assert!(old.wait().expect("waited").success());
    }

    #[test]
    fn a_process_that_only_has_the_number_is_not_touched() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join(STREAMS_LOCK);
        let mut old = holder(&path);
        // Somebody else's number stands in the file.
        let mut innocent = Command::new("sleep").arg("600").spawn().expect("started");
        std::fs::write(&path, format!("{}\n", innocent.id())).expect("written");
        let taken = StreamsLock::take_within(&path, Duration::from_millis(50));
        assert!(matches!(taken, Err(LockError::Held { .. })));
        assert!(
            innocent.try_wait().expect("asked").is_none(),
            "it was killed"
        );
        innocent.kill().expect("ours to kill");
        innocent.wait().expect("waited");
        drop(old.stdin.take());
        old.wait().expect("waited");
    }
}

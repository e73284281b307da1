//! What the manager leaves in the file system: its lock in the runtime directory, and the
//! pidfile. Must not know what runs behind them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kingpole_protocol::places::{PlaceError, prepare_runtime_dir};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::link::describe;

/// The lock within the runtime directory. It holds the manager's process id and is never removed:
/// two managers could otherwise hold locks on two files of the same name.
pub const MANAGER_LOCK: &str = "manager.lock";

/// What is in the way.
#[derive(Debug, thiserror::Error)]
pub enum PlaceTaken {
    /// The runtime directory is not usable.
    #[error(transparent)]
    Directory(#[from] PlaceError),
    /// Another manager runs here.
    #[error(
        "another manager (pid {pid}) already runs in {directory}; end it with \
         `kingpole detach`, or choose another directory with --runtime-dir",
        directory = .directory.display()
    )]
    Manager {
        /// Its process id as it wrote it, `?` if it has not yet.
        pid: String,
        /// Where.
        directory: PathBuf,
    },
    /// The pidfile names somebody who lives.
    #[error("pidfile {path} names the living process {pid}; is another manager running?",
        path = .path.display())]
    Pidfile {
        /// Which.
        path: PathBuf,
        /// Whom it names.
        pid: i32,
    },
    /// The system says no.
    #[error("{path}: {reason}", path = .path.display())]
    System {
        /// About what.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn system(path: &Path, error: &io::Error) -> PlaceTaken {
    PlaceTaken::System {
        path: path.to_owned(),
        reason: describe(error),
    }
}

/// The right to be the manager of a runtime directory, held as long as this lives.
#[derive(Debug)]
pub struct ManagerLock {
    lock: Flock<File>,
}

impl ManagerLock {
    /// Takes it, making the runtime directory first where it is missing.
    ///
    /// # Errors
    /// [`PlaceTaken::Manager`] when another manager has it.
    pub fn take(runtime_dir: &Path) -> Result<Self, PlaceTaken> {
        prepare_runtime_dir(runtime_dir)?;
        let path = runtime_dir.join(MANAGER_LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| system(&path, &error))?;
        let mut lock = match lock_soon(file) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = match pid.trim() {
                    "" => "?".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(PlaceTaken::Manager {
                    pid,
                    directory: runtime_dir.to_owned(),
                });
            }
            Err((_, error)) => return Err(system(&path, &error.into())),
        };
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(|error| system(&path, &error))?;
        Ok(Self { lock })
    }

    /// Goes on with the lock that the program before in this process has left.
    ///
    /// # Errors
    /// When it is not that of this directory, or not ours.
    pub fn adopt(runtime_dir: &Path, lock: OwnedFd) -> Result<Self, PlaceTaken> {
        let path = runtime_dir.join(MANAGER_LOCK);
        let failed = |error: io::Error| system(&path, &error);
        let file = File::from(lock);
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let found = fs::metadata(&path).map_err(failed)?;
        if !same(file.metadata().map_err(failed)?, found) {
            let reason = "is not the lock that the program before left".to_owned();
            return Err(PlaceTaken::System { path, reason });
        }
        // Of the same open file, so it is ours already.
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { lock }),
            Err((_, error)) => Err(failed(error.into())),
        }
    }

    /// Number of its descriptor.
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.lock.as_raw_fd()
    }
}

/// Whether a manager has a runtime directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Living {
    /// One does.
    Yes,
    /// None does.
    No,
    /// Its lock cannot be looked at, perhaps because it is another user's.
    Unknown,
}

/// Looks whether a manager has `runtime_dir`.
#[must_use]
pub fn living_manager(runtime_dir: &Path) -> Living {
    match File::open(runtime_dir.join(MANAGER_LOCK)) {
        // Held for an instant only; a manager that takes it meanwhile tries again.
        Ok(file) => match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Living::No,
            Err((_, Errno::EWOULDBLOCK)) => Living::Yes,
            Err(_) => Living::Unknown,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Living::No,
        Err(_) => Living::Unknown,
    }
}

/// A manager that was just killed may hold its lock for some milliseconds more; there is nothing to
/// wait on that would also end.
fn lock_soon(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    const ATTEMPTS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(30);
    for _ in 1..ATTEMPTS {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) => file,
            decided => return decided,
        };
        std::thread::sleep(PAUSE);
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
}

/// A pidfile, removed when this is dropped unless somebody else has written to it.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    /// Writes our process id; one of a dead process is replaced.
    ///
    /// # Errors
    /// [`PlaceTaken::Pidfile`] when it names a living process.
    pub fn write(path: &Path) -> Result<Self, PlaceTaken> {
        let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        if let Some(pid) = read_pid(path).filter(|pid| *pid != own)
            && is_alive(pid)
        {
            return Err(PlaceTaken::Pidfile {
                path: path.to_owned(),
                pid,
            });
        }
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o644);
            options
                .open(path)
                .and_then(|mut file| writeln!(file, "{own}"))
        };
        write().map_err(|error| system(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if read_pid(&self.path).is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id())) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn read_pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
}

fn is_alive(pid: i32) -> bool {
    let answer = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    // Somebody else's process lives too.
    matches!(answer, Ok(()) | Err(Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_manager_has_a_runtime_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = ManagerLock::take(dir.path()).unwrap();
        let error = ManagerLock::take(dir.path()).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&error, PlaceTaken::Manager { pid: named, .. } if *named == pid));
        assert!(error.to_string().contains("kingpole detach"), "{error}");
        assert_eq!(living_manager(dir.path()), Living::Yes);
        drop(lock);
        assert_eq!(living_manager(dir.path()), Living::No);
        ManagerLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_pidfile_of_a_dead_process_is_replaced_and_of_a_living_one_respected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.pid");
        fs::write(&path, "1\n").unwrap();
        let error = Pidfile::write(&path).unwrap_err();
        assert!(
            matches!(error, PlaceTaken::Pidfile { pid: 1, .. }),
            "{error}"
        );
        // Above the kernel's highest possible pid (4194304).
        fs::write(&path, "4194400\n").unwrap();
        let pidfile = Pidfile::write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        drop(pidfile);
        assert!(!path.exists());
    }
}

//! One kernel per runtime directory: a lock on an open file, which guard and kernel both hold, so
//! that it survives either.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The file's name in the runtime directory.
pub const LOCK_FILE: &str = "kernel.lock";

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody has it.
    #[error(
        "a kernel{holder} is already running on {path}; choose another --runtime-dir or end it",
        path = .path.display()
    )]
    Held {
        /// The runtime directory.
        path: PathBuf,
        /// ` (pid N)`, if the file tells.
        holder: String,
    },
    /// It cannot be opened or locked.
    #[error("cannot lock {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Takes the lock of `runtime_dir` and writes our pid into it. Never waits.
///
/// # Errors
/// See [`LockError`].
pub fn take(runtime_dir: &Path) -> Result<Flock<File>, LockError> {
    let path = runtime_dir.join(LOCK_FILE);
    let io = |source| LockError::Io {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let pid = match file.read_to_string(&mut text) {
                Ok(_) => text.trim().parse::<i32>().ok(),
                Err(_) => None,
            };
            let holder = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            return Err(LockError::Held {
                path: runtime_dir.to_owned(),
                holder,
            });
        }
        Err((_, cause)) => return Err(io(cause.into())),
    };
    let written = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(io)?;
    Ok(lock)
}

/// Keeps a lock until the last process that has the descriptor, or a copy of it, is gone. (A `Flock`
/// unlocks when it is dropped, for all of them.)
///
/// # Errors
/// Descriptor limits.
pub fn keep(lock: Flock<File>) -> Result<OwnedFd, LockError> {
    let copy = lock.as_fd().try_clone_to_owned();
    let kept = copy.map_err(|source| LockError::Io {
        path: LOCK_FILE.into(),
        source,
    })?;
    std::mem::forget(lock);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_is_told_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = take(directory.path()).unwrap();
        let error = take(directory.path()).unwrap_err();
        let pid = std::process::id();
        assert!(
            error
                .to_string()
                .contains(&format!("(pid {pid}) is already running")),
            "{error}"
        );
        drop(first);
        assert!(take(directory.path()).is_ok());
    }
}

//! The files in the runtime directory that say who is there: `guard.pid` and `kernel.pid`.
//!
//! They are removed when the kernel ends because it was asked to. Found at a start, they tell that
//! guard and kernel were killed together.

use std::path::{Path, PathBuf};

const GUARD_FILE: &str = "guard.pid";
const KERNEL_FILE: &str = "kernel.pid";
/// Of a file that is about to become one of them.
const FRESH_SUFFIX: &str = ".new";

/// Where both are.
#[derive(Debug, Clone)]
pub struct PidFiles {
    directory: PathBuf,
}

/// Who was there before, and is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed {
    /// The guard's pid.
    pub guard: Option<i32>,
    /// The kernel's pid.
    pub kernel: Option<i32>,
}

impl PidFiles {
    /// Those of a runtime directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Who was here last and did not end as it was asked to. Call it with the lock held.
    #[must_use]
    pub fn killed(&self) -> Option<Killed> {
        let killed = Killed {
            guard: self.read(GUARD_FILE),
            kernel: self.read(KERNEL_FILE),
        };
        (killed.guard.is_some() || killed.kernel.is_some()).then_some(killed)
    }

    /// Writes the guard's pid.
    pub fn write_guard(&self, pid: i32) {
        self.write(GUARD_FILE, pid);
    }

    /// Writes the kernel's pid.
    pub fn write_kernel(&self, pid: i32) {
        self.write(KERNEL_FILE, pid);
    }

    /// Removes both.
    pub fn remove(&self) {
        for name in [GUARD_FILE, KERNEL_FILE] {
            let _ = std::fs::remove_file(self.directory.join(name));
            // Left behind by somebody who was killed before the renaming.
            let _ = std::fs::remove_file(self.directory.join(format!("{name}{FRESH_SUFFIX}")));
        }
    }

    fn read(&self, name: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.directory.join(name)).ok()?;
        text.trim().parse().ok()
    }

    /// Whoever reads it while it is written finds the pid of before or the new one, and never an empty file. A file that
    /// cannot be written (a full disk) is no reason not to work.
    fn write(&self, name: &str, pid: i32) {
        let (path, text) = (self.directory.join(name), format!("{pid}\n"));
        let fresh = self.directory.join(format!("{name}{FRESH_SUFFIX}"));
        let written = std::fs::write(&fresh, &text).and_then(|()| std::fs::rename(&fresh, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&fresh);
            // There may be room in the old one: none is better than a wrong one.
            let _ = std::fs::write(path, text);
        }
    }
}

impl std::fmt::Display for Killed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pid = |pid: Option<i32>| pid.map_or("none".to_owned(), |pid| pid.to_string());
        write!(
            f,
            "the kernel before this one (pid {}) was killed together with its guard (pid {}): the \
             processes, sockets, values and unread output that it held are lost",
            pid(self.kernel),
            pid(self.guard)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_left_behind_tell_of_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let files = PidFiles::in_directory(directory.path());
        assert_eq!(files.killed(), None);
        files.write_guard(5);
        files.write_kernel(6);
        let killed = files.killed().unwrap();
        assert!(
            killed
                .to_string()
                .contains("(pid 6) was killed together with its guard (pid 5)")
        );
        files.remove();
        assert_eq!(files.killed(), None);
    }

    #[test]
    fn whoever_reads_while_a_pid_is_written_finds_one() {
        let directory = tempfile::tempdir().unwrap();
        let files = PidFiles::in_directory(directory.path());
        files.write_guard(1);
        let reader = std::thread::spawn({
            let files = files.clone();
            move || {
                while let Some(pid) = files.read(GUARD_FILE) {
                    if pid == 500 {
                        return;
                    }
                }
                panic!("{GUARD_FILE} could not be read");
            }
        });
        for pid in 2..=500 {
            files.write_guard(pid);
        }
        reader.join().unwrap();
    }
}

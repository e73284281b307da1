//! A directory of a test's own, gone when the test is over.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A directory below `/tmp` (unix socket paths are limited to 107 bytes) with a private runtime
/// directory in it. The directory itself may be entered by every user, so that children of other
/// users reach what a test puts there for them.
pub struct Scratch {
    directory: TempDir,
    next: AtomicU32,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Makes it.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("kpt-")
            .tempdir_in("/tmp")
            .expect("a directory below /tmp");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("mode of the scratch directory");
        Self {
            directory,
            next: AtomicU32::new(0),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// A path in it that nobody was given yet.
    #[must_use]
    pub fn fresh(&self, stem: &str) -> PathBuf {
        self.join(format!(
            "{stem}-{}",
            self.next.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// The private runtime directory in it.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.join("run")
    }

    /// Makes a program in it and answers its path.
    ///
    /// Another process writes it: whatever a neighbouring test starts at that moment would inherit a
    /// descriptor of ours until its own exec, and a file that somebody has open for writing cannot be
    /// executed (`ETXTBSY`).
    ///
    /// # Panics
    /// When that is not possible.
    #[track_caller]
    pub fn program(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.join(name);
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut pipe = writer.stdin.take().expect("a pipe");
        pipe.write_all(content).expect("the shell reads");
        drop(pipe);
        let status = writer.wait().expect("our own child can be collected");
        assert!(status.success(), "{}: {status}", path.display());
        path
    }

    /// Copies a program into it, as [`Scratch::program`] does, where every user may execute it.
    ///
    /// # Panics
    /// When that is not possible.
    #[track_caller]
    pub fn copy_program(&self, name: &str, original: &Path) -> PathBuf {
        let content = std::fs::read(original)
            .unwrap_or_else(|error| panic!("{}: {error}", original.display()));
        self.program(name, &content)
    }

    /// Writes a file in it and answers its path.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

//! Log files and the console as the writer needs them. Never truncates, never writes at an offset:
//! every file is open for appending.

use crate::streams::disk::{
    Disk, FileId, FileKind, Look, Step, Taken, Target, Trouble, TroubleKind,
};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A pipe that is ready takes so many bytes without making anybody wait (`PIPE_BUF`).
const CONSOLE_WRITE_BYTES: usize = 4096;

/// What becomes of lines for the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleLines {
    /// They are written to standard output and standard error.
    Written,
    /// Somebody else shows all output; here they go nowhere.
    Shown,
}

/// The file system and the console.
#[derive(Debug)]
pub struct Files {
    console: ConsoleLines,
}

impl Files {
    /// With this treatment of the console.
    #[must_use]
    pub fn new(console: ConsoleLines) -> Self {
        Self { console }
    }
}

/// An open log file, or the console.
#[derive(Debug)]
pub enum LogFile {
    /// With its path, for errors.
    File(File, PathBuf),
    /// Standard output or standard error.
    Console(Target),
}

fn trouble(what: &'static str, path: &Path, error: &io::Error) -> Trouble {
    let kind = match error.kind() {
        ErrorKind::AlreadyExists => TroubleKind::Exists,
        ErrorKind::PermissionDenied => TroubleKind::Denied,
        ErrorKind::WouldBlock => TroubleKind::Busy,
        _ => TroubleKind::Failed,
    };
    Trouble {
        what,
        path: path.to_owned(),
        kind,
        why: super::super::link::describe(error),
    }
}

fn look_of(metadata: &Metadata) -> Look {
    let born = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let born_ns = born
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0);
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    let nanos = u64::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Look {
        id: FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
            born_ns,
        },
        length: metadata.len(),
        mtime_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        kind: if metadata.is_file() {
            FileKind::Regular
        } else {
            FileKind::Passing
        },
    }
}

/// Whether a write would be taken at once.
fn is_ready(descriptor: impl AsFd) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1..))
}

fn write_console(mut to: impl Write + AsFd, bytes: &[u8]) -> io::Result<usize> {
    if !is_ready(to.as_fd()) {
        return Err(ErrorKind::WouldBlock.into());
    }
    let written = to.write(&bytes[..bytes.len().min(CONSOLE_WRITE_BYTES)])?;
    to.flush()?;
    Ok(written)
}

impl Disk for Files {
    type File = LogFile;

    fn open(&mut self, target: &Target) -> Step<LogFile> {
        let Target::File(path) = target else {
            return Ok(Ok(LogFile::Console(target.clone())));
        };
        // Not waiting concerns pipes only, which nobody may be reading from.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .append(true)
            .create(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        Ok(match options.open(path) {
            Ok(file) => Ok(LogFile::File(file, path.clone())),
            Err(error) => Err(trouble("open", path, &error)),
        })
    }

    fn open_existing(&mut self, path: &Path) -> Step<Option<LogFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .append(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        Ok(match options.open(path) {
            Ok(file) => Ok(Some(LogFile::File(file, path.to_owned()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(trouble("open", path, &error)),
        })
    }

    fn look(&mut self, file: &LogFile) -> Step<Look> {
        Ok(match file {
            LogFile::File(file, path) => match file.metadata() {
                Ok(metadata) => Ok(look_of(&metadata)),
                Err(error) => Err(trouble("look at", path, &error)),
            },
            LogFile::Console(_) => Ok(Look {
                id: FileId::default(),
                length: 0,
                mtime_ns: 0,
                kind: FileKind::Passing,
            }),
        })
    }

    fn look_at(&mut self, path: &Path) -> Step<Option<Look>> {
        Ok(match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(look_of(&metadata))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(trouble("look at", path, &error)),
        })
    }

    fn write(&mut self, file: &LogFile, bytes: &[u8]) -> Step<usize> {
        let (result, path) = match file {
            LogFile::File(file, path) => ((&*file).write(bytes), path.as_path()),
            LogFile::Console(target) => {
                let result = match (self.console, target) {
                    (ConsoleLines::Shown, _) => Ok(bytes.len()),
                    (ConsoleLines::Written, Target::ErrorConsole) => {
                        write_console(io::stderr().lock(), bytes)
                    }
                    (ConsoleLines::Written, _) => write_console(io::stdout().lock(), bytes),
                };
                (result, target.path())
            }
        };
        Ok(result.map_err(|error| trouble("write to", path, &error)))
    }

    fn position(&mut self, file: &LogFile) -> Step<u64> {
        Ok(match file {
            LogFile::File(file, path) => (&*file)
                .stream_position()
                .map_err(|error| trouble("find the end of", path, &error)),
            LogFile::Console(_) => Ok(0),
        })
    }

    fn read(&mut self, file: &LogFile, at: u64, length: usize) -> Step<Vec<u8>> {
        let LogFile::File(file, path) = file else {
            return Ok(Ok(Vec::new()));
        };
        let mut bytes = Vec::new();
        let mut block = vec![0; length.min(1 << 20)];
        while bytes.len() < length {
            let most = block.len().min(length - bytes.len());
            match file.read_at(&mut block[..most], at + bytes.len() as u64) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(trouble("read", path, &error))),
            }
        }
        Ok(Ok(bytes))
    }

    fn rename(&mut self, from: &Path, to: &Path, taken: Taken) -> Step<()> {
        let result = match taken {
            Taken::Replace => std::fs::rename(from, to),
            Taken::Refuse => {
                let flags = RenameFlags::RENAME_NOREPLACE;
                match renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) {
                    // Not every file system can: there the name was looked at just before.
                    Err(nix::Error::EINVAL | nix::Error::ENOSYS) => match to.symlink_metadata() {
                        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                        Err(_) => std::fs::rename(from, to),
                    },
                    result => result.map_err(io::Error::from),
                }
            }
        };
        Ok(result.map_err(|error| trouble("rename", from, &error)))
    }

    fn siblings(&mut self, path: &Path) -> Step<Vec<PathBuf>> {
        let Some(directory) = path.parent() else {
            return Ok(Ok(Vec::new()));
        };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(Vec::new())),
            Err(error) => return Ok(Err(trouble("list", directory, &error))),
        };
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort();
        Ok(Ok(names))
    }
}

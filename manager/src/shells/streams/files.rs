//! Log files, consoles and services as the writer needs them. Never writes at an offset: every file is
//! open for appending. Empties a file only where that is what its rotation means.

use super::datagram::Messages;
use super::program::{Ending, Program, Tended, reap};
use crate::crash::{self, crash_point};
use crate::streams::disk::{
    Disk, FileId, FileKind, Look, Step, Taken, Target, Trouble, TroubleKind,
};
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, fstatfs};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;
use std::time::UNIX_EPOCH;

/// A pipe that is ready takes so many bytes without making anybody wait (`PIPE_BUF`).
const CONSOLE_WRITE_BYTES: usize = 4096;

/// What `stat` counts a file's room in.
const STAT_BLOCK_BYTES: u64 = 512;

/// So much room is set aside for the first bytes of a log file: one page.
const RESERVED_BYTES: libc::off_t = 4096;

/// Where room that was set aside behind a file's end stays until the file is emptied, and costs nothing
/// more. (XFS would keep what it allocates ahead of all later writes, too.)
const KEEPS_ROOM: [FsType; 3] = [EXT4_SUPER_MAGIC, TMPFS_MAGIC, BTRFS_SUPER_MAGIC];

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
    /// Who is in the middle of a line on standard output. Several sinks share it.
    in_line: Option<Target>,
    /// What programs left unread when they ended.
    unread: BTreeMap<Target, Vec<u8>>,
    ending: Ending,
    /// Those that are running.
    programs: Vec<Weak<Mutex<Program>>>,
}

impl Files {
    /// With this treatment of the console.
    #[must_use]
    pub fn new(console: ConsoleLines) -> Self {
        Self {
            console,
            in_line: None,
            unread: BTreeMap::new(),
            ending: Ending::default(),
            programs: Vec::new(),
        }
    }

    /// Looks after programs that ended with lines unread. What is to be said about it, and when to
    /// look again.
    pub fn tend(&mut self, now: Instant) -> (Vec<String>, Option<Instant>) {
        let (mut said, mut again) = (Vec::new(), None);
        for program in self.programs.iter().filter_map(Weak::upgrade) {
            let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
            match program.tend(now) {
                Tended::Well => {}
                Tended::Later(at) => {
                    again = Some(again.map_or(at, |other: Instant| other.min(at)));
                }
                Tended::Again(text) => said.push(text),
            }
        }
        (said, again)
    }

    /// Waits for any of these, for a program that ends or takes more, or for the time. Which of
    /// these have something to read.
    pub fn poll(&self, readers: &[BorrowedFd<'_>], timeout: PollTimeout) -> Vec<bool> {
        let programs: Vec<_> = self.programs.iter().filter_map(Weak::upgrade).collect();
        let locked: Vec<_> = programs
            .iter()
            .map(|program| program.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let reads = readers
            .iter()
            .map(|reader| PollFd::new(*reader, PollFlags::POLLIN));
        let waits = locked.iter().filter_map(|program| program.descriptor());
        let waits = waits.map(|(descriptor, flags)| PollFd::new(descriptor, flags));
        let mut polled: Vec<PollFd<'_>> = reads.chain(waits).collect();
        // Interrupted or not: the callers look at everything again.
        let _ = poll(&mut polled, timeout);
        polled
            .iter()
            .take(readers.len())
            .map(|polled| polled.any() == Some(true))
            .collect()
    }

    /// Writes to standard output, one sink's line after the other.
    fn write_stdout(&mut self, target: &Target, bytes: &[u8]) -> io::Result<usize> {
        if self.in_line.as_ref().is_some_and(|other| other != target) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = write_console(io::stdout().lock(), bytes);
        match &written {
            Ok(count) => {
                let whole = bytes
                    .get(..*count)
                    .is_none_or(|bytes| bytes.ends_with(b"\n"));
                self.in_line = (!whole && *count > 0).then(|| target.clone());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.in_line = None,
        }
        written
    }
}

/// Something open to write to, and its name for errors.
#[derive(Debug)]
pub struct LogFile(Open, Target);

#[derive(Debug)]
enum Open {
    File(File),
    Console,
    Program(Arc<Mutex<Program>>),
    Messages(Box<RefCell<Messages>>),
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
        room_bytes: metadata.blocks().saturating_mul(STAT_BLOCK_BYTES),
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

/// For appending and reading. Not waiting concerns pipes only, which nobody may be reading from.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn write_console(mut to: impl Write + AsFd, bytes: &[u8]) -> io::Result<usize> {
    if !is_ready(to.as_fd()) {
        return Err(ErrorKind::WouldBlock.into());
    }
    let piece = &bytes[..bytes.len().min(CONSOLE_WRITE_BYTES)];
    // Whole lines, so that another sink can have its turn in between.
    let end = memchr::memrchr(b'\n', piece).map_or(piece.len(), |end| end + 1);
    let written = to.write(&piece[..end])?;
    to.flush()?;
    Ok(written)
}

impl Disk for Files {
    type File = LogFile;

    fn open(&mut self, target: &Target) -> Step<LogFile> {
        reap(&self.ending);
        let open = match target {
            Target::Console | Target::ErrorConsole | Target::StyledConsole(_) => {
                // A writer that was in the middle of a line may be gone.
                self.in_line = None;
                Ok(Open::Console)
            }
            Target::File(path) => options().create(true).open(path).map(Open::File),
            Target::Command(line) => {
                let backlog = self.unread.get(target).cloned().unwrap_or_default();
                let program = Program::start(&line.command, backlog, &self.ending);
                if program.is_ok() {
                    self.unread.remove(target);
                }
                program.map(|program| {
                    let program = Arc::new(Mutex::new(program));
                    self.programs.retain(|other| other.strong_count() > 0);
                    self.programs.push(Arc::downgrade(&program));
                    Open::Program(program)
                })
            }
            Target::Syslog(address) => Messages::to_syslog(address)
                .map(|messages| Open::Messages(Box::new(RefCell::new(messages)))),
            Target::Journal(address) => Messages::to_journal(address)
                .map(|messages| Open::Messages(Box::new(RefCell::new(messages)))),
        };
        let what = match target {
            Target::Command(_) => "start",
            Target::Syslog(_) | Target::Journal(_) => "connect to",
            _ => "open",
        };
        Ok(match open {
            Ok(open) => Ok(LogFile(open, target.clone())),
            Err(error) => Err(trouble(what, target.path(), &error)),
        })
    }

    fn open_existing(&mut self, path: &Path) -> Step<Option<LogFile>> {
        let target = || Target::File(path.to_owned());
        Ok(match options().open(path) {
            Ok(file) => Ok(Some(LogFile(Open::File(file), target()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(trouble("open", path, &error)),
        })
    }

    fn look(&mut self, file: &LogFile) -> Step<Look> {
        Ok(match file {
            LogFile(Open::File(file), target) => match file.metadata() {
                Ok(metadata) => Ok(look_of(&metadata)),
                Err(error) => Err(trouble("look at", target.path(), &error)),
            },
            LogFile(Open::Console | Open::Program(_) | Open::Messages(_), _) => Ok(Look {
                id: FileId::default(),
                length: 0,
                mtime_ns: 0,
                room_bytes: 0,
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

    fn reserve(&mut self, file: &LogFile) -> Step<()> {
        let LogFile(Open::File(file), target) = file else {
            return Ok(Ok(()));
        };
        let kind = fstatfs(file).map(|system| system.filesystem_type());
        if !kind.is_ok_and(|kind| KEEPS_ROOM.contains(&kind)) {
            return Ok(Ok(()));
        }
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(match fallocate(file, flags, 0, RESERVED_BYTES) {
            Ok(()) | Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS | nix::Error::EINTR) => Ok(()),
            Err(error) => Err(trouble("find room for", target.path(), &error.into())),
        })
    }

    fn write(&mut self, file: &LogFile, bytes: &[u8]) -> Step<usize> {
        let LogFile(open, target) = file;
        crash_point("log: before the write");
        let (bytes, dies) = crash::cut("log: half the write", bytes);
        let result = match open {
            Open::File(file) => (&*file).write(bytes),
            Open::Console if self.console == ConsoleLines::Shown => Ok(bytes.len()),
            Open::Console if *target == Target::ErrorConsole => {
                write_console(io::stderr().lock(), bytes)
            }
            Open::Console => self.write_stdout(target, bytes),
            Open::Program(program) => {
                let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
                match program.write(bytes) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => {
                        let unread = program.unread();
                        if !unread.is_empty() {
                            self.unread.insert(target.clone(), unread);
                        }
                        Err(io::Error::new(error.kind(), program.end()))
                    }
                    result => result,
                }
            }
            Open::Messages(messages) => messages.borrow_mut().send(bytes),
        };
        crash::die_if(dies);
        crash_point("log: after the write");
        Ok(result.map_err(|error| trouble("write to", target.path(), &error)))
    }

    fn position(&mut self, file: &LogFile) -> Step<u64> {
        Ok(match file {
            LogFile(Open::File(file), target) => (&*file)
                .stream_position()
                .map_err(|error| trouble("find the end of", target.path(), &error)),
            LogFile(..) => Ok(0),
        })
    }

    fn read(&mut self, file: &LogFile, at: u64, length: usize) -> Step<Vec<u8>> {
        let LogFile(Open::File(file), target) = file else {
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
                Err(error) => return Ok(Err(trouble("read", target.path(), &error))),
            }
        }
        Ok(Ok(bytes))
    }

    fn rename(&mut self, from: &Path, to: &Path, taken: Taken) -> Step<()> {
        crash_point("rotation: before a rename");
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
        crash_point("rotation: after a rename");
        Ok(result.map_err(|error| trouble("rename", from, &error)))
    }

    fn remove(&mut self, path: &Path) -> Step<()> {
        Ok(match std::fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(trouble("remove", path, &error)),
        })
    }

    fn empty(&mut self, file: &LogFile) -> Step<()> {
        let LogFile(Open::File(file), target) = file else {
            return Ok(Ok(()));
        };
        Ok(file
            .set_len(0)
            .map_err(|error| trouble("empty", target.path(), &error)))
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

//! What the writer needs from the world: a disk and a kernel that keeps values. Both are traits so
//! that the code that runs in production is the code that the simulation cuts between any two
//! calls.

use super::position::Child;
pub use super::target::Target;
use kingpole_protocol::Sequence;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The writer is over: nothing more may be done with it. Its successor begins from the values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Stop {
    /// The process was killed. Only a simulation says so.
    #[error("killed")]
    Killed,
    /// The kernel cannot be reached, or refused.
    #[error("{0}")]
    Kernel(String),
}

/// A system call on a log file failed; others may go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} {path}: {why}", path = .path.display())]
pub struct Trouble {
    /// What was tried.
    pub what: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// What kind of failure it was.
    pub kind: TroubleKind,
    /// Linux's words.
    pub why: String,
}

/// Failures that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// Somebody else's file has that name.
    Exists,
    /// The other side of a pipe or terminal does not take more now.
    Busy,
    /// We may not.
    Denied,
    /// Anything else: no space, an I/O error.
    Failed,
}

/// The result of one call: the outer error ends the writer, the inner one is this file's trouble.
pub type Step<T> = Result<Result<T, Trouble>, Stop>;

/// What makes a file itself, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number; used again at once when a file is deleted.
    pub inode: u64,
    /// When it was created, nanoseconds since 1970; 0 where the file system does not know.
    pub born_ns: i64,
}

/// What `stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Which file it is.
    pub id: FileId,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written, nanoseconds since 1970.
    pub mtime_ns: u64,
    /// Bytes of the disk that are the file's, also when there is nothing in it.
    pub room_bytes: u64,
    /// Whether what is written stays there, in order, at offsets.
    pub kind: FileKind,
}

/// Whether a file can be looked at after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A terminal, pipe, device or another program: what is written is gone.
    Passing,
}

/// What a rename does when the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Replaces that file.
    Replace,
    /// Fails with [`TroubleKind::Exists`].
    Refuse,
}

/// Log files.
pub trait Disk {
    /// An open file.
    type File;
    /// Opens for appending and reading; makes it if it is not there.
    fn open(&mut self, target: &Target) -> Step<Self::File>;
    /// The same, but only if it is there.
    fn open_existing(&mut self, path: &Path) -> Step<Option<Self::File>>;
    /// Looks at an open file.
    fn look(&mut self, file: &Self::File) -> Step<Look>;
    /// Looks at whatever has this name.
    fn look_at(&mut self, path: &Path) -> Step<Option<Look>>;
    /// Sets room aside for the first bytes of an empty file, where the file system gives it back only
    /// with the file or when that is emptied. Elsewhere nothing happens.
    fn reserve(&mut self, file: &Self::File) -> Step<()>;
    /// Appends; may append fewer bytes than given.
    fn write(&mut self, file: &Self::File, bytes: &[u8]) -> Step<usize>;
    /// Offset behind the last write.
    fn position(&mut self, file: &Self::File) -> Step<u64>;
    /// Reads up to `length` bytes from `at` on; fewer only at the end of the file.
    fn read(&mut self, file: &Self::File, at: u64, length: usize) -> Step<Vec<u8>>;
    /// Renames.
    fn rename(&mut self, from: &Path, to: &Path, taken: Taken) -> Step<()>;
    /// Removes a file. That it is gone already is no trouble.
    fn remove(&mut self, path: &Path) -> Step<()>;
    /// Makes an open file empty.
    fn empty(&mut self, file: &Self::File) -> Step<()>;
    /// Names in the directory of `path`, sorted, as whole paths.
    fn siblings(&mut self, path: &Path) -> Step<Vec<PathBuf>>;
}

/// One message to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Values to store, or to remove, in this order.
    pub values: Vec<(String, Option<Vec<u8>>)>,
    /// Then: output up to and including these records need not be kept.
    pub acknowledgements: Vec<(Child, Sequence)>,
}

/// The kernel, as far as the writer needs it.
pub trait Keeper {
    /// Stores and acknowledges; returns when the kernel has answered.
    fn commit(&mut self, commit: Commit) -> Result<(), Stop>;
}

//! What to start, as plain owned data.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

/// Everything about a child that is decided before it starts. Nothing is inherited from the kernel
/// except what stands here.
///
/// Descriptors are borrowed: they must stay open until [`super::Spawner::start`] returned.
#[derive(Debug, Clone)]
pub struct SpawnPlan<'fd> {
    /// Arguments, the program's own name first.
    pub arguments: Vec<CString>,
    /// What to execute when it is not the first argument. With a slash it is a path, relative to
    /// the working directory; without, it is looked up in `search_path`.
    pub program: Option<CString>,
    /// Directories to look the program up in, in order; the kernel's own `PATH` plays no part.
    pub search_path: Vec<PathBuf>,
    /// `KEY=VALUE` strings: the child's whole environment, `LISTEN_*` excepted.
    pub environment: Vec<CString>,
    /// Where the child starts.
    pub working_directory: CString,
    /// File mode mask.
    pub umask: u32,
    /// Who it runs as; the kernel's own user and groups when absent.
    pub user: Option<UserPlan>,
    /// Resource limits that differ from the kernel's.
    pub limits: Vec<Limit>,
    /// Descriptor 0.
    pub stdin: StdinPlan<'fd>,
    /// Descriptor 1.
    pub stdout: OutputPlan,
    /// Descriptor 2.
    pub stderr: OutputPlan,
    /// Further descriptors, each at its number.
    pub passed: Vec<Passed<'fd>>,
    /// Names of the descriptors from 3 on (which must be in `passed`): adds `LISTEN_FDS`,
    /// `LISTEN_PID` and `LISTEN_FDNAMES` to the environment. See sd_listen_fds(3).
    pub listen_names: Vec<String>,
    /// Bytes for each output pipe when not Linux's default. Refused sizes are not an error: an
    /// ordinary user's pipes shrink to 8 KB after some hundred, and work all the same.
    pub pipe_bytes: Option<u32>,
}

impl SpawnPlan<'_> {
    /// `arguments`, output captured, an empty environment, in `/`, as the kernel's user.
    #[must_use]
    pub fn new(arguments: Vec<CString>) -> Self {
        Self {
            arguments,
            program: None,
            search_path: Vec::new(),
            environment: Vec::new(),
            working_directory: c"/".to_owned(),
            umask: 0o027,
            user: None,
            limits: Vec::new(),
            stdin: StdinPlan::Null,
            stdout: OutputPlan::Capture,
            stderr: OutputPlan::Capture,
            passed: Vec::new(),
            listen_names: Vec::new(),
            pipe_bytes: None,
        }
    }
}

/// Whose rights a child has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPlan {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups, exactly these.
    pub groups: Vec<u32>,
}

/// One resource limit, see setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Linux's number for it.
    pub resource: u32,
    /// `u64::MAX` is infinity.
    pub soft: u64,
    /// `u64::MAX` is infinity.
    pub hard: u64,
}

impl Limit {
    /// Its name as Papa and Circus write it (`nofile`), where this architecture has one.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        [
            (libc::RLIMIT_AS, "as"),
            (libc::RLIMIT_CORE, "core"),
            (libc::RLIMIT_CPU, "cpu"),
            (libc::RLIMIT_DATA, "data"),
            (libc::RLIMIT_FSIZE, "fsize"),
            (libc::RLIMIT_LOCKS, "locks"),
            (libc::RLIMIT_MEMLOCK, "memlock"),
            (libc::RLIMIT_MSGQUEUE, "msgqueue"),
            (libc::RLIMIT_NICE, "nice"),
            (libc::RLIMIT_NOFILE, "nofile"),
            (libc::RLIMIT_NPROC, "nproc"),
            (libc::RLIMIT_RSS, "rss"),
            (libc::RLIMIT_RTPRIO, "rtprio"),
            (libc::RLIMIT_RTTIME, "rttime"),
            (libc::RLIMIT_SIGPENDING, "sigpending"),
            (libc::RLIMIT_STACK, "stack"),
        ]
        .into_iter()
        .find(|(number, _)| *number == self.resource)
        .map(|(_, name)| name)
    }
}

/// What descriptor 0 is.
#[derive(Debug, Clone, Copy)]
pub enum StdinPlan<'fd> {
    /// `/dev/null`.
    Null,
    /// This descriptor (FastCGI style: a listening socket).
    Descriptor(BorrowedFd<'fd>),
}

/// What descriptor 1 or 2 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputPlan {
    /// A pipe whose read end is in [`super::ReadEnds`].
    Capture,
    /// `/dev/null`.
    Null,
    /// For standard error: the same as standard output.
    SameAsStdout,
}

/// A descriptor the child gets.
#[derive(Debug, Clone, Copy)]
pub struct Passed<'fd> {
    /// Ours.
    pub source: BorrowedFd<'fd>,
    /// Its number in the child, 3 or more.
    pub number: u16,
}

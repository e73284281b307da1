//! Going to the background, and the title's memory: what must happen while there is one thread.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use super::title::ProcessTitle;

/// Which process one is after [`detach`].
#[derive(Debug)]
pub enum Detached {
    /// The one that was started: it waits for the exit code to give.
    Foreground(Waiting),
    /// The one that does the work.
    Background(Promise),
}

/// The foreground's end.
#[derive(Debug)]
pub struct Waiting(OwnedFd);

/// The background's end: keep it until there is something to say.
#[derive(Debug)]
pub struct Promise(OwnedFd);

impl Waiting {
    /// The exit code that the background gives; `None` when it ended without a word.
    #[must_use]
    pub fn wait(self) -> Option<u8> {
        let mut code = [0];
        File::from(self.0).read_exact(&mut code).ok()?;
        let [code] = code;
        Some(code)
    }
}

impl Promise {
    /// Lets the foreground return with this exit code.
    pub fn keep(self, code: u8) {
        // The foreground may have been killed: then nobody is interested.
        let _ = File::from(self.0).write_all(&[code]);
    }
}

/// Becomes a daemon: a session of its own, child of whoever adopts orphans, with `/dev/null` for
/// standard input and output and `log` for standard error.
///
/// # Errors
/// That of the call that failed, or `EDEADLK` when there are threads already.
pub fn detach(log: &File) -> Result<Detached, Errno> {
    check_single_thread()?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(errno_of)?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: there is one thread (checked), so the copy may do anything.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => {
            drop(write);
            waitpid(child, None)?;
            return Ok(Detached::Foreground(Waiting(read)));
        }
        ForkResult::Child => {}
    }
    drop(read);
    setsid()?;
    // The second fork gives up the right to ever have a terminal.
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork()? } {
        std::process::exit(0);
    }
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(log.as_fd())?;
    Ok(Detached::Background(Promise(write)))
}

/// Takes the title's memory over. Collect the arguments before; keep no pointers into them.
///
/// # Errors
/// `EDEADLK` when there are threads, or `/proc` cannot be read.
pub fn take_over_title() -> Result<ProcessTitle, Errno> {
    check_single_thread()?;
    // SAFETY: there is one thread (checked); Rust's std copies arguments and environment out
    // before it gives them to anybody, so only libc points there, and it is re-pointed.
    unsafe { ProcessTitle::take_over() }
}

pub(super) fn check_single_thread() -> Result<(), Errno> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(errno_of)?
        .count();
    if threads == 1 {
        Ok(())
    } else {
        Err(Errno::EDEADLK)
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

//! Starting a program of ours from its descriptor, with exactly the descriptors it shall have.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, execveat, fork, getpid, getppid};

use super::daemon::check_single_thread;
use super::inherited::set_all_close_on_exec;

/// Whether descriptors stay open through exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// They do.
    Yes,
    /// They are closed.
    No,
}

/// What a program that could not be executed ends with: `Exit::System`.
pub const NOT_EXECUTED: u8 = 71;

/// What becomes of a started program when whoever started it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphaned {
    /// It goes on.
    Lives,
    /// It is killed.
    Dies,
}

/// Sets or clears close-on-exec on each. Goes on after a failure and gives the first.
///
/// # Errors
/// A descriptor is not open.
pub fn set_inherited(fds: &[BorrowedFd<'_>], inherit: Inherit) -> Result<(), Errno> {
    #[cfg(test)]
    if super::simulated::with(|_| ()).is_some() {
        return Ok(());
    }
    let flag = match inherit {
        Inherit::Yes => FdFlag::empty(),
        Inherit::No => FdFlag::FD_CLOEXEC,
    };
    // All of them, whatever becomes of one.
    let mut result = Ok(());
    for fd in fds {
        let set = fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop);
        result = result.and(set);
    }
    result
}

/// Lets descriptors stay open through exec, by number: those of owners that were left standing.
/// Numbers that are not open are passed over.
pub fn inherit_numbers(numbers: &[i32]) {
    for number in numbers {
        // SAFETY: the call changes a flag of the number, if it is open; no memory is involved.
        unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
    }
}

/// Starts `binary` in a copy of this process, which keeps exactly `kept` (and 0 to 2). Gives its pid.
///
/// # Errors
/// No process can be made, or there are threads (`EDEADLK`).
pub fn fork_exec(
    binary: BorrowedFd<'_>,
    arguments: &[CString],
    environment: &[CString],
    kept: &[BorrowedFd<'_>],
    orphaned: Orphaned,
) -> Result<i32, Errno> {
    check_single_thread()?;
    let parent = getpid();
    // SAFETY: there is one thread (checked), so the copy may do anything.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => return Ok(child.as_raw()),
        ForkResult::Child => {}
    }
    // Before an upgrade what is to stay open through it is not close-on-exec. Before Linux 5.11 this fails:
    // then the program that is started closes what it was not told of.
    let _ = set_all_close_on_exec();
    let mut result = set_inherited(kept, Inherit::Yes);
    if orphaned == Orphaned::Dies {
        result = result.and(die_with(parent));
    }
    let error = match result {
        Ok(()) => match execveat(binary, c"", arguments, environment, AtFlags::AT_EMPTY_PATH) {
            Ok(never) => match never {},
            Err(cause) => cause,
        },
        Err(cause) => cause,
    };
    eprintln!("kingpole-kernel: cannot start the kernel: {}", error.desc());
    // SAFETY: ends the copy at once: nothing of the original may be run down in it.
    unsafe { libc::_exit(i32::from(NOT_EXECUTED)) }
}

fn die_with(parent: Pid) -> Result<(), Errno> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before that.
    if getppid() == parent {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

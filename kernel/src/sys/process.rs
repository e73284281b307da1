//! System calls about processes and pipes that `nix` does not have.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{ForkResult, fork};

use super::daemon::check_single_thread;

/// How many bytes can be read from a pipe or socket at once (`FIONREAD`).
///
/// # Errors
/// `ENOTTY` when it is neither.
pub fn bytes_waiting(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int through the pointer, which is valid for that.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
    Errno::result(result)?;
    Ok(u64::try_from(waiting).unwrap_or(0))
}

/// How many bytes written to a socket are still on their way (`SIOCOUTQ`): to a unix socket, those
/// that its peer has not read (with what Linux adds to them); to TCP, those not acknowledged.
///
/// # Errors
/// `ENOTTY` when it is no socket.
pub fn bytes_unread(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut unread: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) stores one int through the pointer, which is
    // valid for that.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    Errno::result(result)?;
    Ok(u64::try_from(unread).unwrap_or(0))
}

/// A descriptor for the process `pid`, close-on-exec.
///
/// It refers to the process that has the pid *now*; whoever is its parent and has not reaped it
/// knows which one that is.
///
/// # Errors
/// `ESRCH` when there is none, descriptor limits.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    #[cfg(test)]
    if let Some(opened) = super::simulated::pidfd_open(pid) {
        return opened;
    }
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: Linux just made it for us; nobody else has the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which one of two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The one that was copied.
    Original,
    /// Its child.
    Copy,
}

/// Makes a copy of this process, descriptors included.
///
/// # Errors
/// No process can be made, or there are threads (`EDEADLK`).
pub fn copy_process() -> Result<Copied, Errno> {
    check_single_thread()?;
    // SAFETY: there is one thread (checked), so the copy may do anything.
    Ok(match unsafe { fork()? } {
        ForkResult::Parent { .. } => Copied::Original,
        ForkResult::Child => Copied::Copy,
    })
}

/// Ends this process at once: nothing of the one that it is a copy of may be run down in it.
pub fn end_now(code: i32) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(code) }
}

/// Sends `signal` to the process behind a pidfd; 0 only checks.
///
/// # Errors
/// `ESRCH` once it was reaped, `EPERM`, `EINVAL` for a signal that does not exist.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    #[cfg(test)]
    if let Some(sent) = super::simulated::pidfd_send_signal(pidfd.as_fd(), signal) {
        return sent;
    }
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means "as kill would fill it"; no other memory is involved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            no_info,
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Makes this process the one that orphaned descendants are given to. Survives exec, not fork.
///
/// # Errors
/// That of `prctl`; none is documented.
pub fn become_subreaper() -> Result<(), Errno> {
    let mut is_one: libc::c_int = 0;
    // SAFETY: stores one int through the pointer, which is valid for that.
    let asked = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is_one) };
    // Saying so again makes Linux walk through all descendants, while clients wait.
    if asked == 0 && is_one != 0 {
        return Ok(());
    }
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Allows core files and `/proc/self` access again after a child that shared our memory changed
/// its user, which Linux answers by marking the memory undumpable.
///
/// # Errors
/// That of `prctl`.
pub fn make_dumpable() -> Result<(), Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }).map(drop)
}

/// Whether this process's memory may be dumped.
#[must_use]
pub fn is_dumpable() -> bool {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) == 1 }
}

/// A copy of a descriptor, close-on-exec, with the lowest free number from `least` on.
///
/// # Errors
/// Descriptor limits.
pub fn duplicate_from(fd: BorrowedFd<'_>, least: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: integers only.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    let copy = Errno::result(copy)?;
    // SAFETY: Linux just made it for us; nobody else has the number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Accepts a connection, close-on-exec and non-blocking.
///
/// # Errors
/// `EAGAIN` when nobody waits, descriptor limits, or that of a connection that broke in the queue.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let nobody = std::ptr::null_mut();
    // SAFETY: null means that the peer's address is not wanted; no memory is involved.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), nobody, std::ptr::null_mut(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: Linux just made it for us; nobody else has the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

//! The few system calls that neither the standard library nor `nix` offers safely.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Opens a descriptor that stands for the process `pid` (`pidfd_open(2)`), close-on-exec.
///
/// # Errors
/// When there is no such process, or no descriptor left.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: Linux has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to exactly the process that `pidfd` stands for (`pidfd_send_signal(2)`).
///
/// # Errors
/// When it has ended and was collected, or is out of reach.
pub fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open as long as the reference lives; a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            no_info,
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A descriptor that this process was handed by number.
///
/// # Errors
/// When it is not open.
pub fn inherited(fd: RawFd) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: asks about a number; touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, came with the process, and the puppet closes such descriptors only by
    // `close`, after which it does not use them.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Closes a descriptor that this process was handed by number.
///
/// # Errors
/// When it is not open.
pub fn close_inherited(fd: RawFd) -> io::Result<()> {
    // SAFETY: the number belongs to an inherited descriptor, which no object of ours owns.
    if unsafe { libc::close(fd) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What a signal does to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// What Linux does by default.
    Default,
    /// Nothing.
    Ignore,
}

/// Sets what a signal does.
///
/// # Errors
/// When there is no such signal, or it cannot be changed.
pub fn set_disposition(signal: i32, disposition: Disposition) -> io::Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    // SAFETY: neither constant is a function that could run.
    let old = unsafe { libc::signal(signal, handler) };
    if old == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A program and its argument vector, ready for [`vfork_exec`].
pub struct Image {
    program: CString,
    arguments: Vec<CString>,
}

impl Image {
    /// Prepares them.
    ///
    /// # Panics
    /// When one contains a zero byte.
    #[must_use]
    pub fn new(program: &str, arguments: &[&str]) -> Self {
        let c = |text: &&str| CString::new(*text).expect("no zero bytes in arguments");
        Self {
            program: c(&program),
            arguments: arguments.iter().map(c).collect(),
        }
    }
}

/// The limit that spawning is measured against: `vfork`, two `dup2`, `execve`, nothing else.
/// Answers the child's pid.
///
/// # Errors
/// When no process could be made.
#[expect(
    deprecated,
    reason = "vfork is what is to be measured; it is used by its rules"
)]
pub fn vfork_exec(image: &Image, stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<i32> {
    let mut arguments: Vec<*const libc::c_char> =
        image.arguments.iter().map(|a| a.as_ptr()).collect();
    arguments.push(std::ptr::null());
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    let (out, err) = (stdout.as_raw_fd(), stderr.as_raw_fd());
    // SAFETY: between vfork and execve the child only makes system calls with pointers that were
    // prepared before and stay valid, as this thread waits; it leaves by execve or _exit.
    unsafe {
        let pid = libc::vfork();
        if pid == 0 {
            libc::dup2(out, 1);
            libc::dup2(err, 2);
            libc::execve(
                image.program.as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
            );
            libc::_exit(127);
        }
        if pid < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(pid)
        }
    }
}

/// Makes the calling thread, and no other, act as another user.
///
/// # Errors
/// When that is not allowed.
pub fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: changes the credentials of this thread only (the C library's wrapper would change
    // those of all); no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets a program find descriptors under the numbers from 3 on, in this order. They must have numbers
/// beyond those.
pub fn pass_from_three(command: &mut std::process::Command, fds: Vec<RawFd>) {
    use std::os::unix::process::CommandExt;
    let place = move || {
        for (number, fd) in (3..).zip(&fds) {
            // SAFETY: integers only, and allowed between fork and exec.
            if unsafe { libc::dup2(*fd, number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: it calls dup2 and nothing else, and allocates nothing unless that fails.
    unsafe { command.pre_exec(place) };
}

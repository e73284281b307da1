//! The one bridge between a descriptor of ours and tokio's readiness.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the running tokio runtime, for reading only.
///
/// Meant for the one epoll that all children's pipes and pidfds hang on, and for a signalfd.
///
/// # Errors
/// The descriptor cannot be polled, or there is no runtime.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor, which stays open and the same number until the
    // `AsyncFd` is dropped; `OwnedFd` gives no way to change it from outside.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Takes `fd` off an epoll; not being on it is as good.
pub fn unpoll(epoll: &OwnedFd, fd: BorrowedFd<'_>) {
    let nothing = std::ptr::null_mut();
    // SAFETY: no memory is involved: what is taken off needs no description.
    unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            nothing,
        )
    };
}

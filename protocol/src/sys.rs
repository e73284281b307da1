//! Receiving descriptors: the one `unsafe` block of this crate.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Descriptors taken from one message; the kernel sends one with each.
const PER_MESSAGE_MAX: usize = 4;

/// Descriptors that are kept at once; further ones are closed.
const KEPT_MAX: usize = 16;

/// Descriptors that arrived and were not fetched yet, in the order of their frames.
pub type Descriptors = VecDeque<OwnedFd>;

/// Reads once. Descriptors that came along are close-on-exec from the first moment.
///
/// # Errors
/// As `recvmsg`.
pub fn receive_with_descriptors(
    socket: &UnixStream,
    into: &mut [u8],
    descriptors: &mut Descriptors,
) -> std::io::Result<usize> {
    let mut slices = [IoSliceMut::new(into)];
    let mut space = cmsg_space!([RawFd; PER_MESSAGE_MAX]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: Linux made it for us while receiving, and it is taken here once, so
                // nobody else owns it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                if descriptors.len() < KEPT_MAX {
                    descriptors.push_back(descriptor);
                }
            }
        }
    }
    Ok(message.bytes)
}

//! Receiving descriptors over a unix socket.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Descriptors that one message can bring.
pub const RIGHTS_MAX: usize = 64;

/// One packet.
#[derive(Debug)]
pub struct Packet {
    /// How many bytes of the buffer it filled.
    pub bytes: usize,
    /// What came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Whether Linux had to leave descriptors out.
    pub is_truncated: bool,
}

/// Takes one packet of a socket; never waits.
///
/// # Errors
/// `EAGAIN` when there is none, or that of `recvmsg`.
pub fn receive_packet(socket: impl AsFd, buffer: &mut [u8]) -> Result<Packet, Errno> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!([RawFd; RIGHTS_MAX]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let fd = socket.as_fd().as_raw_fd();
    let message = loop {
        match recvmsg::<()>(fd, &mut slices, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    // Of a truncated control message nix gives what is whole, or nothing.
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: Linux made these for us while receiving, and each is taken here once, so
            // nobody else owns it.
            fds.extend(
                numbers
                    .into_iter()
                    .map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
            );
        }
    }
    Ok(Packet {
        bytes: message.bytes,
        fds,
        is_truncated: message.flags.contains(MsgFlags::MSG_CTRUNC),
    })
}

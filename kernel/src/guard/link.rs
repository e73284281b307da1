//! The link between guard and kernel: a pair of sequenced-packet sockets that carries descriptors.
//!
//! No message has an answer, and none carries state: descriptors in a socket's queue are references
//! of their own, so what was sent is safe even before it is received. A message has as many
//! descriptors as it has tags; `docs/decisions/guard-link.md` says why that needs `sendmsg` itself.

use crate::memory::held::Tag;
use crate::sys::rights::{RIGHTS_MAX, receive_packet};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair,
    sockopt,
};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Tags of one message; well below what Linux passes at once (253).
pub const TAGS_MAX: usize = RIGHTS_MAX;

/// What Linux is asked to queue: some thousand messages, so that a busy guard is never waited for.
const QUEUE_BYTES: usize = 4 << 20;

const HOLD: u64 = 1;
const DROP: u64 = 2;
const READY: u64 = 3;
const BINARY: u64 = 4;

/// One message from the kernel.
#[derive(Debug)]
pub enum Message {
    /// Keep these.
    Hold(Vec<(Tag, OwnedFd)>),
    /// Keep these no longer.
    Drop(Vec<Tag>),
    /// The kernel serves.
    Ready,
    /// Start this program from now on.
    Binary(OwnedFd),
    /// Linux could not pass all descriptors of a message: the limit is reached.
    Truncated,
    /// Of a later version.
    Unknown,
}

/// What there is to receive.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Message),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

/// A new pair: the guard's end, the kernel's end.
///
/// # Errors
/// Descriptor limits.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (guard, kernel) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    // Root may ask for more than the system's limit; others get what they get.
    if setsockopt(&kernel, sockopt::SndBufForce, &QUEUE_BYTES).is_err() {
        let _ = setsockopt(&kernel, sockopt::SndBuf, &QUEUE_BYTES);
    }
    Ok((guard, kernel))
}

/// Asks the guard to hold descriptors, at most [`TAGS_MAX`], all or none. Never waits.
///
/// # Errors
/// `EAGAIN` when the guard does not keep up, `EPIPE` and the like when it is gone.
pub fn send_hold(link: impl AsFd, held: &[(Tag, BorrowedFd<'_>)]) -> Result<(), Errno> {
    let words = words(HOLD, held.iter().map(|(tag, _)| *tag));
    let fds = held
        .iter()
        .map(|(_, fd)| fd.as_raw_fd())
        .collect::<Vec<_>>();
    send(link, &words, &fds)
}

/// Asks it to drop some, at most [`TAGS_MAX`].
///
/// # Errors
/// As [`send_hold`].
pub fn send_drop(link: impl AsFd, tags: &[Tag]) -> Result<(), Errno> {
    send(link, &words(DROP, tags.iter().copied()), &[])
}

/// Tells it that the kernel serves.
///
/// # Errors
/// As [`send_hold`].
pub fn send_ready(link: impl AsFd) -> Result<(), Errno> {
    send(link, &words(READY, []), &[])
}

/// Tells it which program to start from now on.
///
/// # Errors
/// As [`send_hold`].
pub fn send_binary(link: impl AsFd, binary: BorrowedFd<'_>) -> Result<(), Errno> {
    send(link, &words(BINARY, []), &[binary.as_raw_fd()])
}

fn words(kind: u64, tags: impl IntoIterator<Item = Tag>) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    for tag in tags {
        bytes.extend_from_slice(&tag.word().to_le_bytes());
    }
    bytes
}

fn send(link: impl AsFd, bytes: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
    let slices = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(link.as_fd().as_raw_fd(), &slices, control, flags, None) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message. Never waits.
///
/// # Errors
/// Those of `recvmsg` other than that there is nothing.
pub fn receive(link: impl AsFd) -> Result<Received, Errno> {
    let mut bytes = [0_u8; 8 + 8 * TAGS_MAX];
    let packet = match receive_packet(link, &mut bytes) {
        Err(Errno::EAGAIN) => return Ok(Received::Nothing),
        Err(Errno::ECONNRESET) => return Ok(Received::End),
        packet => packet?,
    };
    // A packet always has its kind, so an empty one is the end.
    let Some(content) = bytes
        .get(..packet.bytes)
        .filter(|content| !content.is_empty())
    else {
        return Ok(Received::End);
    };
    let mut words = content.chunks_exact(8).map(|word| {
        word.iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    });
    let kind = words.next().unwrap_or(0);
    let fds = packet.fds;
    let tags = words.filter_map(Tag::from_word).collect::<Vec<_>>();
    Ok(Received::Message(match kind {
        _ if packet.is_truncated => Message::Truncated,
        HOLD if tags.len() == fds.len() => Message::Hold(tags.into_iter().zip(fds).collect()),
        DROP => Message::Drop(tags),
        READY => Message::Ready,
        BINARY => fds
            .into_iter()
            .next()
            .map_or(Message::Unknown, Message::Binary),
        _ => Message::Unknown,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::held::HeldKind;
    use nix::unistd::{pipe, read, write};

    fn message(link: &OwnedFd) -> Message {
        match receive(link).unwrap() {
            Received::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn descriptors_arrive_with_their_tags_even_if_the_sender_is_gone() {
        let (guard, kernel) = pair().unwrap();
        let (read_end, write_end) = pipe().unwrap();
        let tags = [HeldKind::Stdout, HeldKind::Stderr].map(|kind| Tag::new(7, kind));
        let held = [(tags[0], read_end.as_fd()), (tags[1], write_end.as_fd())];
        send_hold(&kernel, &held).unwrap();
        send_drop(&kernel, &tags).unwrap();
        send_ready(&kernel).unwrap();
        drop((kernel, read_end, write_end));
        let Message::Hold(held) = message(&guard) else {
            panic!("not a hold");
        };
        assert_eq!([held[0].0, held[1].0], tags);
        write(&held[1].1, b"through").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(read(&held[0].1, &mut bytes), Ok(7));
        assert!(matches!(message(&guard), Message::Drop(dropped) if dropped == tags));
        assert!(matches!(message(&guard), Message::Ready));
        assert!(matches!(receive(&guard).unwrap(), Received::End));
    }

    #[test]
    fn a_guard_that_does_not_read_is_noticed_not_waited_for() {
        let (guard, kernel) = pair().unwrap();
        let (read_end, _write_end) = pipe().unwrap();
        let tag = Tag::new(1, HeldKind::Ring);
        let mut sent = 0_u32;
        let error = loop {
            match send_hold(&kernel, &[(tag, read_end.as_fd())]) {
                Ok(()) => sent += 1,
                Err(cause) => break cause,
            }
        };
        // ETOOMANYREFS: an ordinary user's descriptors in flight are limited.
        assert!(
            matches!(error, Errno::EAGAIN | Errno::ETOOMANYREFS),
            "{error}"
        );
        assert!(sent > 200, "{sent}");
        drop(guard);
        let gone = send_ready(&kernel).unwrap_err();
        assert!(matches!(gone, Errno::EPIPE | Errno::ECONNRESET), "{gone}");
    }
}

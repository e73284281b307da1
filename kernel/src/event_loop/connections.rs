//! Sessions' sockets: bytes in, bytes out, never more of either than the bounds allow.

use super::listeners::ends;
use super::polled::{Interest, Polled, Token};
use crate::input::LineRead;
use crate::limits::LINE_BYTES_MAX;
use crate::peer::tcp_unread;
use crate::session::queue::{Full, Queue};
use crate::state::SessionId;
use crate::sys::process::bytes_unread;
use crate::text::lines::{LineEvent, LineReader};
use crate::upgrade::saved_state::SavedLine;
use kingpole_protocol::decoder::Decoder;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockaddrLike, SockaddrStorage, getsockname, recv,
    sendmsg,
};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most memory that is kept for the next text: a batch, and the record that goes beyond it.
const SPARE_BYTES_MAX: usize = 512 << 10;

/// Frames of output that are no longer than this are copied together and sent as one: with a line each of 200 children a system
/// call costs more than a copy.
const SMALL_FRAME_BYTES: usize = 2 << 10;

/// Once so much of them is kept back, the next one sends it.
const HELD_FRAMES_BYTES_MAX: usize = 64 << 10;

/// What a session's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    /// Lines.
    Text,
    /// Frames.
    Frames,
}

/// Whether a session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It does.
    Open,
    /// The client sends no more; what it asked for is still answered.
    HalfClosed,
    /// It ends once its queue is empty; nothing more is read.
    Closing,
}

/// The socket of one session.
pub(super) struct Connection {
    socket: OwnedFd,
    pub(super) decoder: Decoder,
    pub(super) lines: LineReader,
    /// Text that is sent, as one, when all that follows from an input has been done.
    held: Vec<u8>,
    pub(super) queue: Queue,
    pub(super) speech: Speech,
    pub(super) course: Course,
    /// Requests that have arrived are left where they are until the queue is empty.
    pub(super) stalled: bool,
    interest: Interest,
    token: Token,
}

/// What the image before knew of a connection.
pub(super) struct Resumed<'a> {
    pub(super) speech: Speech,
    pub(super) course: Course,
    pub(super) line: SavedLine,
    pub(super) received: &'a [u8],
    pub(super) unsent: &'a [u8],
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes, now in the decoder.
    Bytes,
    /// None at the moment.
    Nothing,
    /// There will be no more.
    End,
    /// The connection broke.
    Broken,
}

/// What came of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it, and the queue is empty.
    All,
    /// The rest is queued.
    Queued,
    /// The queue cannot take it: the client asks and does not read.
    TooSlow,
    /// The connection broke.
    Broken,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, session: SessionId, polled: &Polled) -> Result<Self, Errno> {
        let connection = Self::unpolled(socket, session);
        connection.begin_polling(polled)?;
        Ok(connection)
    }

    fn unpolled(socket: OwnedFd, session: SessionId) -> Self {
        Self {
            socket,
            decoder: Decoder::new(),
            lines: LineReader::new(LINE_BYTES_MAX),
            held: Vec::new(),
            queue: Queue::default(),
            speech: Speech::Text,
            course: Course::Open,
            stalled: false,
            interest: Interest::Read,
            token: Token::Session(session),
        }
    }

    fn begin_polling(&self, polled: &Polled) -> Result<(), Errno> {
        polled.add(&self.socket, self.token, Interest::Read)
    }

    /// Goes on with the socket of the image before, once [`Connection::poll_again`] has been called.
    pub(super) fn resume(socket: OwnedFd, session: SessionId, resumed: Resumed<'_>) -> Self {
        let mut connection = Self::unpolled(socket, session);
        connection.speech = resumed.speech;
        connection.course = resumed.course;
        connection.lines = LineReader::resume(LINE_BYTES_MAX, resumed.line);
        connection.decoder.extend(resumed.received);
        // It came out of a queue of the same size.
        let _ = connection.queue.push(&[resumed.unsent]);
        connection
    }

    /// Waits for what a resumed session sends, and for room to send.
    pub(super) fn poll_again(&mut self, polled: &Polled) -> Result<(), Errno> {
        self.begin_polling(polled)?;
        self.update_interest(polled);
        Ok(())
    }

    /// Its socket, to be carried.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What is waited for on it.
    pub(super) const fn interest(&self) -> Interest {
        self.interest
    }

    /// Whether the client has read all that it was sent.
    pub(super) fn was_read(&self) -> LineRead {
        let unread = || -> Result<u64, Errno> {
            let own = bytes_unread(self.socket.as_fd())?;
            if own != 0 || self.is_unix()? {
                return Ok(own);
            }
            let (peer, own) = ends(&self.socket)?;
            tcp_unread(peer, own).map(u64::from)
        };
        match unread() {
            Ok(1..) => LineRead::No,
            Ok(0) if !self.queue.is_empty() => LineRead::No,
            Ok(0) | Err(_) => LineRead::Yes,
        }
    }

    fn is_unix(&self) -> Result<bool, Errno> {
        let address: SockaddrStorage = getsockname(self.socket.as_raw_fd())?;
        Ok(address.family() == Some(AddressFamily::Unix))
    }

    /// Reads once, through `scratch`, so that an idle session owns no buffer.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> Received {
        match recv(self.socket.as_raw_fd(), scratch, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Received::End,
            Ok(count) => {
                self.decoder
                    .extend(scratch.get(..count).unwrap_or_default());
                Received::Bytes
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Broken,
        }
    }

    /// The next thing in the text that was received.
    pub(super) fn poll_line(&mut self) -> Option<LineEvent> {
        let mut pending = self.decoder.pending();
        let before = pending.len();
        let event = self.lines.poll_event(&mut pending);
        let taken = before.saturating_sub(pending.len());
        self.decoder.consume(taken);
        event
    }

    /// Keeps a frame back until [`Connection::let_go`], so that many small ones go out in one write. False when there is no
    /// room for it.
    pub(super) fn hold_frame(&mut self, parts: &[&[u8]], spare: &mut Vec<u8>) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > SMALL_FRAME_BYTES || self.held.len() > HELD_FRAMES_BYTES_MAX {
            return false;
        }
        let held = self.held(spare);
        parts.iter().for_each(|part| held.extend_from_slice(part));
        true
    }

    /// Where to put text that is kept back until [`Connection::let_go`], so that a batch wakes its reader
    /// once. In `spare`'s memory, if it has none: no session owns any while it has nothing to say.
    pub(super) fn held(&mut self, spare: &mut Vec<u8>) -> &mut Vec<u8> {
        if self.held.capacity() == 0 {
            self.held = std::mem::take(spare);
        }
        &mut self.held
    }

    /// Sends what was kept back, whose memory is `spare`'s then.
    pub(super) fn let_go(&mut self, spare: &mut Vec<u8>) -> Sent {
        let mut held = std::mem::take(&mut self.held);
        let sent = self.send(&[&held]);
        if held.capacity() > spare.capacity() && held.capacity() <= SPARE_BYTES_MAX {
            held.clear();
            *spare = held;
        }
        sent
    }

    /// Sends `parts` behind what is queued, and behind what is kept back.
    pub(super) fn send(&mut self, parts: &[&[u8]]) -> Sent {
        let mut sent = 0;
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            match self.send(&[&held]) {
                Sent::All | Sent::Queued => {}
                failed => return failed,
            }
        }
        if self.queue.is_empty() {
            sent = match self.write(parts) {
                Ok(sent) => sent,
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(_) => return Sent::Broken,
            };
        }
        let mut rest: [&[u8]; 4] = [&[]; 4];
        for (rest, part) in rest.iter_mut().zip(parts) {
            let skipped = sent.min(part.len());
            sent = sent.saturating_sub(skipped);
            *rest = part.get(skipped..).unwrap_or_default();
        }
        match self.queue.push(&rest) {
            Err(Full) => Sent::TooSlow,
            Ok(()) if self.queue.is_empty() => Sent::All,
            Ok(()) => Sent::Queued,
        }
    }

    /// Sends a frame together with a descriptor, of which the client gets a copy; `None` when it
    /// cannot be sent at this moment.
    pub(super) fn pass(&mut self, frame: &[u8], descriptor: BorrowedFd<'_>) -> Option<Sent> {
        if !self.queue.is_empty() || !self.held.is_empty() {
            return None;
        }
        let rights = [descriptor.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&rights)];
        let count = match send_to(&self.socket, &[IoSlice::new(frame)], &rights) {
            Ok(count) => count,
            // The last four: too many descriptors are on their way, or there is no memory for it.
            Err(
                Errno::EAGAIN
                | Errno::EINTR
                | Errno::ETOOMANYREFS
                | Errno::EMFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM,
            ) => return None,
            Err(_) => return Some(Sent::Broken),
        };
        // It went with the first byte; what is left of the frame is bytes like any others.
        Some(self.send(&[frame.get(count..).unwrap_or_default()]))
    }

    /// Sends what is queued.
    pub(super) fn flush(&mut self) -> Sent {
        while !self.queue.is_empty() {
            let front = self.queue.front();
            match write_to(&self.socket, &front) {
                Ok(count) => self.queue.consume(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Sent::Queued,
                Err(_) => return Sent::Broken,
            }
        }
        Sent::All
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, Errno> {
        write_to(&self.socket, parts)
    }

    /// Waits for what is useful now.
    pub(super) fn update_interest(&mut self, polled: &Polled) {
        let reads = self.course == Course::Open && !self.stalled;
        let wanted = match (reads, !self.queue.is_empty()) {
            (true, true) => Interest::ReadWrite,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::None,
        };
        if wanted != self.interest
            && polled
                .change(self.socket.as_fd(), self.token, wanted)
                .is_ok()
        {
            self.interest = wanted;
        }
    }
}

fn write_to(socket: &OwnedFd, parts: &[&[u8]]) -> Result<usize, Errno> {
    let mut slices = [IoSlice::new(&[]); 4];
    for (slice, part) in slices.iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    send_to(socket, &slices, &[])
}

fn send_to(
    socket: &OwnedFd,
    slices: &[IoSlice<'_>],
    control: &[ControlMessage<'_>],
) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<SockaddrStorage>(socket.as_raw_fd(), slices, control, flags, None)
}

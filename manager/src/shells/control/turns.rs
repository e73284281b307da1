//! A connection to `manager.sock` that hands the server one whole request at a time: the next one only
//! when the answer to the one before is on its way. So whatever a client has asked in advance is still
//! ours to give away, and a connection between two requests goes on with the next manager.
//!
//! Requests that are not understood here (chunked, too long, with an expectation) are left to the server
//! as they come, and so is all that follows on such a connection; it ends with this manager.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::next::NextManager;
use super::visit::{Counted, Visit};
use super::{BODY_BYTES_MAX, Stay, left};

/// Longest head of a request that is waited for here.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// What is read ahead at most.
const AHEAD_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;

/// Read at once.
const READ_BYTES: usize = 4096;

/// See the module.
pub(super) struct Turns {
    /// `None` once it has been given away.
    visit: Option<Visit<UnixStream>>,
    /// Arrived, and not handed over.
    ahead: Vec<u8>,
    /// How much of it is the rest of a request that is being handed over.
    handing: usize,
    /// How many requests have been handed over, and how many answers had ended before this connection.
    asked: u64,
    /// Whether everything that was answered has been written.
    flushed: bool,
    ended: bool,
    passes: Passes,
    next: NextManager,
    leaving: Pin<Box<dyn Future<Output = ()> + Send>>,
    left: bool,
    _inside: Counted,
}

/// How bytes reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    Requests,
    Everything,
}

/// Whether a connection goes to the next manager.
enum PassingOn {
    No,
    Later,
    Done,
}

/// What the bytes that have arrived begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// A request of so many bytes.
    Whole(usize),
    /// A part of one.
    Part,
    /// Something that only the server may judge.
    Unclear,
}

impl Turns {
    /// With what the manager before had read ahead.
    pub(super) fn new(
        visit: Visit<UnixStream>,
        ahead: Vec<u8>,
        next: NextManager,
        mut stay: watch::Receiver<Stay>,
        inside: &watch::Sender<usize>,
    ) -> Self {
        Self {
            visit: Some(visit),
            ahead,
            handing: 0,
            asked: 0,
            flushed: true,
            ended: false,
            passes: Passes::Requests,
            next,
            leaving: Box::pin(async move { left(&mut stay).await }),
            left: false,
            _inside: Counted::begin(inside),
        }
    }

    fn is_answered(&self) -> bool {
        let answered = self.visit.as_ref().map(|visit| visit.standing().answered());
        answered.is_none_or(|answered| answered >= self.asked)
    }

    /// Gives the connection away if the manager leaves and there is somebody who takes it.
    fn pass_on(&mut self, cx: &mut Context<'_>) -> PassingOn {
        if !self.left {
            self.left = self.leaving.as_mut().poll(cx).is_ready();
        }
        if !self.left || !self.next.is_open() {
            return PassingOn::No;
        }
        if !self.flushed {
            return PassingOn::Later;
        }
        if let Some(visit) = self.visit.take() {
            let ahead = std::mem::take(&mut self.ahead);
            self.next.leave(visit.into_stream(), ahead);
        }
        PassingOn::Done
    }

    /// Reads ahead; nothing more has arrived when it is pending.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(visit) = &mut self.visit else {
            self.ended = true;
            return Poll::Ready(Ok(()));
        };
        let mut bytes = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(visit).poll_read(cx, &mut buffer))?;
        self.ended |= buffer.filled().is_empty();
        self.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    /// Hands over of what is ahead.
    fn hand(&mut self, most: usize, buf: &mut ReadBuf<'_>) -> usize {
        let count = most.min(buf.remaining()).min(self.ahead.len());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        count
    }
}

impl AsyncRead for Turns {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.handing > 0 {
                let most = self.handing;
                self.handing -= self.hand(most, buf);
                return Poll::Ready(Ok(()));
            }
            if self.passes == Passes::Everything {
                if !self.ahead.is_empty() {
                    self.hand(usize::MAX, buf);
                    return Poll::Ready(Ok(()));
                }
                let ended = self.ended;
                return match &mut self.visit {
                    Some(visit) if !ended => Pin::new(visit).poll_read(cx, buf),
                    _ => Poll::Ready(Ok(())),
                };
            }
            let answered = self.is_answered();
            if answered {
                match self.pass_on(cx) {
                    PassingOn::No => {}
                    // As soon as the last answer is written: see `poll_flush`.
                    PassingOn::Later => return Poll::Pending,
                    PassingOn::Done => return Poll::Ready(Ok(())),
                }
                match beginning(&self.ahead) {
                    Beginning::Whole(length) => {
                        self.handing = length;
                        self.asked += 1;
                        self.flushed = false;
                        continue;
                    }
                    Beginning::Part if !self.ended || self.ahead.is_empty() => {}
                    Beginning::Part | Beginning::Unclear => {
                        self.passes = Passes::Everything;
                        continue;
                    }
                }
            }
            if self.ended {
                // What was asked in advance is answered to somebody who only says no more.
                match answered || self.ahead.is_empty() {
                    true => return Poll::Ready(Ok(())),
                    false => return Poll::Pending,
                }
            }
            if self.ahead.len() >= AHEAD_BYTES_MAX {
                // Once the answer is complete the server reads again.
                return Poll::Pending;
            }
            ready!(self.poll_ahead(cx))?;
        }
    }
}

impl AsyncWrite for Turns {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.visit {
            Some(visit) => Pin::new(visit).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(visit) = &mut self.visit {
            ready!(Pin::new(visit).poll_flush(cx))?;
        }
        // The server comes here when it has nothing left to write.
        if !self.flushed && self.handing == 0 && self.is_answered() {
            self.flushed = true;
            if self.left {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.visit {
            Some(visit) => Pin::new(visit).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// Looks at what has arrived as the server will (RFC 9112), only more narrowly.
fn beginning(bytes: &[u8]) -> Beginning {
    let mut at = 0;
    let mut length: Option<usize> = None;
    let mut seen = false;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', rest) else {
            return match bytes.len() > HEAD_BYTES_MAX {
                true => Beginning::Unclear,
                false => Beginning::Part,
            };
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        at += end + 1;
        if line.is_empty() {
            if seen {
                break;
            }
            // Empty lines before a request are passed over.
            continue;
        }
        if !seen {
            seen = true;
            continue;
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Beginning::Unclear;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok();
            let digits = number.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            match digits.and_then(|text| text.parse().ok()) {
                Some(number) if number <= BODY_BYTES_MAX && length.is_none() => {
                    length = Some(number);
                }
                _ => return Beginning::Unclear,
            }
        }
        let others: [&[u8]; 3] = [b"transfer-encoding", b"expect", b"upgrade"];
        if others.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return Beginning::Unclear;
        }
    }
    let whole = at + length.unwrap_or(0);
    match whole <= bytes.len() {
        true => Beginning::Whole(whole),
        false => Beginning::Part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_the_server_will_find_its_end() {
        let whole: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: m\r\n\r\n",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\nHost: m\n\n",
            b"POST / HTTP/1.1\r\ncontent-LENGTH: 3 \r\n\r\nabc",
        ];
        for request in whole {
            let mut bytes = request.to_vec();
            bytes.extend_from_slice(b"GET ");
            assert_eq!(beginning(&bytes), Beginning::Whole(request.len()));
            for length in 0..request.len() {
                assert_eq!(beginning(&request[..length]), Beginning::Part, "{length}");
            }
        }
        let unclear: [&[u8]; 6] = [
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nno header\r\n\r\n",
        ];
        for request in unclear {
            assert_eq!(beginning(request), Beginning::Unclear);
        }
        assert_eq!(beginning(&[b'x'; HEAD_BYTES_MAX + 1]), Beginning::Unclear);
    }
}

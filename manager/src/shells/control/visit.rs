//! A connection that was let in, through whichever door: it has its place among those that are served
//! at once until it is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// See the module.
#[derive(Debug)]
pub(super) struct Visit<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
    unread: Option<Unread>,
}

impl<S> Visit<S> {
    /// With its place.
    pub(super) const fn new(stream: S, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            _place: place,
            unread: None,
        }
    }

    /// The same; `count` has it among those of whom nothing was read yet, as long as that is so.
    pub(super) fn counted(
        stream: S,
        place: OwnedSemaphorePermit,
        count: &watch::Sender<usize>,
    ) -> Self {
        Self {
            unread: Some(Unread::begin(count)),
            ..Self::new(stream, place)
        }
    }
}

/// A visitor of whom nothing was read yet.
#[derive(Debug)]
struct Unread(watch::Sender<usize>);

impl Unread {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Visit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.unread = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Visit<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! A connection that was let in, through whichever door: it has its place among those that are served
//! at once until it is dropped, or asked to leave for others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::BODY_BYTES_MAX;
use super::error::ControlError;
use super::places::{Answered, Half, Place, Standing, UnderWay};

/// See the module.
#[derive(Debug)]
pub(super) struct Visit<S> {
    stream: S,
    place: Place,
    unread: Option<Counted>,
}

impl<S> Visit<S> {
    /// With its place.
    pub(super) const fn new(stream: S, place: Place) -> Self {
        Self {
            stream,
            place,
            unread: None,
        }
    }

    /// The same; `count` has it among those of whom nothing was read yet, as long as that is so.
    pub(super) fn counted(stream: S, place: Place, count: &watch::Sender<usize>) -> Self {
        Self {
            unread: Some(Counted::begin(count)),
            ..Self::new(stream, place)
        }
    }

    /// What the visitor is doing.
    pub(super) const fn standing(&self) -> &Arc<Standing> {
        self.place.standing()
    }

    /// The connection; the place is free.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Keeps what comes of an attempt to read or write, unless the visitor has to leave.
    fn unless_dismissed<T>(
        &self,
        half: Half,
        attempt: Poll<io::Result<T>>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<T>> {
        let standing = self.place.standing();
        if attempt.is_pending() {
            standing.waits(half, cx);
        } else if let Half::Writing = half {
            standing.takes();
        }
        if standing.is_dismissed() {
            let reason = "had to leave for other visitors";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        attempt
    }
}

/// One of those who are counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(watch::Sender<usize>);

impl Counted {
    pub(super) fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
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
        self.unless_dismissed(Half::Reading, read, cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Visit<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.unless_dismissed(Half::Writing, written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Who asks, at a door whose visitors may have to leave.
pub(super) trait Visitor: Clone + Send + Sync + 'static {
    /// What the visitor is doing.
    fn standing(&self) -> &Arc<Standing>;
}

/// Reads each request to its end, then holds the visitor's place until the answer is written.
pub(super) async fn whole_requests<V: Visitor>(
    ConnectInfo(visitor): ConnectInfo<V>,
    request: Request,
    next: Next,
) -> Response {
    let answered = visitor.standing().answering();
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => Body::from(body),
        Err(error) => {
            let response = unreadable(&error).into_response();
            return response.map(|body| Body::new(Answering::new(body, answered, None)));
        }
    };
    let under_way = visitor.standing().begin();
    let response = next.run(Request::from_parts(parts, body)).await;
    response.map(|body| Body::new(Answering::new(body, answered, Some(under_way))))
}

fn unreadable(error: &axum::Error) -> ControlError {
    let message = format!("the body cannot be read ({error}); at most {BODY_BYTES_MAX} bytes");
    ControlError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", message)
}

/// An answer that is being written.
struct Answering {
    body: Body,
    _answered: Answered,
    _under_way: Option<UnderWay>,
}

impl Answering {
    const fn new(body: Body, answered: Answered, under_way: Option<UnderWay>) -> Self {
        Self {
            body,
            _answered: answered,
            _under_way: under_way,
        }
    }
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

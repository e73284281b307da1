//! Bodies that go on: lines of JSON, written at the reader's pace.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;

/// Pieces that wait between the writer and the connection. More would only hide that the reader is
/// slow.
const PIECES: usize = 2;

/// A piece is sent when it has grown to this.
const PIECE_BYTES: usize = 16 << 10;

/// Where lines go. Dropped, the body ends.
#[derive(Debug)]
pub(super) struct Lines {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

/// The reader is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Lines {
    /// Adds a line, waiting for the reader where it is behind.
    pub(super) async fn write(&mut self, line: &impl Serialize) -> Result<(), Gone> {
        // Plain data of ours always serialises.
        if serde_json::to_writer(&mut self.piece, line).is_ok() {
            self.piece.push(b'\n');
        }
        if self.piece.len() >= PIECE_BYTES {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Hands over what there is.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.pieces.send(piece.into()).await.map_err(|_| Gone)
    }

    /// Waits until the reader has gone.
    pub(super) async fn gone(&self) {
        self.pieces.closed().await;
    }
}

struct LinesBody(mpsc::Receiver<Bytes>);

impl hyper::body::Body for LinesBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A response whose body is written by somebody else.
pub(super) fn lines() -> (Lines, Response) {
    let (pieces, receiver) = mpsc::channel(PIECES);
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (CACHE_CONTROL, "no-store"),
    ];
    let response = (headers, Body::new(LinesBody(receiver))).into_response();
    (
        Lines {
            pieces,
            piece: Vec::new(),
        },
        response,
    )
}

//! Bytes in, frames out; no input or output of its own.

use crate::frame::{FrameError, HEADER_BYTES, Header};

/// What one turn of reading asks for at least, in bytes.
const READ_BYTES: usize = 64 << 10;

/// Once empty, a buffer larger than this is given back.
const KEEP_BYTES: usize = 128 << 10;

/// Cuts a stream of bytes into frames.
///
/// Memory grows only with bytes that have really arrived, never with a length that was declared.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    read_bytes: usize,
    keep_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// One frame, borrowed from the decoder until its next use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What stood before the body.
    pub header: Header,
    /// The body.
    pub body: &'a [u8],
}

impl Decoder {
    /// An empty decoder; it reserves nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            read_bytes: READ_BYTES,
            keep_bytes: KEEP_BYTES,
        }
    }

    /// For a reader that is sent much: reads ask for `bytes` at least, and a buffer for several of them
    /// is kept while empty. (With the ordinary sizes a frame of 64 KiB and its header make and give
    /// back a buffer each.)
    #[must_use]
    pub fn reading(bytes: usize) -> Self {
        Self {
            read_bytes: bytes,
            keep_bytes: bytes.saturating_mul(3),
            ..Self::new()
        }
    }

    /// Free room to read into (never empty); follow with [`Self::advance`].
    pub fn space(&mut self) -> &mut [u8] {
        self.make_room(self.read_bytes);
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes have been put into [`Self::space`].
    pub fn advance(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buffer.len());
    }

    /// Takes bytes that were read elsewhere.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        let end = self.end.saturating_add(bytes.len());
        if let Some(room) = self.buffer.get_mut(self.end..end) {
            room.copy_from_slice(bytes);
            self.end = end;
        }
    }

    /// Bytes that wait to become a frame.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets the first `count` waiting bytes (what came before the first frame).
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// When the bytes are no frames; the decoder is of no further use then.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some((head, rest)) = self.pending().split_first_chunk::<HEADER_BYTES>() else {
            self.tidy();
            return Ok(None);
        };
        let header = Header::parse(head)?;
        if rest.len() < header.body_length() {
            return Ok(None);
        }
        let body_start = self.start.saturating_add(HEADER_BYTES);
        self.start = body_start.saturating_add(header.body_length());
        let body = self.buffer.get(body_start..self.start).unwrap_or_default();
        Ok(Some(Frame { header, body }))
    }

    fn tidy(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > self.keep_bytes {
                self.buffer = Vec::new();
            }
        }
    }

    fn make_room(&mut self, bytes: usize) {
        self.tidy();
        if self.buffer.len().saturating_sub(self.end) >= bytes {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end = self.end.saturating_sub(self.start);
        self.start = 0;
        let wanted = self.end.saturating_add(bytes);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::ids::{Fence, RequestId};
    use crate::request::Ping;
    use proptest::prelude::*;

    #[test]
    fn a_declared_length_reserves_nothing() {
        let mut decoder = Decoder::new();
        let header = Header {
            kind: 1,
            flags: 0,
            request: RequestId(1),
            fence: Fence::NONE,
            body_bytes: 1 << 20,
            descriptors: 0,
        };
        decoder.extend(&header.to_bytes());
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.buffer.len() < 1024);
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_however_the_stream_is_cut(
            cuts in proptest::collection::vec(1_usize..50, 1..40),
            count in 1_u64..20,
        ) {
            let mut stream = Vec::new();
            for id in 1..=count {
                stream.extend(frame::encode(&Ping {}, RequestId(id), Fence::NONE).unwrap());
            }
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !stream.is_empty() {
                let cut = cuts.next().unwrap().min(stream.len());
                let rest = stream.split_off(cut);
                decoder.extend(&stream);
                stream = rest;
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame.header.request.0);
                }
            }
            prop_assert_eq!(seen, (1..=count).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::new();
            decoder.extend(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}

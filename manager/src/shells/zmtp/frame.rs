//! Frames of ZMTP 2.0 and 3.0: a byte of flags, a length, a body.
//!
//! The reader holds no more than what has arrived: a length is judged before anything is set aside
//! for it.

/// More frames of the same message follow.
const MORE: u8 = 1;
/// The length has eight bytes instead of one.
const LONG: u8 = 2;
/// Not part of a message.
const COMMAND: u8 = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Part of a message, and more parts follow.
    Part,
    /// The last part of a message.
    Last,
    /// A command of the protocol.
    Command,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why bytes are no frame that is taken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Bits that no version defines, or a command with parts.
    #[error("a frame with flags {0:#04x}")]
    Flags(u8),
    /// A length above the limit.
    #[error("a frame of {bytes} bytes where at most {limit} are taken")]
    TooLong {
        /// As declared.
        bytes: u64,
        /// The bound.
        limit: usize,
    },
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Where the next frame begins in `bytes`.
    next: usize,
    limit: usize,
}

impl FrameReader {
    /// For frames with bodies of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            next: 0,
            limit,
        }
    }

    /// Adds bytes as they arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.next > 0 {
            self.bytes.drain(..self.next);
            self.next = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are not part of a frame given out.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes.len().saturating_sub(self.next)
    }

    /// Those bytes.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.bytes.get(self.next..).unwrap_or_default()
    }

    /// The next whole frame. After an error there is none any more.
    ///
    /// # Errors
    /// When what follows is no frame that is taken here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = self.bytes.get(self.next..).unwrap_or_default();
        let Some((kind, header, length)) = self.parse_header(rest)? else {
            return Ok(None);
        };
        let end = header.saturating_add(length);
        let Some(body) = rest.get(header..end) else {
            return Ok(None);
        };
        let body = body.to_vec();
        self.next = self.next.saturating_add(end);
        if self.next == self.bytes.len() {
            self.bytes.clear();
            self.next = 0;
            // One long frame shall not cost its room for ever.
            self.bytes.shrink_to(4096);
        }
        Ok(Some(Frame { kind, body }))
    }

    /// Kind, bytes of the header, bytes of the body.
    fn parse_header(&self, rest: &[u8]) -> Result<Option<(FrameKind, usize, usize)>, FrameError> {
        let Some((&flags, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let kind = match flags & !LONG {
            0 => FrameKind::Last,
            MORE => FrameKind::Part,
            COMMAND => FrameKind::Command,
            _ => return Err(FrameError::Flags(flags)),
        };
        let (header, declared) = if flags & LONG == 0 {
            match rest.first() {
                Some(&length) => (2, u64::from(length)),
                None => return Ok(None),
            }
        } else {
            match rest.first_chunk::<8>() {
                Some(length) => (9, u64::from_be_bytes(*length)),
                None => return Ok(None),
            }
        };
        match usize::try_from(declared) {
            Ok(length) if length <= self.limit => Ok(Some((kind, header, length))),
            _ => Err(FrameError::TooLong {
                bytes: declared,
                limit: self.limit,
            }),
        }
    }
}

/// Appends a frame.
pub fn write_frame(kind: FrameKind, body: &[u8], to: &mut Vec<u8>) {
    let flags = match kind {
        FrameKind::Last => 0,
        FrameKind::Part => MORE,
        FrameKind::Command => COMMAND,
    };
    match u8::try_from(body.len()) {
        Ok(length) => to.extend_from_slice(&[flags, length]),
        Err(_) => {
            to.push(flags | LONG);
            // A Vec is never longer than isize::MAX.
            to.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    to.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![
            Just(FrameKind::Part),
            Just(FrameKind::Last),
            Just(FrameKind::Command)
        ];
        (kind, proptest::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(kind, body)| Frame { kind, body })
    }

    proptest! {
        #[test]
        fn frames_are_read_as_they_were_written_however_they_are_cut(
            frames in proptest::collection::vec(frame(), 0..8),
            cut in 1_usize..700,
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                write_frame(frame.kind, &frame.body, &mut bytes);
            }
            let mut reader = FrameReader::new(600);
            let mut read = Vec::new();
            for piece in bytes.chunks(cut) {
                reader.extend(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    read.push(frame);
                }
            }
            prop_assert_eq!(read, frames);
            prop_assert_eq!(reader.pending(), 0);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = FrameReader::new(100);
            reader.extend(&bytes);
            while let Ok(Some(frame)) = reader.next_frame() {
                prop_assert!(frame.body.len() <= 100);
            }
        }
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_arrive() {
        for length in [101_u64, 1 << 20, 1 << 36, u64::MAX] {
            let mut reader = FrameReader::new(100);
            reader.extend(&[LONG]);
            reader.extend(&length.to_be_bytes());
            let error = FrameError::TooLong {
                bytes: length,
                limit: 100,
            };
            assert_eq!(reader.next_frame(), Err(error));
        }
        let mut reader = FrameReader::new(100);
        reader.extend(&[COMMAND | MORE, 0]);
        assert_eq!(reader.next_frame(), Err(FrameError::Flags(5)));
    }
}

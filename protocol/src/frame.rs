//! The frame header and how a frame is put together.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `KPL1` |
//! | 4 | 2 | kind |
//! | 6 | 2 | flags (0 in version 1) |
//! | 8 | 8 | request id |
//! | 16 | 8 | fencing number, 0 for none |
//! | 24 | 4 | body length |
//! | 28 | 2 | number of descriptors that travel with the frame |
//! | 30 | 2 | reserved, 0 |
//!
//! All little-endian. Kinds below 0x4000 are requests, 0x4000 to 0x7fff events, from 0x8000 replies.

use crate::codec::{self, CodecError};
use crate::ids::{Fence, RequestId};
use crate::limits::FRAME_BODY_BYTES_MAX;
use serde::Serialize;
use thiserror::Error;

/// First four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"KPL1";

/// Bytes in a frame header.
pub const HEADER_BYTES: usize = 32;

/// Where the number of descriptors stands in a header.
const DESCRIPTORS_AT: usize = 28;

/// First kind that is an event.
pub const KIND_EVENT_FIRST: u16 = 0x4000;

/// First kind that is a reply.
pub const KIND_REPLY_FIRST: u16 = 0x8000;

/// A message with its permanent number.
pub trait Message {
    /// The frame kind.
    const KIND: u16;
    /// Its name in documents and errors.
    const NAME: &'static str;
}

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message the body is.
    pub kind: u16,
    /// None are defined in version 1; unknown ones are ignored.
    pub flags: u16,
    /// Matches reply to request.
    pub request: RequestId,
    /// The lease under which a request acts.
    pub fence: Fence,
    /// Bytes in the body.
    pub body_bytes: u32,
    /// Descriptors that travel with it (unix sessions only).
    pub descriptors: u16,
}

/// Why bytes are not a frame; nothing that follows them can be trusted, so the session ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The magic is missing.
    #[error("not a frame: it begins with {0:02x?} instead of \"KPL1\"")]
    BadMagic([u8; 4]),
    /// The declared length is out of bounds.
    #[error("frame of kind {kind:#06x} declares {length} bytes; at most {limit} are taken")]
    TooLong {
        /// The frame's kind.
        kind: u16,
        /// What it declares.
        length: u32,
        /// What is allowed.
        limit: usize,
    },
}

impl Header {
    /// Reads a header and checks its length field against the limit of the protocol.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, k0, k1, f0, f1, rest @ ..] = *bytes;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::BadMagic(magic));
        }
        let [r0, r1, r2, r3, r4, r5, r6, r7, rest @ ..] = rest;
        let [n0, n1, n2, n3, n4, n5, n6, n7, l0, l1, l2, l3, d0, d1, _, _] = rest;
        let header = Self {
            kind: u16::from_le_bytes([k0, k1]),
            flags: u16::from_le_bytes([f0, f1]),
            request: RequestId(u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7])),
            fence: Fence(u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7])),
            body_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            descriptors: u16::from_le_bytes([d0, d1]),
        };
        if header.body_length() > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLong {
                kind: header.kind,
                length: header.body_bytes,
                limit: FRAME_BODY_BYTES_MAX,
            });
        }
        Ok(header)
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields: [&[u8]; 7] = [
            &MAGIC,
            &self.kind.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.request.0.to_le_bytes(),
            &self.fence.0.to_le_bytes(),
            &self.body_bytes.to_le_bytes(),
            &self.descriptors.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Bytes in the body, as a length.
    #[must_use]
    pub fn body_length(&self) -> usize {
        usize::try_from(self.body_bytes).unwrap_or(usize::MAX)
    }
}

/// The whole frame of a message.
///
/// # Errors
/// When the message is too long for a frame.
pub fn encode<M: Message + Serialize>(
    message: &M,
    request: RequestId,
    fence: Fence,
) -> Result<Vec<u8>, CodecError> {
    encode_kind(M::KIND, message, request, fence)
}

/// As [`encode`], for a kind that is known at run time only.
///
/// # Errors
/// When the message is too long for a frame.
pub(crate) fn encode_kind<T: Serialize>(
    kind: u16,
    body: &T,
    request: RequestId,
    fence: Fence,
) -> Result<Vec<u8>, CodecError> {
    let body = codec::encode(body)?;
    let header = Header {
        kind,
        flags: 0,
        request,
        fence,
        body_bytes: u32::try_from(body.len()).map_err(|_| CodecError::TooLong(body.len()))?,
        descriptors: 0,
    };
    let mut frame = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Says in the header of a whole frame that a descriptor travels with it.
pub fn announce_descriptor(frame: &mut [u8]) {
    if let Some(count) = frame.get_mut(DESCRIPTORS_AT..DESCRIPTORS_AT + 2) {
        count.copy_from_slice(&1_u16.to_le_bytes());
    }
}

/// Declares a family of messages: an enum over them, their kinds, and decoding by kind.
macro_rules! messages {
    ($(#[$doc:meta])* $family:ident { $($(#[$vdoc:meta])* $name:ident = $kind:literal,)* }) => {
        $(
            impl $crate::frame::Message for $name {
                const KIND: u16 = $kind;
                const NAME: &'static str = stringify!($name);
            }
            impl From<$name> for $family {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )*

        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $family {
            $($(#[$vdoc])* $name($name),)*
        }

        impl $family {
            /// Every kind of this family with its name.
            pub const KINDS: &'static [(u16, &'static str)] =
                &[$(($kind, stringify!($name)),)*];

            /// Its frame kind.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $kind,)* }
            }

            /// Its name in documents and errors.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            /// Reads the body of a frame of `kind`; `None` for a kind that this build does not
            /// know.
            ///
            /// # Errors
            /// When the body is no such message.
            pub fn decode(
                kind: u16,
                body: &[u8],
            ) -> Result<Option<Self>, $crate::codec::CodecError> {
                match kind {
                    $($kind => $crate::codec::decode(body).map(|m| Some(Self::$name(m))),)*
                    _ => Ok(None),
                }
            }

            /// The whole frame.
            ///
            /// # Errors
            /// When the message is too long for a frame.
            pub fn encode(
                &self,
                request: $crate::ids::RequestId,
                fence: $crate::ids::Fence,
            ) -> Result<Vec<u8>, $crate::codec::CodecError> {
                match self {
                    $(Self::$name(m) =>
                        $crate::frame::encode_kind($kind, m, request, fence),)*
                }
            }
        }
    };
}
pub(crate) use messages;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: 0x1234,
            flags: 0,
            request: RequestId(7),
            fence: Fence(9),
            body_bytes: 5,
            descriptors: 0,
        }
    }

    #[test]
    fn header_survives_the_wire() {
        assert_eq!(Header::parse(&header().to_bytes()), Ok(header()));
    }

    #[test]
    fn an_announced_descriptor_changes_nothing_else() {
        let mut bytes = header().to_bytes();
        announce_descriptor(&mut bytes);
        let announced = Header {
            descriptors: 1,
            ..header()
        };
        assert_eq!(Header::parse(&bytes), Ok(announced));
        announce_descriptor(&mut []);
    }

    #[test]
    fn a_length_past_the_limit_is_refused_before_anything_is_reserved() {
        let mut long = header();
        long.body_bytes = u32::MAX;
        assert!(matches!(
            Header::parse(&long.to_bytes()),
            Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn text_is_not_a_frame() {
        assert!(matches!(
            Header::parse(b"GET / HTTP/1.1\r\nHost: localhost\r"),
            Err(FrameError::BadMagic(_))
        ));
    }
}

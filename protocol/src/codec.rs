//! The one place that knows which codec frame bodies and saved state use: bincode 2 with fixed-size
//! little-endian integers. Two functions, so that a successor means changing one file.
//! `docs/decisions/codec.md` says why this codec.

use crate::limits::FRAME_BODY_BYTES_MAX;
use bincode::config;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why bytes and a message do not fit together.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The message cannot be written, in practice because it is too long.
    #[error("message cannot be encoded: {0}")]
    Encode(String),
    /// The encoded message is longer than a frame may be.
    #[error("message has {0} bytes; a frame takes at most {FRAME_BODY_BYTES_MAX}")]
    TooLong(usize),
    /// The bytes are not such a message.
    #[error("bytes are no such message: {0}")]
    Decode(String),
    /// The message is whole but bytes follow it.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
}

/// The limit stops the decoder from believing a length inside the body: it never reserves more
/// than a whole frame could hold.
fn configuration()
-> config::Configuration<config::LittleEndian, config::Fixint, config::Limit<FRAME_BODY_BYTES_MAX>>
{
    config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<FRAME_BODY_BYTES_MAX>()
}

/// The bytes of a message.
///
/// # Errors
/// [`CodecError::TooLong`] past [`FRAME_BODY_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(message, configuration())
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    if bytes.len() > FRAME_BODY_BYTES_MAX {
        return Err(CodecError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// The message that exactly these bytes are.
///
/// # Errors
/// When they are not, or when some are left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (message, used) = bincode::serde::decode_from_slice(bytes, configuration())
        .map_err(|error| CodecError::Decode(error.to_string()))?;
    match bytes.len().saturating_sub(used) {
        0 => Ok(message),
        left => Err(CodecError::Trailing(left)),
    }
}

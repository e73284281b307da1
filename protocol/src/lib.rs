//! What the process kernel and everything that talks to it share: frames, versions, limits, names,
//! and a client library.
//!
//! Kernels run for years, so this crate is compatible for years: a released struct is frozen, and
//! evolution adds message kinds and negotiated capabilities. `docs/protocol.md` describes the wire
//! for other languages; the files in `protocol/golden/` hold every message to its bytes.
//!
//! Nothing here knows what a kernel does with a request, and nothing but [`client::blocking`],
//! [`client::mapped`] and [`peer`] (a feature) asks the system for anything.

#![deny(unsafe_code)]

pub mod bytes;
pub mod client;
pub mod codec;
pub mod decoder;
pub mod error;
pub mod event;
pub mod frame;
pub mod hello;
pub mod ids;
pub mod limits;
pub mod names;
#[cfg(feature = "peer")]
pub mod peer;
pub mod places;
pub mod record;
pub mod reply;
pub mod request;
pub mod ring;
pub mod spec;
pub mod status;
#[expect(unsafe_code, reason = "the one module that takes over descriptors")]
mod sys;

pub use bytes::ByteString;
pub use error::{ErrorCode, ErrorReply};
pub use ids::{Fence, ProcessId, RequestId, Sequence};

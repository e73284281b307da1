//! Talking to a process kernel.
//!
//! [`connection`] is the conversation without input or output, for any event loop; [`blocking`]
//! puts it on a socket for programs that have none. `docs/examples/host_children.rs` is a whole
//! program on top of it.

pub mod blocking;
pub mod connection;
pub mod mapped;

pub use crate::sys::{Descriptors, receive_with_descriptors};
pub use blocking::{Client, ClientError};
pub use connection::{Connection, ConnectionError, Incoming};
pub use mapped::{Copied, MappedRing, MappedRingError};

//! The server's side of ZMTP, the wire protocol of ZeroMQ: as much of it as Circus's clients need.
//!
//! [`connection`] turns bytes into messages and back without touching a socket; [`router`] and
//! [`publisher`] are ZeroMQ's sockets of these names on top of it. Everything a peer can make grow
//! has its bound in [`limits`]. Nothing here knows what a message means.
//!
//! The protocol is ZMTP 3.0 (rfc.zeromq.org/spec/23) with the NULL mechanism, which every libzmq
//! since 4.0 speaks to a server that greets with it; those of 3.x speak 2.0 (spec/15), whose frames
//! are the same. Older ones are refused.

pub mod carry;
mod complaints;
pub mod connection;
pub mod frame;
pub mod greeting;
pub mod limits;
pub mod listener;
pub mod message;
pub mod publisher;
pub mod router;
mod stream;
pub mod subscriptions;

pub use carry::{CarriedConnection, CarriedState, Carry};
pub use connection::{Connection, Event, Role, Violation};
pub use listener::{Admission, Listener};
pub use publisher::Publisher;

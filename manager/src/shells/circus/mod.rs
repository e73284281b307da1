//! Circus's own clients: circusctl, circus-top, plugins and people's scripts, over ZeroMQ and
//! unmodified. The second translator of the command vocabulary, beside [`super::control`].
//!
//! [`endpoints`] opens what the configuration names; [`service`] answers requests; [`events`] tells
//! what happens, and [`feed`] what processes use. How it looks on the wire is fixed by Circus, not by
//! us; `docs/circus-compatibility.md` says where ours differs.

pub mod discovery;
pub mod endpoints;
pub mod events;
pub mod feed;
mod info;
mod json;
mod options;
mod reply;
mod request;
pub mod service;
mod sockets;
mod statistics;
mod translate;

pub use self::statistics::statistics_for_hooks;

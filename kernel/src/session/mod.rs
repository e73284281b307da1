//! Between bytes and requests. Bounded, and without input or output of its own.

pub mod framed;
pub mod queue;

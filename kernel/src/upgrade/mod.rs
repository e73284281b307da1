//! The kernel's upgrade in place: the same process runs another program, and everything goes on.
//!
//! What is in shared memory stays there. [`saved_state`] carries the rest: sessions with their
//! half-read requests and unsent answers, and the numbers of all descriptors. [`rehearse`] lets the
//! candidate read all of it before anything happens. [`witness`] stands by where there is no guard. Nothing
//! here touches a running kernel.

pub mod rehearse;
pub mod saved_state;
pub mod witness;

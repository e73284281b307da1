//! The guard: the kernel's parent, which makes `kill -9` of the kernel harmless.
//!
//! It holds duplicates of every descriptor and of the shared memory, starts the kernel, publishes
//! the ends of children that a dead kernel left to it, and starts the next kernel, which inherits
//! all of it. It interprets nothing and has no reason to die; if it does, the kernel takes its
//! place. What the two agree on is in shared memory; the link between them only carries descriptors.

pub mod client;
pub mod held;
pub mod image;
pub mod link;
pub mod pace;
pub mod role;
pub mod run;
pub mod shared;
pub mod store;

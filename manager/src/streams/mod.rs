//! Log files: output reaches them effectively once, whoever is killed and whenever.
//!
//! | file | concept |
//! |---|---|
//! | `position` | places in a child's output |
//! | `feed` | what was read of one source and is not yet in its file |
//! | `format`, `render`, `notice` | how lines look, frozen by version |
//! | `compose` | from records to a batch, and the same batch again |
//! | `value` | what the kernel remembers of a sink |
//! | `judge` | what of a batch is in the file after a crash |
//! | `rotate`, `schedule` | rotation by size and by time |
//! | `target` | where output can go |
//! | `sink`, `writer` | all sinks and sources together |
//! | `disk` | what the writer needs from the world |
//!
//! The algorithm is written down in `docs/decisions/log-once.md`. Everything but the thread is pure
//! in the sense that the simulation in `model` runs the very same code and can cut it between any
//! two calls.

pub mod compose;
pub mod disk;
#[cfg(test)]
mod fault;
pub mod feed;
pub mod format;
pub mod judge;
pub mod limits;
#[cfg(test)]
mod model;
pub mod notice;
pub mod position;
pub mod render;
pub mod rotate;
pub mod schedule;
pub mod sink;
pub mod target;
pub mod value;
pub mod writer;

//! What survives a `kill -9` of the kernel: slots, journal and output rings in memory files.
//!
//! Shared memory is the truth. Every change is one aligned store that either happened or did not,
//! so a successor that maps the same files finds a consistent state whatever the moment of death.
//! Nothing here knows requests, sessions or timers.

pub mod bounce;
pub mod check;
pub mod cursor;
pub mod held;
#[cfg(test)]
pub(crate) mod images;
pub mod journal;
pub mod layout;
pub mod read_cell;
mod repair;
pub mod ring;
pub mod slot;
pub mod state_memory;

pub use bounce::Bounce;
pub use cursor::{DamagedRing, EofBits, RecordHeader, RingCursor, Sequence, Stream};
pub use held::{HeldKind, HeldPlace, Tag};
pub use journal::{Fill, Journal, JournalError, Purpose, RecordKind};
pub use read_cell::{OverflowPolicy, ReadError, ReadOutcome, Reading};
pub use ring::{Gap, ReadMark, Record, Ring, RingSize};
pub use slot::{Abort, ChildFailure, End, EndStatus, EndedBy, Intent, Slot, SlotState};
pub use state_memory::{Epoch, MemoryError, ProcessId, SlotIndex, StateMemory};

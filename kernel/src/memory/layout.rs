//! Where everything lies in the state and journal files. Frozen per layout version.
//!
//! All words are little-endian and naturally aligned; all that two processes touch are atomics.
//!
//! # State file
//! | offset | what |
//! |---|---|
//! | 0 | header, one page ([`HeaderWords`]) |
//! | 4096 | held table: [`HELD_MAX`] entries of 16 bytes ([`HeldWords`]), written by the guard only |
//! | [`SLOTS_OFFSET`] | [`SLOTS_MAX`] slots of 256 bytes ([`SlotWords`]) |
//!
//! ## Header
//! | offset | word | meaning |
//! |---|---|---|
//! | 0 | u64 | magic [`STATE_MAGIC`] |
//! | 8, 12 | u32, u32 | layout version, bytes per slot |
//! | 16 | u64 | bytes of the whole file |
//! | 24, 32 | u64, u64 | offset and entries of the held table |
//! | 40, 48 | u64, u64 | offset and number of slots |
//! | 56 | u64 | messages of the present kernel that the guard has dealt with; written by the guard |
//! | 64 | u64 | `epoch`: incarnations of the kernel; an upgrade in place does not count |
//! | 72 | u64 | `next_id`: the next process id; stored before the id is used |
//! | 80 | u64 | `min_epoch`: the first epoch whose children belong to the present guard |
//! | 88 | u64 | slots ever used (high-water mark): no slot at or above it was ever touched |
//! | 96 | u64 | held entries ever used, likewise |
//! | 128 | u64 | `jactive`: generation << 1, low bit selects the half of the journal |
//! | 192 | u64 | read cell `owner`: 0, or slot number + 1, with the stream in bit 32 |
//! | 200 | u64 | read cell `pos`: position of the record being read |
//! | 208 | u64 | read cell `m`: bytes moved into the bounce pipe, or all ones while unknown |
//! | 256, 260 | i32, i32 | pid of the kernel, pid of the guard |
//!
//! ## Slot (256 bytes)
//! | offset | word | meaning | writer |
//! |---|---|---|---|
//! | 0 | u32 | state: 0 free, 1 intent, 2 run | kernel |
//! | 4 | i32 | pid: where `CLONE_PARENT_SETTID` points | Linux, child |
//! | 8 | u64 | process id | kernel |
//! | 16 | u64 | epoch of the kernel that cloned | kernel |
//! | 24 | u64 | hash of the client's key | kernel |
//! | 32 | u32 | claim: low 30 bits of the id << 2, or'ed with 0 open, 1 claimed, 2 aborted | child, successor |
//! | 36, 40 | u32, i32 | step and errno of a failure between clone and exec | child |
//! | 44 | u32 | flags, meaning private to the decision core | kernel |
//! | 48 | u64 | time of the intent, nanoseconds since 1970 | kernel |
//! | 64 | u32 | `ended`: 0, or 1 once the words below are complete | reaper |
//! | 68 | i32 | wait status (`code << 8`, or signal with 0x80 for a core), -1 unknown | reaper |
//! | 72 | u32 | who reaped: 1 kernel, 2 guard, 3 somebody else | reaper |
//! | 80 | u64 | time of the end, nanoseconds since 1970 | reaper |
//! | 88, 96 | u64 | user and system time, microseconds | reaper |
//! | 104 | u64 | largest resident size, KB | reaper |
//! | 112, 120 | u64 | records and bytes dropped because the ring was full (for people; a kill may miss the last drop) | kernel |
//! | 128 | u64 | `sel`: generation of the control block, its low bit selects the copy | kernel |
//! | 136, 192 | 7 x u64 | two copies: head, tail, next seq, stdout bytes, stderr bytes, eof bits, check | kernel |
//!
//! # Journal file
//! | offset | what |
//! |---|---|
//! | 0 | header, one page ([`JournalHeaderWords`]): magic, version, bytes of a half |
//! | 4096 | half 0, then half 1 |
//!
//! A half starts with its head word (u64, bytes of records), records from byte 64 on.
//! Record: `len u32, kind u32 (bit 31: must understand), check u64`, payload, padding to 8.
//!
//! # Ring file
//! Data from offset 0 (position modulo data size is the offset), then one page that is reserved for
//! the copies of head and tail that mapped readers will look at; it stays a hole until there are
//! any. Record: the 32-byte header of `kingpole_protocol::record`, payload, padding to 32.

use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

/// "KPSTATE1", as a little-endian word.
pub const STATE_MAGIC: u64 = u64::from_le_bytes(*b"KPSTATE1");
/// "KPJOURN1", as a little-endian word.
pub const JOURNAL_MAGIC: u64 = u64::from_le_bytes(*b"KPJOURN1");
/// Version of everything on this page; a file with another one is refused.
pub const LAYOUT_VERSION: u32 = 1;
/// Bytes of a page. Offsets are frozen with it, so it is not asked of Linux.
pub const PAGE: u64 = 4096;
/// Child processes that can be held at once. Untouched slots cost nothing.
pub const SLOTS_MAX: usize = 32_768;
/// Descriptors the guard can hold: four per child, and room for listeners.
pub const HELD_MAX: usize = 4 * SLOTS_MAX + 8192;
/// Offset of the held table in the state file.
pub const HELD_OFFSET: usize = offset_of!(StateWords, held);
/// Offset of the first slot in the state file.
pub const SLOTS_OFFSET: usize = offset_of!(StateWords, slots);
/// Bytes of the state file.
pub const STATE_BYTES: usize = size_of::<StateWords>();

/// Slot state: may be allocated.
pub const SLOT_FREE: u32 = 0;
/// Slot state: a spawn was begun and its outcome is not known yet.
pub const SLOT_INTENT: u32 = 1;
/// Slot state: the program was started.
pub const SLOT_RUN: u32 = 2;

/// Claim word: nobody has decided.
pub const CLAIM_OPEN: u32 = 0;
/// Claim word: the child goes on to exec.
pub const CLAIM_CHILD: u32 = 1;
/// Claim word: a successor gave the spawn up; a late child exits.
pub const CLAIM_ABORTED: u32 = 2;

/// Read cell: the number of bytes in the bounce pipe is not recorded yet.
pub const CELL_UNKNOWN: u64 = u64::MAX;

/// Wait status in a slot when nobody can tell how the process ended.
pub const STATUS_UNKNOWN: i32 = -1;

/// All of the state file.
#[repr(C)]
#[derive(Debug)]
pub struct StateWords {
    /// First page.
    pub header: HeaderWords,
    /// Descriptors the guard holds; only the guard writes here.
    pub held: [HeldWords; HELD_MAX],
    /// Child processes.
    pub slots: [SlotWords; SLOTS_MAX],
}

/// The words of the state file's first page.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct HeaderWords {
    /// [`STATE_MAGIC`].
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub version: AtomicU32,
    /// Bytes per slot.
    pub slot_bytes: AtomicU32,
    /// Bytes of the file.
    pub bytes: AtomicU64,
    /// Offset of the held table.
    pub held_offset: AtomicU64,
    /// Entries of the held table.
    pub held_count: AtomicU64,
    /// Offset of the slots.
    pub slots_offset: AtomicU64,
    /// Number of slots.
    pub slots_count: AtomicU64,
    /// Messages of the present kernel that the guard has dealt with.
    pub link_handled: AtomicU64,
    /// Incarnations of the kernel.
    pub epoch: AtomicU64,
    /// The next process id.
    pub next_id: AtomicU64,
    /// First epoch whose children belong to the present guard.
    pub min_epoch: AtomicU64,
    /// Slots ever used.
    pub slots_used: AtomicU64,
    /// Held entries ever used.
    pub held_used: AtomicU64,
    /// Unused, zero.
    pub reserved_1: [AtomicU64; 3],
    /// Journal generation and half.
    pub journal_active: AtomicU64,
    /// Unused, zero.
    pub reserved_2: [AtomicU64; 7],
    /// Read cell: owner.
    pub cell_owner: AtomicU64,
    /// Read cell: position.
    pub cell_position: AtomicU64,
    /// Read cell: bytes moved.
    pub cell_moved: AtomicU64,
    /// Unused, zero.
    pub reserved_3: [AtomicU64; 5],
    /// Pid of the kernel.
    pub kernel_pid: AtomicI32,
    /// Pid of the guard.
    pub guard_pid: AtomicI32,
}

/// One descriptor the guard holds. `tag` is stored last and cleared first.
#[repr(C)]
#[derive(Debug)]
pub struct HeldWords {
    /// `process or socket id << 8 | kind`; 0 is an empty entry.
    pub tag: AtomicU64,
    /// The guard's number for it.
    pub fd: AtomicI32,
    /// Unused, zero.
    pub reserved: AtomicU32,
}

/// One copy of the control block.
#[repr(C)]
#[derive(Debug)]
pub struct ControlWords {
    /// Position behind the newest record.
    pub head: AtomicU64,
    /// Position of the oldest record.
    pub tail: AtomicU64,
    /// Sequence number of the next record.
    pub next_seq: AtomicU64,
    /// Bytes read from standard output so far.
    pub stdout_bytes: AtomicU64,
    /// Bytes read from standard error so far.
    pub stderr_bytes: AtomicU64,
    /// Bit 0: standard output is at its end, bit 1: standard error.
    pub eof: AtomicU64,
    /// Check over the six words before and the process id.
    pub check: AtomicU64,
}

/// One child process.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SlotWords {
    /// [`SLOT_FREE`], [`SLOT_INTENT`] or [`SLOT_RUN`].
    pub state: AtomicU32,
    /// Pid, 0 until there is one.
    pub pid: AtomicI32,
    /// Process id: never used twice.
    pub id: AtomicU64,
    /// Epoch of the kernel that cloned.
    pub epoch: AtomicU64,
    /// Hash of the client's key.
    pub key_hash: AtomicU64,
    /// Who may decide about an unfinished spawn.
    pub claim: AtomicU32,
    /// Step that failed between clone and exec.
    pub failed_step: AtomicU32,
    /// Its errno; 0 is no failure.
    pub failed_errno: AtomicI32,
    /// Private to the decision core.
    pub flags: AtomicU32,
    /// Time of the intent.
    pub started_ns: AtomicU64,
    /// Unused, zero.
    pub reserved_0: AtomicU64,
    /// 1 once the end is complete.
    pub ended: AtomicU32,
    /// Wait status.
    pub status: AtomicI32,
    /// Who reaped.
    pub ended_by: AtomicU32,
    /// Unused, zero.
    pub reserved_1: AtomicU32,
    /// Time of the end.
    pub ended_ns: AtomicU64,
    /// User time, microseconds.
    pub user_us: AtomicU64,
    /// System time, microseconds.
    pub system_us: AtomicU64,
    /// Largest resident size, KB.
    pub max_rss_kb: AtomicU64,
    /// Records dropped because the ring was full.
    pub dropped_records: AtomicU64,
    /// Their bytes.
    pub dropped_bytes: AtomicU64,
    /// Generation of the control block; the low bit selects the copy.
    pub selected: AtomicU64,
    /// The two copies.
    pub control: [ControlWords; 2],
    /// Unused, zero.
    pub reserved_3: AtomicU64,
}

/// The words of the journal file's first page.
#[repr(C)]
#[derive(Debug)]
pub struct JournalHeaderWords {
    /// [`JOURNAL_MAGIC`].
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub version: AtomicU64,
    /// Bytes of one half.
    pub half_bytes: AtomicU64,
}

const _: () = {
    assert!(size_of::<SlotWords>() == 256 && align_of::<SlotWords>() == 64);
    assert!(offset_of!(SlotWords, pid) == 4 && offset_of!(SlotWords, claim) == 32);
    assert!(offset_of!(SlotWords, failed_step) == 36 && offset_of!(SlotWords, failed_errno) == 40);
    assert!(offset_of!(SlotWords, flags) == 44 && offset_of!(SlotWords, started_ns) == 48);
    assert!(offset_of!(SlotWords, ended) == 64 && offset_of!(SlotWords, ended_ns) == 80);
    assert!(offset_of!(SlotWords, max_rss_kb) == 104 && offset_of!(SlotWords, selected) == 128);
    assert!(offset_of!(SlotWords, control) == 136 && size_of::<ControlWords>() == 56);
    assert!(offset_of!(HeaderWords, epoch) == 64 && offset_of!(HeaderWords, journal_active) == 128);
    assert!(offset_of!(HeaderWords, cell_owner) == 192);
    assert!(offset_of!(HeaderWords, kernel_pid) == 256);
    assert!(size_of::<HeldWords>() == 16 && HELD_OFFSET == 4096);
    assert!(SLOTS_OFFSET == HELD_OFFSET + 16 * HELD_MAX && SLOTS_OFFSET.is_multiple_of(4096));
    assert!(STATE_BYTES == SLOTS_OFFSET + 256 * SLOTS_MAX && SLOTS_MAX.is_power_of_two());
};

//! Noticing that children ended: look, publish, reap, in this order and whoever does it.
//!
//! One sweep finds all: run it on SIGCHLD and once at start. It knows slots, not processes by name.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use crate::crash::crash_point;
use crate::memory::{End, EndStatus, EndedBy, SlotIndex, StateMemory};
use crate::sys::wait::{After, Blocking, Ended, Whom, wait_ended};

/// A child that was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// A child of ours; its end is in its slot.
    Child {
        /// Which.
        slot: SlotIndex,
        /// Its pid, free for reuse from now on.
        pid: i32,
        /// As published.
        end: End,
    },
    /// Somebody without a slot: a grandchild that was orphaned, or a helper program. It is gone.
    Orphan {
        /// Its pid.
        pid: i32,
        /// How it ended.
        end: End,
    },
}

/// Takes every ended child: publishes its end into the slot that `find` gives for its pid, then
/// reaps. Never waits.
///
/// `find` must give only slots that are in use, have not ended, and whose process is a child of
/// *this* process: for the kernel those of its own epoch, for the guard those from
/// [`StateMemory::min_epoch`] on. [`StateMemory::find_running`] does this by looking through all.
///
/// # Errors
/// That of `waitid`; having no children is not one.
pub fn sweep(
    state: &StateMemory,
    by: EndedBy,
    mut find: impl FnMut(i32) -> Option<SlotIndex>,
) -> Result<Vec<Reaped>, Errno> {
    let mut reaped = Vec::new();
    loop {
        let ended = match wait_ended(Whom::Any, After::Look, Blocking::NoHang) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::ECHILD) => return Ok(reaped),
            Err(cause) => return Err(cause),
        };
        reaped.push(reap_one(state, by, &ended, find(ended.pid))?);
    }
}

fn reap_one(
    state: &StateMemory,
    by: EndedBy,
    ended: &Ended,
    slot: Option<SlotIndex>,
) -> Result<Reaped, Errno> {
    let pid = ended.pid;
    let end = end_from(ended, now_ns());
    if let Some(slot) = slot {
        state.slot(slot).publish_end(&end, by);
    }
    wait_ended(Whom::Pid(pid), After::Reap, Blocking::NoHang)?;
    crash_point("end: after reap");
    Ok(match slot {
        Some(slot) => Reaped::Child { slot, pid, end },
        None => Reaped::Orphan { pid, end },
    })
}

pub(crate) fn end_from(ended: &Ended, time_ns: u64) -> End {
    End {
        status: EndStatus::from_wait_status(ended.wait_status),
        time_ns,
        user_us: ended.user_us,
        system_us: ended.system_us,
        max_rss_kb: ended.max_rss_kb,
    }
}

impl End {
    /// The end of a process that somebody else reaps: noticed now, and nobody tells what it used.
    #[must_use]
    pub fn now(status: EndStatus) -> Self {
        Self {
            status,
            time_ns: now_ns(),
            user_us: 0,
            system_us: 0,
            max_rss_kb: 0,
        }
    }
}

/// Nanoseconds since 1970, as stamped on records and ends.
#[must_use]
pub fn now_ns() -> u64 {
    #[cfg(test)]
    if let Some(simulated) = crate::sys::simulated::now_ns() {
        return simulated;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

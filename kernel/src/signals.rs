//! Sending signals so that a recycled pid is never hit.
//!
//! Everything goes through pidfds. Relatives are found in `/proc`; each is looked at again after
//! its pidfd was opened, so a pid that changed hands in between is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};

use kingpole_protocol::request::SignalTarget;
use nix::errno::Errno;
use thiserror::Error;

use crate::sys::process::{pidfd_open, pidfd_send_signal};

/// Rounds of looking for relatives: a tree that forks while it is signalled is followed this far.
const ROUNDS_MAX: usize = 8;

/// A signal that reached nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignalError {
    /// There is nobody (any more) whom it would be for.
    #[error("there is no such process (it has ended)")]
    Gone,
    /// Linux does not know the signal.
    #[error("signal {signal} does not exist")]
    NoSuchSignal {
        /// Its number.
        signal: i32,
    },
    /// Nobody of those concerned could be signalled.
    #[error("cannot send signal {signal}: {}", cause.desc())]
    Refused {
        /// Its number.
        signal: i32,
        /// Why not, for the first of them.
        cause: Errno,
    },
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// How many processes got it.
    pub processes: usize,
    /// How many could not be signalled (another user's, for an ordinary user's kernel).
    pub refused: usize,
}

/// One process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    parent: i32,
    session: i32,
    /// Start time in clock ticks: tells two holders of one pid apart.
    started: u64,
}

/// Sends `signal` (0 only checks) to the child with this pid and pidfd, or to its relatives.
///
/// Each child leads a session, so `Group` means all process groups of that session: a shell's
/// background jobs have groups of their own. `Tree` and `Descendants` follow parents, and count
/// everything of the child's session as well, so that orphans whose parent has gone are found.
///
/// # Errors
/// When nobody got it.
pub fn send(
    pid: i32,
    pidfd: BorrowedFd<'_>,
    signal: i32,
    target: SignalTarget,
) -> Result<Delivered, SignalError> {
    if !(0..=libc::SIGRTMAX()).contains(&signal) {
        return Err(SignalError::NoSuchSignal { signal });
    }
    let mut sending = Sending {
        signal,
        delivered: Delivered::default(),
        cause: None,
    };
    // The child itself last: while it lives (or is a zombie of ours) its pid and session are its
    // own, so its relatives can still be told from strangers.
    match target {
        SignalTarget::Process => {}
        SignalTarget::Group => sending.send_to_relatives(|looks| members(looks, pid, Kin::Session)),
        SignalTarget::Tree | SignalTarget::Descendants => {
            sending.send_to_relatives(|looks| members(looks, pid, Kin::Descendants));
        }
        SignalTarget::Children => {
            sending.send_to_relatives(|looks| members(looks, pid, Kin::Children));
        }
    }
    if matches!(
        target,
        SignalTarget::Process | SignalTarget::Group | SignalTarget::Tree
    ) {
        sending.send_to(pidfd);
    }
    sending.outcome()
}

/// Pids of everything below `pid`, whatever its session, and of its session; without itself.
#[must_use]
pub fn descendants(pid: i32) -> BTreeSet<i32> {
    members(&look_at_all(), pid, Kin::Descendants)
}

struct Sending {
    signal: i32,
    delivered: Delivered,
    cause: Option<Errno>,
}

impl Sending {
    fn send_to(&mut self, pidfd: BorrowedFd<'_>) {
        match pidfd_send_signal(pidfd, self.signal) {
            Ok(()) => self.delivered.processes += 1,
            Err(Errno::ESRCH) => {}
            Err(cause) => {
                self.delivered.refused += 1;
                self.cause.get_or_insert(cause);
            }
        }
    }

    /// Again and again until a round finds nobody new.
    fn send_to_relatives(&mut self, choose: impl Fn(&BTreeMap<i32, Look>) -> BTreeSet<i32>) {
        let mut reached = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let looks = look_at_all();
            let mut is_new = false;
            for pid in choose(&looks) {
                let Some(look) = looks.get(&pid) else {
                    continue;
                };
                if !reached.insert((pid, look.started)) {
                    continue;
                }
                if let Some(pidfd) = open_same(pid, look) {
                    is_new = true;
                    self.send_to(std::os::fd::AsFd::as_fd(&pidfd));
                }
            }
            if !is_new {
                break;
            }
        }
    }

    fn outcome(self) -> Result<Delivered, SignalError> {
        let signal = self.signal;
        match (self.delivered.processes, self.cause) {
            (0, Some(cause)) => Err(SignalError::Refused { signal, cause }),
            (0, None) => Err(SignalError::Gone),
            _ => Ok(self.delivered),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kin {
    Session,
    Descendants,
    Children,
}

fn members(looks: &BTreeMap<i32, Look>, root: i32, kin: Kin) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    if kin != Kin::Children {
        let in_session = looks.iter().filter(|(_, look)| look.session == root);
        found.extend(in_session.map(|(pid, _)| *pid));
    }
    if kin != Kin::Session {
        let mut children = BTreeMap::<i32, Vec<i32>>::new();
        for (pid, look) in looks {
            children.entry(look.parent).or_default().push(*pid);
        }
        let mut parents = vec![root];
        if kin == Kin::Descendants {
            parents.extend(&found);
        }
        let mut done = BTreeSet::new();
        while let Some(parent) = parents.pop() {
            if !done.insert(parent) {
                continue;
            }
            for child in children.get(&parent).into_iter().flatten() {
                found.insert(*child);
                if kin == Kin::Descendants {
                    parents.push(*child);
                }
            }
        }
    }
    found.remove(&root);
    found
}

/// A pidfd for the process that was looked at, or `None` if the pid has changed hands since.
fn open_same(pid: i32, look: &Look) -> Option<OwnedFd> {
    let pidfd = pidfd_open(pid).ok()?;
    let again = look_at(pid)?;
    (again.started == look.started && again.session == look.session).then_some(pidfd)
}

fn look_at_all() -> BTreeMap<i32, Look> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, look_at(pid)?)))
        .collect()
}

fn look_at(pid: i32) -> Option<Look> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 4, 6 and 22 of proc(5)'s stat. The name in field 2 may hold anything, even `)`.
fn parse_stat(stat: &[u8]) -> Option<Look> {
    let behind = stat
        .iter()
        .rposition(|byte| *byte == b')')?
        .checked_add(1)?;
    let rest = std::str::from_utf8(stat.get(behind..)?).ok()?;
    let fields = rest.split_ascii_whitespace().collect::<Vec<_>>();
    Some(Look {
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Whether `pid` has called exec since it was forked (`PF_FORKNOEXEC` in field 9 of proc(5)'s
/// stat); `None` when there is no such process.
#[must_use]
pub fn has_called_exec(pid: i32) -> Option<bool> {
    /// From the Linux sources; 1 after fork and vfork, cleared by exec.
    const PF_FORKNOEXEC: u32 = 0x40;
    #[cfg(test)]
    if let Some(simulated) = crate::sys::simulated::has_called_exec(pid) {
        return simulated;
    }
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind = stat
        .iter()
        .rposition(|byte| *byte == b')')?
        .checked_add(1)?;
    let rest = std::str::from_utf8(stat.get(behind..)?).ok()?;
    let flags = rest.split_ascii_whitespace().nth(6)?.parse::<u32>().ok()?;
    Some(flags & PF_FORKNOEXEC == 0)
}

#[cfg(test)]
mod tests;

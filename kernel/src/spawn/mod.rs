//! Starting child processes.
//!
//! Three steps, because the caller has things to do between them (`docs/architecture.md`):
//! 1. [`Spawner::prepare`] checks the plan and makes pipes and strings. Nothing runs yet.
//! 2. The caller fills its slot ([`crate::memory::Slot::begin`]), journals the intent and gives the
//!    read ends and the ring to the guard.
//! 3. [`Spawner::start`] clones and execs. Then the caller marks the slot as running, or frees it.
//!
//! This module knows nothing of names, sessions or journals.

mod error;
mod plan;
mod prepare;
mod resolve;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::crash::crash_point;
use crate::memory::layout::{CLAIM_CHILD, CLAIM_OPEN};
use crate::memory::slot::claim_word;
use crate::memory::{ChildFailure, EndedBy, Slot};
use crate::reap::{end_from, now_ns};
use crate::sys::child::{ChildStack, changed_signals};
use crate::sys::process::{make_dumpable, pidfd_open, pidfd_send_signal};
use crate::sys::wait::{After, Blocking, Whom, wait_ended};

pub use crate::sys::child::Step;
pub use error::SpawnError;
pub use plan::{Limit, OutputPlan, Passed, SpawnPlan, StdinPlan, UserPlan};
use prepare::Inheritance;
pub use prepare::{PreparedSpawn, ReadEnds};
pub use resolve::{Resolution, resolve};

/// What children need that does not change from one to the next.
#[derive(Debug)]
pub struct Spawner {
    stack: ChildStack,
    null: OwnedFd,
    inheritance: Inheritance,
}

/// A child whose program was started.
#[derive(Debug)]
pub struct Started {
    /// Its pid.
    pub pid: i32,
    /// For signals, and for noticing an end that somebody else reaps.
    pub pidfd: OwnedFd,
}

impl Spawner {
    /// Maps the stack and opens `/dev/null`. Make it after signal dispositions have been set: what children must not inherit of them is found out here, once.
    ///
    /// # Errors
    /// No memory, or no `/dev/null`.
    pub fn new() -> Result<Self, SpawnError> {
        let stack = ChildStack::new().map_err(|cause| SpawnError::Kernel {
            action: "map a stack for children",
            cause,
        })?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| {
                let cause = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                SpawnError::Kernel {
                    action: "open /dev/null",
                    cause,
                }
            })?;
        let inheritance = Inheritance {
            oom_score: None,
            changed_signals: changed_signals(),
        };
        Ok(Self {
            stack,
            null: null.into(),
            inheritance,
        })
    }

    /// Children get this `oom_score_adj`, because this process has changed its own.
    pub fn restore_oom_score(&mut self, score: Option<i32>) {
        self.inheritance.oom_score = score;
    }

    /// Checks `plan` and makes everything that does not need a process: strings, pipes, order of
    /// descriptors.
    ///
    /// # Errors
    /// The plan contradicts itself, or descriptors ran out.
    pub fn prepare(&self, plan: &SpawnPlan) -> Result<PreparedSpawn, SpawnError> {
        PreparedSpawn::new(plan, self.null.as_fd(), self.inheritance)
    }

    /// Starts the program; returns once it runs or has failed. Closes our write ends of its pipes.
    ///
    /// `slot` must have been begun. On success it holds the pid; mark it as running once the guard
    /// has the descriptors. On failure no process is left, its end (if there was a process) has been
    /// published, and the slot can be released.
    ///
    /// # Errors
    /// Which step failed, on what, and why.
    pub fn start(
        &mut self,
        mut prepared: PreparedSpawn,
        slot: Slot<'_>,
    ) -> Result<Started, SpawnError> {
        let claim = (
            claim_word(slot.id(), CLAIM_OPEN),
            claim_word(slot.id(), CLAIM_CHILD),
        );
        let job = prepared.job(claim);
        crash_point("spawn: before clone");
        let pid = self
            .stack
            .run(job, slot.words())
            .map_err(|cause| SpawnError::Kernel {
                action: "make a process",
                cause,
            })?;
        crash_point("spawn: after clone");
        let changed_user = job.identity.is_some();
        prepared.close_write_ends();
        if changed_user {
            // Harmless if refused: it only matters to whoever wants a core file of the kernel.
            let _ = make_dumpable();
        }
        crash_point("spawn: write ends closed");
        if let Some(failure) = slot.failure() {
            reap_failed(pid, slot)?;
            return Err(prepared.explain(failure));
        }
        match pidfd_open(pid) {
            Ok(pidfd) => Ok(Started { pid, pidfd }),
            Err(cause) => {
                // Without a pidfd it could not be signalled safely: take it back. It is ours and
                // not reaped, so the pid is its own.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::SIGKILL,
                );
                reap_failed(pid, slot)?;
                Err(SpawnError::Kernel {
                    action: "open a pidfd",
                    cause,
                })
            }
        }
    }
}

/// Checks that a pidfd still refers to a process that was not reaped.
#[must_use]
pub fn is_present(pidfd: impl AsFd) -> bool {
    pidfd_send_signal(pidfd, 0) != Err(Errno::ESRCH)
}

/// Publish before reap, here as everywhere: a successor could not resolve the intent otherwise.
fn reap_failed(pid: i32, slot: Slot<'_>) -> Result<(), SpawnError> {
    let lost = |cause| SpawnError::Kernel {
        action: "wait for a failed child",
        cause,
    };
    crash_point("spawn failure: before publish");
    let looked = wait_ended(Whom::Pid(pid), After::Look, Blocking::Wait).map_err(lost)?;
    if let Some(ended) = looked {
        slot.publish_end(&end_from(&ended, now_ns()), EndedBy::Kernel);
    }
    wait_ended(Whom::Pid(pid), After::Reap, Blocking::Wait).map_err(lost)?;
    crash_point("spawn failure: after reap");
    Ok(())
}

/// The text for a failure that an earlier kernel's child left in its slot, when only the slot is
/// known (a repeated request after a crash).
#[must_use]
pub fn explain_without_plan(failure: ChildFailure) -> SpawnError {
    error::child_error(failure, &|_, _| None)
}

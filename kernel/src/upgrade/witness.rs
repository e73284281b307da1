//! Who sees to an upgrade of a kernel without a guard: a copy of the process, made right before the exec,
//! with a copy of every descriptor. Should the program that the kernel becomes die or hang, the copy becomes
//! a guard, which starts the program before. Otherwise it is gone as soon as that program serves.

use crate::crash::resume_patience;
use crate::sys::process::{Copied, copy_process, end_now, pidfd_open, pidfd_send_signal};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long a process takes at most to be gone after its descriptors were closed.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// The end of whoever is witnessed; it stays open through exec.
#[derive(Debug)]
pub struct Witnessed(OwnedFd);

/// What became of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The new program serves, or the one before goes on.
    Well,
    /// It died.
    Dead,
    /// It does neither.
    Hangs,
}

impl Witnessed {
    /// From what the program before left open.
    #[must_use]
    pub const fn new(tells: OwnedFd) -> Self {
        Self(tells)
    }

    /// To be kept open through exec.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// All is well: the witness may go.
    pub fn dismiss(self) {
        // It may be gone: then nobody waits.
        let _ = File::from(self.0).write_all(&[1]);
    }
}

/// Makes a witness, for which `take_over` becomes a guard: it returns only if that failed.
///
/// # Errors
/// No process can be made.
pub fn leave_witness(take_over: impl FnOnce(&'static str) -> Errno) -> Result<Witnessed, Errno> {
    let (hears, tells) = pipe2(OFlag::O_CLOEXEC)?;
    let witnessed = pidfd_open(std::process::id().cast_signed())?;
    match copy_process()? {
        Copied::Original => return Ok(Witnessed(tells)),
        Copied::Copy => drop(tells),
    }
    let reason = match watch(hears, &witnessed) {
        Fate::Well => end_now(0),
        Fate::Dead => "died",
        Fate::Hangs => "hung",
    };
    // Whatever it does now would be done by two.
    let _ = pidfd_send_signal(&witnessed, libc::SIGKILL);
    wait_for(&witnessed, PollTimeout::NONE);
    let _ = take_over(reason);
    end_now(1)
}

/// Waits until it is known. Its own timers end or turn back a program that hangs within a second time its
/// patience; this is for one that does not even let them.
fn watch(hears: OwnedFd, witnessed: &OwnedFd) -> Fate {
    let patience = resume_patience().saturating_mul(4);
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut polled = [
        PollFd::new(hears.as_fd(), PollFlags::POLLIN),
        PollFd::new(witnessed.as_fd(), PollFlags::POLLIN),
    ];
    loop {
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return Fate::Hangs,
            Ok(_) => break,
        }
    }
    if polled.first().and_then(PollFd::any) != Some(true) {
        return Fate::Dead;
    }
    let mut word = [0];
    if matches!(File::from(hears).read(&mut word), Ok(1..)) {
        return Fate::Well;
    }
    // Nobody has the other end any more: it is dead, or older than witnesses and has closed what it does
    // not know, which it does once nothing can fail any more.
    let breath = PollTimeout::try_from(LAST_BREATH).unwrap_or(PollTimeout::MAX);
    if wait_for(witnessed, breath) {
        Fate::Dead
    } else {
        Fate::Well
    }
}

/// Whether it is dead within this time.
fn wait_for(witnessed: &OwnedFd, timeout: PollTimeout) -> bool {
    let mut polled = [PollFd::new(witnessed.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => {}
            found => return found.is_ok_and(|count| count > 0),
        }
    }
}

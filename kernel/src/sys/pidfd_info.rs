//! How a process ended that somebody else reaps.

use std::os::fd::{AsFd, AsRawFd};

use super::process::pidfd_send_signal;
use nix::errno::Errno;

/// What can be found out about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has not ended.
    Runs,
    /// It has, with this wait status.
    Ended(i32),
    /// It has, and nobody can tell how.
    Unknown,
}

/// `struct pidfd_info` of linux/pidfd.h, its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, then user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: since Linux 6.15, for a process that was reaped.
const INFO_EXIT: u64 = 1 << 3;

/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong =
    (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xff << 8) | 11;

/// Looks how the process behind a pidfd, which had the number `pid`, fares.
///
/// A zombie that nobody has reaped tells it in `/proc`, a reaped one (from Linux 6.15 on) by its
/// pidfd.
#[must_use]
pub fn fate(pidfd: impl AsFd, pid: i32) -> Fate {
    #[cfg(test)]
    if let Some(fate) = super::simulated::fate(pidfd.as_fd()) {
        return fate;
    }
    if let Some((state, status)) = look(pid)
        // While it can be signalled it was not reaped, so the number was its own.
        && pidfd_send_signal(&pidfd, 0) != Err(Errno::ESRCH)
    {
        return if matches!(state, 'Z' | 'X') {
            Fate::Ended(status)
        } else {
            Fate::Runs
        };
    }
    match exit_info(&pidfd) {
        Some(status) => Fate::Ended(status),
        None => Fate::Unknown,
    }
}

fn exit_info(pidfd: impl AsFd) -> Option<i32> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the structure is valid for writing, and its size is part of the request number.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO, &raw mut info) };
    (result == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// State and exit code, fields 3 and 52 of proc(5)'s stat.
fn look(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let code = fields.nth(48)?.parse().ok()?;
    Some((state, code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::pidfd_open;
    use crate::sys::wait::{After, Blocking, Whom, wait_ended};
    use std::process::Command;

    #[test]
    fn zombies_and_reaped_processes_tell_how_they_ended() {
        #[expect(
            clippy::zombie_processes,
            reason = "collected below, by the means under test"
        )]
        let child = Command::new("/bin/sh")
            .args(["-c", "exit 42"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        wait_ended(Whom::Pid(pid), After::Look, Blocking::Wait).unwrap();
        assert_eq!(fate(&pidfd, pid), Fate::Ended(42 << 8), "a zombie");
        wait_ended(Whom::Pid(pid), After::Reap, Blocking::Wait).unwrap();
        let reaped = fate(&pidfd, pid);
        assert!(
            matches!(reaped, Fate::Ended(10752) | Fate::Unknown),
            "{reaped:?}"
        );
    }

    #[test]
    fn a_running_process_has_no_fate_yet() {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        assert_eq!(fate(&pidfd, pid), Fate::Runs);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

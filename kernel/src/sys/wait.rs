//! `waitid`, raw: with resource use, and looking without reaping.

use nix::errno::Errno;

/// Whom to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Any child.
    Any,
    /// The child with this pid.
    Pid(i32),
}

/// Whether the ended child stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It stays a zombie.
    Look,
    /// It is gone, and its pid may be reused.
    Reap,
}

/// Whether to wait until there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// Wait.
    Wait,
    /// Give `None` at once.
    NoHang,
}

/// A child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its pid.
    pub pid: i32,
    /// Its wait status, as `wait4` gives it.
    pub wait_status: i32,
    /// User time, microseconds.
    pub user_us: u64,
    /// System time, microseconds.
    pub system_us: u64,
    /// Largest resident size, KB.
    pub max_rss_kb: u64,
}

/// Looks for an ended child.
///
/// # Errors
/// `ECHILD` when there is no such child; `EINTR` is retried.
pub fn wait_ended(whom: Whom, after: After, blocking: Blocking) -> Result<Option<Ended>, Errno> {
    #[cfg(test)]
    if let Some(waited) = super::simulated::wait(whom, after) {
        return waited;
    }
    let (kind, pid) = match whom {
        Whom::Any => (libc::P_ALL, 0),
        Whom::Pid(pid) => (libc::P_PID, pid),
    };
    let mut options = libc::WEXITED;
    if after == After::Look {
        options |= libc::WNOWAIT;
    }
    if blocking == Blocking::NoHang {
        options |= libc::WNOHANG;
    }
    // SAFETY: both are plain C structures for which all zero is a value.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    loop {
        // SAFETY: both pointers are valid for writing for the whole call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                kind,
                pid,
                &raw mut info,
                options,
                &raw mut usage,
            )
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(cause),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid filled in the SIGCHLD fields, or left all zero when nothing has ended.
    let (pid, code) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let wait_status = match info.si_code {
        libc::CLD_EXITED => (code & 0xff) << 8,
        libc::CLD_DUMPED => (code & 0x7f) | 0x80,
        _ => code & 0x7f,
    };
    Ok(Some(Ended {
        pid,
        wait_status,
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        max_rss_kb: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }))
}

fn microseconds(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_usec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(rest)
}

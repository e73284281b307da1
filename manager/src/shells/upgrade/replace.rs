//! Becoming the candidate.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;

use super::rehearse::own_arguments;
use super::{CARRIED_VERSION, Carried, Plan, RELEASE};
use crate::shells::control::next::CarriedVisitor;
use crate::shells::place::ManagerLock;
use crate::shells::zmtp::CarriedConnection;
use crate::sys;

/// Signals that the change must not be lost to: they are taken up by the next program.
const HELD_BACK: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
];

/// Becomes the candidate, or if that cannot be executed, this program again, which then goes on.
/// Returns only when neither is possible, with the reason.
pub fn go(
    plan: &Plan,
    lock: &ManagerLock,
    connections: Vec<CarriedConnection>,
    visitors: &[CarriedVisitor],
) -> String {
    match try_go(plan, lock, connections, visitors) {
        Ok(never) => match never {},
        Err(reason) => reason,
    }
}

fn try_go(
    plan: &Plan,
    lock: &ManagerLock,
    mut connections: Vec<CarriedConnection>,
    visitors: &[CarriedVisitor],
) -> Result<std::convert::Infallible, String> {
    if !plan.takes_connections {
        // Their peers connect again.
        connections.clear();
    }
    let before = File::open("/proc/self/exe").map_err(|error| error.to_string())?;
    let carried = Carried {
        version: CARRIED_VERSION,
        lock: lock.number(),
        program_before: before.as_raw_fd(),
        lease: plan.lease.map(|(instance, fence)| (instance, fence.0)),
        attempt: plan.attempt,
        from: RELEASE.to_owned(),
        left_ns: plan.left_ns,
        command_line: command_line(),
        connections: connections
            .iter()
            .map(|connection| (connection.socket.as_raw_fd(), connection.state.clone()))
            .collect(),
        visitors: visitors
            .iter()
            .map(|visitor| (visitor.socket.as_raw_fd(), visitor.unread.clone()))
            .collect(),
    };
    let memory = write(&carried)?;
    hold_signals_back();
    let numbers = [carried.lock, carried.program_before, memory.as_raw_fd()];
    sys::let_through(&numbers);
    let numbers: Vec<RawFd> = carried
        .connections
        .iter()
        .map(|(number, _)| *number)
        .chain(carried.visitors.iter().map(|(number, _)| *number))
        .collect();
    sys::let_through(&numbers);
    // The next program has no handler before it says so, and is ended then: that is what it is for.
    alarm::set(u32::try_from(plan.patience.as_secs().max(1)).unwrap_or(u32::MAX));
    let program = c_string(plan.program.as_os_str().to_owned())?;
    let arguments = arguments(&carried.command_line, memory.as_raw_fd(), None)?;
    let error = sys::become_program(&program, &arguments);
    alarm::cancel();
    let reason = format!(
        "{}: cannot be executed: {}",
        plan.program.display(),
        error.desc()
    );
    Err(become_before(&carried, memory.as_raw_fd(), &reason))
}

/// Becomes the program before, with its own command line; returns only when that is impossible, with
/// all reasons.
pub(super) fn become_before(carried: &Carried, memory: RawFd, reason: &str) -> String {
    let again = || -> Result<nix::errno::Errno, String> {
        let program = c_string(program_path(carried.program_before))?;
        let arguments = arguments(&carried.command_line, memory, Some(reason))?;
        Ok(sys::become_program(&program, &arguments))
    };
    let error = again().map_or_else(|error| error, |error| error.desc().to_owned());
    format!("{reason}; and the program before cannot be executed: {error}")
}

pub(super) fn program_path(number: RawFd) -> OsString {
    format!("/proc/self/fd/{number}").into()
}

/// Ours, without what concerned this start only.
fn command_line() -> Vec<Vec<u8>> {
    let first = std::env::args_os().next().unwrap_or_default();
    let all = std::iter::once(first).chain(own_arguments());
    all.map(OsString::into_vec).collect()
}

/// The whole command line of the next program.
pub(super) fn arguments(
    command_line: &[Vec<u8>],
    memory: RawFd,
    reason: Option<&str>,
) -> Result<Vec<CString>, String> {
    let mut all: Vec<OsString> = command_line
        .iter()
        .map(|argument| OsString::from_vec(argument.clone()))
        .collect();
    all.push("--resume".into());
    all.push(memory.to_string().into());
    if let Some(reason) = reason {
        all.push("--resume-reason".into());
        all.push(reason.replace('\0', " ").into());
    }
    all.into_iter().map(c_string).collect()
}

pub(super) fn c_string(text: OsString) -> Result<CString, String> {
    let shown = Path::new(&text).display().to_string();
    CString::new(text.into_vec()).map_err(|_| format!("{shown:?} has a zero byte in it"))
}

fn write(carried: &Carried) -> Result<OwnedFd, String> {
    let memory = memfd_create(c"kingpole-manager upgrade", MFdFlags::MFD_CLOEXEC)
        .map_err(|error| format!("no memory file: {}", error.desc()))?;
    let mut file = File::from(memory);
    let text = serde_json::to_vec(carried).map_err(|error| error.to_string())?;
    file.write_all(&text).map_err(|error| error.to_string())?;
    Ok(file.into())
}

fn held_back() -> SigSet {
    HELD_BACK.into_iter().collect()
}

fn hold_signals_back() {
    // If it fails, a signal in the next milliseconds ends the manager, as it may at any time.
    let _ = held_back().thread_block();
}

/// Once they are listened to, they come through.
pub fn let_signals_come() {
    let _ = held_back().thread_unblock();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_next_command_line_is_ours_and_says_where_to_go_on() {
        let all = arguments(&command_line(), 7, Some("it\0hung")).unwrap();
        let texts: Vec<&[u8]> = all.iter().map(|text| text.as_bytes()).collect();
        let own = std::env::args_os().next().unwrap();
        assert_eq!(texts[0], own.as_bytes());
        let end: [&[u8]; 4] = [b"--resume", b"7", b"--resume-reason", b"it hung"];
        assert!(texts.ends_with(&end), "{all:?}");
    }
}

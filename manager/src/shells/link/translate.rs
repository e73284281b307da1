//! From the kernel's words to the engine's. Pure.

use kingpole_protocol as protocol;
use kingpole_protocol::status::{EndStatus, ProcessInfo};
use kingpole_protocol::{ErrorCode, ErrorReply};
use nix::errno::Errno;

use crate::config::model::Resource;
use crate::engine::{
    EndCause, HeldProcess, Moment, Pid, ProcessEnd, ProcessId, SignalTarget, SpawnErrorKind,
    SpawnFailure,
};
use crate::shells::clock::Clocks;

/// A process as the engine sees it.
pub(super) fn held(info: ProcessInfo, clocks: Clocks) -> HeldProcess {
    let pid = pid(info.pid);
    let ended = info.end.map(|end| process_end(&end, clocks));
    // Only of a running process can Linux say when it started: afterwards the pid may be another's.
    let started = match ended {
        None => clocks.started(pid.0, info.started_ns),
        Some(_) => clocks.moment_of(info.started_ns),
    };
    HeldProcess {
        id: ProcessId(info.process.0),
        name: info.name,
        pid,
        labels: info.labels,
        started,
        ended,
    }
}

/// How and when a process ended.
pub(super) fn process_end(end: &protocol::status::End, clocks: Clocks) -> ProcessEnd {
    ProcessEnd {
        cause: cause(end.status),
        at: clocks.moment_of(end.time_ns),
    }
}

/// A start as the kernel stamped it.
pub(super) fn started(info: &ProcessInfo, clocks: Clocks) -> Moment {
    clocks.moment_of(info.started_ns)
}

/// Linux's number; the kernel sends it as the signed type of system calls.
pub(super) fn pid(pid: i32) -> Pid {
    Pid(u32::try_from(pid).unwrap_or(0))
}

fn cause(status: EndStatus) -> EndCause {
    match status {
        EndStatus::Exited(code) => match u8::try_from(code) {
            Ok(code) => EndCause::Exited(code),
            Err(_) => EndCause::Unknown,
        },
        EndStatus::Signaled {
            signal,
            core_dumped,
        } => EndCause::Signaled {
            signal,
            core: core_dumped,
        },
        EndStatus::Unknown => EndCause::Unknown,
    }
}

/// How wide a signal is spread, for the kernel.
pub(super) const fn target(target: SignalTarget) -> protocol::request::SignalTarget {
    use kingpole_protocol::request::SignalTarget as Wire;
    match target {
        SignalTarget::Process => Wire::Process,
        SignalTarget::Group => Wire::Group,
        SignalTarget::Tree => Wire::Tree,
        SignalTarget::Descendants => Wire::Descendants,
        SignalTarget::Children => Wire::Children,
    }
}

/// Why a spawn was refused.
pub(super) fn spawn_failure(error: ErrorReply) -> SpawnFailure {
    SpawnFailure {
        kind: spawn_error_kind(&error),
        option: option_of(&error),
        error: error.message,
    }
}

/// The option that a step of a spawn follows. Which limit it was stands in the kernel's sentence only.
fn option_of(error: &ErrorReply) -> Option<String> {
    let option = match error.step.as_str() {
        "exec" => "cmd",
        "working-directory" => "working_dir",
        "user" => "uid",
        "group" | "groups" => "gid",
        "limit" => {
            let (_, after) = error.message.split_once("set resource limit ")?;
            let name = after.split_whitespace().next()?;
            return Some(format!("rlimit_{}", Resource::from_name(name)?));
        }
        _ => return None,
    };
    Some(option.to_owned())
}

/// Whether a refused spawn can be expected to succeed later.
fn spawn_error_kind(error: &ErrorReply) -> SpawnErrorKind {
    let shortage = matches!(
        Errno::from_raw(error.errno),
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC
    );
    match error.code {
        // The name of a process that is about to end is free soon.
        ErrorCode::LIMIT | ErrorCode::SYSTEM | ErrorCode::ALREADY_EXISTS | ErrorCode::PENDING => {
            SpawnErrorKind::Transient
        }
        _ if shortage => SpawnErrorKind::Transient,
        _ => SpawnErrorKind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_permanent_and_a_shortage_is_not() {
        let mut error = ErrorReply::new(ErrorCode::SPAWN_FAILED, "x");
        error.errno = libc::ENOENT;
        assert_eq!(spawn_error_kind(&error), SpawnErrorKind::Permanent);
        error.errno = libc::EAGAIN;
        assert_eq!(spawn_error_kind(&error), SpawnErrorKind::Transient);
        let full = ErrorReply::new(ErrorCode::LIMIT, "x");
        assert_eq!(spawn_error_kind(&full), SpawnErrorKind::Transient);
    }

    #[test]
    fn a_step_that_failed_is_told_as_the_option_that_it_follows() {
        let of = |step: &str, text: &str| {
            let mut error = ErrorReply::new(ErrorCode::SPAWN_FAILED, text);
            error.step = step.to_owned();
            spawn_failure(error).option
        };
        assert_eq!(of("exec", "x").as_deref(), Some("cmd"));
        assert_eq!(of("groups", "x").as_deref(), Some("gid"));
        let limit = "process \"p\": cannot set resource limit nofile to 9 (at most 9): no";
        assert_eq!(of("limit", limit).as_deref(), Some("rlimit_nofile"));
        assert_eq!(of("limit", "cannot set resource limit 99 to 9"), None);
        assert_eq!(of("signals", "x"), None);
    }

    #[test]
    fn an_exit_code_that_linux_does_not_know_is_an_unknown_end() {
        assert_eq!(cause(EndStatus::Exited(255)), EndCause::Exited(255));
        assert_eq!(cause(EndStatus::Exited(-3)), EndCause::Unknown);
    }
}

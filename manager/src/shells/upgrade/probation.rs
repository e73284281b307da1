//! The first moments of a manager that took over from another program in the same process: until it
//! is healthy, whatever ends it makes the process the program before again.

use std::fs;
use std::os::fd::OwnedFd;
use std::panic;
use std::sync::{Mutex, PoisonError};

use kingpole_protocol::Fence;
use nix::unistd::alarm;

use super::replace::{arguments, become_before, c_string, program_path};
use super::{CARRIED_VERSION, Carried, RELEASE, Report, Resumed};
use crate::shells::control::next::CarriedVisitor;
use crate::shells::zmtp::CarriedConnection;
use crate::sys::{self, Armed, Fallback};

/// What a signal means for whoever is on probation.
const MEANINGS: [(i32, &str); 7] = [
    (libc::SIGALRM, "the new manager was not healthy in time"),
    (libc::SIGSEGV, "the new manager crashed (SIGSEGV)"),
    (libc::SIGBUS, "the new manager crashed (SIGBUS)"),
    (libc::SIGILL, "the new manager crashed (SIGILL)"),
    (libc::SIGFPE, "the new manager crashed (SIGFPE)"),
    (libc::SIGABRT, "the new manager crashed (SIGABRT)"),
    (libc::SIGSYS, "the new manager crashed (SIGSYS)"),
];

struct Probation {
    armed: Armed,
    /// Of the same open file as the manager's lock, so that it is held until we know.
    lock: (i32, OwnedFd),
    /// The program before.
    before: (i32, OwnedFd),
    /// What it left, and where.
    carried: Carried,
    memory: (i32, OwnedFd),
    /// Of the same connections as those that wait to be served.
    connections: Vec<(i32, OwnedFd)>,
}

/// The one of this process.
static PROBATION: Mutex<Option<Probation>> = Mutex::new(None);

/// Takes up what the program before left under the number `memory`. With a `reason` this is the
/// program before, again; else probation begins.
///
/// # Errors
/// When nothing sound was left. On probation, [`fail`] is what is to be done then.
pub fn begin(memory: i32, reason: Option<String>) -> Result<Resumed, String> {
    let text = fs::read_to_string(format!("/proc/self/fd/{memory}"))
        .map_err(|error| format!("what the program before left cannot be read: {error}"))?;
    let carried: Carried = serde_json::from_str(&text)
        .map_err(|error| format!("what the program before left is not understood: {error}"))?;
    if carried.version != CARRIED_VERSION {
        let version = carried.version;
        return Err(format!(
            "the program before left version {version}; 1 is known"
        ));
    }
    let lease = carried
        .lease
        .map(|(instance, fence)| (instance, Fence(fence)));
    let report = Report {
        attempt: carried.attempt,
        from: carried.from.clone(),
        to: RELEASE.to_owned(),
        reason: reason.clone(),
        took_ms: 0,
    };
    let adopt = |number| {
        sys::adopt_descriptor(number)
            .map(|fd| (number, fd))
            .map_err(|error| format!("descriptor {number} of the program before: {error}"))
    };
    let (memory, before) = (adopt(memory)?, adopt(carried.program_before)?);
    let lock = adopt(carried.lock)?;
    let copy = lock
        .1
        .try_clone()
        .map_err(|error| format!("the lock of the program before: {error}"))?;
    let left_ns = carried.left_ns;
    let (mut connections, mut kept) = (Vec::new(), Vec::new());
    for (number, state) in &carried.connections {
        // One that cannot be had is one that its peer has to make again.
        if let Ok((number, own)) = adopt(*number)
            && let Ok(socket) = own.try_clone()
        {
            kept.push((number, own));
            let state = state.clone();
            connections.push(CarriedConnection { socket, state });
        }
    }
    let mut visitors = Vec::new();
    for (number, unread) in &carried.visitors {
        if let Ok((number, own)) = adopt(*number)
            && let Ok(socket) = own.try_clone()
        {
            kept.push((number, own));
            let unread = unread.clone();
            visitors.push(CarriedVisitor { socket, unread });
        }
    }
    if reason.is_none() {
        watch(carried, lock, before, memory, kept)?;
    }
    Ok(Resumed {
        lock: copy,
        lease,
        report,
        connections,
        visitors,
        left_ns,
    })
}

fn watch(
    carried: Carried,
    lock: (i32, OwnedFd),
    before: (i32, OwnedFd),
    memory: (i32, OwnedFd),
    connections: Vec<(i32, OwnedFd)>,
) -> Result<(), String> {
    let mut all = Vec::new();
    for (signal, meaning) in MEANINGS {
        all.push((
            signal,
            arguments(&carried.command_line, memory.0, Some(meaning))?,
        ));
    }
    let fallback = Fallback {
        program: c_string(program_path(before.0))?,
        arguments: all,
        descriptors: [lock.0, before.0, memory.0]
            .into_iter()
            .chain(connections.iter().map(|(number, _)| *number))
            .collect(),
    };
    let armed = sys::arm(fallback).map_err(|error| format!("signals: {error}"))?;
    *place() = Some(Probation {
        armed,
        lock,
        before,
        carried,
        memory,
        connections,
    });
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        usual(info);
        fail(&format!("the new manager has a fault: {info}"));
    }));
    Ok(())
}

fn place() -> std::sync::MutexGuard<'static, Option<Probation>> {
    PROBATION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process is on probation.
#[must_use]
pub fn is_on() -> bool {
    place().is_some()
}

/// It is healthy: there is no way back any more.
pub fn pass() {
    if let Some(probation) = place().take() {
        alarm::cancel();
        sys::disarm(probation.armed);
    }
}

/// On probation, becomes the program before. Else, and if that is impossible, returns.
pub fn fail(reason: &str) {
    let Some(probation) = place().take() else {
        return;
    };
    alarm::cancel();
    let numbers = [probation.lock.0, probation.before.0, probation.memory.0];
    sys::let_through(&numbers);
    let connections = probation.connections.iter();
    let numbers: Vec<i32> = connections.map(|(number, _)| *number).collect();
    sys::let_through(&numbers);
    let reason = become_before(&probation.carried, probation.memory.0, reason);
    eprintln!("kingpole: upgrade: {reason}");
}

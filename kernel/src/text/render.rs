//! What the things that are held look like as lines.

use crate::text::make_process::{SHELL_ARGUMENTS, SHELL_LABEL};
use crate::text::users::OwnIdentity;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::status::{
    End, EndStatus, KernelStatus, LeaseInfo, OutputInfo, ProcessInfo, SessionInfo, SocketInfo,
};
use std::fmt::{self, Display, Formatter};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Unix time in seconds with six decimals, as clients parse it.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(
    /// Nanoseconds since 1970.
    pub u64,
);

impl Display for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / SECOND_NS, self.0 % SECOND_NS / 1000)
    }
}

/// A span of time as a person says it: `5s`, `3m20s`, `2h05m`, `12d03h`.
#[derive(Debug, Clone, Copy)]
pub struct Span(
    /// Nanoseconds.
    pub u64,
);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / SECOND_NS;
        match seconds {
            0..60 => write!(f, "{seconds}s"),
            60..3600 => write!(f, "{}m{:02}s", seconds / 60, seconds % 60),
            3600..86400 => write!(f, "{}h{:02}m", seconds / 3600, seconds / 60 % 60),
            _ => write!(f, "{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
        }
    }
}

/// Appends bytes of a client in a way that keeps them on one line: a line end shows as `\n`.
pub fn push_on_one_line(to: &mut Vec<u8>, bytes: &[u8]) {
    for (number, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if number > 0 {
            to.extend_from_slice(b"\\n");
        }
        to.extend_from_slice(part);
    }
}

fn push(to: &mut Vec<u8>, text: impl Display) {
    to.extend_from_slice(text.to_string().as_bytes());
}

/// A process's line in `list processes`, without a line end.
pub fn push_process(to: &mut Vec<u8>, info: &ProcessInfo, own: OwnIdentity) {
    let running = if info.end.is_none() { "True" } else { "False" };
    let started = Timestamp(info.started_ns);
    push(
        to,
        format_args!(
            "{} pid={} running={running} started={started}",
            info.name, info.pid
        ),
    );
    if info.uid != own.uid {
        push(to, format_args!(" uid={}", info.uid));
    }
    if info.gid != own.gid {
        push(to, format_args!(" gid={}", info.gid));
    }
    let mut arguments = info.arguments.as_slice();
    if let Some(shell) = info.labels.get(SHELL_LABEL) {
        push(to, format_args!(" shell={shell}"));
        arguments = arguments.get(SHELL_ARGUMENTS.len()..).unwrap_or_default();
    }
    for (number, argument) in arguments.iter().enumerate() {
        to.extend_from_slice(if number == 0 { b" args=" } else { b" " });
        push_on_one_line(to, argument);
    }
}

/// A socket's line in `list sockets`, without a line end.
pub fn push_socket(to: &mut Vec<u8>, info: &SocketInfo) {
    push_socket_spec(to, &info.spec);
    if let Some(fileno) = info.fileno {
        push(to, format_args!(" fileno={fileno}"));
    }
}

fn push_socket_spec(to: &mut Vec<u8>, spec: &SocketSpec) {
    let SocketSpec {
        name,
        address,
        kind,
        backlog,
        interface,
        reuseport,
    } = spec;
    let family = match address {
        SocketAddress::Unix { .. } => "unix",
        SocketAddress::Inet { .. } => "inet",
        SocketAddress::Inet6 { .. } => "inet6",
    };
    let kind = match kind {
        SocketKind::Stream => "stream",
        SocketKind::Datagram => "dgram",
        SocketKind::SeqPacket => "seqpacket",
    };
    push(
        to,
        format_args!("{name} family={family} type={kind} backlog={backlog}"),
    );
    match address {
        SocketAddress::Unix { path, umask } => {
            to.extend_from_slice(b" path=");
            push_on_one_line(to, path);
            if let Some(umask) = umask {
                push(to, format_args!(" umask={umask}"));
            }
        }
        SocketAddress::Inet { host, port } | SocketAddress::Inet6 { host, port } => {
            push(to, format_args!(" host={host} port={port}"));
        }
    }
    if let Some(interface) = interface {
        push(to, format_args!(" interface={interface}"));
    }
    if *reuseport {
        push(to, " reuseport=1");
    }
}

/// A value's line in `list values`, without a line end.
pub fn push_value(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    push(to, key);
    to.push(b' ');
    push_on_one_line(to, value);
}

/// What stands before the bytes of a record in a batch. The bytes follow, then a line end.
#[must_use]
pub fn record_header(word: &str, name: &str, time_ns: u64, length: usize) -> String {
    format!("{word}:{name}:{}:{length}\n", Timestamp(time_ns))
}

/// A process's end in a batch.
#[must_use]
pub fn closed_line(name: &str, end: &End) -> String {
    format!(
        "closed:{name}:{}:{}\n",
        Timestamp(end.time_ns),
        end.status.code()
    )
}

/// A process's line in `stats`, with the bytes of output that are kept for it.
#[must_use]
pub fn stats_line(info: &ProcessInfo, unread_bytes: u64, now_ns: u64) -> String {
    let OutputInfo {
        capacity_bytes,
        used_bytes,
        oldest,
        next,
        stdout_bytes,
        stderr_bytes,
        dropped_bytes,
        ..
    } = info.output;
    let read = stdout_bytes.saturating_add(stderr_bytes);
    let acknowledged = read.saturating_sub(unread_bytes.saturating_add(dropped_bytes));
    let state = match &info.end {
        None => {
            let uptime = Span(now_ns.saturating_sub(info.started_ns));
            format!("{} pid={} uptime={uptime}", info.name, info.pid)
        }
        Some(end) => ended_line(info, end),
    };
    format!(
        "{state} kept={used_bytes}/{capacity_bytes} records={oldest}..{next} \
         in={stdout_bytes}+{stderr_bytes} acknowledged={acknowledged} dropped={dropped_bytes} \
         unread={unread_bytes}"
    )
}

/// How a process ended and what it used.
#[must_use]
pub fn ended_line(info: &ProcessInfo, end: &End) -> String {
    let ran = Span(end.time_ns.saturating_sub(info.started_ns));
    let how = match end.status {
        EndStatus::Exited(code) => code.to_string(),
        EndStatus::Signaled {
            signal,
            core_dumped: false,
        } => format!("-{signal}"),
        EndStatus::Signaled {
            signal,
            core_dumped: true,
        } => format!("-{signal}(core)"),
        EndStatus::Unknown => "unknown".to_owned(),
    };
    let cpu_ms = end.user_us.saturating_add(end.system_us) / 1000;
    format!(
        "{} exit={how} ran={ran} cpu={cpu_ms}ms maxrss={}k",
        info.name, end.max_rss_kib
    )
}

/// A session's line in `sessions`.
#[must_use]
pub fn session_line(info: &SessionInfo, mine: u64, now_ns: u64) -> String {
    let mark = if info.session == mine { "*" } else { "" };
    let speaks = if info.framed { "frames" } else { "text" };
    let age = Span(now_ns.saturating_sub(info.connected_ns));
    let client = if info.client.is_empty() {
        String::new()
    } else {
        format!(" {}", info.client)
    };
    format!(
        "{}{mark} {speaks} peer={} uid={} pid={} age={age} follows={} queued={}{client}",
        info.session, info.peer, info.uid, info.pid, info.following, info.queued_bytes,
    )
}

/// A lease's line in `leases`.
#[must_use]
pub fn lease_line(info: &LeaseInfo, now_ns: u64) -> String {
    let age = Span(now_ns.saturating_sub(info.taken_ns));
    let LeaseInfo {
        name,
        fence,
        session,
        client,
        ..
    } = info;
    format!("{name} number={fence} session={session} age={age} {client}")
}

/// The lines of `version`.
#[must_use]
pub fn version_lines(status: &KernelStatus) -> String {
    let age = Span(status.now_ns.saturating_sub(status.started_ns));
    format!(
        "kingpole-kernel {} pid={} guard={} generation={} epoch={} age={age}\n\
         processes={} running, {} ended; sockets={} values={} sessions={} leases={}\n\
         output={}/{} bytes; values={} bytes; resident={} KiB; descriptors={}/{}\n",
        status.release,
        status.pid,
        status.guard_pid,
        status.generation,
        status.epoch,
        status.processes_running,
        status.processes_ended,
        status.sockets,
        status.values,
        status.sessions,
        status.leases,
        status.output_bytes,
        status.output_capacity_bytes,
        status.values_bytes,
        status.resident_kib,
        status.descriptors,
        status.descriptors_limit,
    )
}

/// The last lines of some bytes, an unfinished last line included.
#[must_use]
pub fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let end = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let ends = end
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    match ends.map(|(at, _)| at).nth(lines.saturating_sub(1)) {
        Some(at) => bytes.get(at.saturating_add(1)..).unwrap_or_default(),
        None => bytes,
    }
}

#[cfg(test)]
mod tests;

//! What a kernel holds, asked over a session of its own and told as plain data with stable JSON
//! names. Used by the control server and, without any manager, by `kingpole kernel status`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::places::Address;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{ListLeases, ListSessions};
use kingpole_protocol::spec::{SocketAddress, SocketKind};
use kingpole_protocol::status::{EndStatus, LeaseInfo, ProcessInfo, SessionInfo, SocketInfo};
use serde::{Deserialize, Serialize};

/// How long a kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything about a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelReport {
    /// It in numbers.
    pub kernel: KernelNumbers,
    /// What it holds, in the order of its own numbers or names.
    pub processes: Vec<HeldProcess>,
    /// Sockets by name.
    pub sockets: Vec<HeldSocket>,
    /// Values by key.
    pub values: Vec<HeldValue>,
    /// Connected clients, this one left out.
    pub sessions: Vec<Session>,
    /// Leases by name.
    pub leases: Vec<Lease>,
}

/// A kernel in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelNumbers {
    /// Its release.
    pub release: String,
    /// Its process id.
    pub pid: i32,
    /// The guard's, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_pid: Option<i32>,
    /// How many images this kernel process has run.
    pub generation: u64,
    /// How many kernel processes have worked on this state.
    pub epoch: u64,
    /// Identifies the state.
    pub instance: u64,
    /// Milliseconds since the state was created.
    pub uptime_ms: u64,
    /// Processes that run.
    pub processes_running: u64,
    /// Processes that have ended and are kept.
    pub processes_ended: u64,
    /// Unread output of all processes, bytes.
    pub output_bytes: u64,
    /// Room for output of all processes, bytes.
    pub output_capacity_bytes: u64,
    /// Bytes in keys and values.
    pub values_bytes: u64,
    /// Resident memory, KiB.
    pub resident_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Most descriptors it may open.
    pub descriptors_limit: u64,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldProcess {
    /// The kernel's number.
    pub process: u64,
    /// Its name.
    pub name: String,
    /// Linux's number.
    pub pid: i32,
    /// Milliseconds since it was started; until its end, if it has ended.
    pub uptime_ms: u64,
    /// How it ended: `exit N`, `signal N`, `signal N (core dumped)`, `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Its arguments; bytes that are no text are shown as U+FFFD.
    pub arguments: Vec<String>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Unread output, bytes.
    pub unread_bytes: u64,
    /// Room for it, bytes.
    pub capacity_bytes: u64,
    /// What it has written to standard output so far, bytes.
    #[serde(default)]
    pub stdout_bytes: u64,
    /// The same to standard error.
    #[serde(default)]
    pub stderr_bytes: u64,
    /// Output that was dropped because nobody read it, bytes.
    pub dropped_bytes: u64,
    /// Resident memory, KiB, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_kib: Option<u64>,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldSocket {
    /// Its name.
    pub name: String,
    /// `unix:/PATH` or `HOST:PORT`.
    pub address: String,
    /// `stream`, `datagram` or `seqpacket`.
    pub kind: String,
    /// The descriptor number that children see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fileno: Option<i32>,
}

/// One value. Its content is not told: it may be anybody's secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldValue {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One connected client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its number.
    pub session: u64,
    /// What it calls itself.
    pub client: String,
    /// `unix`, or address and port.
    pub peer: String,
    /// Its user.
    pub uid: u32,
    /// Its process id, 0 if not known.
    pub pid: i32,
    /// Bytes that wait to be read by it.
    pub queued_bytes: u64,
    /// Processes whose output it follows.
    pub following: u32,
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Its fencing number.
    pub fence: u64,
    /// The session that holds it; absent when that has gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// What the holder called itself.
    pub client: String,
}

/// Asks the kernel at a socket for everything. Waits.
///
/// # Errors
/// As the protocol's client.
pub fn fetch(socket: &Path, client: &str) -> Result<KernelReport, ClientError> {
    let address = Address::Unix(socket.to_owned());
    let mut client = Client::connect(&address, client, Some(ANSWER_TIMEOUT))?;
    let own = client.welcome().session;
    let status = client.status()?;
    let now_ns = status.now_ns;
    let processes = client.processes()?;
    let sockets = client.sockets()?;
    let values = client.values("")?;
    let sessions = sessions(&mut client)?;
    let leases = leases(&mut client)?;
    Ok(KernelReport {
        kernel: KernelNumbers {
            release: status.release,
            pid: status.pid,
            guard_pid: (status.guard_pid != 0).then_some(status.guard_pid),
            generation: status.generation,
            epoch: status.epoch,
            instance: status.instance,
            uptime_ms: milliseconds(status.started_ns, now_ns),
            processes_running: status.processes_running,
            processes_ended: status.processes_ended,
            output_bytes: status.output_bytes,
            output_capacity_bytes: status.output_capacity_bytes,
            values_bytes: status.values_bytes,
            resident_kib: status.resident_kib,
            descriptors: status.descriptors,
            descriptors_limit: status.descriptors_limit,
        },
        processes: processes
            .into_iter()
            .map(|info| held_process(info, now_ns))
            .collect(),
        sockets: sockets.into_iter().map(held_socket).collect(),
        values: values
            .into_iter()
            .map(|info| HeldValue {
                key: info.key,
                bytes: info.value.len() as u64,
            })
            .collect(),
        sessions: sessions
            .into_iter()
            .filter(|s| s.session != own)
            .map(session)
            .collect(),
        leases: leases.into_iter().map(lease).collect(),
    })
}

fn sessions(client: &mut Client) -> Result<Vec<SessionInfo>, ClientError> {
    let mut all: Vec<SessionInfo> = Vec::new();
    loop {
        let after = all.last().map_or(0, |last| last.session);
        match client.call(ListSessions {
            after,
            limit: u32::MAX,
        })? {
            Reply::Sessions(page) => {
                all.extend(page.items);
                if !page.more {
                    return Ok(all);
                }
            }
            other => return Err(ClientError::Unexpected(other.name())),
        }
    }
}

fn leases(client: &mut Client) -> Result<Vec<LeaseInfo>, ClientError> {
    let mut all: Vec<LeaseInfo> = Vec::new();
    loop {
        let after = all.last().map(|last| last.name.clone()).unwrap_or_default();
        match client.call(ListLeases {
            after,
            limit: u32::MAX,
        })? {
            Reply::Leases(page) => {
                all.extend(page.items);
                if !page.more {
                    return Ok(all);
                }
            }
            other => return Err(ClientError::Unexpected(other.name())),
        }
    }
}

const fn milliseconds(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1_000_000
}

fn held_process(info: ProcessInfo, now_ns: u64) -> HeldProcess {
    let ended = info.end.map(|end| match end.status {
        EndStatus::Exited(code) => format!("exit {code}"),
        EndStatus::Signaled {
            signal,
            core_dumped: false,
        } => format!("signal {signal}"),
        EndStatus::Signaled {
            signal,
            core_dumped: true,
        } => format!("signal {signal} (core dumped)"),
        EndStatus::Unknown => "unknown".to_owned(),
    });
    let until = info.end.map_or(now_ns, |end| end.time_ns);
    let resident_kib = match ended {
        None => u32::try_from(info.pid).ok().and_then(resident_kib),
        Some(_) => None,
    };
    HeldProcess {
        process: info.process.0,
        name: info.name,
        pid: info.pid,
        uptime_ms: milliseconds(info.started_ns, until),
        ended,
        arguments: info
            .arguments
            .iter()
            .map(|a| a.to_text().into_owned())
            .collect(),
        uid: info.uid,
        gid: info.gid,
        labels: info.labels,
        unread_bytes: info.output.used_bytes,
        capacity_bytes: info.output.capacity_bytes,
        stdout_bytes: info.output.stdout_bytes,
        stderr_bytes: info.output.stderr_bytes,
        dropped_bytes: info.output.dropped_bytes,
        resident_kib,
    }
}

fn held_socket(info: SocketInfo) -> HeldSocket {
    let address = match info.spec.address {
        SocketAddress::Unix { path, .. } => format!("unix:{}", path.to_text()),
        SocketAddress::Inet { host, port } => format!("{host}:{port}"),
        SocketAddress::Inet6 { host, port } => format!("[{host}]:{port}"),
    };
    let kind = match info.spec.kind {
        SocketKind::Stream => "stream",
        SocketKind::Datagram => "datagram",
        SocketKind::SeqPacket => "seqpacket",
    };
    HeldSocket {
        name: info.spec.name,
        address,
        kind: kind.to_owned(),
        fileno: info.fileno,
    }
}

fn session(info: SessionInfo) -> Session {
    Session {
        session: info.session,
        client: if info.framed {
            info.client
        } else {
            "text".to_owned()
        },
        peer: info.peer,
        uid: info.uid,
        pid: info.pid,
        queued_bytes: info.queued_bytes,
        following: info.following,
    }
}

fn lease(info: LeaseInfo) -> Lease {
    Lease {
        name: info.name,
        fence: info.fence.0,
        session: (info.session != 0).then_some(info.session),
        client: info.client,
    }
}

/// Resident memory of a process, KiB (proc_pid_statm(5), second field, in pages).
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()? / 1024)
}

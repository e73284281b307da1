//! What `kingpole top` shows, as data: two readings make one sample, because rates need a time
//! between. The JSON names are those of `kingpole top --json` and stay as they are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::reading::Reading;
use crate::command::{
    KernelLink, ProcessInfo, ProcessStatus, SocketDetail, SocketState, WatcherStatus,
};
use crate::shells::kernel_report::HeldProcess;

/// One moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) manager: Manager,
    pub(super) kernel: Kernel,
    /// By name.
    pub(super) watchers: Vec<Watcher>,
    pub(super) sockets: Vec<Socket>,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Manager {
    pub(super) release: String,
    pub(super) pid: u32,
    pub(super) uptime_ms: u64,
    pub(super) configuration: String,
}

/// Who holds the processes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Kernel {
    /// Whether the manager reaches it; if not, the rest is the last that is known.
    pub(super) connected: bool,
    pub(super) release: Option<String>,
    pub(super) pid: Option<i32>,
    pub(super) generation: Option<u64>,
}

/// What processes use; of a watcher: the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Percent of one processor since the reading before, direct children included.
    pub(super) cpu_percent: f64,
    /// Resident memory, bytes, without children.
    pub(super) resident_bytes: u64,
    /// Output since the reading before, bytes in a second.
    pub(super) output_bytes_per_second: u64,
    /// Output that waits in the kernel, bytes.
    pub(super) unread_bytes: u64,
    /// Room for it, bytes.
    pub(super) capacity_bytes: u64,
    /// Output that was dropped, bytes.
    pub(super) dropped_bytes: u64,
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.cpu_percent += other.cpu_percent;
        self.resident_bytes += other.resident_bytes;
        self.output_bytes_per_second += other.output_bytes_per_second;
        self.unread_bytes += other.unread_bytes;
        self.capacity_bytes += other.capacity_bytes;
        self.dropped_bytes += other.dropped_bytes;
    }

    /// How full the fullest kind of buffer is, percent.
    pub(super) fn ring_percent(&self) -> u64 {
        (self.unread_bytes * 100)
            .checked_div(self.capacity_bytes)
            .unwrap_or(0)
    }
}

/// A watcher and its processes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Watcher {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) actual: u32,
    pub(super) ready: u32,
    pub(super) numprocesses: u32,
    pub(super) restarts: u64,
    #[serde(flatten)]
    pub(super) usage: Usage,
    /// Why it is in this state, where there is something to say.
    pub(super) reason: Option<String>,
    pub(super) processes: Vec<Process>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Process {
    pub(super) worker: u32,
    pub(super) pid: u32,
    /// `running`, `starting` or `not ready` while it runs; `stopping`.
    pub(super) state: String,
    /// Why it is not ready.
    pub(super) reason: Option<String>,
    /// What it says of itself.
    pub(super) says: Option<String>,
    pub(super) outdated: bool,
    pub(super) uptime_ms: u64,
    pub(super) restarts: u32,
    #[serde(flatten)]
    pub(super) usage: Usage,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Socket {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) ready: bool,
    /// How many connections may wait.
    pub(super) backlog: u32,
    /// How many do; unknown for unix sockets.
    pub(super) waiting: Option<u32>,
}

impl Sample {
    /// What is now, with rates since the reading before.
    pub(super) fn new(before: Option<&Reading>, now: &Reading) -> Self {
        let rates = Rates::new(before, now);
        Self {
            manager: Manager {
                release: now.manager.release.clone(),
                pid: now.manager.pid,
                uptime_ms: now.manager.uptime_ms,
                configuration: now.manager.configuration.clone(),
            },
            kernel: Kernel {
                connected: matches!(now.status.kernel, KernelLink::Connected { .. }),
                release: now.kernel.as_ref().map(|k| k.kernel.release.clone()),
                pid: now.kernel.as_ref().map(|k| k.kernel.pid),
                generation: now.kernel.as_ref().map(|k| k.kernel.generation),
            },
            watchers: now
                .status
                .watchers
                .iter()
                .map(|w| watcher(w, &rates))
                .collect(),
            sockets: now.sockets.iter().map(|s| socket(s, now)).collect(),
        }
    }
}

/// What both readings say about each process.
struct Rates<'a> {
    seconds: f64,
    before: Facts<'a>,
    now: Facts<'a>,
}

#[derive(Default)]
struct Facts<'a> {
    held: BTreeMap<u64, &'a HeldProcess>,
    used: BTreeMap<u32, &'a ProcessInfo>,
}

impl<'a> Facts<'a> {
    fn of(reading: &'a Reading) -> Self {
        let held = reading.kernel.iter().flat_map(|report| &report.processes);
        let used = reading.statistics.iter().flat_map(|w| &w.processes);
        Self {
            held: held.map(|process| (process.process, process)).collect(),
            used: used
                .filter_map(|process| process.info.as_ref())
                .map(|info| (info.pid, info))
                .collect(),
        }
    }
}

impl<'a> Rates<'a> {
    fn new(before: Option<&'a Reading>, now: &'a Reading) -> Self {
        Self {
            seconds: before.map_or(0.0, |before| {
                now.at.saturating_duration_since(before.at).as_secs_f64()
            }),
            before: before.map(Facts::of).unwrap_or_default(),
            now: Facts::of(now),
        }
    }

    fn usage(&self, process: &ProcessStatus) -> Usage {
        let mut usage = Usage::default();
        let pid = process.pid.0;
        if let Some(info) = self.now.used.get(&pid) {
            usage.resident_bytes = info.resident_bytes;
            // A pid that came back in between is another process.
            let earlier = self.before.used.get(&pid);
            if let Some(earlier) = earlier.filter(|e| e.create_time == info.create_time) {
                let used = (cpu_seconds(info) - cpu_seconds(earlier)).max(0.0);
                usage.cpu_percent = self.per_second(used * 100.0);
            }
        }
        let id = process.process.0;
        if let Some(held) = self.now.held.get(&id) {
            usage.unread_bytes = held.unread_bytes;
            usage.capacity_bytes = held.capacity_bytes;
            usage.dropped_bytes = held.dropped_bytes;
            if let Some(earlier) = self.before.held.get(&id) {
                let bytes = output_bytes(held).saturating_sub(output_bytes(earlier));
                usage.output_bytes_per_second = self.per_second(bytes as f64) as u64;
            }
        }
        usage
    }

    fn per_second(&self, amount: f64) -> f64 {
        if self.seconds > 0.0 {
            amount / self.seconds
        } else {
            0.0
        }
    }
}

/// With its direct children, so that a shell around a program does not hide it.
fn cpu_seconds(info: &ProcessInfo) -> f64 {
    let children = info.children.iter().map(|child| child.cpu_seconds);
    info.cpu_seconds + children.sum::<f64>()
}

const fn output_bytes(held: &HeldProcess) -> u64 {
    held.stdout_bytes.saturating_add(held.stderr_bytes)
}

fn watcher(status: &WatcherStatus, rates: &Rates<'_>) -> Watcher {
    let mut usage = Usage::default();
    let mut processes = Vec::with_capacity(status.processes.len());
    for process in &status.processes {
        let own = rates.usage(process);
        usage.add(own);
        processes.push(Process {
            worker: process.worker.0,
            pid: process.pid.0,
            state: process.word().to_owned(),
            reason: process.readiness_reason.clone(),
            says: process.says.clone(),
            outdated: process.outdated,
            uptime_ms: process.uptime_ms,
            restarts: process.restarts,
            usage: own,
        });
    }
    Watcher {
        name: status.name.clone(),
        state: status.state.name().to_owned(),
        actual: status.actual,
        ready: status.ready,
        numprocesses: status.numprocesses,
        restarts: status.restarts,
        usage,
        reason: reason(status),
        processes,
    }
}

fn reason(status: &WatcherStatus) -> Option<String> {
    let mut parts: Vec<String> = status.reason.iter().cloned().collect();
    if let Some(milliseconds) = status.retry_in_ms {
        let wait = crate::cli::table::duration(milliseconds);
        parts.push(format!("next attempt in {wait}"));
    }
    parts.extend(status.operation.iter().cloned());
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn socket(detail: &SocketDetail, now: &Reading) -> Socket {
    let address = match (&detail.host, detail.port, &detail.path) {
        (Some(host), Some(port), _) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), Some(port), _) => format!("{host}:{port}"),
        (_, _, Some(path)) => path.clone(),
        _ => String::new(),
    };
    Socket {
        name: detail.name.clone(),
        address,
        ready: detail.state == SocketState::Ready,
        backlog: detail.backlog,
        waiting: detail.port.and_then(|port| now.waiting.get(&port).copied()),
    }
}

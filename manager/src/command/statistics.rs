//! What is told about the resources that processes use, and about sockets. The engine fills in who
//! is meant; the shells add what only the system knows.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Selection, SocketState};
use crate::engine::{Moment, Pid, WorkerId};

/// Arguments of stats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsRequest {
    /// Which watchers.
    #[serde(flatten)]
    pub selection: Selection,
    /// Only the process with this pid.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Whether the `extended_stats` hook adds to it.
    #[serde(default)]
    pub extended: bool,
}

/// One watcher's processes and what they use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatcherStatistics {
    /// Its name as configured.
    pub watcher: String,
    /// By worker id.
    pub processes: Vec<ProcessStatistics>,
}

/// One process and what it uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatistics {
    /// Which of the watcher's.
    pub worker: WorkerId,
    /// Linux's number.
    pub pid: Pid,
    /// When it was started, nanoseconds of the boot clock.
    pub started: Moment,
    /// What the system knows; nothing when the process has gone.
    #[serde(default)]
    pub info: Option<ProcessInfo>,
    /// What the `extended_stats` hook added or changed, in Circus's words.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extended: Map<String, Value>,
}

/// What the system knows of a process, as in Circus's statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Linux's number.
    pub pid: u32,
    /// Base name of the program.
    pub cmdline: String,
    /// User it runs as: the name, or the number where there is none.
    pub username: String,
    /// Scheduling priority.
    pub nice: i64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Virtual memory, bytes.
    pub virtual_bytes: u64,
    /// Percent of one processor since the last time anybody asked, 0 at the first.
    pub cpu: f64,
    /// Percent of the machine's memory that is resident.
    pub mem: f64,
    /// CPU time so far, seconds: user, system, and those of children that ended.
    pub cpu_seconds: f64,
    /// When it was created, seconds since 1970.
    pub create_time: f64,
    /// Seconds since then.
    pub age: f64,
    /// Its direct children; theirs are left out.
    #[serde(default)]
    pub children: Vec<ProcessInfo>,
}

/// What the manager itself uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManagerStatistics {
    /// Of the manager.
    pub info: ProcessInfo,
}

/// A managed socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketDetail {
    /// Its name in the configuration.
    pub name: String,
    /// Its name in the process kernel.
    pub kernel_name: String,
    /// Whether it is there.
    pub state: SocketState,
    /// Length of its queue of connections.
    pub backlog: u32,
    /// Descriptor number that children see; none while it is not there, or with `so_reuseport`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// Host, of a socket with a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port that it is really bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path, of a unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

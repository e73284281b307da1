//! What `kingpole top` asks: the manager, the process kernel through it, and Linux for the queues of
//! listening sockets.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::{ManagerClient, Patience};
use crate::cli::failure::Failure;
use crate::command::{
    Answer, Command, Selection, SocketDetail, StatsRequest, StatusReport, WatcherStatistics,
};
use crate::shells::control::wire::ManagerInfo;
use crate::shells::kernel_report::KernelReport;

/// Everything that was told at one moment.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) manager: ManagerInfo,
    pub(super) status: StatusReport,
    pub(super) statistics: Vec<WatcherStatistics>,
    pub(super) sockets: Vec<SocketDetail>,
    /// Absent while the process kernel cannot be asked.
    pub(super) kernel: Option<KernelReport>,
    /// Connections that wait to be accepted, by port.
    pub(super) waiting: BTreeMap<u16, u32>,
}

impl Reading {
    /// Asks for everything.
    pub(super) fn take(client: &ManagerClient, selection: &Selection) -> Result<Self, Failure> {
        let status = client.command_value(&Command::Status(selection.clone()), Patience::Usual)?;
        let statistics = Command::Stats(StatsRequest {
            selection: selection.clone(),
            pid: None,
            extended: false,
        });
        let Answer::Stats {
            watchers: statistics,
        } = client.command(&statistics, Patience::Usual)?
        else {
            return Err(unclear("stats"));
        };
        let Answer::Sockets { sockets } = client.command(&Command::ListSockets, Patience::Usual)?
        else {
            return Err(unclear("listsockets"));
        };
        // A kernel that is away for a moment leaves the rest to be seen.
        let kernel = client.get("/v1/kernel").ok();
        Ok(Self {
            at: Instant::now(),
            manager: read(&status["manager"], "status")?,
            status: read(&status, "status")?,
            statistics,
            sockets,
            kernel: kernel.map(|value| read(&value, "kernel")).transpose()?,
            waiting: waiting_connections(),
        })
    }
}

fn read<T: for<'a> Deserialize<'a>>(value: &Value, what: &str) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| {
        Failure::failed(format!(
            "the manager's answer to {what} is not understood: {error}"
        ))
    })
}

fn unclear(what: &str) -> Failure {
    Failure::failed(format!("the manager's answer to {what} is not understood"))
}

/// The queues of all listening TCP sockets of this machine.
fn waiting_connections() -> BTreeMap<u16, u32> {
    let mut waiting = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 the second does not exist.
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for (port, queue) in text.lines().filter_map(listening) {
            *waiting.entry(port).or_insert(0) += queue;
        }
    }
    waiting
}

/// Port and queue of a listening socket (proc_pid_net(5): state 0A is LISTEN, and the receive queue
/// of such a socket counts connections).
fn listening(line: &str) -> Option<(u16, u32)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    let (state, queues) = (fields.nth(1)?, fields.next()?);
    if state != "0A" {
        return None;
    }
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let queue = u32::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
    Some((port, queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_linux_s_table() {
        let line = "   0: 0100007F:22B8 00000000:0000 0A 00000000:00000003 00:00000000 00000000  \
                    0        0 12345 1 0000000000000000 100 0 0 10 0";
        assert_eq!(listening(line), Some((8888, 3)));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(
            listening("  sl  local_address rem_address   st tx_queue rx_queue"),
            None
        );
        assert_eq!(listening(""), None);
    }

    #[test]
    fn a_queue_is_seen_while_nobody_accepts() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(waiting_connections().get(&address.port()), Some(&0));
        let _waiting = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(waiting_connections().get(&address.port()), Some(&1));
    }
}

//! `kingpole status`: watchers and their processes; without a manager, what the process kernel
//! holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use clap::Args;
use kingpole_protocol::places::KERNEL_SOCKET;
use serde_json::{Value, json};

use super::change::Watchers;
use super::client::{ManagerClient, encode_query};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::table::{Align, Table, duration, size};
use super::{kernel, print, print_json};
use crate::command::{KernelLink, ProcessState, SocketState, StatusReport, WatcherStatus};
use crate::shells::control::wire::ManagerInfo;
use crate::shells::kernel_report;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let names: Vec<String> = arguments
        .watchers
        .names()
        .iter()
        .map(|n| format!("name={}", encode_query(n)))
        .collect();
    let path = format!("/v1/status?{}", names.join("&"));
    match ManagerClient::new(dir)?.get(&path) {
        Ok(value) if arguments.json => print_json(&value),
        Ok(value) => {
            print(&render(&value)?)?;
            Ok(Exit::Done)
        }
        Err(failure) if failure.exit == Exit::NotRunning => {
            without_manager(failure, &arguments, dir)
        }
        Err(failure) => Err(failure),
    }
}

/// Children go on without a manager, and somebody who asks then wants to see just that.
fn without_manager(failure: Failure, arguments: &Arguments, dir: &Path) -> Outcome {
    let client = concat!("kingpole/", env!("CARGO_PKG_VERSION"));
    let Ok(report) = kernel_report::fetch(&dir.join(KERNEL_SOCKET), client) else {
        if arguments.json {
            print_json(&json!({ "manager": null, "kernel": null, "watchers": [] }))?;
        }
        return Err(failure);
    };
    if arguments.json {
        print_json(&json!({ "manager": null, "kernel": report, "watchers": [] }))?;
    } else {
        let text = format!(
            "kingpole: no manager runs in {}; the process kernel (pid {}) keeps what it holds:\n",
            dir.display(),
            report.kernel.pid
        );
        // With standard error gone there is nobody to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
        print(&kernel::processes(&report))?;
    }
    Ok(Exit::NotRunning)
}

fn render(value: &Value) -> Result<String, Failure> {
    let unclear = |error: serde_json::Error| {
        Failure::failed(format!("the manager's answer is not understood: {error}"))
    };
    let report: StatusReport = serde_json::from_value(value.clone()).map_err(unclear)?;
    let manager: ManagerInfo = serde_json::from_value(value["manager"].clone()).map_err(unclear)?;
    let mut text = format!(
        "manager {} (pid {}), up {}, {}\n",
        manager.release,
        manager.pid,
        duration(manager.uptime_ms),
        manager.configuration
    );
    match report.kernel {
        KernelLink::Connected { .. } => {}
        KernelLink::Lost => text.push_str(
            "process kernel out of reach: what follows is the last that is known of it\n",
        ),
    }
    text.push('\n');
    text.push_str(&table(&report.watchers, &memory(value)).render());
    for watcher in &report.watchers {
        for note in notes(watcher) {
            text.push_str(&format!("{}: {note}\n", watcher.name));
        }
        for process in &watcher.processes {
            let reason = process.readiness_reason.as_ref();
            if let Some(reason) = reason.filter(|_| process.state == ProcessState::Running) {
                text.push_str(&format!("{}.{}: {reason}\n", watcher.name, process.worker));
            }
            if let Some(words) = &process.says {
                text.push_str(&format!("{}.{}: {words}\n", watcher.name, process.worker));
            }
        }
    }
    for socket in &report.sockets {
        if socket.state != SocketState::Ready {
            let reason = socket.reason.as_deref().unwrap_or("not made yet");
            text.push_str(&format!("socket {}: {reason}\n", socket.name));
        }
    }
    if report.foreign_processes > 0 {
        text.push_str(&format!(
            "{} processes in the kernel belong to others; see: kingpole kernel status\n",
            report.foreign_processes
        ));
    }
    Ok(text)
}

/// Resident memory by pid, which the report of the engine does not have.
fn memory(value: &Value) -> BTreeMap<u64, u64> {
    let watchers = value["watchers"].as_array().into_iter().flatten();
    watchers
        .flat_map(|watcher| watcher["processes"].as_array().into_iter().flatten())
        .filter_map(|process| Some((process["pid"].as_u64()?, process["resident_kib"].as_u64()?)))
        .collect()
}

fn table(watchers: &[WatcherStatus], memory: &BTreeMap<u64, u64>) -> Table {
    let mut table = Table::new(&[
        ("WATCHER", Align::Left),
        ("STATE", Align::Left),
        ("RUNNING", Align::Right),
        ("PID", Align::Right),
        ("UPTIME", Align::Right),
        ("RESTARTS", Align::Right),
        ("RSS", Align::Right),
    ]);
    for watcher in watchers {
        table.row([
            watcher.name.clone(),
            watcher.state.name().to_owned(),
            format!("{}/{}", watcher.actual, watcher.numprocesses),
            String::new(),
            String::new(),
            watcher.restarts.to_string(),
            String::new(),
        ]);
        for process in &watcher.processes {
            let resident = memory.get(&u64::from(process.pid.0));
            let state = process.word();
            let state = match process.outdated {
                true => format!("{state}, outdated"),
                false => state.to_owned(),
            };
            table.row([
                format!("  {}.{}", watcher.name, process.worker),
                state,
                String::new(),
                process.pid.to_string(),
                duration(process.uptime_ms),
                process.restarts.to_string(),
                resident.map_or_else(|| "-".to_owned(), |kib| size(kib * 1024)),
            ]);
        }
    }
    table
}

/// What is worth a sentence about a watcher.
fn notes(watcher: &WatcherStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(reason) = &watcher.reason {
        notes.push(reason.clone());
    }
    if let Some(retry) = watcher.retry_in_ms {
        notes.push(format!("next attempt in {}", duration(retry)));
    }
    if watcher.configured != watcher.numprocesses {
        notes.push(format!(
            "{} are configured; operators changed it",
            watcher.configured
        ));
    }
    if let Some(operation) = &watcher.operation {
        notes.push(match watcher.queued {
            0 => format!("busy with {operation}"),
            queued => format!("busy with {operation}, {queued} commands wait"),
        });
    }
    let failed = watcher
        .ends
        .last()
        .filter(|_| watcher.ready < watcher.numprocesses);
    if let Some(end) = failed
        && let (Some(why), Some(line)) = (&end.why, end.output.last())
    {
        notes.push(format!("{why}; pid {} wrote last: {line}", end.pid));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_worth_knowing_stands_in_the_table() {
        let value = json!({
            "manager": {"release": "0.1.0", "pid": 9, "uptime_ms": 61_000,
                        "configuration": "/etc/web.ini", "runtime_dir": "/run/kingpole"},
            "kernel": {"state": "lost"},
            "watchers": [{
                "name": "web", "state": "active", "numprocesses": 2, "configured": 1, "actual": 1,
                "restarts": 4, "queued": 1, "operation": "restart", "retry_in_ms": 1500,
                "processes": [{
                    "worker": 1, "pid": 7, "process": 3, "state": "running", "started": 1,
                    "uptime_ms": 5_000, "restarts": 2, "outdated": true, "resident_kib": 2048,
                    "readiness": "starting",
                    "readiness_reason": "not ready yet (tcp localhost:80): connection refused",
                }],
            }],
            "sockets": [{"name": "web", "state": "failed", "reason": "port in use"}],
            "foreign_processes": 2,
        });
        let text = render(&value).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "manager 0.1.0 (pid 9), up 1m 01s, /etc/web.ini");
        assert!(lines[1].starts_with("process kernel out of reach"));
        assert_eq!(
            lines[3],
            "WATCHER  STATE               RUNNING  PID  UPTIME  RESTARTS     RSS"
        );
        assert_eq!(
            lines[4],
            "web      active                  1/2                      4"
        );
        assert_eq!(
            lines[5],
            "  web.1  starting, outdated             7    5.0s         2  2.0 MB"
        );
        assert_eq!(
            lines[6..],
            [
                "web: next attempt in 1.5s",
                "web: 1 are configured; operators changed it",
                "web: busy with restart, 1 commands wait",
                "web.1: not ready yet (tcp localhost:80): connection refused",
                "socket web: port in use",
                "2 processes in the kernel belong to others; see: kingpole kernel status",
            ]
        );
    }
}

//! `kingpole kernel ...`: straight to the process kernel, whether a manager runs or not.

use std::io;
use std::path::Path;

use clap::{Args, Subcommand};
use kingpole_protocol::client::blocking::ClientError;
use kingpole_protocol::places::KERNEL_SOCKET;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::table::{Align, Table, duration, size};
use super::{print, print_json};
use crate::shells::kernel_report::{self, KernelReport};
use crate::shells::link::describe;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the kernel holds: processes, sockets, values, memory, sessions, leases
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let Verb::Status { json } = arguments.verb;
    let socket = dir.join(KERNEL_SOCKET);
    let client = concat!("kingpole/", env!("CARGO_PKG_VERSION"));
    let report =
        kernel_report::fetch(&socket, client).map_err(|e| unreachable_kernel(&socket, &e))?;
    if json {
        return print_json(&report);
    }
    print(&render(&report))?;
    Ok(Exit::Done)
}

/// Why the kernel does not answer.
pub(super) fn unreachable_kernel(socket: &Path, error: &ClientError) -> Failure {
    match error {
        ClientError::Connect { source, .. } => unreachable_socket(socket, source),
        error => {
            let place = socket.display();
            let text = format!("cannot reach the process kernel at {place}: {error}");
            Failure::new(Exit::CannotReach, text)
        }
    }
}

/// The same, for an error of the system.
pub(super) fn unreachable_socket(socket: &Path, error: &io::Error) -> Failure {
    let (place, reason) = (socket.display(), describe(error));
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let text =
                format!("no process kernel at {place}: {reason}; `kingpole run FILE` starts one");
            Failure::new(Exit::NotRunning, text)
        }
        _ => {
            let text = format!("cannot reach the process kernel at {place}: {reason}");
            Failure::new(Exit::CannotReach, text)
        }
    }
}

fn render(report: &KernelReport) -> String {
    let kernel = &report.kernel;
    let guard = kernel
        .guard_pid
        .map_or_else(String::new, |pid| format!(", guard {pid}"));
    let mut text = format!(
        "process kernel {} (pid {}{guard}), up {}, generation {}, epoch {}\n\
         memory {}, unread output {} of {}, values {}, descriptors {} of {}\n",
        kernel.release,
        kernel.pid,
        duration(kernel.uptime_ms),
        kernel.generation,
        kernel.epoch,
        size(kernel.resident_kib.saturating_mul(1024)),
        size(kernel.output_bytes),
        size(kernel.output_capacity_bytes),
        size(kernel.values_bytes),
        kernel.descriptors,
        kernel.descriptors_limit,
    );
    text.push('\n');
    text.push_str(&processes(report));
    for (title, table) in [
        ("sockets", sockets(report)),
        ("values", values(report)),
        ("sessions", sessions(report)),
        ("leases", leases(report)),
    ] {
        if table.is_empty() {
            text.push_str(&format!("\nno {title}\n"));
        } else {
            text.push('\n');
            text.push_str(&table.render());
        }
    }
    text
}

/// The processes, as a table or as a sentence that there are none.
pub(super) fn processes(report: &KernelReport) -> String {
    let mut table = Table::new(&[
        ("PROCESS", Align::Left),
        ("PID", Align::Right),
        ("STATE", Align::Left),
        ("UPTIME", Align::Right),
        ("UNREAD", Align::Right),
        ("RSS", Align::Right),
        ("COMMAND", Align::Left),
    ]);
    for process in &report.processes {
        let resident = process
            .resident_kib
            .map(|kib| size(kib.saturating_mul(1024)));
        table.row([
            process.name.clone(),
            process.pid.to_string(),
            process
                .ended
                .clone()
                .unwrap_or_else(|| "running".to_owned()),
            duration(process.uptime_ms),
            size(process.unread_bytes),
            resident.unwrap_or_else(|| "-".to_owned()),
            shorten(&process.arguments.join(" ")),
        ]);
    }
    if table.is_empty() {
        "no processes\n".to_owned()
    } else {
        table.render()
    }
}

/// A command line may be very long; its beginning tells enough.
fn shorten(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    match text.char_indices().nth(CHARACTERS_MAX) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

fn sockets(report: &KernelReport) -> Table {
    let mut table = Table::new(&[
        ("SOCKET", Align::Left),
        ("ADDRESS", Align::Left),
        ("KIND", Align::Left),
        ("FILENO", Align::Right),
    ]);
    for socket in &report.sockets {
        let fileno = socket
            .fileno
            .map_or_else(|| "-".to_owned(), |fileno| fileno.to_string());
        table.row([
            socket.name.clone(),
            socket.address.clone(),
            socket.kind.clone(),
            fileno,
        ]);
    }
    table
}

fn values(report: &KernelReport) -> Table {
    let mut table = Table::new(&[("VALUE", Align::Left), ("SIZE", Align::Right)]);
    for value in &report.values {
        table.row([value.key.clone(), size(value.bytes)]);
    }
    table
}

fn sessions(report: &KernelReport) -> Table {
    let mut table = Table::new(&[
        ("SESSION", Align::Right),
        ("CLIENT", Align::Left),
        ("PEER", Align::Left),
        ("UID", Align::Right),
        ("PID", Align::Right),
        ("FOLLOWS", Align::Right),
        ("QUEUED", Align::Right),
    ]);
    for session in &report.sessions {
        table.row([
            session.session.to_string(),
            session.client.clone(),
            session.peer.clone(),
            session.uid.to_string(),
            session.pid.to_string(),
            session.following.to_string(),
            size(session.queued_bytes),
        ]);
    }
    table
}

fn leases(report: &KernelReport) -> Table {
    let mut table = Table::new(&[
        ("LEASE", Align::Left),
        ("NUMBER", Align::Right),
        ("SESSION", Align::Right),
        ("HOLDER", Align::Left),
    ]);
    for lease in &report.leases {
        let session = lease
            .session
            .map_or_else(|| "gone".to_owned(), |s| s.to_string());
        table.row([
            lease.name.clone(),
            lease.fence.to_string(),
            session,
            lease.client.clone(),
        ]);
    }
    table
}

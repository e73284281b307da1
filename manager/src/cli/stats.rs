//! `kingpole stats`: what processes use.

use std::path::Path;

use clap::Args;

use super::change::Watchers;
use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::table::{Align, Table, size};
use super::{print, print_json};
use crate::command::{Answer, Command, ProcessInfo, StatsRequest};

#[derive(Debug, Args)]
#[command(
    after_help = "CPU is in percent of one processor since somebody last asked, 0 at the first \
time.\n\nExamples:\n  kingpole stats\n  kingpole stats web --pid 4102 --json"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// Only the process with this pid
    #[arg(long)]
    pid: Option<u32>,
    /// Ask the hooks `extended_stats` what they have to add
    #[arg(long)]
    extended: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let command = Command::Stats(StatsRequest {
        selection: arguments.watchers.selection(),
        pid: arguments.pid,
        extended: arguments.extended,
    });
    let answer = ManagerClient::new(dir)?.command(&command, Patience::Usual)?;
    let Answer::Stats { watchers } = &answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    if arguments.json {
        return print_json(watchers);
    }
    let mut table = columns();
    for watcher in watchers {
        for process in &watcher.processes {
            let name = format!("{}.{}", watcher.watcher, process.worker);
            match &process.info {
                Some(info) => add(&mut table, &name, info, 0),
                None => table.row([name, process.pid.to_string(), "gone".to_owned()]),
            }
            for (key, value) in &process.extended {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                table.row([String::new(), String::new(), format!("  {key}: {text}")]);
            }
        }
    }
    if table.is_empty() {
        return Err(Failure::failed("no process is running there"));
    }
    print(&table.render())?;
    Ok(Exit::Done)
}

pub(super) fn columns() -> Table {
    Table::new(&[
        ("WATCHER", Align::Left),
        ("PID", Align::Right),
        ("PROGRAM", Align::Left),
        ("USER", Align::Left),
        ("NICE", Align::Right),
        ("RSS", Align::Right),
        ("VMS", Align::Right),
        ("CPU%", Align::Right),
        ("MEM%", Align::Right),
        ("CPU TIME", Align::Right),
    ])
}

/// Adds a process, and its children indented below it.
pub(super) fn add(table: &mut Table, name: &str, info: &ProcessInfo, depth: usize) {
    table.row([
        name.to_owned(),
        info.pid.to_string(),
        format!("{}{}", "  ".repeat(depth), info.cmdline),
        info.username.clone(),
        info.nice.to_string(),
        size(info.resident_bytes),
        size(info.virtual_bytes),
        format!("{:.1}", info.cpu),
        format!("{:.1}", info.mem),
        format!("{:.2}s", info.cpu_seconds),
    ]);
    for child in &info.children {
        add(table, "", child, depth + 1);
    }
}

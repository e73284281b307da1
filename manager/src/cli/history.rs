//! `kingpole history`: the versions of a watcher.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::client::{ManagerClient, Patience};
use super::failure::{Failure, Outcome};
use super::table::{Align, Table};
use super::{print, print_json};
use crate::cli::exit::Exit;
use crate::command::{Answer, Command, GetOptions, VersionReport};
use crate::shells::clock::Clocks;
use crate::shells::control::wire::time_text;

#[derive(Debug, Args)]
#[command(
    after_help = "Values of the environment are never shown, only the names.

Examples:
  kingpole history web
  kingpole history web --json"
)]
pub(super) struct Arguments {
    /// Name of the watcher
    #[arg(value_name = "NAME")]
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let request = GetOptions {
        watcher: arguments.name.clone(),
        keys: Vec::new(),
    };
    let answer = ManagerClient::new(dir)?.command(&Command::History(request), Patience::Usual)?;
    let Answer::History { watcher, versions } = answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    let clocks = Clocks::read();
    let time = |version: &VersionReport| time_text(clocks.wall_of(version.at));
    if arguments.json {
        let dated = |version: &VersionReport| {
            let mut value = serde_json::to_value(version).unwrap_or(Value::Null);
            value["time"] = json!(time(version));
            value
        };
        let versions: Vec<Value> = versions.iter().map(dated).collect();
        return print_json(&json!({ "watcher": watcher, "versions": versions }));
    }
    if versions.is_empty() {
        print(&format!(
            "{watcher}: nothing was deployed yet; it is as its file says\n"
        ))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("VERSION", Align::Right),
        ("WHEN", Align::Left),
        ("WHO", Align::Left),
        ("OUTCOME", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for version in &versions {
        let mark = if version.current { "*" } else { "" };
        table.row([
            format!("{mark}{}", version.version),
            time(version),
            version
                .purpose
                .map_or_else(|| "-".to_owned(), |_| version.by.to_string()),
            outcome(version),
            what(version),
        ]);
    }
    print(&table.render())?;
    Ok(Exit::Done)
}

fn outcome(version: &VersionReport) -> String {
    let Some(purpose) = version.purpose else {
        return "as it was".to_owned();
    };
    let state = serde_json::to_value(version.state).unwrap_or(Value::Null);
    let state = state.as_str().unwrap_or_default();
    match &version.reason {
        Some(reason) => format!("{} {state}: {reason}", purpose.name()),
        None => format!("{} {state}", purpose.name()),
    }
}

fn what(version: &VersionReport) -> String {
    let others = version.options.iter().filter(|(key, _)| *key != "cmd");
    let others = others.map(|(key, text)| format!("{key}={text}"));
    let env = version.env.iter().map(|name| format!("{name}=..."));
    let parts: Vec<String> = std::iter::once(version.cmd.clone())
        .chain(others)
        .chain(env)
        .collect();
    parts.join(" ")
}

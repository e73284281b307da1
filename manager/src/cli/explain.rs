//! `kingpole explain`: why a watcher is in its state, and what happens next.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::client::{ManagerClient, encode_query, exact_pattern};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::table::duration;
use super::{logs, print, print_json};
use crate::command::{ProcessEnd, ProcessState, Readiness, WatcherStatus};
use crate::shells::console::{Color, Renderer};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kingpole explain web\n  kingpole explain web --json")]
pub(super) struct Arguments {
    /// Name of a watcher
    #[arg(value_name = "NAME")]
    name: String,
    /// How many of its last lines of output to show
    #[arg(short = 'n', long, default_value_t = 5, value_name = "N")]
    lines: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let client = ManagerClient::new(dir)?;
    let name = encode_query(&arguments.name);
    let value = client.get(&format!("/v1/watchers/{name}"))?;
    let unclear = |error: serde_json::Error| {
        Failure::failed(format!("the manager's answer is not understood: {error}"))
    };
    let watcher: WatcherStatus = serde_json::from_value(value.clone()).map_err(unclear)?;
    let mut output: Vec<Value> = Vec::new();
    let pattern = encode_query(&exact_pattern(&arguments.name));
    let path = format!("/v1/logs?lines={}&name={pattern}", arguments.lines);
    client.lines(&path, |line| {
        output.push(serde_json::from_slice(line).map_err(unclear)?);
        Ok(())
    })?;
    if arguments.json {
        return print_json(&json!({ "watcher": value, "output": output }));
    }
    let mut text = facts(&watcher);
    let mut renderer = Renderer::new(Color::for_stdout(), 0);
    let mut lines = Vec::new();
    for entry in output {
        logs::show(
            &mut renderer,
            &mut lines,
            serde_json::from_value(entry).map_err(unclear)?,
        );
    }
    if !lines.is_empty() {
        text.push_str("last output:\n");
        for line in String::from_utf8_lossy(&lines).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text.push_str(&format!("next: {}\n", watcher.next));
    print(&text)?;
    Ok(Exit::Done)
}

/// What is known, without the output.
fn facts(watcher: &WatcherStatus) -> String {
    let mut text = format!(
        "{}: {}, {} of {} processes run, {} ready\n",
        watcher.name,
        watcher.state.name(),
        watcher.actual,
        watcher.numprocesses,
        watcher.ready
    );
    let mut say = |line: String| {
        // A reason may repeat what somebody wrote somewhere.
        text.push_str(&line.replace(char::is_control, "?"));
        text.push('\n');
    };
    if let Some(reason) = &watcher.reason {
        say(format!("why: {reason}"));
    }
    if let Some(milliseconds) = watcher.retry_in_ms {
        say(format!("held back for: {}", duration(milliseconds)));
    }
    if watcher.configured != watcher.numprocesses {
        say(format!(
            "{} processes are configured; operators changed it",
            watcher.configured
        ));
    }
    if let Some(operation) = &watcher.operation {
        let queued = watcher.queued;
        say(format!(
            "busy with: {operation}; {queued} commands wait behind it"
        ));
    }
    for process in &watcher.processes {
        let of = format!("{}.{} (pid {})", watcher.name, process.worker, process.pid);
        if process.state == ProcessState::Running && process.readiness != Readiness::Ready {
            let why = process
                .readiness_reason
                .as_deref()
                .unwrap_or("no reason yet");
            say(format!("{of} is {}: {why}", process.readiness.name()));
        }
        if let Some(text) = &process.says {
            say(format!("{of} says: {text}"));
        }
        if process.state == ProcessState::Stopping {
            say(format!("{of} was asked to stop and has not ended yet"));
        }
        if process.outdated {
            say(format!("{of} was started from an older configuration"));
        }
    }
    if watcher.restarts > 0 {
        say(format!(
            "{} processes ended by themselves and were replaced",
            watcher.restarts
        ));
    }
    if !watcher.ends.is_empty() {
        say("last ends that nobody asked for:".to_owned());
        for end in watcher.ends.iter().rev() {
            say(format!("  {}", describe_end(&watcher.name, end)));
            let skipped = end.output.len().saturating_sub(OUTPUT_LINES_OF_END);
            for line in end.output.iter().skip(skipped) {
                say(format!("    | {line}"));
            }
        }
    }
    text
}

/// Of what a process wrote last, beside the output of the whole watcher.
const OUTPUT_LINES_OF_END: usize = 3;

fn describe_end(name: &str, end: &ProcessEnd) -> String {
    let how = match end.exit_code {
        0.. => format!("exit status {}", end.exit_code),
        signal => format!("signal {}", signal.unsigned_abs()),
    };
    let why = end
        .why
        .as_ref()
        .map_or_else(String::new, |why| format!(": {why}"));
    format!(
        "{} ago {name}.{} (pid {}) ended with {how}, {} after its start{why}",
        duration(end.ago_ms),
        end.worker,
        end.pid,
        duration(end.lived_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_known_is_said() {
        let watcher: WatcherStatus = serde_json::from_value(json!({
            "name": "web", "state": "starting", "reason": "worker 2 ended 3 times soon after its start",
            "numprocesses": 2, "configured": 3, "actual": 1, "ready": 0, "restarts": 4,
            "retry_in_ms": 1500, "operation": "restart", "queued": 1, "next": "restart goes on",
            "ends": [
                {"worker": 2, "pid": 70, "exit_code": -9, "lived_ms": 200, "ago_ms": 9000,
                 "why": "it hung"},
                {"worker": 2, "pid": 71, "exit_code": 3, "lived_ms": 100, "ago_ms": 4000},
            ],
            "processes": [{
                "worker": 1, "pid": 7, "process": 3, "state": "running", "started": 1,
                "uptime_ms": 5_000, "restarts": 2, "outdated": true,
                "readiness": "starting", "readiness_reason": "tcp 80: refused",
            }],
        }))
        .unwrap();
        let expected = "\
web: starting, 1 of 2 processes run, 0 ready
why: worker 2 ended 3 times soon after its start
held back for: 1.5s
3 processes are configured; operators changed it
busy with: restart; 1 commands wait behind it
web.1 (pid 7) is starting: tcp 80: refused
web.1 (pid 7) was started from an older configuration
4 processes ended by themselves and were replaced
last ends that nobody asked for:
  4.0s ago web.2 (pid 71) ended with exit status 3, 0.1s after its start
  9.0s ago web.2 (pid 70) ended with signal 9, 0.2s after its start: it hung
";
        assert_eq!(facts(&watcher), expected);
    }
}

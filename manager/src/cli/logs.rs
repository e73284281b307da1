//! `kingpole logs`: what processes wrote.

use std::path::Path;

use clap::Args;
use kingpole_protocol::record::Stream;

use super::client::{ManagerClient, encode_query};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;
use crate::shells::console::{Color, Renderer};
use crate::shells::control::wire::LogEntry;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Names of watchers, or patterns such as 'web*'; all when none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what they write from now on
    #[arg(short, long)]
    follow: bool,
    /// How many recent lines to begin with
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    lines: usize,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let mut path = format!("/v1/logs?lines={}", arguments.lines);
    if arguments.follow {
        path.push_str("&follow=1");
    }
    for name in &arguments.names {
        path.push_str("&name=");
        path.push_str(&encode_query(name));
    }
    let mut renderer = Renderer::new(Color::for_stdout(), 0);
    ManagerClient::new(dir)?.lines(&path, |line| {
        if arguments.json {
            return print(&format!("{}\n", String::from_utf8_lossy(line)));
        }
        let entry = serde_json::from_slice(line).map_err(|error| {
            Failure::failed(format!("the manager's answer is not understood: {error}"))
        })?;
        let mut out = Vec::new();
        show(&mut renderer, &mut out, entry);
        print(&String::from_utf8_lossy(&out))
    })?;
    if arguments.follow {
        let text = "the manager has ended; start it again, and what is written meanwhile is there";
        return Err(Failure::new(Exit::NotRunning, text));
    }
    Ok(Exit::Done)
}

fn show(renderer: &mut Renderer, out: &mut Vec<u8>, entry: LogEntry) {
    let stream = |name: &str| match name {
        "stderr" => Stream::Stderr,
        _ => Stream::Stdout,
    };
    match entry {
        LogEntry::Line {
            time_ns,
            watcher,
            worker,
            stream: name,
            text,
            ..
        } => {
            let origin = format!("{watcher}.{worker}");
            renderer.line(out, Some(time_ns), &origin, stream(&name), text.as_bytes());
        }
        LogEntry::Stored {
            watcher,
            stream: name,
            text,
            ..
        } => {
            renderer.line(out, None, &watcher, stream(&name), text.as_bytes());
        }
        LogEntry::Gap {
            watcher,
            worker,
            stream: name,
            lost_bytes,
            ..
        } => {
            let origin = format!("{watcher}.{worker}");
            renderer.gap(out, &origin, stream(&name), lost_bytes);
        }
        LogEntry::Dropped { dropped } => renderer.dropped(out, dropped),
    }
}

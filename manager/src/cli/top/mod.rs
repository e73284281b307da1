//! `kingpole top`: watchers and processes on a full screen, as they change.
//!
//! [`reading`] asks, [`sample`] makes rates of two readings, [`view`] holds what keys do, [`screen`]
//! draws, [`terminal`] is the only one that knows a terminal.

mod reading;
mod sample;
mod screen;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use self::reading::Reading;
use self::sample::Sample;
use self::view::{Order, View};
use super::change::{Watchers, parse_duration};
use super::client::ManagerClient;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{print, print_json};
use crate::command::Selection;
use crate::shells::console::Color;

/// Shorter ones would measure themselves.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The time between the two readings of `--once`.
const ONCE_INTERVAL: Duration = Duration::from_millis(500);

/// Size of a screen that goes into a file or a pipe.
const PLAIN_WIDTH: usize = 120;

#[derive(Debug, Args)]
#[command(
    after_help = "Keys: ? shows them, q quits.\n\nExamples:\n  kingpole top\n  \
kingpole top 'web*' --sort cpu\n  kingpole top --once\n  kingpole top --json | head -1"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    watchers: Watchers,
    /// Time between two looks: 2s, 500ms
    #[arg(long, short = 'd', value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Print one screen and end
    #[arg(long)]
    once: bool,
    /// Print one JSON object per look
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let interval = arguments.interval.max(INTERVAL_MIN);
    let view = View::new(arguments.sort);
    let selection = arguments.watchers.selection();
    if arguments.once {
        return once(view, &selection, arguments.json, dir);
    }
    if arguments.json {
        return stream(&selection, interval, dir);
    }
    let able = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !able || std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        let text = "top needs a terminal that it can draw on; use: kingpole top --once";
        return Err(Failure::new(Exit::Usage, text));
    }
    // Before the screen is taken: a manager that does not run is told in the usual way.
    ManagerClient::new(dir)?.get("/v1/watchers")?;
    terminal::run(view, selection, interval, Color::for_stdout(), dir)
}

fn once(mut view: View, selection: &Selection, json: bool, dir: &Path) -> Outcome {
    let client = ManagerClient::new(dir)?;
    let before = Reading::take(&client, selection)?;
    // A rate is over some time.
    std::thread::sleep(ONCE_INTERVAL);
    let sample = Sample::new(Some(&before), &Reading::take(&client, selection)?);
    if json {
        return print_json(&sample);
    }
    view.sampled(Ok(sample));
    print(&plain(&view))?;
    Ok(Exit::Done)
}

/// A screen that is as high as needed, without colours.
fn plain(view: &View) -> String {
    let sockets = view.sample.as_ref().map_or(0, |s| s.sockets.len());
    let height = view.rows().len() + sockets + screen::FRAME_LINES;
    let mut text = String::new();
    for line in screen::draw(view, PLAIN_WIDTH, height)
        .iter()
        .take(height - 1)
    {
        let line: String = line.pieces.iter().map(|(_, text)| text.as_str()).collect();
        // The chosen row is as wide as the screen.
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn stream(selection: &Selection, interval: Duration, dir: &Path) -> Outcome {
    let client = ManagerClient::new(dir)?;
    let mut before = Reading::take(&client, selection)?;
    loop {
        std::thread::sleep(interval);
        let now = Reading::take(&client, selection)?;
        let line = serde_json::to_string(&Sample::new(Some(&before), &now))
            .map_err(|error| Failure::failed(format!("the sample cannot be written: {error}")))?;
        print(&format!("{line}\n"))?;
        before = now;
    }
}

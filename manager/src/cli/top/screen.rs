//! From a view to lines of exactly the terminal's size. No terminal in here either, so that tests
//! compare whole screens.

use super::sample::{Sample, Usage};
use super::view::{Mode, Row, View};
use crate::cli::table::{duration, size};

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
    /// What is as it should be.
    Good,
    /// What changes.
    Busy,
    /// What needs somebody.
    Bad,
    /// The chosen row.
    Chosen,
}

/// One line: pieces from left to right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) pieces: Vec<(Style, String)>,
}

impl Line {
    fn of(style: Style, text: impl Into<String>) -> Self {
        let mut line = Self::default();
        line.add(style, text);
        line
    }

    fn add(&mut self, style: Style, text: impl Into<String>) {
        // A control character would move the cursor.
        let text = text.into().replace(char::is_control, "?");
        self.pieces.push((style, text));
    }

    /// Cut to a width, in characters; what was cut ends in an ellipsis.
    fn cut(mut self, width: usize) -> Self {
        let mut left = width;
        for (_, text) in &mut self.pieces {
            let long = text.chars().count();
            if long > left {
                let mut short: String = text.chars().take(left.saturating_sub(1)).collect();
                if left > 0 {
                    short.push('…');
                }
                *text = short;
                left = 0;
            } else {
                left -= long;
            }
        }
        self.pieces.retain(|(_, text)| !text.is_empty());
        self
    }

    fn chosen(mut self, width: usize) -> Self {
        let text: String = self.pieces.drain(..).map(|(_, text)| text).collect();
        Self::of(Style::Chosen, format!("{text:<width$}"))
    }
}

/// Lines above and below the rows of the table.
pub(super) const FRAME_LINES: usize = 4;

/// How many rows of the table a terminal of so many lines has room for.
pub(super) const fn rows_on(height: usize) -> usize {
    let rows = height.saturating_sub(FRAME_LINES);
    if rows == 0 { 1 } else { rows }
}

/// The whole screen.
pub(super) fn draw(view: &View, width: usize, height: usize) -> Vec<Line> {
    let mut lines = header(view);
    let room = height.saturating_sub(lines.len() + 1);
    match (&view.mode, &view.sample) {
        (Mode::Help, _) => lines.extend(HELP.lines().map(|line| Line::of(Style::Plain, line))),
        (Mode::Log { .. }, _) => {
            let skip = view.log.len().saturating_sub(room);
            let newest = view.log.iter().skip(skip);
            lines.extend(newest.map(|line| Line::of(Style::Plain, line.clone())));
        }
        (_, Some(sample)) => lines.extend(table(view, sample, width, room)),
        (_, None) => {}
    }
    lines.truncate(height.saturating_sub(1));
    lines.resize(height.saturating_sub(1), Line::default());
    lines.push(footer(view));
    lines.truncate(height);
    lines.into_iter().map(|line| line.cut(width)).collect()
}

fn header(view: &View) -> Vec<Line> {
    let Some(sample) = &view.sample else {
        let text = match view.trouble {
            Some(_) => "kingpole top",
            None => "kingpole top: asking the manager",
        };
        return vec![Line::of(Style::Bold, text), Line::default()];
    };
    let mut total = Usage::default();
    for watcher in &sample.watchers {
        total.cpu_percent += watcher.usage.cpu_percent;
        total.resident_bytes += watcher.usage.resident_bytes;
        total.output_bytes_per_second += watcher.usage.output_bytes_per_second;
    }
    let processes: usize = sample.watchers.iter().map(|w| w.processes.len()).sum();
    let manager = &sample.manager;
    let mut first = Line::of(Style::Bold, manager.configuration.clone());
    first.add(
        Style::Plain,
        format!(
            "  manager {} (pid {}), up {}",
            manager.release,
            manager.pid,
            duration(manager.uptime_ms)
        ),
    );
    let kernel = &sample.kernel;
    match (kernel.connected, &kernel.release, kernel.pid) {
        (true, Some(release), Some(pid)) => {
            first.add(Style::Plain, format!(", kernel {release} (pid {pid})"));
        }
        (true, ..) => {}
        (false, ..) => first.add(Style::Bad, ", kernel out of reach"),
    }
    let second = format!(
        "watchers {}, processes {processes}, CPU {:.1}%, memory {}, output {}/s",
        sample.watchers.len(),
        total.cpu_percent,
        size(total.resident_bytes),
        size(total.output_bytes_per_second),
    );
    vec![first, Line::of(Style::Plain, second)]
}

/// The columns and their widths behind the name.
const COLUMNS: [(&str, usize); 8] = [
    ("STATE", 9),
    ("PID", 8),
    ("UPTIME", 8),
    ("RESTARTS", 8),
    ("CPU%", 6),
    ("RSS", 9),
    ("OUT/s", 9),
    ("RING", 5),
];

fn table(view: &View, sample: &Sample, width: usize, room: usize) -> Vec<Line> {
    let rest: usize = COLUMNS.iter().map(|(_, wide)| wide + 1).sum();
    let longest = sample.watchers.iter().map(|watcher| {
        let workers = watcher.processes.iter().map(|p| p.worker);
        let digits = workers.max().map_or(0, |worker| worker.to_string().len());
        watcher.name.chars().count() + digits + "    .".len()
    });
    let most = width.saturating_sub(rest).max(12);
    let name_width = longest.max().unwrap_or(0).clamp(12, most);
    let mut lines = vec![heading(name_width)];
    let rows = view.rows();
    let chosen = view.chosen();
    let sockets = sockets(sample);
    // Sockets give way to rows, and rows scroll so that the chosen one is among them.
    let visible = room.saturating_sub(1 + sockets.len()).max(1);
    let first = chosen.map_or(0, |at| at.saturating_sub(visible - 1));
    for (at, row) in rows.iter().enumerate().skip(first).take(visible) {
        let line = row_line(view, sample, row, name_width).cut(width);
        lines.push(if chosen == Some(at) {
            line.chosen(width)
        } else {
            line
        });
    }
    if rows.is_empty() && !view.filter.is_empty() {
        let text = format!("no watcher has {:?} in its name", view.filter);
        lines.push(Line::of(Style::Dim, text));
    }
    lines.extend(sockets);
    lines
}

fn heading(name_width: usize) -> Line {
    let mut text = format!("{:<name_width$}", "WATCHER");
    for (at, (name, wide)) in COLUMNS.iter().enumerate() {
        let cell = match at {
            0 => format!(" {name:<wide$}"),
            _ => format!(" {name:>wide$}"),
        };
        text.push_str(&cell);
    }
    Line::of(Style::Bold, text)
}

fn row_line(view: &View, sample: &Sample, row: &Row, name_width: usize) -> Line {
    let Some(watcher) = sample.watchers.iter().find(|w| w.name == row.watcher) else {
        return Line::default();
    };
    let process = row
        .worker
        .and_then(|worker| watcher.processes.iter().find(|p| p.worker == worker));
    let mut line = Line::default();
    let cell = |text: &str| -> String {
        let long = text.chars().count();
        if long <= name_width {
            return format!("{text:<name_width$}");
        }
        let short: String = text.chars().take(name_width - 1).collect();
        format!("{short}…")
    };
    let Some(process) = process else {
        let mark = if view.is_folded(&watcher.name) {
            '+'
        } else {
            '-'
        };
        line.add(Style::Bold, cell(&format!("{mark} {}", watcher.name)));
        line.add(
            state_style(&watcher.state),
            format!(" {:<9}", watcher.state),
        );
        let running = format!("{}/{}", watcher.actual, watcher.numprocesses);
        let style = if watcher.ready < watcher.numprocesses {
            Style::Busy
        } else {
            Style::Plain
        };
        line.add(style, format!(" {running:>8}"));
        line.add(Style::Plain, format!(" {:>8} {:>8}", "", watcher.restarts));
        figures(&mut line, &watcher.usage);
        if let Some(reason) = &watcher.reason {
            line.add(Style::Dim, format!("  {reason}"));
        }
        return line;
    };
    line.add(
        Style::Plain,
        cell(&format!("    {}.{}", watcher.name, process.worker)),
    );
    line.add(
        state_style(&process.state),
        format!(" {:<9}", process.state),
    );
    let uptime = duration(process.uptime_ms);
    line.add(
        Style::Plain,
        format!(" {:>8} {uptime:>8} {:>8}", process.pid, process.restarts),
    );
    figures(&mut line, &process.usage);
    if process.outdated {
        line.add(Style::Busy, "  outdated");
    }
    if let Some(reason) = &process.reason {
        line.add(Style::Dim, format!("  {reason}"));
    }
    if let Some(says) = &process.says {
        line.add(Style::Dim, format!("  says: {says}"));
    }
    line
}

fn figures(line: &mut Line, usage: &Usage) {
    let rate = match usage.output_bytes_per_second {
        0 => "0".to_owned(),
        bytes => size(bytes),
    };
    line.add(
        Style::Plain,
        format!(
            " {:>6.1} {:>9} {rate:>9}",
            usage.cpu_percent,
            size(usage.resident_bytes)
        ),
    );
    let ring = usage.ring_percent();
    let style = match ring {
        0..50 => Style::Plain,
        50..90 => Style::Busy,
        _ => Style::Bad,
    };
    line.add(style, format!(" {:>5}", format!("{ring}%")));
    if usage.dropped_bytes > 0 {
        line.add(Style::Bad, format!("  {} lost", size(usage.dropped_bytes)));
    }
}

fn state_style(state: &str) -> Style {
    match state {
        "active" | "running" => Style::Good,
        "stopped" => Style::Dim,
        _ => Style::Busy,
    }
}

fn sockets(sample: &Sample) -> Vec<Line> {
    let mut lines = Vec::new();
    for socket in &sample.sockets {
        let mut line = Line::of(Style::Dim, format!("socket {}", socket.name));
        line.add(Style::Plain, format!("  {}", socket.address));
        match socket.waiting {
            _ if !socket.ready => line.add(Style::Bad, "  not there"),
            Some(waiting) => {
                let full = waiting >= socket.backlog;
                let style = if full { Style::Bad } else { Style::Plain };
                let text = format!("  {waiting} of {} waiting", socket.backlog);
                line.add(style, text);
            }
            None => line.add(Style::Plain, format!("  backlog {}", socket.backlog)),
        }
        lines.push(line);
    }
    lines
}

fn footer(view: &View) -> Line {
    match &view.mode {
        Mode::Filter => Line::of(Style::Bold, format!("filter: {}_", view.filter)),
        Mode::Signal { row, typed } => {
            let of = match row.worker {
                Some(worker) => format!("{}.{worker}", row.watcher),
                None => row.watcher.clone(),
            };
            Line::of(Style::Bold, format!("signal for {of}: {typed}_"))
        }
        Mode::Confirm { question, .. } => Line::of(Style::Bold, format!("{question} (y/n)")),
        Mode::Log { watcher } => {
            let mut line = Line::of(Style::Bold, format!("output of {watcher}"));
            line.add(Style::Dim, "  q back");
            line
        }
        Mode::Help => Line::of(Style::Dim, "any key goes back"),
        Mode::Table => table_footer(view),
    }
}

fn table_footer(view: &View) -> Line {
    if let Some(trouble) = &view.trouble {
        return Line::of(Style::Bad, trouble.clone());
    }
    if !view.message.is_empty() {
        return Line::of(Style::Plain, view.message.clone());
    }
    let mut line = Line::of(Style::Dim, format!("by {}", view.order.name()));
    if !view.filter.is_empty() {
        line.add(Style::Busy, format!("  filter: {}", view.filter));
    }
    line.add(Style::Dim, "  ? keys  q quit");
    line
}

const HELP: &str = "
  up, down, j, k      choose a row          page up, page down, home, end
  space, enter        fold or unfold a watcher
  F                   fold or unfold all
  o                   next order: name, cpu, memory, output, restarts, uptime
  /                   show only watchers with this in their names; escape shows all
  l                   follow the output of the watcher
  u                   start it
  x                   stop it
  r                   restart it, or the chosen process alone
  R                   replace its processes without an interruption
  s                   send a signal to its processes, or to the chosen one
  q, ctrl-c           quit";

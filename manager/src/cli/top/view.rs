//! What is shown of a sample and how keys change it: which rows, in which order, which one is chosen,
//! and what is asked for. No terminal in here.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use clap::ValueEnum;

use super::sample::{Process, Sample, Usage, Watcher};
use crate::command::{
    Change, Command, KillRequest, Matching, Reload, Selection, SignalRequest, Wait,
};
use crate::config::model::SignalNumber;
use crate::engine::SignalTarget;

/// Lines of output that are kept while they are followed.
const LOG_LINES_MAX: usize = 1000;

/// By what watchers, and the processes of each, are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    /// The name
    #[default]
    Name,
    /// CPU, most first
    Cpu,
    /// Resident memory, most first
    Memory,
    /// Output rate, most first
    Output,
    /// Restarts, most first
    Restarts,
    /// Uptime, shortest first
    Uptime,
}

impl Order {
    const ALL: [Self; 6] = [
        Self::Name,
        Self::Cpu,
        Self::Memory,
        Self::Output,
        Self::Restarts,
        Self::Uptime,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Restarts => "restarts",
            Self::Uptime => "uptime",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self);
        Self::ALL[(at.unwrap_or(0) + 1) % Self::ALL.len()]
    }

    fn usage(self, a: &Usage, b: &Usage) -> Ordering {
        match self {
            Self::Cpu => b.cpu_percent.total_cmp(&a.cpu_percent),
            Self::Memory => b.resident_bytes.cmp(&a.resident_bytes),
            Self::Output => b.output_bytes_per_second.cmp(&a.output_bytes_per_second),
            Self::Name | Self::Restarts | Self::Uptime => Ordering::Equal,
        }
    }

    fn watchers(self, a: &Watcher, b: &Watcher) -> Ordering {
        let youngest = |w: &Watcher| w.processes.iter().map(|p| p.uptime_ms).min();
        match self {
            Self::Restarts => b.restarts.cmp(&a.restarts),
            // Those without processes come last.
            Self::Uptime => {
                (youngest(a).is_none(), youngest(a)).cmp(&(youngest(b).is_none(), youngest(b)))
            }
            _ => self.usage(&a.usage, &b.usage),
        }
    }

    fn processes(self, a: &Process, b: &Process) -> Ordering {
        match self {
            Self::Restarts => b.restarts.cmp(&a.restarts),
            Self::Uptime => a.uptime_ms.cmp(&b.uptime_ms),
            _ => self.usage(&a.usage, &b.usage),
        }
    }
}

/// A key, as far as it means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-C.
    Interrupt,
}

/// What a key asks the world for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    /// Leave.
    Quit,
    /// Tell the manager.
    Tell(Command),
    /// Follow the output of this watcher.
    Follow(String),
    /// Follow no more.
    Unfollow,
}

/// Which row: a watcher, or one of its processes by worker id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) watcher: String,
    pub(super) worker: Option<u32>,
}

/// What the keys go to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    /// The table.
    Table,
    /// Typing a filter.
    Filter,
    /// Typing a signal for a row.
    Signal { row: Row, typed: String },
    /// Asking whether it is meant.
    Confirm { question: String, command: Command },
    /// Lines of a watcher.
    Log { watcher: String },
    /// The keys.
    Help,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) sample: Option<Sample>,
    /// Why there is no newer sample.
    pub(super) trouble: Option<String>,
    pub(super) order: Order,
    pub(super) filter: String,
    folded: BTreeSet<String>,
    chosen: Row,
    pub(super) mode: Mode,
    /// What came of the last wish.
    pub(super) message: String,
    pub(super) log: VecDeque<String>,
}

impl View {
    pub(super) fn new(order: Order) -> Self {
        Self {
            sample: None,
            trouble: None,
            order,
            filter: String::new(),
            folded: BTreeSet::new(),
            chosen: Row::default(),
            mode: Mode::Table,
            message: String::new(),
            log: VecDeque::new(),
        }
    }

    /// Watchers that are shown, in order.
    pub(super) fn watchers(&self) -> Vec<&Watcher> {
        let wanted = self.filter.to_lowercase();
        let all = self.sample.iter().flat_map(|sample| &sample.watchers);
        let mut watchers: Vec<&Watcher> = all
            .filter(|watcher| watcher.name.to_lowercase().contains(&wanted))
            .collect();
        watchers.sort_by(|a, b| self.order.watchers(a, b));
        watchers
    }

    /// The processes that are shown below a watcher, in order.
    pub(super) fn processes<'a>(&self, watcher: &'a Watcher) -> Vec<&'a Process> {
        if self.is_folded(&watcher.name) {
            return Vec::new();
        }
        let mut processes: Vec<&Process> = watcher.processes.iter().collect();
        processes.sort_by(|a, b| self.order.processes(a, b));
        processes
    }

    pub(super) fn is_folded(&self, watcher: &str) -> bool {
        self.folded.contains(watcher)
    }

    /// All rows that are shown.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for watcher in self.watchers() {
            let row = |worker| Row {
                watcher: watcher.name.clone(),
                worker,
            };
            rows.push(row(None));
            rows.extend(self.processes(watcher).iter().map(|p| row(Some(p.worker))));
        }
        rows
    }

    /// The chosen row: where it was, else its watcher, else the first.
    pub(super) fn chosen(&self) -> Option<usize> {
        let rows = self.rows();
        let at = |row: &Row| rows.iter().position(|r| r == row);
        let of_watcher = Row {
            watcher: self.chosen.watcher.clone(),
            worker: None,
        };
        at(&self.chosen)
            .or_else(|| at(&of_watcher))
            .or((!rows.is_empty()).then_some(0))
    }

    /// Another moment, or why there is none.
    pub(super) fn sampled(&mut self, sample: Result<Sample, String>) {
        match sample {
            Ok(sample) => {
                self.sample = Some(sample);
                self.trouble = None;
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    /// A line of the watcher that is followed.
    pub(super) fn logged(&mut self, line: String) {
        if self.log.len() == LOG_LINES_MAX {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    /// A key was pressed; `page` is the number of rows on the screen.
    pub(super) fn key(&mut self, key: Key, page: usize) -> Option<Wish> {
        if key == Key::Interrupt {
            return Some(Wish::Quit);
        }
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Table => self.table_key(key, page),
            Mode::Filter => {
                self.filter_key(key);
                None
            }
            Mode::Signal { row, typed } => self.signal_key(key, row, typed),
            Mode::Confirm { command, .. } => {
                matches!(key, Key::Char('y' | 'Y')).then_some(Wish::Tell(command))
            }
            Mode::Log { watcher } => match key {
                Key::Escape | Key::Char('q' | 'l') => {
                    self.log.clear();
                    Some(Wish::Unfollow)
                }
                _ => {
                    self.mode = Mode::Log { watcher };
                    None
                }
            },
            Mode::Help => None,
        }
    }

    fn table_key(&mut self, key: Key, page: usize) -> Option<Wish> {
        self.message.clear();
        let row = self.chosen().and_then(|at| self.rows().into_iter().nth(at));
        match key {
            Key::Char('q') => return Some(Wish::Quit),
            Key::Escape => self.filter.clear(),
            Key::Up | Key::Char('k') => self.choose(|at, _| at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.choose(|at, last| last.min(at + 1)),
            Key::PageUp => self.choose(|at, _| at.saturating_sub(page)),
            Key::PageDown => self.choose(|at, last| last.min(at + page)),
            Key::Home => self.choose(|_, _| 0),
            Key::End => self.choose(|_, last| last),
            Key::Char('o') => self.order = self.order.next(),
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Char('F') => self.fold_all(),
            Key::Char(' ') | Key::Enter => {
                if let Some(row) = row {
                    self.fold(row);
                }
            }
            Key::Char('s') => {
                self.mode = Mode::Signal {
                    row: row?,
                    typed: String::new(),
                };
            }
            Key::Char('l') => {
                let watcher = row?.watcher;
                self.mode = Mode::Log {
                    watcher: watcher.clone(),
                };
                return Some(Wish::Follow(watcher));
            }
            Key::Char('u') => return Some(Wish::Tell(Command::Start(change(&row?)))),
            Key::Char('r') => self.ask_restart(&row?),
            Key::Char('R') => {
                let row = row?;
                let command = Command::Reload(Reload {
                    selection: exactly(&row),
                    ..Reload::default()
                });
                self.ask(format!("reload {}?", row.watcher), command);
            }
            Key::Char('x') => {
                let row = row?;
                self.ask(
                    format!("stop {}?", row.watcher),
                    Command::Stop(change(&row)),
                );
            }
            Key::Char(_) | Key::Backspace | Key::Interrupt => {}
        }
        None
    }

    fn filter_key(&mut self, key: Key) {
        match key {
            Key::Enter => return,
            Key::Escape => {
                self.filter.clear();
                return;
            }
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.mode = Mode::Filter;
    }

    fn signal_key(&mut self, key: Key, row: Row, mut typed: String) -> Option<Wish> {
        match key {
            Key::Escape => return None,
            Key::Enter if SignalNumber::parse(&typed).is_none() => {
                self.message = format!("no such signal: {typed}; write HUP, SIGHUP or 1");
                return None;
            }
            Key::Enter => {
                return SignalNumber::parse(&typed).map(|signal| {
                    Wish::Tell(Command::Signal(SignalRequest {
                        selection: exactly(&row),
                        signal: signal.0,
                        pid: None,
                        worker: row.worker,
                        child_pid: None,
                        target: SignalTarget::Process,
                    }))
                });
            }
            Key::Backspace => {
                typed.pop();
            }
            Key::Char(c) => typed.push(c),
            _ => {}
        }
        self.mode = Mode::Signal { row, typed };
        None
    }

    fn choose(&mut self, step: impl Fn(usize, usize) -> usize) {
        let rows = self.rows();
        if let Some(at) = self.chosen() {
            self.chosen = rows[step(at, rows.len() - 1)].clone();
        }
    }

    fn fold(&mut self, row: Row) {
        if !self.folded.remove(&row.watcher) {
            self.folded.insert(row.watcher.clone());
        }
        self.chosen = Row {
            watcher: row.watcher,
            worker: None,
        };
    }

    /// Folds all, or, when all are, none.
    fn fold_all(&mut self) {
        let names = self.sample.iter().flat_map(|sample| &sample.watchers);
        let names: BTreeSet<String> = names.map(|watcher| watcher.name.clone()).collect();
        self.folded = if names.is_subset(&self.folded) {
            BTreeSet::new()
        } else {
            names
        };
    }

    /// What ends processes is confirmed first. One process is killed to be restarted: it is replaced.
    fn ask_restart(&mut self, row: &Row) {
        let Some(worker) = row.worker else {
            let command = Command::Restart(change(row));
            return self.ask(format!("restart {}?", row.watcher), command);
        };
        let command = Command::Kill(KillRequest {
            selection: exactly(row),
            pid: None,
            worker: Some(worker),
            signal: None,
            graceful_timeout_ms: None,
            wait: Wait::No,
        });
        self.ask(format!("restart {}.{worker}?", row.watcher), command);
    }

    fn ask(&mut self, question: String, command: Command) {
        self.mode = Mode::Confirm { question, command };
    }
}

fn exactly(row: &Row) -> Selection {
    Selection {
        watchers: vec![row.watcher.clone()],
        matching: Matching::Simple,
    }
}

fn change(row: &Row) -> Change {
    Change {
        selection: exactly(row),
        wait: Wait::No,
    }
}

//! What a scraper gets: the manager, the process kernel, watchers and processes as metrics in Prometheus's text form
//! (version 0.0.4). Pure: it is given what is known and writes it down.
//!
//! Processes are told apart by watcher and worker id, not by pid, so that their number does not grow with restarts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::command::{
    ProcessState, ProcessStatistics, ProcessStatus, Readiness, StatusReport, WatcherState,
    WatcherStatistics,
};
use crate::shells::control::wire::{EventLine, ManagerInfo};
use crate::shells::kernel_report::{HeldProcess, KernelReport};

/// Most processes that have metrics of their own; a scraper that has to take more takes nothing.
const PROCESSES_MAX: usize = 2000;

/// Most counts of ends: watchers times ways to end.
const ENDS_MAX: usize = 20_000;

/// How processes ended, by watcher, since this manager began.
#[derive(Clone, Debug, Default)]
pub struct Ends(BTreeMap<(String, &'static str), u64>);

impl Ends {
    /// Counts an event, if it is the end of a process.
    pub fn count(&mut self, event: &EventLine) {
        if event.action != "reap" {
            return;
        }
        let reason = match event.exit_code {
            Some(0) => "success",
            Some(1..) => "error",
            Some(_) => "signal",
            None => "unknown",
        };
        let key = (event.watcher.clone(), reason);
        if self.0.len() < ENDS_MAX || self.0.contains_key(&key) {
            let count = self.0.entry(key).or_insert(0);
            *count = count.saturating_add(1);
        }
    }
}

/// What was acknowledged of each process's output when it was last told. The kernel tells what its buffer uses, headers
/// included, so what can be worked out from that is a lower bound that may go back by a header; a counter must not.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged(BTreeMap<u64, u64>);

impl Acknowledged {
    fn look(&mut self, processes: &[HeldProcess]) {
        let before = std::mem::take(&mut self.0);
        self.0 = processes
            .iter()
            .map(|held| {
                let read = held.stdout_bytes.saturating_add(held.stderr_bytes);
                let kept = held.dropped_bytes.saturating_add(held.unread_bytes);
                let at_least = before.get(&held.process).copied().unwrap_or(0);
                (held.process, read.saturating_sub(kept).max(at_least))
            })
            .collect();
    }
}

/// All that is told.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The manager.
    pub manager: &'a ManagerInfo,
    /// Watchers and processes.
    pub status: &'a StatusReport,
    /// What processes use.
    pub statistics: &'a [WatcherStatistics],
    /// The process kernel, while it can be reached.
    pub kernel: Option<&'a KernelReport>,
    /// How processes ended.
    pub ends: &'a Ends,
}

/// The kind of a metric.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// Metrics one after the other, each with all its samples.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Begins a metric. Counters' names end in `_total`.
    fn metric(&mut self, name: &'static str, kind: Kind, help: &str) -> Samples<'_> {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Samples { page: self, name }
    }
}

struct Samples<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Samples<'_> {
    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let text = &mut self.page.0;
        text.push_str(self.name);
        for (number, (key, value)) in labels.iter().enumerate() {
            text.push(if number == 0 { '{' } else { ',' });
            let _ = write!(text, "{key}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows only such numbers"
)]
const fn float(number: u64) -> f64 {
    number as f64
}

const fn truth(so: bool) -> f64 {
    if so { 1.0 } else { 0.0 }
}

/// The page.
#[must_use]
pub fn render(known: &Known<'_>, acknowledged: &mut Acknowledged) -> String {
    let mut page = Page::default();
    manager(known, &mut page);
    kernel(known.kernel, &mut page);
    watchers(known, &mut page);
    let held = known.kernel.map_or(&[][..], |report| &report.processes);
    acknowledged.look(held);
    processes(known, acknowledged, &mut page);
    page.0
}

fn manager(known: &Known<'_>, page: &mut Page) {
    let release = known.manager.release.as_str();
    page.metric(
        "kingpole_manager_info",
        Kind::Gauge,
        "The manager's release.",
    )
    .add(&[("version", release)], 1.0);
    let uptime = float(known.manager.uptime_ms) / 1e3;
    page.metric(
        "kingpole_manager_uptime_seconds",
        Kind::Gauge,
        "Seconds since the manager began.",
    )
    .add(&[], uptime);
}

fn kernel(report: Option<&KernelReport>, page: &mut Page) {
    page.metric(
        "kingpole_kernel_up",
        Kind::Gauge,
        "Whether the process kernel can be reached.",
    )
    .add(&[], truth(report.is_some()));
    let Some(report) = report else {
        return;
    };
    let kernel = &report.kernel;
    page.metric(
        "kingpole_kernel_info",
        Kind::Gauge,
        "The process kernel's release.",
    )
    .add(&[("version", &kernel.release)], 1.0);
    let gauges: [(&'static str, f64, &str); 9] = [
        (
            "kingpole_kernel_generation",
            float(kernel.generation),
            "How many programs this kernel process has run; an upgrade adds one.",
        ),
        (
            "kingpole_kernel_epoch",
            float(kernel.epoch),
            "How many kernel processes have worked on this state; a crash adds one.",
        ),
        (
            "kingpole_kernel_uptime_seconds",
            float(kernel.uptime_ms) / 1e3,
            "Seconds since the state was created.",
        ),
        (
            "kingpole_kernel_resident_bytes",
            float(kernel.resident_kib) * 1024.0,
            "Resident memory of the process kernel, shared memory in use included.",
        ),
        (
            "kingpole_kernel_output_bytes",
            float(kernel.output_bytes),
            "Unread output of all processes, with record headers.",
        ),
        (
            "kingpole_kernel_output_capacity_bytes",
            float(kernel.output_capacity_bytes),
            "Room for output of all processes.",
        ),
        (
            "kingpole_kernel_open_descriptors",
            float(kernel.descriptors),
            "Descriptors open in the process kernel.",
        ),
        (
            "kingpole_kernel_max_descriptors",
            float(kernel.descriptors_limit),
            "Most descriptors that it may open.",
        ),
        (
            "kingpole_kernel_sessions",
            report.sessions.len() as f64,
            "Connected clients.",
        ),
    ];
    for (name, value, help) in gauges {
        page.metric(name, Kind::Gauge, help).add(&[], value);
    }
    let mut held = page.metric(
        "kingpole_kernel_processes",
        Kind::Gauge,
        "Processes that the kernel holds.",
    );
    held.add(&[("state", "running")], float(kernel.processes_running));
    held.add(&[("state", "ended")], float(kernel.processes_ended));
}

fn watchers(known: &Known<'_>, page: &mut Page) {
    let watchers = &known.status.watchers;
    let mut states = page.metric(
        "kingpole_watcher_state",
        Kind::Gauge,
        "1 for the state that a watcher is in, 0 for the others.",
    );
    for watcher in watchers {
        for state in [
            WatcherState::Stopped,
            WatcherState::Starting,
            WatcherState::Active,
            WatcherState::Stopping,
        ] {
            let labels = [("watcher", watcher.name.as_str()), ("state", state.name())];
            states.add(&labels, truth(watcher.state == state));
        }
    }
    type Take = fn(&crate::command::WatcherStatus) -> f64;
    let all: [(&'static str, Kind, &str, Take); 5] = [
        (
            "kingpole_watcher_up",
            Kind::Gauge,
            "Whether a watcher is active and has all its processes.",
            |it| truth(it.state == WatcherState::Active && it.actual >= it.numprocesses),
        ),
        (
            "kingpole_watcher_processes_wanted",
            Kind::Gauge,
            "Processes that a watcher shall have when it runs.",
            |it| f64::from(it.numprocesses),
        ),
        (
            "kingpole_watcher_processes",
            Kind::Gauge,
            "Processes of a watcher that are alive.",
            |it| f64::from(it.actual),
        ),
        (
            "kingpole_watcher_processes_ready",
            Kind::Gauge,
            "Processes of a watcher that are ready.",
            |it| f64::from(it.ready),
        ),
        (
            "kingpole_watcher_restarts_total",
            Kind::Counter,
            "Processes that ended by themselves and were replaced, since the watcher was first started.",
            |it| float(it.restarts),
        ),
    ];
    for (name, kind, help, take) in all {
        let mut samples = page.metric(name, kind, help);
        for watcher in watchers {
            samples.add(&[("watcher", &watcher.name)], take(watcher));
        }
    }
    let mut ends = page.metric(
        "kingpole_watcher_exits_total",
        Kind::Counter,
        "Processes that ended, whoever wanted it, since this manager began: success (status 0), error (another status), signal.",
    );
    for ((watcher, reason), count) in &known.ends.0 {
        ends.add(&[("watcher", watcher), ("reason", reason)], float(*count));
    }
}

/// One process, from all who know of it.
struct Process<'a> {
    watcher: &'a str,
    worker: String,
    status: &'a ProcessStatus,
    statistics: Option<&'a ProcessStatistics>,
    held: Option<&'a HeldProcess>,
}

fn processes(known: &Known<'_>, acknowledged: &Acknowledged, page: &mut Page) {
    let statistics: BTreeMap<u32, &ProcessStatistics> = known
        .statistics
        .iter()
        .flat_map(|watcher| &watcher.processes)
        .map(|process| (process.pid.0, process))
        .collect();
    let held: BTreeMap<u64, &HeldProcess> = known
        .kernel
        .iter()
        .flat_map(|report| &report.processes)
        .map(|process| (process.process, process))
        .collect();
    let mut all: Vec<Process<'_>> = Vec::new();
    let mut left_out = 0_u32;
    for watcher in &known.status.watchers {
        for status in &watcher.processes {
            if all.len() >= PROCESSES_MAX {
                left_out = left_out.saturating_add(1);
                continue;
            }
            all.push(Process {
                watcher: &watcher.name,
                worker: status.worker.0.to_string(),
                status,
                statistics: statistics.get(&status.pid.0).copied(),
                held: held.get(&status.process.0).copied(),
            });
        }
    }
    page.metric(
        "kingpole_processes_without_metrics",
        Kind::Gauge,
        "Processes beyond the bound of those that have metrics of their own.",
    )
    .add(&[], f64::from(left_out));
    type Take = fn(&Process<'_>) -> Option<f64>;
    let metrics: [(&'static str, Kind, &str, Take); 9] = [
        (
            "kingpole_process_up",
            Kind::Gauge,
            "Whether a process runs and was not asked to stop.",
            |it| Some(truth(it.status.state == ProcessState::Running)),
        ),
        (
            "kingpole_process_ready",
            Kind::Gauge,
            "Whether a process is ready.",
            |it| Some(truth(it.status.readiness == Readiness::Ready)),
        ),
        (
            "kingpole_process_uptime_seconds",
            Kind::Gauge,
            "Seconds since a process was started.",
            |it| Some(float(it.status.uptime_ms) / 1e3),
        ),
        (
            "kingpole_process_restarts_total",
            Kind::Counter,
            "Processes with this worker id that ended by themselves before this one.",
            |it| Some(f64::from(it.status.restarts)),
        ),
        (
            "kingpole_process_resident_bytes",
            Kind::Gauge,
            "Resident memory.",
            |it| Some(float(it.statistics?.info.as_ref()?.resident_bytes)),
        ),
        (
            "kingpole_process_cpu_seconds_total",
            Kind::Counter,
            "Processor time of a process and of its children that ended.",
            |it| Some(it.statistics?.info.as_ref()?.cpu_seconds),
        ),
        (
            "kingpole_process_output_dropped_bytes_total",
            Kind::Counter,
            "Output that was dropped because nobody took it in time.",
            |it| Some(float(it.held?.dropped_bytes)),
        ),
        (
            "kingpole_process_output_buffer_used_bytes",
            Kind::Gauge,
            "Output that waits in the process kernel, with record headers.",
            |it| Some(float(it.held?.unread_bytes)),
        ),
        (
            "kingpole_process_output_buffer_capacity_bytes",
            Kind::Gauge,
            "Room for it.",
            |it| Some(float(it.held?.capacity_bytes)),
        ),
    ];
    for (name, kind, help, take) in metrics {
        let mut samples = page.metric(name, kind, help);
        for process in &all {
            if let Some(value) = take(process) {
                let labels = [("watcher", process.watcher), ("worker", &process.worker)];
                samples.add(&labels, value);
            }
        }
    }
    let mut read = page.metric(
        "kingpole_process_output_bytes_total",
        Kind::Counter,
        "Output that the process kernel has read from a process.",
    );
    for process in &all {
        let Some(held) = process.held else { continue };
        for (stream, bytes) in [("stdout", held.stdout_bytes), ("stderr", held.stderr_bytes)] {
            let labels = [
                ("watcher", process.watcher),
                ("worker", &process.worker),
                ("stream", stream),
            ];
            read.add(&labels, float(bytes));
        }
    }
    let mut taken = page.metric(
        "kingpole_process_output_acknowledged_bytes_total",
        Kind::Counter,
        "Output that was acknowledged; a little less than that while some of it waits, as its headers count.",
    );
    for process in &all {
        let Some(bytes) = process
            .held
            .and_then(|held| acknowledged.0.get(&held.process))
        else {
            continue;
        };
        let labels = [("watcher", process.watcher), ("worker", &process.worker)];
        taken.add(&labels, float(*bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_written_so_that_they_can_be_read() {
        let mut page = Page::default();
        let mut samples = page.metric("a_total", Kind::Counter, "Help.");
        samples.add(&[], 3.0);
        samples.add(&[("watcher", "a \"b\"\\\n"), ("state", "up")], 0.25);
        assert_eq!(
            page.0,
            "# HELP a_total Help.\n# TYPE a_total counter\na_total 3\n\
             a_total{watcher=\"a \\\"b\\\"\\\\\\n\",state=\"up\"} 0.25\n"
        );
    }

    #[test]
    fn what_was_acknowledged_never_goes_back() {
        let held = |read, unread| {
            let text = format!(
                r#"{{"process": 7, "name": "x", "pid": 1, "uptime_ms": 1, "arguments": [], "uid": 0, "gid": 0,
                "labels": {{}}, "unread_bytes": {unread}, "capacity_bytes": 9, "stdout_bytes": {read}, "dropped_bytes": 5}}"#
            );
            vec![serde_json::from_str::<HeldProcess>(&text).unwrap()]
        };
        let mut acknowledged = Acknowledged::default();
        for (read, unread, expected) in [(100, 0, 95), (110, 42, 95), (110, 0, 105)] {
            acknowledged.look(&held(read, unread));
            assert_eq!(acknowledged.0.get(&7), Some(&expected));
        }
        acknowledged.look(&[]);
        assert!(acknowledged.0.is_empty());
    }
}

//! The shapes of the control server's answers that are not answers of the engine.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::{Event, EventAction};
use crate::shells::clock::Clocks;
use crate::shells::history::{Line, Origin};
use kingpole_protocol::record::Stream;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerInfo {
    /// Its release.
    pub release: String,
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since it began.
    pub uptime_ms: u64,
    /// The configuration file, absolute.
    pub configuration: String,
    /// The runtime directory.
    pub runtime_dir: String,
}

/// One line of `GET /v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEntry {
    /// A line of a child.
    Line {
        /// When the kernel read its end, nanoseconds since 1970.
        time_ns: u64,
        /// The same for people, in UTC.
        time: String,
        /// Whose.
        watcher: String,
        /// Which worker.
        worker: u32,
        /// Its process id.
        pid: u32,
        /// `stdout` or `stderr`.
        stream: String,
        /// The line without its end; bytes that are no text are shown as U+FFFD.
        text: String,
        /// The process kernel's number of the process, which is never used again.
        #[serde(default)]
        process: u64,
        /// Where the line begins in all that the process has written to this stream, in bytes.
        #[serde(default)]
        from: u64,
        /// Where it ends, its line end included. A follower that has it knows which lines of the next
        /// manager it has seen; 0 from a manager that does not say.
        #[serde(default)]
        to: u64,
    },
    /// A line from the end of a log file, older than what the manager remembers.
    Stored {
        /// Whose.
        watcher: String,
        /// `stdout` or `stderr`.
        stream: String,
        /// The file.
        file: String,
        /// When it was written, if the line says so; nanoseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time_ns: Option<u64>,
        /// The line as it stands there.
        text: String,
    },
    /// The kernel had to drop output before the manager took it.
    Gap {
        /// Whose.
        watcher: String,
        /// Which worker.
        worker: u32,
        /// Its process id.
        pid: u32,
        /// `stdout` or `stderr`.
        stream: String,
        /// How many bytes.
        lost_bytes: u64,
    },
    /// Said by `kingpole logs` itself, not by a manager: lines that were written between two managers
    /// and that it could not find again. Their log file has them.
    Unseen {
        /// Whose.
        watcher: String,
        /// Which worker.
        worker: u32,
        /// Its process id.
        pid: u32,
        /// `stdout` or `stderr`.
        stream: String,
        /// How many bytes.
        unseen_bytes: u64,
    },
    /// Lines are missing because the reader was too slow.
    Dropped {
        /// How many.
        dropped: u64,
    },
}

impl LogEntry {
    /// For lost output.
    #[must_use]
    pub fn gap(origin: &Origin, stream: Stream, lost_bytes: u64) -> Self {
        Self::Gap {
            watcher: origin.watcher.clone(),
            worker: origin.worker,
            pid: origin.pid,
            stream: stream.name().to_owned(),
            lost_bytes,
        }
    }
}

impl From<&Line> for LogEntry {
    fn from(line: &Line) -> Self {
        Self::Line {
            time_ns: line.time_ns,
            time: time_text(line.time_ns),
            watcher: line.origin.watcher.clone(),
            worker: line.origin.worker,
            pid: line.origin.pid,
            stream: line.stream.name().to_owned(),
            text: String::from_utf8_lossy(&line.text).into_owned(),
            process: line.process,
            from: line.span.start,
            to: line.span.end,
        }
    }
}

/// One event on the manager's bus: a line of `GET /v1/events`, and what Circus's own clients are told
/// of by [`EventLine::circus_payload`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// Circus's topic, `watcher.NAME.ACTION`.
    pub topic: String,
    /// The watcher's name as configured.
    pub watcher: String,
    /// `start`, `stop`, `spawn`, `reap`, `kill`, `reload`, `updated`, `add`, `remove`,
    /// `hook_success` or `hook_failure`.
    pub action: String,
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
    /// The same for people, in UTC.
    pub time: String,
    /// The process it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Exit status, or the negative number of the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The hook it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Why the hook failed, or the process is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<&Event> for EventLine {
    fn from(event: &Event) -> Self {
        let time_ns = Clocks::read().wall_of(event.at);
        let mut line = Self {
            topic: event.topic(),
            watcher: event.watcher.clone(),
            action: event.action.name().to_owned(),
            time_ns,
            time: time_text(time_ns),
            pid: None,
            exit_code: None,
            hook: None,
            error: None,
        };
        match &event.action {
            EventAction::Spawn { pid } | EventAction::Kill { pid } | EventAction::Ready { pid } => {
                line.pid = Some(pid.0);
            }
            EventAction::Unready { pid, error } => {
                line.pid = Some(pid.0);
                line.error = Some(error.clone());
            }
            EventAction::Reap { pid, exit_code } => {
                line.pid = Some(pid.0);
                line.exit_code = Some(*exit_code);
            }
            EventAction::HookSuccess { name } => line.hook = Some(name.clone()),
            EventAction::HookFailure { name, error } => {
                line.hook = Some(name.clone());
                line.error = Some(error.clone());
            }
            EventAction::Start
            | EventAction::Stop
            | EventAction::Reload
            | EventAction::Updated
            | EventAction::Add
            | EventAction::Remove => {}
        }
        line
    }
}

impl EventLine {
    /// The payload of the event as Circus publishes it under the topic.
    #[must_use]
    pub fn circus_payload(&self) -> Value {
        let mut payload = serde_json::Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                payload.insert(key.to_owned(), value);
            }
        };
        put("process_pid", self.pid.map(Value::from));
        put("time", Some(Value::from(seconds(self.time_ns))));
        put("exit_code", self.exit_code.map(Value::from));
        put("name", self.hook.clone().map(Value::from));
        put("error", self.error.clone().map(Value::from));
        Value::Object(payload)
    }
}

/// Nanoseconds as the seconds that Python counts in.
fn seconds(time_ns: u64) -> f64 {
    std::time::Duration::from_nanos(time_ns).as_secs_f64()
}

/// A time as RFC 3339 in UTC, to the microsecond.
#[must_use]
pub fn time_text(time_ns: u64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(time_ns)) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        Err(_) => time_ns.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_entries_read_as_they_are_written() {
        assert_eq!(
            time_text(1_795_228_350_123_456_789),
            "2026-11-21T02:32:30.123456Z"
        );
        let line = LogEntry::Line {
            time_ns: 1,
            time: time_text(1),
            watcher: "web".into(),
            worker: 1,
            pid: 7,
            stream: "stderr".into(),
            text: "x\u{fffd}".into(),
            process: 3,
            from: 10,
            to: 12,
        };
        let stored = LogEntry::Stored {
            watcher: "web".into(),
            stream: "stdout".into(),
            file: "/x".into(),
            time_ns: None,
            text: "y".into(),
        };
        for entry in [line, stored, LogEntry::Dropped { dropped: 3 }] {
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<LogEntry>(&text).unwrap(), entry);
        }
    }
}

//! What the listener tells the manager: one line of JSON each. A listener outlives the manager that
//! started it, so a later manager reads what an earlier one's listener writes; fields are only ever
//! added.

use serde::{Deserialize, Serialize};

/// What of a datagram is read; systemd reads as much (`NOTIFY_BUFFER_MAX`).
pub(super) const DATAGRAM_BYTES_MAX: usize = 4096;

/// Bytes of one value that are passed on.
const VALUE_BYTES_MAX: usize = 512;

/// By which a manager finds out that everything said before has been heard.
pub(super) const MARK: &str = "KINGPOLE_MARK";

/// By which a manager asks for the last word of each process on what it does: it has just begun.
pub(super) const REPEAT: &str = "KINGPOLE_REPEAT";

/// What a process does, in its own words.
pub(super) const STATUS: &str = "STATUS";

/// What the engine understands; everything else is passed over here already.
const NAMES: [&str; 9] = [
    "READY",
    "STOPPING",
    "RELOADING",
    STATUS,
    "WATCHDOG",
    "WATCHDOG_USEC",
    "EXTEND_TIMEOUT_USEC",
    MARK,
    REPEAT,
];

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    /// When it arrived, nanoseconds of the boot clock.
    pub(super) at: u64,
    /// Linux's numbers of the sender and of those that it descends from, the nearest first, then
    /// that of its session.
    pub(super) family: Vec<u32>,
    /// Assignments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) said: Vec<(String, String)>,
    /// Messages that were thrown away before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) dropped: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Note {
    /// As it is written.
    pub(super) fn to_line(&self) -> Vec<u8> {
        // Cannot fail: no map here has keys that JSON cannot express.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// What a manager set to be found again, if it is that.
    pub(super) fn mark(&self) -> Option<u64> {
        let mark = self.said.iter().find(|(name, _)| name == MARK);
        mark.and_then(|(_, text)| text.parse().ok())
    }

    /// Whether a manager wants to hear again what processes do.
    pub(super) fn asks_to_repeat(&self) -> bool {
        self.said.iter().any(|(name, _)| name == REPEAT)
    }
}

/// The assignments of a datagram that mean something.
pub(super) fn assignments(datagram: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(datagram);
    let mut said: Vec<(String, String)> = Vec::new();
    for line in text.split('\n') {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        if NAMES.contains(&name) {
            merge(&mut said, name, shorten(value));
        }
    }
    said
}

/// Adds an assignment to earlier ones of the same process: the later word stands.
pub(super) fn merge(said: &mut Vec<(String, String)>, name: &str, value: &str) {
    let state = ["READY", "STOPPING", "RELOADING"];
    said.retain(|(other, _)| {
        let same = other == name;
        let overruled = state.contains(&name) && state.contains(&other.as_str());
        !same && !overruled
    });
    said.push((name.to_owned(), value.to_owned()));
}

fn shorten(value: &str) -> &str {
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<(String, String)> {
        assignments(text.as_bytes())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_means_something_is_kept_and_the_last_word_stands() {
        assert_eq!(
            said("READY=1\nSTATUS=a=b\nMAINPID=7\nnonsense\n"),
            [pair("READY", "1"), pair("STATUS", "a=b")]
        );
        assert_eq!(said("STATUS=a\nSTATUS=b"), [pair("STATUS", "b")]);
        assert_eq!(said("READY=1\nSTOPPING=1"), [pair("STOPPING", "1")]);
        assert_eq!(said("RELOADING=1\nREADY=1"), [pair("READY", "1")]);
        assert!(said("BARRIER=1").is_empty());
        assert!(said("").is_empty());
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let text = format!("STATUS=a{}", "ü".repeat(2000));
        let said = said(&text);
        assert_eq!(said[0].1.len(), VALUE_BYTES_MAX - 1);
        assert!(said[0].1.ends_with('ü'));
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_by_older_managers_too() {
        let note = Note {
            at: 5,
            family: vec![3, 2],
            said: vec![pair("STATUS", "a\nb")],
            dropped: 0,
        };
        let line = note.to_line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<Note>(&line).unwrap(), note);
        let newer = br#"{"at":1,"family":[2],"colour":"red"}"#;
        assert_eq!(serde_json::from_slice::<Note>(newer).unwrap().at, 1);
    }
}

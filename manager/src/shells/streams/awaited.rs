//! Lines that processes are awaited to write, to be ready.
//!
//! Such a line is told to the engine, and noted in the process kernel together with the
//! acknowledgement of the record that it stood in: a manager that dies between the two finds either
//! the record or the note.

use std::collections::{BTreeMap, BTreeSet};

use kingpole_protocol::ProcessId;
use kingpole_protocol::record::Stream;
use kingpole_protocol::request::ValueChange;
use regex_lite::Regex;

use crate::config::probe::line_regex;
use crate::shells::history::Records;

/// Keys of notes begin with this.
pub const LINES_PREFIX: &str = "line/1/";

/// A longer line is searched so far.
const LINE_BYTES_MAX: usize = 8 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    wanted: BTreeMap<ProcessId, Wanted>,
    /// Processes of which a note says that they have written it.
    noted: BTreeSet<ProcessId>,
    /// Notes to be made or removed with the next commit.
    changes: Vec<ValueChange>,
}

#[derive(Debug)]
struct Wanted {
    text: String,
    regex: Regex,
    /// Unfinished lines.
    open: BTreeMap<u8, Vec<u8>>,
}

impl Awaited {
    /// A new session: these notes are there, and these processes.
    pub(super) fn begin(&mut self, notes: &[(String, Vec<u8>)], alive: impl Fn(ProcessId) -> bool) {
        self.changes.clear();
        self.noted.clear();
        for (key, _) in notes {
            let process = key
                .strip_prefix(LINES_PREFIX)
                .and_then(|id| id.parse().ok());
            match process.map(ProcessId).filter(|process| alive(*process)) {
                Some(process) => {
                    self.noted.insert(process);
                }
                None => self.changes.push(ValueChange {
                    key: key.clone(),
                    value: None,
                }),
            }
        }
    }

    /// The line of a process is awaited, or is not any more. Whether it was there before.
    pub(super) fn set(&mut self, process: ProcessId, text: Option<String>) -> bool {
        if self.noted.contains(&process) {
            return text.is_some();
        }
        // The configuration's reader lets no other expression pass.
        let wanted = text.and_then(|text| Some((line_regex(&text).ok()?, text)));
        match wanted {
            None => {
                self.wanted.remove(&process);
            }
            Some((regex, text)) => {
                let known = self.wanted.get(&process);
                if known.is_none_or(|known| known.text != text) {
                    let open = BTreeMap::new();
                    self.wanted.insert(process, Wanted { text, regex, open });
                }
            }
        }
        false
    }

    /// Those of which a note says that they have written what is awaited of them.
    pub(super) fn take_noted(&mut self) -> Vec<ProcessId> {
        let noted = |process: &&ProcessId| self.noted.contains(process);
        let found: Vec<ProcessId> = self.wanted.keys().filter(noted).copied().collect();
        for process in &found {
            self.wanted.remove(process);
        }
        found
    }

    /// A process is known, and nothing is awaited of it any more: its note is needed no longer.
    pub(super) fn attached(&mut self, process: ProcessId) {
        if !self.wanted.contains_key(&process) {
            self.forget_note(process);
        }
    }

    /// A process is gone.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.wanted.remove(&process);
        self.forget_note(process);
    }

    fn forget_note(&mut self, process: ProcessId) {
        if self.noted.remove(&process) {
            self.changes.push(ValueChange {
                key: key(process),
                value: None,
            });
        }
    }

    /// A process has written something. Whether the line is in it.
    pub(super) fn read(&mut self, process: ProcessId, records: &Records) -> bool {
        let Some(wanted) = self.wanted.get_mut(&process) else {
            return false;
        };
        let mut found = false;
        for (stream, chunk) in records.iter() {
            found = found || wanted.read(*stream, chunk.data());
        }
        if found {
            self.wanted.remove(&process);
            self.noted.insert(process);
            self.changes.push(ValueChange {
                key: key(process),
                value: Some(b"1".as_slice().into()),
            });
        }
        found
    }

    /// What is to be committed.
    pub(super) fn take_changes(&mut self) -> Vec<ValueChange> {
        std::mem::take(&mut self.changes)
    }
}

impl Wanted {
    fn read(&mut self, stream: Stream, data: &[u8]) -> bool {
        let open = self.open.entry(stream as u8).or_default();
        let mut rest = data;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            extend(open, line);
            if self.regex.is_match(&text(open)) {
                return true;
            }
            open.clear();
            rest = after.get(1..).unwrap_or_default();
        }
        extend(open, rest);
        false
    }
}

fn extend(open: &mut Vec<u8>, bytes: &[u8]) {
    let room = LINE_BYTES_MAX.saturating_sub(open.len());
    open.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
}

fn text(line: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
}

fn key(process: ProcessId) -> String {
    format!("{LINES_PREFIX}{process}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::feed::Chunk;
    use kingpole_protocol::Sequence;
    use std::sync::Arc;

    const P: ProcessId = ProcessId(7);

    fn records(pieces: &[(Stream, &str)]) -> Records {
        let chunk = |text: &str| {
            let block = Arc::new(text.as_bytes().to_vec());
            Chunk::new(Sequence(1), 0, 0, block, 0, text.len())
        };
        let pieces = pieces.iter().map(|(stream, text)| (*stream, chunk(text)));
        Arc::new(pieces.collect())
    }

    fn waiting(regex: &str) -> Awaited {
        let mut awaited = Awaited::default();
        assert!(!awaited.set(P, Some(regex.to_owned())));
        awaited
    }

    #[test]
    fn a_line_is_found_across_records_and_not_across_streams() {
        let mut awaited = waiting("^ready [0-9]+$");
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        assert!(!awaited.read(P, &records(&[(out, "rea"), (err, "dy 1\n")])));
        assert!(!awaited.read(P, &records(&[(out, "dy 1")])));
        assert!(awaited.read(P, &records(&[(out, "2\r\n")])));
        let key = "line/1/7".to_owned();
        let value = Some(b"1".as_slice().into());
        assert_eq!(awaited.take_changes(), [ValueChange { key, value }]);
        // Once.
        assert!(!awaited.read(P, &records(&[(out, "ready 3\n")])));
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_room() {
        let mut awaited = waiting("x$");
        for _ in 0..20 {
            assert!(!awaited.read(P, &records(&[(Stream::Stdout, &"x".repeat(1000))])));
        }
        assert_eq!(awaited.wanted[&P].open[&1].len(), LINE_BYTES_MAX);
        assert!(awaited.read(P, &records(&[(Stream::Stdout, "y\n")])));
    }

    #[test]
    fn the_next_manager_finds_the_note_and_removes_those_that_say_nothing() {
        let mut awaited = Awaited::default();
        let note = |id: u64| (format!("line/1/{id}"), b"1".to_vec());
        awaited.begin(&[note(7), note(8), note(9)], |process| process.0 < 9);
        let removed = |id: u64| ValueChange {
            key: format!("line/1/{id}"),
            value: None,
        };
        assert_eq!(awaited.take_changes(), [removed(9)]);
        assert!(awaited.set(P, Some("x".to_owned())));
        // This one is known to be ready.
        awaited.attached(ProcessId(8));
        awaited.forget(P);
        assert_eq!(awaited.take_changes(), [removed(8), removed(7)]);
    }
}

//! Output for text sessions, made from the records in a child's ring; and the files of the system
//! that text commands need.

use super::hands::Hands;
use crate::effect::{Question, TextForm};
use crate::input::{Answer, Input};
use crate::limits::{DATABASE_BYTES_MAX, TAIL_BYTES_MAX};
use crate::memory::cursor::Stream;
use crate::memory::ring::{Gap, ReadMark, Record};
use crate::state::State;
use crate::state::text::LineEnd;
use crate::text::render::{last_lines, record_header};
use crate::text::users::UserDatabase;
use kingpole_protocol::ids::ProcessId;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;

/// What a text session gets in one turn, behind what it has to be told already.
pub(super) enum TextHelping {
    /// Nothing: part of what it wanted is not there any more.
    Gap {
        /// What.
        gap: Gap,
        /// Where it goes on.
        mark: ReadMark,
    },
    /// Text.
    Text {
        /// How many bytes.
        bytes: usize,
        /// Behind them.
        mark: ReadMark,
        /// How they end.
        line: LineEnd,
    },
}

impl Hands {
    /// Puts records from `mark` on behind `text`, until there are `bytes_max` bytes more or no more records.
    pub(super) fn text_helping(
        &self,
        state: &State,
        process: ProcessId,
        mark: ReadMark,
        (form, bytes_max): (TextForm, u64),
        text: &mut Vec<u8>,
    ) -> Option<Result<TextHelping, Input>> {
        let ring = self.children.get(&process)?.ring.as_ref()?;
        let held = state.processes.get(&process)?;
        let cursor = held.output.cursor;
        let damaged = |reason: String| Some(Err(Input::RingDamaged { process, reason }));
        let (start, gap) = match ring.seek(&cursor, &mark) {
            Ok(found) => found,
            Err(error) => return damaged(error.to_string()),
        };
        if let Some(gap) = gap {
            return Some(Ok(TextHelping::Gap { gap, mark: start }));
        }
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let before = text.len();
        let mut mark = start;
        for record in ring.records(&cursor, &start) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    text.truncate(before);
                    return damaged(error.to_string());
                }
            };
            match form {
                TextForm::Batch => push_record(text, &held.name, &record),
                TextForm::Plain => push_data(text, &record),
            }
            mark = ReadMark::after(&record);
            if text.len().saturating_sub(before) >= bytes_max {
                break;
            }
        }
        let line = match text.last() {
            Some(b'\n') => LineEnd::AtStart,
            _ => LineEnd::Within,
        };
        let bytes = text.len().saturating_sub(before);
        Some(Ok(TextHelping::Text { bytes, mark, line }))
    }

    /// What a child has written that is still kept, without what records take besides; all that is
    /// kept if its ring is damaged.
    pub(super) fn unread_bytes(&self, state: &State, process: ProcessId) -> u64 {
        let Some(held) = state.processes.get(&process) else {
            return 0;
        };
        let ring = self
            .children
            .get(&process)
            .and_then(|child| child.ring.as_ref());
        let cursor = &held.output.cursor;
        ring.map_or(0, |ring| {
            ring.payload_bytes(cursor).unwrap_or(cursor.used())
        })
    }

    /// The last lines that are kept, and where the output goes on behind them.
    pub(super) fn last_lines(
        &self,
        state: &State,
        process: ProcessId,
        lines: usize,
    ) -> Option<(Vec<u8>, ReadMark)> {
        let cursor = state.processes.get(&process)?.output.cursor;
        let head = ReadMark {
            seq: cursor.next_seq,
            position: cursor.head,
        };
        let Some(ring) = &self.children.get(&process)?.ring else {
            return Some((Vec::new(), head));
        };
        let oldest = ReadMark {
            seq: state.processes.get(&process)?.output.oldest,
            position: cursor.tail,
        };
        let mut newest: VecDeque<Record<'_>> = VecDeque::new();
        let mut bytes = 0_usize;
        // Records lead only forwards, so all headers are passed.
        for record in ring.records(&cursor, &oldest).map_while(Result::ok) {
            bytes = bytes.saturating_add(record_bytes(&record));
            newest.push_back(record);
            while let Some(first) = newest.front()
                && bytes.saturating_sub(record_bytes(first)) >= TAIL_BYTES_MAX
            {
                bytes = bytes.saturating_sub(record_bytes(first));
                newest.pop_front();
            }
        }
        let parts = newest.iter().flat_map(|record| record.data);
        let text = parts.collect::<Vec<_>>().concat();
        Some((last_lines(&text, lines).to_vec(), head))
    }
}

fn record_bytes(record: &Record<'_>) -> usize {
    record.data.iter().map(|part| part.len()).sum()
}

fn push_record(text: &mut Vec<u8>, name: &str, record: &Record<'_>) {
    let word = match record.header.stream {
        Stream::Stdout => "out",
        Stream::Stderr => "err",
    };
    let header = record_header(word, name, record.header.time_ns, record_bytes(record));
    // At once, and not by and by with copies of what is there.
    text.reserve(
        header
            .len()
            .saturating_add(record_bytes(record))
            .saturating_add(1),
    );
    text.extend_from_slice(header.as_bytes());
    push_data(text, record);
    text.push(b'\n');
}

fn push_data(text: &mut Vec<u8>, record: &Record<'_>) {
    for part in record.data {
        text.extend_from_slice(part);
    }
}

/// Reads what a text command needs to know. These are small local files: reading them waits for
/// nothing but the disk.
pub(super) fn look_up(question: Question) -> Answer {
    match question {
        Question::Users(draft) => {
            let database = read_file("/etc/passwd").and_then(|passwd| {
                let group = read_file("/etc/group")?;
                Ok(UserDatabase { passwd, group })
            });
            Answer::Users { draft, database }
        }
        Question::Host(spec) => Answer::Host {
            spec,
            hosts: read_file("/etc/hosts"),
        },
    }
}

fn read_file(path: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{path}: {error}");
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let most = DATABASE_BYTES_MAX.saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > DATABASE_BYTES_MAX {
        return Err(format!("{path} has more than {DATABASE_BYTES_MAX} bytes"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

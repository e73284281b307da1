//! Following a manager's lines across managers: when one ends, its successor is asked, and goes on
//! where the one before stopped.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::client::{ManagerClient, Part};
use super::exit::Exit;
use super::failure::Failure;
use crate::shells::control::wire::LogEntry;
use xxhash_rust::xxh3::xxh3_64;

/// How long a follower waits for the next manager.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it looks whether there is one.
const PAUSE: Duration = Duration::from_millis(50);

/// Streams of processes that are remembered; those that were silent for longest are forgotten.
const STREAMS_MAX: usize = 4096;

/// How many lines are asked for to find again what was written between two managers.
pub(super) const LINES_AGAIN: usize = 10_000;

/// Which manager is being listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// The first one.
    First,
    /// One after it.
    Again,
}

/// Asks for lines for as long as there are managers. `path` gives what to ask for; `handle` is told
/// each time that one begins to answer.
///
/// # Errors
/// What `handle` says, what the first manager says, or that there is no next one.
pub(super) fn follow(
    client: &ManagerClient,
    path: impl Fn(Course) -> String,
    mut handle: impl FnMut(Course, Part<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut course = Course::First;
    let mut lost = Instant::now();
    let mut reached = false;
    loop {
        let (mut began, mut own) = (false, false);
        let result = client.body(&path(course), |part| {
            reached = true;
            began |= part != Part::Reached;
            let handled = handle(course, part);
            own |= handled.is_err();
            handled
        });
        if began {
            lost = Instant::now();
        }
        match result {
            Err(failure) if own => return Err(failure),
            // One that there never was is not waited for, and one that says no is heard.
            Err(failure)
                if course == Course::First
                    && !began
                    && !(reached && failure.exit == Exit::CannotReach) =>
            {
                return Err(failure);
            }
            Err(failure) if lost.elapsed() > PATIENCE => return Err(failure),
            Ok(()) | Err(_) => {}
        }
        if began {
            course = Course::Again;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A line that was shown last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    /// Where it ended.
    to: u64,
    /// Its text, hashed: it is only to be recognised.
    text: u64,
}

/// What was shown, so that nothing is shown twice or passed over in silence.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The last line of each stream of each process.
    ends: BTreeMap<(u64, String), Last>,
    /// The same keys, the one that was silent for longest first; those that spoke again occur twice.
    order: VecDeque<((u64, String), u64)>,
    /// Lines of log files that the next manager found, by watcher and stream.
    stored: BTreeMap<(String, String), Vec<LogEntry>>,
}

impl Shown {
    /// The next manager is asked: its lines of log files are for what is missing.
    pub(super) fn begin_again(&mut self) {
        self.stored.clear();
    }

    /// What of an entry is to be shown. `is_whole` says that nothing was left out on purpose, so that
    /// what is not there is missing.
    pub(super) fn take(
        &mut self,
        course: Course,
        entry: LogEntry,
        is_whole: bool,
    ) -> Vec<LogEntry> {
        let LogEntry::Line {
            watcher,
            worker,
            pid,
            stream,
            process,
            from,
            to,
            text,
            ..
        } = &entry
        else {
            return self.take_other(course, entry);
        };
        if *to == 0 {
            return vec![entry];
        }
        let key = (*process, stream.clone());
        let before = self.ends.get(&key).copied();
        if before.is_some_and(|before| *to <= before.to) {
            return Vec::new();
        }
        let mut shown = Vec::new();
        if let Some(before) = before
            && before.to < *from
            && is_whole
        {
            let missing = from - before.to;
            let found = self.find_stored(watcher, stream, before.text, missing, text);
            shown = found.unwrap_or_else(|| {
                vec![LogEntry::Unseen {
                    watcher: watcher.clone(),
                    worker: *worker,
                    pid: *pid,
                    stream: stream.clone(),
                    unseen_bytes: missing,
                }]
            });
        }
        let text = xxh3_64(text.as_bytes());
        self.remember(key, Last { to: *to, text });
        shown.push(entry);
        shown
    }

    fn take_other(&mut self, course: Course, entry: LogEntry) -> Vec<LogEntry> {
        match (&entry, course) {
            (
                LogEntry::Stored {
                    watcher, stream, ..
                },
                Course::Again,
            ) => {
                let key = (watcher.clone(), stream.clone());
                self.stored.entry(key).or_default().push(entry);
                Vec::new()
            }
            _ => vec![entry],
        }
    }

    /// The lines of a log file between `before` and `behind`, if they are just as long together as what
    /// is missing. The newest such: the file may have the line behind already, or not yet.
    fn find_stored(
        &self,
        watcher: &str,
        stream: &str,
        before: u64,
        bytes: u64,
        behind: &str,
    ) -> Option<Vec<LogEntry>> {
        let key = (watcher.to_owned(), stream.to_owned());
        let stored = self.stored.get(&key)?;
        let text = |entry: &LogEntry| match entry {
            LogEntry::Stored { text, .. } => Some(text.clone()),
            _ => None,
        };
        let texts: Vec<String> = stored.iter().filter_map(text).collect();
        let fits = |at: &usize| {
            let mut left = bytes;
            let mut end = *at;
            while left > 0 {
                left = left.checked_sub(texts.get(end)?.len() as u64 + 1)?;
                end += 1;
            }
            let next = texts.get(end);
            next.is_none_or(|next| next == behind).then_some(end)
        };
        let begins = (1..=texts.len()).rev().filter(|at| {
            let last = texts.get(at - 1);
            last.is_some_and(|last| xxh3_64(last.as_bytes()) == before)
        });
        let (from, to) = begins
            .filter_map(|at| fits(&at).map(|end| (at, end)))
            .next()?;
        Some(stored.get(from..to)?.to_vec())
    }

    fn remember(&mut self, key: (u64, String), last: Last) {
        self.ends.insert(key.clone(), last);
        self.order.push_back((key, last.to));
        while self.ends.len() > STREAMS_MAX || self.order.len() > 2 * STREAMS_MAX {
            let Some((key, to)) = self.order.pop_front() else {
                return;
            };
            if self.ends.get(&key).is_none_or(|last| last.to != to) {
                continue;
            }
            if self.ends.len() > STREAMS_MAX {
                self.ends.remove(&key);
            } else {
                self.order.push_back((key, to));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use kingpole_protocol::places::MANAGER_SOCKET;

    use super::*;
    use crate::shells::place::ManagerLock;

    fn line(process: u64, from: u64, text: &str) -> LogEntry {
        LogEntry::Line {
            time_ns: 1,
            time: String::new(),
            watcher: "w".into(),
            worker: 1,
            pid: 7,
            stream: "stdout".into(),
            text: text.into(),
            process,
            from,
            to: from + text.len() as u64 + 1,
        }
    }

    fn stored(text: &str) -> LogEntry {
        LogEntry::Stored {
            watcher: "w".into(),
            stream: "stdout".into(),
            file: "/x".into(),
            time_ns: None,
            text: text.into(),
        }
    }

    fn texts(entries: Vec<LogEntry>) -> Vec<String> {
        let text = |entry| match entry {
            LogEntry::Line { text, .. } | LogEntry::Stored { text, .. } => text,
            LogEntry::Unseen { unseen_bytes, .. } => format!("unseen {unseen_bytes}"),
            other => format!("{other:?}"),
        };
        entries.into_iter().map(text).collect()
    }

    /// A manager that answers each connection with the next of these, and ends it.
    fn manager(answers: Vec<&'static str>) -> (tempfile::TempDir, ManagerLock, ManagerClient) {
        let dir = tempfile::tempdir().unwrap();
        // Clients look for it before they knock.
        let lock = ManagerLock::take(dir.path()).unwrap();
        let listener = UnixListener::bind(dir.path().join(MANAGER_SOCKET)).unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut visitor, _) = listener.accept().unwrap();
                let _ = visitor.read(&mut [0; 4096]);
                let _ = visitor.write_all(answer.as_bytes());
            }
        });
        let client = ManagerClient::new(dir.path()).unwrap();
        (dir, lock, client)
    }

    #[test]
    fn a_first_manager_that_ends_before_it_answers_is_no_reason_to_give_up() {
        let yes = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nline\n";
        let no = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        for (answers, expected) in [
            // What comes first is still the first.
            (vec!["", yes], "First"),
            (vec![yes, "", yes], "First Again"),
            (vec!["", no], ""),
        ] {
            let (_dir, _lock, client) = manager(answers);
            let mut told = Vec::new();
            let ended = follow(
                &client,
                |_| "/v1/events".to_owned(),
                |course, part| {
                    if let Part::Line(_) = part {
                        told.push(format!("{course:?}"));
                        if told.len() == 2 || expected == "First" {
                            return Err(Failure::failed("enough"));
                        }
                    }
                    Ok(())
                },
            );
            assert!(ended.is_err());
            assert_eq!(told.join(" "), expected);
        }
    }

    #[test]
    fn what_the_next_manager_repeats_is_not_shown_again() {
        let mut shown = Shown::default();
        let again = |shown: &mut Shown, entry| texts(shown.take(Course::Again, entry, true));
        assert_eq!(
            texts(shown.take(Course::First, line(1, 0, "a"), true)),
            ["a"]
        );
        shown.begin_again();
        assert!(again(&mut shown, line(1, 0, "a")).is_empty());
        assert_eq!(again(&mut shown, line(1, 2, "a")), ["a"]);
        assert_eq!(again(&mut shown, line(2, 0, "a")), ["a"], "another process");
    }

    #[test]
    fn what_no_manager_remembers_comes_from_the_file_or_is_said_to_be_missing() {
        for (has_file, expected) in [(true, vec!["b", "cc", "d"]), (false, vec!["unseen 5", "d"])] {
            let mut shown = Shown::default();
            shown.take(Course::First, line(1, 0, "a"), true);
            shown.begin_again();
            // The file may be ahead of what the next manager tells.
            for text in ["z", "a", "b", "cc", "d", "e"] {
                if has_file {
                    assert!(shown.take(Course::Again, stored(text), true).is_empty());
                }
            }
            let seen = texts(shown.take(Course::Again, line(1, 7, "d"), true));
            assert_eq!(seen, expected);
        }
        // With lines left out on purpose, nobody can tell.
        let mut shown = Shown::default();
        shown.take(Course::First, line(1, 0, "a"), false);
        assert_eq!(
            texts(shown.take(Course::First, line(1, 9, "b"), false)),
            ["b"]
        );
    }

    #[test]
    fn only_so_many_streams_are_remembered_and_a_busy_one_is_among_them() {
        let mut shown = Shown::default();
        for n in 0..3 * STREAMS_MAX as u64 {
            shown.take(Course::First, line(0, 2 * n, "x"), true);
            shown.take(Course::First, line(n + 1, 0, "x"), true);
        }
        assert!(shown.ends.len() <= STREAMS_MAX && shown.order.len() <= 2 * STREAMS_MAX);
        assert!(shown.ends.contains_key(&(0, "stdout".to_owned())));
    }
}

//! Recent output of all children, in memory: one ring of lines for all watchers together, bounded
//! in bytes. Everybody who follows reads from the ring at an own pace; whoever is too slow is told
//! how many lines are gone, and nobody is waited for.
//!
//! Must not know where output comes from or who reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use kingpole_protocol::record::Stream;
use tokio::sync::{Notify, watch};

/// Bytes of lines kept, their keeping included.
pub const HISTORY_BYTES_MAX: usize = 4 << 20;

/// A line without an end is cut here, and so is a line that is longer.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// What keeping a line costs besides its bytes.
const LINE_OVERHEAD: usize = size_of::<Line>() + 16;

/// One line of a child, without its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who wrote it.
    pub origin: Arc<Origin>,
    /// Which of its streams.
    pub stream: Stream,
    /// When the kernel read the record that completed it, nanoseconds since 1970.
    pub time_ns: u64,
    /// Its bytes.
    pub text: Box<[u8]>,
}

/// Who wrote a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The watcher's name as configured, or its key if it is gone.
    pub watcher: String,
    /// Which of its workers.
    pub worker: u32,
    /// Linux's number.
    pub pid: u32,
}

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A line.
    Line(Line),
    /// So many lines are gone because the follower was too slow.
    Dropped(u64),
}

/// Where a follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(u64);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Number of the first line in the ring, counted from the beginning.
    first: u64,
    /// Unfinished lines by the kernel's number of the process.
    open: BTreeMap<(u64, Stream), OpenLine>,
}

#[derive(Debug)]
struct OpenLine {
    origin: Arc<Origin>,
    time_ns: u64,
    text: Vec<u8>,
}

/// A handle on the history; clones stand for the same one.
#[derive(Clone, Debug)]
pub struct History {
    ring: Arc<Mutex<Ring>>,
    grown: watch::Sender<u64>,
    /// A line was begun and not ended.
    begun: Arc<Notify>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            ring: Arc::default(),
            grown: watch::Sender::new(0),
            begun: Arc::default(),
        }
    }
}

impl History {
    /// Takes bytes of a child as they were read.
    pub fn push(
        &self,
        process: u64,
        origin: &Arc<Origin>,
        stream: Stream,
        time_ns: u64,
        data: &[u8],
    ) {
        let mut ring = self.lock();
        let before = ring.end();
        let mut rest = data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            ring.complete(process, origin, stream, time_ns, &rest[..end]);
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            ring.extend(process, origin, stream, time_ns, rest);
            self.begun.notify_one();
        }
        let end = ring.end();
        drop(ring);
        if end != before {
            self.grown.send_replace(end);
        }
    }

    /// No more will come: an unfinished line is finished.
    pub fn end(&self, process: u64, stream: Stream) {
        let mut ring = self.lock();
        if let Some(open) = ring.open.remove(&(process, stream)) {
            ring.keep(open.origin, stream, open.time_ns, &open.text);
        }
        let end = ring.end();
        drop(ring);
        self.grown.send_replace(end);
    }

    /// Finishes lines that have waited for their end since before `time_ns`: what a child asks at
    /// a prompt shall be seen.
    pub fn finish_older(&self, time_ns: u64) {
        let mut ring = self.lock();
        let late: Vec<_> = ring
            .open
            .iter()
            .filter(|(_, open)| open.time_ns < time_ns)
            .map(|(key, _)| *key)
            .collect();
        if late.is_empty() {
            return;
        }
        for key in late {
            if let Some(open) = ring.open.remove(&key) {
                ring.keep(open.origin, key.1, open.time_ns, &open.text);
            }
        }
        let end = ring.end();
        drop(ring);
        self.grown.send_replace(end);
    }

    /// Waits until a line is begun and not ended; one caller at a time. A line that was begun before
    /// may count.
    pub async fn line_begun(&self) {
        self.begun.notified().await;
    }

    /// Whether any line waits for its end.
    #[must_use]
    pub fn has_unfinished(&self) -> bool {
        !self.lock().open.is_empty()
    }

    /// The place behind the newest line.
    #[must_use]
    pub fn end_cursor(&self) -> Cursor {
        Cursor(self.lock().end())
    }

    /// The place before the oldest line.
    #[must_use]
    pub fn start_cursor(&self) -> Cursor {
        Cursor(self.lock().first)
    }

    /// The last `count` lines of which `wanted` is true, oldest first, and the place behind them.
    #[must_use]
    pub fn last(&self, count: usize, wanted: impl Fn(&Line) -> bool) -> (Vec<Line>, Cursor) {
        let ring = self.lock();
        let mut lines: Vec<Line> = ring
            .lines
            .iter()
            .rev()
            .filter(|line| wanted(line))
            .take(count)
            .cloned()
            .collect();
        lines.reverse();
        (lines, Cursor(ring.end()))
    }

    /// The next entry behind a place, which moves. Nothing when the follower has all.
    pub fn next(&self, cursor: &mut Cursor) -> Option<Entry> {
        let ring = self.lock();
        if cursor.0 < ring.first {
            let dropped = ring.first - cursor.0;
            cursor.0 = ring.first;
            return Some(Entry::Dropped(dropped));
        }
        let index = usize::try_from(cursor.0 - ring.first).ok()?;
        let line = ring.lines.get(index)?.clone();
        cursor.0 += 1;
        Some(Entry::Line(line))
    }

    /// Changes whenever a line is added.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn complete(
        &mut self,
        process: u64,
        origin: &Arc<Origin>,
        stream: Stream,
        time_ns: u64,
        tail: &[u8],
    ) {
        match self.open.remove(&(process, stream)) {
            None => self.keep_cut(origin, stream, time_ns, tail),
            Some(mut open) => {
                open.text.extend_from_slice(tail);
                self.keep_cut(origin, stream, time_ns, &open.text);
            }
        }
    }

    fn extend(
        &mut self,
        process: u64,
        origin: &Arc<Origin>,
        stream: Stream,
        time_ns: u64,
        data: &[u8],
    ) {
        let open = self
            .open
            .entry((process, stream))
            .or_insert_with(|| OpenLine {
                origin: Arc::clone(origin),
                time_ns,
                text: Vec::new(),
            });
        open.text.extend_from_slice(data);
        if open.text.len() >= LINE_BYTES_MAX
            && let Some(open) = self.open.remove(&(process, stream))
        {
            self.keep_cut(origin, stream, time_ns, &open.text);
        }
    }

    fn keep_cut(&mut self, origin: &Arc<Origin>, stream: Stream, time_ns: u64, text: &[u8]) {
        if text.is_empty() {
            return self.keep(Arc::clone(origin), stream, time_ns, text);
        }
        for piece in text.chunks(LINE_BYTES_MAX) {
            self.keep(Arc::clone(origin), stream, time_ns, piece);
        }
    }

    fn keep(&mut self, origin: Arc<Origin>, stream: Stream, time_ns: u64, text: &[u8]) {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.bytes += text.len() + LINE_OVERHEAD;
        self.lines.push_back(Line {
            origin,
            stream,
            time_ns,
            text: text.into(),
        });
        while self.bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.text.len() + LINE_OVERHEAD;
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(watcher: &str) -> Arc<Origin> {
        Arc::new(Origin {
            watcher: watcher.into(),
            worker: 1,
            pid: 7,
        })
    }

    fn text(entry: Option<Entry>) -> String {
        match entry {
            Some(Entry::Line(line)) => String::from_utf8_lossy(&line.text).into_owned(),
            Some(Entry::Dropped(count)) => format!("dropped {count}"),
            None => "nothing".into(),
        }
    }

    #[test]
    fn lines_are_put_together_from_pieces_per_stream() {
        let history = History::default();
        let web = origin("web");
        let mut cursor = history.start_cursor();
        history.push(1, &web, Stream::Stdout, 10, b"one\ntw");
        history.push(1, &web, Stream::Stderr, 11, b"err\n");
        history.push(1, &web, Stream::Stdout, 12, b"o\r\n\nlast");
        let seen: Vec<_> = (0..5).map(|_| text(history.next(&mut cursor))).collect();
        assert_eq!(seen, ["one", "err", "two", "", "nothing"]);
        history.end(1, Stream::Stdout);
        assert_eq!(text(history.next(&mut cursor)), "last");
        history.push(1, &web, Stream::Stdout, 20, b"prompt> ");
        history.finish_older(20);
        assert!(history.has_unfinished());
        history.finish_older(21);
        assert_eq!(text(history.next(&mut cursor)), "prompt> ");
    }

    #[test]
    fn a_slow_follower_is_told_how_many_lines_it_missed_and_memory_stays_bounded() {
        let history = History::default();
        let web = origin("web");
        let mut cursor = history.start_cursor();
        let line = vec![b'x'; 1000];
        let count = 10_000_u64;
        for _ in 0..count {
            history.push(1, &web, Stream::Stdout, 0, &line);
            history.push(1, &web, Stream::Stdout, 0, b"\n");
        }
        let Some(Entry::Dropped(dropped)) = history.next(&mut cursor) else {
            panic!("none lost")
        };
        let mut left = 0;
        while let Some(Entry::Line(_)) = history.next(&mut cursor) {
            left += 1;
        }
        assert_eq!(dropped + left, count);
        assert!(history.lock().bytes <= HISTORY_BYTES_MAX);
    }

    #[test]
    fn a_line_that_never_ends_is_cut() {
        let history = History::default();
        history.push(
            1,
            &origin("web"),
            Stream::Stdout,
            0,
            &vec![b'y'; 3 * LINE_BYTES_MAX],
        );
        let mut cursor = history.start_cursor();
        for _ in 0..3 {
            assert_eq!(text(history.next(&mut cursor)).len(), LINE_BYTES_MAX);
        }
        assert!(history.next(&mut cursor).is_none() && !history.has_unfinished());
    }

    #[test]
    fn the_last_lines_are_those_of_the_wanted_watcher_in_order() {
        let history = History::default();
        for (number, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "a")] {
            let data = format!("{number}\n");
            history.push(
                number,
                &origin(name),
                Stream::Stdout,
                number,
                data.as_bytes(),
            );
        }
        let (lines, mut cursor) = history.last(2, |line| line.origin.watcher == "a");
        assert_eq!(
            lines.iter().map(|line| line.time_ns).collect::<Vec<_>>(),
            [3, 4]
        );
        assert!(history.next(&mut cursor).is_none());
    }
}

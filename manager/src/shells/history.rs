//! Recent output of all children, in memory: one ring for all watchers together, bounded in bytes.
//! It holds what was read as it was read; lines are made by those who look. Everybody who follows
//! reads from the ring at an own pace; whoever is too slow is told how many lines are gone, and nobody
//! is waited for.
//!
//! Must not know where output comes from or who reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::streams::feed::Chunk;
use kingpole_protocol::record::Stream;
use tokio::sync::watch;

/// Bytes of output kept, their keeping included.
pub const HISTORY_BYTES_MAX: usize = 4 << 20;

/// A line without an end is cut here, and so is a line that is longer.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// Records that were read together, shared with whoever stores them.
///
/// Holding these instead of lines of its own is what keeps the history out of the way of a flood: with
/// lines of 100 bytes, cutting and copying each of them took a fifth of the streams thread's time.
pub type Records = Arc<Vec<(Stream, Chunk)>>;

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
    /// The kernel's number of the process.
    pub process: u64,
    /// Where it lies in what the process has written to that stream, its line end included: whoever
    /// has it knows what comes next, from whichever manager.
    pub span: Range<u64>,
}

impl Line {
    /// As text for people: nothing in it moves a cursor.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        text.trim_end().replace(char::is_control, "?")
    }
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
    /// The kernel had to drop so many bytes of a stream before anybody read them.
    Gap {
        /// Whose.
        origin: Arc<Origin>,
        /// Which stream.
        stream: Stream,
        /// How many.
        bytes: u64,
    },
}

/// What was kept of one moment.
#[derive(Debug)]
struct Piece {
    process: u64,
    origin: Arc<Origin>,
    what: What,
    /// Line ends in all pieces before this one.
    lines_before: u64,
    bytes: usize,
}

#[derive(Debug)]
enum What {
    Records(Records),
    Gap(Stream, u64),
    End(Stream),
}

#[derive(Debug, Default)]
struct Ring {
    pieces: VecDeque<Arc<Piece>>,
    bytes: usize,
    /// Number of the first piece in the ring, counted from the beginning.
    first: u64,
    /// Line ends in all pieces that there ever were.
    lines: u64,
}

/// A handle on the history; clones stand for the same one.
#[derive(Clone, Debug)]
pub struct History {
    ring: Arc<Mutex<Ring>>,
    grown: watch::Sender<u64>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            ring: Arc::default(),
            grown: watch::Sender::new(0),
        }
    }
}

impl History {
    /// Takes records of a child as they were read.
    pub fn push(&self, process: u64, origin: &Arc<Origin>, records: Records) {
        let overhead = size_of::<Piece>() + records.len() * size_of::<(Stream, Chunk)>() + 64;
        let (mut bytes, mut lines) = (overhead, 0);
        for (_, chunk) in records.iter() {
            let data = chunk.data();
            bytes += data.len();
            lines += memchr::memchr_iter(b'\n', data).count() as u64;
        }
        self.keep(process, origin, What::Records(records), bytes, lines);
    }

    /// So many bytes of a stream are missing here.
    pub fn gap(&self, process: u64, origin: &Arc<Origin>, stream: Stream, bytes: u64) {
        let kept = size_of::<Piece>() + 64;
        self.keep(process, origin, What::Gap(stream, bytes), kept, 0);
    }

    /// No more will come: an unfinished line is finished.
    pub fn end(&self, process: u64, origin: &Arc<Origin>, stream: Stream) {
        let kept = size_of::<Piece>() + 64;
        self.keep(process, origin, What::End(stream), kept, 0);
    }

    fn keep(&self, process: u64, origin: &Arc<Origin>, what: What, bytes: usize, lines: u64) {
        let mut ring = self.lock();
        let piece = Piece {
            process,
            origin: Arc::clone(origin),
            what,
            lines_before: ring.lines,
            bytes,
        };
        ring.lines += lines;
        ring.bytes += bytes;
        ring.pieces.push_back(Arc::new(piece));
        // Freed by whoever lets go of it last, after the lock.
        let mut gone = Vec::new();
        while ring.bytes > HISTORY_BYTES_MAX && ring.pieces.len() > 1 {
            let Some(oldest) = ring.pieces.pop_front() else {
                break;
            };
            ring.bytes -= oldest.bytes;
            ring.first += 1;
            gone.push(oldest);
        }
        let end = ring.end();
        drop(ring);
        self.grown.send_replace(end);
    }

    /// A follower that begins with the oldest line.
    #[must_use]
    pub fn follow(&self) -> Follower {
        let ring = self.lock();
        Follower::at(
            ring.first,
            ring.pieces
                .front()
                .map_or(ring.lines, |first| first.lines_before),
        )
    }

    /// The last `count` lines of which `wanted` is true, oldest first, and a follower behind them.
    #[must_use]
    pub fn last(&self, count: usize, wanted: impl Fn(&Line) -> bool) -> (Vec<Line>, Follower) {
        let ring = self.lock();
        let pieces: Vec<Arc<Piece>> = ring.pieces.iter().cloned().collect();
        let end = Follower::at(ring.end(), ring.lines);
        drop(ring);
        let mut follower = end;
        let mut lines = VecDeque::new();
        for piece in pieces {
            follower.take(piece);
            while let Some(entry) = follower.ready.pop_front() {
                match entry {
                    Entry::Line(line) if count > 0 && wanted(&line) => {
                        if lines.len() == count {
                            lines.pop_front();
                        }
                        lines.push_back(line);
                    }
                    Entry::Line(_) | Entry::Gap { .. } | Entry::Dropped(_) => {}
                }
            }
        }
        (lines.into(), follower)
    }

    /// The last `count` lines of each of these processes, by Linux's number, as far as they are kept.
    #[must_use]
    pub fn last_words(&self, pids: &BTreeSet<u32>, count: usize) -> BTreeMap<u32, Vec<Line>> {
        let ring = self.lock();
        let wanted = |piece: &&Arc<Piece>| pids.contains(&piece.origin.pid);
        let pieces: Vec<Arc<Piece>> = ring.pieces.iter().filter(wanted).cloned().collect();
        drop(ring);
        let mut follower = Follower::at(0, 0);
        let mut words: BTreeMap<u32, VecDeque<Line>> = BTreeMap::new();
        let mut keep = |line: Line| {
            let lines = words.entry(line.origin.pid).or_default();
            if lines.len() >= count {
                lines.pop_front();
            }
            lines.push_back(line);
        };
        for piece in pieces {
            follower.take(piece);
            for entry in follower.ready.drain(..) {
                if let Entry::Line(line) = entry {
                    keep(line);
                }
            }
        }
        // What a process wrote last may have no end.
        follower.finish_older(u64::MAX);
        for entry in follower.ready.drain(..) {
            if let Entry::Line(line) = entry {
                keep(line);
            }
        }
        let whole = |(pid, lines): (u32, VecDeque<Line>)| (pid, lines.into());
        words.into_iter().map(whole).collect()
    }

    /// The next entry for a follower. Nothing when it has all whole lines.
    pub fn next(&self, follower: &mut Follower) -> Option<Entry> {
        loop {
            if let Some(entry) = follower.ready.pop_front() {
                return Some(entry);
            }
            let ring = self.lock();
            if follower.next < ring.first {
                let oldest = ring.pieces.front();
                let lines = oldest.map_or(ring.lines, |oldest| oldest.lines_before);
                let dropped = lines.saturating_sub(follower.lines);
                (follower.next, follower.lines) = (ring.first, lines);
                follower.open.clear();
                return Some(Entry::Dropped(dropped));
            }
            let index = usize::try_from(follower.next - ring.first).ok()?;
            let piece = Arc::clone(ring.pieces.get(index)?);
            let after = ring.pieces.get(index + 1);
            follower.lines = after.map_or(ring.lines, |after| after.lines_before);
            drop(ring);
            follower.next += 1;
            follower.take(piece);
        }
    }

    /// Changes whenever something is added.
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
        self.first + self.pieces.len() as u64
    }
}

/// Where somebody who looks at the history stands, and the lines that are unfinished there.
#[derive(Debug)]
pub struct Follower {
    /// Number of the next piece.
    next: u64,
    /// Line ends before it.
    lines: u64,
    ready: VecDeque<Entry>,
    /// Unfinished lines by the kernel's number of the process.
    open: BTreeMap<(u64, Stream), OpenLine>,
}

#[derive(Debug)]
struct OpenLine {
    origin: Arc<Origin>,
    time_ns: u64,
    /// Stream offset of its first byte.
    from: u64,
    text: Vec<u8>,
}

impl Follower {
    fn at(next: u64, lines: u64) -> Self {
        Self {
            next,
            lines,
            ready: VecDeque::new(),
            open: BTreeMap::new(),
        }
    }

    /// Whether any line waits for its end.
    #[must_use]
    pub fn has_unfinished(&self) -> bool {
        !self.open.is_empty()
    }

    /// Finishes lines that have waited for their end since before `time_ns`: what a child asks at
    /// a prompt shall be seen.
    pub fn finish_older(&mut self, time_ns: u64) {
        let late: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| open.time_ns < time_ns)
            .map(|(key, _)| *key)
            .collect();
        for (process, stream) in late {
            self.finish(process, stream);
        }
    }

    fn take(&mut self, piece: Arc<Piece>) {
        let Piece {
            process, origin, ..
        } = &*piece;
        match &piece.what {
            What::Records(records) => {
                for (stream, chunk) in records.iter() {
                    self.take_bytes(*process, origin, *stream, chunk);
                }
            }
            What::Gap(stream, bytes) => {
                self.finish(*process, *stream);
                self.ready.push_back(Entry::Gap {
                    origin: Arc::clone(origin),
                    stream: *stream,
                    bytes: *bytes,
                });
            }
            What::End(stream) => self.finish(*process, *stream),
        }
    }

    fn take_bytes(&mut self, process: u64, origin: &Arc<Origin>, stream: Stream, chunk: &Chunk) {
        let (time_ns, data) = (chunk.time_ns, chunk.data());
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', data) {
            let tail = &data[from..end];
            let begun = chunk.at + from as u64;
            from = end + 1;
            let behind = chunk.at + from as u64;
            let line = |from: u64| Place {
                process,
                stream,
                time_ns,
                span: from..behind,
            };
            match self.open.remove(&(process, stream)) {
                None => self.cut(origin, &line(begun), tail),
                Some(mut open) => {
                    open.text.extend_from_slice(tail);
                    self.cut(origin, &line(open.from), &open.text);
                }
            }
        }
        let rest = &data[from..];
        if rest.is_empty() {
            return;
        }
        let open = self
            .open
            .entry((process, stream))
            .or_insert_with(|| OpenLine {
                origin: Arc::clone(origin),
                time_ns,
                from: chunk.at + from as u64,
                text: Vec::new(),
            });
        open.text.extend_from_slice(rest);
        if open.text.len() >= LINE_BYTES_MAX
            && let Some(open) = self.open.remove(&(process, stream))
        {
            let place = Place {
                process,
                stream,
                time_ns,
                span: open.from..chunk.end(),
            };
            self.cut(origin, &place, &open.text);
        }
    }

    fn finish(&mut self, process: u64, stream: Stream) {
        if let Some(open) = self.open.remove(&(process, stream)) {
            let place = Place {
                process,
                stream,
                time_ns: open.time_ns,
                span: open.from..open.from + open.text.len() as u64,
            };
            self.line(&open.origin, &place, &open.text);
        }
    }

    fn cut(&mut self, origin: &Arc<Origin>, place: &Place, text: &[u8]) {
        if text.len() <= LINE_BYTES_MAX {
            return self.line(origin, place, text);
        }
        let mut from = place.span.start;
        let mut pieces = text.chunks(LINE_BYTES_MAX).peekable();
        while let Some(piece) = pieces.next() {
            // The line end belongs to the last one.
            let to = match pieces.peek() {
                Some(_) => from + piece.len() as u64,
                None => place.span.end,
            };
            let place = Place {
                span: from..to,
                ..place.clone()
            };
            self.line(origin, &place, piece);
            from = to;
        }
    }

    fn line(&mut self, origin: &Arc<Origin>, place: &Place, text: &[u8]) {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.ready.push_back(Entry::Line(Line {
            origin: Arc::clone(origin),
            stream: place.stream,
            time_ns: place.time_ns,
            text: text.into(),
            process: place.process,
            span: place.span.clone(),
        }));
    }
}

/// Where and when a line came.
#[derive(Clone, Debug)]
struct Place {
    process: u64,
    stream: Stream,
    time_ns: u64,
    span: Range<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use kingpole_protocol::Sequence;

    fn origin(watcher: &str) -> Arc<Origin> {
        Arc::new(Origin {
            watcher: watcher.into(),
            worker: 1,
            pid: 7,
        })
    }

    fn push(
        history: &History,
        process: u64,
        origin: &Arc<Origin>,
        records: &[(Stream, u64, &[u8])],
    ) {
        let record = |(stream, time_ns, data): &(Stream, u64, &[u8])| {
            let block = Arc::new(data.to_vec());
            let chunk = Chunk::new(Sequence(1), *time_ns, 0, block, 0, data.len());
            (*stream, chunk)
        };
        history.push(
            process,
            origin,
            Arc::new(records.iter().map(record).collect()),
        );
    }

    fn text(entry: Option<Entry>) -> String {
        match entry {
            Some(Entry::Line(line)) => String::from_utf8_lossy(&line.text).into_owned(),
            Some(Entry::Dropped(count)) => format!("dropped {count}"),
            Some(Entry::Gap { bytes, .. }) => format!("gap {bytes}"),
            None => "nothing".into(),
        }
    }

    #[test]
    fn lines_are_put_together_from_pieces_per_stream() {
        use Stream::{Stderr, Stdout};
        let history = History::default();
        let web = origin("web");
        let mut follower = history.follow();
        push(
            &history,
            1,
            &web,
            &[(Stdout, 10, b"one\ntw"), (Stderr, 11, b"err\n")],
        );
        push(&history, 1, &web, &[(Stdout, 12, b"o\r\n\nlast")]);
        let seen: Vec<_> = (0..5).map(|_| text(history.next(&mut follower))).collect();
        assert_eq!(seen, ["one", "err", "two", "", "nothing"]);
        history.end(1, &web, Stdout);
        assert_eq!(text(history.next(&mut follower)), "last");
        push(&history, 1, &web, &[(Stdout, 20, b"prompt> ")]);
        assert_eq!(text(history.next(&mut follower)), "nothing");
        follower.finish_older(20);
        assert!(follower.has_unfinished());
        follower.finish_older(21);
        assert_eq!(text(history.next(&mut follower)), "prompt> ");
        push(&history, 1, &web, &[(Stdout, 20, b"cut")]);
        history.gap(1, &web, Stdout, 99);
        assert_eq!(text(history.next(&mut follower)), "cut");
        assert_eq!(text(history.next(&mut follower)), "gap 99");
    }

    #[test]
    fn a_slow_follower_is_told_how_many_lines_it_missed_and_memory_stays_bounded() {
        let history = History::default();
        let web = origin("web");
        let mut follower = history.follow();
        let line = vec![b'x'; 1000];
        let count = 10_000_u64;
        for _ in 0..count {
            push(
                &history,
                1,
                &web,
                &[(Stream::Stdout, 0, &line), (Stream::Stdout, 0, b"\n")],
            );
        }
        let Some(Entry::Dropped(dropped)) = history.next(&mut follower) else {
            panic!("none lost")
        };
        let mut left = 0;
        while let Some(Entry::Line(_)) = history.next(&mut follower) {
            left += 1;
        }
        assert_eq!(dropped + left, count);
        assert!(history.lock().bytes <= HISTORY_BYTES_MAX);
    }

    #[test]
    fn a_line_that_never_ends_is_cut() {
        let history = History::default();
        let mut follower = history.follow();
        let line = vec![b'y'; 3 * LINE_BYTES_MAX];
        push(&history, 1, &origin("web"), &[(Stream::Stdout, 0, &line)]);
        for _ in 0..3 {
            assert_eq!(text(history.next(&mut follower)).len(), LINE_BYTES_MAX);
        }
        assert!(history.next(&mut follower).is_none() && !follower.has_unfinished());
    }

    #[test]
    fn the_last_lines_are_those_of_the_wanted_watcher_in_order() {
        let history = History::default();
        for (number, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "a")] {
            let data = format!("{number}\nrest of {number}");
            push(
                &history,
                number,
                &origin(name),
                &[(Stream::Stdout, number, data.as_bytes())],
            );
        }
        let (lines, mut follower) = history.last(2, |line| line.origin.watcher == "a");
        assert_eq!(
            lines.iter().map(|line| line.time_ns).collect::<Vec<_>>(),
            [3, 4]
        );
        assert!(history.next(&mut follower).is_none());
        history.end(3, &origin("a"), Stream::Stdout);
        assert_eq!(text(history.next(&mut follower)), "rest of 3");
    }
}

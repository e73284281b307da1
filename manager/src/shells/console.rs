//! What `kingpole run` shows: the children's output with names, times and colours. It has a thread
//! of its own, because a terminal that is held with Ctrl-S makes every write wait.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kingpole_protocol::record::Stream;
use tokio::sync::oneshot;

use super::clock;
use super::history::{Entry, Follower, History, Line};

/// How long the last lines may take when the manager leaves.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(2);

/// When a line is shown although its end has not come: a prompt, for example.
const UNFINISHED_LINE_PATIENCE: Duration = Duration::from_secs(1);

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or it is a dumb one.
    Yes,
    /// Else.
    No,
}

/// What `--color` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// On a terminal that can show them, unless NO_COLOR is set
    #[default]
    Auto,
    /// In pipes and files too
    Always,
    /// Nowhere
    Never,
}

/// What was said on the command line, once.
static WANTED: OnceLock<When> = OnceLock::new();

impl When {
    /// Holds for the whole program from here on.
    pub fn hold(self) {
        // The first one holds; there is one command line.
        let _ = WANTED.set(self);
    }
}

impl Color {
    /// For standard output. `CLICOLOR_FORCE` wants colours in pipes too.
    #[must_use]
    pub fn for_stdout() -> Self {
        match WANTED.get().copied().unwrap_or_default() {
            When::Always => return Self::Yes,
            When::Never => return Self::No,
            When::Auto => {}
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let seen = io::stdout().is_terminal() || set("CLICOLOR_FORCE");
        if seen && !dumb && !set("NO_COLOR") {
            Self::Yes
        } else {
            Self::No
        }
    }
}

/// Colours that can be read on dark and light grounds; red is kept for errors.
const COLORS: [&str; 10] = [
    "\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[96m", "\x1b[93m", "\x1b[92m",
    "\x1b[95m", "\x1b[94m",
];
const RESET: &str = "\x1b[0m";
const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";

/// Renders lines for people.
#[derive(Debug)]
pub struct Renderer {
    color: Color,
    zone: TimeZone,
    name_width: usize,
}

impl Renderer {
    /// With names at least so wide.
    #[must_use]
    pub fn new(color: Color, name_width: usize) -> Self {
        Self {
            color,
            zone: TimeZone::system(),
            name_width,
        }
    }

    /// The time of day in the local zone, to the millisecond.
    fn time(&self, time_ns: u64) -> String {
        match Timestamp::from_nanosecond(i128::from(time_ns)) {
            Ok(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%H:%M:%S.%3f")
                .to_string(),
            Err(_) => "??:??:??.???".to_owned(),
        }
    }

    /// `TIME NAME.WORKER | TEXT`, with `!` instead of `|` for standard error.
    pub fn line(
        &mut self,
        out: &mut Vec<u8>,
        time_ns: Option<u64>,
        name: &str,
        stream: Stream,
        text: &[u8],
    ) {
        self.name_width = self.name_width.max(name.chars().count());
        let width = self.name_width;
        let time = time_ns.map_or_else(|| "            ".to_owned(), |time| self.time(time));
        let mark = match stream {
            Stream::Stdout => '|',
            Stream::Stderr => '!',
        };
        // Writing to memory cannot fail.
        let _ = match self.color {
            Color::No => write!(out, "{time} {name:width$} {mark} "),
            Color::Yes => {
                let color = color_of(name);
                let mark_color = if mark == '!' { RED } else { color };
                write!(
                    out,
                    "{DIM}{time}{RESET} {color}{name:width$}{RESET} {mark_color}{mark}{RESET} "
                )
            }
        };
        out.extend_from_slice(text);
        if self.color == Color::Yes && text.contains(&0x1b) {
            // A colour that a child left open shall not run into the next line.
            out.extend_from_slice(RESET.as_bytes());
        }
        out.push(b'\n');
    }

    /// How many bytes of a stream are missing here.
    pub fn gap(&mut self, out: &mut Vec<u8>, name: &str, stream: Stream, bytes: u64) {
        let (on, off) = match self.color {
            Color::Yes => (RED, RESET),
            Color::No => ("", ""),
        };
        let text = format!("{on}... {bytes} bytes were lost here: the log could not follow{off}");
        self.line(out, None, name, stream, text.as_bytes());
    }

    /// How many lines are missing.
    pub fn dropped(&self, out: &mut Vec<u8>, dropped: u64) {
        let (on, off) = match self.color {
            Color::Yes => (RED, RESET),
            Color::No => ("", ""),
        };
        let _ = writeln!(
            out,
            "{on}... {dropped} lines are not shown: this reader was too slow (log files have them){off}"
        );
    }

    fn entry(&mut self, out: &mut Vec<u8>, entry: Entry) {
        match entry {
            Entry::Dropped(dropped) => self.dropped(out, dropped),
            Entry::Gap {
                origin,
                stream,
                bytes,
            } => {
                let name = format!("{}.{}", origin.watcher, origin.worker);
                self.gap(out, &name, stream, bytes);
            }
            Entry::Line(line) => {
                let Line {
                    origin,
                    stream,
                    time_ns,
                    text,
                    ..
                } = line;
                let name = format!("{}.{}", origin.watcher, origin.worker);
                self.line(out, Some(time_ns), &name, stream, &text);
            }
        }
    }
}

/// The same name has the same colour in every run (FNV-1a).
fn color_of(name: &str) -> &'static str {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    COLORS[(hash % COLORS.len() as u64) as usize]
}

/// A console that is showing.
#[derive(Debug)]
pub struct Console {
    stop: Option<oneshot::Sender<()>>,
    ended: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Shows everything in the history on standard output, from the oldest line on.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(history: History, renderer: Renderer) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("console".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                // A closed pipe only means that nobody looks any more.
                let _ = runtime.block_on(show(history, renderer, stopped));
                let _ = ending.send(());
            })?;
        Ok(Self {
            stop: Some(stop),
            ended,
            thread: Some(thread),
        })
    }

    /// Shows what is left and ends; gives up on a terminal that does not take it.
    pub fn finish(mut self) {
        drop(self.stop.take());
        if self.ended.recv_timeout(LAST_LINES_TIMEOUT).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It has ended already; a panic in it has been printed.
            let _ = thread.join();
        }
    }
}

async fn show(
    history: History,
    mut renderer: Renderer,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    /// Bytes that are written at once.
    const PIECE_BYTES: usize = 32 << 10;
    let mut follower = history.follow();
    let mut grown = history.watch();
    let mut out = Vec::new();
    let mut last_round = false;
    loop {
        grown.mark_unchanged();
        while let Some(entry) = history.next(&mut follower) {
            renderer.entry(&mut out, entry);
            if out.len() >= PIECE_BYTES {
                io::stdout().write_all(&out)?;
                out.clear();
            }
        }
        io::stdout().write_all(&out)?;
        io::stdout().flush()?;
        out.clear();
        if last_round {
            return Ok(());
        }
        tokio::select! {
            changed = grown.changed() => last_round = changed.is_err(),
            () = unfinished(&mut follower) => {}
            _ = &mut stopped => {
                last_round = true;
                follower.finish_older(u64::MAX);
            }
        }
    }
}

/// Waits for as long as an unfinished line may, and finishes those that waited; for ever if there is
/// none. May be dropped at any time.
pub(super) async fn unfinished(follower: &mut Follower) {
    if !follower.has_unfinished() {
        return std::future::pending().await;
    }
    tokio::time::sleep(UNFINISHED_LINE_PATIENCE).await;
    let patience = u64::try_from(UNFINISHED_LINE_PATIENCE.as_nanos()).unwrap_or(u64::MAX);
    follower.finish_older(clock::wall_ns().saturating_sub(patience / 2));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_line_up_and_keep_their_colour() {
        let mut renderer = Renderer {
            color: Color::No,
            zone: TimeZone::UTC,
            name_width: 8,
        };
        let mut out = Vec::new();
        let time_ns = Some(1_795_228_350_123_456_789);
        renderer.line(&mut out, time_ns, "web.1", Stream::Stdout, b"hello");
        renderer.line(&mut out, time_ns, "worker.10", Stream::Stderr, b"oops");
        renderer.dropped(&mut out, 3);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "02:32:30.123 web.1    | hello");
        assert_eq!(lines[1], "02:32:30.123 worker.10 ! oops");
        assert!(lines[2].contains("3 lines"));
        assert_eq!(color_of("web.1"), color_of("web.1"));
    }

    #[test]
    fn a_colour_that_a_child_leaves_open_ends_with_its_line() {
        let mut renderer = Renderer {
            color: Color::Yes,
            zone: TimeZone::UTC,
            name_width: 0,
        };
        let mut out = Vec::new();
        renderer.line(&mut out, None, "web.1", Stream::Stdout, b"\x1b[31mred");
        assert!(out.ends_with(b"red\x1b[0m\n"));
    }
}

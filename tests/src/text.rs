//! A text session as a person, a script or Papa's client library has one, and the replay of recorded
//! ones (`tests/interop/transcripts`, `docs/telnet.md`).

use crate::wait;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What a session is greeted with.
pub const GREETING: &str = "Papa is home. Type \"help\" for commands.\n> ";

/// Where a session leads.
#[derive(Debug, Clone)]
pub enum Place {
    /// A unix socket.
    Unix(PathBuf),
    /// A port of 127.0.0.1.
    Tcp(u16),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Bytes that came and were not looked at. Taking from the front moves nothing.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    taken: usize,
}

impl Received {
    fn extend(&mut self, more: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(more);
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self[..count].to_vec();
        self.taken += count;
        taken
    }

    fn take_all(&mut self) -> Vec<u8> {
        self.take(self.len())
    }
}

impl std::ops::Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

/// One session.
pub struct TextSession {
    stream: Stream,
    received: Received,
}

impl TextSession {
    /// Connects; the greeting is still to be read.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    #[track_caller]
    pub fn connect(place: &Place) -> Self {
        Self::try_connect(place).expect("the kernel listens")
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody listens, or not to this user.
    pub fn try_connect(place: &Place) -> std::io::Result<Self> {
        let stream = match place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(wait::PATIENCE))?;
                Stream::Unix(stream)
            }
            Place::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_read_timeout(Some(wait::PATIENCE))?;
                Stream::Tcp(stream)
            }
        };
        Ok(Self {
            stream,
            received: Received::default(),
        })
    }

    /// A session over a connection that is there already; a greeting is still to be read.
    ///
    /// # Panics
    /// When its patience cannot be set.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        let patience = Some(wait::PATIENCE);
        stream.set_read_timeout(patience).expect("a timeout");
        Self {
            stream: Stream::Unix(stream),
            received: Received::default(),
        }
    }

    /// Reads a prompt and what is before it, or everything if the connection ends.
    ///
    /// # Panics
    /// When neither comes.
    #[track_caller]
    pub fn read_first(&mut self) -> String {
        while !self.received.ends_with(b"\n> ") {
            match self.receive() {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no prompt but {error}; received: {}", self.shown()),
            }
        }
        String::from_utf8_lossy(&self.received.take_all()).into_owned()
    }

    /// Connects and reads the greeting.
    ///
    /// # Panics
    /// When it is not greeted.
    #[must_use]
    #[track_caller]
    pub fn open(place: &Place) -> Self {
        let mut session = Self::connect(place);
        session.expect(GREETING);
        session
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When the kernel has closed the connection.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the session is open");
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the kernel has closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) {
        let result = match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
        result.expect("the session is open");
    }

    /// Receives more; 0 at the end.
    fn receive(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 65536];
        let count = match &mut self.stream {
            Stream::Unix(stream) => stream.read(&mut buffer),
            Stream::Tcp(stream) => stream.read(&mut buffer),
        }?;
        self.received.extend(&buffer[..count]);
        Ok(count)
    }

    #[track_caller]
    fn receive_or_panic(&mut self, wanted: &str) {
        match self.receive() {
            Ok(1..) => {}
            Ok(0) => panic!("the end instead of {wanted:?}; before it: {}", self.shown()),
            Err(error) => panic!("{error} instead of {wanted:?}; received: {}", self.shown()),
        }
    }

    fn shown(&self) -> String {
        self.received.escape_ascii().to_string()
    }

    /// Reads exactly these bytes.
    ///
    /// # Panics
    /// When others come.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        while self.received.len() < text.len() {
            assert!(
                text.as_bytes().starts_with(&self.received),
                "expected {text:?}, got {}",
                self.shown()
            );
            self.receive_or_panic(text);
        }
        let got = self.received[..text.len()].escape_ascii().to_string();
        assert_eq!(got, text.as_bytes().escape_ascii().to_string());
        self.received.take(text.len());
    }

    /// Reads up to and including `end`.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn read_until(&mut self, end: &str) -> String {
        let mut from = 0;
        loop {
            let end = end.as_bytes();
            let found = self.received[from..]
                .windows(end.len())
                .position(|part| part == end);
            if let Some(at) = found {
                let taken = self.received.take(from + at + end.len());
                return String::from_utf8_lossy(&taken).into_owned();
            }
            from = self.received.len().saturating_sub(end.len());
            self.receive_or_panic(&String::from_utf8_lossy(end));
        }
    }

    /// Sends a line and reads the reply as clients do: up to a line end and the prompt, without the
    /// prompt.
    ///
    /// # Panics
    /// When there is no reply.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes());
        let mut reply = self.read_until("\n> ");
        reply.truncate(reply.len() - 3);
        reply
    }

    /// Reads so many bytes.
    ///
    /// # Panics
    /// When they do not come.
    #[track_caller]
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            self.receive_or_panic("more bytes");
        }
        self.received.take(count)
    }

    /// Reads one batch of a watch, its end mark included.
    ///
    /// # Panics
    /// When something else comes.
    #[track_caller]
    pub fn read_batch(&mut self) -> Vec<Watched> {
        let mut batch = Vec::new();
        loop {
            let start = self.read_exactly(2);
            if start == b"] " {
                return batch;
            }
            let line = String::from_utf8_lossy(&start).into_owned() + &self.read_until("\n");
            let fields = line.trim_end().split(':').collect::<Vec<_>>();
            let [word, name, time, number] = fields[..] else {
                panic!("no item of a batch: {line:?}")
            };
            assert!(time.parse::<f64>().is_ok_and(|time| time > 1e9), "{line:?}");
            let name = name.to_owned();
            batch.push(match word {
                "closed" => Watched::Closed {
                    name,
                    code: number.parse().expect("a status"),
                },
                "out" | "err" => {
                    let length: usize = number.parse().expect("a length");
                    let mut data = self.read_exactly(length + 1);
                    assert_eq!(data.pop(), Some(b'\n'));
                    Watched::Output {
                        name,
                        is_stderr: word == "err",
                        data,
                    }
                }
                _ => panic!("no item of a batch: {line:?}"),
            });
        }
    }

    /// Acknowledges batch after batch until nothing is left to watch.
    ///
    /// # Panics
    /// When something else comes.
    #[track_caller]
    pub fn read_watch(&mut self) -> Vec<Watched> {
        let mut all = Vec::new();
        loop {
            all.extend(self.read_batch());
            self.send(b"\n");
            let closed = all
                .iter()
                .filter(|item| matches!(item, Watched::Closed { .. }));
            let mut names = closed.map(|item| item.name()).collect::<Vec<_>>();
            names.sort_unstable();
            names.dedup();
            let named = |name: &str| names.contains(&name);
            if all.iter().all(|item| named(item.name())) && !names.is_empty() {
                self.expect("Nothing left to watch\n> ");
                return all;
            }
        }
    }

    /// Reads everything up to the end of the connection.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn read_to_end(&mut self) -> String {
        loop {
            match self.receive() {
                Ok(0) => break,
                // The kernel may have closed with bytes of ours unread.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Ok(_) => {}
                Err(error) => panic!("no end but {error}; received: {}", self.shown()),
            }
        }
        String::from_utf8_lossy(&self.received.take_all()).into_owned()
    }
}

/// An item of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// A process has written.
    Output {
        /// Which.
        name: String,
        /// To standard error.
        is_stderr: bool,
        /// What.
        data: Vec<u8>,
    },
    /// A process has ended.
    Closed {
        /// Which.
        name: String,
        /// Exit code, or minus the signal.
        code: i32,
    },
}

impl Watched {
    /// Whose item it is.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Output { name, .. } | Self::Closed { name, .. } => name,
        }
    }
}

/// The standard output in a batch.
#[must_use]
pub fn stdout_of(items: &[Watched]) -> String {
    let data = items.iter().filter_map(|item| match item {
        Watched::Output {
            is_stderr: false,
            data,
            ..
        } => Some(data.as_slice()),
        _ => None,
    });
    String::from_utf8_lossy(&data.collect::<Vec<_>>().concat()).into_owned()
}

/// Replays one recorded session. The format stands at the top of `tests/interop/transcript.py`.
///
/// # Panics
/// At the first byte that differs.
#[track_caller]
pub fn replay(place: &Place, file: &Path, scratch: &Path) {
    let content = std::fs::read_to_string(file).expect("the transcript");
    let mut replay = Replay {
        place: place.clone(),
        sessions: BTreeMap::new(),
        bound: BTreeMap::from([("tmp".to_owned(), scratch.display().to_string())]),
        current: "main".to_owned(),
        line: 0,
        file: file.display().to_string(),
    };
    for (number, line) in content.lines().enumerate() {
        replay.line = number + 1;
        if let Some((verb, argument)) = parse_step(line) {
            replay.step(verb, &argument);
        }
    }
    for (name, session) in &replay.sessions {
        assert!(
            session.received.is_empty(),
            "{}: not accounted for in {name}: {}",
            replay.file,
            session.shown()
        );
    }
}

/// Verb and argument, unless the line is a remark or about Papa's own daemon.
fn parse_step(line: &str) -> Option<(&str, String)> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (verb, mut rest) = line.split_once(' ').unwrap_or((line, ""));
    if rest.starts_with("papa ") {
        return None;
    }
    rest = rest.strip_prefix("kingpole ").unwrap_or(rest);
    let argument = match rest.starts_with('"') {
        true => serde_json::from_str(rest).expect("a JSON string"),
        false => rest.to_owned(),
    };
    Some((verb, argument))
}

struct Replay {
    place: Place,
    sessions: BTreeMap<String, TextSession>,
    bound: BTreeMap<String, String>,
    current: String,
    line: usize,
    file: String,
}

impl Replay {
    fn step(&mut self, verb: &str, argument: &str) {
        match verb {
            "send" => {
                let text = self.fill(argument);
                self.session().send(text.as_bytes());
            }
            "recv" => self.receive(argument),
            "eof" => {
                let rest = self.session().read_to_end();
                assert_eq!(rest, "", "{}:{}", self.file, self.line);
            }
            "session" => {
                argument.clone_into(&mut self.current);
                self.session();
            }
            "hangup" => drop(self.sessions.remove(&self.current)),
            "end" => {
                let pid = self.fill(argument).parse().expect("a pid");
                let handle = crate::process::Handle::open(pid).expect("the process");
                handle.signal(libc::SIGKILL).expect("may be killed");
            }
            "ended" => self.poll(argument, |listing| listing.contains(" running=False ")),
            "forgotten" => self.poll(argument, str::is_empty),
            other => panic!("{}:{}: no such step: {other}", self.file, self.line),
        }
    }

    fn session(&mut self) -> &mut TextSession {
        let place = &self.place;
        self.sessions
            .entry(self.current.clone())
            .or_insert_with(|| TextSession::connect(place))
    }

    /// Replaces what is known already.
    fn fill(&self, text: &str) -> String {
        self.bound
            .iter()
            .fold(text.to_owned(), |text, (name, value)| {
                text.replace(&format!("{{{name}}}"), value)
            })
    }

    fn poll(&mut self, name: &str, is_so: impl Fn(&str) -> bool) {
        let mut session = TextSession::open(&self.place);
        wait::until(&format!("list processes {name}"), || {
            let listing = session.ask(&format!("list processes {name}"));
            if is_so(&listing) {
                Ok(())
            } else {
                Err(listing)
            }
        });
    }

    fn receive(&mut self, pattern: &str) {
        let pattern = self.fill(pattern);
        let place = format!("{}:{}", self.file, self.line);
        loop {
            let received = String::from_utf8_lossy(&self.session().received).into_owned();
            match matches(&pattern, &received) {
                Match::Yes { length, bound } => {
                    self.bound.extend(bound);
                    self.session().received.take(length);
                    return;
                }
                Match::No => panic!("{place}: expected {pattern:?}\n got {received:?}"),
                Match::Partly => match self.session().receive() {
                    Ok(1..) => {}
                    end => panic!("{place}: expected {pattern:?}\n got {received:?} and {end:?}"),
                },
            }
        }
    }
}

enum Match {
    Yes {
        length: usize,
        bound: Vec<(String, String)>,
    },
    /// More bytes could make it match.
    Partly,
    No,
}

/// Matches text against a pattern with `{pid}`, `{time:name}` and the like.
fn matches(pattern: &str, text: &str) -> Match {
    let (mut pattern, mut rest) = (pattern, text);
    let mut bound: Vec<(String, String)> = Vec::new();
    while !pattern.is_empty() {
        if let Some((placeholder, behind)) = placeholder_at(pattern) {
            let kind = placeholder.split(':').next().unwrap_or_default();
            let length = value_length(kind, rest);
            if length == rest.len() {
                return Match::Partly;
            }
            if length == 0 {
                return Match::No;
            }
            let value = &rest[..length];
            let known = bound.iter().find(|(name, _)| name == placeholder);
            if known.is_some_and(|(_, before)| before != value) {
                return Match::No;
            }
            if placeholder.contains(':') {
                bound.push((placeholder.to_owned(), value.to_owned()));
            }
            (pattern, rest) = (behind, &rest[length..]);
            continue;
        }
        let wanted = pattern.chars().next().unwrap_or_default();
        match rest.chars().next() {
            None => return Match::Partly,
            Some(got) if got == wanted => {
                (pattern, rest) = (&pattern[wanted.len_utf8()..], &rest[got.len_utf8()..]);
            }
            Some(_) => return Match::No,
        }
    }
    Match::Yes {
        length: text.len() - rest.len(),
        bound,
    }
}

fn placeholder_at(pattern: &str) -> Option<(&str, &str)> {
    let (inside, behind) = pattern.strip_prefix('{')?.split_once('}')?;
    let kind = inside.split(':').next()?;
    let known = ["time", "pid", "port", "fd", "state", "number", "span"];
    known.contains(&kind).then_some((inside, behind))
}

/// How many bytes at the front can be such a value.
fn value_length(kind: &str, text: &str) -> usize {
    let is_part: fn(char) -> bool = match kind {
        "time" => |c| c.is_ascii_digit() || c == '.',
        "state" => char::is_alphabetic,
        "span" => char::is_alphanumeric,
        _ => |c| c.is_ascii_digit(),
    };
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// Replays the terminal sessions that a document shows in blocks marked `telnet`. What stands behind
/// `> ` and `] ` at the start of a line is typed; everything else has to come, byte for byte, but
/// for the numbers that differ from run to run.
///
/// # Panics
/// At the first line that differs.
#[track_caller]
pub fn replay_document(place: &Place, document: &str) -> usize {
    let mut blocks = 0;
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if line != "```telnet" {
            continue;
        }
        blocks += 1;
        let shown = lines.by_ref().take_while(|line| *line != "```");
        replay_block(place, &shown.collect::<Vec<_>>());
    }
    blocks
}

fn replay_block(place: &Place, shown: &[&str]) {
    let mut session = TextSession::connect(place);
    for (number, line) in shown.iter().enumerate() {
        let prompt = ["> ", "] "]
            .into_iter()
            .find(|prompt| line.starts_with(prompt));
        // A prompt at the end of the block may have lost its space to an editor.
        let prompt = prompt.or(match *line {
            ">" => Some("> "),
            "]" => Some("] "),
            _ => None,
        });
        match prompt {
            Some(prompt) => {
                session.expect(prompt);
                if number + 1 < shown.len() {
                    let typed = line.get(2..).unwrap_or_default();
                    session.send(format!("{typed}\n").as_bytes());
                }
            }
            None => {
                let got = session.read_until("\n");
                assert_eq!(numberless(got.trim_end_matches('\n')), numberless(line));
            }
        }
    }
}

/// A line with the numbers that differ from run to run made equal.
fn numberless(line: &str) -> String {
    let mut line = line.to_owned();
    for mark in [
        "pid=", "started=", "port=", "fileno=", "uptime=", "ran=", "cpu=", "maxrss=",
    ]
    .into_iter()
    .chain([
        "guard=",
        "age=",
        "resident=",
        "descriptors=",
        "uid=",
        "number=",
    ]) {
        line = blank_behind(&line, mark);
    }
    // In `sessions` the first number is the session's.
    if let Some((number, session)) = line.split_once("* text ")
        && number.parse::<u64>().is_ok()
    {
        line = format!("N* text {session}");
    }
    for mark in ["out:", "err:", "closed:"] {
        if line.starts_with(mark) {
            let fields = line.splitn(4, ':').collect::<Vec<_>>();
            if let [word, name, _, rest] = fields[..] {
                line = format!("{word}:{name}:TIME:{rest}");
            }
        }
    }
    line
}

fn blank_behind(line: &str, mark: &str) -> String {
    let mut parts = line.split(mark);
    let mut blanked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        blanked.push_str(mark);
        blanked.push('N');
        let end = part.find([' ', ';', '/']).unwrap_or(part.len());
        blanked.push_str(&part[end..]);
    }
    blanked
}

//! Where a text session stands between two lines. Plain data.

use crate::text::make_process::WatchFromStart;
use crate::text::selector::Selection;
use kingpole_protocol::error::ErrorReply;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::spec::{ProcessSpec, SocketSpec};
use kingpole_protocol::status::End;
use std::collections::{BTreeMap, VecDeque};

/// The text side of a session.
#[derive(Debug, Default)]
pub struct TextSession {
    /// What the next line is for.
    pub mode: TextMode,
    /// When it connected or last sent a line, by the monotonic clock.
    pub active_ns: u64,
    /// A line that came while a watcher had nothing to acknowledge; it acknowledges the next batch.
    pub held: Option<Vec<u8>>,
}

/// What the next line is for.
#[derive(Debug, Default)]
pub enum TextMode {
    /// It is a command.
    #[default]
    Prompt,
    /// Nothing yet: requests are under way.
    Awaiting(Box<Awaiting>),
    /// Nothing yet: a long listing goes on when the client has read what it was sent.
    Listing(Box<Listing>),
    /// It acknowledges a batch.
    Watching(Box<Watch>),
    /// It ends the tail.
    Tailing(Box<Tail>),
}

/// Requests that a command became.
#[derive(Debug)]
pub struct Awaiting {
    /// How to answer when all have been.
    pub then: Then,
    /// Answers that are missing.
    pub missing: usize,
    /// The first refusal.
    pub refused: Option<Box<ErrorReply>>,
    /// Processes that signals reached.
    pub signalled: u32,
}

/// How a command is answered.
#[derive(Debug)]
pub enum Then {
    /// With nothing but the prompt.
    Done,
    /// With a value.
    Value,
    /// With a process's line.
    Process {
        /// What was asked for.
        spec: Box<ProcessSpec>,
        /// Whether batches follow.
        watch: WatchFromStart,
    },
    /// With a socket's line.
    Socket(Box<SocketSpec>),
    /// With the number of processes reached.
    Signalled,
    /// With the kernel in numbers.
    Version,
    /// With lines of output, and perhaps more to come.
    Tail(Box<Tail>),
    /// With what was looked up for a command.
    LookedUp,
    /// With what came of an upgrade.
    Upgraded,
}

/// A listing.
#[derive(Debug)]
pub struct Listing {
    /// Of what.
    pub what: Listed,
    /// Which.
    pub selection: Selection,
    /// The last one shown: its name, and its number where names are not unique.
    pub after: Option<(String, u64)>,
    /// Pages that were sent.
    pub pages: u64,
}

/// What a listing shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Processes.
    Processes,
    /// Processes, by what they have done.
    Stats,
    /// Sockets.
    Sockets,
    /// Values.
    Values,
    /// Sessions.
    Sessions,
    /// Leases.
    Leases,
}

/// A watcher. Where it stands in each process's output is in
/// [`crate::state::Session::follows`].
#[derive(Debug, Default)]
pub struct Watch {
    /// Whom it watches.
    pub watched: BTreeMap<ProcessId, Watched>,
    /// How far the batch is.
    pub batch: Batch,
    /// Processes that were forgotten before their ends could be told.
    pub parted: VecDeque<(ProcessId, End)>,
    /// Whether batches may be sent.
    pub start: WatchStart,
}

/// Whether a watcher's batches have begun.
///
/// Clients read the line that answers `watch` by itself and may then wait for their socket to become
/// readable. Output that came together with that line would lie in their memory meanwhile, unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchStart {
    /// The client has not read that line yet; looked at again after so many nanoseconds.
    LineUnread(u64),
    /// They may be sent.
    #[default]
    Begun,
}

/// One process that is watched.
#[derive(Debug)]
pub struct Watched {
    /// Its name, which outlives it.
    pub name: String,
    /// Whether its end was sent.
    pub end: EndTold,
}

/// Whether a watcher knows of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndTold {
    /// Not yet.
    No,
    /// It is in a batch that was sent.
    Yes,
}

/// A batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Batch {
    /// Nothing of it was sent.
    #[default]
    Empty,
    /// Records were sent, so many bytes; the end mark was not.
    Open(u64),
    /// It waits to be acknowledged.
    Sent,
}

/// `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Whose output.
    pub process: ProcessId,
    /// Its name.
    pub name: String,
    /// Whether it goes on.
    pub mode: crate::text::command::TailMode,
    /// How the last thing sent ended.
    pub line: LineEnd,
}

/// Whether the cursor is at the start of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// It is.
    AtStart,
    /// In the middle of one.
    Within,
}

impl TextSession {
    /// Whether a line can be taken now.
    #[must_use]
    pub fn takes_lines(&self) -> bool {
        match &self.mode {
            TextMode::Prompt | TextMode::Tailing(_) => true,
            TextMode::Awaiting(_) | TextMode::Listing(_) => false,
            TextMode::Watching(_) => self.held.is_none(),
        }
    }

    /// Whether output of children can be sent now.
    #[must_use]
    pub fn takes_output(&self) -> bool {
        match &self.mode {
            TextMode::Prompt | TextMode::Awaiting(_) | TextMode::Listing(_) => false,
            TextMode::Watching(watch) => {
                watch.start == WatchStart::Begun && watch.batch != Batch::Sent
            }
            TextMode::Tailing(_) => true,
        }
    }

    /// Whether nothing will be sent before the client says something.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        match &self.mode {
            TextMode::Prompt => true,
            TextMode::Awaiting(_) | TextMode::Listing(_) | TextMode::Tailing(_) => false,
            TextMode::Watching(watch) => watch.batch == Batch::Sent,
        }
    }
}

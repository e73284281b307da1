//! What can happen to the kernel: the world's doings, and the outcomes of its own effects.

use crate::effect::{After, Asker, SpawnOrder};
use crate::memory::cursor::{RingCursor, Sequence, Stream};
use crate::memory::ring::{Gap, ReadMark};
use crate::memory::state_memory::SlotIndex;
use crate::state::text::LineEnd;
use crate::state::{Peer, Process, SessionId};
use crate::text::make_process::ProcessDraft;
use crate::text::users::UserDatabase;
use crate::upgrade::saved_state::{SavedCounts, SavedSession};
use kingpole_protocol::error::ErrorReply;
use kingpole_protocol::ids::{Fence, ProcessId, RequestId};
use kingpole_protocol::request::Request;
use kingpole_protocol::spec::SocketSpec;
use kingpole_protocol::status::{End, SocketInfo};

/// The clocks, read once per input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// Nanoseconds of a clock that is never set.
    pub monotonic_ns: u64,
}

/// Why the kernel is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termination {
    /// SIGTERM or SIGINT: only if nothing is held.
    Polite(&'static str),
    /// SIGQUIT: whatever is held.
    Forced(&'static str),
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    /// A peer that may come in did.
    Connected {
        /// Its number, the one after [`crate::state::State::newest_session`].
        session: SessionId,
        /// Who it is.
        peer: Peer,
    },
    /// A process of another kernel on the same state was taken over.
    Inherited {
        /// It.
        process: Box<Process>,
    },
    /// Everything was taken over but spawns that the other kernel did not finish.
    Adopted {
        /// Number, key and name of each.
        intents: Vec<(ProcessId, String, String)>,
    },
    /// What became of one of them.
    IntentResolved {
        /// Which.
        process: ProcessId,
        /// It, if it was started.
        running: Option<Box<Process>>,
    },
    /// An upgrade that was asked for happened, or did not.
    UpgradeAnswered {
        /// Who asked.
        session: SessionId,
        /// What came of it.
        text: String,
    },
    /// This process ran another image before, with these sessions.
    Resumed {
        /// Newest session.
        newest_session: SessionId,
        /// The sessions.
        sessions: Vec<ResumedSession>,
        /// Who of them holds which lease.
        holders: Vec<(String, u64)>,
        /// What is counted about processes.
        counts: Vec<SavedCounts>,
    },
    /// A session is gone.
    Disconnected {
        /// Which.
        session: SessionId,
    },
    /// An idle text session has to make room for a new one.
    Displaced {
        /// Which.
        session: SessionId,
    },
    /// A line of a text session, without its end.
    Line {
        /// Whose.
        session: SessionId,
        /// Its bytes.
        line: Vec<u8>,
    },
    /// A person wants whatever is going on in a text session to stop.
    Interrupt {
        /// Whose.
        session: SessionId,
    },
    /// Whether a client has read all that it was sent.
    LineRead {
        /// Which.
        session: SessionId,
        /// The answer.
        answer: LineRead,
    },
    /// Outcome of looking something up.
    LookedUp {
        /// Who asked.
        session: SessionId,
        /// What came of it.
        answer: Box<Answer>,
    },
    /// Bytes were counted for a page of a listing.
    Counted {
        /// Whose listing.
        session: SessionId,
        /// The number of each process or session that is still there, and its bytes.
        counts: Vec<(u64, u64)>,
    },
    /// The last lines of a child's output.
    TailRead {
        /// Who asked.
        session: SessionId,
        /// They.
        bytes: Vec<u8>,
        /// Behind them.
        mark: ReadMark,
    },
    /// Records went to a text session.
    TextSent {
        /// Who follows.
        session: SessionId,
        /// Whom.
        process: ProcessId,
        /// Where it goes on.
        mark: ReadMark,
        /// Bytes of text; 0 when it could not be sent now.
        bytes: u64,
        /// How they ended.
        line: LineEnd,
        /// Whether more can be sent.
        room: Room,
    },
    /// A frame.
    Request {
        /// Who asks.
        asker: Asker,
        /// Under which lease.
        fence: Fence,
        /// What.
        request: Box<Request>,
    },
    /// A whole frame that is no request.
    BadRequest {
        /// Who sent it.
        asker: Asker,
        /// What is wrong with it.
        error: Box<ErrorReply>,
    },
    /// Bytes after which nothing can be made out any more.
    Garbage {
        /// Whose.
        session: SessionId,
        /// What is wrong with them.
        reason: String,
    },
    /// What was sent to a text session has to wait until it reads.
    Congested {
        /// Which.
        session: SessionId,
    },
    /// Everything queued for a session was read by it.
    Drained {
        /// Whose queue.
        session: SessionId,
    },
    /// All that was ready has been looked at: followers are served now.
    TurnEnded,
    /// [`crate::state::State::deadline_ns`] has passed.
    TimeReached,
    /// A child's pipe has bytes, or its writers are gone.
    Readable {
        /// Whose.
        process: ProcessId,
        /// Which pipe.
        stream: Stream,
    },
    /// A child ended; its end is published.
    Ended {
        /// Which.
        process: ProcessId,
        /// How.
        end: End,
    },
    /// A signal asks the kernel to end.
    Terminate(Termination),
    /// A program was started.
    Spawned {
        /// What was asked for.
        order: Box<SpawnOrder>,
        /// What came of it.
        started: Started,
    },
    /// A program was not started; nothing is left of the attempt.
    SpawnFailed {
        /// What was asked for.
        order: Box<SpawnOrder>,
        /// Why not.
        error: Box<ErrorReply>,
    },
    /// Outcome of a signal.
    Signalled {
        /// Who asked.
        asker: Asker,
        /// How many processes were reached.
        result: Result<u32, Box<ErrorReply>>,
    },
    /// What the kernel costs.
    Measured {
        /// Who asked.
        asker: Asker,
        /// KiB resident.
        resident_kib: u64,
        /// Open descriptors.
        descriptors: u64,
    },
    /// Outcome of making a socket.
    SocketMade {
        /// Who asked.
        asker: Asker,
        /// Number of the descriptor for the guard, and what was made.
        result: Result<(u64, Box<SocketInfo>), Box<ErrorReply>>,
    },
    /// Outcome of writing to the journal.
    Recorded {
        /// What was to follow.
        after: Box<After>,
        /// Whether it is written.
        result: Result<(), Box<ErrorReply>>,
    },
    /// Outcome of reading a child's pipe.
    OutputRead {
        /// Whose.
        process: ProcessId,
        /// Which pipe.
        stream: Stream,
        /// What came.
        outcome: ReadOutcome,
    },
    /// A child's pipe cannot be read for the moment; nothing of it is lost.
    ReadFailed {
        /// Whose.
        process: ProcessId,
        /// Where its ring stands, if that is known.
        output: Option<OutputPosition>,
        /// Why not.
        reason: String,
    },
    /// Output was released.
    Acknowledged {
        /// Whose.
        process: ProcessId,
        /// Where its ring stands.
        output: OutputPosition,
    },
    /// Part of a follower's records is not there any more.
    OutputGap {
        /// Who follows.
        session: SessionId,
        /// Whom.
        process: ProcessId,
        /// What is missing.
        gap: Gap,
        /// Where it goes on.
        mark: ReadMark,
    },
    /// Records went to a follower.
    OutputSent {
        /// Who follows.
        session: SessionId,
        /// Whom.
        process: ProcessId,
        /// Where it goes on.
        mark: ReadMark,
        /// What they took from its credit.
        bytes: u64,
        /// The ring that it was passed for them, if it had not been passed before.
        passed: Option<u64>,
        /// Whether more can be sent.
        room: Room,
    },
    /// A ring makes no sense any more.
    RingDamaged {
        /// Whose.
        process: ProcessId,
        /// What is wrong.
        reason: String,
    },
}

/// Whether a client has read all that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineRead {
    /// Not yet.
    No,
    /// It has, or nobody can tell.
    Yes,
}

/// What was looked up for a text command.
#[derive(Debug)]
pub enum Answer {
    /// The user database.
    Users {
        /// The process that is to be started.
        draft: Box<ProcessDraft>,
        /// Its files, or why they cannot be read.
        database: Result<UserDatabase, String>,
    },
    /// The hosts file.
    Host {
        /// The socket that is to be made.
        spec: Box<SocketSpec>,
        /// Its text, or why it cannot be read.
        hosts: Result<String, String>,
    },
}

/// A session of the image before.
#[derive(Debug)]
pub struct ResumedSession {
    /// As it was saved.
    pub saved: SavedSession,
    /// Whether its queue is empty.
    pub queue: Room,
}

/// Whether a session's queue is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// More can be sent at once.
    Free,
    /// The peer has to read first.
    Congested,
}

/// A program that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its number.
    pub process: ProcessId,
    /// Its place in shared memory.
    pub slot: SlotIndex,
    /// Linux's number.
    pub pid: i32,
    /// When, nanoseconds since 1970.
    pub started_ns: u64,
    /// Where its ring stands.
    pub output: OutputPosition,
    /// Room in its ring, 0 without one.
    pub capacity_bytes: u64,
    /// What its record takes in the journal.
    pub recorded_bytes: u64,
}

/// Where a ring stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputPosition {
    /// The published control block.
    pub cursor: RingCursor,
    /// Number of the oldest record kept; that of the next one when none is.
    pub oldest: Sequence,
}

/// What reading a pipe brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A record.
    Record {
        /// Where the ring stands now.
        output: OutputPosition,
        /// Records that were dropped to make room.
        dropped_records: u64,
        /// Their bytes.
        dropped_bytes: u64,
    },
    /// Nothing was there.
    Nothing,
    /// The pipe is at its end and closed.
    EndOfStream(OutputPosition),
    /// The ring is full and the child is to wait.
    NoRoom,
}

/// Shorthand for tests and shells.
impl Input {
    /// A request of a session.
    #[must_use]
    pub fn request(session: SessionId, id: u64, fence: Fence, request: Request) -> Self {
        let asker = Asker {
            session,
            request: RequestId(id),
        };
        Self::Request {
            asker,
            fence,
            request: Box::new(request),
        }
    }
}

//! What the kernel wants done: data only. The event loop carries effects out in their order, before
//! it looks at anything else, and hands the outcomes back as inputs.

use crate::entry::Entry;
use crate::memory::cursor::{Sequence, Stream};
use crate::memory::read_cell::OverflowPolicy;
use crate::memory::ring::ReadMark;
use crate::state::{Lease, SessionId, Socket};
use crate::text::make_process::ProcessDraft;
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::{ProcessId, RequestId};
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Commit, SignalTarget};
use kingpole_protocol::spec::{LimitSpec, ProcessSpec, SocketSpec};
use kingpole_protocol::status::SocketInfo;
use std::path::PathBuf;

/// Whom an answer goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    /// The session.
    pub session: SessionId,
    /// The number it gave its request; 0 in text sessions.
    pub request: RequestId,
}

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Answer a frame.
    Reply {
        /// To whom.
        asker: Asker,
        /// What.
        reply: Box<Reply>,
    },
    /// Tell a session.
    Event {
        /// Which.
        session: SessionId,
        /// What.
        event: Box<Event>,
    },
    /// Send text.
    Text {
        /// To which session.
        session: SessionId,
        /// What.
        text: Vec<u8>,
    },
    /// Take lines of a text session again.
    TakeRequests {
        /// Which.
        session: SessionId,
    },
    /// Find out whether a client has read all that it was sent.
    AskWhetherRead {
        /// Which.
        session: SessionId,
    },
    /// Read a file of the system for a text command.
    LookUp {
        /// Whose.
        session: SessionId,
        /// Which, and for what.
        question: Question,
    },
    /// Count bytes for a page of a listing.
    Count {
        /// Whose listing.
        session: SessionId,
        /// Which bytes.
        what: Countable,
    },
    /// Find the last lines of a child's output.
    ReadTail {
        /// Who asks.
        session: SessionId,
        /// Whose output.
        process: ProcessId,
        /// How many at most.
        lines: usize,
    },
    /// Send records to a text session.
    SendText {
        /// Which.
        session: SessionId,
        /// Whose records.
        process: ProcessId,
        /// From where.
        mark: ReadMark,
        /// What they look like.
        form: TextForm,
        /// How many bytes are enough; one record may go beyond.
        bytes_max: u64,
    },
    /// [`crate::input::Input::Drained`] is wanted once this session's queue is empty.
    TellWhenDrained {
        /// Which.
        session: SessionId,
    },
    /// From here on the session's bytes are frames.
    SwitchToFrames {
        /// Which.
        session: SessionId,
    },
    /// Send what is queued as far as it goes at once, and close.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Start a program.
    Spawn(Box<SpawnOrder>),
    /// Send a signal.
    Signal {
        /// Who asks.
        asker: Asker,
        /// To whom.
        process: ProcessId,
        /// Which.
        signal: i32,
        /// How far.
        target: SignalTarget,
    },
    /// Find out what the kernel costs.
    Measure {
        /// Who asks.
        asker: Asker,
    },
    /// Make a socket.
    MakeSocket {
        /// Who asks.
        asker: Asker,
        /// What.
        spec: Box<SocketSpec>,
    },
    /// Send a socket's descriptor to whoever asks.
    PassSocket {
        /// Who asks.
        asker: Asker,
        /// Which.
        socket: Box<SocketInfo>,
    },
    /// Close a socket and remove its path.
    CloseSocket {
        /// Which.
        socket: Box<Socket>,
    },
    /// Write to the journal. What is answered afterwards survives a crash.
    Record {
        /// What.
        entry: Box<Entry>,
        /// What follows; comes back with the outcome.
        after: Box<After>,
    },
    /// Read a child's pipe once.
    Read {
        /// Whose.
        process: ProcessId,
        /// Which pipe.
        stream: Stream,
        /// What to do when the ring is full.
        policy: OverflowPolicy,
    },
    /// Release output up to and including a record.
    Acknowledge {
        /// Whose.
        process: ProcessId,
        /// The last one that needs not be kept.
        through: Sequence,
    },
    /// Give up all unread output of a ring that makes no sense.
    AbandonOutput {
        /// Whose.
        process: ProcessId,
    },
    /// Store the flags of a process.
    SetFlags {
        /// Whose.
        process: ProcessId,
        /// [`crate::state::flags`].
        flags: u32,
    },
    /// Poll a child's pipes no longer, until [`Effect::ResumeReading`].
    PauseReading {
        /// Whose.
        process: ProcessId,
    },
    /// Poll them again.
    ResumeReading {
        /// Whose.
        process: ProcessId,
    },
    /// Give the memory of an empty ring back.
    GiveBack {
        /// Whose.
        process: ProcessId,
    },
    /// Forget a process: journal, slot, descriptors.
    Forget {
        /// Which.
        process: ProcessId,
    },
    /// Send records to a follower.
    SendOutput {
        /// Who follows.
        session: SessionId,
        /// Whom.
        process: ProcessId,
        /// From where.
        mark: ReadMark,
        /// Its credit, above zero.
        credit: u64,
        /// How.
        delivery: Delivery,
    },
    /// Find out what became of the spawns that another kernel did not finish.
    ResolveIntents,
    /// Become another program, between this turn and the next.
    Upgrade {
        /// Who asks.
        session: SessionId,
        /// The program.
        path: PathBuf,
        /// How far to go.
        extent: UpgradeExtent,
    },
    /// Write a line to the log.
    Log(String),
    /// End the kernel.
    Exit,
}

/// How one helping of records gets to a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As bytes.
    Bytes,
    /// By saying where they lie, if there are enough of them and it can be done now; else as bytes.
    InPlace {
        /// The ring that it has been passed.
        ring: Option<u64>,
    },
}

/// What output looks like in a text session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextForm {
    /// Records of a batch, each with its header line.
    Batch,
    /// As the child wrote it.
    Plain,
}

/// Bytes that the state does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Countable {
    /// What each of these children has written that is still kept, without what records take besides.
    Unread(Vec<ProcessId>),
    /// What waits to be read by each of these clients.
    Queued(Vec<SessionId>),
}

/// What is to be looked up.
#[derive(Debug)]
pub enum Question {
    /// Users and groups, for a process.
    Users(Box<ProcessDraft>),
    /// A host's address, for a socket.
    Host(Box<SocketSpec>),
}

/// How far an upgrade goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeExtent {
    /// The candidate rehearses, and that is all.
    CheckOnly,
    /// To its end.
    Whole,
}

/// What follows once something is written to the journal.
#[derive(Debug)]
pub enum After {
    /// Values are stored: apply them, then acknowledge.
    Commit {
        /// Who asked.
        asker: Asker,
        /// All of it.
        commit: Commit,
    },
    /// A socket is known.
    SocketMade {
        /// Who asked.
        asker: Asker,
        /// It.
        socket: Box<Socket>,
    },
    /// A socket is forgotten.
    SocketClosed {
        /// Who asked.
        asker: Asker,
        /// Its name.
        name: String,
    },
    /// A lease is granted.
    LeaseTaken {
        /// Who asked.
        asker: Asker,
        /// It.
        lease: Box<Lease>,
    },
    /// A lease is given back.
    LeaseReleased {
        /// Who asked.
        asker: Asker,
        /// Its name.
        name: String,
    },
}

/// Everything that is needed to start a program, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnOrder {
    /// Who asked.
    pub asker: Asker,
    /// The client's key.
    pub key: String,
    /// What to start; socket numbers in its arguments are replaced already.
    pub spec: ProcessSpec,
    /// Sockets to pass, with their numbers in the child (0: its standard input).
    pub sockets: Vec<PassedSocket>,
    /// Limits of the child that the kernel has changed for itself.
    pub original_limits: Vec<LimitSpec>,
    /// Room for output, bytes; 0 when nothing is captured.
    pub buffer_bytes: u64,
}

/// A socket on its way to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedSocket {
    /// Its name.
    pub name: String,
    /// Its number in the child.
    pub number: i32,
}

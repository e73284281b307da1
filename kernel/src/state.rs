//! Everything the kernel knows, as one plain value. No descriptors, no clocks, no input or output.
//!
//! Only [`crate::step`] changes it. Between two steps it is whole and can be saved.

pub mod saving;
pub mod text;

use crate::memory::cursor::{EofBits, RingCursor, Sequence, Stream};
use crate::memory::ring::ReadMark;
use crate::memory::state_memory::SlotIndex;
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::ids::{Fence, ProcessId};
use kingpole_protocol::spec::{LimitSpec, Overflow};
use kingpole_protocol::status::{End, LeaseInfo, OutputInfo, ProcessInfo, SessionInfo, SocketInfo};
use std::collections::{BTreeMap, BTreeSet};

/// Bits of the flags word in a process's slot.
pub mod flags {
    /// The end was acknowledged.
    pub const END_ACKNOWLEDGED: u32 = 1 << 0;
    /// Its output is thrown away and it is forgotten at its end.
    pub const REMOVED: u32 = 1 << 1;
    /// Whoever was there when it ended has been told. Without it the next image of the kernel tells the
    /// sessions that it carries on: the guard may publish an end while one image becomes the other.
    pub const END_TOLD: u32 = 1 << 2;
}

/// A session's number, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

/// The whole state.
#[derive(Debug)]
pub struct State {
    /// Who this kernel is.
    pub about: About,
    /// Children, running or ended, by number. Boxed, so that the tree's spare room stays small.
    pub processes: BTreeMap<ProcessId, Box<Process>>,
    /// Which process a client's key stands for.
    pub keys: BTreeMap<String, ProcessId>,
    /// Processes by name; several of one name when earlier ones ended and are kept.
    pub names: BTreeSet<(String, ProcessId)>,
    /// Spawns that another kernel did not finish, with key and name.
    pub intents: BTreeMap<ProcessId, (String, String)>,
    /// When to look at them again, by the monotonic clock.
    pub resolve_at: Option<u64>,
    /// How many of the processes run.
    pub running: u64,
    /// Sockets by name.
    pub sockets: BTreeMap<String, Socket>,
    /// Newest number given to a socket.
    pub newest_socket: u64,
    /// Values by key.
    pub values: BTreeMap<String, ByteString>,
    /// What they count for together, see [`crate::limits::VALUES_BYTES_MAX`].
    pub values_bytes: u64,
    /// What the records of processes and sockets take.
    pub recorded_bytes: u64,
    /// Leases by name.
    pub leases: BTreeMap<String, Lease>,
    /// Newest fencing number given out.
    pub newest_fence: Fence,
    /// Sessions by number.
    pub sessions: BTreeMap<SessionId, Session>,
    /// Newest session.
    pub newest_session: SessionId,
    /// Sessions that can be sent output now.
    pub serving: BTreeSet<SessionId>,
    /// When to look whether a drained ring can give its memory back.
    pub give_back: BTreeSet<(u64, ProcessId)>,
    /// When to read those again whose pipes Linux refused to read.
    pub read_again: BTreeSet<(u64, ProcessId)>,
    /// When to look again whether a client has read the line before its first batch.
    pub first_batches: BTreeSet<(u64, SessionId)>,
    /// The kernel ends as soon as no session is left.
    pub leaving: Leaving,
}

/// Whether the kernel is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// No.
    No,
    /// When the last session has gone, unless something is held by then.
    WhenAlone,
}

/// Who this kernel is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Its release.
    pub release: String,
    /// Its pid.
    pub pid: i32,
    /// The guard's pid, 0 without one.
    pub guard_pid: i32,
    /// Its own user.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// Images that this process has run.
    pub generation: u64,
    /// Kernel processes that have worked on this state.
    pub epoch: u64,
    /// Tells this state from every other.
    pub instance: u64,
    /// When the state was made, nanoseconds since 1970.
    pub started_ns: u64,
    /// Most descriptors it may open.
    pub descriptors_limit: u64,
    /// Limits that the kernel raised for itself and children get back.
    pub original_limits: Vec<LimitSpec>,
}

/// One child.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub id: ProcessId,
    /// Its place in shared memory.
    pub slot: SlotIndex,
    /// Linux's number.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// The client's key.
    pub key: String,
    /// When it was started, nanoseconds since 1970.
    pub started_ns: u64,
    /// After replacement of socket numbers.
    pub arguments: Vec<ByteString>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// As spawned.
    pub labels: BTreeMap<String, String>,
    /// How it ended, if it has.
    pub end: Option<End>,
    /// [`flags`].
    pub flags: u32,
    /// Its output.
    pub output: Output,
    /// Sessions that follow it.
    pub followers: BTreeSet<SessionId>,
    /// What watchers have acknowledged.
    pub text: TextAcknowledged,
    /// What its record takes in the journal.
    pub recorded_bytes: u64,
}

/// What text sessions have acknowledged of a child. Not saved: after a crash of the kernel a watcher
/// is told again what was not released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextAcknowledged {
    /// The first record that none of them has.
    pub acknowledged: Sequence,
    /// Its end.
    pub end_acknowledged: bool,
}

/// A child's output buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Room for records, bytes; 0 without a ring.
    pub capacity_bytes: u64,
    /// What happens when it is full.
    pub overflow: Overflow,
    /// As published.
    pub cursor: RingCursor,
    /// Number of the oldest record kept; that of the next one when none is.
    pub oldest: Sequence,
    /// Records dropped because it was full.
    pub dropped_records: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// Whether its pipes are polled.
    pub reading: Reading,
    /// Attempts in a row that Linux refused.
    pub refusals: u32,
    /// Pipes that were seen empty after the child had ended: what comes now is from descendants.
    pub seen_empty: EofBits,
    /// Whether it stands in [`State::give_back`].
    pub give_back: GiveBack,
}

/// Whether a child's pipes are polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As bytes come.
    Polled,
    /// Not before there is room.
    Paused,
    /// Not before [`State::read_again`] says so: Linux refused.
    PutOff,
}

/// Whether a ring's memory is going to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveBack {
    /// No.
    Idle,
    /// At this time of the monotonic clock.
    At(u64),
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// For the guard; 0 when none is kept open.
    pub number: u64,
    /// What clients are told.
    pub info: SocketInfo,
    /// The port that was asked for, before Linux picked one.
    pub asked_port: u16,
    /// What its record takes in the journal.
    pub recorded_bytes: u64,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Its number.
    pub fence: Fence,
    /// Who holds it, if that session is there.
    pub session: Option<SessionId>,
    /// What the holder called itself.
    pub client: String,
    /// When it was taken, nanoseconds since 1970.
    pub taken_ns: u64,
}

/// Who is at the other end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `unix`, or address and port.
    pub address: String,
    /// Its user.
    pub uid: u32,
    /// Its pid, 0 if not known.
    pub pid: i32,
}

impl Peer {
    /// The address of everybody on a unix socket.
    pub const UNIX: &str = "unix";

    /// Whether the session is on a unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        self.address == Self::UNIX
    }
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Who it is.
    pub peer: Peer,
    /// What it called itself.
    pub client: String,
    /// When it connected, nanoseconds since 1970.
    pub connected_ns: u64,
    /// What it speaks.
    pub phase: Phase,
    /// Whether it wants to hear of every process.
    pub subscribed: Subscribed,
    /// Whose output it is sent.
    pub follows: BTreeMap<ProcessId, Follow>,
    /// Rings that were passed to it, by number: whose output it can read in place.
    pub rings: BTreeMap<ProcessId, u64>,
    /// Those of them that have something to send.
    pub pending: BTreeSet<ProcessId>,
    /// Who of them is next.
    pub serve_next: ProcessId,
    /// Whether its queue is empty.
    pub queue: crate::input::Room,
    /// The text side.
    pub text: text::TextSession,
}

/// What a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Papa's text.
    Text,
    /// Frames, and its hello is awaited.
    Hello,
    /// Frames.
    Open,
}

/// Whether a session hears of every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// No.
    No,
    /// Yes.
    Yes,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// The next record for it.
    pub mark: ReadMark,
    /// What it may be sent; below zero after an overdraft.
    pub credit: i64,
    /// Streams whose end it was told.
    pub told: EofBits,
    /// How it gets at records. Not carried into the next image, which sends bytes until it is asked again:
    /// an older one could do nothing else.
    pub access: Access,
}

/// How a follower gets at records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Their bytes are sent.
    Sent,
    /// It reads them in the ring, where there are many at a time.
    InPlace,
}

impl State {
    /// An empty one.
    #[must_use]
    pub fn new(about: About) -> Self {
        Self {
            about,
            processes: BTreeMap::new(),
            keys: BTreeMap::new(),
            names: BTreeSet::new(),
            intents: BTreeMap::new(),
            resolve_at: None,
            running: 0,
            sockets: BTreeMap::new(),
            newest_socket: 0,
            values: BTreeMap::new(),
            values_bytes: 0,
            recorded_bytes: 0,
            leases: BTreeMap::new(),
            newest_fence: Fence::NONE,
            sessions: BTreeMap::new(),
            newest_session: SessionId(0),
            serving: BTreeSet::new(),
            give_back: BTreeSet::new(),
            read_again: BTreeSet::new(),
            first_batches: BTreeSet::new(),
            leaving: Leaving::No,
        }
    }

    /// When [`crate::input::Input::TimeReached`] is wanted, by the monotonic clock.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        let give_back = self.give_back.first().map(|(at, _)| *at);
        let first_batch = self.first_batches.first().map(|(at, _)| *at);
        let read_again = self.read_again.first().map(|(at, _)| *at);
        [give_back, first_batch, read_again, self.resolve_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether no process, socket or value is held.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.processes.is_empty() && self.sockets.is_empty() && self.values.is_empty()
    }

    /// Whether a session's next request may be read.
    #[must_use]
    pub fn takes_requests(&self, session: SessionId) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|s| s.phase != Phase::Text || s.text.takes_lines())
    }

    /// The text session that has been silent longest at its prompt.
    #[must_use]
    pub fn idlest_text_session(&self) -> Option<SessionId> {
        let idle = self.sessions.values().filter(|session| {
            session.phase == Phase::Text && matches!(session.text.mode, text::TextMode::Prompt)
        });
        idle.min_by_key(|session| (session.text.active_ns, session.id))
            .map(|session| session.id)
    }

    /// Whether a session gets nothing more unless it says something.
    #[must_use]
    pub fn is_silent(&self, session: SessionId) -> bool {
        self.sessions
            .get(&session)
            .is_none_or(|s| s.phase != Phase::Text || s.text.is_silent())
    }

    /// The process of this name that runs, else the newest.
    #[must_use]
    pub fn process_named(&self, name: &str) -> Option<&Process> {
        let mut newest = None;
        for process in self.processes_named(name) {
            if process.end.is_none() {
                return Some(process);
            }
            newest = Some(process);
        }
        newest
    }

    /// All processes of this name, oldest first.
    pub fn processes_named(&self, name: &str) -> impl Iterator<Item = &Process> {
        let range = (name.to_owned(), ProcessId(0))..=(name.to_owned(), ProcessId(u64::MAX));
        let processes = &self.processes;
        self.names
            .range(range)
            .filter_map(|(_, id)| processes.get(id).map(|p| &**p))
    }

    /// What the kernel holds, for `ps`.
    #[must_use]
    pub fn title(&self) -> String {
        let processes = self.running;
        format!(
            "kingpole-kernel: {processes} processes, {} sockets",
            self.sockets.len()
        )
    }
}

impl Process {
    /// What clients are told.
    #[must_use]
    pub fn info(&self) -> ProcessInfo {
        let cursor = &self.output.cursor;
        ProcessInfo {
            process: self.id,
            name: self.name.clone(),
            key: self.key.clone(),
            pid: self.pid,
            started_ns: self.started_ns,
            arguments: self.arguments.clone(),
            uid: self.uid,
            gid: self.gid,
            labels: self.labels.clone(),
            end: self.end,
            output: OutputInfo {
                capacity_bytes: self.output.capacity_bytes,
                used_bytes: cursor.used(),
                oldest: self.output.oldest,
                next: cursor.next_seq,
                stdout_bytes: cursor.stdout_bytes,
                stderr_bytes: cursor.stderr_bytes,
                dropped_records: self.output.dropped_records,
                dropped_bytes: self.output.dropped_bytes,
                stdout_ended: cursor.eof.has(Stream::Stdout),
                stderr_ended: cursor.eof.has(Stream::Stderr),
            },
        }
    }

    /// Whether nobody needs it any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let removed = self.flags & flags::REMOVED != 0;
        let acknowledged = self.flags & flags::END_ACKNOWLEDGED != 0;
        let read = self.output.cursor.eof.is_all() && self.output.cursor.is_empty();
        self.end.is_some() && (removed || acknowledged && read)
    }
}

impl Lease {
    /// What clients are told.
    #[must_use]
    pub fn info(&self) -> LeaseInfo {
        LeaseInfo {
            name: self.name.clone(),
            fence: self.fence,
            session: self.session.map_or(0, |session| session.0),
            client: self.client.clone(),
            taken_ns: self.taken_ns,
        }
    }
}

impl Session {
    /// Whether output of children can be sent to it now.
    #[must_use]
    pub fn takes_output(&self) -> bool {
        let room = self.queue == crate::input::Room::Free;
        room && (self.phase != Phase::Text || self.text.takes_output())
    }

    /// What clients are told.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        SessionInfo {
            session: self.id.0,
            client: self.client.clone(),
            framed: self.phase != Phase::Text,
            peer: self.peer.address.clone(),
            uid: self.peer.uid,
            pid: self.peer.pid,
            connected_ns: self.connected_ns,
            // The queues are the event loop's, which fills this in.
            queued_bytes: 0,
            following: u32::try_from(self.follows.len()).unwrap_or(u32::MAX),
        }
    }
}

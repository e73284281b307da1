//! What one image of the kernel leaves for the next: mirror types with a version of their own.
//!
//! A released version is frozen and read by every later kernel; what changes gets a new number
//! (golden files hold us to it).
//!
//! File: `KPSAVED1`, version u32, then parts: kind u32, length u32, bytes. Kind 1 is the [`Head`], 2
//! some [`SavedDescriptor`]s, 3 some [`SavedCounts`], 4 a [`SavedSession`] without its `received` and
//! `unsent`, which follow as parts of kind 5 and 6.

use kingpole_protocol::codec::{self, CodecError};
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::status::End;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"KPSAVED1";

const HEAD: u32 = 1;
const HELD: u32 = 2;
const COUNTS: u32 = 3;
const SESSION: u32 = 4;
const RECEIVED: u32 = 5;
const UNSENT: u32 = 6;
/// What only a build ahead of the releases writes: something that they cannot know.
const AHEAD: u32 = 0xffff;

/// Descriptors or counts in one part.
const CHUNK_ITEMS_MAX: usize = 10_000;

/// The version that is written, and the newest that is read.
pub const SAVED_VERSION: u32 = if cfg!(feature = "a-version-ahead") {
    2
} else {
    1
};

/// The version that is written. A later kernel writes the oldest one that holds what it has to say, so
/// that the kernel before it can be gone back to; `KINGPOLE_STATE_VERSION=1` makes a build ahead of the
/// releases have nothing new to say.
fn written_version() -> u32 {
    #[cfg(test)]
    if let Some(simulated) = crate::sys::simulated::version_written() {
        return simulated;
    }
    if cfg!(feature = "a-version-ahead")
        && std::env::var_os("KINGPOLE_STATE_VERSION").is_some_and(|version| version == "1")
    {
        return 1;
    }
    SAVED_VERSION
}

/// The newest version that is read.
fn newest_read() -> u32 {
    #[cfg(test)]
    if let Some(simulated) = crate::sys::simulated::version_read() {
        return simulated;
    }
    SAVED_VERSION
}

/// Everything that is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// What there is one of.
    pub head: Head,
    /// Everything that a guard holds as well, with our own numbers.
    pub held: Vec<SavedDescriptor>,
    /// What is counted about processes since they were started.
    pub counts: Vec<SavedCounts>,
    /// Sessions.
    pub sessions: Vec<SavedSession>,
}

/// What there is one of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Release of the image that saved.
    pub release: String,
    /// Images that this process has run.
    pub generation: u64,
    /// Nanoseconds since 1970.
    pub saved_ns: u64,
    /// Newest session.
    pub newest_session: u64,
    /// Messages that were sent to the guard over the present link.
    pub link_sent: u64,
    /// The program that saved, to go back to: number of its descriptor.
    pub previous: SavedDescriptor,
    /// Who holds leases: name and session.
    pub holders: Vec<(String, u64)>,
    /// The session that asked for the upgrade, to be answered.
    pub asker: Option<u64>,
    /// Where the new program was found.
    pub path: String,
}

/// A descriptor, and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDescriptor {
    /// Its tag; 0 where there is none.
    pub tag: u64,
    /// Its number.
    pub number: i32,
    /// Its file's device.
    pub device: u64,
    /// Its file's inode.
    pub inode: u64,
}

/// Counters of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCounts {
    /// Whose.
    pub process: ProcessId,
    /// Records dropped.
    pub dropped_records: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSession {
    /// Its number.
    pub session: u64,
    /// Its socket.
    pub socket: SavedDescriptor,
    /// Where the peer is.
    pub address: String,
    /// The peer's user.
    pub uid: u32,
    /// The peer's pid, 0 if not known.
    pub pid: i32,
    /// What it called itself.
    pub client: String,
    /// When it connected, nanoseconds since 1970.
    pub connected_ns: u64,
    /// What it speaks.
    pub speech: SavedSpeech,
    /// Whether it sends more.
    pub course: SavedCourse,
    /// Whether it hears of every process.
    pub is_subscribed: bool,
    /// Whom it follows.
    pub follows: Vec<SavedFollow>,
    /// Bytes that came and are not a whole request yet, or were not looked at.
    pub received: Vec<u8>,
    /// Bytes that it has not read yet.
    pub unsent: Vec<u8>,
}

/// What a session speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedSpeech {
    /// Frames, before its hello.
    Hello,
    /// Frames.
    Frames,
    /// Text.
    Text {
        /// The line so far.
        line: SavedLine,
        /// What the next line is for.
        mode: SavedMode,
        /// A line that waits for something to acknowledge.
        held: Option<Vec<u8>>,
    },
}

/// A half-read line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLine {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where a telnet command stands: 0 outside, 1 after IAC, 2 after WILL, WONT, DO or DONT, 3
    /// inside of a subnegotiation, 4 after IAC in one.
    pub telnet: u8,
    /// For 2: which of them.
    pub option: u8,
    /// Whether a carriage return came last.
    pub after_return: bool,
    /// Whether the rest is thrown away.
    pub stuck: bool,
}

/// What a text session's next line is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedMode {
    /// It is a command.
    Prompt,
    /// A long listing that the client has not read to its end. It is not carried: the next image
    /// says so.
    Listing,
    /// It acknowledges a batch.
    Watching {
        /// Whom it watches: number, name, whether its end was sent.
        watched: Vec<(ProcessId, String, bool)>,
        /// How far the batch is.
        batch: SavedBatch,
        /// Processes that were forgotten before their ends could be told.
        parted: Vec<(ProcessId, End)>,
    },
    /// It ends the tail.
    Tailing {
        /// Whose output.
        process: ProcessId,
        /// Its name.
        name: String,
        /// Whether it goes on.
        goes_on: bool,
        /// Whether the cursor is within a line.
        within_line: bool,
    },
}

/// A batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedBatch {
    /// Nothing of it was sent.
    Empty,
    /// So many bytes of it were.
    Open(u64),
    /// It waits to be acknowledged.
    Sent,
}

/// Whether a client sends more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedCourse {
    /// It may.
    Open,
    /// No more.
    HalfClosed,
    /// The session ends when its answers are sent.
    Closing,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFollow {
    /// In whose output.
    pub process: ProcessId,
    /// The next record for it.
    pub next: Sequence,
    /// Where that is, or will be.
    pub position: u64,
    /// What it may be sent.
    pub credit: i64,
    /// Whether it was told the end of standard output.
    pub stdout_told: bool,
    /// And that of standard error.
    pub stderr_told: bool,
}

/// The bytes are no saved state that this kernel reads.
#[derive(Debug, Error)]
pub enum SavedError {
    /// Something else.
    #[error("it is no saved state of a kernel")]
    Foreign,
    /// Of a later kernel.
    #[error(
        "the saved state has version {found}; this kernel reads up to {SAVED_VERSION}: it is older \
         than the one that runs"
    )]
    TooNew {
        /// Its version.
        found: u32,
    },
    /// A part of it.
    #[error("the saved state is damaged: {0}")]
    Damaged(#[from] CodecError),
    /// A part of no known kind.
    #[error("the saved state has a part of kind {kind}, which makes no sense there")]
    UnknownPart {
        /// Its number.
        kind: u32,
    },
    /// It ends too soon.
    #[error("the saved state is cut short")]
    Short,
}

impl Saved {
    /// Its bytes.
    ///
    /// # Errors
    /// A part is too long.
    pub fn encode(&self) -> Result<Vec<u8>, SavedError> {
        let mut bytes = MAGIC.to_vec();
        let version = written_version();
        bytes.extend_from_slice(&version.to_le_bytes());
        let mut add = |kind: u32, part: Vec<u8>| {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&part);
        };
        add(HEAD, codec::encode(&self.head)?);
        if version > 1 {
            add(AHEAD, b"of the next version".to_vec());
        }
        for some in self.held.chunks(CHUNK_ITEMS_MAX) {
            add(HELD, codec::encode(&some)?);
        }
        for some in self.counts.chunks(CHUNK_ITEMS_MAX) {
            add(COUNTS, codec::encode(&some)?);
        }
        for session in &self.sessions {
            // A queue may be as long as a part: it travels in parts of its own.
            let mut fixed = session.clone();
            let received = std::mem::take(&mut fixed.received);
            let unsent = std::mem::take(&mut fixed.unsent);
            add(SESSION, codec::encode(&fixed)?);
            add(RECEIVED, received);
            add(UNSENT, unsent);
        }
        Ok(bytes)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// See [`SavedError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SavedError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(SavedError::Foreign)?;
        if magic != MAGIC {
            return Err(SavedError::Foreign);
        }
        let (version, mut rest) = rest.split_first_chunk::<4>().ok_or(SavedError::Short)?;
        let found = u32::from_le_bytes(*version);
        if found > newest_read() {
            return Err(SavedError::TooNew { found });
        }
        let mut head = None;
        let (mut held, mut counts) = (Vec::new(), Vec::new());
        let mut sessions: Vec<SavedSession> = Vec::new();
        while !rest.is_empty() {
            let (kind, bytes) = part(&mut rest)?;
            match (kind, sessions.last_mut()) {
                (HEAD, _) => head = Some(codec::decode(bytes)?),
                (AHEAD, _) if newest_read() > 1 => {}
                (HELD, _) => held.extend(codec::decode::<Vec<SavedDescriptor>>(bytes)?),
                (COUNTS, _) => counts.extend(codec::decode::<Vec<SavedCounts>>(bytes)?),
                (SESSION, _) => sessions.push(codec::decode(bytes)?),
                (RECEIVED, Some(session)) => session.received = bytes.to_vec(),
                (UNSENT, Some(session)) => session.unsent = bytes.to_vec(),
                _ => return Err(SavedError::UnknownPart { kind }),
            }
        }
        Ok(Self {
            head: head.ok_or(SavedError::Short)?,
            held,
            counts,
            sessions,
        })
    }

    /// Every descriptor that must be there.
    pub fn descriptors(&self) -> impl Iterator<Item = &SavedDescriptor> {
        let sessions = self.sessions.iter().map(|session| &session.socket);
        self.held.iter().chain(sessions)
    }
}

fn part<'a>(rest: &mut &'a [u8]) -> Result<(u32, &'a [u8]), SavedError> {
    let (kind, behind) = rest.split_first_chunk::<4>().ok_or(SavedError::Short)?;
    let (length, behind) = behind.split_first_chunk::<4>().ok_or(SavedError::Short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| SavedError::Short)?;
    let (part, behind) = behind.split_at_checked(length).ok_or(SavedError::Short)?;
    *rest = behind;
    Ok((u32::from_le_bytes(*kind), part))
}

#[cfg(test)]
mod tests;

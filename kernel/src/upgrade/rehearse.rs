//! The rehearsal: a candidate reads the live state, says what it would carry, and changes nothing.

use super::saved_state::Saved;
use crate::guard::image::Image;
use crate::memory::{EndStatus, Journal, StateMemory};
use crate::replay::{Remembered, remember};
use crate::sys::exec::NOT_EXECUTED;
use crate::sys::inherited::Inherited;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2, read};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a candidate may take; a good one needs a few milliseconds. Nobody else waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the journal is read anew when it was compacted meanwhile. A compaction comes after many
/// times the work of a reading.
const READ_ATTEMPTS_MAX: u32 = 20;

/// Longest answer.
const ANSWER_BYTES_MAX: usize = 4096;

/// What an answer begins with; anything else is a program that is no kernel of ours.
const GOOD: &str = "kingpole-rehearsal good: ";
const BAD: &str = "kingpole-rehearsal bad: ";

/// Where the candidate finds everything: numbers of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// The state file.
    pub state: i32,
    /// The journal.
    pub journal: i32,
    /// The saved state.
    pub saved: i32,
    /// Where the answer goes.
    pub answer: i32,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            state,
            journal,
            saved,
            answer,
        } = self;
        write!(f, "{state},{journal},{saved},{answer}")
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<i32>, _>>();
        match numbers.as_deref() {
            Ok(&[state, journal, saved, answer]) => Ok(Self {
                state,
                journal,
                saved,
                answer,
            }),
            _ => Err("a rehearsal needs four numbers".to_owned()),
        }
    }
}

/// Why a candidate is not taken.
#[derive(Debug, Error)]
pub enum RehearsalError {
    /// It could not be tried.
    #[error("it cannot be tried: {}", .0.desc())]
    System(Errno),
    /// It is no program for this machine.
    #[error("Linux does not execute it: it is no program, or not one for this machine")]
    NotExecuted,
    /// It says so itself.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It ended without an answer.
    #[error("it ended without an answer ({0}): it is no kingpole-kernel, or too old")]
    Silent(String),
    /// It takes too long.
    #[error("it did not answer within {PATIENCE:?}")]
    Hangs,
}

/// A candidate that rehearses now. Whoever reaps our children hands its end to
/// [`Rehearsal::conclude`]; nobody waits for it.
#[derive(Debug)]
pub struct Rehearsal {
    pid: i32,
    answers: OwnedFd,
    deadline: Instant,
    course: Course,
}

/// Whether a candidate still has time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    InTime,
    /// It was killed because it took too long.
    TimedOut,
}

impl Rehearsal {
    /// Starts a candidate. It dies with this process.
    ///
    /// # Errors
    /// See [`RehearsalError`]; nothing has changed then.
    pub fn begin(
        candidate: &Image,
        state: BorrowedFd<'_>,
        journal: BorrowedFd<'_>,
        saved: BorrowedFd<'_>,
    ) -> Result<Self, RehearsalError> {
        let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let (answers, answer) = pipe2(flags).map_err(RehearsalError::System)?;
        let script = Script {
            state: state.as_raw_fd(),
            journal: journal.as_raw_fd(),
            saved: saved.as_raw_fd(),
            answer: answer.as_raw_fd(),
        };
        let kept = [state, journal, saved, answer.as_fd()];
        let pid = candidate
            .start_rehearsal(&script, &kept)
            .map_err(RehearsalError::System)?;
        let now = Instant::now();
        Ok(Self {
            pid,
            answers,
            deadline: now.checked_add(PATIENCE).unwrap_or(now),
            course: Course::InTime,
        })
    }

    /// The candidate's pid; its own until its end was handed to [`Rehearsal::conclude`].
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// When to call [`Rehearsal::give_up`], unless it has ended before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.course == Course::InTime).then_some(self.deadline)
    }

    /// It takes too long: it is killed, and its end will tell.
    pub fn give_up(&mut self) {
        self.course = Course::TimedOut;
        // Not reaped yet, so the number is its own.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// The candidate has ended. Gives what it would carry.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn conclude(self, status: EndStatus) -> Result<String, RehearsalError> {
        if self.course == Course::TimedOut {
            return Err(RehearsalError::Hangs);
        }
        let text = read_answer(self.answers.as_fd())?;
        if let Some(carried) = text.strip_prefix(GOOD) {
            return Ok(carried.trim_end().to_owned());
        }
        if let Some(reason) = text.strip_prefix(BAD) {
            return Err(RehearsalError::Refused(reason.trim_end().to_owned()));
        }
        Err(match status {
            EndStatus::Exited(NOT_EXECUTED) if text.is_empty() => RehearsalError::NotExecuted,
            EndStatus::Exited(code) => RehearsalError::Silent(format!("exit code {code}")),
            EndStatus::Signaled { signal, .. } => {
                RehearsalError::Silent(format!("signal {signal}"))
            }
            EndStatus::Unknown => RehearsalError::Silent("gone".to_owned()),
        })
    }
}

/// What is in the pipe. Something else may have its other end open, so its end is not waited for.
fn read_answer(answers: BorrowedFd<'_>) -> Result<String, RehearsalError> {
    let mut bytes = Vec::new();
    while bytes.len() <= ANSWER_BYTES_MAX {
        let mut some = [0; 512];
        match read(answers, &mut some) {
            Ok(0) | Err(Errno::EAGAIN) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(count) => bytes.extend(some.iter().take(count)),
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(RehearsalError::System(cause)),
        }
    }
    Ok(String::new())
}

/// The candidate's part. Reads everything, writes its answer, changes nothing.
///
/// # Errors
/// There is nowhere to answer to.
pub fn perform(script: &Script, mut inherited: Inherited) -> Result<(), Errno> {
    let answer = inherited.take(script.answer).ok_or(Errno::EBADF)?;
    let text = match look(script, &mut inherited) {
        Ok(carried) => format!("{GOOD}{carried}\n"),
        Err(reason) => format!("{BAD}{reason}\n"),
    };
    nix::unistd::write(&answer, text.as_bytes()).map(drop)
}

fn look(script: &Script, inherited: &mut Inherited) -> Result<String, String> {
    let mut take = |what: &str, number| {
        let fd = inherited.take(number);
        fd.ok_or_else(|| format!("{what} was not passed"))
    };
    let state = take("the state", script.state)?;
    let journal = take("the journal", script.journal)?;
    let saved = take("the saved state", script.saved)?;
    let memory = StateMemory::open(state).map_err(|error| error.to_string())?;
    let remembered = remember_while_written(&memory, journal)?;
    let saved = read_saved(File::from(saved)).map_err(|error| error.clone())?;
    Ok(format!(
        "release {} would carry {} processes, {} sockets, {} values and {} sessions",
        env!("CARGO_PKG_VERSION"),
        remembered.processes.len(),
        remembered.sockets.len(),
        remembered.values.len(),
        saved.sessions.len()
    ))
}

/// Reads the journal beside the kernel that writes it. When that compacts it twice meanwhile, the
/// half that was read is written over: then it is read again.
fn remember_while_written(memory: &StateMemory, journal: OwnedFd) -> Result<Remembered, String> {
    let mut attempts = 0;
    loop {
        let before = memory.journal_generation();
        let copy = journal.try_clone().map_err(|error| error.to_string())?;
        let read = Journal::open(copy, memory)
            .map_err(|error| error.to_string())
            .and_then(|journal| remember(&journal).map_err(|error| error.to_string()));
        attempts += 1;
        if memory.journal_generation() == before || attempts == READ_ATTEMPTS_MAX {
            return read;
        }
    }
}

/// Reads a saved state from its beginning, wherever the shared position is.
///
/// # Errors
/// What is wrong with it.
pub fn read_saved(file: File) -> Result<Saved, String> {
    use std::io::Seek;
    let mut file = file;
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| format!("the saved state cannot be read: {error}"))?;
    Saved::decode(&bytes).map_err(|error| error.to_string())
}

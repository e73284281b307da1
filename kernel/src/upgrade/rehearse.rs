//! The rehearsal: a candidate reads the live state, says what it would carry, and changes nothing.

use super::saved_state::Saved;
use crate::guard::image::Image;
use crate::memory::{Journal, StateMemory};
use crate::replay::remember;
use crate::sys::inherited::Inherited;
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::sys::wait::{After, Blocking, Whom, wait_ended};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, read};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a candidate may take. Everybody waits meanwhile; a good one needs a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

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

/// Lets a candidate rehearse. Gives what it would carry.
///
/// # Errors
/// See [`RehearsalError`]; nothing has changed then.
pub fn rehearse(
    candidate: &Image,
    state: BorrowedFd<'_>,
    journal: BorrowedFd<'_>,
    saved: BorrowedFd<'_>,
) -> Result<String, RehearsalError> {
    let (answers, answer) = pipe2(OFlag::O_CLOEXEC).map_err(RehearsalError::System)?;
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
    drop(answer);
    // Ours, and not reaped before this function does: nobody else can have the number.
    let pidfd = pidfd_open(pid);
    let answer = read_answer(answers.as_fd());
    if answer.is_err()
        && let Ok(pidfd) = &pidfd
    {
        let _ = pidfd_send_signal(pidfd, libc::SIGKILL);
    }
    let ended = wait_ended(Whom::Pid(pid), After::Reap, Blocking::Wait);
    let text = answer?;
    if let Some(carried) = text.strip_prefix(GOOD) {
        return Ok(carried.trim_end().to_owned());
    }
    if let Some(reason) = text.strip_prefix(BAD) {
        return Err(RehearsalError::Refused(reason.trim_end().to_owned()));
    }
    match ended {
        // What the copy of ours ends with when exec fails.
        Ok(Some(ended)) if ended.wait_status == 71 << 8 && text.is_empty() => {
            Err(RehearsalError::NotExecuted)
        }
        Ok(Some(ended)) if ended.wait_status & 0x7f == 0 => {
            let code = ended.wait_status >> 8;
            Err(RehearsalError::Silent(format!("exit code {code}")))
        }
        Ok(Some(ended)) => {
            let signal = ended.wait_status & 0x7f;
            Err(RehearsalError::Silent(format!("signal {signal}")))
        }
        _ => Err(RehearsalError::Silent("gone".to_owned())),
    }
}

fn read_answer(answers: BorrowedFd<'_>) -> Result<String, RehearsalError> {
    let begun = Instant::now();
    let mut bytes = Vec::new();
    loop {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut polled = [PollFd::new(answers, PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => return Err(RehearsalError::Hangs),
            Err(Errno::EINTR) => continue,
            Err(cause) => return Err(RehearsalError::System(cause)),
            Ok(_) => {}
        }
        let mut some = [0; 512];
        match read(answers, &mut some) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(count) => bytes.extend(some.iter().take(count)),
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(RehearsalError::System(cause)),
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Ok(String::new());
        }
    }
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
    let journal = Journal::open(journal, &memory).map_err(|error| error.to_string())?;
    let remembered = remember(&journal).map_err(|error| error.to_string())?;
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

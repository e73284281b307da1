//! A program that is given lines on its standard input, and started again when it ends.
//!
//! What it had not read when it ended is given to the next one: the pipe says how much that is. So a
//! program that ends between two lines misses none. What it read is its own. A program that ended
//! and left nothing is started again when there is something for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::words;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is kept of what was written: what a pipe holds, so what may be unread when a program ends,
/// and the beginning of the longest line.
const TAIL_BYTES: usize = 128 << 10;

/// Programs that have been let go and must be waited for, so that they do not stay as zombies.
pub(super) type Ending = Arc<Mutex<Vec<Child>>>;

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    command: String,
    /// `None` only while it is being dropped.
    child: Option<Child>,
    stdin: Option<File>,
    /// Left from the one before.
    backlog: Vec<u8>,
    /// What was written last.
    tail: VecDeque<u8>,
    ending: Ending,
    started: Instant,
    /// Before it is started again without anybody asking.
    pause: Duration,
}

/// Pauses between starts.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Who ran for so long did not fail at its start.
const STEADY: Duration = Duration::from_secs(10);

/// What a look at a program found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tended {
    /// Nothing is to be done.
    Well,
    /// It wants to be looked at again then.
    Later(Instant),
    /// It was started again, and this is to be said.
    Again(String),
}

impl Program {
    /// Starts it. `backlog` is given to it first.
    ///
    /// # Errors
    /// When the words are none, or there is no such program.
    pub(super) fn start(command: &str, backlog: Vec<u8>, ending: &Ending) -> io::Result<Self> {
        reap(ending);
        let words = words::split(command).unwrap_or_default();
        let Some((program, arguments)) = words.split_first() else {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "these are no words of a command",
            ));
        };
        // In a group of its own: who stops the manager with Ctrl-C still wants the last lines kept.
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().map(OwnedFd::from).map(File::from);
        let program = Self {
            command: command.to_owned(),
            child: Some(child),
            stdin,
            backlog,
            tail: VecDeque::new(),
            ending: Arc::clone(ending),
            started: Instant::now(),
            pause: PAUSE_MIN,
        };
        if let Some(stdin) = &program.stdin {
            fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(program)
    }

    /// Its end of the pipe, and what to wait for there: an error means that it has ended.
    pub(super) fn descriptor(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let waits = if self.backlog.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::POLLOUT
        };
        let ended = self.has_ended();
        let stdin = self.stdin.as_ref().filter(|_| !ended)?;
        Some((stdin.as_fd(), waits))
    }

    fn has_ended(&self) -> bool {
        let Some(stdin) = &self.stdin else {
            return true;
        };
        let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
        matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1..))
    }

    /// Gives on what waits, and starts another program if this one has ended with lines unread.
    pub(super) fn tend(&mut self, now: Instant) -> Tended {
        if !self.has_ended() {
            // Nobody waits for it; it takes what it takes.
            let _ = self.write(b"");
            return Tended::Well;
        }
        let unread = self.unread();
        if unread.is_empty() {
            return Tended::Well;
        }
        self.backlog = unread;
        self.tail.clear();
        self.stdin = None;
        let pause = if now.duration_since(self.started) > STEADY {
            PAUSE_MIN
        } else {
            self.pause
        };
        let due = self.started + pause;
        if now < due {
            return Tended::Later(due);
        }
        let why = self.end();
        let backlog = std::mem::take(&mut self.backlog);
        match Self::start(&self.command, backlog.clone(), &self.ending) {
            Ok(mut program) => {
                program.pause = (pause * 2).min(PAUSE_MAX);
                *self = program;
                // As above.
                let _ = self.write(b"");
                Tended::Again(format!("{}: {why}; it is started again", self.command))
            }
            Err(error) => {
                self.backlog = backlog;
                self.pause = (pause * 2).min(PAUSE_MAX);
                self.started = now;
                Tended::Again(format!("{}: {why}, and again: {error}", self.command))
            }
        }
    }

    /// Gives it as much as its pipe takes.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing now; anything else when it has ended.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.backlog.is_empty() && self.stdin.is_some() {
            let backlog = std::mem::take(&mut self.backlog);
            let written = self.give(&backlog);
            let gone = *written.as_ref().unwrap_or(&0);
            self.backlog = backlog.get(gone..).unwrap_or_default().to_vec();
            written?;
        }
        self.give(bytes)
    }

    fn give(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stdin) = &mut self.stdin else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let written = loop {
            match stdin.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        let new = bytes.get(..written).unwrap_or_default();
        let kept = new.len().min(TAIL_BYTES);
        let surplus = (self.tail.len() + kept).saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus.min(self.tail.len()));
        self.tail.extend(&new[new.len() - kept..]);
        Ok(written)
    }

    /// Whole lines that were written and not read, from the beginning of the first of them on.
    pub(super) fn unread(&mut self) -> Vec<u8> {
        let unread = self.stdin.as_ref().map(rustix::io::ioctl_fionread);
        let unread = unread.and_then(Result::ok).unwrap_or(0);
        let tail: &[u8] = self.tail.make_contiguous();
        let from = tail.len()
            - usize::try_from(unread)
                .unwrap_or(usize::MAX)
                .min(tail.len());
        let begin = memchr::memrchr(b'\n', &tail[..from]).map_or(0, |end| end + 1);
        // The writer gives the last line again if it was not written whole.
        let end = memchr::memrchr(b'\n', tail).map_or(0, |end| end + 1);
        let begin = if unread == 0 { end } else { begin };
        let mut lines = tail.get(begin..end).unwrap_or_default().to_vec();
        lines.append(&mut self.backlog);
        self.tail.clear();
        lines
    }

    /// How it ended, for people.
    pub(super) fn end(&mut self) -> String {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => format!("it ended ({status})"),
            _ => "it closed its standard input".to_owned(),
        }
    }
}

impl Drop for Program {
    /// It finds its input at an end and may take its time.
    fn drop(&mut self) {
        self.stdin = None;
        if let Some(mut child) = self.child.take()
            && !matches!(child.try_wait(), Ok(Some(_)))
        {
            let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            ending.push(child);
        }
    }
}

/// Waits for programs that have ended.
pub(super) fn reap(ending: &Ending) {
    let mut ending = ending.lock().unwrap_or_else(PoisonError::into_inner);
    ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

//! The listener: a small process that reads the socket to which processes send notifications, and
//! writes them to its standard output as lines. It is a child of the process kernel like any other,
//! so the socket is read, and what was read is kept until it is acknowledged, whether or not there is
//! a manager.
//!
//! It decides nothing but whom to listen to: those who run as the same user as the process kernel,
//! and its descendants. While its pipe is full it goes on reading, and keeps one note for each process
//! with the last word on everything. What a process says that it does (`STATUS=`) it remembers as long as
//! the process lives, and tells it again to a manager that asks for it: nobody else could.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use nix::unistd::{close, geteuid, getppid};

use super::note::{DATAGRAM_BYTES_MAX, MARK, Note, REPEAT, STATUS, assignments, merge};
use crate::shells::clock;

/// The argument that makes a program of ours the listener.
pub(super) const ARGUMENT: &str = "--hear-notifications";

/// Processes whose words are kept while nobody takes them.
const BACKLOG_MAX: usize = 4096;

/// Processes of which it is remembered what they do.
const STATUSES_MAX: usize = 4096;

/// Generations that are looked at above a sender.
const GENERATIONS_MAX: usize = 32;

/// Descriptors in one message; Linux allows no more (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;

/// Runs it if that is what the program was started for.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).as_deref() != Some(OsStr::new(ARGUMENT)) {
        return None;
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads it in production; by hand it helps.
            eprintln!("{ARGUMENT}: {error}");
            ExitCode::FAILURE
        }
    })
}

fn run() -> io::Result<()> {
    let socket = io::stdin();
    let pipe = io::stdout();
    // The process kernel has done it; an older one has not.
    setsockopt(&socket.as_fd(), sockopt::PassCred, &true)?;
    let flags = OFlag::from_bits_truncate(fcntl(pipe.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut backlog = Backlog::default();
    let mut statuses = Statuses::default();
    let mut pipe = Pipe(pipe.as_fd());
    loop {
        let events = match backlog.flush(&mut pipe)? {
            true => PollFlags::empty(),
            false => PollFlags::POLLOUT,
        };
        let mut polled = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(pipe.0, events),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let closed = |flags: PollFlags| flags.contains(PollFlags::POLLERR);
        if polled[1].revents().is_some_and(closed) {
            // Nobody will ever read it: the process kernel is gone, and so is its guard.
            return Ok(());
        }
        // Read and still queued: it leaves the queue once it is in the pipe, or kept because that
        // is full. Whoever waits for a barrier waits for that.
        let Some(message) = peek(socket.as_fd().as_raw_fd())? else {
            continue;
        };
        if message.whole {
            match message.into_note() {
                Some(note) if note.asks_to_repeat() => statuses.repeat(&mut backlog),
                Some(note) => {
                    statuses.learn(&note);
                    backlog.add(note);
                }
                None => {}
            }
        } else {
            backlog.dropped += 1;
        }
        backlog.flush(&mut pipe)?;
        take(socket.as_fd().as_raw_fd())?;
    }
}

/// The standard output without the library's buffer, which would hold back what is counted as sent.
struct Pipe<'a>(BorrowedFd<'a>);

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A datagram at the head of the queue.
struct Message {
    bytes: Vec<u8>,
    sender: Option<UnixCredentials>,
    whole: bool,
}

fn peek(socket: i32) -> io::Result<Option<Message>> {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    let mut space = nix::cmsg_space!(UnixCredentials, [i32; DESCRIPTORS_MAX]);
    let mut pieces = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = match recvmsg::<UnixAddr>(socket, &mut pieces, Some(&mut space), flags) {
        Ok(received) => received,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let whole = !received.flags.contains(MsgFlags::MSG_TRUNC);
    let mut sender = None;
    for control in received.cmsgs()? {
        match control {
            ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials),
            // Nothing is stored here, and who waits for a descriptor to be closed waits for the one
            // that is still in the queue.
            ControlMessageOwned::ScmRights(descriptors) => {
                for descriptor in descriptors {
                    let _ = close(descriptor);
                }
            }
            _ => {}
        }
    }
    let length = received.bytes;
    let bytes = buffer.get(..length).unwrap_or_default().to_vec();
    Ok(Some(Message {
        bytes,
        sender,
        whole,
    }))
}

/// Takes the datagram at the head of the queue out of it, with everything that came with it.
fn take(socket: i32) -> io::Result<()> {
    let mut nothing = [0; 1];
    match nix::sys::socket::recv(socket, &mut nothing, MsgFlags::MSG_DONTWAIT) {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Message {
    /// What is told of it; nothing for what says nothing, or comes from a stranger.
    fn into_note(self) -> Option<Note> {
        let said = assignments(&self.bytes);
        let sender = self.sender?;
        let pid = u32::try_from(sender.pid()).ok().filter(|pid| *pid > 0)?;
        if said.is_empty() {
            return None;
        }
        let own = geteuid().as_raw();
        let holders = holders();
        let (mut family, descends) = family(pid, &holders);
        if sender.uid() != own && !descends {
            return None;
        }
        if let Some(session) = stat(pid).map(|stat| stat.session)
            && session > 1
            && !family.contains(&session)
        {
            family.push(session);
        }
        // Only managers set marks and ask.
        let manages = |(name, _): &(String, String)| name == MARK || name == REPEAT;
        if said.iter().any(manages) && sender.uid() != own {
            return None;
        }
        Some(Note {
            at: clock::now().0,
            family,
            said,
            dropped: 0,
        })
    }
}

/// The process kernel, and the guard above it if there is one: what descends from either is its.
fn holders() -> Vec<u32> {
    let parent = u32::try_from(getppid().as_raw()).unwrap_or(0);
    let mut holders = vec![parent];
    if let Some(above) = stat(parent).map(|stat| stat.parent)
        && above > 0
        && program(above).is_some()
        && program(above) == program(parent)
    {
        holders.push(above);
    }
    holders
}

fn program(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = path.to_string_lossy().into_owned();
    Some(path.trim_end_matches(" (deleted)").to_owned())
}

/// A process and those it descends from, up to the process kernel, and whether it came to that.
fn family(pid: u32, holders: &[u32]) -> (Vec<u32>, bool) {
    let mut family = vec![pid];
    let mut at = pid;
    for _ in 0..GENERATIONS_MAX {
        let Some(stat) = stat(at) else {
            return (family, false);
        };
        if holders.contains(&stat.parent) {
            return (family, true);
        }
        if stat.parent <= 1 {
            return (family, false);
        }
        family.push(stat.parent);
        at = stat.parent;
    }
    (family, false)
}

/// What `/proc/PID/stat` says (proc_pid_stat(5)).
struct Stat {
    parent: u32,
    session: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses and spaces included.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Stat { parent, session })
}

/// What processes say that they do, by the number of the one that the process kernel has started: their
/// own word or that of a descendant.
#[derive(Default)]
struct Statuses {
    last: BTreeMap<u32, (u64, String)>,
}

impl Statuses {
    fn learn(&mut self, note: &Note) {
        let status = note.said.iter().find(|(name, _)| name == STATUS);
        let (Some((_, text)), Some(process)) = (status, note.family.last()) else {
            return;
        };
        if !self.last.contains_key(process) && self.last.len() >= STATUSES_MAX {
            self.last.retain(|process, _| is_alive(*process));
            let oldest = self.last.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(process) = oldest.map(|(process, _)| *process)
                && self.last.len() >= STATUSES_MAX
            {
                self.last.remove(&process);
            }
        }
        self.last.insert(*process, (note.at, text.clone()));
    }

    /// Says everything again, with the times at which it was said: somebody else may have the number of
    /// a process by now.
    fn repeat(&mut self, backlog: &mut Backlog) {
        self.last.retain(|process, _| is_alive(*process));
        for (process, (at, text)) in &self.last {
            backlog.add(Note {
                at: *at,
                family: vec![*process],
                said: vec![(STATUS.to_owned(), text.clone())],
                dropped: 0,
            });
        }
    }
}

fn is_alive(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

/// What is not in the pipe yet.
#[derive(Default)]
struct Backlog {
    /// A line of which a part may be in the pipe.
    outgoing: Vec<u8>,
    notes: VecDeque<Note>,
    dropped: u64,
}

impl Backlog {
    /// Keeps a note: behind the others, or in the place of an earlier one of the same process.
    fn add(&mut self, note: Note) {
        if note.mark().is_none() {
            let sender = note.family.first();
            let known = self
                .notes
                .iter_mut()
                .find(|other| other.mark().is_none() && other.family.first() == sender);
            if let Some(known) = known {
                for (name, value) in &note.said {
                    merge(&mut known.said, name, value);
                }
                known.at = known.at.max(note.at);
                return;
            }
        }
        if self.notes.len() >= BACKLOG_MAX {
            self.dropped += 1;
            return;
        }
        self.notes.push_back(note);
    }

    /// Writes what the pipe takes. Whether that is everything.
    fn flush(&mut self, pipe: &mut impl Write) -> io::Result<bool> {
        loop {
            if self.outgoing.is_empty() {
                let mut note = match self.notes.pop_front() {
                    Some(note) => note,
                    None if self.dropped > 0 => Note::default(),
                    None => return Ok(true),
                };
                note.dropped = std::mem::take(&mut self.dropped);
                self.outgoing = note.to_line();
            }
            match pipe.write(&self.outgoing) {
                Ok(count) => {
                    self.outgoing.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pid: u32, at: u64, name: &str, value: &str) -> Note {
        Note {
            at,
            family: vec![pid],
            said: vec![(name.to_owned(), value.to_owned())],
            dropped: 0,
        }
    }

    /// A pipe that takes so many bytes.
    struct Narrow(usize, Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0 -= count;
            self.1.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(pipe: &Narrow) -> Vec<Note> {
        let lines = pipe.1.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[test]
    fn a_full_pipe_keeps_the_last_word_of_each_and_marks_stay_behind() {
        let mut backlog = Backlog::default();
        let mut pipe = Narrow(10, Vec::new());
        backlog.add(note(1, 1, "STATUS", "a"));
        assert!(!backlog.flush(&mut pipe).unwrap());
        backlog.add(note(1, 2, "READY", "1"));
        backlog.add(note(2, 3, "WATCHDOG", "1"));
        backlog.add(note(9, 4, MARK, "1"));
        backlog.add(note(1, 5, "WATCHDOG", "1"));
        backlog.add(note(9, 6, MARK, "2"));
        pipe.0 = usize::MAX;
        assert!(backlog.flush(&mut pipe).unwrap());
        let told = lines(&pipe);
        assert_eq!(told[0], note(1, 1, "STATUS", "a"));
        let both = [("READY", "1"), ("WATCHDOG", "1")];
        let both = both.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((told[1].at, &told[1].said[..]), (5, &both[..]));
        assert_eq!(told[2], note(2, 3, "WATCHDOG", "1"));
        assert_eq!(told[3].mark(), Some(1));
        assert_eq!(told[4].mark(), Some(2));
    }

    #[test]
    fn what_processes_do_is_told_again_and_nothing_later_is_overruled_by_it() {
        let own = std::process::id();
        let mut statuses = Statuses::default();
        let mut said = note(own, 7, "STATUS", "loading");
        said.family.insert(0, u32::MAX);
        statuses.learn(&said);
        statuses.learn(&note(own, 8, "READY", "1"));
        statuses.learn(&note(u32::MAX, 9, "STATUS", "gone"));
        let mut backlog = Backlog::default();
        backlog.add(note(own, 20, "WATCHDOG", "1"));
        statuses.repeat(&mut backlog);
        let mut pipe = Narrow(usize::MAX, Vec::new());
        assert!(backlog.flush(&mut pipe).unwrap());
        let told = lines(&pipe);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].at, 20);
        let pairs = [("WATCHDOG", "1"), ("STATUS", "loading")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(told[0].said, pairs);
        statuses.repeat(&mut backlog);
        assert!(backlog.flush(&mut pipe).unwrap());
        assert_eq!(lines(&pipe)[1], note(own, 7, "STATUS", "loading"));
    }

    #[test]
    fn what_is_remembered_of_the_dead_makes_room_first() {
        let own = std::process::id();
        let mut statuses = Statuses::default();
        statuses.learn(&note(own, 1, "STATUS", "old"));
        for dead in 0..u32::try_from(STATUSES_MAX).unwrap() {
            statuses.learn(&note(u32::MAX - dead, 2, "STATUS", "x"));
        }
        assert!(statuses.last.len() <= STATUSES_MAX);
        assert_eq!(statuses.last[&own].1, "old");
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut backlog = Backlog::default();
        for pid in 0..=u32::try_from(BACKLOG_MAX).unwrap() {
            backlog.add(note(pid, 0, "WATCHDOG", "1"));
        }
        let mut pipe = Narrow(usize::MAX, Vec::new());
        assert!(backlog.flush(&mut pipe).unwrap());
        let told = lines(&pipe);
        assert_eq!((told.len(), told[0].dropped), (BACKLOG_MAX, 1));
    }

    #[test]
    fn a_process_descends_from_its_parent() {
        let own = std::process::id();
        let parent = u32::try_from(getppid().as_raw()).unwrap();
        assert_eq!(family(own, &[parent]), (vec![own], true));
        let (line, descends) = family(own, &[u32::MAX]);
        assert_eq!(line[..2], [own, parent]);
        assert!(!descends);
    }
}

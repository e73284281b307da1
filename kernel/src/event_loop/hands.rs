//! What the kernel's effects touch: shared memory, children's descriptors, held sockets.
//!
//! Carries out and reports; decides nothing.

use super::adopt::Unresolved;
use super::polled::{Pipes, Polled};
use super::resting::Resting;
use crate::crash::crash_point;
use crate::entry::{self, Entry};
use crate::guard::client::GuardLink;
use crate::input::{Input, OutputPosition, Room};
use crate::memory::cursor::Stream;
use crate::memory::held::{HeldKind, Tag};
use crate::memory::journal::{Fill, JournalError, Purpose, RecordKind};
use crate::memory::ring::{Dropped, ReadMark};
use crate::memory::{Bounce, EndedBy, Journal, MemoryError, Ring, SlotIndex, StateMemory};
use crate::reap::{Reaped, sweep};
use crate::sockets::UnixFile;
use crate::spawn::{SpawnError, Spawner};
use crate::state::State;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::request::SignalTarget;
use kingpole_protocol::status::{End, EndStatus};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

/// Size of the pipe of a child that floods.
const WIDE_PIPE_BYTES: i32 = 256 << 10;

/// The descriptors of one child.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) slot: SlotIndex,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Absent when somebody else reaped it before we could look.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) ring: Option<Ring>,
    pub(super) pid: i32,
    /// What the state knows of records that the ring has dropped.
    pub(super) dropped_told: Dropped,
    /// How it writes, by stream.
    pub(super) flows: [Flow; 2],
}

/// How a stream of a child comes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    /// The last time at which its pipe was empty or began to be looked at again.
    pub(super) free_since: Option<Instant>,
    width: Width,
}

/// Of a pipe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Width {
    /// What Linux gives.
    #[default]
    Usual,
    /// Made wider.
    Wide,
    /// It could not be made wider.
    Refused,
}

impl Child {
    pub(super) fn pipe(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }

    /// Gives a child that filled its pipe a wider one, so that it is not put to sleep and woken for
    /// each 64 KiB. The memory for it is used only while bytes are in it. Without the right to,
    /// or beyond the user's share of such memory, it stays as it is. Whether it is wide.
    pub(super) fn widen(&mut self, stream: Stream) -> bool {
        if self.flow_mut(stream).width == Width::Usual
            && let Some(pipe) = self.pipe(stream)
        {
            let width = match fcntl(pipe, FcntlArg::F_SETPIPE_SZ(WIDE_PIPE_BYTES)) {
                Ok(_) => Width::Wide,
                Err(_) => Width::Refused,
            };
            self.flow_mut(stream).width = width;
        }
        self.flow_mut(stream).width == Width::Wide
    }

    pub(super) fn flow_mut(&mut self, stream: Stream) -> &mut Flow {
        let [stdout, stderr] = &mut self.flows;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    pub(super) fn drop_pipe(&mut self, stream: Stream) -> Option<OwnedFd> {
        match stream {
            Stream::Stdout => self.stdout.take(),
            Stream::Stderr => self.stderr.take(),
        }
    }
}

/// A socket that is kept open.
#[derive(Debug)]
pub(super) struct HeldSocket {
    /// Under which the guard holds it.
    pub(super) number: u64,
    pub(super) fd: OwnedFd,
    pub(super) file: Option<UnixFile>,
}

/// Everything with a descriptor that is not a session's.
pub(super) struct Hands {
    pub(super) memory: StateMemory,
    pub(super) journal: Journal,
    pub(super) bounce: Bounce,
    pub(super) spawner: Spawner,
    pub(super) children: BTreeMap<ProcessId, Child>,
    pub(super) pids: HashMap<i32, (ProcessId, SlotIndex)>,
    pub(super) sockets: BTreeMap<String, HeldSocket>,
    /// Records of a later kernel, kept for it.
    pub(super) carried: Vec<(RecordKind, Vec<u8>)>,
    /// Spawns of a dead kernel whose outcome is not known yet.
    pub(super) unresolved: BTreeMap<ProcessId, Unresolved>,
    pub(super) polled: Rc<std::cell::RefCell<Polled>>,
    pub(super) guard: GuardLink,
    /// Children of finished intents that nobody has looked at yet.
    pub(super) newly_attached: Vec<ProcessId>,
    /// Whether the guard passes what it holds on to systemd.
    pub(super) has_store: bool,
    /// Children whose pipes could not be polled or read when they came: to be tried again.
    pub(super) unpolled: Vec<ProcessId>,
    /// Pipes that are not looked at for a moment.
    pub(super) resting: Resting,
    /// Bytes of the longest record that was read in this turn.
    pub(super) most_read: u32,
}

/// Somebody without a slot that has ended and is reaped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orphan {
    pub(super) pid: i32,
    pub(super) status: crate::memory::EndStatus,
}

/// Why the hands could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    /// Shared memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What spawning needs.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Hands {
    /// Writes the first record of a journal: when and as what the state began.
    pub(super) fn begin(&mut self, state: &State) -> Result<(), Box<ErrorReply>> {
        let origin = entry::Origin {
            instance: state.about.instance,
            started_ns: state.about.started_ns,
            newest_fence: state.newest_fence,
            newest_socket: state.newest_socket,
        };
        self.record(state, &Entry::Origin(origin)).map(|_| ())
    }

    /// Writes one record, after making room for it if need be.
    pub(super) fn record(&mut self, state: &State, entry: &Entry) -> Result<u64, Box<ErrorReply>> {
        let refused = |code, text: String| Box::new(ErrorReply::new(code, text));
        let bytes = entry
            .encode()
            .map_err(|error| refused(ErrorCode::LIMIT, format!("journal: {error}")))?;
        let purpose = match entry {
            Entry::Removed(_) | Entry::SocketClosed(_) | Entry::LeaseReleased(_) => Purpose::Upkeep,
            _ => Purpose::Growth,
        };
        if self.journal.fill() == Fill::Compact {
            self.compact(state)
                .map_err(|error| refused(ErrorCode::SYSTEM, format!("journal: {error}")))?;
        }
        self.journal
            .append(kind_of(entry), &bytes, purpose)
            .map_err(|error| refused(ErrorCode::LIMIT, error.to_string()))?;
        Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// `state` is what is recorded already: the record at hand comes behind the snapshot.
    fn compact(&mut self, state: &State) -> Result<(), JournalError> {
        let carried = &self.carried;
        // Not in the state until it is known whether they run.
        let unresolved = self.unresolved.values().map(Unresolved::entry);
        self.journal.compact(&self.memory, |snapshot| {
            for (kind, payload) in carried {
                snapshot.append(*kind, payload)?;
            }
            for entry in entry::snapshot(state).chain(unresolved) {
                // It was encoded once, when it was recorded.
                if let Ok(bytes) = entry.encode() {
                    snapshot.append(kind_of(&entry), &bytes)?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn insert_child(&mut self, process: ProcessId, child: Child) {
        let pipes = self.polled.borrow().pipes();
        if pipes == Pipes::Unpolled && self.poll_pipes(&child, process).is_err() {
            self.unpolled.push(process);
        }
        // Only our own are ours to reap; those of a dead kernel are the guard's.
        if self.memory.slot(child.slot).epoch() == self.memory.epoch() {
            self.pids.insert(child.pid, (process, child.slot));
        }
        self.children.insert(process, child);
    }

    pub(super) fn set_flags(&self, process: ProcessId, flags: u32) {
        if let Some(child) = self.children.get(&process) {
            self.memory.slot(child.slot).set_flags(flags);
        }
    }

    /// Forgets a child: journal first, then the slot, then the descriptors.
    pub(super) fn forget(
        &mut self,
        state: &State,
        process: ProcessId,
    ) -> Result<(), Box<ErrorReply>> {
        let removed = Entry::Removed(entry::Removed { process });
        let result = self.record(state, &removed).map(|_| ());
        crash_point("remove: after the journal");
        if let Some(mut child) = self.children.remove(&process) {
            self.forget_read_of(child.slot);
            if let Some(ring) = child.ring.take() {
                ring.retire();
            }
            if self
                .pids
                .get(&child.pid)
                .is_some_and(|(holder, _)| *holder == process)
            {
                self.pids.remove(&child.pid);
            }
            self.memory.release(child.slot);
        }
        self.release_held(process);
        result
    }

    /// The guard needs nothing of this process any more.
    pub(super) fn release_held(&mut self, process: ProcessId) {
        let kinds = [
            HeldKind::Stdout,
            HeldKind::Stderr,
            HeldKind::Ring,
            HeldKind::Pidfd,
        ];
        for kind in kinds {
            self.guard.release(Tag::of_process(process, kind));
        }
    }

    /// Finds the children that ended, and others: orphaned descendants and helpers.
    pub(super) fn sweep(&mut self) -> Result<(Vec<Input>, Vec<Orphan>), Errno> {
        let pids = &self.pids;
        let reaped = sweep(&self.memory, EndedBy::Kernel, |pid| {
            pids.get(&pid).map(|held| held.1)
        })?;
        let (mut inputs, mut orphans) = (Vec::new(), Vec::new());
        for reaped in reaped {
            match reaped {
                Reaped::Child { pid, end, .. } => {
                    if let Some((process, _)) = self.pids.remove(&pid) {
                        let end = end_of(&end);
                        inputs.push(Input::Ended { process, end });
                    }
                }
                Reaped::Orphan { pid, end } => orphans.push(Orphan {
                    pid,
                    status: end.status,
                }),
            }
        }
        Ok((inputs, orphans))
    }

    pub(super) fn signal(
        &self,
        process: ProcessId,
        signal: i32,
        target: SignalTarget,
    ) -> Result<u32, Box<ErrorReply>> {
        let gone = || {
            let text = format!("process {process} has ended");
            Box::new(ErrorReply::new(ErrorCode::ENDED, text))
        };
        let child = self.children.get(&process).ok_or_else(gone)?;
        let pidfd = child.pidfd.as_ref().ok_or_else(gone)?;
        match crate::signals::send(child.pid, pidfd.as_fd(), signal, target) {
            Ok(delivered) => Ok(u32::try_from(delivered.processes).unwrap_or(u32::MAX)),
            // The child is there; it only has no such relatives.
            Err(crate::signals::SignalError::Gone)
                if matches!(target, SignalTarget::Descendants | SignalTarget::Children) =>
            {
                Ok(0)
            }
            Err(crate::signals::SignalError::Gone) => Err(gone()),
            Err(error) => {
                let errno = match error {
                    crate::signals::SignalError::Refused { cause, .. } => cause as i32,
                    _ => Errno::EINVAL as i32,
                };
                let reply = ErrorReply::new(ErrorCode::SYSTEM, error.to_string());
                Err(Box::new(ErrorReply { errno, ..reply }))
            }
        }
    }

    /// The whole records from `mark` on that one helping has, as they lie in the ring.
    pub(super) fn helping(
        &self,
        state: &State,
        process: ProcessId,
        mark: ReadMark,
        credit: u64,
        most: u64,
    ) -> Option<Result<Helping<'_>, Input>> {
        let ring = self.children.get(&process)?.ring.as_ref()?;
        let cursor = state.processes.get(&process)?.output.cursor;
        let damaged = |reason: String| Some(Err(Input::RingDamaged { process, reason }));
        let (start, gap) = match ring.seek(&cursor, &mark) {
            Ok(found) => found,
            Err(error) => return damaged(error.to_string()),
        };
        if let Some(gap) = gap {
            return Some(Ok(Helping::Gap { gap, mark: start }));
        }
        let (mut mark, mut bytes) = (start, 0_u64);
        for record in ring.records(&cursor, &start) {
            let record = match record {
                Ok(record) => record,
                Err(error) => return damaged(error.to_string()),
            };
            let after = ReadMark::after(&record);
            let total = after.position.saturating_sub(start.position);
            if bytes != 0 && (total > most || bytes >= credit) {
                break;
            }
            (mark, bytes) = (after, total);
        }
        match ring.bytes(&cursor, start.position, bytes) {
            Some(records) => Some(Ok(Helping::Records {
                records,
                start,
                mark,
                bytes,
            })),
            None => damaged("records lie outside the ring".to_owned()),
        }
    }
}

/// What a follower gets in one turn.
pub(super) enum Helping<'a> {
    /// First the news that something is missing.
    Gap {
        /// What.
        gap: crate::memory::ring::Gap,
        /// Where it goes on.
        mark: ReadMark,
    },
    /// Records.
    Records {
        /// Their bytes; two pieces where the ring wraps.
        records: [&'a [u8]; 2],
        /// In front of them.
        start: ReadMark,
        /// Behind them.
        mark: ReadMark,
        /// How many.
        bytes: u64,
    },
}

impl Helping<'_> {
    /// Nothing was sent: the queue is not empty.
    pub(super) fn refused(
        session: crate::state::SessionId,
        process: ProcessId,
        mark: ReadMark,
    ) -> Input {
        Input::OutputSent {
            session,
            process,
            mark,
            bytes: 0,
            passed: None,
            room: Room::Congested,
        }
    }
}

fn kind_of(entry: &Entry) -> RecordKind {
    // All of version 1 change what the rest means.
    RecordKind::must_understand(entry.kind())
}

/// Where a ring stands, as published.
pub(super) fn position(
    memory: &StateMemory,
    slot: SlotIndex,
    ring: Option<&Ring>,
) -> Option<OutputPosition> {
    let cursor = memory.slot(slot).cursor().ok()?;
    let oldest = ring
        .and_then(|ring| ring.oldest(&cursor))
        .unwrap_or(cursor.next_seq);
    Some(OutputPosition { cursor, oldest })
}

pub(super) fn end_of(end: &crate::memory::End) -> End {
    let status = match end.status {
        crate::memory::EndStatus::Exited(code) => EndStatus::Exited(i32::from(code)),
        crate::memory::EndStatus::Signaled {
            signal,
            core_dumped,
        } => EndStatus::Signaled {
            signal: i32::from(signal),
            core_dumped,
        },
        crate::memory::EndStatus::Unknown => EndStatus::Unknown,
    };
    End {
        status,
        time_ns: end.time_ns,
        user_us: end.user_us,
        system_us: end.system_us,
        max_rss_kib: end.max_rss_kb,
    }
}

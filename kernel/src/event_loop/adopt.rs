//! Taking over what another kernel left: one path for a crash, a promotion and an upgrade in place.
//!
//! Shared memory is the truth; descriptors come with tags. The order is that of
//! `docs/architecture.md`: journal, the read in flight, then each slot.

mod mend;
mod unresolved;

use super::hands::{Child, Hands, HandsError, HeldSocket, end_of, position};
use super::polled::{Pipes, Polled};
use super::resting::Resting;
use crate::crash::{crash_point, resume_stage};
use crate::entry::Spawned;
use crate::guard::client::GuardLink;
use crate::guard::store;
use crate::input::Input;
use crate::limits::value_weight;
use crate::memory::cursor::{EofBits, Stream};
use crate::memory::held::{HeldKind, Tag};
use crate::memory::journal::RecordKind;
use crate::memory::ring::Dropped;
use crate::memory::slot::SlotState;
use crate::memory::{Bounce, Journal, Ring, RingSize, StateMemory};
use crate::replay::{RememberError, Remembered, remember};
use crate::sockets::UnixFile;
use crate::spawn::{Resolution, Spawner, resolve};
use crate::state::{
    About, GiveBack, Lease, Output, Process, Reading, Socket, State, TextAcknowledged, flags,
};
use crate::sys::kept::Kept;
use crate::sys::process::duplicate_from;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::spec::SocketAddress;
use kingpole_protocol::status::SocketInfo;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
pub(super) use unresolved::Unresolved;
use unresolved::fresh_pidfd;

/// What is taken over.
#[derive(Debug)]
pub struct Inheritance {
    /// The state file.
    pub state: StateMemory,
    /// The journal file.
    pub journal: OwnedFd,
    /// The bounce pipe.
    pub bounce: Bounce,
    /// Everything else.
    pub held: BTreeMap<Tag, OwnedFd>,
    /// What is known of children's rings.
    pub rings: Rings,
}

/// What is known of children's rings before they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rings {
    /// They are those that the image before used: sealed, and of the size that is recorded.
    AsRecorded,
    /// Nothing.
    Unknown,
}

/// How one came by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// The predecessor died: its children are somebody else's now.
    Crash,
    /// The same process runs another image: its children are ours.
    Upgrade,
}

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Shared memory.
    #[error(transparent)]
    Hands(#[from] HandsError),
    /// A system call; in practice only where a test asks for it.
    #[error("cannot take over: {}", .0.desc())]
    System(nix::errno::Errno),
    /// The journal.
    #[error(transparent)]
    Remember(#[from] RememberError),
}

/// What was taken over.
pub(super) struct Adopted {
    /// Whether anything was there before.
    pub(super) beginning: Beginning,
    /// Everything but the processes.
    pub(super) state: State,
    pub(super) hands: Hands,
    /// The processes, and then the intents, as inputs.
    pub(super) inputs: Vec<Input>,
    /// Descriptors that belong to nothing any more: the guard may drop them.
    pub(super) dropped: Vec<Tag>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// Whether a kernel has worked on the shared memory before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// No: the journal is empty.
    First,
    /// Yes.
    Later,
}

/// Takes over. `about` says who we are; what the journal knows better replaces its words.
///
/// # Errors
/// See [`AdoptError`]; nothing was changed but the epoch.
pub(super) fn adopt(
    inheritance: Inheritance,
    about: About,
    succession: Succession,
    polled: Rc<RefCell<Polled>>,
    guard: GuardLink,
) -> Result<Adopted, AdoptError> {
    // Where this fails, another program may go on with them.
    let held = Kept::new(inheritance.held);
    let memory = inheritance.state;
    crash_point("adopt: start");
    if succession == Succession::Crash {
        memory.begin_epoch();
    }
    crash_point("adopt: epoch");
    memory.set_kernel_pid(std::process::id().cast_signed());
    let journal = Journal::open(inheritance.journal, &memory).map_err(HandsError::from)?;
    let remembered = remember(&journal)?;
    let spawner = Spawner::new().map_err(HandsError::from)?;
    resume_stage("resume: journal").map_err(AdoptError::System)?;
    crash_point("adopt: journal");
    let hands = Hands {
        memory,
        journal,
        bounce: inheritance.bounce,
        spawner,
        children: BTreeMap::new(),
        pids: HashMap::new(),
        sockets: BTreeMap::new(),
        carried: Vec::new(),
        unresolved: BTreeMap::new(),
        polled,
        guard,
        newly_attached: Vec::new(),
        has_store: store::count_max() != 0,
        unpolled: Vec::new(),
        resting: Resting::default(),
        most_read: 0,
    };
    let mut adoption = Adoption {
        state: State::new(about),
        hands,
        held: Kept::into_inner(held),
        rings: inheritance.rings,
        inputs: Vec::new(),
        notes: Vec::new(),
    };
    let beginning = match remembered.origin {
        None => Beginning::First,
        Some(_) => Beginning::Later,
    };
    adoption.take(remembered);
    Ok(Adopted {
        beginning,
        state: adoption.state,
        hands: adoption.hands,
        inputs: adoption.inputs,
        dropped: adoption.held.into_keys().collect(),
        notes: adoption.notes,
    })
}

struct Adoption {
    state: State,
    hands: Hands,
    held: BTreeMap<Tag, OwnedFd>,
    rings: Rings,
    inputs: Vec<Input>,
    notes: Vec<String>,
}

impl Adoption {
    fn take(&mut self, remembered: Remembered) {
        let Remembered {
            origin,
            processes,
            sockets,
            values,
            leases,
            carried,
        } = remembered;
        if let Some(origin) = origin {
            self.state.about.instance = origin.instance;
            self.state.about.started_ns = origin.started_ns;
            self.state.newest_fence = origin.newest_fence;
            self.state.newest_socket = origin.newest_socket;
        }
        self.state.about.epoch = self.hands.memory.epoch().0;
        self.take_carried(carried);
        for (key, value) in values {
            let weight = value_weight(&key, &value);
            self.state.values_bytes = self.state.values_bytes.saturating_add(weight);
            self.state.values.insert(key, value);
        }
        for (name, lease) in leases {
            // Whoever held it has lost its session, and comes back with the number.
            let lease = Lease {
                name: lease.name,
                fence: lease.fence,
                session: None,
                client: lease.client,
                taken_ns: lease.taken_ns,
            };
            self.state.leases.insert(name, lease);
        }
        for (name, (made, bytes)) in sockets {
            self.take_socket(name, made, bytes);
        }
        self.take_processes(processes);
    }

    fn take_carried(&mut self, carried: Vec<(RecordKind, Vec<u8>)>) {
        if !carried.is_empty() {
            let count = carried.len();
            self.notes
                .push(format!("{count} records of a later kernel are kept for it"));
        }
        self.hands.carried = carried;
    }

    fn take_socket(&mut self, name: String, made: crate::entry::SocketMade, bytes: u64) {
        let mut info = SocketInfo {
            spec: made.spec,
            fileno: None,
        };
        if made.number != 0 {
            let tag = Tag::new(made.number, HeldKind::Socket);
            let Some(fd) = self.held.remove(&tag) else {
                self.notes
                    .push(format!("socket {name:?}: its descriptor is lost"));
                return;
            };
            // Under the number that clients were told, unless something else has it.
            let fd = match duplicate_from(fd.as_fd(), made.fileno) {
                _ if fd.as_raw_fd() == made.fileno => fd,
                Ok(copy) => copy,
                Err(_) => fd,
            };
            info.fileno = Some(fd.as_raw_fd());
            let file = file_of(&info.spec.address);
            self.hands.sockets.insert(
                name.clone(),
                HeldSocket {
                    number: made.number,
                    fd,
                    file,
                },
            );
        }
        let recorded_bytes = bytes.saturating_add(256);
        let socket = Socket {
            number: made.number,
            info,
            asked_port: made.asked_port,
            recorded_bytes,
        };
        self.state.recorded_bytes = self.state.recorded_bytes.saturating_add(recorded_bytes);
        self.state.sockets.insert(name, socket);
    }

    fn take_processes(&mut self, mut processes: BTreeMap<ProcessId, (Spawned, u64)>) {
        let slots = self
            .hands
            .memory
            .slots_in_use()
            .map(|(index, slot)| (index, slot.id(), slot.state()))
            .collect::<Vec<_>>();
        let mut rings = BTreeMap::new();
        for (index, id, _) in &slots {
            let tag = Tag::new(id.0, HeldKind::Ring);
            if let Some(fd) = self.held.remove(&tag) {
                let asked = processes.get(id).map(|(spawned, _)| spawned.buffer_bytes);
                let size = asked.and_then(RingSize::holding);
                let opened = match (self.rings, size) {
                    (Rings::AsRecorded, Some(size)) => Ok(Ring::of_size(fd, size)),
                    _ => Ring::open(fd),
                };
                match opened {
                    Ok(ring) => {
                        let asked = asked.unwrap_or(u64::MAX);
                        rings.insert(*index, ring.limited_to(asked));
                    }
                    Err(error) => self.notes.push(format!("process {id}: {error}")),
                }
            }
        }
        self.repair_slots(&slots, &rings);
        self.finish_read(&mut rings);
        crash_point("adopt: after the read");
        let mut intents = Vec::new();
        for (slot, id, slot_state) in slots {
            crash_point("adopt: each slot");
            let ring = rings.remove(&slot);
            let mut held = self.held_for(id);
            match processes.remove(&id) {
                // A removal or a spawn that got no further. What was held for it closes here and at
                // the guard; a late child of an intent finds its claim given up.
                None => {
                    self.hands.unpoll(held.values());
                    let _ = self.hands.memory.slot(slot).abort_claim();
                    self.hands.memory.release(slot);
                    self.hands.release_held(id);
                }
                Some((spawned, recorded_bytes)) if slot_state == SlotState::Intent => {
                    if let Some(ring) = ring
                        && let Ok(fd) = ring.descriptor().try_clone_to_owned()
                    {
                        held.insert(Tag::new(id.0, HeldKind::Ring), fd);
                    }
                    intents.push((id, spawned.key.clone(), spawned.name.clone()));
                    let unresolved = Unresolved {
                        slot,
                        spawned,
                        recorded_bytes,
                        held,
                    };
                    let mut unresolved = unresolved;
                    unresolved.find_pidfd(&self.hands.memory);
                    self.hands.unresolved.insert(id, unresolved);
                }
                Some((spawned, recorded_bytes)) => {
                    let unresolved = Unresolved {
                        slot,
                        spawned,
                        recorded_bytes,
                        held,
                    };
                    match self.hands.attach(unresolved, ring, &mut self.notes) {
                        Some(process) => {
                            let process = Box::new(process);
                            self.inputs.push(Input::Inherited { process });
                        }
                        None => self
                            .notes
                            .push(format!("process {id}: its slot is damaged")),
                    }
                }
            }
        }
        for (id, (spawned, _)) in processes {
            let name = spawned.name;
            self.notes.push(format!(
                "process {id} {name:?}: recorded, but its slot is free"
            ));
        }
        self.hands.unpoll(self.held.values());
        self.hands.polled.borrow_mut().settle();
        self.inputs.push(Input::Adopted { intents });
    }

    fn held_for(&mut self, id: ProcessId) -> BTreeMap<Tag, OwnedFd> {
        let kinds = [HeldKind::Stdout, HeldKind::Stderr, HeldKind::Pidfd];
        let tags = kinds.map(|kind| Tag::new(id.0, kind));
        tags.into_iter()
            .filter_map(|tag| Some((tag, self.held.remove(&tag)?)))
            .collect()
    }
}

impl Hands {
    /// Looks at the spawns that a dead kernel had begun.
    pub(super) fn resolve(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for (id, unresolved) in std::mem::take(&mut self.unresolved) {
            let slot = self.memory.slot(unresolved.slot);
            let mut resolution = resolve(slot);
            if resolution == Resolution::NotYet && slot.epoch() < self.memory.min_epoch() {
                resolution = unresolved.resolve_foreign(&self.memory);
            }
            match resolution {
                Resolution::NotYet => {
                    let mut unresolved = unresolved;
                    unresolved.find_pidfd(&self.memory);
                    self.unresolved.insert(id, unresolved);
                }
                Resolution::Running => {
                    let tag = Tag::new(id.0, HeldKind::Ring);
                    let mut unresolved = unresolved;
                    let ended = slot.ended();
                    let ring = unresolved
                        .held
                        .remove(&tag)
                        .and_then(|fd| Ring::open(fd).ok())
                        .map(|ring| ring.limited_to(unresolved.spawned.buffer_bytes));
                    let process = self.attach(unresolved, ring, &mut Vec::new()).map(Box::new);
                    self.newly_attached.push(id);
                    inputs.push(Input::IntentResolved {
                        process: id,
                        running: process,
                    });
                    inputs.extend(ended.map(|end| Input::Ended {
                        process: id,
                        end: end_of(&end),
                    }));
                }
                Resolution::NeverStarted | Resolution::Failed(_) => {
                    self.memory.release(unresolved.slot);
                    inputs.push(Input::IntentResolved {
                        process: id,
                        running: None,
                    });
                }
            }
        }
        inputs
    }

    /// Ends that others published: the guard, for children of a dead kernel.
    pub(super) fn published_ends(&self, state: &State) -> Vec<Input> {
        let running = state
            .processes
            .values()
            .filter(|process| process.end.is_none());
        running
            .filter_map(|process| {
                let end = self.memory.slot(process.slot).ended()?;
                Some(Input::Ended {
                    process: process.id,
                    end: end_of(&end),
                })
            })
            .collect()
    }

    /// Pipes that nobody wants may hang on the epoll of the image before, and their files live on in the
    /// guard for a while.
    fn unpoll<'a>(&self, pipes: impl IntoIterator<Item = &'a OwnedFd>) {
        let polled = self.polled.borrow();
        if polled.pipes() == Pipes::Polled {
            pipes.into_iter().for_each(|pipe| polled.remove(pipe));
        }
    }

    /// Takes one process over; `None` when its slot makes no sense.
    fn attach(
        &mut self,
        unresolved: Unresolved,
        ring: Option<Ring>,
        notes: &mut Vec<String>,
    ) -> Option<Process> {
        let Unresolved {
            slot: index,
            spawned,
            recorded_bytes,
            mut held,
        } = unresolved;
        let id = spawned.process;
        let pid = self.memory.slot(index).pid().unwrap_or(0);
        let pidfd = held.remove(&Tag::new(id.0, HeldKind::Pidfd));
        let mut child = Child {
            slot: index,
            stdout: None,
            stderr: None,
            pidfd: pidfd.or_else(|| fresh_pidfd(&self.memory, index, &held)),
            ring,
            pid,
            dropped_told: Dropped::default(),
            flows: Default::default(),
        };
        let asked_bytes = spawned.buffer_bytes;
        let captured = RingSize::holding(asked_bytes);
        self.attach_pipes(&mut child, id, held, captured, notes);
        let is_buffered = child.stdout.is_some() || child.stderr.is_some();
        if let (None, Some(size), true) = (&child.ring, captured, is_buffered) {
            self.replace_ring(&mut child, id, size, asked_bytes, notes);
        }
        let slot = self.memory.slot(index);
        // One that nobody was told of yet comes as an input, as any other.
        let is_told = slot.flags() & flags::END_TOLD != 0;
        let end = slot.ended().filter(|_| is_told).map(|end| end_of(&end));
        let dropped = slot.dropped();
        let Some(output) = position(&self.memory, index, child.ring.as_ref()) else {
            self.unpoll(child.stdout.iter().chain(&child.stderr));
            return None;
        };
        let process = Process {
            id,
            slot: index,
            pid,
            name: spawned.name,
            key: spawned.key,
            started_ns: slot.started_ns(),
            arguments: spawned.arguments,
            uid: spawned.uid,
            gid: spawned.gid,
            labels: spawned.labels,
            end,
            flags: slot.flags(),
            output: Output {
                capacity_bytes: child
                    .ring
                    .as_ref()
                    .map_or(asked_bytes, Ring::capacity_bytes),
                overflow: spawned.overflow,
                cursor: output.cursor,
                oldest: output.oldest,
                dropped_records: dropped.records,
                dropped_bytes: dropped.bytes,
                reading: Reading::Polled,
                refusals: 0,
                seen_empty: EofBits::NONE,
                give_back: GiveBack::Idle,
            },
            followers: BTreeSet::new(),
            text: TextAcknowledged::default(),
            recorded_bytes: recorded_bytes.saturating_add(128),
        };
        self.insert_child(id, child);
        Some(process)
    }

    /// Attaches the pipes of open streams. A stream whose pipe is gone has ended.
    fn attach_pipes(
        &self,
        child: &mut Child,
        id: ProcessId,
        mut held: BTreeMap<Tag, OwnedFd>,
        captured: Option<RingSize>,
        notes: &mut Vec<String>,
    ) {
        let slot = self.memory.slot(child.slot);
        let Ok(before) = slot.cursor() else {
            return self.unpoll(held.values());
        };
        let mut cursor = before;
        for stream in Stream::ALL {
            let pipe = held.remove(&Tag::new(id.0, kind_of_pipe(stream)));
            if cursor.eof.has(stream) {
                self.unpoll(&pipe);
                continue;
            }
            match (pipe, stream) {
                (Some(pipe), Stream::Stdout) if captured.is_some() => child.stdout = Some(pipe),
                (Some(pipe), Stream::Stderr) if captured.is_some() => child.stderr = Some(pipe),
                (pipe, _) => {
                    self.unpoll(&pipe);
                    notes.push(format!(
                        "process {id}: the pipe of {} is lost",
                        stream.name()
                    ));
                    cursor = cursor.after_eof(stream);
                }
            }
        }
        if cursor != before {
            slot.publish(&cursor);
        }
    }
}

pub(super) const fn kind_of_pipe(stream: Stream) -> HeldKind {
    match stream {
        Stream::Stdout => HeldKind::Stdout,
        Stream::Stderr => HeldKind::Stderr,
    }
}

/// The file of a unix socket, if it is still there.
fn file_of(address: &SocketAddress) -> Option<UnixFile> {
    let SocketAddress::Unix { path, .. } = address else {
        return None;
    };
    let path = std::path::PathBuf::from(path.as_os_str());
    let found = std::fs::symlink_metadata(&path).ok()?;
    Some(UnixFile {
        device: found.dev(),
        inode: found.ino(),
        path,
    })
}

#[cfg(test)]
mod tests;

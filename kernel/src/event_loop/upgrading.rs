//! The upgrade in place: saves what is not in shared memory, lets the candidate rehearse, becomes it;
//! and in the new image, goes on.

use super::connections::{Connection, Course, Resumed as ResumedConnection, Speech};
use super::describing::{Described, Identities, describe};
use super::guarding::Heirloom;
use super::hands::Orphan;
use super::{Kernel, LoopError};
use crate::crash::{crash_point, resume_patience};
use crate::effect::UpgradeExtent;
use crate::guard::image::Image;
use crate::guard::role::{Part, Role};
use crate::input::{Input, ResumedSession};
use crate::log::Backlog;
use crate::memory::Epoch;
use crate::reap::now_ns;
use crate::state::{Reading, SessionId};
use crate::sys::alarm;
use crate::sys::memfd::create_constant;
use crate::upgrade::rehearse::Rehearsal;
use crate::upgrade::saved_state::{
    Head, Saved, SavedCounts, SavedCourse, SavedDescriptor, SavedSession, SavedSpeech,
};
use crate::upgrade::witness::{Witnessed, leave_witness};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// An upgrade that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Who is to be answered; nobody after a signal.
    pub(super) asker: Option<SessionId>,
    /// The program; `None` for the one that runs, as it is installed now.
    pub(super) path: Option<PathBuf>,
    /// Whether to stop before anything happens.
    pub(super) extent: UpgradeExtent,
}

/// What the image before left, with the sockets of its sessions.
#[derive(Debug)]
pub struct Resumption {
    /// What was saved.
    pub saved: Saved,
    /// The sessions' sockets.
    pub sockets: BTreeMap<u64, OwnedFd>,
    /// Why the program that this one had become could not go on, if this is the one before again.
    pub failure: Option<String>,
}

/// What is left to do once the sockets are taken over.
#[derive(Debug)]
pub(super) struct Resumed {
    head: Head,
    counts: Vec<SavedCounts>,
    sessions: Vec<ResumedSession>,
    failure: Option<String>,
}

/// An upgrade whose program rehearses: everything else goes on meanwhile.
#[derive(Debug)]
pub(super) struct Rehearsing {
    attempt: Attempt,
    rehearsal: Rehearsal,
}

impl Rehearsing {
    /// Ends the candidate.
    pub(super) fn give_up(&mut self) {
        self.rehearsal.give_up();
    }
}

/// An upgrade whose program has rehearsed well.
#[derive(Debug)]
pub(super) struct Decided(Attempt);

/// What an upgrade is about.
#[derive(Debug)]
struct Attempt {
    order: Order,
    path: PathBuf,
    next: Image,
    known: Identities,
}

const CANNOT: &str = "this kernel cannot be upgraded";

impl Kernel {
    /// Remembers an order, to be begun between two turns; one at a time.
    pub(super) fn take_order(&mut self, order: Order) -> Result<(), String> {
        let waits = self.preparing.as_ref().map(|preparing| &preparing.order);
        let busy = match (
            &self.rehearsing,
            waits.or(self.order.as_ref()),
            &self.decided,
        ) {
            (Some(Rehearsing { attempt, .. }), ..) | (_, _, Some(Decided(attempt))) => {
                Some(attempt.path.display().to_string())
            }
            (_, Some(order), _) => {
                let path = order.path.as_ref();
                Some(path.map_or("SIGUSR2".to_owned(), |path| path.display().to_string()))
            }
            (None, None, None) => None,
        };
        match busy {
            Some(other) => Err(format!(
                "Error: nothing has happened: another upgrade is being tried ({other})"
            )),
            None => {
                self.order = Some(order);
                Ok(())
            }
        }
    }

    /// Lets the program that was asked for rehearse. Nobody waits for it: see
    /// [`Kernel::handle_orphan`].
    pub(super) fn begin_upgrade(&mut self, order: Order, known: Identities) {
        let asker = order.asker;
        match self.begin_rehearsal(order, known) {
            Ok(rehearsing) => self.rehearsing = Some(rehearsing),
            Err(reason) => self.answer_refused(asker, &reason),
        }
    }

    fn begin_rehearsal(&mut self, order: Order, known: Identities) -> Result<Rehearsing, String> {
        let sessions = self.save_sessions()?;
        let held = self.describe_held(&known)?.saved;
        let heirloom = self.heirloom.as_ref().ok_or(CANNOT)?;
        let path = match &order.path {
            Some(path) => heirloom.image.origin().join(path),
            None => heirloom.installed.clone(),
        };
        let shown = path.display();
        let binary = open_program(&path).map_err(|cause| format!("{shown}: {}", cause.desc()))?;
        let next = heirloom.image.with_binary(binary);
        let saved = self.save_to_file(held, sessions, heirloom, &order, &path)?;
        let memory = self.hands.memory.descriptor();
        let journal = self.hands.journal.descriptor();
        let rehearsal = Rehearsal::begin(&next, memory, journal, saved.as_fd())
            .map_err(|error| format!("{shown}: {error}"))?;
        Ok(Rehearsing {
            attempt: Attempt {
                order,
                path,
                next,
                known,
            },
            rehearsal,
        })
    }

    /// When a candidate's time is over.
    pub(super) fn rehearsal_deadline(&self) -> Option<Instant> {
        let rehearsing = self.rehearsing.as_ref()?;
        rehearsing.rehearsal.deadline()
    }

    /// Ends a candidate whose time is over.
    pub(super) fn look_at_rehearsal(&mut self) {
        if let Some(Rehearsing { rehearsal, .. }) = &mut self.rehearsing
            && rehearsal.deadline().is_some_and(|at| at <= Instant::now())
        {
            rehearsal.give_up();
        }
    }

    /// Somebody without a slot has ended: perhaps the candidate.
    pub(super) fn handle_orphan(&mut self, orphan: Orphan) {
        let ours = |rehearsing: &mut Rehearsing| rehearsing.rehearsal.pid() == orphan.pid;
        let Some(Rehearsing { attempt, rehearsal }) = self.rehearsing.take_if(ours) else {
            return;
        };
        let shown = attempt.path.display();
        match rehearsal.conclude(orphan.status) {
            Err(error) => self.answer_refused(attempt.order.asker, &format!("{shown}: {error}")),
            Ok(carried) if attempt.order.extent == UpgradeExtent::CheckOnly => {
                self.close_on_exec_again();
                let text = format!("{shown} is good: {carried}; nothing has happened");
                self.answer(attempt.order.asker, text);
            }
            Ok(carried) => {
                self.log_line(&format!("upgrade: {shown}: {carried}"));
                self.decided = Some(Decided(attempt));
            }
        }
    }

    /// Becomes the program that has rehearsed, between two turns. Returns only if that failed.
    pub(super) fn upgrade(&mut self, Decided(attempt): Decided) {
        crash_point("upgrade: rehearsed");
        let Err(reason) = self.become_next(&attempt);
        self.answer_refused(attempt.order.asker, &reason);
    }

    pub(super) fn answer_refused(&mut self, asker: Option<SessionId>, reason: &str) {
        self.close_on_exec_again();
        self.answer(asker, format!("Error: nothing has happened: {reason}"));
    }

    fn answer(&mut self, asker: Option<SessionId>, text: String) {
        self.log_line(&format!("upgrade: {text}"));
        if let Some(session) = asker {
            self.drive(Input::UpgradeAnswered { session, text });
        }
    }

    fn become_next(&mut self, attempt: &Attempt) -> Result<Infallible, String> {
        let Attempt {
            order,
            path,
            next,
            known,
        } = attempt;
        // Once more: the rehearsal took its time.
        let sessions = self.save_sessions()?;
        let polled = self.hand_over_polled();
        let Described { saved, fresh } = self.describe_held(known)?;
        let heirloom = self.heirloom.as_ref().ok_or(CANNOT)?;
        let saved = self.save_to_file(saved, sessions, heirloom, order, path)?;
        let failed = |cause: Errno| format!("{}: {}", path.display(), cause.desc());
        let witness = match self.hands.guard.descriptor() {
            Some(_) => None,
            None => Some(self.leave_witness(heirloom).map_err(failed)?),
        };
        let role = Role {
            part: Part::Kernel,
            shared: self.hands.shared_numbers(heirloom),
            link: self.hands.guard.descriptor().map(|link| link.as_raw_fd()),
            saved: Some(saved.as_raw_fd()),
            previous: Some(heirloom.image.binary.as_raw_fd()),
            polled: polled.as_ref().map(AsRawFd::as_raw_fd),
            witness: witness.as_ref().map(|one| one.descriptor().as_raw_fd()),
            failure: None,
            kernel: None,
            binary: None,
            original: heirloom.original,
        };
        // The others stay open already.
        let mut kept = fresh;
        kept.extend(self.hands.shared_descriptors(heirloom));
        kept.extend(polled.as_ref().map(AsFd::as_fd));
        kept.extend(self.hands.guard.descriptor());
        kept.extend(witness.as_ref().map(Witnessed::descriptor));
        kept.extend([saved.as_fd(), heirloom.image.binary.as_fd()]);
        kept.extend(self.connections.values().map(Connection::socket));
        // A simulated exec closes whatever it is not told to keep.
        #[cfg(test)]
        let held = self.hands.all_held(&self.listeners);
        #[cfg(test)]
        kept.extend(held.iter().map(|(_, fd)| *fd));
        self.hands.close_rings();
        crash_point("upgrade: before exec");
        // Should it hang, it is ended, or becomes this program again.
        let cause = match alarm::set(resume_patience()) {
            Ok(()) => next.become_it(&role, &kept),
            Err(cause) => cause,
        };
        alarm::cancel();
        self.hands.open_rings();
        if let Some(witness) = witness {
            witness.dismiss();
        }
        Err(failed(cause))
    }

    /// Without a guard there is nobody to start this program again, should the next one die or hang.
    fn leave_witness(&self, heirloom: &Heirloom) -> Result<Witnessed, Errno> {
        leave_witness(|what_it_did| {
            let memory = &self.hands.memory;
            // Whoever was a child of that process is somebody else's now.
            memory.set_min_epoch(Epoch(memory.epoch().0.saturating_add(1)));
            eprintln!(
                "kingpole-kernel: the program that the kernel became {what_it_did}: this process becomes a \
                 guard, and starts the one before"
            );
            let cause = self.become_guard(heirloom);
            eprintln!("kingpole-kernel: cannot become a guard: {}", cause.desc());
            cause
        })
    }

    fn save_sessions(&mut self) -> Result<Vec<SavedSession>, String> {
        let state = &self.state;
        let saved = self.connections.iter_mut().filter_map(|(id, connection)| {
            let session = state.sessions.get(id)?;
            Some(save_session(session, connection))
        });
        saved
            .collect::<Result<_, _>>()
            .map_err(|cause| format!("the sessions cannot be saved: {}", cause.desc()))
    }

    /// The epoll, for the next program to go on with: with every pipe on it, and nothing of which only
    /// this program has the descriptor. `None` while it is not known of each pipe whether it hangs on it.
    fn hand_over_polled(&mut self) -> Option<OwnedFd> {
        // What hangs on it is known by numbers, which do not survive a simulated exec.
        #[cfg(test)]
        if crate::sys::simulated::with(|_| ()).is_some() {
            return None;
        }
        // Nobody there would know that they rest.
        self.hands.end_all_rests();
        let hands = &self.hands;
        let is_known = hands.unresolved.is_empty()
            && hands.unpolled.is_empty()
            && hands.newly_attached.is_empty();
        let mut unpolled = self.state.processes.values();
        // Should nothing come of it, one that waits is looked at once for nothing.
        let polls_all = unpolled.all(|process| {
            process.output.reading == Reading::Polled
                || hands
                    .children
                    .get(&process.id)
                    .is_none_or(|child| hands.poll_pipes(child, process.id).is_ok())
        });
        if !is_known || !polls_all {
            return None;
        }
        let polled = self.polled.borrow();
        // Its next line begins to wait again.
        if std::mem::replace(&mut self.log_polled, Backlog::Empty) == Backlog::Waiting {
            polled.remove(self.log.descriptor());
        }
        polled.handle().ok()
    }

    fn save_to_file(
        &self,
        held: Vec<SavedDescriptor>,
        sessions: Vec<SavedSession>,
        heirloom: &Heirloom,
        order: &Order,
        path: &Path,
    ) -> Result<OwnedFd, String> {
        let system = |cause: Errno| format!("the state cannot be saved: {}", cause.desc());
        let saved = self
            .save(held, sessions, heirloom, order, path)
            .map_err(system)?;
        let bytes = saved
            .encode()
            .map_err(|error| format!("the state cannot be saved: {error}"))?;
        create_constant("kingpole-saved", &bytes).map_err(system)
    }

    fn save(
        &self,
        held: Vec<SavedDescriptor>,
        sessions: Vec<SavedSession>,
        heirloom: &Heirloom,
        order: &Order,
        path: &Path,
    ) -> Result<Saved, Errno> {
        let state = &self.state;
        let counts = state.processes.values().map(|process| SavedCounts {
            process: process.id,
            dropped_records: process.output.dropped_records,
            dropped_bytes: process.output.dropped_bytes,
        });
        let holders = state.leases.values().filter_map(|lease| {
            let session = lease.session?;
            Some((lease.name.clone(), session.0))
        });
        Ok(Saved {
            head: Head {
                release: state.about.release.clone(),
                generation: state.about.generation,
                saved_ns: now_ns(),
                newest_session: state.newest_session.0,
                link_sent: self.hands.guard.sent(),
                previous: describe(0, heirloom.image.binary.as_fd())?,
                holders: holders.collect(),
                asker: order.asker.map(|session| session.0),
                path: path.display().to_string(),
            },
            held,
            counts: counts.collect(),
            sessions,
        })
    }

    /// Takes the sessions' sockets over from the image before; nobody is told anything yet.
    pub(super) fn resume_connections(
        &mut self,
        resumption: Resumption,
    ) -> Result<Resumed, LoopError> {
        let Resumption {
            saved,
            mut sockets,
            failure,
        } = resumption;
        if self.hands.guard.descriptor().is_some() {
            self.unchecked = saved.held;
        }
        let mut sessions = Vec::new();
        for saved in saved.sessions {
            let id = SessionId(saved.session);
            let Some(socket) = sockets.remove(&saved.session) else {
                continue;
            };
            let speech = match saved.speech {
                SavedSpeech::Text { .. } => Speech::Text,
                SavedSpeech::Hello | SavedSpeech::Frames => Speech::Frames,
            };
            let line = match &saved.speech {
                SavedSpeech::Text { line, .. } => Some(line.clone()),
                SavedSpeech::Hello | SavedSpeech::Frames => None,
            };
            let course = match saved.course {
                SavedCourse::Open => Course::Open,
                SavedCourse::HalfClosed => Course::HalfClosed,
                SavedCourse::Closing => Course::Closing,
            };
            let resumed = ResumedConnection {
                speech,
                course,
                line: line.unwrap_or_default(),
                received: &saved.received,
                unsent: &saved.unsent,
            };
            let connection = Connection::resume(socket, id, resumed);
            let queue = super::room_of_queue(&connection);
            self.connections.insert(id, connection);
            // Whole requests may lie there already.
            self.unparsed.insert(id);
            sessions.push(ResumedSession { saved, queue });
        }
        let polled = self.polled.borrow();
        for connection in self.connections.values_mut() {
            connection.poll_again(&polled)?;
        }
        Ok(Resumed {
            head: saved.head,
            counts: saved.counts,
            sessions,
            failure,
        })
    }

    /// Goes on where the image before stopped: sessions, holders, counters.
    pub(super) fn resume_sessions(&mut self, mut resumed: Resumed) {
        self.drive(Input::Resumed {
            newest_session: SessionId(resumed.head.newest_session),
            sessions: std::mem::take(&mut resumed.sessions),
            holders: std::mem::take(&mut resumed.head.holders),
            counts: std::mem::take(&mut resumed.counts),
        });
        self.resumed = Some(resumed);
    }

    /// Says what came of the upgrade: this is the new program, or the old one again.
    pub(super) fn tell_resumed(&mut self) {
        let Some(Resumed { head, failure, .. }) = self.resumed.take() else {
            return;
        };
        let took = now_ns().saturating_sub(head.saved_ns);
        let (ms, tenths) = (took / 1_000_000, took / 100_000 % 10);
        let release = &self.state.about.release;
        let asker = head.asker.map(SessionId);
        if let Some(reason) = failure {
            let text = format!(
                "{}: it could not go on: {reason}; release {release} goes on after {ms}.{tenths} ms",
                head.path
            );
            return self.answer_refused(asker, &text);
        }
        if let Some(heirloom) = &self.heirloom {
            // From now on this program is the one to start after a kill.
            self.hands.guard.hand_binary(heirloom.image.binary.as_fd());
        }
        let text = format!(
            "release {} became release {release} (generation {}): {} processes, {} sockets, {} values \
             and {} sessions carried in {ms}.{tenths} ms",
            head.release,
            self.state.about.generation,
            self.state.processes.len(),
            self.state.sockets.len(),
            self.state.values.len(),
            self.connections.len(),
        );
        self.answer(asker, text);
    }
}

fn save_session(
    session: &crate::state::Session,
    connection: &mut Connection,
) -> Result<SavedSession, Errno> {
    let mut saved = session.save(connection.lines.save());
    saved.socket = describe(0, connection.socket())?;
    saved.course = match connection.course {
        Course::Open => SavedCourse::Open,
        Course::HalfClosed => SavedCourse::HalfClosed,
        Course::Closing => SavedCourse::Closing,
    };
    saved.received = connection.decoder.pending().to_vec();
    saved.unsent = connection.queue.to_vec();
    Ok(saved)
}

fn open_program(path: &Path) -> Result<OwnedFd, Errno> {
    access(path, AccessFlags::X_OK)?;
    let binary = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let kind = nix::sys::stat::SFlag::from_bits_truncate(fstat(&binary)?.st_mode);
    if kind.contains(nix::sys::stat::SFlag::S_IFDIR) {
        return Err(Errno::EISDIR);
    }
    Ok(binary)
}

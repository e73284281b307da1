//! For tests: a Linux whose processes are entries of a table, so that a simulation can let many
//! kernels and guards live, become one another and be killed within one thread.
//!
//! It stands behind the system calls about processes (clone, exec, pidfds, `waitid`, the clock); pipes,
//! sockets and memory files are real ones. A thread without one has the real Linux.

use super::child::ChildJob;
use super::inherited::Inherited;
use super::pidfd_info::Fate;
use super::process::duplicate_from;
use super::wait::{After, Ended, Whom};
use crate::guard::role::Role;
use crate::memory::layout::SlotWords;
use crate::memory::{SlotIndex, StateMemory};
use kingpole_protocol::ids::ProcessId;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::unistd::pipe2;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::sync::atomic::Ordering;

/// Who adopts whom nobody else is the parent of.
pub(crate) const INIT: i32 = 1;

/// Pids that no real process can have: Linux's highest is 2^22.
const FIRST_PID: i32 = 1_000_000_000;

thread_local! {
    static LINUX: RefCell<Option<Linux>> = const { RefCell::new(None) };
}

/// How a simulated process stops: its stack is unwound with this.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It was killed, there.
    Killed(&'static str),
    /// It became another program.
    Became(Box<Program>),
}

/// A program that was started, or that a process has become.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) pid: i32,
    pub(crate) role: Role,
    pub(crate) inherited: Inherited,
    /// Which program: see [`Linux::programs`].
    pub(crate) version: u32,
}

/// All of it.
pub(crate) struct Linux {
    /// Whose code runs now.
    pub(crate) acting: i32,
    /// The version of the program that runs now.
    pub(crate) version: u32,
    /// Whether the one that runs says nothing that an older one could not read.
    pub(crate) says_nothing_new: bool,
    /// The first version whose programs know that rings may be read in place.
    pub(crate) reads_in_place_since: u32,
    /// Nanoseconds; each look takes one microsecond.
    pub(crate) clock_ns: u64,
    /// Where the words of children lie.
    pub(crate) memory: StateMemory,
    /// Programs by the inodes of their files: what version they are; 0 is none of ours.
    pub(crate) programs: BTreeMap<u64, u32>,
    pub(crate) processes: BTreeMap<i32, Process>,
    /// Everything that ever happened to a child.
    pub(crate) ledger: BTreeMap<ProcessId, Ledger>,
    /// Programs that somebody has started.
    pub(crate) started: VecDeque<Program>,
    /// What the next child does.
    pub(crate) next_child: NextChild,
    /// Whether a pidfd tells how a process ended that somebody else has reaped (Linux 6.15 does).
    pub(crate) tells_ends: bool,
    /// Ends of reaped processes by the inode of their pidfd.
    reaped: BTreeMap<u64, i32>,
    next_pid: i32,
}

/// What the next child does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NextChild {
    /// Whether its program cannot be executed.
    pub(crate) fails: bool,
    /// Where it is when its parent is killed, if it is.
    pub(crate) orphaned_at: Option<Stage>,
}

/// How far a child has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Cloned,
    Claimed,
    /// Its program runs, or could not be executed and this is left in its slot.
    Decided,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) parent: i32,
    life: Life,
    /// Pidfds are copies of it: readable once the process has ended.
    pidfd: OwnedFd,
    _alive: Option<OwnedFd>,
    pub(crate) child: Option<Child>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Runs,
    Zombie(i32),
}

/// A child of a kernel, with its own ends of its pipes.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ProcessId,
    slot: SlotIndex,
    claim: (u32, u32),
    pub(crate) stage: Stage,
    fails: bool,
    /// Standard output and error, until it closes them.
    pub(crate) ends: [Option<OwnedFd>; 2],
}

/// What is so about a child, whatever kernels say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) pid: i32,
    /// Bytes that it has written to each stream.
    pub(crate) written: [u64; 2],
    pub(crate) executed: bool,
    /// Its wait status, once it has ended.
    pub(crate) ended: Option<i32>,
    /// Whether nobody of ours may have been told.
    pub(crate) lost_parent: bool,
}

impl Linux {
    pub(crate) fn new(memory: StateMemory) -> Self {
        Self {
            acting: INIT,
            version: 1,
            says_nothing_new: false,
            reads_in_place_since: 1,
            clock_ns: 1_700_000_000_000_000_000,
            memory,
            programs: BTreeMap::new(),
            processes: BTreeMap::new(),
            ledger: BTreeMap::new(),
            started: VecDeque::new(),
            next_child: NextChild::default(),
            tells_ends: true,
            reaped: BTreeMap::new(),
            next_pid: FIRST_PID,
        }
    }

    /// A process that does nothing by itself.
    pub(crate) fn make_process(&mut self, parent: i32) -> i32 {
        let pid = self.next_pid;
        self.next_pid += 1;
        let (pidfd, alive) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let process = Process {
            parent,
            life: Life::Runs,
            pidfd,
            _alive: Some(alive),
            child: None,
        };
        self.processes.insert(pid, process);
        pid
    }

    /// Lets a process end: `status` as `waitid` has it. `reaper` adopts its children.
    pub(crate) fn end(&mut self, pid: i32, status: i32, reaper: i32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.life = Life::Zombie(status);
        process._alive = None;
        if let Some(child) = &mut process.child {
            child.ends = [None, None];
            if let Some(ledger) = self.ledger.get_mut(&child.id) {
                ledger.ended = Some(status);
            }
        }
        if process.parent == INIT {
            self.reap(pid);
        }
        let orphans = self.processes.iter_mut().filter(|one| one.1.parent == pid);
        let mut zombies = Vec::new();
        for (orphan, process) in orphans {
            process.parent = reaper;
            if reaper == INIT
                && let Some(ledger) = process
                    .child
                    .as_ref()
                    .and_then(|child| self.ledger.get_mut(&child.id))
            {
                ledger.lost_parent = true;
            }
            if reaper == INIT && process.life != Life::Runs {
                zombies.push(*orphan);
            }
        }
        for zombie in zombies {
            self.reap(zombie);
        }
    }

    fn reap(&mut self, pid: i32) {
        if let Some(process) = self.processes.remove(&pid)
            && let Life::Zombie(status) = process.life
        {
            self.reaped.insert(inode(process.pidfd.as_fd()), status);
        }
    }

    /// Whether somebody has ended whom this process has to reap.
    pub(crate) fn has_zombies(&self, parent: i32) -> bool {
        self.processes
            .values()
            .any(|process| process.parent == parent && process.life != Life::Runs)
    }

    pub(crate) fn runs(&self, pid: i32) -> bool {
        self.processes
            .get(&pid)
            .is_some_and(|process| process.life == Life::Runs)
    }

    /// Lets a child between clone and exec do its next step.
    pub(crate) fn step_child(&mut self, pid: i32, reaper: i32) {
        let Some(child) = self.processes.get_mut(&pid).and_then(|p| p.child.as_mut()) else {
            return;
        };
        let words = self.memory.slot(child.slot).words();
        match child.stage {
            Stage::Cloned => {
                let (open, claimed) = child.claim;
                let claim = &words.claim;
                if claim
                    .compare_exchange(open, claimed, Ordering::AcqRel, Ordering::Acquire)
                    .is_err()
                {
                    self.end(pid, 127 << 8, reaper);
                    return;
                }
                words.pid.store(pid, Ordering::Release);
                child.stage = Stage::Claimed;
            }
            Stage::Claimed => {
                child.stage = Stage::Decided;
                if child.fails {
                    let step = super::child::Step::Exec as u32;
                    words.failed_step.store(step, Ordering::Relaxed);
                    words
                        .failed_errno
                        .store(Errno::ENOENT as i32, Ordering::Release);
                    self.end(pid, 127 << 8, reaper);
                } else {
                    self.ledger.entry(child.id).or_default().executed = true;
                }
            }
            Stage::Decided => {}
        }
    }

    fn clone(&mut self, job: &ChildJob, slot: &SlotWords) -> (i32, bool) {
        let acting = self.acting;
        let id = ProcessId(slot.id.load(Ordering::Relaxed));
        let index = self
            .memory
            .slots_in_use()
            .find(|(_, slot)| slot.id() == id)
            .map(|(index, _)| index)
            .unwrap();
        let end = |target: i32| {
            let placement = job.placements.iter().find(|one| one.target == target)?;
            // SAFETY: the job's descriptors are open as long as it is run.
            let source = unsafe { BorrowedFd::borrow_raw(placement.source) };
            let is_pipe = nix::fcntl::fcntl(source, nix::fcntl::FcntlArg::F_GETPIPE_SZ).is_ok();
            let copy = is_pipe.then(|| duplicate_from(source, 3).unwrap())?;
            let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
            nix::fcntl::fcntl(&copy, flags).unwrap();
            Some(copy)
        };
        let ends = [end(1), end(2)];
        let pid = self.make_process(acting);
        slot.pid.store(pid, Ordering::Release);
        let NextChild { fails, orphaned_at } = std::mem::take(&mut self.next_child);
        let ledger = Ledger {
            pid,
            ..Ledger::default()
        };
        self.ledger.insert(id, ledger);
        let child = Child {
            id,
            slot: index,
            claim: job.claim,
            stage: Stage::Cloned,
            fails,
            ends,
        };
        self.processes.get_mut(&pid).unwrap().child = Some(child);
        let goal = orphaned_at.unwrap_or(Stage::Decided);
        while self.runs(pid) && self.stage(pid) < goal {
            self.step_child(pid, acting);
        }
        (pid, orphaned_at.is_some())
    }

    fn stage(&self, pid: i32) -> Stage {
        let child = self.processes.get(&pid).and_then(|p| p.child.as_ref());
        child.map_or(Stage::Decided, |child| child.stage)
    }

    fn wait(&mut self, whom: Whom, after: After) -> Result<Option<Ended>, Errno> {
        let acting = self.acting;
        let own = self.processes.iter().filter(|(pid, process)| {
            process.parent == acting
                && match whom {
                    Whom::Any => true,
                    Whom::Pid(wanted) => wanted == **pid,
                }
        });
        let mut has_any = false;
        let found = own
            .inspect(|_| has_any = true)
            .find_map(|(pid, process)| match process.life {
                Life::Zombie(status) => Some((*pid, status)),
                Life::Runs => None,
            });
        let Some((pid, wait_status)) = found else {
            return if has_any {
                Ok(None)
            } else {
                Err(Errno::ECHILD)
            };
        };
        if after == After::Reap {
            self.reap(pid);
        }
        Ok(Some(Ended {
            pid,
            wait_status,
            user_us: 7,
            system_us: 11,
            max_rss_kb: 13,
        }))
    }

    fn by_pidfd(&self, pidfd: BorrowedFd<'_>) -> Option<i32> {
        let wanted = inode(pidfd);
        let mut processes = self.processes.iter();
        processes
            .find_map(|(pid, process)| (inode(process.pidfd.as_fd()) == wanted).then_some(*pid))
    }

    fn program(
        &self,
        pid: i32,
        binary: BorrowedFd<'_>,
        role: &Role,
        kept: &[BorrowedFd<'_>],
    ) -> Program {
        Program {
            pid,
            role: role.clone(),
            inherited: copies(kept),
            version: self.programs[&inode(binary)],
        }
    }
}

fn inode(fd: BorrowedFd<'_>) -> u64 {
    fstat(fd).unwrap().st_ino
}

/// What a program finds that was left these descriptors: copies, under their numbers.
fn copies(kept: &[BorrowedFd<'_>]) -> Inherited {
    let copies = kept
        .iter()
        .map(|fd| (fd.as_raw_fd(), duplicate_from(*fd, 3).unwrap()));
    Inherited::of(copies)
}

/// Lets this thread have a Linux of its own, or the real one again.
pub(crate) fn install(linux: Option<Linux>) -> Option<Linux> {
    LINUX.replace(linux)
}

/// Does something with this thread's own Linux, if it has one.
pub(crate) fn with<T>(work: impl FnOnce(&mut Linux) -> T) -> Option<T> {
    LINUX.with_borrow_mut(|linux| linux.as_mut().map(work))
}

/// The time, in nanoseconds since 1970.
pub(crate) fn now_ns() -> Option<u64> {
    with(|linux| {
        linux.clock_ns += 1000;
        linux.clock_ns
    })
}

/// Clone and exec in one: see [`super::child::ChildStack::run`].
pub(crate) fn clone(job: &ChildJob, slot: &SlotWords) -> Option<i32> {
    let (pid, orphaned) = with(|linux| linux.clone(job, slot))?;
    if orphaned {
        resume_unwind(Box::new(Stop::Killed("spawn: in the child")));
    }
    Some(pid)
}

pub(crate) fn wait(whom: Whom, after: After) -> Option<Result<Option<Ended>, Errno>> {
    with(|linux| linux.wait(whom, after))
}

pub(crate) fn pidfd_open(pid: i32) -> Option<Result<OwnedFd, Errno>> {
    with(|linux| {
        let process = linux.processes.get(&pid).ok_or(Errno::ESRCH)?;
        duplicate_from(process.pidfd.as_fd(), 3)
    })
}

pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Option<Result<(), Errno>> {
    with(|linux| {
        let pid = linux.by_pidfd(pidfd).ok_or(Errno::ESRCH)?;
        if signal != 0 && linux.runs(pid) {
            linux.end(pid, signal, INIT);
        }
        Ok(())
    })
}

pub(crate) fn has_called_exec(pid: i32) -> Option<Option<bool>> {
    with(|linux| {
        let child = linux.processes.get(&pid)?.child.as_ref()?;
        Some(child.stage == Stage::Decided && !child.fails)
    })
}

pub(crate) fn fate(pidfd: BorrowedFd<'_>) -> Option<Fate> {
    with(|linux| {
        if let Some(pid) = linux.by_pidfd(pidfd) {
            return match linux.processes[&pid].life {
                Life::Runs => Fate::Runs,
                Life::Zombie(status) => Fate::Ended(status),
            };
        }
        let status = linux.reaped.get(&inode(pidfd)).copied();
        let told = status.filter(|_| linux.tells_ends);
        told.map_or(Fate::Unknown, Fate::Ended)
    })
}

/// Whether a pipe is the standard output or error of a process.
pub(crate) fn writes_to(pid: i32, pipe: &OwnedFd) -> Option<bool> {
    with(|linux| {
        let child = linux.processes.get(&pid).and_then(|p| p.child.as_ref());
        child.is_some_and(|child| {
            let mut ends = child.ends.iter().flatten();
            ends.any(|end| inode(end.as_fd()) == inode(pipe.as_fd()))
        })
    })
}

/// A program of ours is started.
pub(crate) fn start(
    binary: BorrowedFd<'_>,
    role: &Role,
    kept: &[BorrowedFd<'_>],
) -> Option<Result<i32, Errno>> {
    with(|linux| {
        let pid = linux.make_process(linux.acting);
        let program = linux.program(pid, binary, role, kept);
        linux.started.push_back(program);
        Ok(pid)
    })
}

/// This process becomes a program of ours.
pub(crate) fn become_it(binary: BorrowedFd<'_>, role: &Role, kept: &[BorrowedFd<'_>]) {
    if let Some(program) = with(|linux| linux.program(linux.acting, binary, role, kept)) {
        resume_unwind(Box::new(Stop::Became(Box::new(program))));
    }
}

/// A program rehearses, at once and to its end.
pub(crate) fn rehearse(
    binary: BorrowedFd<'_>,
    kept: &[BorrowedFd<'_>],
    perform: impl FnOnce(Inherited),
) -> Option<i32> {
    let (pid, running, candidate) = with(|linux| {
        let candidate = linux.programs[&inode(binary)];
        let running = std::mem::replace(&mut linux.version, candidate);
        (linux.make_process(linux.acting), running, candidate)
    })?;
    if candidate != 0 {
        perform(copies(kept));
    }
    with(|linux| {
        linux.version = running;
        linux.end(pid, 0, INIT);
    });
    Some(pid)
}

/// The newest version of the saved state that the program reads that runs now.
pub(crate) fn version_read() -> Option<u32> {
    with(|linux| linux.version)
}

/// The one that it writes.
pub(crate) fn version_written() -> Option<u32> {
    with(|linux| match linux.says_nothing_new {
        true => 1,
        false => linux.version,
    })
}

/// Whether the program that runs knows that rings may be read in place.
pub(crate) fn knows_readers() -> bool {
    with(|linux| linux.version >= linux.reads_in_place_since).unwrap_or(true)
}

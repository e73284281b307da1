//! The world: one guard, one kernel, whoever they start and become, and what they die of.

use super::super::Kernel;
use super::Random;
use super::manager::Manager;
use super::prompt::Prompt;
use crate::crash::{faults, watch};
use crate::guard::held::Held;
use crate::guard::run::Guard;
use crate::guard::shared::Shared;
use crate::log::Log;
use crate::memory::StateMemory;
use crate::sys::simulated::{self, INIT, Linux, Program, Stop};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Points at which kernels and guards are killed on purpose; an ordinary run meets every one.
pub(super) const POINTS: [&str; 48] = [
    "spawn: before the slot",
    "spawn: after the intent",
    "spawn: after the journal",
    "spawn: after the hold",
    "spawn: before clone",
    "spawn: after clone",
    "spawn: write ends closed",
    "spawn: run stored",
    "spawn failure: before publish",
    "spawn failure: after reap",
    "read: cell taken",
    "read: spliced",
    "read: length stored",
    "read: part drained",
    "read: drained",
    "read: header written",
    "read: published",
    "read: cell free",
    "control: torn copy",
    "control: published",
    "drop: before",
    "drop: published",
    "eof: before",
    "eof: inside",
    "eof: published",
    "eof: after the drop",
    "end: after the look",
    "end: before ended",
    "end: after ended",
    "end: after reap",
    "journal: half record",
    "journal: before head",
    "journal: after head",
    "compaction: before",
    "compaction: half",
    "compaction: before flip",
    "compaction: after flip",
    "remove: after the journal",
    "remove: slot free",
    "adopt: epoch",
    "adopt: journal",
    "adopt: in the read",
    "adopt: after the read",
    "adopt: each slot",
    "adopt: before ready",
    "upgrade: rehearsed",
    "upgrade: before exec",
    "guard: held",
];

/// When somebody is killed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fuse {
    /// At the next point but so many.
    Points(u64),
    /// At this point.
    At(&'static str),
}

/// Where nobody does anything.
const BETWEEN: &str = "between turns";

thread_local! {
    static MET: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Where processes of this thread have died since this was asked last.
pub(super) fn met(mut tell: impl FnMut(&'static str, u64)) {
    for (name, count) in MET.take() {
        tell(name, count);
    }
}

fn died_at(name: &'static str) {
    MET.with_borrow_mut(|met| *met.entry(name).or_insert(0) += 1);
}

/// A kernel that serves.
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) version: u32,
    pub(super) kernel: Kernel,
}

/// What happened, for when something is wrong.
#[derive(Clone)]
pub(super) struct Story {
    steps: Rc<RefCell<VecDeque<String>>>,
    log: Rc<File>,
}

impl Story {
    pub(super) fn note(&self, text: impl Into<String>) {
        let mut steps = self.steps.borrow_mut();
        steps.push_back(text.into());
        if steps.len() > 60 {
            steps.pop_front();
        }
    }

    pub(super) fn tell(&self) -> String {
        let steps = self.steps.borrow();
        let steps = steps.iter().map(String::as_str).collect::<Vec<_>>();
        let mut log = String::new();
        let mut file = &*self.log;
        let _ = file.seek(SeekFrom::Start(0));
        let _ = file.read_to_string(&mut log);
        let lines = log.lines().collect::<Vec<_>>();
        let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or(&[]);
        format!("{}\nlog:\n{}", steps.join("\n"), last.join("\n"))
    }
}

pub(super) struct World {
    /// Where whoever is killed is killed; anywhere, when there is none.
    pub(super) aim: Option<&'static str>,
    pub(super) random: Random,
    /// Before the directory: they are files in it.
    pub(super) guard: Option<(i32, Guard)>,
    pub(super) kernel: Option<Running>,
    pub(super) manager: Manager,
    pub(super) prompt: Prompt,
    /// When a kernel that passes crash points is killed.
    pub(super) fuse: Rc<Cell<Option<Fuse>>>,
    /// The same for the guard.
    pub(super) guard_fuse: Option<Fuse>,
    story: Story,
    pub(super) directory: PathBuf,
    _directory: tempfile::TempDir,
    /// What newer kernels have written into the journal that older ones must keep.
    pub(super) notes: Vec<Vec<u8>>,
    pub(super) keys: u64,
    pub(super) looks: Cell<u64>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::create(None).unwrap();
        let copy = shared.memory.descriptor().try_clone_to_owned().unwrap();
        let mut linux = Linux::new(StateMemory::open(copy).unwrap());
        let mut random = Random(seed);
        linux.tells_ends = !random.one_in(3);
        linux.reads_in_place_since = 1 + u32::from(random.one_in(2));
        for version in 0..=2 {
            let inode = super::programs::make(directory.path(), version);
            linux.programs.insert(inode, version);
        }
        let guard = linux.make_process(INIT);
        simulated::install(Some(linux));
        faults::set("", 0, 0);
        let fuse = Rc::new(Cell::new(None));
        watch::install({
            let fuse = Rc::clone(&fuse);
            move |name| match fuse.get() {
                Some(Fuse::Points(left @ 1..)) => fuse.set(Some(Fuse::Points(left - 1))),
                Some(Fuse::At(wanted)) if wanted != name => {}
                Some(_) => {
                    fuse.set(None);
                    resume_unwind(Box::new(Stop::Killed(name)));
                }
                None => {}
            }
        });
        let story = Story {
            steps: Rc::default(),
            log: Rc::new(tempfile::tempfile().unwrap()),
        };
        let version = 1 + random.below(2);
        let mut world = Self {
            aim: None,
            random,
            guard: None,
            kernel: None,
            manager: Manager::default(),
            prompt: Prompt::default(),
            fuse,
            guard_fuse: None,
            story,
            directory: directory.path().to_owned(),
            _directory: directory,
            notes: Vec::new(),
            keys: 0,
            looks: Cell::new(0),
        };
        let version = u32::try_from(version).unwrap();
        world.begin_guard(guard, version, shared, Held::default(), None);
        world
    }

    pub(super) fn story(&self) -> Story {
        self.story.clone()
    }

    pub(super) fn note(&self, text: impl Into<String>) {
        self.story.note(text);
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn log(&self) -> Log {
        Log::new(self.story.log.try_clone().unwrap().into())
    }

    /// Whoever adopts the children of a dead kernel.
    pub(super) fn reaper(&self) -> i32 {
        self.guard.as_ref().map_or(INIT, |(pid, _)| *pid)
    }

    /// Lets a process do something, until it is killed or becomes another program.
    pub(super) fn act<T>(
        &self,
        pid: i32,
        version: u32,
        work: impl FnOnce() -> T,
    ) -> Result<T, Stop> {
        simulated::with(|linux| {
            linux.acting = pid;
            linux.version = version;
        });
        catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match payload.downcast::<Stop>() {
            Ok(stop) => *stop,
            Err(other) => resume_unwind(other),
        })
    }

    /// Lets the kernel do something.
    pub(super) fn let_kernel(&mut self, work: impl FnOnce(&mut Kernel)) {
        let Some(mut running) = self.kernel.take() else {
            return;
        };
        let (pid, version) = (running.pid, running.version);
        let fuse = self.fuse.get();
        if self.guard.is_none() {
            // It would lose everything, as was never promised otherwise.
            self.fuse.set(None);
        }
        let outcome = self.act(pid, version, || {
            work(&mut running.kernel);
            // In reality all of it happens within a turn, which ends so.
            running.kernel.flush_guard();
            running.kernel.look_at_upgrade();
        });
        match outcome {
            Ok(()) => {
                if self.guard.is_none() {
                    self.fuse.set(fuse);
                }
                self.kernel = Some(running);
            }
            Err(Stop::Killed(point)) => {
                drop(running);
                self.bury_kernel(pid, point);
            }
            Err(Stop::Became(program)) => {
                drop(running);
                self.go_on_as(*program);
            }
        }
    }

    pub(super) fn bury_kernel(&mut self, pid: i32, point: &'static str) {
        self.fuse.set(None);
        died_at(point);
        let reaper = self.reaper();
        self.note(format!("    the kernel {pid} dies at {point:?}"));
        simulated::with(|linux| linux.end(pid, 9, reaper));
    }

    /// One turn of the kernel's loop.
    pub(super) fn kernel_turn(&mut self) {
        self.let_kernel(|kernel| {
            let mut ready = Vec::new();
            let polled = Rc::clone(&kernel.polled);
            polled.borrow_mut().take(&mut ready).unwrap();
            kernel.turn(&ready);
        });
    }

    /// SIGCHLD arrives at the kernel.
    pub(super) fn sweep(&mut self) {
        let Some(pid) = self.kernel.as_ref().map(|running| running.pid) else {
            return;
        };
        if simulated::with(|linux| linux.has_zombies(pid)) == Some(true) {
            self.let_kernel(Kernel::sweep);
        }
    }

    /// One turn of the guard's loop, and of the programs that it starts.
    pub(super) fn guard_turn(&mut self) {
        let Some((pid, mut guard)) = self.guard.take() else {
            return;
        };
        let fuse = self.fuse.replace(self.guard_fuse.take());
        let outcome = self.act(pid, 1, || guard.simulated_turn());
        self.fuse.set(fuse);
        match outcome {
            Ok(()) => self.guard = Some((pid, guard)),
            Err(Stop::Killed(point)) => {
                drop(guard);
                self.bury_guard(pid, point);
            }
            Err(Stop::Became(program)) => {
                drop(guard);
                self.go_on_as(*program);
            }
        }
        while let Some(program) = simulated::with(|linux| linux.started.pop_front()).flatten() {
            self.begin_kernel(program);
        }
    }

    fn bury_guard(&mut self, pid: i32, point: &'static str) {
        died_at(point);
        self.note(format!("    the guard {pid} dies at {point:?}"));
        simulated::with(|linux| linux.end(pid, 9, INIT));
    }

    pub(super) fn kill_guard(&mut self) {
        if let Some((pid, guard)) = self.guard.take() {
            drop(guard);
            self.bury_guard(pid, BETWEEN);
        }
    }

    pub(super) fn kill_kernel(&mut self) {
        if let Some(running) = self.kernel.take() {
            drop(running.kernel);
            self.bury_kernel(running.pid, BETWEEN);
        }
    }

    fn go_on_as(&mut self, program: Program) {
        match program.role.part {
            crate::guard::role::Part::Kernel => self.resume_kernel(program),
            crate::guard::role::Part::Guard => self.resume_guard(program),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        watch::install(|_| {});
        faults::set("", 0, 0);
    }
}

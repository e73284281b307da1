//! Programs: what guards and kernels are started from, and how they begin.

use super::super::{Detail, Heirloom, Inheritance, Kernel, Parts, Rings, Succession};
use super::world::{Running, World};
use crate::crash::faults;
use crate::effect::UpgradeExtent;
use crate::event_loop::upgrading::Order;
use crate::guard::held::Held;
use crate::guard::image::Image;
use crate::guard::role::{Original, Role};
use crate::guard::run::{self, Guard};
use crate::guard::shared::Shared;
use crate::log::Log;
use crate::peer::Guests;
use crate::pid_files::PidFiles;
use crate::start::beginning::Beginning;
use crate::state::About;
use crate::sys::inherited::Inherited;
use crate::sys::memfd::create_constant;
use crate::sys::simulated::{self, Program, Stop};
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, fstat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Stages at which the program that a kernel has become can fail, and go back.
const STAGES: [&str; 7] = [
    "resume: saved",
    "resume: descriptors",
    "resume: shared memory",
    "resume: loop",
    "resume: journal",
    "resume: sessions",
    "resume: ready",
];

fn path_of(directory: &Path, version: u32) -> PathBuf {
    directory.join(format!("version-{version}"))
}

/// Makes the file of a program; gives its inode. Version 0 is none of ours.
pub(super) fn make(directory: &Path, version: u32) -> u64 {
    let path = path_of(directory, version);
    std::fs::write(&path, "a program").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    fstat(open_program(directory, version)).unwrap().st_ino
}

fn open_program(directory: &Path, version: u32) -> OwnedFd {
    let path = path_of(directory, version);
    open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

fn image(directory: &Path, version: u32) -> Image {
    let image = Image::of_this_process(directory).unwrap();
    image.with_binary(open_program(directory, version))
}

/// Signals do not come by themselves here.
fn no_signals() -> SignalFd {
    let mut set = SigSet::empty();
    set.add(Signal::SIGURG);
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&set, flags).unwrap()
}

fn make_kernel(
    directory: &Path,
    log: Log,
    version: u32,
    beginning: Beginning,
) -> Result<Kernel, String> {
    let Beginning {
        shared,
        held,
        polled,
        link,
        original,
        resumption,
    } = beginning;
    let (succession, rings) = match resumption {
        Some(_) => (Succession::Upgrade, Rings::AsRecorded),
        None => (Succession::Crash, Rings::Unknown),
    };
    let parts = Parts {
        about: About {
            release: format!("0.{version}"),
            generation: resumption.as_ref().map_or(1, |resumption| {
                resumption.saved.head.generation.saturating_add(1)
            }),
            descriptors_limit: 1 << 16,
            instance: 77,
            ..About::default()
        },
        listeners: Vec::new(),
        guests: Guests::default(),
        signals: no_signals(),
        log,
        detail: Detail::Normal,
        title: None,
        link,
        polled,
        heirloom: Some(Heirloom {
            image: image(directory, version),
            installed: path_of(directory, version),
            original,
            lock: None,
            ended: shared.ended,
        }),
        resumption,
    };
    let inheritance = Inheritance {
        state: shared.memory,
        journal: shared.journal,
        bounce: shared.bounce,
        held,
        rings,
    };
    let adopted = Kernel::adopt(parts, inheritance, succession, || {});
    let (mut kernel, _) = adopted.map_err(|error| error.to_string())?;
    kernel.begin_serving();
    Ok(kernel)
}

impl World {
    pub(super) fn begin_guard(
        &mut self,
        pid: i32,
        version: u32,
        shared: Shared,
        held: Held,
        role: Option<(&Role, &Inherited)>,
    ) {
        let copy = |number: Option<i32>| {
            let (_, inherited) = role?;
            Some(inherited.copy(number?).unwrap())
        };
        let role = role.map(|(role, _)| role);
        let link = copy(role.and_then(|role| role.link));
        let mut image = image(&self.directory, version);
        if let Some(binary) = copy(role.and_then(|role| role.binary)) {
            image = image.with_binary(binary);
        }
        let parts = run::Parts {
            shared,
            held,
            image,
            original: Original::default(),
            signals: no_signals(),
            log: self.log(),
            pids: PidFiles::in_directory(self.directory()),
            promise: None,
            has_served: role.is_some(),
            kernel: role.and_then(|role| role.kernel).zip(link),
            previous: copy(role.and_then(|role| role.previous)),
            note: None,
        };
        match self.act(pid, version, || Guard::new(parts)) {
            Ok(guard) => self.guard = Some((pid, guard)),
            Err(stop) => panic!("{stop:?}"),
        }
    }

    /// A kernel has become the guard, or a guard another program.
    pub(super) fn resume_guard(&mut self, program: Program) {
        let Program {
            pid,
            role,
            mut inherited,
            version,
        } = program;
        self.note(format!("    {pid} is the guard, as version {version}"));
        let shared = Shared::copy(&inherited, role.shared).unwrap();
        let held = Held::take(&shared.memory, &mut inherited);
        // Here, and only here, descriptors do not keep their numbers.
        for (place, tag, _) in shared.memory.held().collect::<Vec<_>>() {
            let number = held.get(tag).unwrap().as_raw_fd();
            shared.memory.store_held(place, tag, number);
        }
        self.begin_guard(pid, version, shared, held, Some((&role, &inherited)));
    }

    /// A program that a guard has started.
    pub(super) fn begin_kernel(&mut self, program: Program) {
        let Program {
            pid,
            role,
            mut inherited,
            version,
        } = program;
        self.note(format!("    kernel {pid} of version {version} begins"));
        let (directory, log) = (self.directory.clone(), self.log());
        let outcome = self.act(pid, version, || {
            let beginning = Beginning::after_a_kill(&role, &mut inherited).unwrap();
            drop(inherited);
            make_kernel(&directory, log, version, beginning).unwrap()
        });
        self.take_kernel(pid, version, outcome);
    }

    /// A program that a kernel has become. Where that fails, it becomes the one before again.
    pub(super) fn resume_kernel(&mut self, program: Program) {
        let Program {
            pid,
            mut role,
            inherited,
            version,
        } = program;
        self.note(format!("    kernel {pid} becomes version {version}"));
        let mut before = inherited.copies();
        if self.random.one_in(8) {
            let stage = self.random.pick(&STAGES).unwrap();
            self.note(format!("    {stage} fails"));
            faults::set(stage, 0, 1);
        }
        let outcome = self.try_to_resume(pid, version, &role, inherited);
        faults::set("", 0, 0);
        match outcome {
            Ok(Ok(kernel)) => self.take_kernel(pid, version, Ok(kernel)),
            Err(stop) => self.take_kernel(pid, version, Err(stop)),
            Ok(Err(reason)) => {
                self.note(format!("    it cannot: {reason}"));
                let previous = before.get(role.previous.unwrap()).unwrap();
                let inode = fstat(previous).unwrap().st_ino;
                let version = simulated::with(|linux| linux.programs[&inode]).unwrap();
                let failure = create_constant("failure", reason.as_bytes()).unwrap();
                role.failure = Some(before.add(failure));
                let again = self.try_to_resume(pid, version, &role, before);
                self.take_kernel(pid, version, again.map(Result::unwrap));
            }
        }
    }

    fn try_to_resume(
        &self,
        pid: i32,
        version: u32,
        role: &Role,
        mut inherited: Inherited,
    ) -> Result<Result<Kernel, String>, Stop> {
        let (directory, log) = (self.directory.clone(), self.log());
        self.act(pid, version, || {
            let saved = role.saved.unwrap();
            let beginning = Beginning::after_an_upgrade(role, &mut inherited, saved);
            let beginning = beginning.map_err(|error| error.to_string())?;
            drop(inherited);
            make_kernel(&directory, log, version, beginning)
        })
    }

    fn take_kernel(&mut self, pid: i32, version: u32, outcome: Result<Kernel, Stop>) {
        match outcome {
            Ok(kernel) => {
                self.kernel = Some(Running {
                    pid,
                    version,
                    kernel,
                });
                self.look_closely(true);
            }
            Err(Stop::Killed(point)) => self.bury_kernel(pid, point),
            Err(Stop::Became(_)) => panic!("it has not begun yet"),
        }
    }

    /// Asks for an upgrade; what comes of it shows.
    pub(super) fn order_upgrade(&mut self) {
        let version = u32::try_from(self.random.below(3)).unwrap();
        let says_nothing_new = self.random.one_in(2);
        simulated::with(|linux| linux.says_nothing_new = says_nothing_new);
        let extent = match self.random.one_in(5) {
            true => UpgradeExtent::CheckOnly,
            false => UpgradeExtent::Whole,
        };
        self.note(format!("upgrade to version {version}, {extent:?}"));
        let path = Some(path_of(&self.directory, version));
        self.let_kernel(|kernel| {
            let order = Order {
                asker: None,
                path,
                extent,
            };
            let _ = kernel.take_order(order);
        });
        for _ in 0..3 {
            self.kernel_turn();
        }
        if self.random.one_in(2) {
            // The guard publishes an end while one image becomes the other.
            self.child_ends();
            self.guard_turn();
            self.sweep();
        }
    }
}

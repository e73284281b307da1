//! From a command line to a kernel that serves, in the only order that works: what forks first, then
//! what others could see, then what children inherit.

pub(crate) mod beginning;
mod going_back;
mod guarding;
mod own;
mod serving;

use crate::event_loop::{ListenError, LoopError};
use crate::exit::Exit;
use crate::guard::role::Part;
use crate::guard::shared::{Shared, SharedError};
use crate::guard::store;
use crate::limits::UMASK;
use crate::lock::{self, LockError};
use crate::log::Log;
use crate::options::Options;
use crate::pid_files::PidFiles;
use crate::reap::now_ns;
use crate::sys::daemon::{Detached, Promise, detach};
use crate::sys::inherited::Inherited;
use crate::upgrade::rehearse::perform;
use clap::Parser;
use kingpole_protocol::places::{self, PlaceError};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use thiserror::Error;

/// Where the log goes with `--daemonize`.
const LOG_FILE: &str = "kernel.log";

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum StartError {
    /// The runtime directory.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Another kernel, or no lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A user that is not there.
    #[error("{0}")]
    User(String),
    /// A file or directory.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A system call.
    #[error("cannot {action}: {}", cause.desc())]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: Errno,
    },
    /// Shared memory could not be made or taken over.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// An upgrade went wrong after the point of no return.
    #[error("cannot go on where the program before stopped: {reason}")]
    Resume {
        /// Why.
        reason: String,
    },
    /// The loop could not begin.
    #[error(transparent)]
    Loop(LoopError),
    /// The loop could not go on.
    #[error(transparent)]
    Ended(LoopError),
}

impl StartError {
    /// The process's exit code for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Place(_) | Self::Lock(LockError::Io { .. }) | Self::Io { .. } => {
                Exit::RuntimeDirectory
            }
            Self::Lock(LockError::Held { .. }) => Exit::AlreadyRunning,
            Self::Listen(_) => Exit::Address,
            Self::User(_) => Exit::Usage,
            Self::System { .. } | Self::Shared(_) | Self::Resume { .. } | Self::Loop(_) => {
                Exit::System
            }
            Self::Ended(_) => Exit::Failed,
        }
    }
}

fn system(action: &'static str) -> impl FnOnce(Errno) -> StartError {
    move |cause| StartError::System { action, cause }
}

/// What both guard and kernel start from.
struct Ground {
    options: Options,
    runtime_dir: PathBuf,
    /// Where the user was: relative paths are taken from there.
    origin: PathBuf,
}

/// The whole program.
#[must_use]
pub fn main() -> Exit {
    let options = Options::parse();
    // First thing: it cannot tell what was inherited from what was opened here. Nobody but one of
    // us hands anything over, so a process that has no role closes it all.
    let inherited = Inherited::claim_all().map_err(system("look for inherited descriptors"));
    match inherited.and_then(|inherited| begin(options, inherited)) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("kingpole-kernel: {error}");
            error.exit()
        }
    }
}

fn begin(mut options: Options, inherited: Inherited) -> Result<Exit, StartError> {
    if let Some(script) = &options.rehearse {
        perform(script, inherited).map_err(system("answer"))?;
        return Ok(Exit::Done);
    }
    let origin = options
        .started_in
        .take()
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_else(|| PathBuf::from("/"));
    let runtime_dir = origin.join(places::runtime_dir(options.runtime_dir.as_deref()));
    let role = options.role.take();
    let ground = Ground {
        options,
        runtime_dir,
        origin,
    };
    match role {
        None => first(&ground, inherited),
        Some(role) => match role.part {
            Part::Guard => guarding::promoted(&ground, &role, inherited),
            Part::Kernel => serving::guarded(&ground, &role, inherited),
        },
    }
}

/// A start by a person, a manager or systemd.
fn first(ground: &Ground, inherited: Inherited) -> Result<Exit, StartError> {
    let runtime_dir = &ground.runtime_dir;
    places::prepare_runtime_dir(runtime_dir)?;
    if !ground.options.daemonize {
        return hold_ground(ground, inherited, &mut None);
    }
    // Only systemd hands anything over, and it does not want its daemons in the background.
    drop(inherited);
    // Asked before forking, so that the usual mistakes are told where they were made.
    drop(lock::take(runtime_dir)?);
    let path = runtime_dir.join(LOG_FILE);
    let io = |source| StartError::Io {
        path: path.clone(),
        source,
    };
    let log = File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(&path)
        .map_err(io)?;
    match detach(&log).map_err(system("go to the background"))? {
        Detached::Foreground(waiting) => Ok(match waiting.wait() {
            Some(0) => Exit::Done,
            code => {
                eprintln!(
                    "kingpole-kernel: it did not start; {} says why",
                    path.display()
                );
                code.map_or(Exit::Failed, Exit::from_code)
            }
        }),
        Detached::Background(promise) => {
            let mut promise = Some(promise);
            let result = hold_ground(ground, Inherited::none(), &mut promise);
            if let (Err(error), Some(promise)) = (&result, promise) {
                promise.keep(error.exit() as u8);
            }
            result
        }
    }
}

fn hold_ground(
    ground: &Ground,
    inherited: Inherited,
    promise: &mut Option<Promise>,
) -> Result<Exit, StartError> {
    let lock = lock::keep(lock::take(&ground.runtime_dir)?)?;
    let pids = PidFiles::in_directory(&ground.runtime_dir);
    // Also where no guard is asked for: dropping it would end what runs.
    let stored = guarding::stored(inherited)?;
    let is_alone = ground.options.no_guard && stored.is_none();
    if ground.options.no_guard && store::count_max() != 0 {
        let text = if is_alone {
            "systemd's descriptor store is not used: only a guard tells it what there is, and --no-guard \
             was asked for"
        } else {
            "what systemd has kept is gone on with by a guard and a kernel, although --no-guard was asked for"
        };
        stderr_log()?.line(now_ns(), text);
    }
    if stored.is_none()
        && let Some(killed) = pids.killed()
    {
        stderr_log()?.line(now_ns(), &killed.to_string());
        pids.remove();
    }
    umask(Mode::from_bits_truncate(UMASK));
    std::env::set_current_dir("/").map_err(|source| StartError::Io {
        path: "/".into(),
        source,
    })?;
    if is_alone {
        let shared = Shared::create(Some(lock))?;
        let mut original = own::prepare_limits().map_err(system("ask for a limit"))?;
        original.oom_score = None;
        pids.write_kernel(std::process::id().cast_signed());
        let exit = serving::alone(ground, shared, original, promise)?;
        pids.remove();
        return Ok(exit);
    }
    match stored {
        Some(stored) => guarding::recovered(ground, lock, stored, promise),
        None => guarding::first(ground, lock, promise),
    }
}

fn stderr_log() -> Result<Log, StartError> {
    let stderr = std::io::stderr();
    let copy = stderr.as_fd().try_clone_to_owned();
    copy.map(Log::new).map_err(|source| StartError::Io {
        path: "standard error".into(),
        source,
    })
}

const RELEASE: &str = env!("CARGO_PKG_VERSION");

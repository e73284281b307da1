//! Why a child could not be started, in words.

use nix::errno::Errno;
use thiserror::Error;

use crate::memory::ChildFailure;
use crate::sys::child::Step;

/// A child that was not started. No process is left behind by any of these.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpawnError {
    /// The plan cannot be carried out by anybody.
    #[error("{reason}")]
    Plan {
        /// What is wrong with it.
        reason: String,
    },
    /// The program is nowhere to be found.
    #[error("cmd not found: {program}")]
    NotFound {
        /// As asked for.
        program: String,
    },
    /// The program is there but the child's user may not execute it.
    #[error("cmd may not be executed: {program}: {cause}")]
    NotExecutable {
        /// As asked for.
        program: String,
        /// `EACCES`, `ENOEXEC` and the like.
        cause: Errno,
    },
    /// The working directory cannot be entered.
    #[error("{}: {directory}", directory_problem(*cause))]
    WorkingDirectory {
        /// As asked for.
        directory: String,
        /// `ENOENT`, `ENOTDIR`, `EACCES` and the like.
        cause: Errno,
    },
    /// Another step between clone and exec failed.
    #[error("cannot {}{}: {}", step_text(*step), object_text(object.as_deref()), cause.desc())]
    Step {
        /// Which.
        step: Step,
        /// On what, where there is something to name.
        object: Option<String>,
        /// Why.
        cause: Errno,
    },
    /// The kernel itself ran out of something.
    #[error("cannot {action}: {}", cause.desc())]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: Errno,
    },
    /// A slot of another layout or a damaged one.
    #[error("the child failed at a step this kernel does not know ({step}): {}", cause.desc())]
    UnknownStep {
        /// The number found.
        step: u32,
        /// Why.
        cause: Errno,
    },
}

fn directory_problem(cause: Errno) -> String {
    match cause {
        Errno::ENOENT => "working directory not there".to_owned(),
        Errno::ENOTDIR => "working directory is not a directory".to_owned(),
        cause => format!("cannot enter the working directory ({})", cause.desc()),
    }
}

fn object_text(object: Option<&str>) -> String {
    object
        .map(|object| format!(" {object}"))
        .unwrap_or_default()
}

const fn step_text(step: Step) -> &'static str {
    match step {
        Step::Session => "start a session",
        Step::MoveDescriptor => "move the source of descriptor",
        Step::PlaceDescriptor => "set descriptor",
        Step::CloseDescriptors => "close other descriptors",
        Step::Limit => "set resource limit",
        Step::OomScore => "reset the OOM score",
        Step::Groups => "set the supplementary groups",
        Step::Gid => "become group",
        Step::Uid => "become user",
        Step::WorkingDirectory => "enter",
        Step::Signals => "reset signals",
        Step::Exec => "execute",
    }
}

/// Translates what a child left in its slot. `object_of` names the object of a step, if known.
pub(super) fn child_error(
    failure: ChildFailure,
    object_of: &dyn Fn(Step, usize) -> Option<String>,
) -> SpawnError {
    let cause = Errno::from_raw(failure.errno);
    let Some((step, index)) = Step::from_number(failure.step) else {
        return SpawnError::UnknownStep {
            step: failure.step,
            cause,
        };
    };
    let object = object_of(step, index);
    let named = || object.clone().unwrap_or_else(|| "(unknown)".to_owned());
    match (step, cause) {
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => SpawnError::NotFound { program: named() },
        (Step::Exec, _) => SpawnError::NotExecutable {
            program: named(),
            cause,
        },
        (Step::WorkingDirectory, _) => SpawnError::WorkingDirectory {
            directory: named(),
            cause,
        },
        _ => SpawnError::Step {
            step,
            object,
            cause,
        },
    }
}

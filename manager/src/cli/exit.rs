//! The exit codes of `kingpole` and `kingpole-manager`. They are permanent: scripts depend on them.

use std::process::{ExitCode, ExitStatus};

/// How a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// It is done.
    Done,
    /// It failed, or was refused.
    Failed,
    /// It was not understood (also what clap exits with).
    Usage,
    /// What it is for does not run.
    NotRunning,
    /// What it is for runs, perhaps, but cannot be reached.
    CannotReach,
    /// It took too long, or was done in part.
    Unfinished,
    /// A manager ended because an essential watcher did; that one's status.
    Essential(u8),
}

/// For `--help`.
pub const HELP: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not running, 4 cannot reach, \
                        5 timed out or partly done.";

impl Exit {
    /// How a `kingpole` of ours went; one that a signal ended has failed.
    #[must_use]
    pub fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::Done,
            Some(2) => Self::Usage,
            Some(3) => Self::NotRunning,
            Some(4) => Self::CannotReach,
            Some(5) => Self::Unfinished,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::CannotReach => 4,
            Exit::Unfinished => 5,
            Exit::Essential(status) => status,
        })
    }
}

//! How one manager's program tells the next what it is for, on its command line; nothing that a
//! person types.

use clap::Args;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use crate::config::model::Configuration;
use crate::shells::place::ManagerLock;
use crate::shells::upgrade::{Resumed, probation, standby};
use std::path::Path;

#[derive(Clone, Debug, Default, Args)]
pub(super) struct Succession {
    /// Rehearse only: say whether this could be the next manager
    #[arg(long, hide = true)]
    pub(super) standby: bool,
    /// Number of the descriptor with what the program before left
    #[arg(long, hide = true, value_name = "NUMBER")]
    resume: Option<i32>,
    /// Why this is the program before again
    #[arg(long, hide = true, value_name = "TEXT", requires = "resume")]
    resume_reason: Option<String>,
}

impl Succession {
    /// Takes up what the program before left, if there was one. From then on probation ends in
    /// [`probation::pass`] or [`probation::fail`].
    pub(super) fn begin(&self) -> Result<Option<Resumed>, Failure> {
        let Some(number) = self.resume else {
            return Ok(None);
        };
        let resumed = probation::begin(number, self.resume_reason.clone());
        resumed.map(Some).map_err(Failure::failed)
    }
}

/// Being the candidate of an upgrade.
pub(super) fn stand_by(configuration: Configuration, runtime_dir: &Path) -> Outcome {
    standby::stand_by(configuration, runtime_dir).map_err(Failure::failed)?;
    Ok(Exit::Done)
}

/// The lock of the runtime directory: that of the program before, or a new one.
pub(super) fn lock(runtime_dir: &Path, resumed: Option<&Resumed>) -> Result<ManagerLock, Failure> {
    let left = resumed.map(|resumed| resumed.lock.try_clone()).transpose();
    let left = left.map_err(|error| Failure::failed(format!("manager.lock: {error}")))?;
    let lock = match left {
        Some(left) => ManagerLock::adopt(runtime_dir, left),
        None => ManagerLock::take(runtime_dir),
    };
    lock.map_err(|error| Failure::failed(error.to_string()))
}

//! From a prepared process to a guard.

use super::{Ground, StartError, own, stderr_log, system};
use crate::crash::{Victim, arm};
use crate::exit::Exit;
use crate::guard::held::Held;
use crate::guard::image::Image;
use crate::guard::role::{Original, Role};
use crate::guard::run::{Guard, Parts};
use crate::guard::shared::Shared;
use crate::pid_files::PidFiles;
use crate::sys::daemon::{Promise, take_over_title};
use crate::sys::inherited::Inherited;
use crate::sys::process::become_subreaper;
use crate::sys::trim::release_unused_code;
use std::os::fd::OwnedFd;

/// The first guard of a fresh state.
pub(super) fn first(
    ground: &Ground,
    lock: OwnedFd,
    promise: &mut Option<Promise>,
) -> Result<Exit, StartError> {
    arm(Victim::Guard);
    let shared = Shared::create(Some(lock))?;
    let mut original = own::prepare_limits().map_err(system("ask for the descriptor limit"))?;
    original.oom_score = own::protect_guard();
    guard(
        ground,
        shared,
        Held::default(),
        original,
        promise.take(),
        false,
    )
}

/// A kernel that took the place of its dead guard.
pub(super) fn promoted(
    ground: &Ground,
    role: &Role,
    mut inherited: Inherited,
) -> Result<Exit, StartError> {
    let shared = Shared::take(&mut inherited, role.shared)?;
    let held = Held::take(&shared.memory, &mut inherited);
    drop(inherited);
    if role.original.oom_score.is_some() {
        own::protect_guard();
    }
    guard(ground, shared, held, role.original, None, true)
}

fn guard(
    ground: &Ground,
    shared: Shared,
    held: Held,
    original: Original,
    promise: Option<Promise>,
    has_served: bool,
) -> Result<Exit, StartError> {
    // Before the title, which overwrites the arguments.
    let image = Image::of_this_process(&ground.origin).map_err(system("find its own program"))?;
    if let Ok(mut title) = take_over_title() {
        title.set("kingpole-kernel: guard");
    }
    become_subreaper().map_err(system("adopt orphaned descendants"))?;
    let signals = own::signals().map_err(system("wait for signals"))?;
    let parts = Parts {
        shared,
        held,
        image,
        original,
        signals,
        log: stderr_log()?,
        pids: PidFiles::in_directory(&ground.runtime_dir),
        promise,
        has_served,
    };
    release_unused_code();
    Guard::new(parts).run().map_err(system("wait for anything"))
}

//! From a prepared process to a guard.

use super::going_back::{WayBack, go_back, read_failure};
use super::{Ground, StartError, own, stderr_log, system};
use crate::crash::{Victim, arm, resume_stage};
use crate::exit::Exit;
use crate::guard::held::Held;
use crate::guard::image::Image;
use crate::guard::role::{Original, Role};
use crate::guard::run::{Guard, Parts};
use crate::guard::shared::Shared;
use crate::guard::store::{HandedBack, handed_back};
use crate::memory::Epoch;
use crate::notify::notify;
use crate::pid_files::PidFiles;
use crate::reap::now_ns;
use crate::sys::alarm;
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
    let mut parts = parts(ground, shared, original)?;
    parts.promise = promise.take();
    release_unused_code();
    Guard::new(parts).run().map_err(system("wait for anything"))
}

/// What systemd's descriptor store has kept of a guard and a kernel that died together.
pub(super) struct Stored {
    shared: Shared,
    held: Held,
}

/// Takes it, if this process was handed it and can use it.
pub(super) fn stored(mut inherited: Inherited) -> Result<Option<Stored>, StartError> {
    let HandedBack {
        shared: Some(numbers),
        held,
    } = handed_back()
    else {
        return Ok(None);
    };
    let shared = match Shared::take(&mut inherited, numbers) {
        Ok(shared) => shared,
        Err(error) => {
            let text =
                format!("systemd's descriptor store: what it has kept is of no use: {error}");
            stderr_log()?.line(now_ns(), &text);
            return Ok(None);
        }
    };
    let memory = &shared.memory;
    memory.replace_held(held);
    // Whoever was a child of theirs is somebody else's now.
    memory.set_min_epoch(Epoch(memory.epoch().0.saturating_add(1)));
    let held = Held::take(memory, &mut inherited);
    let text = format!(
        "the kernel before this one (pid {}) was killed together with its guard (pid {}); systemd has \
         kept {} descriptors of them: going on with those",
        memory.kernel_pid(),
        memory.guard_pid(),
        held.len()
    );
    stderr_log()?.line(now_ns(), &text);
    Ok(Some(Stored { shared, held }))
}

/// A guard that goes on with that.
pub(super) fn recovered(
    ground: &Ground,
    lock: OwnedFd,
    stored: Stored,
    promise: &mut Option<Promise>,
) -> Result<Exit, StartError> {
    let Stored { mut shared, held } = stored;
    shared.lock = Some(lock);
    let mut original = own::prepare_limits().map_err(system("ask for the descriptor limit"))?;
    original.oom_score = own::protect_guard();
    let mut parts = parts(ground, shared, original)?;
    parts.held = held;
    parts.promise = promise.take();
    release_unused_code();
    Guard::new(parts).run().map_err(system("wait for anything"))
}

/// A kernel that took the place of its dead guard, or the next program of a guard.
pub(super) fn promoted(
    ground: &Ground,
    role: &Role,
    mut inherited: Inherited,
) -> Result<Exit, StartError> {
    if role.kernel.is_some() && role.failure.is_none() {
        arm(Victim::NextGuard);
    }
    let numbers = inherited.numbers().collect::<Vec<_>>();
    // Before the title, which overwrites the arguments.
    let image = Image::of_this_process(&ground.origin).map_err(system("find its own program"))?;
    let way_back = WayBack::arrange(&image, role, &inherited, &numbers);
    let resumed = resume(ground, role, &mut inherited);
    // It can only hold and start from here on; before, it has changed nothing.
    drop(way_back);
    match resumed {
        Ok(guard) => {
            alarm::cancel();
            if role.kernel.is_none() {
                // The one that systemd has started is dead: this is the process to watch now.
                notify(&format!("MAINPID={}", std::process::id()));
            }
            drop((inherited, image));
            release_unused_code();
            guard.run().map_err(system("wait for anything"))
        }
        Err(error) => Err(go_back(&image, role, &inherited, &numbers, error)),
    }
}

/// Goes on with a table of held descriptors. Whatever fails, every descriptor is still open.
fn resume(ground: &Ground, role: &Role, inherited: &mut Inherited) -> Result<Guard, StartError> {
    let stage = |name| resume_stage(name).map_err(system("go on as the guard"));
    stage("guard: shared memory")?;
    let shared = Shared::copy(inherited, role.shared)?;
    let copy = |number: Option<i32>| match number {
        Some(number) => inherited
            .copy(number)
            .map(Some)
            .map_err(system("take over what the program before left")),
        None => Ok(None),
    };
    let kernel = role.kernel.zip(copy(role.link)?);
    let (binary, previous) = (copy(role.binary)?, copy(role.previous)?);
    let note = role.failure.map(|number| {
        let reason = read_failure(inherited, number);
        format!("the new program could not go on as the guard: {reason}; this one does")
    });
    let mut parts = parts(ground, shared, role.original)?;
    stage("guard: ready")?;
    if role.original.oom_score.is_some() {
        own::protect_guard();
    }
    if let Some(binary) = binary {
        parts.image = parts.image.with_binary(binary);
    }
    // Last, as these are taken and not copied.
    parts.held = Held::take(&parts.shared.memory, inherited);
    parts.has_served = true;
    parts.kernel = kernel;
    parts.previous = previous;
    parts.note = note;
    Ok(Guard::new(parts))
}

/// A guard that holds nothing yet and has no kernel.
fn parts(ground: &Ground, shared: Shared, original: Original) -> Result<Parts, StartError> {
    // Before the title, which overwrites the arguments.
    let image = Image::of_this_process(&ground.origin).map_err(system("find its own program"))?;
    if let Ok(mut title) = take_over_title() {
        title.set("kingpole-kernel: guard");
    }
    become_subreaper().map_err(system("adopt orphaned descendants"))?;
    let signals = own::signals().map_err(system("wait for signals"))?;
    Ok(Parts {
        shared,
        held: Held::default(),
        image,
        original,
        signals,
        log: stderr_log()?,
        pids: PidFiles::in_directory(&ground.runtime_dir),
        promise: None,
        has_served: false,
        kernel: None,
        previous: None,
        note: None,
    })
}

//! From a prepared process to a kernel that serves.

use super::beginning::Beginning;
use super::going_back::{WayBack, go_back};
use super::{Ground, RELEASE, StartError, own, stderr_log, system};
use crate::crash::{Victim, arm, resume_stage};
use crate::event_loop::{
    Detail, Heirloom, Inheritance, Kernel, Parts, Permissions, Resumption, Rings, Succession,
    open_all,
};
use crate::exit::Exit;
use crate::guard::image::Image;
use crate::guard::role::{Original, Role};
use crate::guard::shared::Shared;
use crate::notify::notify;
use crate::peer::Guests;
use crate::reap::now_ns;
use crate::state::About;
use crate::sys::alarm;
use crate::sys::daemon::{Promise, take_over_title};
use crate::sys::inherited::Inherited;
use crate::sys::process::become_subreaper;
use crate::sys::trim::release_unused_code;
use crate::upgrade::witness::Witnessed;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::mem::ManuallyDrop;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// The kernel of a guard.
pub(super) fn guarded(
    ground: &Ground,
    role: &Role,
    mut inherited: Inherited,
) -> Result<Exit, StartError> {
    if let Some(number) = role.saved {
        return upgraded(ground, role, inherited, number);
    }
    let beginning = Beginning::after_a_kill(role, &mut inherited)?;
    drop(inherited);
    own::protect_kernel(&role.original);
    serve(ground, beginning, &mut None)
}

/// The next image of a kernel that is upgraded, or the one before again because that one failed.
fn upgraded(
    ground: &Ground,
    role: &Role,
    mut inherited: Inherited,
    saved: i32,
) -> Result<Exit, StartError> {
    if role.failure.is_none() {
        arm(Victim::NextImage);
    }
    resume_stage("resume: start").map_err(system("resume: start"))?;
    let numbers = inherited.numbers().collect::<Vec<_>>();
    // Before the title, which overwrites the arguments.
    let image = Image::of_this_process(&ground.origin).map_err(system("find its own program"))?;
    let mut way_back = WayBack::arrange(&image, role, &inherited, &numbers);
    let has_guard = role.link.is_some();
    let witness = role.witness.and_then(|number| inherited.take(number));
    let is_watched = has_guard || witness.is_some();
    let point_of_no_return = || {
        // From here on a guard or a witness has to start the program before if this one hangs. A program
        // before that left neither is of a release before there were witnesses: then nobody could, and
        // ending this one would lose everything.
        drop(way_back.take());
        if !is_watched {
            alarm::cancel();
        }
    };
    match resume(ground, role, &mut inherited, saved, point_of_no_return) {
        Ok(kernel) => {
            // Copies, and what nobody claimed.
            drop(inherited);
            drop(image);
            // The memory of code is given back when it is quiet: clients wait now.
            let started = || {
                alarm::cancel();
                if let Some(witness) = witness {
                    Witnessed::new(witness).dismiss();
                }
            };
            kernel.run(started).map_err(StartError::Ended)?;
            Ok(Exit::Done)
        }
        Err(error) => {
            drop(way_back);
            Err(go_back(&image, role, &inherited, &numbers, error))
        }
    }
}

/// Goes on where the image before stopped. Whatever fails, every descriptor is still open.
fn resume(
    ground: &Ground,
    role: &Role,
    inherited: &mut Inherited,
    number: i32,
    point_of_no_return: impl FnOnce(),
) -> Result<Kernel, StartError> {
    let beginning = Beginning::after_an_upgrade(role, inherited, number)?;
    prepare(ground, beginning, point_of_no_return)
}

/// A kernel without a guard.
pub(super) fn alone(
    ground: &Ground,
    shared: Shared,
    original: Original,
    promise: &mut Option<Promise>,
) -> Result<Exit, StartError> {
    let beginning = Beginning {
        shared,
        held: BTreeMap::new(),
        polled: None,
        link: None,
        original,
        resumption: None,
    };
    serve(ground, beginning, promise)
}

fn serve(
    ground: &Ground,
    beginning: Beginning,
    promise: &mut Option<Promise>,
) -> Result<Exit, StartError> {
    let has_guard = beginning.link.is_some();
    arm(Victim::Kernel(
        beginning.shared.memory.epoch().0.saturating_add(1),
    ));
    let kernel = prepare(ground, beginning, || {})?;
    let started = || {
        if let Some(promise) = promise.take() {
            promise.keep(Exit::Done as u8);
        }
        if !has_guard {
            notify("READY=1");
        }
        release_unused_code();
    };
    kernel.run(started).map_err(StartError::Ended)?;
    Ok(Exit::Done)
}

/// Everything up to a kernel that only has to run. Whatever fails, what was inherited is left open;
/// nothing fails after `point_of_no_return`.
fn prepare(
    ground: &Ground,
    beginning: Beginning,
    point_of_no_return: impl FnOnce(),
) -> Result<Kernel, StartError> {
    let Beginning {
        shared,
        held,
        polled,
        link,
        original,
        resumption,
    } = beginning;
    let mut held = ManuallyDrop::new(held);
    let resumption = ManuallyDrop::new(resumption);
    let Ground {
        options,
        runtime_dir,
        origin,
    } = ground;
    // Before the title, which overwrites the arguments.
    let image = Image::of_this_process(origin).map_err(system("find its own program"))?;
    resume_stage("resume: program").map_err(system("resume: program"))?;
    let installed = installed_path(resumption.as_ref());
    let title = take_over_title().ok();
    become_subreaper().map_err(system("adopt orphaned descendants"))?;
    let uid = nix::unistd::geteuid().as_raw();
    let guests = Guests::new(uid, &options.allow_user).map_err(StartError::User)?;
    let permissions = permissions(ground)?;
    let signals = own::signals().map_err(system("wait for signals"))?;
    let mut log = stderr_log()?;
    let has_guard = link.is_some();
    let is_first = shared.memory.epoch().0 == 0;
    let listens = options.addresses(origin);
    let about = About {
        release: RELEASE.to_owned(),
        pid: std::process::id().cast_signed(),
        guard_pid: if has_guard {
            shared.memory.guard_pid()
        } else {
            0
        },
        uid,
        gid: nix::unistd::getegid().as_raw(),
        generation: resumption.as_ref().map_or(1, generation_of),
        descriptors_limit: own::descriptors_limit()
            .map_err(system("ask for the descriptor limit"))?,
        original_limits: own::original_limits(&original),
        instance: instance(),
        started_ns: now_ns(),
        ..About::default()
    };
    let listeners = open_all(runtime_dir, &listens, permissions, &mut held, |missing| {
        log.line(now_ns(), &missing);
    })?;
    if is_first {
        for listener in &listeners {
            log.line(now_ns(), &format!("listening on {}", listener.address));
        }
    }
    if let Some(listener) = listeners.first() {
        let path = listener.address.to_string();
        let path = path.strip_prefix("unix:").unwrap_or(&path);
        log.line(
            now_ns(),
            &format!("kingpole-kernel {RELEASE} serves {path}"),
        );
    }
    let detail = if options.debug {
        Detail::Debug
    } else {
        Detail::Normal
    };
    let parts = Parts {
        about,
        listeners,
        guests,
        signals,
        log,
        detail,
        title,
        link,
        heirloom: Some(Heirloom {
            image,
            installed,
            original,
            lock: shared.lock,
            ended: shared.ended,
        }),
        resumption: ManuallyDrop::into_inner(resumption),
        polled,
    };
    let (succession, rings) = if parts.resumption.is_some() {
        (Succession::Upgrade, Rings::AsRecorded)
    } else {
        (Succession::Crash, Rings::Unknown)
    };
    let inheritance = Inheritance {
        state: shared.memory,
        journal: shared.journal,
        bounce: shared.bounce,
        held: ManuallyDrop::into_inner(held),
        rings,
    };
    let (kernel, _) = Kernel::adopt(parts, inheritance, succession, point_of_no_return)
        .map_err(StartError::Loop)?;
    Ok(kernel)
}

/// Images that have served in this process, this one included.
fn generation_of(resumption: &Resumption) -> u64 {
    let before = resumption.saved.head.generation;
    match resumption.failure {
        // The one in between never served.
        Some(_) => before,
        None => before.saturating_add(1),
    }
}

/// Where the program that runs was found. Linux appends a word when it is not there any more.
fn installed_path(resumption: Option<&Resumption>) -> PathBuf {
    if let Some(resumption) = resumption
        && resumption.failure.is_none()
    {
        return PathBuf::from(&resumption.saved.head.path);
    }
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let text = path.to_string_lossy();
    PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text))
}

/// Users other than the owner can only reach the socket if they may pass the directory.
fn permissions(ground: &Ground) -> Result<Permissions, StartError> {
    if ground.options.allow_user.is_empty() {
        return Ok(Permissions::Owner);
    }
    let directory = &ground.runtime_dir;
    let io = |source| StartError::Io {
        path: directory.clone(),
        source,
    };
    let mode = std::fs::metadata(directory).map_err(io)?.mode() & 0o777;
    let passable = std::fs::Permissions::from_mode(mode | 0o011);
    std::fs::set_permissions(directory, passable).map_err(io)?;
    Ok(Permissions::Everybody)
}

/// Tells a fresh state from every other: random, and never 0.
fn instance() -> u64 {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    let random = match read {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => now_ns() ^ u64::from(std::process::id()).rotate_left(40),
    };
    random.max(1)
}

//! What must hold in the middle of a rolling run, looked at after each decision.

use super::world::World;
use crate::engine::ids::Moment;
use crate::engine::limits::PROVEN_BY_UPTIME;
use crate::engine::remember::StopCause;
use crate::engine::watcher::Watcher;
use crate::engine::worker::Child;
use crate::engine::{Action, ProcessId};

/// A run never stops a process that is ready where too few would be left, and never has more
/// processes than it may.
pub(super) fn check(world: &mut World) -> Result<(), String> {
    let Some(engine) = &world.engine else {
        return Ok(());
    };
    let mut seen = Vec::new();
    for watcher in engine.watchers.values() {
        let mut stopped_ready = None;
        for (process, child) in watcher.children.iter() {
            if !child.stopping() || world.asked.contains(&process) {
                continue;
            }
            seen.push(process);
            let cause = watcher.memory().stop_of(process).map(|how| how.cause);
            if cause == Some(StopCause::Unwanted) && was_ready(watcher, child, world.now) {
                stopped_ready = Some(process);
            }
        }
        let Some(rolling) = &watcher.memory().rolling else {
            continue;
        };
        // What was stopped in the same breath before the run began is not its doing.
        let settled = watcher
            .children
            .iter()
            .filter(|(process, child)| !child.stopping() && *process <= rolling.through);
        let settled = u32::try_from(settled.count()).unwrap_or(u32::MAX);
        if rolling.back.is_none() && settled >= rolling.to_replace {
            continue;
        }
        let singleton = watcher.config.singleton;
        let min_active = usize::try_from(rolling.limits.min_active).unwrap_or(usize::MAX);
        let floor = if singleton {
            0
        } else {
            min_active.min(watcher.target())
        };
        let ready = watcher.children.values().filter(|child| !child.stopping());
        let ready = ready
            .filter(|child| was_ready(watcher, child, world.now))
            .count();
        if let Some(process) = stopped_ready
            && ready < floor
        {
            return Err(format!(
                "a rolling run of {} stopped process {process}, and {ready} ready ones are left, \
                 not {floor}",
                watcher.key
            ));
        }
    }
    let known = |process: &ProcessId| {
        let mut watchers = engine.watchers.values();
        world.kernel.processes.contains_key(process)
            || watchers.any(|watcher| watcher.children.contains(*process))
    };
    world.asked.retain(known);
    world.asked.extend(seen);
    Ok(())
}

/// Never more than the number and the extra ones.
pub(super) fn check_spawn(world: &World, action: &Action) -> Result<(), String> {
    let (Action::Spawn(request), Some(engine)) = (action, &world.engine) else {
        return Ok(());
    };
    let watcher = engine.watchers.get(&request.watcher);
    // A hook may say yes when it is not needed any more.
    let Some(watcher) = watcher.filter(|it| it.config.hooks.is_empty()) else {
        return Ok(());
    };
    let Some(rolling) = &watcher.memory().rolling else {
        return Ok(());
    };
    let surge = usize::try_from(rolling.limits.max_surge.max(1)).unwrap_or(usize::MAX);
    let most = match watcher.config.singleton {
        true => watcher.target(),
        false => watcher.target() + surge,
    };
    let all = watcher.children.len() + watcher.spawning.len();
    if all <= most {
        Ok(())
    } else {
        Err(format!(
            "{} has {all} processes in a run, not {most}",
            watcher.key
        ))
    }
}

fn was_ready(watcher: &Watcher, child: &Child, now: Moment) -> bool {
    let lived = watcher.config.warmup_delay.max(PROVEN_BY_UPTIME);
    let proven = watcher.config.ready.probe.is_some() || child.started + lived <= now;
    let after_spawn = !watcher.memory().unproven.contains(&child.worker());
    proven && after_spawn && child.progress.is_ready()
}

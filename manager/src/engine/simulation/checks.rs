//! What must be true once faults have stopped, and what must have been true all along.

use std::collections::BTreeSet;
use std::time::Duration;

use super::kernel::SimProcess;
use super::operators::{self, Presence};
use super::scenario::{EXTRA, Mood, extra};
use super::world::{Chapter, Heard, World};
use crate::command::{Change, Command, Stopping};
use crate::config::model::WatcherConfig;
use crate::engine::WatcherKey;
use crate::engine::labels;
use crate::engine::remember::{Memory, Run, StopReason};
use crate::engine::watcher::{Stage, Standing, Watcher};

/// How long the world may take to come to rest: the longest back-off and graceful timeout, some
/// rounds of them.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long it is watched at rest.
const REST: Duration = Duration::from_secs(3600);
/// How often the engine may wake up during [`REST`].
const POLLS_AT_REST_MAX: u64 = 50;

/// Lets the world come to rest, checks it, and checks that it stays so.
pub(super) fn settle_down(world: &mut World) -> Result<(), String> {
    world.kernel.calm_down(world.now);
    world.hooks.calm_down();
    world.probes.calm_down();
    world.note(|| "--- faults stop".to_owned());
    let limit = world.now + PATIENCE;
    let mut resumed = None;
    loop {
        world.keep_a_manager()?;
        if world.session.is_none() {
            world.connect()?;
        }
        // Again over each connection: a manager that is leaving refuses it.
        if resumed.replace(world.kernel.epoch) != Some(world.kernel.epoch) {
            world.give(Command::Resume(Change::default()))?;
        }
        run_dry(world)?;
        match at_rest(world) {
            Ok(()) => break,
            Err(problem) => {
                if world.session.is_some() && !world.jump(limit)? {
                    let engine = world.engine.as_ref();
                    let stands: Vec<String> = engine
                        .into_iter()
                        .flat_map(|engine| engine.watchers.values())
                        .map(|it| {
                            let (name, stage, turn) = (&it.config.name, it.stage, it.turn);
                            let (awaits, standing) = (&it.awaiting, it.standing);
                            format!("{name}: {standing:?} {stage:?} {turn:?} {awaits:?}")
                        })
                        .collect();
                    return Err(format!("never came to rest: {problem}; {stands:?}"));
                }
            }
        }
    }
    world.note(|| "--- at rest".to_owned());
    stays_at_rest(world)?;
    come_to_all(world)?;
    throughout(world)
}

/// Lets somebody connect wherever a connection is waited for: those who waited want to run then.
/// (What they come to is another matter: they may flap, and wait for the next connection.)
fn come_to_all(world: &mut World) -> Result<(), String> {
    let limit = world.now + PATIENCE;
    let mut resting = world
        .session
        .as_ref()
        .map_or(0, |session| session.awaited.len());
    let waiting: Vec<WatcherKey> = world.engine.as_ref().map_or_else(Vec::new, |engine| {
        let watchers = engine.watchers.values().filter(|watcher| {
            watcher.is_armed()
                && watcher.rests()
                && !engine.cx.sockets.ready_for(&watcher.uses).is_empty()
        });
        watchers.map(|watcher| watcher.key.clone()).collect()
    });
    while resting > 0 {
        world.somebody_connects();
        resting -= 1;
    }
    run_dry(world)?;
    let engine = world.engine.as_ref().ok_or("there is no manager")?;
    for key in waiting {
        if engine.watchers.get(&key).is_some_and(Watcher::rests) {
            return Err(format!("a connection came, and {key} rests"));
        }
    }
    while let Err(problem) = at_rest(world) {
        if !world.jump(limit)? {
            return Err(format!(
                "a connection came, and there was no rest: {problem}"
            ));
        }
        run_dry(world)?;
    }
    Ok(())
}

/// Delivers everything that is on its way.
fn run_dry(world: &mut World) -> Result<(), String> {
    for _ in 0..100_000 {
        let Some(session) = &world.session else {
            return Ok(());
        };
        if session.outgoing.is_empty() && session.incoming.is_empty() {
            return Ok(());
        }
        world.deliver_to_kernel()?;
        world.deliver_to_engine()?;
    }
    Err("kernel and manager never stop talking".to_owned())
}

fn stays_at_rest(world: &mut World) -> Result<(), String> {
    if world
        .configuration
        .watchers
        .iter()
        .any(|watcher| watcher.max_age.is_some() || watcher.max_rss.is_some())
    {
        return Ok(());
    }
    let limit = world.now + REST;
    let (spawns, signals, polls) = (
        world.kernel.history.spawns,
        world.kernel.history.signals,
        world.polls,
    );
    while world.jump(limit)? {
        run_dry(world)?;
        let looks =
            |watcher: &WatcherConfig| watcher.alive.probe.is_some() || watcher.watchdog.is_some();
        let looks = world.configuration.watchers.iter().any(looks);
        if !looks && world.polls - polls > POLLS_AT_REST_MAX {
            return Err("the engine does not rest".to_owned());
        }
    }
    let history = &world.kernel.history;
    // Where the kernel refused to remember a stop, the next manager may still see its consequence.
    let forgotten = history.refusals > 0;
    if !forgotten && (history.spawns, history.signals) != (spawns, signals) {
        return Err("processes were started or signalled for no reason".to_owned());
    }
    // The hour may have ended in the middle of a look at a process.
    let limit = world.now + REST;
    while !world.probes.idle() && world.jump(limit)? {
        run_dry(world)?;
    }
    at_rest(world)
}

/// What must be true now.
fn at_rest(world: &World) -> Result<(), String> {
    if let Some(command) = world.waiting.keys().next() {
        let watchers = world
            .engine
            .iter()
            .flat_map(|engine| engine.watchers.values());
        let busy: Vec<String> = watchers
            .filter(|watcher| watcher.memory().current.is_some())
            .map(|it| {
                format!(
                    "{}: {:?}, waits: {:?}",
                    it.key,
                    it.memory().current,
                    it.awaiting
                )
            })
            .collect();
        return Err(format!("command {command} has no answer; busy: {busy:?}"));
    }
    for config in world.configuration.watchers.iter().chain([&extra()]) {
        check_watcher(world, config)?;
    }
    let engine = world.engine.as_ref().ok_or("there is no manager")?;
    for watcher in engine.watchers.values() {
        let memory = watcher.memory();
        if watcher.standing == Standing::Removed(Stopping::Leave) {
            continue;
        }
        if watcher.until().is_some() {
            return Err(format!("{} is there for a while only", watcher.key));
        }
        check_answering(world, &watcher.config, &watcher.key)?;
        let ready = if watcher.wanted() && watcher.awaiting.is_some() {
            watcher.empty()
        } else if watcher.wanted() {
            watcher.complete(&engine.cx)
        } else {
            watcher.empty()
        };
        let ageing = watcher.config.max_age.is_some();
        let idle = memory.current.is_none()
            && memory.queue.is_empty()
            && (ageing || memory.stopping.is_empty() && memory.stopping_through.is_none());
        let idle = idle
            && watcher.hooks.idle()
            && (!memory.admitted || watcher.awaiting.is_some())
            && memory.unproven.is_empty();
        let idle = idle && memory.starting.is_empty();
        if watcher.flapping_until().is_some() {
            return Err(format!("{} flaps", watcher.key));
        }
        if !ready || !idle || memory.rollout.is_some() || memory.rolling.is_some() {
            return Err(format!(
                "{} is still busy ({:?}, turn {:?}, {:?}): {memory:?}",
                watcher.key, watcher.stage, watcher.turn, watcher.hooks
            ));
        }
    }
    for process in world
        .kernel
        .processes
        .values()
        .filter(|it| !it.held.labels.is_empty())
    {
        let owner = process
            .held
            .labels
            .get(labels::WATCHER)
            .cloned()
            .unwrap_or_default();
        if world.configuration.watcher(&owner).is_none() && owner != WatcherKey::of(EXTRA).as_str()
        {
            return Err(format!(
                "{} is held although nobody wants it",
                process.held.name
            ));
        }
        if process.held.ended.is_some() {
            return Err(format!(
                "the end of {} was never acknowledged",
                process.held.id
            ));
        }
    }
    for key in world.kernel.values.keys() {
        let watcher = key.strip_prefix("kingpole.sim.watcher.").unwrap_or(key);
        let extra = world.model().words(&WatcherKey::of(EXTRA));
        let gone = extra
            .presence
            .iter()
            .all(|it| matches!(it, Presence::Gone(_)));
        let extra = watcher == WatcherKey::of(EXTRA).as_str() && !gone;
        if world.configuration.watcher(watcher).is_none() && !extra {
            return Err(format!("value {key} is obsolete"));
        }
    }
    for socket in &world.configuration.sockets {
        if !world.kernel.sockets.contains(&socket.kernel_socket_name()) {
            return Err(format!("socket {} is missing", socket.name));
        }
    }
    if !world.probes.idle() {
        return Err("a probe has not been answered".to_owned());
    }
    if !world.hooks.idle() {
        return Err("a hook has not answered".to_owned());
    }
    check_proofs(world)?;
    check_replacements(world)
}

/// `after_spawn` has answered for every process, whoever started it.
fn check_proofs(world: &World) -> Result<(), String> {
    if world.kernel.history.refusals > 0 {
        return Ok(());
    }
    for config in &world.configuration.watchers {
        let key = WatcherKey::of(&config.name);
        if !config.hooks.contains_key("after_spawn") || world.hooks.removed.contains(&key) {
            continue;
        }
        if let Some(process) =
            live_of(world, &key).find(|it| !world.hooks.proven.contains(&it.held.pid))
        {
            return Err(format!("{} was never proven", process.held.name));
        }
    }
    Ok(())
}

fn live_of<'a>(world: &'a World, key: &'a WatcherKey) -> impl Iterator<Item = &'a SimProcess> {
    world.kernel.live().filter(move |process| {
        process.held.labels.get(labels::WATCHER).map(String::as_str) == Some(key.as_str())
    })
}

fn check_watcher(world: &World, config: &WatcherConfig) -> Result<(), String> {
    let key = WatcherKey::of(&config.name);
    let words = world.model().words(&key);
    let live = live_of(world, &key).count();
    let presences = words.presences(config);
    let may_be_gone = presences.iter().any(|it| match it {
        Presence::There => false,
        Presence::Gone(_) => live == 0,
        Presence::Left(_) => true,
    });
    if may_be_gone {
        return Ok(());
    }
    if !presences.contains(&Presence::There) {
        return Err(format!("{key} was removed and has {live} processes"));
    }
    check_options(world, &key, &words.args(config))?;
    if live == 0 && lacks_dependency(world, &key) {
        return Ok(());
    }
    let watcher = world
        .engine
        .as_ref()
        .and_then(|engine| engine.watchers.get(&key));
    let ended_for_good = match watcher.and_then(|watcher| watcher.memory().run.as_ref()) {
        Some(Run::Stopped(StopReason::GaveUp { .. })) => {
            let failures = &world.kernel.history.permanent_failures;
            failures.contains(key.as_str()) || world.hooks.refused.contains(&key)
        }
        Some(Run::Stopped(StopReason::Flapping { until: None, .. })) => {
            world.configuration.flapping.is_some() && history_has_ends(world)
        }
        Some(Run::Stopped(StopReason::Flapping { until: Some(_), .. })) => false,
        Some(Run::Stopped(StopReason::Finished)) => !config.respawn,
        Some(Run::Stopped(StopReason::Command) | Run::Running) | None => false,
    };
    if ended_for_good {
        return if live == 0 {
            Ok(())
        } else {
            Err(format!("{key} ended but has {live}"))
        };
    }
    if config.on_demand && watcher.is_some_and(Watcher::rests) {
        return check_resting(world, config, live);
    }
    let counts = words.counts(config);
    let good = words
        .runs(config)
        .into_iter()
        .any(|runs| match (runs, config.respawn) {
            (false, _) => live == 0,
            (true, true) => counts
                .iter()
                .any(|count| usize::try_from(*count) == Ok(live)),
            (true, false) => counts
                .iter()
                .any(|count| usize::try_from(*count).is_ok_and(|count| live <= count)),
        });
    if good {
        Ok(())
    } else {
        Err(format!(
            "{key} has {live} processes; operators said {words:?}"
        ))
    }
}

/// A watcher that waits for a connection has what is left of its processes, and would hear of one.
fn check_resting(world: &World, config: &WatcherConfig, live: usize) -> Result<(), String> {
    let key = WatcherKey::of(&config.name);
    let engine = world.engine.as_ref().ok_or("there is no manager")?;
    let watcher = engine.watchers.get(&key).ok_or("it is unknown")?;
    if live > usize::try_from(watcher.count()).unwrap_or(usize::MAX) {
        return Err(format!("{key} rests with {live} processes"));
    }
    let sockets = engine.cx.sockets.ready_for(&watcher.uses);
    let awaited = world.session.as_ref().map(|session| &session.awaited);
    if watcher.is_armed() && !awaited.is_some_and(|awaited| sockets.is_subset(awaited)) {
        return Err(format!("{key} rests and would not hear of a connection"));
    }
    Ok(())
}

/// Whether something that a watcher depends on is missing or has nothing that runs.
fn lacks_dependency(world: &World, key: &WatcherKey) -> bool {
    let engine = world.engine.as_ref();
    let Some(watcher) = engine.and_then(|engine| engine.watchers.get(key)) else {
        return false;
    };
    let mut names = watcher.config.depends_on.iter();
    names.any(|name| {
        let other = WatcherKey::of(name);
        let engine = engine.and_then(|engine| engine.watchers.get(&other));
        engine.is_none_or(|other| other.stage != Stage::Up)
    })
}

/// Nothing hangs where somebody looks.
fn check_answering(world: &World, config: &WatcherConfig, key: &WatcherKey) -> Result<(), String> {
    if config.alive.probe.is_none() {
        return Ok(());
    }
    let hangs = |process: &&SimProcess| !world.kernel.is_ready(process.held.id, world.now);
    match live_of(world, key).find(hangs) {
        Some(process) => Err(format!("{} hangs and is left alone", process.held.name)),
        None => Ok(()),
    }
}

/// Whether any process ended by itself, without which nothing flaps.
fn history_has_ends(world: &World) -> bool {
    world
        .kernel
        .history
        .ends
        .values()
        .any(|by_itself| *by_itself)
}

/// It is what operators and the file made it, and so are its processes.
fn check_options(world: &World, key: &WatcherKey, args: &BTreeSet<String>) -> Result<(), String> {
    let engine = world.engine.as_ref().ok_or("there is no manager")?;
    let Some(watcher) = engine.watchers.get(key) else {
        return Err(format!("{key} is not known"));
    };
    if !args.contains(&watcher.config.args) {
        return Err(format!(
            "{key} has args {:?}, not one of {args:?}",
            watcher.config.args
        ));
    }
    // A hook that refuses the new ones leaves the old ones.
    let refused = world.hooks.refused.contains(key);
    if watcher.wanted() && watcher.has_outdated() && !refused {
        return Err(format!("{key} has processes of other options"));
    }
    Ok(())
}

/// What was to be replaced is gone.
fn check_replacements(world: &World) -> Result<(), String> {
    for (place, chapter) in world.story.iter().enumerate() {
        let Chapter::Command {
            command,
            heard: Heard::Yes,
            configuration,
            newest,
        } = chapter
        else {
            continue;
        };
        if !matches!(command, Command::Restart(_) | Command::Reload(_)) {
            continue;
        }
        for config in operators::meant(command, configuration) {
            let key = WatcherKey::of(&config.name);
            let Some(newest) = newest.get(&key) else {
                continue;
            };
            let overruled = world
                .story
                .iter()
                .enumerate()
                .any(|(at, other)| match other {
                    Chapter::Command { command, .. } => match command {
                        // One that was removed before is not meant.
                        Command::Rm(_) => true,
                        Command::Quit(_) | Command::Shutdown(_) => at > place,
                        _ => false,
                    },
                    Chapter::Configured(configuration) => {
                        at > place && configuration.watcher(key.as_str()).is_none()
                    }
                    Chapter::Left { .. } | Chapter::Wiped => false,
                });
            if world.hooks.refused.contains(&key) {
                // A reload whose new processes are refused is undone.
                continue;
            }
            let old = live_of(world, &key).find(|process| process.held.id <= *newest);
            if let Some(old) = old.filter(|_| !overruled) {
                return Err(format!("{} of {key} was to be replaced", old.held.id));
            }
        }
    }
    Ok(())
}

/// What must have been true all along.
fn throughout(world: &World) -> Result<(), String> {
    let history = &world.kernel.history;
    for process in history.ends.keys() {
        let pid = u32::try_from(process.0).unwrap_or(u32::MAX) + 1000;
        if !world.reaps.keys().any(|reaped| reaped.0 == pid) {
            return Err(format!("nobody was told of the end of {process}"));
        }
    }
    if world.mood == Mood::Quiet {
        if history.signals > 0 {
            return Err(format!(
                "{} signals although nobody asked for any",
                history.signals
            ));
        }
        check_counted_once(world)?;
        check_back_off(world)?;
    }
    Ok(())
}

/// Each end has had its effect once: the remembered counts add up.
fn check_counted_once(world: &World) -> Result<(), String> {
    let counted: u64 = world
        .kernel
        .values
        .values()
        .filter_map(|value| Memory::from_value(value).ok())
        .map(|memory| memory.restarts)
        .sum();
    let ends = u64::try_from(world.kernel.history.ends.len()).unwrap_or(u64::MAX);
    if counted == ends {
        Ok(())
    } else {
        Err(format!("{ends} processes ended, {counted} were counted"))
    }
}

/// No worker came back sooner than its back-off allows, whoever managed it.
fn check_back_off(world: &World) -> Result<(), String> {
    for config in &world.configuration.watchers {
        let names: BTreeSet<&String> = world
            .kernel
            .history
            .lives
            .keys()
            .filter(|name| name.starts_with(&format!("circus.{}.", config.key())))
            .collect();
        for name in names {
            let mut failures = 0;
            let mut previous = None;
            for life in world.kernel.history.lives.get(name).into_iter().flatten() {
                if let Some(ended) = previous {
                    let waited = life.started.since(ended);
                    let least = config.backoff.delay(failures);
                    if waited < least {
                        return Err(format!("{name} came back after {waited:?}, not {least:?}"));
                    }
                }
                let Some(ended) = life.ended else { break };
                let short = ended.since(life.started) < config.backoff.reset_after;
                failures = if short { failures + 1 } else { 0 };
                previous = Some(ended);
            }
        }
    }
    Ok(())
}

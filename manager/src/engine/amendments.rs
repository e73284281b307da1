//! What operators change at run time beside numbers and states: options, whole watchers, and the
//! configuration file itself.
//!
//! Every such word is remembered with a digest of what the file said when it was given. As long as
//! the file says the same, the word stands, for this manager and the next; once the file says
//! something else about the option (or, for whole watchers, about the watcher), that is the later
//! word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::action::{Action, EventAction, Level};
use super::commands::{Pending, invalid, leaving};
#[cfg(test)]
use super::context::Fault;
use super::context::{Context, changed};
use super::fingerprint::{digest, fingerprint, program, section_digest};
use super::ids::{CommandId, Moment, WatcherKey};
use super::limits::{ADDED_WATCHERS_MAX, NUMPROCESSES_MAX, OPTION_BYTES_MAX, READS_MAX};
use super::manager::Engine;
use super::operation::Operation;
use super::remember::{Added, Memory, OptionWord, Removed, Run, StopReason};
use super::sockets::SocketUse;
use super::watcher::{Standing, Watcher};
use crate::command::{
    Add, Answer, Refusal, RefusalKind, ReloadConfig, ReloadMethod, Remove, Response, Selection,
    SetOptions, Stopping, Wait, WatcherOutcome, WatcherResult,
};
use crate::config::amend::{self, AmendError, Changes};
use crate::config::depend::cycle;
use crate::config::difference::{Difference, SocketChange, WatcherChange, difference};
use crate::config::model::{Configuration, Location, WatcherConfig};

/// The option that is a number of processes, and remembered as such.
const NUMPROCESSES: &str = "numprocesses";

/// The option that can make a circle.
const DEPENDS_ON: &str = "depends_on";

impl From<AmendError> for Refusal {
    fn from(error: AmendError) -> Self {
        let kind = match error {
            AmendError::UnknownKey { .. } => RefusalKind::UnknownOption,
            AmendError::Value { .. } | AmendError::Refused(_) => RefusalKind::Invalid,
        };
        Self {
            kind,
            reason: error.to_string(),
        }
    }
}

impl Watcher {
    /// When it is to be removed, if it was added for a while.
    pub(super) fn until(&self) -> Option<Moment> {
        self.memory().added.as_ref()?.until
    }

    /// What the file, or who added it, says about it without changed options.
    fn plain(&self, memory: &Memory) -> Result<Option<WatcherConfig>, AmendError> {
        match &memory.added {
            Some(added) => amend::defined(&added.name, &added.options).map(Some),
            None => Ok(self.base.clone()),
        }
    }

    /// What all words on options amount to; nothing where there is no such watcher.
    fn effective(&self, memory: &Memory) -> Result<Option<WatcherConfig>, AmendError> {
        let Some(plain) = self.plain(memory)? else {
            return Ok(None);
        };
        if memory.options.is_empty() {
            return Ok(Some(plain));
        }
        let texts = memory.options.iter();
        let texts = texts.map(|(key, word)| (key.clone(), word.value.clone()));
        amend::amended(&plain, &texts.collect()).map(Some)
    }

    /// Takes over what the file says by now. Running processes stay; they may be outdated.
    pub(super) fn configure(
        &mut self,
        cx: &mut Context,
        base: Option<WatcherConfig>,
        configuration: &Configuration,
    ) {
        self.base = base;
        self.reconsider(cx, configuration);
    }

    /// Drops words that the file has overruled, and works out what the others amount to.
    pub(super) fn reconsider(&mut self, cx: &mut Context, configuration: &Configuration) {
        self.drop_overruled_words();
        let config = match self.effective(self.memory()) {
            Ok(config) => config,
            Err(error) => {
                // Another release may read options more strictly.
                cx.log(
                    Level::Error,
                    format!(
                        "{}: what was changed at run time cannot be used and is forgotten: {error}",
                        amend::title(&self.config.name)
                    ),
                );
                let memory = self.memory_mut();
                memory.options.clear();
                memory.added = None;
                self.base.clone()
            }
        };
        let left_alone = self.standing == Standing::Removed(Stopping::Leave);
        if self.standing != Standing::Leaving {
            self.standing = match (&self.memory().removed, &config) {
                (Some(removed), _) => Standing::Removed(removed.stopping),
                (None, Some(_)) => Standing::Configured,
                (None, None) => Standing::Retired,
            };
        }
        if let Some(config) = config {
            self.take_options(cx, config, configuration);
        }
        if left_alone && self.standing == Standing::Configured {
            // Nobody looked while it was nobody's.
            self.look_anew(cx);
        }
        self.drop_obsolete_words();
    }

    fn take_options(
        &mut self,
        cx: &mut Context,
        config: WatcherConfig,
        configuration: &Configuration,
    ) {
        self.fingerprint = fingerprint(&config);
        self.program = program(&config);
        self.uses = SocketUse::of(&config, configuration);
        let age = |config: &WatcherConfig| (config.max_age, config.max_age_variance);
        let other_age = age(&config) != age(&self.config);
        let stopped = matches!(
            self.memory().run,
            Some(Run::Stopped(StopReason::GaveUp { .. }))
        );
        if stopped && config.hooks != self.config.hooks {
            // It may have been a hook that did not let it run.
            self.memory_mut().run = Some(Run::Running);
        }
        let other_looks =
            (&config.ready, &config.alive) != (&self.config.ready, &self.config.alive);
        self.config = config;
        if other_looks {
            self.look_anew(cx);
        }
        if other_age {
            let (age, variance) = age(&self.config);
            self.children.set_expiries(|child| {
                age.map(|age| child.started + age + cx.random.duration_up_to(variance))
            });
        }
    }

    fn drop_overruled_words(&mut self) {
        let memory = self.memory();
        if memory.options.is_empty() && memory.added.is_none() && memory.removed.is_none() {
            return;
        }
        let section = section_digest(self.base.as_ref());
        let memory = self.memory_mut();
        memory.added = memory.added.take().filter(|it| it.written == section);
        memory.removed = memory.removed.take().filter(|it| it.written == section);
        let Ok(Some(plain)) = self.plain(self.memory()) else {
            return;
        };
        self.memory_mut()
            .options
            .retain(|key, word| word.written == written_digest(&plain, key));
    }

    /// What becomes of the memory by changed options; everything is checked.
    pub(super) fn amended_memory(&self, changes: &Changes) -> Result<Memory, Refusal> {
        let mut memory = self.memory().clone();
        let Some(plain) = self.plain(&memory)? else {
            return Ok(memory);
        };
        for (key, text) in changes {
            match text {
                Some(value) => {
                    let word = OptionWord {
                        value: value.clone(),
                        written: written_digest(&plain, key),
                    };
                    memory.options.insert(key.clone(), word);
                }
                None => {
                    memory.options.remove(key);
                }
            }
        }
        let bytes = memory.options.iter();
        check_size(bytes.map(|(key, word)| key.len() + word.value.len()).sum())?;
        // Read as a file would be, the number too, which then goes its own way.
        let config = self.effective(&memory)?;
        if let Some(word) = memory.options.remove(NUMPROCESSES) {
            let number = config.map_or(0, |config| config.numprocesses);
            check_number(&word.value, number)?;
        }
        Ok(memory)
    }
}

fn written_digest(config: &WatcherConfig, key: &str) -> String {
    digest(amend::written(config, key).as_deref())
}

fn check_size(bytes: usize) -> Result<(), Refusal> {
    if bytes <= OPTION_BYTES_MAX {
        Ok(())
    } else {
        Err(invalid(format!(
            "options of {bytes} bytes are too many; at most {OPTION_BYTES_MAX} are possible"
        )))
    }
}

fn check_number(text: &str, number: u32) -> Result<(), Refusal> {
    if number <= NUMPROCESSES_MAX {
        Ok(())
    } else {
        Err(invalid(format!(
            "{text} processes are too many; at most {NUMPROCESSES_MAX} are possible"
        )))
    }
}

impl Engine {
    /// Changes options of watchers, all or none.
    pub(super) fn set(&mut self, command: CommandId, request: &SetOptions) -> Result<(), Refusal> {
        let changes = amend::changes(&request.options)?;
        let keys = self.select(&request.selection)?;
        let mut memories = Vec::new();
        for watcher in keys.iter().filter_map(|key| self.watchers.get(key)) {
            memories.push(watcher.amended_memory(&changes)?);
        }
        if changes.contains_key(DEPENDS_ON) {
            let amended = keys.iter().zip(&memories);
            let configs: Result<Vec<_>, AmendError> = amended
                .filter_map(|(key, memory)| Some(self.watchers.get(key)?.effective(memory)))
                .collect();
            self.refuse_circles(configs?.into_iter().flatten().collect())?;
        }
        self.check_queues(&keys)?;
        let refresh = Operation::Refresh {
            method: ReloadMethod::Graceful,
        };
        let mut targets = Vec::new();
        for (key, memory) in keys.into_iter().zip(memories) {
            self.apply_options(&key, memory, &changes);
            targets.push((key, refresh.clone()));
        }
        self.stale = true;
        self.sort_watchers();
        self.accept(command, targets, request.wait);
        Ok(())
    }

    /// Whether watchers would wait for each other if these were as they are here.
    fn refuse_circles(&self, amended: Vec<WatcherConfig>) -> Result<(), Refusal> {
        let keys: BTreeSet<String> = amended.iter().map(WatcherConfig::key).collect();
        let others = self.watchers.values().filter(|it| !it.standing.is_over());
        let others = others.map(|watcher| &watcher.config);
        let others = others.filter(|config| !keys.contains(&config.key()));
        match cycle(others.chain(&amended)) {
            None => Ok(()),
            Some(chain) => Err(invalid(format!(
                "depends_on goes in a circle: {}",
                chain.join(" -> ")
            ))),
        }
    }

    fn apply_options(&mut self, key: &WatcherKey, memory: Memory, changes: &Changes) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        *watcher.memory_mut() = memory;
        match changes.get(NUMPROCESSES) {
            Some(Some(text)) => watcher.scale(text.trim().replace('_', "").parse().unwrap_or(0)),
            Some(None) => watcher.memory_mut().count = None,
            None => {}
        }
        watcher.reconsider(&mut self.cx, &self.base);
        let now = self.cx.now;
        for _ in changes {
            watcher.publish(&mut self.cx, now, EventAction::Updated);
        }
        self.dirty.insert(key.clone());
    }

    /// Makes a watcher.
    pub(super) fn add(&mut self, command: CommandId, request: &Add) -> Result<(), Refusal> {
        let key = WatcherKey::of(&request.name);
        let known = self.watchers.get(&key);
        if let Some(known) = known.filter(|it| !it.standing.is_over()) {
            return Err(Refusal {
                kind: RefusalKind::AlreadyExists,
                reason: format!("a watcher {:?} already exist", known.config.name),
            });
        }
        let added = self.watchers.values().filter(|it| it.base.is_none());
        if added.count() >= ADDED_WATCHERS_MAX {
            return Err(invalid(format!(
                "{ADDED_WATCHERS_MAX} watchers were added already; put them into the file"
            )));
        }
        let changes = amend::changes(&request.options)?;
        let mut options = match &request.like {
            Some(name) => self.options_like(name, &request.env)?,
            None => BTreeMap::new(),
        };
        options.extend(
            changes
                .into_iter()
                .filter_map(|(key, text)| Some((key, text?))),
        );
        let bytes = options.iter().map(|(key, text)| key.len() + text.len());
        check_size(bytes.sum())?;
        let config = amend::defined(&request.name, &options)?;
        check_number(NUMPROCESSES, config.numprocesses)?;
        self.refuse_circles(vec![config.clone()])?;
        let mut watcher = match self.watchers.remove(&key) {
            // Its processes may still be running, and are its own again.
            Some(watcher) => watcher,
            None => Watcher::new(config, &self.base).without_file(),
        };
        watcher.forget_words(&mut self.cx, "the watcher was added anew");
        let written = section_digest(watcher.base.as_ref());
        let memory = watcher.memory_mut();
        memory.removed = None;
        memory.added = Some(Added {
            name: request.name.clone(),
            options,
            written,
            until: request
                .lifetime_ms
                .map(|lifetime| self.cx.now + Duration::from_millis(lifetime)),
        });
        watcher.standing = Standing::Configured;
        watcher.reconsider(&mut self.cx, &self.base);
        watcher.look_anew(&mut self.cx);
        let now = self.cx.now;
        watcher.publish(&mut self.cx, now, EventAction::Add);
        if !request.start {
            watcher.set_run(Run::Stopped(StopReason::Command));
        }
        let outcome = watcher.outcome(WatcherResult::Done, None);
        self.watchers.insert(key.clone(), watcher);
        self.stale = true;
        self.sort_watchers();
        self.touch(&key);
        if request.start {
            self.grant_turn(&key);
            self.accept(command, vec![(key, Operation::Start)], request.wait);
        } else {
            self.cx.promise(command, changed(vec![outcome]));
        }
        Ok(())
    }

    /// Options of one process more of a watcher.
    fn options_like(
        &self,
        name: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let keys = self.select(&Selection::one(name))?;
        let found = keys.first().and_then(|key| self.watchers.get(key));
        let Some(watcher) = found else {
            return Err(invalid(format!("there is no watcher {name:?}")));
        };
        let mut environment = watcher.config.environment.clone();
        environment.extend(env.clone());
        let mut options = watcher.config.options.clone();
        // Two would write to the same files; and what is said of many, or of what has to run, is not said of one more.
        options.retain(|key, _| {
            let is_stream = key.starts_with("stdout_stream.") || key.starts_with("stderr_stream.");
            !is_stream
                && !["env_file", "essential", "max_age", "on_demand", "rolling"]
                    .contains(&key.as_str())
        });
        for (key, value) in [
            ("numprocesses", "1"),
            ("respawn", "false"),
            ("autostart", "true"),
        ] {
            options.insert(key.to_owned(), value.to_owned());
        }
        options.extend(amend::environment_option(&environment));
        Ok(options)
    }

    /// Removes what was added for a while that is over.
    pub(super) fn remove_expired(&mut self) {
        if self.ending.begun() {
            return;
        }
        let now = self.cx.now;
        let over = |watcher: &&Watcher| watcher.until().is_some_and(|until| until <= now);
        let over = self.watchers.values().filter(over);
        let keys: Vec<WatcherKey> = over.map(|watcher| watcher.key.clone()).collect();
        self.take_away(&keys, Stopping::Stop);
        for key in keys {
            if let Some(watcher) = self.watchers.get_mut(&key) {
                let name = &watcher.config.name;
                let text = format!("watcher {name:?}: its time is over, so it is removed");
                self.cx.log(Level::Info, text);
                watcher.enqueue(&mut self.cx, Operation::Remove, None);
            }
        }
    }

    /// Removes watchers.
    pub(super) fn remove(&mut self, command: CommandId, request: &Remove) -> Result<(), Refusal> {
        let keys = self.select(&request.selection)?;
        let outcomes = self.take_away(&keys, request.stopping);
        match request.stopping {
            Stopping::Leave => self.cx.promise(command, changed(outcomes)),
            Stopping::Stop => {
                let targets = keys.into_iter().map(|key| (key, Operation::Remove));
                self.accept(command, targets.collect(), request.wait);
            }
        }
        Ok(())
    }

    /// What is said of watchers that are removed: they are not there any more. Gives the outcomes of those whose processes are left
    /// alone.
    fn take_away(&mut self, keys: &[WatcherKey], stopping: Stopping) -> Vec<WatcherOutcome> {
        let mut outcomes = Vec::new();
        let now = self.cx.now;
        for key in keys {
            let Some(watcher) = self.watchers.get_mut(key) else {
                continue;
            };
            watcher.publish(&mut self.cx, now, EventAction::Remove);
            watcher.forget_words(&mut self.cx, "the watcher was removed");
            let written = section_digest(watcher.base.as_ref());
            let memory = watcher.memory_mut();
            memory.added = None;
            memory.rollout = None;
            memory.removed = Some(Removed { stopping, written });
            watcher.standing = Standing::Removed(stopping);
            self.starts.remove(key);
            if stopping == Stopping::Leave {
                outcomes.push(watcher.outcome(WatcherResult::Done, None));
            }
            self.dirty.insert(key.clone());
        }
        self.stale |= !keys.is_empty();
        outcomes
    }

    /// Has the configuration file read for a command.
    pub(super) fn read_configuration(
        &mut self,
        command: CommandId,
        request: ReloadConfig,
    ) -> Result<(), Refusal> {
        if self.reading.len() >= READS_MAX {
            return Err(Refusal {
                kind: RefusalKind::TooMany,
                reason: format!("{READS_MAX} commands wait for the configuration file already"),
            });
        }
        self.reading.insert(command, request);
        self.cx.push(Action::ReadConfiguration { command });
        Ok(())
    }

    pub(super) fn handle_read(
        &mut self,
        command: CommandId,
        result: Result<Box<Configuration>, String>,
    ) {
        let Some(request) = self.reading.remove(&command) else {
            return;
        };
        if self.ending.begun() {
            self.cx.reply(command, Err(leaving()));
            return;
        }
        let configuration = match result {
            Ok(configuration) => *configuration,
            Err(reason) => {
                let kind = RefusalKind::InvalidConfiguration;
                self.cx.reply(command, Err(Refusal { kind, reason }));
                return;
            }
        };
        let plan = difference(&self.base, &configuration);
        if request.dry_run {
            self.cx.reply(command, plan_answer(plan, false, Vec::new()));
            return;
        }
        for line in plan.to_string().lines() {
            self.cx.log(Level::Info, format!("configuration: {line}"));
        }
        let targets = self.handle_configuration(configuration, &plan);
        self.accept_with(command, targets, request.wait, Some(plan));
    }

    /// Takes a new configuration over. Returns what its watchers have to do about it.
    pub(super) fn handle_configuration(
        &mut self,
        configuration: Configuration,
        plan: &Difference,
    ) -> Vec<(WatcherKey, Operation)> {
        for kernel_name in self.cx.sockets.configure(&configuration) {
            self.held_sockets.remove(&kernel_name);
            if self.cx.connected() {
                self.cx.push(Action::CloseSocket { kernel_name });
            }
        }
        self.starts.set_warm_up(configuration.global.warmup_delay);
        self.cx.check_delay = configuration.global.check_delay;
        self.cx.flapping = configuration.flapping;
        let mut gone: BTreeSet<WatcherKey> = self.watchers.keys().cloned().collect();
        let mut fresh = BTreeSet::new();
        for config in &configuration.watchers {
            let key = WatcherKey::of(&config.name);
            gone.remove(&key);
            match self.watchers.get_mut(&key) {
                Some(watcher) => {
                    let over = watcher.standing.is_over();
                    watcher.configure(&mut self.cx, Some(config.clone()), &configuration);
                    if over && !watcher.standing.is_over() {
                        fresh.insert(key);
                    }
                }
                None => {
                    let watcher = Watcher::new(config.clone(), &configuration);
                    fresh.insert(key.clone());
                    self.watchers.insert(key, watcher);
                }
            }
        }
        for key in &gone {
            if let Some(watcher) = self.watchers.get_mut(key) {
                watcher.configure(&mut self.cx, None, &configuration);
                if watcher.standing == Standing::Retired {
                    watcher.forget_words(&mut self.cx, "the watcher is not configured any more");
                }
            }
        }
        self.base = configuration;
        self.stale = true;
        self.rebuild_configuration();
        self.sort_watchers();
        let fresh: Vec<_> = self
            .order
            .iter()
            .filter(|key| fresh.contains(*key))
            .cloned()
            .collect();
        self.line_up(fresh);
        self.ending.cover(&mut self.watchers, &mut self.cx);
        self.touch_all();
        self.consequences(plan)
    }

    /// What watchers have to do about a new configuration, in their order.
    fn consequences(&self, plan: &Difference) -> Vec<(WatcherKey, Operation)> {
        let rebound: BTreeSet<&String> = plan
            .sockets
            .iter()
            .filter(|(_, change)| **change == SocketChange::Rebind)
            .map(|(name, _)| name)
            .collect();
        let method = ReloadMethod::Terminate;
        let operation = |watcher: &Watcher| {
            if watcher.standing.is_over() {
                let going = watcher.standing == Standing::Retired && !watcher.empty();
                return going.then_some(Operation::Remove);
            }
            if watcher.wanted() && rebound.iter().any(|socket| watcher.uses.includes(socket)) {
                return Some(Operation::Replace { method });
            }
            match plan.watchers.get(watcher.key.as_str()) {
                None | Some(WatcherChange::Unchanged) => {
                    let outdated = watcher.has_outdated();
                    outdated.then_some(Operation::Refresh { method })
                }
                Some(_) => Some(Operation::Refresh { method }),
            }
        };
        self.order
            .iter()
            .filter_map(|key| Some((key.clone(), operation(self.watchers.get(key)?)?)))
            .collect()
    }

    /// The file's configuration with what was changed at run time.
    pub(super) fn rebuild_configuration(&mut self) {
        if !self.stale {
            return;
        }
        self.stale = false;
        let mut watchers = Vec::new();
        let mut of_file = BTreeSet::new();
        for config in &self.base.watchers {
            let key = WatcherKey::of(&config.name);
            if let Some(watcher) = self.watchers.get(&key) {
                watchers.push(watcher.config.clone());
            }
            of_file.insert(key);
        }
        let added = self.watchers.values();
        let added = added
            .filter(|it| !of_file.contains(&it.key) && it.standing != Standing::Retired)
            .map(|it| it.config.clone());
        watchers.extend(added);
        if let Some(chain) = cycle(watchers.iter()) {
            self.cx.log(
                Level::Error,
                format!(
                    "depends_on goes in a circle, so none of these watchers can be started: {}",
                    chain.join(" -> ")
                ),
            );
        }
        self.configuration = Configuration {
            watchers,
            ..self.base.clone()
        };
        let configuration = std::sync::Arc::new(self.configuration.clone());
        self.cx.push(Action::Configure(configuration));
    }

    /// After the first connection: makes the watchers that only memory tells of.
    pub(super) fn recall_added(&mut self, values: &BTreeMap<String, String>) {
        let prefix = super::remember::prefix(&self.cx.namespace);
        for (name, text) in values {
            let Some(key) = name.strip_prefix(&prefix).map(WatcherKey::of) else {
                continue;
            };
            if self.watchers.contains_key(&key) {
                continue;
            }
            let Ok(memory) = Memory::from_value(text) else {
                continue;
            };
            let name = match (&memory.added, &memory.removed) {
                (Some(added), _) => added.name.clone(),
                (None, Some(_)) => key.to_string(),
                (None, None) => continue,
            };
            let config = WatcherConfig::with_defaults(&name, Location::new("", 0, 0));
            let watcher = Watcher::new(config, &self.base).without_file();
            self.watchers.insert(key, watcher);
            self.stale = true;
        }
    }

    /// What was written otherwise while no manager was there to see it is done now.
    pub(super) fn refresh_recovered(&mut self) {
        #[cfg(test)]
        if self.cx.fault == Fault::KeepOutdated {
            return;
        }
        for (key, watcher) in &mut self.watchers {
            let method = if watcher.memory().rolling.is_some() {
                // Behind it, and with the same care.
                ReloadMethod::Graceful
            } else {
                ReloadMethod::Terminate
            };
            let replaces = |operation: &Operation| {
                matches!(
                    operation,
                    Operation::Refresh { .. } | Operation::Replace { .. }
                )
            };
            // Not the one that is being done: its new processes may be of the old options too.
            let to_come = watcher.memory().queue.iter().any(replaces);
            if !watcher.wanted() || to_come {
                continue;
            }
            let other = watcher.children.values().any(|child| {
                let program = child.identity.program.as_ref();
                program.is_some_and(|program| *program != watcher.program)
            });
            if other {
                self.cx.log(
                    Level::Info,
                    format!(
                        "watcher {:?} is configured otherwise than its processes were started; \
                         they are replaced",
                        watcher.config.name
                    ),
                );
                watcher.enqueue(&mut self.cx, Operation::Refresh { method }, None);
                self.dirty.insert(key.clone());
            }
        }
    }

    /// Enqueues operations for a command, and answers when its time has come.
    pub(super) fn accept(
        &mut self,
        command: CommandId,
        targets: Vec<(WatcherKey, Operation)>,
        wait: Wait,
    ) {
        self.accept_with(command, targets, wait, None);
    }

    fn accept_with(
        &mut self,
        command: CommandId,
        targets: Vec<(WatcherKey, Operation)>,
        wait: Wait,
        plan: Option<Difference>,
    ) {
        let mut outcomes = Vec::new();
        let mut missing = 0;
        for (key, operation) in targets {
            let Some(watcher) = self.watchers.get_mut(&key) else {
                continue;
            };
            match wait {
                Wait::Done => {
                    watcher.enqueue(&mut self.cx, operation, Some(command));
                    missing += 1;
                }
                Wait::No => {
                    watcher.enqueue(&mut self.cx, operation, None);
                    outcomes.push(watcher.outcome(WatcherResult::Accepted, None));
                }
            }
            self.dirty.insert(key);
        }
        let pending = Pending {
            missing,
            outcomes,
            plan,
        };
        if missing == 0 {
            self.cx.promise(command, pending.answer());
        } else {
            self.pending.insert(command, pending);
        }
    }
}

/// The answer to reloadconfig.
pub(super) fn plan_answer(
    plan: Difference,
    applied: bool,
    watchers: Vec<crate::command::WatcherOutcome>,
) -> Response {
    Ok(Answer::Plan {
        lines: plan.to_string().lines().map(str::to_owned).collect(),
        plan,
        applied,
        watchers,
    })
}

//! One run: a kernel, managers that come and go, operators, and time. Everything is drawn from
//! one seed, so a run can be repeated exactly.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::hooks::SimHooks;
use super::kernel::{SOMEBODY, SimKernel, one_in};
use super::operators::{Model, random_command, random_ending};
use super::probes::{SimProbes, Way};
use super::scenario::{self, Hooked, Mood};
use crate::command::{Command, RefusalKind, Response};
use crate::config::model::Configuration;
use crate::engine::context::Fault;
use crate::engine::manager::Recovered;
use crate::engine::random::Random;
use crate::engine::watcher::Watcher;
use crate::engine::{
    Action, CommandId, Engine, EventAction, Input, Moment, Outcome, Pid, ProcessEnd, ProcessId,
    Settings, WatcherKey,
};

/// Actions between two inputs that no honest decision needs.
const ACTIONS_PER_INPUT_MAX: usize = 2_000;
/// Lines of the log that a failure shows.
const LOG_LINES: usize = 300;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Moment,
    pub(super) mood: Mood,
    pub(super) fault: Fault,
    pub(super) kernel: SimKernel,
    pub(super) configuration: Configuration,
    hooked: Hooked,
    pub(super) engine: Option<Engine>,
    pub(super) session: Option<Session>,
    pub(super) story: Vec<Chapter>,
    pub(super) waiting: BTreeMap<CommandId, usize>,
    pub(super) reaps: BTreeMap<Pid, u32>,
    pub(super) hooks: SimHooks,
    pub(super) probes: SimProbes,
    pub(super) log: VecDeque<String>,
    pub(super) polls: u64,
    /// Processes that were seen to be asked to stop.
    pub(super) asked: BTreeSet<ProcessId>,
    /// Commands for which the file is to be read.
    reads: Vec<CommandId>,
    next_command: u64,
    next_key: u64,
}

/// What operators said and what became of it, in order.
#[derive(Clone, Debug)]
pub(super) enum Chapter {
    Command {
        command: Command,
        heard: Heard,
        configuration: Configuration,
        /// For replacements: the newest process of each watcher at that time.
        newest: BTreeMap<WatcherKey, ProcessId>,
    },
    Configured(Configuration),
    /// Kernel and guard died together, and a new kernel knows nothing.
    Wiped,
    Left {
        outcome: Outcome,
        configuration: Configuration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Perhaps,
    Yes,
    No,
}

/// A connection and the shell at our end of it.
#[derive(Default)]
pub(super) struct Session {
    pub(super) outgoing: VecDeque<Action>,
    pub(super) incoming: VecDeque<Input>,
    /// Sockets at which it waits for connections.
    pub(super) awaited: BTreeSet<String>,
    attached: BTreeSet<ProcessId>,
    drains: BTreeSet<(Moment, ProcessId)>,
}

impl World {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        let mut random = Random::new(seed);
        let mood = if one_in(&mut random, 3) {
            Mood::Quiet
        } else {
            Mood::Wild
        };
        let hooked = if one_in(&mut random, 2) {
            Hooked::Yes
        } else {
            Hooked::No
        };
        let configuration = scenario::configuration(&mut random, mood, hooked);
        let kernel = SimKernel::new(scenario::weather(&mut random, mood));
        let hook_weather = scenario::hook_weather(&mut random, mood);
        Self {
            random,
            now: Moment(1_000_000_000),
            mood,
            fault,
            kernel,
            configuration,
            hooked,
            engine: None,
            session: None,
            story: Vec::new(),
            waiting: BTreeMap::new(),
            reaps: BTreeMap::new(),
            hooks: SimHooks::new(hook_weather),
            probes: SimProbes::new(mood),
            log: VecDeque::new(),
            polls: 0,
            asked: BTreeSet::new(),
            reads: Vec::new(),
            next_command: 0,
            next_key: 0,
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        let seconds = self.now.since(Moment(0)).as_secs_f64();
        self.log.push_back(format!("{seconds:10.3} {}", line()));
    }

    /// One step of a run with faults.
    pub(super) fn chaos(&mut self) -> Result<(), String> {
        match self.random.up_to(99) {
            0..=34 => self.deliver_to_kernel(),
            35..=69 => self.deliver_to_engine(),
            70..=84 => self.let_time_pass(),
            85 | 86 => self.lose_connection(),
            87 | 88 => {
                self.crash();
                Ok(())
            }
            89 => {
                self.somebody_connects();
                self.kill_a_child()
            }
            90 => {
                self.somebody_else();
                Ok(())
            }
            91 => self.replace_manager(),
            92 if self.mood == Mood::Wild => self.edit(),
            93 if self.mood == Mood::Wild && one_in(&mut self.random, 8) => {
                let command = random_ending(&mut self.random);
                self.give(command)
            }
            97 if self.mood == Mood::Wild && one_in(&mut self.random, 20) => self.wipe(),
            94..=96 if self.mood == Mood::Wild => {
                let command = random_command(&mut self.random, &self.configuration);
                self.give(command)
            }
            _ => self.deliver_to_kernel(),
        }?;
        self.keep_a_manager()
    }

    /// Starts a manager if there is none, connects it if it is not.
    pub(super) fn keep_a_manager(&mut self) -> Result<(), String> {
        if self.engine.is_none() {
            if self.mood == Mood::Wild && one_in(&mut self.random, 6) {
                // Nobody was there to see it.
                self.note(|| "--- the file is edited".to_owned());
                self.configuration = scenario::edit_program(&mut self.random, &self.configuration);
                self.pardon();
                self.story
                    .push(Chapter::Configured(self.configuration.clone()));
            }
            let seed = self.random.next_u64();
            let settings = Settings {
                namespace: "sim".to_owned(),
                seed,
            };
            let mut engine = Engine::new(settings, self.configuration.clone());
            engine.cx.fault = self.fault;
            self.note(|| "--- a manager starts".to_owned());
            self.engine = Some(engine);
        }
        if self.session.is_none() && one_in(&mut self.random, 3) {
            self.connect()?;
        }
        Ok(())
    }

    pub(super) fn connect(&mut self) -> Result<(), String> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        let facts = self.kernel.connect(&engine.values_prefix());
        self.session = Some(Session::default());
        self.tell(Input::KernelConnected(facts))
    }

    /// Tells the engine something and routes what it wants done.
    fn tell(&mut self, input: Input) -> Result<(), String> {
        self.note(|| format!("-> {}", brief(&input)));
        if let Some(engine) = &mut self.engine {
            engine.handle_input(input, self.now);
        }
        self.poll()
    }

    pub(super) fn poll(&mut self) -> Result<(), String> {
        self.polls += 1;
        for _ in 0..ACTIONS_PER_INPUT_MAX {
            let Some(action) = self.engine.as_mut().and_then(Engine::poll_action) else {
                super::rolling::check(self)?;
                return self.read_file();
            };
            self.note(|| format!("   <- {action:?}"));
            super::rolling::check_spawn(self, &action)?;
            self.route(action)?;
        }
        Err(format!(
            "more than {ACTIONS_PER_INPUT_MAX} actions in a row"
        ))
    }

    /// The file is read for whoever asked, edited or not, or cannot be read.
    fn read_file(&mut self) -> Result<(), String> {
        let Some(command) = self.reads.pop() else {
            return Ok(());
        };
        let Some(place) = self.waiting.get(&command).copied() else {
            return Ok(());
        };
        let dry_run = self.story.get(place).is_some_and(|chapter| match chapter {
            Chapter::Command { command, .. } => {
                matches!(command, Command::ReloadConfig(request) if request.dry_run)
            }
            Chapter::Configured(_) | Chapter::Wiped | Chapter::Left { .. } => false,
        });
        let leaving = self.engine.as_ref().is_some_and(|it| it.ending.begun());
        let result = if one_in(&mut self.random, 4) {
            Err("line 1: no".to_owned())
        } else {
            let edited = scenario::edit(&mut self.random, &self.configuration, self.hooked);
            if !dry_run && !leaving {
                self.note_removed(&edited);
                self.pardon();
                self.configuration = edited.clone();
                self.story.push(Chapter::Configured(edited.clone()));
            }
            Ok(Box::new(edited))
        };
        self.tell(Input::ConfigurationRead { command, result })
    }

    fn route(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Reply { command, response } => self.hear_reply(command, &response),
            Action::Publish(event) => match event.action {
                EventAction::Reap { pid, exit_code: _ } => {
                    *self.reaps.entry(pid).or_default() += 1;
                    Ok(())
                }
                EventAction::Ready { pid } => {
                    let config = self.configuration.watcher(&event.watcher);
                    super::probes::check_ready(&self.kernel, config, pid, self.now)
                }
                EventAction::Unready { pid, error } => {
                    let config = self.configuration.watcher(&event.watcher);
                    super::probes::check_unready(&self.kernel, config, pid, &error)
                }
                _ => Ok(()),
            },
            Action::Log { .. } | Action::TellLastWords { .. } | Action::Configure(_) => Ok(()),
            Action::MeasureMemory { processes } => {
                for (process, _) in processes {
                    let huge = self.kernel.weather.short_lived > 0 && one_in(&mut self.random, 10);
                    let resident_bytes = if huge { 2 << 20 } else { 1 << 19 };
                    if let Some(session) = &mut self.session {
                        session.incoming.push_back(Input::MemoryMeasured {
                            process,
                            resident_bytes,
                        });
                    }
                }
                Ok(())
            }
            Action::AwaitConnections { sockets } => match &mut self.session {
                Some(session) => {
                    session.awaited = sockets;
                    Ok(())
                }
                None => Err("waits at sockets without a connection".to_owned()),
            },
            Action::ReadConfiguration { command } => {
                self.reads.push(command);
                Ok(())
            }
            Action::CallHook(request) => self.hooks.call(request, self.now, &mut self.random),
            Action::CancelHook { hook } => self.hooks.cancel(hook),
            Action::Probe(request) => self.probes.begin(request, self.now, &mut self.random),
            Action::CancelProbe { probe } => self.probes.cancel(probe),
            Action::Finished(outcome) => {
                let configuration = self.configuration.clone();
                self.story.push(Chapter::Left {
                    outcome,
                    configuration,
                });
                if let Some(unanswered) = self.waiting.keys().next() {
                    return Err(format!("command {unanswered} was left without an answer"));
                }
                self.crash();
                Ok(())
            }
            Action::MakeSocket { .. }
            | Action::CloseSocket { .. }
            | Action::Spawn(_)
            | Action::Signal { .. }
            | Action::AttachOutput(_)
            | Action::AwaitLine { .. }
            | Action::AcknowledgeNotes { .. }
            | Action::AcknowledgeEnd { .. }
            | Action::SetValue { .. } => match &mut self.session {
                Some(session) => {
                    session.outgoing.push_back(action);
                    Ok(())
                }
                None => Err("asked the kernel without a connection".to_owned()),
            },
        }
    }

    fn hear_reply(&mut self, command: CommandId, response: &Response) -> Result<(), String> {
        let Some(place) = self.waiting.remove(&command) else {
            return Err(format!(
                "command {command} was answered twice, or never asked"
            ));
        };
        if let Some(Chapter::Command { heard, .. }) = self.story.get_mut(place) {
            *heard = match response {
                Ok(_) => Heard::Yes,
                Err(refusal) => match refusal.kind {
                    RefusalKind::NotRemembered | RefusalKind::Replaced => Heard::Perhaps,
                    RefusalKind::UnknownWatcher
                    | RefusalKind::UnknownProcess
                    | RefusalKind::UnknownOption
                    | RefusalKind::AlreadyExists
                    | RefusalKind::InvalidConfiguration
                    | RefusalKind::Invalid
                    | RefusalKind::Busy
                    | RefusalKind::TooMany
                    | RefusalKind::Leaving
                    | RefusalKind::KernelLost => Heard::No,
                },
            };
        }
        Ok(())
    }

    /// The kernel takes the next request of the connection.
    pub(super) fn deliver_to_kernel(&mut self) -> Result<(), String> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Some(action) = session.outgoing.pop_front() else {
            return Ok(());
        };
        if let Action::AttachOutput(source) = &action {
            if !session.attached.insert(source.process) {
                return Err(format!("output of {} attached twice", source.process));
            }
            let process = source.process;
            if self
                .kernel
                .processes
                .get(&process)
                .is_some_and(|it| it.held.ended.is_some())
            {
                self.drain_later(process);
            }
            return Ok(());
        }
        self.hooks
            .check(&action, &self.configuration, &self.kernel)?;
        self.check_dependencies(&action)?;
        let answers = self.kernel.execute(&action, self.now, &mut self.random)?;
        if let Some(session) = &mut self.session {
            session.incoming.extend(answers);
        }
        self.check_twins()
    }

    /// No first process of a watcher before there ever was one of what it depends on.
    fn check_dependencies(&self, action: &Action) -> Result<(), String> {
        let Action::Spawn(request) = action else {
            return Ok(());
        };
        let key = request.watcher.as_str();
        let began = |key: &str| {
            let prefix = format!("circus.{key}.");
            let mut lives = self.kernel.history.lives.keys();
            lives.any(|name| name.starts_with(&prefix))
        };
        let config = self.configuration.watcher(key);
        // What operators and edits have made of it is not followed here.
        if began(key) || self.mood == Mood::Wild {
            return Ok(());
        }
        for name in config.into_iter().flat_map(|config| &config.depends_on) {
            let below = self.configuration.watcher(name);
            if below.is_some_and(|below| below.numprocesses > 0) && !began(name) {
                return Err(format!("{key} is started before {name}"));
            }
        }
        Ok(())
    }

    /// Never two live processes for one worker.
    fn check_twins(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        match self
            .kernel
            .live()
            .find(|it| !it.held.labels.is_empty() && !names.insert(it.held.name.as_str()))
        {
            Some(twin) => Err(format!("two live processes are {}", twin.held.name)),
            None => Ok(()),
        }
    }

    pub(super) fn deliver_to_engine(&mut self) -> Result<(), String> {
        let input = self
            .session
            .as_mut()
            .and_then(|session| session.incoming.pop_front());
        input.map_or(Ok(()), |input| self.tell(input))
    }

    /// The next moment at which something happens by itself.
    fn next_event(&self) -> Option<Moment> {
        let deadline = self.engine.as_ref().and_then(Engine::poll_deadline);
        let drain = self
            .session
            .as_ref()
            .and_then(|session| session.drains.first());
        let moments = [
            deadline,
            drain.map(|(at, _)| *at),
            self.kernel.next_end(),
            self.hooks.next_answer(),
            self.probes.next_outcome(),
            self.kernel.next_word(self.session.is_some()),
        ];
        moments.into_iter().flatten().min()
    }

    /// At a socket at which somebody waits for connections, if there is one.
    pub(super) fn somebody_connects(&mut self) {
        if let Some(session) = &mut self.session
            && let Some(socket) = session.awaited.pop_first()
        {
            session
                .incoming
                .push_back(Input::ConnectionWaits { socket });
        }
    }

    fn let_time_pass(&mut self) -> Result<(), String> {
        let step = self.random.duration_up_to(Duration::from_millis(1500));
        let next = self.next_event().filter(|_| one_in(&mut self.random, 2));
        let target = next.unwrap_or(self.now + step);
        self.advance_to(target)
    }

    /// Jumps to the next event, if there is one before `limit`.
    pub(super) fn jump(&mut self, limit: Moment) -> Result<bool, String> {
        match self.next_event().filter(|at| *at <= limit) {
            Some(at) => self.advance_to(at).map(|()| true),
            None => Ok(false),
        }
    }

    pub(super) fn advance_to(&mut self, target: Moment) -> Result<(), String> {
        self.now = self.now.max(target);
        for (process, end) in self.kernel.reap(self.now) {
            self.report_end(process, end);
        }
        if let Some(session) = &mut self.session {
            while let Some((at, process)) = session.drains.first().copied() {
                if at > self.now {
                    break;
                }
                session.drains.pop_first();
                session.incoming.push_back(Input::OutputDrained { process });
            }
        }
        self.kernel.let_speak(self.now);
        if let Some(session) = &mut self.session {
            session.incoming.extend(self.kernel.voices.arrive(self.now));
        }
        for input in self.hooks.answers(self.now) {
            self.tell(input)?;
        }
        for (input, way) in self.probes.outcomes(&self.kernel, self.now) {
            match (way, &mut self.session) {
                (Way::Beside, _) => self.tell(input)?,
                (Way::OverTheLink, Some(session)) => session.incoming.push_back(input),
                (Way::OverTheLink, None) => {}
            }
        }
        let due = self.engine.as_ref().and_then(Engine::poll_deadline);
        if due.is_some_and(|due| due <= self.now) {
            if let Some(engine) = &mut self.engine {
                engine.handle_deadline(self.now);
            }
            self.poll()?;
        }
        Ok(())
    }

    fn report_end(&mut self, process: ProcessId, end: ProcessEnd) {
        self.note(|| format!("   process {process} ends: {:?}", end.cause));
        if let Some(session) = &mut self.session {
            session
                .incoming
                .push_back(Input::ProcessEnded { process, end });
            if session.attached.contains(&process) {
                self.drain_later(process);
            }
        }
    }

    fn drain_later(&mut self, process: ProcessId) {
        let slow = one_in(&mut self.random, 10);
        let most = if slow {
            Duration::from_secs(60)
        } else {
            Duration::from_millis(300)
        };
        let at = self.now + self.random.duration_up_to(most);
        if let Some(session) = &mut self.session {
            session.drains.insert((at, process));
        }
    }

    fn kill_a_child(&mut self) -> Result<(), String> {
        let ours: Vec<ProcessId> = self.kernel.live().map(|process| process.held.id).collect();
        let last = u64::try_from(ours.len()).unwrap_or(0).checked_sub(1);
        let index = last.map(|last| self.random.up_to(last));
        let chosen = index.and_then(|index| ours.get(usize::try_from(index).ok()?));
        if let Some(process) = chosen.copied()
            && let Some(end) = self.kernel.end(process, self.now)
        {
            self.report_end(process, end);
        }
        Ok(())
    }

    /// Other people use the kernel too.
    fn somebody_else(&mut self) {
        self.next_key += 1;
        let name = format!("{SOMEBODY}.{}", self.next_key);
        let key = name.clone();
        self.kernel.start(
            &name,
            scenario::no_labels(),
            &key,
            self.now,
            &mut self.random,
        );
    }

    /// The connection breaks. Some of what was on its way arrives at the kernel still, but no
    /// answer comes back.
    fn lose_connection(&mut self) -> Result<(), String> {
        if self.session.is_none() {
            return Ok(());
        }
        self.cut()?;
        self.tell(Input::KernelLost)
    }

    fn cut(&mut self) -> Result<(), String> {
        let on_the_way = self
            .session
            .as_ref()
            .map_or(0, |session| session.outgoing.len());
        let arrive = self.random.up_to(u64::try_from(on_the_way).unwrap_or(0));
        self.note(|| format!("--- cut: {arrive} of {on_the_way} requests arrive"));
        for _ in 0..arrive {
            self.deliver_to_kernel()?;
        }
        self.session = None;
        Ok(())
    }

    /// The manager dies.
    fn crash(&mut self) {
        self.note(|| "--- the manager is gone".to_owned());
        // Nobody hears of what arrives, so an impossible request shows in the next steps.
        let _ = self.cut();
        self.engine = None;
        self.session = None;
        self.hooks.manager_gone();
        self.probes.manager_gone();
        self.waiting.clear();
        self.reads.clear();
    }

    /// Another manager takes the lease while this one lives.
    fn replace_manager(&mut self) -> Result<(), String> {
        if self.session.is_none() {
            return Ok(());
        }
        self.cut()?;
        self.tell(Input::LeaseLost)?;
        match self.engine {
            Some(_) => Err("a manager without a lease stays".to_owned()),
            None => Ok(()),
        }
    }

    /// Everything is gone with the kernel, and the next one counts from one again.
    fn wipe(&mut self) -> Result<(), String> {
        self.note(|| "--- kernel and guard are gone with everything".to_owned());
        self.session = None;
        self.kernel.wipe();
        self.hooks.wipe();
        for chapter in &mut self.story {
            if let Chapter::Command { newest, .. } = chapter {
                newest.clear();
            }
        }
        self.story.push(Chapter::Wiped);
        self.tell(Input::KernelLost)
    }

    /// Nobody knows the hooks of a watcher that was out of the file for a while.
    fn note_removed(&mut self, edited: &Configuration) {
        let gone = self
            .configuration
            .watchers
            .iter()
            .map(|watcher| WatcherKey::of(&watcher.name))
            .filter(|key| edited.watcher(key.as_str()).is_none());
        self.hooks.removed.extend(gone);
    }

    /// Somebody said something that may be a reason to start what flaps.
    fn pardon(&mut self) {
        self.kernel.held_back.clear();
        // What says so may still be on its way to the kernel.
        let known = self.engine.iter().flat_map(|it| it.watchers.values());
        self.kernel
            .pardoned
            .extend(known.filter_map(Watcher::flapping_until));
    }

    fn edit(&mut self) -> Result<(), String> {
        // Before the first connection it is undecided whether a number or the file was the later
        // word, so the model could not tell.
        let undecided = |engine: &Engine| engine.recovered == Recovered::NotYet;
        if self.engine.as_ref().is_some_and(undecided) {
            return Ok(());
        }
        let edited = scenario::edit(&mut self.random, &self.configuration, self.hooked);
        self.note_removed(&edited);
        self.configuration = edited;
        self.pardon();
        self.story
            .push(Chapter::Configured(self.configuration.clone()));
        let configuration = Box::new(self.configuration.clone());
        self.tell(Input::ConfigurationChanged(configuration))
    }

    pub(super) fn give(&mut self, command: Command) -> Result<(), String> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        let newest = engine
            .watchers
            .iter()
            .filter(|(_, watcher)| !watcher.config.send_hup)
            .filter_map(|(key, watcher)| Some((key.clone(), watcher.children.newest()?)))
            // It may be a manager's who has not heard yet that its kernel is gone.
            .filter(|(_, newest)| self.kernel.has_given_out(*newest))
            .collect();
        if let Command::Rm(_) = &command {
            let gone = super::operators::meant(&command, &self.configuration);
            let keys = gone.iter().map(|watcher| WatcherKey::of(&watcher.name));
            self.hooks.removed.extend(keys);
        }
        // Whatever it is, it may be somebody's reason to start something.
        self.pardon();
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.waiting.insert(id, self.story.len());
        self.story.push(Chapter::Command {
            command: command.clone(),
            heard: Heard::Perhaps,
            configuration: self.configuration.clone(),
            newest,
        });
        self.tell(Input::CommandReceived {
            command: id,
            request: command,
        })
    }

    /// What the operators' words amount to.
    pub(super) fn model(&self) -> Model {
        let mut model = Model::default();
        for chapter in &self.story {
            match chapter {
                Chapter::Command {
                    command,
                    heard,
                    configuration,
                    newest: _,
                } => {
                    let ends = matches!(command, Command::Quit(_) | Command::Shutdown(_));
                    match heard {
                        Heard::No => {}
                        // Only a manager that left has dropped what it remembered.
                        Heard::Yes if !ends => model.hear(command, configuration),
                        Heard::Yes | Heard::Perhaps => model.perhaps_hear(command, configuration),
                    }
                }
                Chapter::Configured(configuration) => model.reconfigure(configuration),
                Chapter::Wiped => {
                    let words = model.words.iter_mut();
                    words.for_each(|(key, words)| words.blur(key));
                }
                Chapter::Left {
                    outcome,
                    configuration,
                } => match outcome {
                    Outcome::Quit => {
                        model.hear(
                            &Command::Quit(crate::command::End::default()),
                            configuration,
                        );
                    }
                    Outcome::ShutDown | Outcome::EssentialEnded { .. } => {
                        let shutdown = Command::Shutdown(crate::command::End::default());
                        model.hear(&shutdown, configuration);
                    }
                    Outcome::Detached | Outcome::Replaced => {}
                },
            }
        }
        model
    }
}

/// An input without the bulk.
fn brief(input: &Input) -> String {
    match input {
        Input::ConfigurationChanged(_) => "ConfigurationChanged".to_owned(),
        Input::ConfigurationRead { command, result } => {
            format!("ConfigurationRead {command}: {}", result.is_ok())
        }
        Input::KernelConnected(facts) => format!(
            "KernelConnected epoch {} with {:?} and {:?}",
            facts.epoch,
            facts
                .processes
                .iter()
                .map(|it| (it.id, &it.name, it.ended))
                .collect::<Vec<_>>(),
            facts.values
        ),
        Input::KernelLost
        | Input::LeaseLost
        | Input::SocketReady { .. }
        | Input::SocketFailed { .. }
        | Input::ConnectionWaits { .. }
        | Input::Spawned { .. }
        | Input::SpawnFailed { .. }
        | Input::ProcessEnded { .. }
        | Input::OutputDrained { .. }
        | Input::ValueStored { .. }
        | Input::ValueRefused { .. }
        | Input::ActionFailed { .. }
        | Input::HookAnswered { .. }
        | Input::Notified(_)
        | Input::LineSeen { .. }
        | Input::Probed { .. }
        | Input::MemoryMeasured { .. }
        | Input::CommandReceived { .. } => format!("{input:?}"),
    }
}

//! Behaviour of the engine in single stories, against the simulation's kernel. The claims are the
//! names; the simulation is for what nobody thought of.

mod amending;
mod commands;
mod dependencies;
mod ending;
mod essential;
mod explaining;
mod flapping;
mod hooks;
mod liveness;
mod readiness;
mod recovering;
mod reloading;
mod rolling;
mod starting;
mod stopping;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use super::simulation::kernel::{SimKernel, Weather};
use super::*;
use crate::command::{Answer, Command, Response, Selection, WatcherStatus};
use crate::config::amend;
use crate::config::model::{Configuration, GlobalSettings, Location, SocketConfig, WatcherConfig};
use random::Random;

const CALM: Weather = Weather {
    short_lived: 0,
    stubborn: 0,
    failing_spawns: 0,
    failing_sockets: 0,
    refused_values: 0,
    never_ready: 0,
    hanging: 0,
};

/// A watcher of some name, to be changed further.
fn watcher(name: &str) -> WatcherConfig {
    written(name, &[])
}

/// A watcher with options as they would stand in a file.
fn written(name: &str, options: &[(&str, &str)]) -> WatcherConfig {
    let usual = [("cmd", "serve"), ("graceful_timeout", "5")];
    let options = usual.iter().chain(options);
    let options = options.map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
    amend::defined(name, &options.collect()).expect("a watcher")
}

fn configuration(watchers: Vec<WatcherConfig>) -> Configuration {
    Configuration {
        path: PathBuf::from("test.ini"),
        files: Vec::new(),
        global: GlobalSettings::default(),
        watchers,
        sockets: Vec::new(),
        plugins: Vec::new(),
        flapping: None,
        warnings: Vec::new(),
    }
}

fn socket(name: &str) -> SocketConfig {
    SocketConfig::with_defaults(name, Location::new("test.ini", 1, 1))
}

/// A manager on a kernel, with everything delivered at once unless a test holds it back.
struct Bench {
    engine: Engine,
    kernel: SimKernel,
    random: Random,
    now: Moment,
    incoming: VecDeque<Input>,
    /// `web.spawn` and the like since the last look.
    events: Vec<String>,
    replies: BTreeMap<u64, Response>,
    finished: Option<Outcome>,
    next_command: u64,
    /// What the kernel was asked for since the last look.
    asked: Vec<Action>,
    /// Answers to values are kept back.
    hold_values: bool,
    /// Answers to spawns are kept back, here.
    held_spawns: Option<Vec<Input>>,
    /// What the file says when it is read again.
    file: Result<Configuration, String>,
    /// What every process has, when somebody asks.
    resident_bytes: u64,
    /// What the shells were told last.
    configured: Option<std::sync::Arc<Configuration>>,
    /// Hooks that were called and not cancelled.
    called: Vec<HookRequest>,
    /// Probes that were asked for and not cancelled.
    probed: Vec<ProbeRequest>,
}

impl Bench {
    /// A manager that has just connected to an empty kernel, and everything it did then.
    fn new(watchers: Vec<WatcherConfig>) -> Self {
        Self::with(configuration(watchers), SimKernel::new(CALM))
    }

    fn with(configuration: Configuration, kernel: SimKernel) -> Self {
        let settings = Settings {
            namespace: "sim".to_owned(),
            seed: 1,
        };
        let mut bench = Self {
            engine: Engine::new(settings, configuration.clone()),
            file: Ok(configuration),
            configured: None,
            resident_bytes: 0,
            kernel,
            random: Random::new(1),
            now: Moment(1_000_000_000_000),
            incoming: VecDeque::new(),
            events: Vec::new(),
            replies: BTreeMap::new(),
            finished: None,
            next_command: 0,
            asked: Vec::new(),
            hold_values: false,
            held_spawns: None,
            called: Vec::new(),
            probed: Vec::new(),
        };
        bench.connect();
        bench
    }

    /// The manager dies and another one takes over.
    fn next_manager(self, configuration: Configuration) -> Self {
        let now = self.now;
        let settings = Settings {
            namespace: "sim".to_owned(),
            seed: 2,
        };
        let engine = Engine::new(settings, configuration.clone());
        let mut next = Self {
            engine,
            file: Ok(configuration),
            configured: None,
            resident_bytes: 0,
            kernel: self.kernel,
            random: self.random,
            now,
            incoming: VecDeque::new(),
            events: Vec::new(),
            replies: BTreeMap::new(),
            finished: None,
            next_command: 0,
            asked: Vec::new(),
            hold_values: false,
            held_spawns: None,
            called: Vec::new(),
            probed: Vec::new(),
        };
        next.connect();
        next
    }

    fn connect(&mut self) {
        let facts = self.kernel.connect(&self.engine.values_prefix());
        self.tell(Input::KernelConnected(facts));
    }

    fn tell(&mut self, input: Input) {
        self.engine.handle_input(input, self.now);
        self.run();
    }

    fn run(&mut self) {
        loop {
            while let Some(action) = self.engine.poll_action() {
                self.perform(action);
            }
            let Some(input) = self.incoming.pop_front() else {
                return;
            };
            self.engine.handle_input(input, self.now);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Reply { command, response } => {
                assert!(
                    self.replies.insert(command.0, response).is_none(),
                    "one answer each"
                );
            }
            Action::Publish(event) => {
                self.events
                    .push(event.topic().trim_start_matches("watcher.").to_owned());
            }
            Action::CallHook(request) => self.called.push(request),
            Action::CancelHook { hook } => self.called.retain(|request| request.id != hook),
            Action::Probe(request) => self.probed.push(request),
            Action::CancelProbe { probe } => self.probed.retain(|request| request.id != probe),
            Action::Log { .. } | Action::TellLastWords { .. } => {}
            Action::Configure(configuration) => self.configured = Some(configuration),
            Action::MeasureMemory { processes } => {
                for (process, _) in processes {
                    let resident_bytes = self.resident_bytes;
                    self.incoming.push_back(Input::MemoryMeasured {
                        process,
                        resident_bytes,
                    });
                }
            }
            Action::ReadConfiguration { command } => {
                let result = self.file.clone().map(Box::new);
                self.incoming
                    .push_back(Input::ConfigurationRead { command, result });
            }
            Action::Finished(outcome) => self.finished = Some(outcome),
            Action::AttachOutput(source) => {
                let ended = |it: &HeldProcess| it.ended.is_some();
                if self
                    .kernel
                    .processes
                    .get(&source.process)
                    .is_some_and(|it| ended(&it.held))
                {
                    self.incoming.push_back(Input::OutputDrained {
                        process: source.process,
                    });
                }
            }
            action => {
                self.asked.push(action.clone());
                let answers = self
                    .kernel
                    .execute(&action, self.now, &mut self.random)
                    .expect("only what a manager may ask");
                match (action, &mut self.held_spawns) {
                    (Action::SetValue { .. }, _) if self.hold_values => {}
                    (Action::Spawn(_), Some(held)) => held.extend(answers),
                    _ => self.incoming.extend(answers),
                }
            }
        }
    }

    /// Lets time pass with everything that happens in it.
    fn advance(&mut self, wait: Duration) {
        let end = self.now + wait;
        loop {
            let next = [self.engine.poll_deadline(), self.kernel.next_end()];
            let next = next.into_iter().flatten().min().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            for (process, end) in self.kernel.reap(self.now) {
                self.incoming
                    .push_back(Input::ProcessEnded { process, end });
                self.incoming.push_back(Input::OutputDrained { process });
            }
            self.engine.handle_deadline(self.now);
            self.run();
            if next.is_none() {
                return;
            }
        }
    }

    /// A process ends by itself, with exit status 1.
    fn die(&mut self, name: &str) {
        let process = self.id(name);
        let end = self.kernel.end(process, self.now).expect("alive");
        self.incoming
            .push_back(Input::ProcessEnded { process, end });
        self.incoming.push_back(Input::OutputDrained { process });
        self.run();
    }

    /// A process ends by itself.
    fn exit(&mut self, name: &str, status: u8) {
        let process = self.id(name);
        self.kernel.end(process, self.now).expect("alive");
        let end = ProcessEnd {
            cause: EndCause::Exited(status),
            at: self.now,
        };
        let held = self.kernel.processes.get_mut(&process).expect("held");
        held.held.ended = Some(end);
        self.incoming
            .push_back(Input::ProcessEnded { process, end });
        self.incoming.push_back(Input::OutputDrained { process });
        self.run();
    }

    fn id(&self, name: &str) -> ProcessId {
        let mut named = self.kernel.live().filter(|it| it.held.name == name);
        named
            .next()
            .unwrap_or_else(|| panic!("{name} is not alive: {:?}", self.live()))
            .held
            .id
    }

    /// Names of live processes, sorted.
    fn live(&self) -> Vec<String> {
        let mut names: Vec<_> = self.kernel.live().map(|it| it.held.name.clone()).collect();
        names.sort();
        names
    }

    fn command(&mut self, request: Command) -> u64 {
        self.next_command += 1;
        let command = CommandId(self.next_command);
        self.tell(Input::CommandReceived { command, request });
        self.next_command
    }

    fn status(&mut self, name: &str) -> WatcherStatus {
        let command = self.command(Command::Status(Selection::one(name)));
        match self.replies.remove(&command) {
            Some(Ok(Answer::Status(report))) => report.watchers[0].clone(),
            other => panic!("no status: {other:?}"),
        }
    }

    fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// Signals that were sent since the last look, with their numbers.
    fn take_signals(&mut self) -> Vec<(i32, SignalTarget)> {
        let signal = |action| match action {
            Action::Signal {
                signal,
                target,
                process: _,
            } => Some((signal.0, target)),
            _ => None,
        };
        std::mem::take(&mut self.asked)
            .into_iter()
            .filter_map(signal)
            .collect()
    }
}

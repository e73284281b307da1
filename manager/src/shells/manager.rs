//! The loop that owns the engine: tells it what happens and does what it asks for, one thing at a
//! time. It decides nothing but how the world's words are said in the engine's.

mod interrupts;
mod sockets;
mod upgrading;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kingpole_protocol::spec::SocketSpec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use self::interrupts::Interrupts;
use super::asking::CommandRequest;
use super::clock;
use super::connections::Connections;
use super::control::wire::EventLine;
use super::control::{COMMANDS_WAITING_MAX, NextManager, Stay};
use super::events::Events;
use super::farewell::{self, KernelEnd};
use super::greeting::Greeting;
use super::hearing::Hearing;
use super::hooks::{HookNews, HookRunner};
use super::kernel_report::resident_kib;
use super::known::Known;
use super::launch::{Circumstances, PrepareError, process_spec};
use super::link::{Holder, KernelLink, LinkEvent};
use super::listeners::{Handing, Listeners};
use super::log::Log;
use super::output::{Output, OutputEvent};
use super::papa_endpoint;
use super::probes::ProbeRunner;
use super::signals::{ManagerSignal, Signals};
use super::upgrade::{Plan, Ready, UpgradeRequest, probation};
use crate::command::{Command, End, Reload, Response};
use crate::config::load_file;
use crate::config::model::{Configuration, Probe};
use crate::crash::crash_point;
use crate::engine::{
    Action, CommandId, Engine, EventAction, Input, Outcome, Pid, SpawnErrorKind, SpawnFailure,
    SpawnRequest, Ticket,
};

/// How long commands wait for the first connection to the kernel. A manager that has just begun
/// knows nothing yet, and would have to say that nothing runs.
const FIRST_FACTS_PATIENCE: Duration = Duration::from_secs(1);

/// Lines of a process that is replaced, in the log.
const LAST_WORDS_LINES: usize = 5;

/// Characters of each of them.
const LAST_WORDS_CHARACTERS: usize = 500;

/// What SIGINT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// What it asked of Circus: stop what is not `use_papa`.
    Quit,
    /// What a person at a terminal means: stop everything.
    Shutdown,
}

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The engine had finished.
    Finished(Outcome),
    /// The engine had finished everything and the kernel has ended too.
    KernelEnded,
    /// An essential watcher has ended for good, and everything is finished. Its exit status.
    EssentialEnded(u8),
    /// Everything is finished, but others keep the kernel.
    KernelKept(String),
    /// Another manager holds the lease.
    Refused(Holder),
    /// It was told to leave at once.
    Abandoned,
    /// It has left, so that this process can become another program.
    Upgrading(Plan),
    /// Something of ours broke; the next manager goes on where this one stopped.
    Failed(&'static str),
}

/// What comes to the loop from outside.
pub struct Inboxes {
    /// From the control servers.
    pub commands: mpsc::Receiver<CommandRequest>,
    /// The same, for what is not the engine's.
    pub upgrades: mpsc::Receiver<UpgradeRequest>,
    /// Told when the control server has answered everybody, after [`Manager::stay`] said so.
    pub served: oneshot::Receiver<()>,
}

/// Everything the loop works with.
pub struct Manager {
    /// All decisions.
    pub engine: Engine,
    /// The way to the kernel.
    pub link: KernelLink,
    /// Where children's output goes.
    pub output: Output,
    /// The manager's log.
    pub log: Log,
    /// What children inherit.
    pub around: Circumstances,
    /// The configuration file.
    pub file: PathBuf,
    /// The configuration, for all who show it.
    pub configuration: watch::Sender<Arc<Configuration>>,
    /// What happens is told here.
    pub events: Events,
    /// Told of everything that the engine hears.
    pub known: Known,
    /// Marks our children among all that the kernel holds.
    pub namespace: String,
    /// What Ctrl-C means.
    pub on_interrupt: OnInterrupt,
    /// What is told once everything runs.
    pub greeting: Greeting,
    /// Where clients come in.
    pub listeners: Listeners,
    /// Told to stop accepting clients before an upgrade; what it says afterwards is no matter.
    pub stay: watch::Sender<Stay>,
    /// Where clients go that are connected when this becomes another program.
    pub next: NextManager,
    /// Told once the kernel's facts are known and everything that follows from them was asked for.
    pub healthy: Option<watch::Sender<bool>>,
}

/// The loop's own memory.
struct Running {
    manager: Manager,
    replies: BTreeMap<CommandId, oneshot::Sender<Response>>,
    next_command: u64,
    /// Calls hooks.
    hooks: HookRunner,
    /// Looks at processes.
    probes: ProbeRunner,
    /// Hears what processes say of themselves.
    hearing: Hearing,
    /// Looks whether somebody connects to a socket of an `on_demand` watcher.
    connections: Connections,
    /// Sockets whose hosts are being looked up.
    lookups: JoinSet<(String, Result<SocketSpec, PrepareError>)>,
    /// Sockets that are made blocking, or not, before anybody uses them.
    modes: JoinSet<(String, Result<(), String>)>,
    /// The configuration file while it is read.
    reads: JoinSet<(CommandId, Result<Box<Configuration>, String>)>,
    interrupts: Interrupts,
    /// Whether the engine believes in a kernel.
    connected: bool,
    /// Until when commands wait for the first facts.
    deaf_until: Option<Instant>,
    finished: Option<Outcome>,
    upgrading: Upgrading,
}

/// How far an upgrade has come.
enum Upgrading {
    No,
    /// A candidate rehearses, for whoever asked.
    Rehearsing(JoinHandle<Result<Ready, String>>, Box<UpgradeRequest>),
    /// Clients that wait are answered, until then.
    Answering(Plan, Instant),
    /// The engine leaves.
    Leaving(Plan),
}

impl Manager {
    /// Runs until the engine has finished.
    pub async fn run(self, inboxes: Inboxes, mut signals: Signals) -> Ended {
        let Inboxes {
            mut commands,
            mut upgrades,
            mut served,
        } = inboxes;
        let had_terminal = std::io::stderr().is_terminal();
        let hooks = HookRunner::new(self.around.clone());
        let probes = ProbeRunner::new(self.around.clone());
        let connections = Connections::new(self.link.socket().to_owned());
        let runtime_dir = self.link.socket().parent().unwrap_or(Path::new("/"));
        let configuration = self.configuration.borrow().clone();
        let hearing = Hearing::new(runtime_dir, &configuration, self.log.clone());
        let mut running = Running {
            connections,
            hearing,
            manager: self,
            replies: BTreeMap::new(),
            next_command: 1,
            hooks,
            probes,
            lookups: JoinSet::new(),
            modes: JoinSet::new(),
            reads: JoinSet::new(),
            interrupts: Interrupts::default(),
            connected: false,
            deaf_until: Some(Instant::now() + FIRST_FACTS_PATIENCE),
            finished: None,
            upgrading: Upgrading::No,
        };
        loop {
            running.act();
            if let Some(outcome) = running.finished {
                return running.finish(outcome).await;
            }
            let answers_until = running.upgrading.answers_until();
            let deadline = running.manager.engine.poll_deadline().map(instant);
            let hear_again = running.hearing.deadline();
            tokio::select! {
                event = running.manager.link.next() => {
                    if let Some(holder) = running.handle_link(event) {
                        return Ended::Refused(holder);
                    }
                }
                Some(request) = commands.recv(), if running.listens() => {
                    running.ask(request.command, Some(request.reply));
                    drop(request.changing);
                }
                () = at(running.deaf_until), if running.deaf_until.is_some() => {
                    running.deaf_until = None;
                }
                event = running.manager.output.next() => match event {
                    Some(event) => running.handle_output(event),
                    None => return Ended::Failed("the thread that stores output has ended"),
                },
                news = running.hooks.next() => running.handle_hook(news),
                (probe, outcome) = running.probes.next() => {
                    running.input(Input::Probed { probe, outcome });
                }
                news = running.connections.next() => running.handle_connection(news),
                Some(found) = running.lookups.join_next() => {
                    if let Ok((socket, spec)) = found {
                        running.make_socket(socket, spec);
                    }
                }
                Some(done) = running.modes.join_next() => {
                    if let Ok((socket, result)) = done {
                        running.handle_mode(socket, result);
                    }
                }
                Some(read) = running.reads.join_next() => {
                    if let Ok((command, result)) = read {
                        running.handle_read(command, result);
                    }
                }
                signal = signals.next() => {
                    let hung_up = had_terminal && !std::io::stderr().is_terminal();
                    if running.handle_signal(signal, hung_up) == Leave::AtOnce {
                        return Ended::Abandoned;
                    }
                }
                Some(request) = upgrades.recv() => running.start_rehearsal(request),
                ready = running.upgrading.rehearsed() => running.handle_rehearsed(ready),
                _ = &mut served, if answers_until.is_some() => running.leave_for_upgrade(),
                () = at(answers_until), if answers_until.is_some() => running.leave_for_upgrade(),
                () = at(hear_again) => running.hearing.retry(&mut running.manager.link),
                () = at(deadline) => {
                    running.manager.known.happened();
                    running.manager.greeting.note_deadline();
                    running.manager.engine.handle_deadline(clock::now());
                }
            }
        }
    }
}

/// Whether the loop goes on after a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    InOrder,
    AtOnce,
}

/// Reads the configuration file; what is wrong with it is said in full.
fn read(path: &Path) -> Result<Box<Configuration>, String> {
    load_file(path).map(Box::new).map_err(|error| {
        let errors: Vec<String> = error.errors.iter().map(ToString::to_string).collect();
        errors.join("; ")
    })
}

fn instant(moment: crate::engine::Moment) -> Instant {
    Instant::now() + moment.since(clock::now())
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

impl Running {
    fn listens(&self) -> bool {
        self.deaf_until.is_none() && self.replies.len() < COMMANDS_WAITING_MAX
    }

    fn input(&mut self, input: Input) {
        let only_looks = matches!(
            &input,
            Input::CommandReceived {
                request: Command::States(_),
                ..
            }
        );
        if !only_looks {
            self.manager.known.happened();
        }
        self.manager.greeting.note_input(&input);
        self.manager.engine.handle_input(input, clock::now());
    }

    fn ask(&mut self, command: Command, reply: Option<oneshot::Sender<Response>>) {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        if let Some(reply) = reply {
            self.replies.insert(id, reply);
        }
        self.input(Input::CommandReceived {
            command: id,
            request: command,
        });
    }

    /// What came over the link. Gives back the holder of the lease when that is not us.
    fn handle_link(&mut self, event: LinkEvent) -> Option<Holder> {
        match event {
            LinkEvent::Input(input) => {
                let input = self.hearing.filter(input, &mut self.manager.link)?;
                match &input {
                    Input::KernelConnected(facts) => {
                        self.connected = true;
                        self.deaf_until = None;
                        self.hearing.kernel_connected(facts, &mut self.manager.link);
                    }
                    Input::KernelLost => {
                        self.connected = false;
                        self.hearing.kernel_lost();
                        self.modes = JoinSet::new();
                        self.manager.output.kernel_lost();
                    }
                    _ => {}
                }
                if let Some(input) = self.after_its_mode(input) {
                    self.input(input);
                }
            }
            LinkEvent::Output {
                process,
                records,
                credit_bytes,
            } => {
                let link = &mut self.manager.link;
                for input in self.hearing.read(process, &records, credit_bytes, link) {
                    crash_point("hearing: before a notification counts");
                    self.input(input);
                }
            }
            LinkEvent::OutputEnded { process, next } => {
                self.hearing.drained(process, next, &mut self.manager.link);
            }
            LinkEvent::Log(level, text) => self.manager.log.write(level, &text),
            LinkEvent::Opened { welcome, fence } => {
                let text = format!(
                    "process kernel {} (pid {}), lease number {fence}",
                    welcome.release, welcome.pid
                );
                self.manager.log.debug(text);
                self.manager.output.kernel_connected(&welcome, fence);
                let listeners = self.manager.listeners.clone();
                if listeners.kernel_connected(welcome.instance, fence) == Handing::Missing {
                    spawn_blocking(move || listeners.hand_over(welcome.instance, fence));
                }
                let configuration = self.manager.configuration.borrow().clone();
                let log = self.manager.log.clone();
                papa_endpoint::look_for(welcome.instance, &configuration.global, log);
            }
            LinkEvent::Refused(holder) => return Some(holder),
            // The link has seen to it.
            LinkEvent::Broken(_) => {}
        }
        None
    }

    fn handle_output(&mut self, event: OutputEvent) {
        match event {
            OutputEvent::Drained(process) if self.connected => {
                self.input(Input::OutputDrained { process });
            }
            // Over the connection that broke; the next one tells it again.
            OutputEvent::Drained(_) => {}
            OutputEvent::LineSeen(process) => {
                crash_point("line: before it counts");
                self.input(Input::LineSeen { process });
            }
            OutputEvent::Log(level, text) => self.manager.log.write(level, &text),
        }
    }

    fn handle_hook(&mut self, news: HookNews) {
        match news {
            HookNews::Answer(hook, answer) => self.input(Input::HookAnswered { hook, answer }),
            HookNews::Log(level, text) => self.manager.log.write(level, &text),
        }
    }

    fn handle_signal(&mut self, signal: ManagerSignal, hung_up: bool) -> Leave {
        if signal != ManagerSignal::HangUp || hung_up {
            self.manager.greeting.cancel();
        }
        let log = &self.manager.log;
        match (signal, hung_up) {
            (ManagerSignal::Terminate, _) => {
                log.info("SIGTERM: leaving; all children run on");
                self.ask(Command::Detach(End::default()), None);
            }
            // The terminal has gone, which is not what Circus's signal was meant for.
            (ManagerSignal::HangUp, true) => {
                log.info("the terminal is gone: leaving; all children run on");
                self.ask(Command::Detach(End::default()), None);
            }
            (ManagerSignal::HangUp, false) => {
                log.info("SIGHUP: reloading all watchers");
                self.ask(Command::Reload(Reload::default()), None);
            }
            (ManagerSignal::Interrupt, _) => return self.interrupt(),
        }
        Leave::InOrder
    }

    fn interrupt(&mut self) -> Leave {
        let Some(count) = self.interrupts.count(Instant::now().into_std()) else {
            return Leave::InOrder;
        };
        let log = &self.manager.log;
        match (count, self.manager.on_interrupt) {
            (1, OnInterrupt::Shutdown) => {
                log.info(
                    "stopping everything; press Ctrl-C again to leave at once, children running",
                );
                self.ask(Command::Shutdown(End::default()), None);
                Leave::InOrder
            }
            (1, OnInterrupt::Quit) => {
                log.info("quitting: what is not use_papa is stopped");
                self.ask(Command::Quit(End::default()), None);
                Leave::InOrder
            }
            (2, _) => {
                log.info("leaving at once; children that still run go on running");
                self.ask(Command::Detach(End::default()), None);
                Leave::InOrder
            }
            _ => Leave::AtOnce,
        }
    }

    /// Does all that the engine asks for.
    fn act(&mut self) {
        loop {
            while let Some(action) = self.manager.engine.poll_action() {
                self.perform(action);
            }
            let Some(question) = self.manager.greeting.poll_question() else {
                break;
            };
            let (reply, mut answer) = oneshot::channel();
            self.ask(question, Some(reply));
            while let Some(action) = self.manager.engine.poll_action() {
                self.perform(action);
            }
            if let Some(text) = self.manager.greeting.handle_answer(answer.try_recv().ok()) {
                self.manager.log.info(text);
                self.manager.output.give_memory_back();
            }
        }
        crash_point("engine: before it is asked for");
        self.manager.link.flush();
        crash_point("engine: after it is asked for");
        if self.connected
            && let Some(healthy) = self.manager.healthy.take()
        {
            probation::pass();
            healthy.send_replace(true);
        }
    }

    fn perform(&mut self, action: Action) {
        match &action {
            Action::Spawn(_) => crash_point("engine: before a spawn"),
            Action::Signal { .. } => crash_point("engine: before a signal"),
            Action::SetValue { .. } => crash_point("engine: before remembering"),
            Action::AcknowledgeEnd { .. } => crash_point("engine: before an end is acknowledged"),
            Action::AcknowledgeNotes { .. } => {
                crash_point("hearing: before a notification is acknowledged");
            }
            _ => {}
        }
        match action {
            Action::MakeSocket { socket } => self.find_socket(socket),
            Action::AwaitConnections { sockets } => self.await_connections(sockets),
            Action::CloseSocket { kernel_name } => self.manager.link.close_socket(kernel_name),
            Action::Spawn(request) => {
                self.manager.greeting.note_spawn();
                self.spawn(request);
            }
            Action::Signal {
                process,
                signal,
                target,
            } => {
                self.manager.link.signal(process, signal, target);
            }
            Action::AttachOutput(source) => {
                let configuration = self.manager.configuration.borrow().clone();
                self.manager.output.attach(source, &configuration);
            }
            Action::AwaitLine { process, regex } => self.manager.output.await_line(process, regex),
            Action::AcknowledgeNotes { through } => {
                self.hearing.acknowledge(through, &mut self.manager.link);
            }
            Action::AcknowledgeEnd { process } => self.manager.link.acknowledge_end(process),
            Action::SetValue { write, key, value } => {
                self.manager.link.set_value(write, key, value);
            }
            Action::Configure(configuration) => {
                self.manager.output.configure(&configuration);
                self.hearing
                    .configure(&configuration, &mut self.manager.link);
                self.manager.configuration.send_replace(configuration);
            }
            Action::MeasureMemory { processes } => {
                for (process, pid) in processes {
                    if let Some(kib) = resident_kib(pid.0) {
                        self.input(Input::MemoryMeasured {
                            process,
                            resident_bytes: kib.saturating_mul(1024),
                        });
                    }
                }
            }
            Action::ReadConfiguration { command } => {
                let path = self.manager.file.clone();
                self.reads.spawn_blocking(move || (command, read(&path)));
            }
            Action::Reply { command, response } => {
                if let Some(reply) = self.replies.remove(&command) {
                    // Whoever asked may have gone.
                    let _ = reply.send(response);
                }
            }
            Action::TellLastWords { watcher, pid } => self.tell_last_words(&watcher, pid),
            Action::Publish(event) => {
                if let EventAction::Unready { pid, error: _ } = &event.action {
                    self.tell_last_words(&event.watcher, *pid);
                }
                self.manager.events.publish(EventLine::from(&event));
            }
            Action::CallHook(request) => {
                let configuration = self.manager.configuration.borrow().clone();
                self.hooks.call(&request, &configuration);
            }
            Action::CancelHook { hook } => self.hooks.cancel(hook),
            Action::Probe(request) if request.probe == Probe::Notify => {
                if let Some(input) = self.hearing.check(request.id) {
                    self.input(input);
                }
            }
            Action::Probe(request) => {
                let configuration = self.manager.configuration.borrow().clone();
                self.probes.begin(&request, &configuration);
            }
            Action::CancelProbe { probe } => {
                self.hearing.cancel(probe);
                self.probes.cancel(probe);
            }
            Action::Log { level, text } => self.manager.log.write(level, &text),
            Action::Finished(outcome) => self.finished = Some(outcome),
        }
    }

    /// What a process wrote last that is replaced, for those who ask why.
    fn tell_last_words(&self, watcher: &str, pid: Pid) {
        let history = self.manager.output.history();
        let mut words = history.last_words(&BTreeSet::from([pid.0]), LAST_WORDS_LINES);
        for line in words.remove(&pid.0).unwrap_or_default() {
            if line.origin.watcher == watcher {
                self.manager.log.error(format!(
                    "watcher {watcher:?}: pid {pid} wrote last: {}",
                    short(&line.to_text())
                ));
            }
        }
    }

    fn spawn(&mut self, request: SpawnRequest) {
        let configuration = self.manager.configuration.borrow().clone();
        let ticket = request.ticket;
        let Some(watcher) = configuration.watcher(request.watcher.as_str()) else {
            let error = format!("watcher {:?} is not configured", request.watcher.as_str());
            return self.fail_spawn(ticket, error, None);
        };
        let worker = request.worker.0;
        match process_spec(
            watcher,
            worker,
            request.labels,
            &configuration,
            &self.manager.around,
        ) {
            Ok(mut spec) => {
                spec.name = request.name;
                self.hearing
                    .equip(&mut spec, watcher, &mut self.manager.link);
                self.manager.link.spawn(ticket, request.key, spec);
            }
            Err(error) => self.fail_spawn(ticket, error.to_string(), error.option()),
        }
    }

    /// A process cannot even be described to the kernel.
    fn fail_spawn(&mut self, ticket: Ticket, error: String, option: Option<&str>) {
        let failure = SpawnFailure {
            error,
            kind: SpawnErrorKind::Permanent,
            option: option.map(str::to_owned),
        };
        self.manager.link.fail_spawn(ticket, failure);
    }

    fn handle_read(&mut self, command: CommandId, result: Result<Box<Configuration>, String>) {
        if let Ok(configuration) = &result {
            for warning in &configuration.warnings {
                self.manager.log.warning(warning.to_string());
            }
        }
        self.input(Input::ConfigurationRead { command, result });
    }

    async fn finish(mut self, outcome: Outcome) -> Ended {
        let manager = &mut self.manager;
        // First, so that what it stores is acknowledged while the lease is still ours.
        for (level, text) in manager.output.finish().await {
            manager.log.write(level, &text);
        }
        if let (Outcome::Detached, Upgrading::Leaving(plan)) = (outcome, &self.upgrading) {
            return Ended::Upgrading(plan.clone());
        }
        if matches!(
            outcome,
            Outcome::Quit | Outcome::ShutDown | Outcome::EssentialEnded { .. }
        ) {
            // Nobody comes to serve those who would wait in them.
            let listeners = manager.listeners.clone();
            let _ = spawn_blocking(move || listeners.close_all()).await;
            if let Some(fence) = manager.link.fence() {
                let socket = manager.link.socket().to_owned();
                let namespace = manager.namespace.clone();
                let told =
                    spawn_blocking(move || farewell::stop_hearing(&socket, fence, &namespace));
                if let Ok(Err(error)) = told.await {
                    manager
                        .log
                        .debug(format!("the listener for notifications stays: {error}"));
                }
            }
        }
        let Some(fence) = manager
            .link
            .fence()
            .filter(|_| matches!(outcome, Outcome::ShutDown | Outcome::EssentialEnded { .. }))
        else {
            return Ended::Finished(outcome);
        };
        let socket = manager.link.socket().to_owned();
        let namespace = manager.namespace.clone();
        let end = spawn_blocking(move || farewell::say(&socket, fence, &namespace)).await;
        if let Outcome::EssentialEnded { status } = outcome {
            return Ended::EssentialEnded(status);
        }
        match end {
            Ok(KernelEnd::Ended) => Ended::KernelEnded,
            Ok(KernelEnd::Stays(reason)) => Ended::KernelKept(reason),
            Err(error) => Ended::KernelKept(error.to_string()),
        }
    }
}

/// The beginning of a line that may be as long as its writer liked.
fn short(line: &str) -> String {
    let mut characters = line.chars();
    let mut short: String = characters.by_ref().take(LAST_WORDS_CHARACTERS).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

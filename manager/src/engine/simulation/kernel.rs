//! A kernel without system calls: what it holds, and what requests and time do to it. It keeps a
//! history that the checks read, and complains about requests that no manager should make.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::voices::Voices;
use crate::engine::labels;
use crate::engine::random::Random;
use crate::engine::remember::{Memory, Run, StopReason};
use crate::engine::{
    Action, EndCause, Epoch, Generation, HeldProcess, Input, KernelFacts, Moment, Pid, ProcessEnd,
    ProcessId, SignalTarget, SpawnErrorKind, SpawnFailure, SpawnRequest,
};

/// How a simulated child behaves.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Behaviour {
    /// When it ends by itself.
    pub(in crate::engine) dies_at: Option<Moment>,
    /// How long it takes to end when asked, or never.
    pub(in crate::engine) obeys_after: Option<Duration>,
    /// When it is ready, or never.
    pub(in crate::engine) ready_at: Option<Moment>,
    /// From when on it does not answer any more.
    pub(in crate::engine) hangs_at: Option<Moment>,
}

#[derive(Clone, Debug)]
pub(in crate::engine) struct SimProcess {
    pub(in crate::engine) held: HeldProcess,
    pub(in crate::engine) behaviour: Behaviour,
    /// Set by a signal that ends it.
    pub(in crate::engine) killed_by: Option<(i32, Moment)>,
    pub(in crate::engine) ended_by_itself: bool,
}

/// How children and spawns behave while there are faults, or not.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Weather {
    /// One in so many children is short-lived; zero for none.
    pub(in crate::engine) short_lived: u64,
    /// One in so many ignores the stop signal.
    pub(in crate::engine) stubborn: u64,
    /// One in so many spawns fails.
    pub(in crate::engine) failing_spawns: u64,
    /// One in so many sockets fails.
    pub(in crate::engine) failing_sockets: u64,
    /// One in so many values is refused.
    pub(in crate::engine) refused_values: u64,
    /// One in so many children is never ready.
    pub(in crate::engine) never_ready: u64,
    /// One in so many children stops answering after a while.
    pub(in crate::engine) hanging: u64,
}

#[derive(Debug)]
pub(in crate::engine) struct SimKernel {
    pub(in crate::engine) processes: BTreeMap<ProcessId, SimProcess>,
    pub(in crate::engine) values: BTreeMap<String, String>,
    pub(in crate::engine) sockets: BTreeSet<String>,
    pub(in crate::engine) epoch: u64,
    pub(in crate::engine) weather: Weather,
    pub(in crate::engine) history: History,
    /// Watchers that were stopped for flapping and may not be started before a time, as far as
    /// nobody has said otherwise since.
    pub(in crate::engine) held_back: BTreeMap<String, Moment>,
    /// Times of `held_back` that count no more.
    pub(in crate::engine) pardoned: BTreeSet<Moment>,
    /// What children say of themselves.
    pub(in crate::engine) voices: Voices,
    next_process: u64,
    /// Spawn keys of all that was ever started.
    keys: BTreeMap<String, ProcessId>,
}

/// What the checks need to know about the past.
#[derive(Debug, Default)]
pub(in crate::engine) struct History {
    /// All our processes that ended, and whether by themselves.
    pub(in crate::engine) ends: BTreeMap<ProcessId, bool>,
    /// Ends that were acknowledged.
    pub(in crate::engine) acknowledged: BTreeSet<ProcessId>,
    /// Spawns per worker: when, and the ends before; see the back-off check.
    pub(in crate::engine) lives: BTreeMap<String, Vec<Life>>,
    /// Watchers that had a spawn fail for good.
    pub(in crate::engine) permanent_failures: BTreeSet<String>,
    pub(in crate::engine) signals: u64,
    /// Values that were refused: after that not everything can be remembered.
    pub(in crate::engine) refusals: u64,
    pub(in crate::engine) spawns: u64,
}

/// One life of a worker.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Life {
    pub(in crate::engine) started: Moment,
    pub(in crate::engine) ended: Option<Moment>,
}

/// How long a child takes at most until it is ready.
pub(in crate::engine) const READY_WITHIN: Duration = Duration::from_secs(5);

/// The signal that operators and reloads send; it stops nobody.
pub(in crate::engine) const OPERATOR_SIGNAL: i32 = 1;

pub(in crate::engine) const SOMEBODY: &str = "somebody.else";

impl SimKernel {
    pub(in crate::engine) fn new(weather: Weather) -> Self {
        Self {
            processes: BTreeMap::new(),
            values: BTreeMap::new(),
            sockets: BTreeSet::new(),
            epoch: 0,
            weather,
            history: History::default(),
            held_back: BTreeMap::new(),
            pardoned: BTreeSet::new(),
            voices: Voices::default(),
            next_process: 1,
            keys: BTreeMap::new(),
        }
    }

    /// Forgets everything but what the checks need to know.
    pub(in crate::engine) fn wipe(&mut self) {
        self.processes.clear();
        self.values.clear();
        self.sockets.clear();
        self.keys.clear();
        self.held_back.clear();
        self.voices = Voices::default();
        self.epoch = 0;
        self.next_process = 1;
        self.history.ends.clear();
        self.history.acknowledged.clear();
        self.history.lives.clear();
    }

    /// Whether it ever gave out this number; a new one counts from one again.
    pub(in crate::engine) const fn has_given_out(&self, process: ProcessId) -> bool {
        process.0 < self.next_process
    }

    /// A manager takes the lease and lists everything.
    pub(in crate::engine) fn connect(&mut self, prefix: &str) -> KernelFacts {
        self.epoch += 1;
        self.voices.begin_anew();
        KernelFacts {
            epoch: Epoch(self.epoch),
            generation: Generation(1),
            processes: self
                .processes
                .values()
                .map(|process| process.held.clone())
                .collect(),
            sockets: self.sockets.iter().cloned().collect(),
            values: self
                .values
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }

    /// Does what a manager asks and answers. An error is a request nobody should make.
    pub(in crate::engine) fn execute(
        &mut self,
        action: &Action,
        now: Moment,
        random: &mut Random,
    ) -> Result<Vec<Input>, String> {
        match action {
            Action::MakeSocket { socket } => {
                let name = format!("circus.{socket}");
                if !self.sockets.contains(&name) && one_in(random, self.weather.failing_sockets) {
                    let error = "address in use".to_owned();
                    return Ok(vec![Input::SocketFailed {
                        socket: socket.clone(),
                        error,
                    }]);
                }
                self.sockets.insert(name);
                Ok(vec![Input::SocketReady {
                    socket: socket.clone(),
                }])
            }
            Action::CloseSocket { kernel_name } => {
                self.sockets.remove(kernel_name);
                Ok(Vec::new())
            }
            Action::Spawn(request) => self.spawn(request, now, random),
            Action::Signal {
                process,
                signal,
                target,
            } => {
                self.signal(*process, signal.0, *target, now)?;
                Ok(Vec::new())
            }
            Action::AcknowledgeEnd { process } => {
                match self
                    .processes
                    .get(process)
                    .map(|it| it.held.ended.is_some())
                {
                    Some(false) => return Err(format!("live process {process} acknowledged")),
                    Some(true) => {
                        self.processes.remove(process);
                        self.history.acknowledged.insert(*process);
                    }
                    None => {}
                }
                Ok(Vec::new())
            }
            Action::SetValue { write, key, value } => {
                if value.is_some() && one_in(random, self.weather.refused_values) {
                    self.history.refusals += 1;
                    let error = "too many values".to_owned();
                    return Ok(vec![Input::ValueRefused {
                        write: *write,
                        error,
                    }]);
                }
                if let Some(Ok(memory)) = value.as_deref().map(Memory::from_value)
                    && let Some(Run::Stopped(StopReason::Flapping {
                        until: Some(at), ..
                    })) = memory.run
                {
                    let told = memory.current.is_some() || !memory.queue.is_empty();
                    if !told && !self.pardoned.contains(&at) {
                        let watcher = key.trim_start_matches("kingpole.sim.watcher.");
                        self.held_back.insert(watcher.to_owned(), at);
                    }
                }
                let busy = value.as_deref().map(Memory::from_value);
                if let Some(Ok(memory)) = busy
                    && (memory.current.is_some() || !memory.queue.is_empty())
                {
                    // An operator's word that had to wait for this manager to know what flaps.
                    let watcher = key.trim_start_matches("kingpole.sim.watcher.");
                    self.held_back.remove(watcher);
                }
                match value {
                    Some(value) => self.values.insert(key.clone(), value.clone()),
                    None => self.values.remove(key),
                };
                Ok(vec![Input::ValueStored { write: *write }])
            }
            Action::AcknowledgeNotes { through } => {
                self.voices.acknowledge(*through);
                Ok(Vec::new())
            }
            Action::AttachOutput(_)
            | Action::AwaitLine { .. }
            | Action::AwaitConnections { .. }
            | Action::Configure(_)
            | Action::MeasureMemory { .. }
            | Action::ReadConfiguration { .. }
            | Action::CallHook(_)
            | Action::CancelHook { .. }
            | Action::Probe(_)
            | Action::CancelProbe { .. }
            | Action::Reply { .. }
            | Action::Publish(_)
            | Action::TellLastWords { .. }
            | Action::Log { .. }
            | Action::Finished(_) => Err("not for the kernel".to_owned()),
        }
    }

    fn spawn(
        &mut self,
        request: &SpawnRequest,
        now: Moment,
        random: &mut Random,
    ) -> Result<Vec<Input>, String> {
        let ticket = request.ticket;
        if let Some(process) = self.keys.get(&request.key) {
            let Some(known) = self.processes.get(process) else {
                return Err(format!(
                    "key {} repeated after its process was forgotten",
                    request.key
                ));
            };
            let HeldProcess {
                id,
                pid,
                started,
                ended,
                ..
            } = known.held.clone();
            let spawned = Input::Spawned {
                ticket,
                process: id,
                pid,
                started,
            };
            let ended = ended.map(|end| Input::ProcessEnded { process: id, end });
            return Ok(std::iter::once(spawned).chain(ended).collect());
        }
        if let Some(twin) = self
            .live()
            .find(|process| process.held.name == request.name)
        {
            return Err(format!(
                "{} is alive already as {}",
                request.name, twin.held.id
            ));
        }
        let until = self.held_back.get(request.watcher.as_str());
        if until.is_some_and(|until| *until > now) && self.history.refusals == 0 {
            return Err(format!("{} is started although it flaps", request.name));
        }
        if one_in(random, self.weather.failing_spawns) {
            let kind = if random.up_to(1) == 0 {
                self.history
                    .permanent_failures
                    .insert(request.watcher.to_string());
                SpawnErrorKind::Permanent
            } else {
                SpawnErrorKind::Transient
            };
            let failure = SpawnFailure {
                error: "cannot start".to_owned(),
                kind,
                option: None,
            };
            return Ok(vec![Input::SpawnFailed { ticket, failure }]);
        }
        let held = self.start(
            &request.name,
            request.labels.clone(),
            &request.key,
            now,
            random,
        );
        self.history.spawns += 1;
        let life = Life {
            started: now,
            ended: None,
        };
        self.history
            .lives
            .entry(held.name.clone())
            .or_default()
            .push(life);
        let HeldProcess {
            id, pid, started, ..
        } = held;
        Ok(vec![Input::Spawned {
            ticket,
            process: id,
            pid,
            started,
        }])
    }

    /// Children say what they have to say by now.
    pub(in crate::engine) fn let_speak(&mut self, now: Moment) {
        self.voices.speak(&self.processes, now);
    }

    /// When a child says something, or somebody who listens is told.
    pub(in crate::engine) fn next_word(&self, listens: bool) -> Option<Moment> {
        self.voices.next_event(listens)
    }

    /// Starts a process for anybody.
    pub(in crate::engine) fn start(
        &mut self,
        name: &str,
        labels: BTreeMap<String, String>,
        key: &str,
        now: Moment,
        random: &mut Random,
    ) -> HeldProcess {
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        let dies_at = one_in(random, self.weather.short_lived)
            .then(|| now + random.duration_up_to(Duration::from_secs(15)));
        let obeys_after = (!one_in(random, self.weather.stubborn))
            .then(|| random.duration_up_to(Duration::from_secs(2)));
        let ready_at = (!one_in(random, self.weather.never_ready))
            .then(|| now + random.duration_up_to(READY_WITHIN));
        let hangs_at = one_in(random, self.weather.hanging)
            .then(|| now + READY_WITHIN + random.duration_up_to(Duration::from_secs(60)));
        let held = HeldProcess {
            id,
            name: name.to_owned(),
            pid: Pid(u32::try_from(id.0).unwrap_or(u32::MAX) + 1000),
            labels,
            started: now,
            ended: None,
        };
        let process = SimProcess {
            held: held.clone(),
            behaviour: Behaviour {
                dies_at,
                obeys_after,
                ready_at,
                hangs_at,
            },
            killed_by: None,
            ended_by_itself: false,
        };
        self.keys.insert(key.to_owned(), id);
        self.voices.begin(&process);
        self.processes.insert(id, process);
        held
    }

    fn signal(
        &mut self,
        process: ProcessId,
        signal: i32,
        target: SignalTarget,
        now: Moment,
    ) -> Result<(), String> {
        self.history.signals += 1;
        let Some(found) = self.processes.get_mut(&process) else {
            return Ok(());
        };
        if found.held.labels.is_empty() {
            return Err(format!(
                "process {process} of somebody else got signal {signal}"
            ));
        }
        let remembered = found
            .held
            .labels
            .get(labels::WATCHER)
            .and_then(|watcher| self.values.get(&format!("kingpole.sim.watcher.{watcher}")))
            .and_then(|value| Memory::from_value(value).ok())
            .is_some_and(|memory| memory.stop_of(process).is_some());
        if signal != OPERATOR_SIGNAL && !remembered && self.history.refusals == 0 {
            return Err(format!(
                "nobody remembers why process {process} got signal {signal}"
            ));
        }
        if signal == 9 && target == SignalTarget::Process {
            return Err(format!("process {process} was killed without its children"));
        }
        let dies_at = match signal {
            9 => Some(now),
            OPERATOR_SIGNAL => None,
            _ => found.behaviour.obeys_after.map(|wait| now + wait),
        };
        if let Some(at) = dies_at
            && found.killed_by.is_none_or(|(_, earlier)| at < earlier)
        {
            found.killed_by = Some((signal, at));
        }
        Ok(())
    }

    pub(in crate::engine) fn live(&self) -> impl Iterator<Item = &SimProcess> {
        self.processes
            .values()
            .filter(|process| process.held.ended.is_none())
    }

    /// Whether a process is what its `ready` option asks for.
    pub(in crate::engine) fn is_ready(&self, process: ProcessId, now: Moment) -> bool {
        let ready = |it: &SimProcess| {
            let Behaviour {
                ready_at, hangs_at, ..
            } = it.behaviour;
            ready_at.is_some_and(|at| at <= now) && hangs_at.is_none_or(|at| at > now)
        };
        self.processes.get(&process).is_some_and(ready)
    }

    /// When the next child ends.
    pub(in crate::engine) fn next_end(&self) -> Option<Moment> {
        self.live().filter_map(SimProcess::next_end).min()
    }

    /// Ends the children whose time has come.
    pub(in crate::engine) fn reap(&mut self, now: Moment) -> Vec<(ProcessId, ProcessEnd)> {
        let due: Vec<ProcessId> = self
            .live()
            .filter(|process| process.next_end().is_some_and(|at| at <= now))
            .map(|process| process.held.id)
            .collect();
        due.into_iter()
            .filter_map(|id| self.end(id, now).map(|end| (id, end)))
            .collect()
    }

    /// Ends a child now.
    pub(in crate::engine) fn end(&mut self, id: ProcessId, now: Moment) -> Option<ProcessEnd> {
        let process = self
            .processes
            .get_mut(&id)
            .filter(|it| it.held.ended.is_none())?;
        let cause = match process.killed_by {
            Some((signal, at)) if at <= now => EndCause::Signaled {
                signal,
                core: false,
            },
            Some(_) | None => EndCause::Exited(1),
        };
        process.ended_by_itself = process.killed_by.is_none();
        let end = ProcessEnd { cause, at: now };
        process.held.ended = Some(end);
        if !process.held.labels.is_empty() {
            self.history.ends.insert(id, process.ended_by_itself);
        }
        if let Some(life) = self
            .history
            .lives
            .get_mut(&process.held.name)
            .and_then(|lives| lives.last_mut())
        {
            life.ended = Some(now);
        }
        Some(end)
    }

    /// From now on children live on unless they are asked to stop.
    pub(in crate::engine) fn calm_down(&mut self, now: Moment) {
        self.weather = Weather {
            short_lived: 0,
            stubborn: self.weather.stubborn,
            failing_spawns: 0,
            failing_sockets: 0,
            refused_values: 0,
            never_ready: 0,
            hanging: 0,
        };
        for process in self.processes.values_mut() {
            process.behaviour.dies_at = None;
            let hangs = process.behaviour.hangs_at;
            process.behaviour.hangs_at = hangs.filter(|at| *at <= now);
        }
    }
}

impl SimProcess {
    fn next_end(&self) -> Option<Moment> {
        let killed = self.killed_by.map(|(_, at)| at);
        [killed, self.behaviour.dies_at].into_iter().flatten().min()
    }
}

/// True once in so many draws; never for zero.
pub(in crate::engine) fn one_in(random: &mut Random, times: u64) -> bool {
    times > 0 && random.up_to(times - 1) == 0
}

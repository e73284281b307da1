//! One watcher: what it shall have, what it has, and the loop that brings the two together.
//!
//! Desired and actual are apart. Desired is a function of the configuration, the remembered words
//! of operators ([`Memory`]) and whether the manager is leaving. Actual is what the kernel told:
//! live children, spawns in flight, ended processes whose output is still being stored. After
//! each input [`Watcher::settle`] compares both and acts; it keeps no other plan, so it does not
//! matter what was going on before a crash.
//!
//! | stage   | wanted                                             | not wanted                    |
//! |---------|----------------------------------------------------|-------------------------------|
//! | Down    | its turn has come: Rising                          | stays                         |
//! | Rising  | all processes there and warmed up: Up, `start`     | Falling, or Down with `stop`  |
//! | Up      | stays, whatever is missing for a while             | Falling, or Down with `stop`  |
//! | Falling | Rising                                             | nothing alive: Down, `stop`   |

use std::collections::{BTreeMap, VecDeque};

use super::action::{Action, EventAction, Level};
use super::children::Children;
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::dependencies::Awaiting;
use super::fingerprint::{fingerprint, program};
use super::hook::{HookName, HookSubject};
use super::hooks::{Gate, Hooks};
use super::ids::{CommandId, Moment, ProcessId, WatcherKey, WorkerId, WriteId};
use super::operation::Current;
use super::remember::{self, Memory, Run, StopReason};
use super::rolling::Pulse;
use super::sockets::SocketUse;
use super::worker::{Ended, Spawning};
use crate::command::{Stopping, WatcherState};
use crate::config::model::{Configuration, WatcherConfig};

/// See the module.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) key: WatcherKey,
    /// What the file says; nothing for one that was made at run time or is not configured any more.
    pub(super) base: Option<WatcherConfig>,
    /// What holds, with everything that was changed at run time.
    pub(super) config: WatcherConfig,
    pub(super) fingerprint: String,
    /// Fingerprint without the environment.
    pub(super) program: String,
    pub(super) uses: SocketUse,
    pub(super) standing: Standing,
    pub(super) turn: Turn,
    pub(super) stage: Stage,
    memory: Memory,
    /// Whether `memory` may differ from `stored`; saves comparing on every action.
    touched: bool,
    stored: Stored,
    pub(super) children: Children,
    pub(super) spawning: BTreeMap<WorkerId, Spawning>,
    pub(super) ended: BTreeMap<ProcessId, Ended>,
    /// Ends that were acknowledged, with the last write before; dropped when a later write is
    /// confirmed, because then the kernel has seen the acknowledgement too.
    pub(super) acknowledged: Vec<(WriteId, ProcessId)>,
    /// Spawns whose answer a lost connection took along; repeated with the same key.
    pub(super) unanswered: BTreeMap<WorkerId, Spawning>,
    /// How many processes of a worker id ended by themselves before the next one.
    pub(super) replaced: BTreeMap<WorkerId, u32>,
    /// Warm-up: no spawn before this.
    pub(super) next_spawn_at: Moment,
    /// When the memory of its processes is asked for next.
    pub(super) measure_at: Moment,
    /// Who waits for the commands in `memory.queue`, in the same order.
    pub(super) waiters: VecDeque<Option<CommandId>>,
    /// Progress of `memory.current`.
    pub(super) current: Option<Current>,
    /// The last error of a spawn, until one succeeds.
    pub(super) spawn_error: Option<String>,
    pub(super) wake: Option<Moment>,
    /// Of an `on_demand` watcher: whether a connection has called for it, and none of its processes
    /// has ended by itself since.
    pub(super) demanded: bool,
    /// Calls of hooks that are due.
    pub(super) hooks: Hooks,
    /// What is not remembered of a rolling run.
    pub(super) pulse: Pulse,
    /// What is remembered of its options has changed, and has to be worked out before anything is
    /// done.
    pub(super) rewritten: bool,
    /// What it depends on and is not there, if that keeps it from starting.
    pub(super) awaiting: Option<Awaiting>,
}

/// Whether the watcher may have processes at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is configured.
    Configured,
    /// It is not configured any more; it ends once its processes have.
    Retired,
    /// An operator removed it, and the file has not said anything new about it.
    Removed(Stopping),
    /// The manager is leaving and takes it along.
    Leaving,
}

impl Standing {
    /// Whether nobody may ask anything of it any more.
    pub(super) const fn is_over(self) -> bool {
        match self {
            Self::Retired | Self::Removed(_) => true,
            Self::Configured | Self::Leaving => false,
        }
    }
}

/// Its place in the order of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Others come first.
    Waiting,
    /// It may start.
    Granted,
}

/// See the table of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Down,
    Rising,
    Up,
    Falling,
}

/// What the kernel is known to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stored {
    /// This, once what is on its way has arrived.
    Value(Option<String>),
    /// It refused; offered again at this time.
    Refused { retry_at: Moment },
}

impl Watcher {
    pub(super) fn new(config: WatcherConfig, configuration: &Configuration) -> Self {
        Self {
            key: WatcherKey::of(&config.name),
            fingerprint: fingerprint(&config),
            program: program(&config),
            base: Some(config.clone()),
            uses: SocketUse::of(&config, configuration),
            config,
            standing: Standing::Configured,
            turn: Turn::Granted,
            stage: Stage::Down,
            memory: Memory::default(),
            touched: true,
            stored: Stored::Value(None),
            children: Children::default(),
            spawning: BTreeMap::new(),
            ended: BTreeMap::new(),
            acknowledged: Vec::new(),
            unanswered: BTreeMap::new(),
            replaced: BTreeMap::new(),
            next_spawn_at: Moment::default(),
            measure_at: Moment::default(),
            waiters: VecDeque::new(),
            current: None,
            spawn_error: None,
            wake: None,
            demanded: false,
            hooks: Hooks::default(),
            pulse: Pulse::default(),
            rewritten: false,
            awaiting: None,
        }
    }

    /// The same of which the file says nothing.
    pub(super) fn without_file(self) -> Self {
        Self { base: None, ..self }
    }

    /// Whether a live process was started from other options.
    pub(super) fn has_outdated(&self) -> bool {
        self.children
            .values()
            .any(|child| child.identity.configuration != self.fingerprint)
    }

    /// Words that say what the configuration says by now, or that it has overruled, go.
    pub(super) fn drop_obsolete_words(&mut self) {
        let configured = self.config.numprocesses;
        let autostart = self.config.autostart;
        let respawn = self.config.respawn;
        let fingerprint = self.fingerprint.clone();
        let memory = self.memory_mut();
        memory.count = memory
            .count
            .filter(|count| count.configured == configured && count.numprocesses != configured);
        if let Some(Run::Stopped(
            StopReason::GaveUp { configuration, .. } | StopReason::Flapping { configuration, .. },
        )) = &memory.run
            && *configuration != fingerprint
        {
            // Whoever wanted it to run before wants it still.
            memory.run = Some(Run::Running);
        }
        let said_anyway = match &memory.run {
            Some(Run::Running) => autostart,
            Some(Run::Stopped(StopReason::Command)) => !autostart,
            Some(Run::Stopped(StopReason::Finished)) => respawn,
            Some(Run::Stopped(StopReason::GaveUp { .. } | StopReason::Flapping { .. })) | None => {
                false
            }
        };
        if said_anyway {
            memory.run = None;
        }
        if respawn {
            memory.spent = 0;
        }
    }

    pub(super) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// To change what is remembered. The change is sent before the next action.
    pub(super) const fn memory_mut(&mut self) -> &mut Memory {
        self.touched = true;
        &mut self.memory
    }

    /// Says what the kernel holds, after a connection.
    pub(super) fn set_stored(&mut self, value: Option<String>) {
        self.stored = Stored::Value(value);
        self.touched = true;
    }

    /// The kernel holds a value, and has done all that was asked for before.
    pub(super) fn handle_value_stored(&mut self, write: WriteId) {
        self.acknowledged.retain(|(before, _)| *before >= write);
    }

    /// The kernel refused the last value.
    pub(super) fn handle_value_refused(&mut self, retry_at: Moment) {
        self.stored = Stored::Refused { retry_at };
    }

    /// Whether the kernel has refused to remember what is to be remembered.
    pub(super) const fn is_refused_memory(&self) -> bool {
        matches!(self.stored, Stored::Refused { .. })
    }

    /// Sends the memory if the kernel does not have it like this.
    pub(super) fn flush(&mut self, cx: &mut Context) {
        let due = match &self.stored {
            Stored::Value(_) => self.touched,
            Stored::Refused { retry_at } => self.touched || *retry_at <= cx.now,
        };
        if !cx.connected() || !due {
            return;
        }
        self.touched = false;
        let value = self.memory.to_value();
        let differs = match &self.stored {
            Stored::Value(stored) => *stored != value,
            Stored::Refused { .. } => true,
        };
        if differs {
            let key = remember::key(&cx.namespace, &self.key);
            cx.write(&self.key, key, value.clone());
            self.stored = Stored::Value(value);
        }
    }

    /// Queues an action behind the memory that justifies it.
    pub(super) fn act(&mut self, cx: &mut Context, action: Action) {
        #[cfg(test)]
        if cx.fault == Fault::RememberTooLate {
            cx.push(action);
            return;
        }
        self.flush(cx);
        cx.push(action);
    }

    pub(super) fn publish(&self, cx: &mut Context, at: Moment, action: EventAction) {
        cx.publish(&self.config.name, at, action);
    }

    /// Whether operators and configuration want it to run.
    pub(super) fn word(&self) -> bool {
        match &self.memory.run {
            Some(Run::Running) => true,
            Some(Run::Stopped(_)) => false,
            None => self.config.autostart,
        }
    }

    /// Whether it shall run now.
    pub(super) fn wanted(&self) -> bool {
        match self.standing {
            Standing::Configured => self.word() && !(self.rests() && self.empty()),
            Standing::Retired | Standing::Removed(_) | Standing::Leaving => false,
        }
    }

    pub(super) fn set_run(&mut self, run: Run) {
        self.memory_mut().run = Some(run);
        self.drop_obsolete_words();
    }

    /// The number of processes it shall have when it runs.
    pub(super) fn count(&self) -> u32 {
        let count = self
            .memory
            .count
            .map_or(self.config.numprocesses, |count| count.numprocesses);
        if self.config.singleton {
            count.min(1)
        } else {
            count
        }
    }

    /// The number of processes it shall have now; those that ended for good are not replaced.
    pub(super) fn target(&self) -> usize {
        let count = self.count().saturating_sub(self.memory.spent);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if self.rests() {
            count.min(self.children.settled() + self.spawning.len())
        } else {
            count
        }
    }

    /// Nothing runs and nothing is on the way.
    pub(super) fn empty(&self) -> bool {
        self.children.is_empty() && self.spawning.is_empty()
    }

    /// Brings actual towards desired. Called whenever something has changed, and at `wake`.
    pub(super) fn settle(&mut self, cx: &mut Context) {
        if !cx.connected() {
            self.wake = None;
            return;
        }
        self.prune_proofs();
        self.prune_starting(cx);
        self.prune_told();
        self.end_late_call(cx);
        self.awaiting = self.awaits(cx);
        // Each round finishes a command and begins the next, or decides for a hook that is not
        // there any more, so it ends with the queues.
        loop {
            self.begin_operation(cx);
            self.handle_timers(cx);
            self.converge(cx);
            self.update_stage(cx);
            let decided = self.advance_hooks(cx);
            if !self.try_finish_operation(cx) && !decided && !self.try_resume_refresh() {
                break;
            }
        }
        self.measure(cx);
        self.flush(cx);
        self.wake = self.next_wake(cx);
    }

    fn update_stage(&mut self, cx: &mut Context) {
        if self.rewritten {
            // Nothing was decided, and what has to come before a start was not asked for.
            return;
        }
        if self.standing == Standing::Removed(Stopping::Leave) {
            // Nobody is told anything more of what was left to itself.
            self.stage = Stage::Down;
            return;
        }
        let next = match (self.wanted(), self.stage) {
            (true, Stage::Down) => match self.turn {
                Turn::Waiting => Stage::Down,
                Turn::Granted if self.start_is_held_back() => Stage::Down,
                Turn::Granted => Stage::Rising,
            },
            (true, Stage::Falling) => Stage::Rising,
            (true, Stage::Rising | Stage::Up) => self.stage,
            (false, Stage::Down) if self.empty() => Stage::Down,
            // As in Circus, where it is no stop.
            (false, _) if self.empty() && self.is_armed() => Stage::Down,
            (false, Stage::Down | Stage::Rising | Stage::Up | Stage::Falling)
                if self.empty() && !self.stop_is_held_back() =>
            {
                cx.log(
                    Level::Info,
                    format!("watcher {:?} is stopped", self.config.name),
                );
                self.publish(cx, cx.now, EventAction::Stop);
                self.notice(HookName::AfterStop, HookSubject::Watcher);
                self.forget_stop();
                Stage::Down
            }
            (false, Stage::Down | Stage::Rising | Stage::Up | Stage::Falling) => Stage::Falling,
        };
        self.stage = next;
        if self.stage == Stage::Rising && self.complete(cx) && self.up_gate() == Gate::Open {
            self.stage = Stage::Up;
            let processes = match self.children.len() {
                1 => "1 process".to_owned(),
                count => format!("{count} processes"),
            };
            cx.log(
                Level::Info,
                format!("watcher {:?} is up, {processes}", self.config.name),
            );
            self.publish(cx, cx.now, EventAction::Start);
        }
    }

    /// Whether it has what it shall have, ready, with nothing on the way.
    pub(super) fn complete(&self, cx: &Context) -> bool {
        self.all_run(cx) && self.children.ready() >= self.target()
    }

    /// Whether it has what it shall have, ready or not, with nothing on the way.
    pub(super) fn all_run(&self, cx: &Context) -> bool {
        self.memory.rollout.is_none()
            && self.memory.rolling.is_none()
            && self.spawning.is_empty()
            && self.memory.unproven.is_empty()
            && self.children.settled() >= self.target()
            && self.next_spawn_at <= cx.now
    }

    /// Its state in Circus's words.
    pub(super) fn state(&self) -> WatcherState {
        match self.stage {
            Stage::Down if self.wanted() && self.start_is_held_back() => WatcherState::Starting,
            Stage::Down => WatcherState::Stopped,
            Stage::Rising => WatcherState::Starting,
            Stage::Up => WatcherState::Active,
            Stage::Falling => WatcherState::Stopping,
        }
    }

    /// The next time at which something is due although nothing happens.
    fn next_wake(&self, cx: &Context) -> Option<Moment> {
        let warm_up = [self.next_spawn_at].into_iter().filter(|_| self.wanted());
        let value = match &self.stored {
            Stored::Value(_) => None,
            Stored::Refused { retry_at } => Some(*retry_at),
        };
        let back_off = self
            .memory
            .failures
            .values()
            .map(|failures| failures.not_before);
        warm_up
            .chain(value)
            .chain(back_off)
            .chain(self.children.next_timer(cx.now))
            .chain(self.hooks.deadline())
            .chain(self.flapping_until())
            .chain(self.next_measure())
            .chain(self.pulse.wake)
            .filter(|moment| *moment > cx.now)
            .min()
    }
}

//! Commands: which watchers are meant, what is refused, and when the answer goes out.

use std::collections::BTreeSet;

use super::amendments::plan_answer;
use super::context::changed;
use super::ids::{CommandId, ProcessId, WatcherKey};
use super::limits::{DEFERRED_COMMANDS_MAX, NUMPROCESSES_MAX, QUEUED_OPERATIONS_MAX};
use super::manager::{Engine, Recovered};
use super::operation::Operation;
use super::pattern::{glob_matches, regex};
use super::remember::{StopCause, StopRecord};
use super::watcher::{Stage, Turn, Watcher};
use crate::command::{
    Answer, Change, Command, KillRequest, Matching, Refusal, RefusalKind, Reload, ReloadMethod,
    Response, Scale, Selection, SignalRequest, StatusReport, Step, Wait, WatcherOutcome,
    WatcherResult,
};
use crate::config::difference::Difference;
use crate::config::model::SignalNumber;

/// A command that waits for watchers.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) missing: usize,
    pub(super) outcomes: Vec<WatcherOutcome>,
    /// Of a changed configuration.
    pub(super) plan: Option<Difference>,
}

impl Pending {
    /// For watchers that have not reported.
    pub(super) const fn of_watchers(missing: usize, outcomes: Vec<WatcherOutcome>) -> Self {
        Self {
            missing,
            outcomes,
            plan: None,
        }
    }

    pub(super) fn answer(self) -> Response {
        match self.plan {
            Some(plan) => plan_answer(plan, true, self.outcomes),
            None => changed(self.outcomes),
        }
    }
}

/// Configured, or only on its way out.
fn is_there(watcher: &Watcher) -> bool {
    !watcher.standing.is_over() || !watcher.empty()
}

/// Highest signal number of Linux (`SIGRTMAX`, signal(7)).
const SIGNAL_MAX: i32 = 64;

impl Engine {
    pub(super) fn handle_command(&mut self, command: CommandId, request: &Command) {
        let result = match request {
            Command::Status(selection) => Some(self.status(selection)),
            Command::States(selection) => Some(self.states(selection)),
            Command::List(selection) => Some(self.list(selection)),
            Command::Signal(request) => Some(self.signal(request)),
            Command::Quit(_) | Command::Detach(_) | Command::Shutdown(_) => {
                self.handle_ending_command(command, request);
                return;
            }
            Command::ListPids(selection) => Some(self.list_pids(selection)),
            Command::NumWatchers => Some(self.number_of_watchers()),
            Command::NumProcesses(selection) => Some(self.number_of_processes(selection)),
            Command::Get(request) => Some(self.get(request)),
            Command::Options(request) => Some(self.options(request)),
            Command::GlobalOptions(request) => Some(self.global_options(request)),
            Command::Stats(request) => Some(self.stats(request)),
            Command::Dstats => Some(Ok(Answer::Dstats { manager: None })),
            Command::ListSockets => Some(self.list_sockets()),
            Command::Runs(selection) => Some(self.runs(selection)),
            Command::History(request) => Some(self.history(request)),
            Command::Start(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Reload(_)
            | Command::Incr(_)
            | Command::Decr(_)
            | Command::Scale(_)
            | Command::Kill(_)
            | Command::Add(_)
            | Command::Rm(_)
            | Command::Set(_)
            | Command::Roll(_)
            | Command::Deploy(_)
            | Command::Rollback(_)
            | Command::Suspend(_)
            | Command::Resume(_)
            | Command::ReloadConfig(_) => self.change(command, request).err().map(Err),
        };
        if let Some(response) = result {
            self.cx.reply(command, response);
        }
    }

    /// Accepts a change for every watcher it concerns, or refuses it as a whole.
    fn change(&mut self, command: CommandId, request: &Command) -> Result<(), Refusal> {
        if self.ending.begun() {
            return Err(leaving());
        }
        if self.recovered == Recovered::NotYet {
            return self.defer(command, request);
        }
        match request {
            Command::Add(request) => return self.add(command, request),
            Command::Rm(request) => return self.remove(command, request),
            Command::Set(request) => return self.set(command, request),
            Command::Roll(request) => return self.roll(command, request),
            Command::Deploy(request) => return self.deploy(command, request),
            Command::Rollback(request) => return self.roll_back(command, request),
            Command::Suspend(change) => return self.suspend(command, &change.selection, true),
            Command::Resume(change) => return self.suspend(command, &change.selection, false),
            Command::ReloadConfig(request) => return self.read_configuration(command, *request),
            _ => {}
        }
        let (targets, wait) = self.plan_change(request)?;
        if !matches!(request, Command::Stop(_)) {
            self.check_queues(targets.iter().map(|(key, _)| key))?;
        }
        let mut outcomes = Vec::new();
        let mut missing = 0;
        self.prepare_turns(request, &targets);
        for (key, operation) in targets {
            let Some(watcher) = self.watchers.get_mut(&key) else {
                continue;
            };
            if let Some(reason) = unchanged(watcher, &operation) {
                outcomes.push(watcher.outcome(WatcherResult::Unchanged, Some(reason)));
                continue;
            }
            let waiter = match wait {
                Wait::Done => Some(command),
                Wait::No => None,
            };
            watcher.enqueue(&mut self.cx, operation, waiter);
            if matches!(request, Command::Stop(_)) {
                // At once, so that the first signals go out in the order of stops.
                watcher.settle(&mut self.cx);
            }
            match wait {
                Wait::Done => missing += 1,
                Wait::No => outcomes.push(watcher.outcome(WatcherResult::Accepted, None)),
            }
            self.dirty.insert(key);
        }
        if missing == 0 {
            self.cx.promise(command, changed(outcomes));
        } else {
            let plan = None;
            self.pending.insert(
                command,
                Pending {
                    missing,
                    outcomes,
                    plan,
                },
            );
        }
        Ok(())
    }

    /// Lets watchers start no processes, or start them again. It counts at once.
    fn suspend(
        &mut self,
        command: CommandId,
        selection: &Selection,
        suspended: bool,
    ) -> Result<(), Refusal> {
        let mut outcomes = Vec::new();
        for key in self.select(selection)? {
            let Some(watcher) = self.watchers.get_mut(&key) else {
                continue;
            };
            watcher.memory_mut().suspended = suspended;
            outcomes.push(watcher.outcome(WatcherResult::Done, None));
            self.dirty.insert(key);
        }
        self.cx.promise(command, changed(outcomes));
        Ok(())
    }

    /// Refuses where too many commands wait already.
    pub(super) fn check_queues<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a WatcherKey>,
    ) -> Result<(), Refusal> {
        let mut watchers = keys.into_iter().filter_map(|key| self.watchers.get(key));
        match watchers.find(|watcher| watcher.memory().queue.len() >= QUEUED_OPERATIONS_MAX) {
            None => Ok(()),
            Some(watcher) => Err(Refusal {
                kind: RefusalKind::TooMany,
                reason: format!(
                    "{QUEUED_OPERATIONS_MAX} commands wait for watcher {:?} already; try again \
                     later, or stop it",
                    watcher.config.name
                ),
            }),
        }
    }

    /// Keeps a change until it is known what was remembered.
    fn defer(&mut self, command: CommandId, request: &Command) -> Result<(), Refusal> {
        if self.deferred.len() >= DEFERRED_COMMANDS_MAX {
            return Err(Refusal {
                kind: RefusalKind::TooMany,
                reason: format!(
                    "{DEFERRED_COMMANDS_MAX} commands wait for the process kernel already, which \
                     is out of reach"
                ),
            });
        }
        self.deferred.push((command, request.clone()));
        Ok(())
    }

    /// What a command means for which watchers, in the order in which they are to be changed.
    fn plan_change(
        &self,
        request: &Command,
    ) -> Result<(Vec<(WatcherKey, Operation)>, Wait), Refusal> {
        let (selection, wait, operation) = match request {
            Command::Start(Change { selection, wait }) => (selection, *wait, Operation::Start),
            Command::Stop(Change { selection, wait }) => (selection, *wait, Operation::Stop),
            Command::Restart(Change { selection, wait }) => {
                let method = ReloadMethod::Terminate;
                (selection, *wait, Operation::Replace { method })
            }
            Command::Reload(Reload {
                selection,
                method,
                wait,
            }) => (selection, *wait, Operation::Replace { method: *method }),
            Command::Incr(Step {
                selection,
                by,
                wait,
            }) => (selection, *wait, Operation::Step { by: i64::from(*by) }),
            Command::Decr(Step {
                selection,
                by,
                wait,
            }) => (
                selection,
                *wait,
                Operation::Step {
                    by: -i64::from(*by),
                },
            ),
            Command::Scale(Scale {
                selection,
                numprocesses,
                wait,
            }) => {
                if *numprocesses > NUMPROCESSES_MAX {
                    return Err(invalid(format!(
                        "{numprocesses} processes are too many; at most {NUMPROCESSES_MAX} are \
                         possible"
                    )));
                }
                (
                    selection,
                    *wait,
                    Operation::Scale {
                        numprocesses: *numprocesses,
                    },
                )
            }
            Command::Kill(request) => return Ok((self.plan_kill(request)?, request.wait)),
            Command::Signal(_)
            | Command::Status(_)
            | Command::States(_)
            | Command::List(_)
            | Command::ListPids(_)
            | Command::NumWatchers
            | Command::NumProcesses(_)
            | Command::Add(_)
            | Command::Rm(_)
            | Command::Set(_)
            | Command::Get(_)
            | Command::Options(_)
            | Command::GlobalOptions(_)
            | Command::ReloadConfig(_)
            | Command::Stats(_)
            | Command::Dstats
            | Command::ListSockets
            | Command::Roll(_)
            | Command::Runs(_)
            | Command::Deploy(_)
            | Command::Rollback(_)
            | Command::History(_)
            | Command::Suspend(_)
            | Command::Resume(_)
            | Command::Quit(_)
            | Command::Detach(_)
            | Command::Shutdown(_) => return Ok((Vec::new(), Wait::No)),
        };
        let mut keys = self.select(selection)?;
        let starts = matches!(operation, Operation::Start | Operation::Replace { .. });
        if starts && (selection.watchers.is_empty() || keys.len() > 1) {
            // As in Circus: who names one watcher means it, who names many means the usual ones.
            keys.retain(|key| {
                self.watchers
                    .get(key)
                    .is_some_and(|watcher| watcher.config.autostart || watcher.wanted())
            });
        }
        if operation == Operation::Stop {
            keys.reverse();
        }
        Ok((
            keys.into_iter()
                .map(|key| (key, operation.clone()))
                .collect(),
            wait,
        ))
    }

    fn plan_kill(&self, request: &KillRequest) -> Result<Vec<(WatcherKey, Operation)>, Refusal> {
        if let Some(signal) = request.signal {
            check_signal(signal)?;
        }
        let keys = self.select(&request.selection)?;
        let chosen = self.choose_processes(&keys, request.pid, request.worker)?;
        let how = StopRecord {
            cause: StopCause::Killed,
            signal: request.signal,
            graceful_timeout_ms: request.graceful_timeout_ms,
            failed: false,
        };
        Ok(keys
            .into_iter()
            .map(|key| {
                let of_watcher = chosen.iter().filter(|(owner, _)| *owner == key);
                let targets: Vec<ProcessId> = of_watcher.map(|(_, process)| *process).collect();
                (key, Operation::Kill { targets, how })
            })
            .collect())
    }

    /// Several watchers start one after the other; one that is named alone starts out of turn.
    fn prepare_turns(&mut self, request: &Command, targets: &[(WatcherKey, Operation)]) {
        if !matches!(
            request,
            Command::Start(_) | Command::Restart(_) | Command::Reload(_)
        ) {
            return;
        }
        let down: Vec<WatcherKey> = targets
            .iter()
            .map(|(key, _)| key)
            .filter(|key| {
                self.watchers
                    .get(*key)
                    .is_some_and(|it| it.stage == Stage::Down)
            })
            .cloned()
            .collect();
        if targets.len() > 1 {
            self.line_up(down);
        } else {
            for key in down {
                self.grant_turn(&key);
            }
        }
    }

    /// Lets a watcher start out of turn.
    pub(super) fn grant_turn(&mut self, key: &WatcherKey) {
        self.starts.remove(key);
        if let Some(watcher) = self.watchers.get_mut(key) {
            watcher.turn = Turn::Granted;
        }
    }

    fn signal(&mut self, request: &SignalRequest) -> Response {
        check_signal(request.signal)?;
        if !self.cx.connected() {
            return Err(Refusal {
                kind: RefusalKind::KernelLost,
                reason: "the process kernel is out of reach, and signals are not kept for later; \
                         try again"
                    .to_owned(),
            });
        }
        let keys = self.select(&request.selection)?;
        let chosen = self.choose_processes(&keys, request.pid, request.worker)?;
        let mut pids = Vec::new();
        for (key, process) in chosen {
            let Some(watcher) = self.watchers.get_mut(&key) else {
                continue;
            };
            pids.extend(watcher.children.get(process).map(|child| child.pid));
            let signal = SignalNumber(request.signal);
            watcher.signal_by_command(&mut self.cx, process, signal, request.target);
            self.dirty.insert(key);
        }
        Ok(Answer::Signaled { pids })
    }

    /// Live processes of watchers, or the one with a pid or worker id.
    pub(super) fn choose_processes(
        &self,
        keys: &[WatcherKey],
        pid: Option<u32>,
        worker: Option<u32>,
    ) -> Result<Vec<(WatcherKey, ProcessId)>, Refusal> {
        let mut chosen = Vec::new();
        for watcher in keys.iter().filter_map(|key| self.watchers.get(key)) {
            for (process, child) in watcher.children.iter() {
                let meant = pid.is_none_or(|pid| child.pid.0 == pid)
                    && worker.is_none_or(|worker| child.worker().0 == worker);
                if meant {
                    chosen.push((watcher.key.clone(), process));
                }
            }
        }
        if chosen.is_empty() && (pid.is_some() || worker.is_some()) {
            let what = match (pid, worker) {
                (Some(pid), _) => format!("pid {pid}"),
                (None, Some(worker)) => format!("worker {worker}"),
                (None, None) => String::new(),
            };
            return Err(Refusal {
                kind: RefusalKind::UnknownProcess,
                reason: format!("{what} is not a live process of the watchers named"),
            });
        }
        Ok(chosen)
    }

    fn status(&self, selection: &Selection) -> Response {
        let keys = self.select_any(selection)?;
        let watchers = keys
            .iter()
            .filter_map(|key| self.watchers.get(key))
            .map(|watcher| watcher.status(&self.cx))
            .collect();
        Ok(Answer::Status(StatusReport {
            kernel: self.link().into(),
            watchers,
            sockets: self.cx.sockets.status(),
            foreign_processes: self.foreign_processes,
        }))
    }

    fn states(&self, selection: &Selection) -> Response {
        let state = |watcher: &Watcher| (watcher.config.name.clone(), watcher.state());
        let watchers = if selection.watchers.is_empty() {
            // By far the most frequent question, so without a list of keys.
            let all = self.order.iter().filter_map(|key| self.watchers.get(key));
            let configured = all.filter(|watcher| !watcher.standing.is_over());
            configured.map(state).collect()
        } else {
            let keys = self.select(selection)?;
            let meant = keys.iter().filter_map(|key| self.watchers.get(key));
            meant.map(state).collect()
        };
        Ok(Answer::States { watchers })
    }

    fn list(&self, selection: &Selection) -> Response {
        let keys = self.select(selection)?;
        let names = keys.iter().filter_map(|key| self.watchers.get(key));
        let mut watchers: Vec<String> = names.map(|watcher| watcher.config.name.clone()).collect();
        watchers.sort();
        Ok(Answer::List { watchers })
    }

    /// Configured watchers that are meant, in starting order.
    pub(super) fn select(&self, selection: &Selection) -> Result<Vec<WatcherKey>, Refusal> {
        self.select_from(selection, |watcher| !watcher.standing.is_over())
    }

    /// The same with those that are only on their way out.
    fn select_any(&self, selection: &Selection) -> Result<Vec<WatcherKey>, Refusal> {
        self.select_from(selection, is_there)
    }

    fn select_from(
        &self,
        selection: &Selection,
        admit: impl Fn(&Watcher) -> bool,
    ) -> Result<Vec<WatcherKey>, Refusal> {
        let candidates: Vec<&WatcherKey> = self
            .order
            .iter()
            .filter(|key| self.watchers.get(*key).is_some_and(&admit))
            .collect();
        let mut meant: BTreeSet<&WatcherKey> = BTreeSet::new();
        for name in &selection.watchers {
            let lowered = name.to_lowercase();
            let regex = match selection.matching {
                Matching::Regex => Some(regex(&lowered).map_err(|error| {
                    invalid(format!("{name:?} is no regular expression: {error}"))
                })?),
                Matching::Glob | Matching::Simple => None,
            };
            let matched = candidates.iter().filter(|key| match selection.matching {
                Matching::Glob => key.as_str() == lowered || glob_matches(&lowered, key.as_str()),
                Matching::Simple => key.as_str() == lowered,
                Matching::Regex => regex.as_ref().is_some_and(|it| it.is_match(key.as_str())),
            });
            let count = meant.len();
            let mut any = false;
            for key in matched {
                any = true;
                meant.insert(*key);
            }
            if !any && meant.len() == count {
                return Err(self.unknown(name));
            }
        }
        let all = selection.watchers.is_empty();
        Ok(candidates
            .into_iter()
            .filter(|key| all || meant.contains(*key))
            .cloned()
            .collect())
    }

    pub(super) fn unknown(&self, name: &str) -> Refusal {
        // Circus's words first, because scripts look for them; a name may be 10,000 characters.
        let shown: String = name.chars().take(200).collect();
        let names: Vec<&str> = self
            .order
            .iter()
            .filter_map(|key| self.watchers.get(key))
            .take(10)
            .map(|watcher| watcher.config.name.as_str())
            .collect();
        let known = if names.is_empty() {
            "there are no watchers".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        Refusal {
            kind: RefusalKind::UnknownWatcher,
            reason: format!("program {shown} not found; {known}"),
        }
    }

    /// Answers commands whose last watcher has reported.
    pub(super) fn collect_outcomes(&mut self) {
        for (command, outcome) in std::mem::take(&mut self.cx.finished) {
            let Some(pending) = self.pending.get_mut(&command) else {
                continue;
            };
            pending.outcomes.push(outcome);
            pending.missing = pending.missing.saturating_sub(1);
            if pending.missing > 0 {
                continue;
            }
            if let Some(pending) = self.pending.remove(&command) {
                let mut pending = pending;
                let place = |outcome: &WatcherOutcome| {
                    let key = WatcherKey::of(&outcome.watcher);
                    self.order.iter().position(|other| *other == key)
                };
                pending.outcomes.sort_by_key(place);
                self.cx.promise(command, pending.answer());
            }
        }
    }
}

/// Why an operation would change nothing, if so.
fn unchanged(watcher: &Watcher, operation: &Operation) -> Option<String> {
    match operation {
        Operation::Step { .. } | Operation::Scale { .. } if watcher.config.singleton => {
            Some("it is a singleton; its number of processes is fixed".to_owned())
        }
        Operation::Kill { targets, .. } if targets.is_empty() => {
            Some("it has no such process".to_owned())
        }
        Operation::Start
        | Operation::Stop
        | Operation::Replace { .. }
        | Operation::Step { .. }
        | Operation::Scale { .. }
        | Operation::Refresh { .. }
        | Operation::Remove
        | Operation::Roll(_)
        | Operation::Kill { .. } => None,
    }
}

fn check_signal(signal: i32) -> Result<(), Refusal> {
    if (0..=SIGNAL_MAX).contains(&signal) {
        Ok(())
    } else {
        Err(invalid(format!(
            "there is no signal {signal}; numbers go from 0 to {SIGNAL_MAX}"
        )))
    }
}

pub(super) const fn invalid(reason: String) -> Refusal {
    Refusal {
        kind: RefusalKind::Invalid,
        reason,
    }
}

pub(super) fn leaving() -> Refusal {
    Refusal {
        kind: RefusalKind::Leaving,
        reason: "the manager is leaving; ask the next one".to_owned(),
    }
}

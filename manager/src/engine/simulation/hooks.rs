//! Hooks of all tempers: quick and slow ones, some that refuse, fail, or never answer. They keep
//! what they were asked, and complain about what should have waited for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::kernel::{OPERATOR_SIGNAL, SimKernel, one_in};
use crate::config::model::Configuration;
use crate::engine::random::Random;
use crate::engine::{
    Action, HookAnswer, HookId, HookName, HookRequest, HookSubject, Input, Moment, Pid, WatcherKey,
    labels,
};

/// How hooks behave while there are faults, or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct HookWeather {
    /// One in so many says no.
    pub(super) refusing: u64,
    /// One in so many fails.
    pub(super) failing: u64,
    /// One in so many never answers.
    pub(super) silent: u64,
}

pub(super) const HOOK_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub(super) struct SimHooks {
    weather: HookWeather,
    calls: BTreeMap<HookId, Call>,
    /// Spawns that were allowed and not asked for yet.
    permits: BTreeMap<WatcherKey, u64>,
    spawn_keys: BTreeSet<String>,
    started: BTreeSet<WatcherKey>,
    asked_for_signal: BTreeSet<Pid>,
    pub(super) proven: BTreeSet<Pid>,
    /// Watchers that a hook may have stopped.
    pub(super) refused: BTreeSet<WatcherKey>,
    /// Watchers that were out of the configuration once: nobody knows their hooks then.
    pub(super) removed: BTreeSet<WatcherKey>,
}

#[derive(Debug)]
struct Call {
    request: HookRequest,
    answer: HookAnswer,
    /// Never, if there is none.
    at: Option<Moment>,
}

/// The hooks that watchers of this name have, in worlds with hooks.
pub(super) fn options(name: &str) -> Vec<(String, String)> {
    let names: &[&str] = match name {
        "web" => &["before_spawn", "after_spawn", "before_reap", "after_reap"],
        "Two Words" => &[
            "before_start",
            "after_start",
            "before_stop",
            "after_stop",
            "after_spawn",
        ],
        _ => &[
            "before_signal",
            "after_signal",
            "before_stop",
            "after_spawn",
        ],
    };
    let hooks = names
        .iter()
        .map(|hook| (format!("hooks.{hook}"), "hooks.call".to_owned()));
    let timeout = HOOK_TIMEOUT.as_secs().to_string();
    hooks
        .chain([("hook_timeout".to_owned(), timeout)])
        .collect()
}

impl SimHooks {
    pub(super) const fn new(weather: HookWeather) -> Self {
        Self {
            weather,
            calls: BTreeMap::new(),
            permits: BTreeMap::new(),
            spawn_keys: BTreeSet::new(),
            started: BTreeSet::new(),
            asked_for_signal: BTreeSet::new(),
            proven: BTreeSet::new(),
            refused: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    /// A manager calls one.
    pub(super) fn call(
        &mut self,
        request: HookRequest,
        now: Moment,
        random: &mut Random,
    ) -> Result<(), String> {
        let mut others = self.calls.values().map(|call| &call.request);
        if let Some(other) = others.find(|other| other.watcher == request.watcher) {
            return Err(format!(
                "{:?} of {} is called while {:?} has not answered",
                request.hook, request.watcher, other.hook
            ));
        }
        let answer = if one_in(random, self.weather.refusing) {
            HookAnswer::No
        } else if one_in(random, self.weather.failing) {
            HookAnswer::Failed("broken".to_owned())
        } else {
            HookAnswer::Yes
        };
        let slow = one_in(random, 4);
        let most = if slow {
            HOOK_TIMEOUT - Duration::from_secs(1)
        } else {
            Duration::from_millis(50)
        };
        let wait = random.duration_up_to(most);
        let at = (!one_in(random, self.weather.silent)).then(|| now + wait);
        let call = Call {
            request,
            answer,
            at,
        };
        match self.calls.insert(call.request.id, call) {
            None => Ok(()),
            Some(call) => Err(format!("hook {} was called twice", call.request.id)),
        }
    }

    /// A manager does not wait for one any more.
    pub(super) fn cancel(&mut self, hook: HookId) -> Result<(), String> {
        let call = self
            .calls
            .remove(&hook)
            .ok_or_else(|| format!("hook {hook} was cancelled and not called"))?;
        if call.at.is_none() {
            // Perhaps because it took too long, which counts as a no.
            self.note(&call.request, &HookAnswer::Failed(String::new()));
        }
        Ok(())
    }

    pub(super) fn next_answer(&self) -> Option<Moment> {
        self.calls.values().filter_map(|call| call.at).min()
    }

    /// The answers that are due.
    pub(super) fn answers(&mut self, now: Moment) -> Vec<Input> {
        let due: Vec<HookId> = self
            .calls
            .iter()
            .filter(|(_, call)| call.at.is_some_and(|at| at <= now))
            .map(|(hook, _)| *hook)
            .collect();
        let mut inputs = Vec::new();
        for hook in due {
            if let Some(call) = self.calls.remove(&hook) {
                self.note(&call.request, &call.answer);
                let answer = call.answer;
                inputs.push(Input::HookAnswered { hook, answer });
            }
        }
        inputs
    }

    fn note(&mut self, request: &HookRequest, answer: &HookAnswer) {
        let yes = *answer == HookAnswer::Yes;
        let watcher = request.watcher.clone();
        match (request.hook, request.subject) {
            (HookName::BeforeSignal, HookSubject::Signal { pid, signal: _ }) => {
                self.asked_for_signal.insert(pid);
            }
            (HookName::BeforeSpawn, _) if yes => *self.permits.entry(watcher).or_default() += 1,
            (HookName::BeforeStart, _) if yes => {
                self.started.insert(watcher);
            }
            (HookName::AfterSpawn, HookSubject::Process(pid)) if yes => {
                self.proven.insert(pid);
            }
            (
                HookName::BeforeStart
                | HookName::AfterStart
                | HookName::BeforeSpawn
                | HookName::AfterSpawn,
                _,
            ) if !yes => {
                self.refused.insert(watcher);
            }
            _ => {}
        }
    }

    /// Nobody waits for any of them.
    pub(super) fn manager_gone(&mut self) {
        self.calls.clear();
        self.permits.clear();
    }

    /// The kernel counts from one again.
    pub(super) fn wipe(&mut self) {
        self.proven.clear();
        self.asked_for_signal.clear();
    }

    pub(super) fn calm_down(&mut self) {
        self.weather = HookWeather {
            refusing: 0,
            failing: 0,
            silent: 0,
        };
    }

    /// Nothing waits for an answer.
    pub(super) fn idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether what the kernel is asked had to wait for a hook and did not.
    pub(super) fn check(
        &mut self,
        action: &Action,
        configuration: &Configuration,
        kernel: &SimKernel,
    ) -> Result<(), String> {
        let hooked = |key: &str, hook: HookName| {
            let config = configuration.watcher(key);
            config.is_some_and(|config| config.hooks.contains_key(hook.name()))
        };
        match action {
            Action::Spawn(request) => {
                let key = request.watcher.as_str();
                if !self.spawn_keys.insert(request.key.clone())
                    || self.removed.contains(&request.watcher)
                {
                    return Ok(());
                }
                if hooked(key, HookName::BeforeStart) && !self.started.contains(&request.watcher) {
                    return Err(format!("{key} was started without asking before_start"));
                }
                if hooked(key, HookName::BeforeSpawn) {
                    let permits = self.permits.entry(request.watcher.clone()).or_default();
                    *permits = permits
                        .checked_sub(1)
                        .ok_or_else(|| format!("{} spawned without asking", request.name))?;
                }
                Ok(())
            }
            Action::Signal {
                process, signal, ..
            } if signal.0 != 9 && signal.0 != OPERATOR_SIGNAL => {
                let Some(process) = kernel.processes.get(process) else {
                    return Ok(());
                };
                let owner = process.held.labels.get(labels::WATCHER);
                let owner = owner.cloned().unwrap_or_default();
                let known = !self.removed.contains(&WatcherKey::of(&owner));
                let asked = self.asked_for_signal.contains(&process.held.pid);
                if known && hooked(&owner, HookName::BeforeSignal) && !asked {
                    return Err(format!(
                        "{} got a signal without asking before_signal",
                        process.held.name
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

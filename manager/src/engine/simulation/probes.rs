//! Probes that take their time, are late, or never come back, and see what a child is at the moment
//! of the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::kernel::{SimKernel, one_in};
use super::scenario::Mood;
use crate::config::model::{Probe, WatcherConfig};
use crate::engine::random::Random;
use crate::engine::{Input, Moment, Pid, ProbeId, ProbeOutcome, ProbeRequest};

#[derive(Debug)]
pub(super) struct SimProbes {
    /// One in so many never comes back.
    lost: u64,
    /// One in so many takes long.
    slow: u64,
    /// Whether long may be too long.
    mood: Mood,
    /// When each comes back, if it does.
    running: BTreeMap<ProbeId, (ProbeRequest, Option<Moment>)>,
    /// Those whose outcome is on its way.
    answered: BTreeSet<ProbeId>,
}

/// How an outcome gets to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    OverTheLink,
    Beside,
}

impl SimProbes {
    pub(super) const fn new(mood: Mood) -> Self {
        Self {
            lost: match mood {
                Mood::Quiet => 0,
                Mood::Wild => 10,
            },
            slow: 5,
            mood,
            running: BTreeMap::new(),
            answered: BTreeSet::new(),
        }
    }

    /// A manager sends one.
    pub(super) fn begin(
        &mut self,
        request: ProbeRequest,
        now: Moment,
        random: &mut Random,
    ) -> Result<(), String> {
        // Whether everything is heard may be asked beside.
        let twin = self.running.values().find(|(other, _)| {
            let beside = (other.probe == Probe::Notify) != (request.probe == Probe::Notify);
            other.process == request.process && !beside
        });
        if let Some((twin, _)) = twin {
            return Err(format!("{} is looked at twice at a time", twin.process));
        }
        let most = match (one_in(random, self.slow), self.mood) {
            (false, _) => Duration::from_millis(50),
            (true, Mood::Wild) => request.limit * 2,
            // Later than that is an outcome like a failed one, and would be a reason to act.
            (true, Mood::Quiet) => request.limit / 2,
        };
        let at = (!one_in(random, self.lost)).then(|| now + random.duration_up_to(most));
        self.running.insert(request.id, (request, at));
        Ok(())
    }

    pub(super) fn cancel(&mut self, probe: ProbeId) -> Result<(), String> {
        // One whose outcome is on its way may be cancelled, too.
        if self.running.remove(&probe).is_some() || self.answered.contains(&probe) {
            Ok(())
        } else {
            Err(format!("probe {probe} was cancelled and not sent"))
        }
    }

    pub(super) fn next_outcome(&self) -> Option<Moment> {
        self.running.values().filter_map(|(_, at)| *at).min()
    }

    /// The outcomes that are due, and whether they come behind what the kernel has said.
    pub(super) fn outcomes(&mut self, kernel: &SimKernel, now: Moment) -> Vec<(Input, Way)> {
        let due = |(_, (_, at)): &(&ProbeId, &(ProbeRequest, Option<Moment>))| {
            at.is_some_and(|at| at <= now)
        };
        let due: Vec<ProbeId> = self.running.iter().filter(due).map(|(id, _)| *id).collect();
        let mut inputs = Vec::new();
        for probe in due {
            let Some((request, at)) = self.running.remove(&probe) else {
                continue;
            };
            if request.probe == Probe::Notify
                && let Some(asked) = at
                && !kernel.voices.all_heard(asked)
            {
                // It comes behind what was said before.
                let later = now + Duration::from_millis(50);
                self.running.insert(probe, (request, Some(later)));
                continue;
            }
            self.answered.insert(probe);
            let heard = request.probe == Probe::Notify;
            let outcome = if heard || kernel.is_ready(request.process, now) {
                ProbeOutcome::Passed
            } else {
                ProbeOutcome::Failed("connection refused".to_owned())
            };
            let way = match request.probe {
                Probe::Notify => Way::OverTheLink,
                _ => Way::Beside,
            };
            inputs.push((Input::Probed { probe, outcome }, way));
        }
        inputs
    }

    /// Nobody waits for any of them.
    pub(super) fn manager_gone(&mut self) {
        self.running.clear();
        self.answered.clear();
    }

    pub(super) fn calm_down(&mut self) {
        self.lost = 0;
        self.slow = 0;
    }

    /// Nothing is being looked at.
    pub(super) fn idle(&self) -> bool {
        self.running.is_empty()
    }
}

/// Whether a process that is said to be ready is.
pub(super) fn check_ready(
    kernel: &SimKernel,
    config: Option<&WatcherConfig>,
    pid: Pid,
    now: Moment,
) -> Result<(), String> {
    let spoken = match config.and_then(|config| config.ready.probe.as_ref()) {
        Some(Probe::Tcp(_)) => false,
        // Its word may be heard late.
        Some(Probe::Notify) => kernel.voices.ready.contains_key(&pid),
        _ => return Ok(()),
    };
    let process = kernel.live().find(|process| process.held.pid == pid);
    match process {
        Some(process) if !spoken && !kernel.is_ready(process.held.id, now) => Err(format!(
            "{} was said to be ready and is not",
            process.held.name
        )),
        Some(_) | None => Ok(()),
    }
}

/// Whether a process that is replaced deserved it: who has said in time that it is ready, and since
/// then that it is alive, is not replaced for its silence.
pub(super) fn check_unready(
    kernel: &SimKernel,
    config: Option<&WatcherConfig>,
    pid: Pid,
    error: &str,
) -> Result<(), String> {
    let Some(config) = config else {
        return Ok(());
    };
    let Some(process) = kernel.live().find(|process| process.held.pid == pid) else {
        return Ok(());
    };
    let name = &process.held.name;
    let said = kernel.voices.ready.get(&pid);
    let in_time = said.is_some_and(|at| *at <= process.held.started + config.ready.timeout);
    if error.contains("READY=1") && in_time {
        return Err(format!(
            "{name} said that it is ready and is replaced: {error}"
        ));
    }
    let speaks = process.behaviour.hangs_at.is_none() && process.behaviour.ready_at.is_some();
    if error.contains("WATCHDOG=1") && speaks {
        return Err(format!(
            "{name} says that it is alive and is replaced: {error}"
        ));
    }
    Ok(())
}

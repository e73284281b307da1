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
    /// One in so many may come too late.
    slow: u64,
    /// When each comes back, if it does.
    running: BTreeMap<ProbeId, (ProbeRequest, Option<Moment>)>,
    /// Those whose outcome is on its way.
    answered: BTreeSet<ProbeId>,
}

impl SimProbes {
    pub(super) const fn new(mood: Mood) -> Self {
        Self {
            lost: match mood {
                Mood::Quiet => 0,
                Mood::Wild => 10,
            },
            slow: 5,
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
        let twin = self
            .running
            .values()
            .find(|(other, _)| other.process == request.process);
        if let Some((twin, _)) = twin {
            return Err(format!("{} is looked at twice at a time", twin.process));
        }
        let most = if one_in(random, self.slow) {
            request.limit * 2
        } else {
            Duration::from_millis(50)
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

    /// The outcomes that are due.
    pub(super) fn outcomes(&mut self, kernel: &SimKernel, now: Moment) -> Vec<Input> {
        let due = |(_, (_, at)): &(&ProbeId, &(ProbeRequest, Option<Moment>))| {
            at.is_some_and(|at| at <= now)
        };
        let due: Vec<ProbeId> = self.running.iter().filter(due).map(|(id, _)| *id).collect();
        let mut inputs = Vec::new();
        for probe in due {
            let Some((request, _)) = self.running.remove(&probe) else {
                continue;
            };
            self.answered.insert(probe);
            let outcome = if kernel.is_ready(request.process, now) {
                ProbeOutcome::Passed
            } else {
                ProbeOutcome::Failed("connection refused".to_owned())
            };
            inputs.push(Input::Probed { probe, outcome });
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
    let Some(Probe::Tcp(_)) = config.and_then(|config| config.ready.probe.as_ref()) else {
        return Ok(());
    };
    let process = kernel.live().find(|process| process.held.pid == pid);
    match process {
        Some(process) if !kernel.is_ready(process.held.id, now) => Err(format!(
            "{} was said to be ready and is not",
            process.held.name
        )),
        Some(_) | None => Ok(()),
    }
}

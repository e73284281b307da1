//! What simulated children say of themselves, and how it gets to a manager: kept in order until it is
//! acknowledged, read some time after it was said, and again over each connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::kernel::SimProcess;
use crate::engine::{Input, Moment, Notification, Pid, ProcessId};

/// How often a child that was told to say that it is alive does: well before it has to.
const PACE: Duration = Duration::from_secs(8);

/// How long a message is on its way at most.
pub(in crate::engine) const TRAVEL: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(in crate::engine) struct Voices {
    /// What each child says next, and when.
    next: BTreeMap<ProcessId, (Moment, Word)>,
    /// What was said and not acknowledged.
    kept: VecDeque<(Pid, Moment, Word)>,
    /// How much of that the connection was given, and how much was acknowledged over it.
    given: usize,
    acknowledged: u64,
    /// When each child said that it is ready.
    pub(in crate::engine) ready: BTreeMap<Pid, Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ready,
    Alive,
}

impl Voices {
    /// A child begins.
    pub(in crate::engine) fn begin(&mut self, process: &SimProcess) {
        if let Some(at) = process.behaviour.ready_at {
            self.next.insert(process.held.id, (at, Word::Ready));
        }
    }

    /// Lets children speak whose time has come.
    pub(in crate::engine) fn speak(
        &mut self,
        processes: &BTreeMap<ProcessId, SimProcess>,
        now: Moment,
    ) {
        let due = |(_, (at, _)): &(&ProcessId, &(Moment, Word))| *at <= now;
        let due = self.next.iter().filter(due);
        let mut due: Vec<(Moment, ProcessId)> = due.map(|(id, (at, _))| (*at, *id)).collect();
        due.sort_unstable();
        for (_, id) in due {
            let Some((at, word)) = self.next.remove(&id) else {
                continue;
            };
            let Some(process) = processes.get(&id).filter(|it| it.held.ended.is_none()) else {
                continue;
            };
            if process.behaviour.hangs_at.is_some_and(|hangs| hangs <= at) {
                continue;
            }
            let pid = process.held.pid;
            if word == Word::Ready {
                self.ready.insert(pid, at);
            }
            self.kept.push_back((pid, at, word));
            if process
                .held
                .labels
                .contains_key(crate::engine::labels::WATCHDOG)
            {
                self.next.insert(id, (at + PACE, Word::Alive));
            }
        }
    }

    /// When something is said, or arrives.
    pub(in crate::engine) fn next_event(&self, listens: bool) -> Option<Moment> {
        let said = self.next.values().map(|(at, _)| *at).min();
        let arrives = self.kept.get(self.given).filter(|_| listens);
        let arrives = arrives.map(|(_, at, _)| *at + TRAVEL);
        said.into_iter().chain(arrives).min()
    }

    /// What arrives at the manager.
    pub(in crate::engine) fn arrive(&mut self, now: Moment) -> Vec<Input> {
        let mut inputs = Vec::new();
        while let Some((pid, at, word)) = self.kept.get(self.given).copied() {
            if at + TRAVEL > now {
                break;
            }
            self.given += 1;
            let said = match word {
                Word::Ready => ("READY".to_owned(), "1".to_owned()),
                Word::Alive => ("WATCHDOG".to_owned(), "1".to_owned()),
            };
            inputs.push(Input::Notified(Notification {
                number: self.acknowledged + self.given as u64,
                family: vec![Pid(pid.0 + 500_000), pid],
                at,
                said: vec![said],
            }));
        }
        inputs
    }

    /// Everything that was said by then has arrived.
    pub(in crate::engine) fn all_heard(&self, by: Moment) -> bool {
        self.kept.get(self.given).is_none_or(|(_, at, _)| *at > by)
    }

    /// A manager needs no more what was said up to this.
    pub(in crate::engine) fn acknowledge(&mut self, through: u64) {
        while self.acknowledged < through && self.given > 0 {
            self.kept.pop_front();
            self.given -= 1;
            self.acknowledged += 1;
        }
    }

    /// Another connection: all of it comes again.
    pub(in crate::engine) fn begin_anew(&mut self) {
        (self.given, self.acknowledged) = (0, 0);
    }
}

//! What happens, for whoever listens: one bus that the control socket, the ZeroMQ endpoint and the
//! plugins read, each at its own pace. The latest events are kept, so that somebody who asks afterwards
//! still learns of them. A manager remembers what it did itself; its predecessor's memory went with it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::control::wire::EventLine;
use super::metrics::Ends;

/// Events that are kept, and how far a slow listener may fall behind before it is told that it missed
/// some. An event takes some 300 bytes.
pub const EVENTS_KEPT: usize = 1024;

/// The bus; clones are the same one.
#[derive(Clone, Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<EventLine>>,
    recent: Arc<Mutex<VecDeque<Arc<EventLine>>>>,
    ends: Arc<Mutex<Ends>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(EVENTS_KEPT),
            recent: Arc::default(),
            ends: Arc::default(),
        }
    }
}

impl Events {
    /// Tells everybody.
    pub fn publish(&self, event: EventLine) {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(&event);
        let event = Arc::new(event);
        let mut recent = self.recent();
        if recent.len() == EVENTS_KEPT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&event));
        // Under the lock, so that who subscribes with the recent ones neither misses one nor hears it
        // twice. Nobody may be listening.
        let _ = self.sender.send(event);
    }

    /// How processes have ended so far.
    #[must_use]
    pub fn ends(&self) -> Ends {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventLine>> {
        self.sender.subscribe()
    }

    /// The last `count` of those that are `meant`, oldest first, and what comes after them.
    pub fn recent_and_next(
        &self,
        count: usize,
        meant: impl Fn(&EventLine) -> bool,
    ) -> (Vec<Arc<EventLine>>, broadcast::Receiver<Arc<EventLine>>) {
        let recent = self.recent();
        let latest = recent.iter().rev().filter(|event| meant(event));
        let mut found: Vec<_> = latest.take(count).cloned().collect();
        found.reverse();
        (found, self.sender.subscribe())
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<EventLine>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Event, EventAction, Pid};

    fn event(watcher: &str, pid: u32) -> EventLine {
        EventLine::from(&Event {
            watcher: watcher.to_owned(),
            at: crate::shells::clock::now(),
            action: EventAction::Spawn { pid: Pid(pid) },
        })
    }

    fn pids(events: &[Arc<EventLine>]) -> Vec<u32> {
        events.iter().filter_map(|event| event.pid).collect()
    }

    #[test]
    fn the_latest_are_kept_and_the_next_ones_follow_without_a_gap() {
        let events = Events::default();
        let kept = u32::try_from(EVENTS_KEPT).unwrap();
        for pid in 0..kept + 5 {
            events.publish(event("web", pid));
        }
        let (all, _) = events.recent_and_next(usize::MAX, |_| true);
        assert_eq!(pids(&all), (5..kept + 5).collect::<Vec<_>>());
        let (last, mut next) = events.recent_and_next(2, |_| true);
        assert_eq!(pids(&last), [kept + 3, kept + 4]);
        events.publish(event("web", 7));
        assert_eq!(next.try_recv().unwrap().pid, Some(7));
    }

    #[test]
    fn only_those_that_are_meant_are_counted() {
        let events = Events::default();
        for (watcher, pid) in [("web", 1), ("db", 2), ("db", 3), ("web", 4)] {
            events.publish(event(watcher, pid));
        }
        let (found, _) = events.recent_and_next(2, |event| event.watcher == "web");
        assert_eq!(pids(&found), [1, 4]);
    }
}

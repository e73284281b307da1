//! Who may start when several watchers are started: in order, each when the one before is up or
//! cannot get up, with the configured warm-up delay between.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::context::Context;
use super::ids::{Moment, WatcherKey};
use super::sockets::Obstacle;
use super::watcher::{Stage, Turn, Watcher};

/// Watchers in the order in which they may start.
#[derive(Debug)]
pub(super) struct StartOrder {
    warm_up: Duration,
    waiting: VecDeque<WatcherKey>,
    /// Whose turn it is.
    starting: Option<Starting>,
    /// No further turn before this.
    hold_until: Moment,
}

#[derive(Debug)]
struct Starting {
    key: WatcherKey,
    /// How many processes it had when its turn came: one that had them all needs no warm-up.
    alive_before: usize,
}

impl StartOrder {
    pub(super) const fn new(warm_up: Duration) -> Self {
        Self {
            warm_up,
            waiting: VecDeque::new(),
            starting: None,
            hold_until: Moment(0),
        }
    }

    pub(super) const fn set_warm_up(&mut self, warm_up: Duration) {
        self.warm_up = warm_up;
    }

    /// Lines a watcher up. One whose turn it is has to wait for another turn.
    pub(super) fn push(&mut self, key: WatcherKey) {
        self.starting.take_if(|starting| starting.key == key);
        if !self.waiting.contains(&key) {
            self.waiting.push_back(key);
        }
    }

    /// Takes a watcher out, because it starts out of turn or shall not start.
    pub(super) fn remove(&mut self, key: &WatcherKey) {
        self.waiting.retain(|other| other != key);
    }

    /// The watcher whose turn comes now, if the one before is done.
    pub(super) fn next(
        &mut self,
        now: Moment,
        watchers: &BTreeMap<WatcherKey, Watcher>,
        cx: &Context,
    ) -> Option<WatcherKey> {
        if let Some(starting) = &self.starting {
            let watcher = watchers.get(&starting.key);
            if watcher.is_some_and(|watcher| is_starting(watcher, cx)) {
                return None;
            }
            let grown = watcher.is_some_and(|it| it.children.len() > starting.alive_before);
            if grown {
                self.hold_until = now + self.warm_up;
            }
            self.starting = None;
        }
        if self.hold_until > now {
            return None;
        }
        let key = self.waiting.pop_front()?;
        let alive_before = watchers
            .get(&key)
            .map_or(0, |watcher| watcher.children.len());
        self.starting = Some(Starting {
            key: key.clone(),
            alive_before,
        });
        Some(key)
    }

    /// When the next turn comes, if it only waits for time to pass.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        (self.starting.is_none() && !self.waiting.is_empty() && self.hold_until > now)
            .then_some(self.hold_until)
    }
}

/// Whether the turn lasts: it is on the way up, and nothing holds it back.
fn is_starting(watcher: &Watcher, cx: &Context) -> bool {
    let begun = watcher.turn == Turn::Granted && watcher.wanted();
    let on_the_way = match watcher.stage {
        Stage::Down | Stage::Rising => true,
        Stage::Up | Stage::Falling => false,
    };
    let held_back = match cx.sockets.obstacle(&watcher.uses) {
        Some(Obstacle::Failed(_)) => true,
        Some(Obstacle::Pending(_)) => false,
        // A slow hook of one watcher holds back nobody else.
        // Neither does one whose processes take long to be ready; `depends_on` is for that.
        None => {
            watcher.awaiting.is_some()
                || watcher.hooks.hold_back_start()
                || watcher.waits_for(cx).is_some()
                || watcher.all_run(cx)
        }
    };
    begun && on_the_way && !held_back
}

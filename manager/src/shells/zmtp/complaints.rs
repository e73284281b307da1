//! What is said in the log of peers that misbehave: often enough to be seen, never often enough to fill
//! a disk, however many come.

use std::time::{Duration, Instant};

use crate::engine::Level;
use crate::shells::log::Log;

/// Least time between two lines.
const PERIOD: Duration = Duration::from_secs(1);

/// Lines of one endpoint.
#[derive(Debug)]
pub(super) struct Complaints {
    log: Log,
    name: &'static str,
    last: Option<Instant>,
    untold: u64,
}

impl Complaints {
    pub(super) const fn new(log: Log, name: &'static str) -> Self {
        Self {
            log,
            name,
            last: None,
            untold: 0,
        }
    }

    /// Says it, or counts it for the next line.
    pub(super) fn tell(&mut self, level: Level, text: &str) {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < PERIOD)
        {
            self.untold = self.untold.saturating_add(1);
            return;
        }
        self.last = Some(now);
        let name = self.name;
        match std::mem::take(&mut self.untold) {
            0 => self.log.write(level, &format!("{name}: {text}")),
            more => self
                .log
                .write(level, &format!("{name}: {text} (and {more} more before)")),
        }
    }
}

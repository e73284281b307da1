//! Answers to those who only look.

use super::context::{Context, Link};
use super::ids::{Moment, ProcessId};
use super::remember::{PastEnd, Run, StopReason};
use super::sockets::Obstacle;
use super::watcher::{Stage, Standing, Turn, Watcher};
use super::worker::Child;
use crate::command::{KernelLink, ProcessEnd, ProcessState, ProcessStatus, WatcherStatus};

impl Watcher {
    /// Everything about it.
    pub(super) fn status(&self, cx: &Context) -> WatcherStatus {
        let waits = self.waits_for(cx);
        let retry_in_ms = waits
            .as_ref()
            .and_then(|(_, until)| *until)
            .or_else(|| self.flapping_until())
            .map(|until| millis(until, cx.now));
        let mut processes: Vec<ProcessStatus> = self
            .children
            .iter()
            .map(|(id, child)| self.process_status(id, child, cx.now))
            .collect();
        processes.sort_by_key(|process| (process.worker, process.process));
        WatcherStatus {
            name: self.config.name.clone(),
            state: self.state(),
            reason: self.reason().or(waits.map(|(why, _)| why)),
            numprocesses: self.count(),
            configured: self.config.numprocesses,
            actual: u32::try_from(self.children.len()).unwrap_or(u32::MAX),
            ready: u32::try_from(self.ready_count()).unwrap_or(u32::MAX),
            restarts: self.memory().restarts,
            retry_in_ms,
            operation: self
                .memory()
                .current
                .as_ref()
                .map(|current| current.name().to_owned()),
            queued: u32::try_from(self.memory().queue.len()).unwrap_or(u32::MAX),
            next: self.next(cx),
            ends: self
                .memory()
                .ends
                .iter()
                .map(|end| process_end(end, cx.now))
                .collect(),
            processes,
        }
    }

    fn process_status(&self, process: ProcessId, child: &Child, now: Moment) -> ProcessStatus {
        ProcessStatus {
            worker: child.worker(),
            pid: child.pid,
            process,
            state: if child.stopping() {
                ProcessState::Stopping
            } else {
                ProcessState::Running
            },
            readiness: self.readiness(child),
            readiness_reason: self.unready_reason(child),
            says: child.voice.status.clone(),
            started: child.started,
            uptime_ms: millis(now, child.started),
            restarts: child.identity.restarts,
            outdated: child.identity.configuration != self.fingerprint,
        }
    }

    /// What happens next, and what would change that.
    fn next(&self, cx: &Context) -> String {
        let name = &self.config.name;
        let stays = |what: &str| format!("{what} until: kingpole start {name}");
        match self.standing {
            Standing::Retired | Standing::Removed(_) => {
                return "its processes end, then it is forgotten".to_owned();
            }
            Standing::Leaving => return "the next manager goes on with it".to_owned(),
            Standing::Configured => {}
        }
        if cx.link == Link::Down {
            return "nothing until the process kernel can be reached again".to_owned();
        }
        if let Some(current) = &self.memory().current {
            return format!("{} goes on", current.name());
        }
        match &self.memory().run {
            Some(Run::Stopped(StopReason::Flapping { until: Some(_), .. })) => {
                return "it is started again when the time is over".to_owned();
            }
            Some(Run::Stopped(StopReason::GaveUp { .. } | StopReason::Flapping { .. })) => {
                return stays("it stays stopped until the configuration says something else, or");
            }
            Some(Run::Stopped(_)) => return stays("it stays stopped"),
            None if !self.config.autostart => return stays("it stays stopped"),
            Some(Run::Running) | None => {}
        }
        if self.stage == Stage::Down && self.turn == Turn::Waiting {
            return "it starts when those before it have started".to_owned();
        }
        if self.rests() && self.empty() {
            return "the first connection to one of its sockets starts it".to_owned();
        }
        if let Some((why, until)) = self.waits_for(cx) {
            return match until {
                Some(_) => "a process is started when the time is over".to_owned(),
                None => format!("it goes on when this is over: {why}"),
            };
        }
        let (alive, ready) = (self.children.len(), self.ready_count());
        if usize::try_from(self.count()).is_ok_and(|wanted| wanted > alive) {
            return "processes are being started".to_owned();
        }
        if ready < alive {
            return "processes that run have ready_timeout to become ready; then they are replaced"
                .to_owned();
        }
        let outdated = |child: &Child| child.identity.configuration != self.fingerprint;
        if self.children.values().any(outdated) {
            return format!(
                "nothing; kingpole reload {name} replaces processes of an older configuration"
            );
        }
        "nothing: it has what it shall have".to_owned()
    }

    /// Why it does not run although one might expect it.
    pub(super) fn reason(&self) -> Option<String> {
        match self.standing {
            Standing::Retired => return Some("it is not configured any more".to_owned()),
            Standing::Removed(_) => return Some("removed by an operator".to_owned()),
            Standing::Leaving => return Some("the manager is leaving".to_owned()),
            Standing::Configured => {}
        }
        match &self.memory().run {
            Some(Run::Stopped(StopReason::Command)) => Some("stopped by an operator".to_owned()),
            Some(Run::Stopped(StopReason::GaveUp { error, .. })) => Some(format!(
                "gave up after failed attempts to start it: {error}"
            )),
            Some(Run::Stopped(StopReason::Flapping { .. })) => {
                Some("its processes ended again and again".to_owned())
            }
            Some(Run::Stopped(StopReason::Finished)) => {
                Some("all processes ended and respawn is off".to_owned())
            }
            None if !self.config.autostart => Some("autostart is off".to_owned()),
            Some(Run::Running) | None => (self.stage == Stage::Down && self.turn == Turn::Waiting)
                .then(|| "waits for its turn to start".to_owned())
                .or_else(|| {
                    let rests = self.rests() && self.empty();
                    rests.then(|| "waits for a connection".to_owned())
                }),
        }
    }
}

fn process_end(end: &PastEnd, now: Moment) -> ProcessEnd {
    ProcessEnd {
        worker: end.worker,
        pid: end.pid,
        exit_code: end.exit_code,
        lived_ms: end.lived_ms,
        ago_ms: millis(now, end.at),
        why: end.why.clone(),
        output: Vec::new(),
    }
}

impl Obstacle {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Pending(text) | Self::Failed(text) => text,
        }
    }
}

impl From<Link> for KernelLink {
    fn from(link: Link) -> Self {
        match link {
            Link::Down => Self::Lost,
            Link::Up { epoch, generation } => Self::Connected { epoch, generation },
        }
    }
}

fn millis(later: Moment, earlier: Moment) -> u64 {
    u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX)
}

//! What processes say of themselves, by systemd's protocol (sd_notify(3)): that they are ready, what
//! they do, that they stop, and that they are alive.
//!
//! A message counts for the process that sent it or descends from it at the time. Times are those at
//! which a message arrived, so it does not matter how long nobody read it; and before a process is
//! replaced for its silence, it is made sure that everything said so far has been heard
//! ([`Probe::Notify`]).
//!
//! | said                   | effect                                                                |
//! |------------------------|-----------------------------------------------------------------------|
//! | `READY=1`              | it is ready, where `ready = notify`; it takes `STOPPING=1` back         |
//! | `STATUS=`              | shown                                                                 |
//! | `STOPPING=1`           | it is not ready any more, and has `graceful_timeout` to end             |
//! | `WATCHDOG=1`           | it is alive; `trigger` says the opposite                                |
//! | `WATCHDOG_USEC=`       | how often it will say so from now on; 0 for never                       |
//! | `EXTEND_TIMEOUT_USEC=` | it needs more time, up to ten times what it has                         |
//!
//! Everything else is passed over. `MAINPID=` too: who was started is who is managed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::context::Context;
#[cfg(test)]
use super::context::Fault;
use super::ids::{Moment, Pid, ProcessId, WorkerId};
use super::limits::{EXTENSIONS_MAX, HEARD_LIMIT, HEARD_PAUSE, PACE_MIN, STATUS_CHARACTERS_MAX};
use super::manager::Engine;
use super::probe::ProbeOutcome;
use super::readiness::{Progress, Running};
use super::watcher::Watcher;
use crate::command::Readiness;
use crate::config::model::Probe;

/// A start as the kernel stamped it and a message as it was received are told by two clocks that were
/// compared at two times; only a recycled process id makes a greater difference.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// Something a process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Counts up within one connection; what is acknowledged.
    pub number: u64,
    /// The sender and those it descended from, the nearest first.
    pub family: Vec<Pid>,
    /// When it arrived.
    pub at: Moment,
    /// Its assignments.
    pub said: Vec<(String, String)>,
}

/// What is known of a process by what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Voice {
    /// What it does, in its own words.
    pub(super) status: Option<String>,
    /// How often it has to say that it is alive.
    pace: Option<Duration>,
    /// When it last did.
    heard: Moment,
    /// It is made sure that nothing it said is unheard.
    check: Option<Running>,
    /// That could not be done; it is not tried again before this.
    check_after: Moment,
}

/// What a process said that the next manager has to know, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    /// It stops, and has time until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves_by: Option<Moment>,
    /// It needs until then to become ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ready_by: Option<Moment>,
    /// How often it says that it is alive, where that is not what it was asked for, microseconds; 0
    /// for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pace_us: Option<u64>,
}

impl Voice {
    /// Of a process that was asked for this when it was started, and has said this since.
    pub(super) fn new(pace_us: Option<u64>, told: Option<&Told>, now: Moment) -> Self {
        let pace_us = told.and_then(|told| told.pace_us).or(pace_us);
        Self {
            status: None,
            pace: pace_us.filter(|us| *us > 0).map(Duration::from_micros),
            heard: now,
            check: None,
            check_after: Moment::default(),
        }
    }

    /// When something is due about a process that is ready.
    pub(super) fn timer(&self) -> Option<Moment> {
        let due = self.heard + self.pace?;
        Some(match self.check {
            Some(check) => check.late_at,
            None => due.max(self.check_after),
        })
    }

    /// Silence counts from here on: nobody could hear it before.
    pub(super) fn listen_anew(&mut self, now: Moment) {
        self.heard = self.heard.max(now);
        self.check = None;
    }

    /// Takes back what is being made sure of.
    pub(super) fn take_check(&mut self) -> Option<Running> {
        self.check.take()
    }

    pub(super) fn is_checked_by(&self, probe: super::ids::ProbeId) -> bool {
        self.check.is_some_and(|check| check.probe == probe)
    }
}

impl Engine {
    /// Somebody said something. Who is not ours, or has ended, is passed over.
    pub(super) fn handle_notified(&mut self, note: &Notification) {
        self.heard = self.heard.max(note.number);
        #[cfg(test)]
        if self.cx.fault == Fault::AcknowledgeUnheard {
            self.acknowledge_notes();
        }
        let known = note.family.iter().find_map(|pid| self.pids.get(pid));
        let Some((process, key)) =
            known.and_then(|process| Some((*process, self.owners.get(process)?.clone())))
        else {
            return;
        };
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.handle_notified(&mut self.cx, process, note);
        }
        self.touch(&key);
    }

    /// What was said has had its effect. It is acknowledged once the kernel has remembered that, and
    /// said so, as it can refuse to.
    pub(super) fn acknowledge_notes(&mut self) {
        if !self.cx.connected() || self.heard <= self.acknowledged {
            return;
        }
        let last = self.cx.last_write();
        let (through, written) = *self.acknowledging.get_or_insert((self.heard, last));
        let remembered =
            self.cx.is_answered(written) && !self.watchers.values().any(Watcher::is_refused_memory);
        #[cfg(test)]
        let remembered = remembered || self.cx.fault == Fault::AcknowledgeUnheard;
        if remembered {
            self.acknowledging = None;
            self.acknowledged = through;
            self.cx.push(Action::AcknowledgeNotes { through });
        }
    }
}

impl Watcher {
    fn handle_notified(&mut self, cx: &mut Context, process: ProcessId, note: &Notification) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        if child.started > note.at + CLOCK_SLACK {
            // It has the number of one that ended.
            return;
        }
        let (stopping, worker) = (child.stopping(), child.worker());
        let mut voice = child.voice.clone();
        let (mut ready, mut leaves, mut gives_up) = (false, false, false);
        let mut extension = None;
        for (name, value) in &note.said {
            match (name.as_str(), value.as_str()) {
                ("READY", "1") => (ready, leaves) = (true, false),
                ("STOPPING", "1") => (ready, leaves) = (false, true),
                ("STATUS", text) => voice.status = status_text(text),
                ("WATCHDOG", "1") => voice.heard = voice.heard.max(note.at),
                ("WATCHDOG", "trigger") => gives_up = true,
                ("WATCHDOG_USEC", text) => {
                    if let Ok(us) = text.parse::<u64>() {
                        self.told(worker).pace_us = Some(us);
                        let pace = Duration::from_micros(us).max(PACE_MIN);
                        voice.pace = (us > 0).then_some(pace);
                        voice.heard = voice.heard.max(note.at);
                    }
                }
                ("EXTEND_TIMEOUT_USEC", text) => {
                    extension = text.parse().ok().map(Duration::from_micros);
                }
                _ => {}
            }
        }
        self.children.set_voice(process, voice);
        if stopping {
            return;
        }
        if let Some(extension) = extension {
            self.extend(process, note.at, extension);
        }
        if ready {
            self.hear_ready(cx, process);
        }
        if leaves {
            self.hear_stopping(cx, process, note.at);
        }
        if gives_up {
            self.fail(cx, process, "it asked for it (WATCHDOG=trigger)".to_owned());
        }
    }

    fn told(&mut self, worker: WorkerId) -> &mut Told {
        self.memory_mut().told.entry(worker).or_default()
    }

    fn hear_ready(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let worker = child.worker();
        if self.leaves(worker) {
            self.told(worker).leaves_by = None;
            let progress = self.first_progress(cx, worker, child_started(self, process));
            self.children.set_progress(process, progress);
        }
        if self.config.ready.probe == Some(Probe::Notify) {
            self.become_ready(cx, process);
        }
    }

    /// It ends by itself, and nobody shall count on it meanwhile.
    fn hear_stopping(&mut self, cx: &mut Context, process: ProcessId, at: Moment) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let worker = child.worker();
        if self.leaves(worker) {
            return;
        }
        let by = at + self.config.graceful_timeout;
        self.stop_looking(cx, process);
        self.told(worker).leaves_by = Some(by);
        self.children.set_progress(process, leaving(by.max(cx.now)));
    }

    /// More time for what it does, as long as that is not far more than it has.
    fn extend(&mut self, process: ProcessId, at: Moment, extension: Duration) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let (worker, started) = (child.worker(), child.started);
        let mut progress = child.progress.clone();
        let Some(deadline) = progress.deadline else {
            return;
        };
        let longest = match progress.readiness {
            Readiness::Starting => started + self.config.ready.timeout * EXTENSIONS_MAX,
            Readiness::Unready => deadline.max(at + self.config.graceful_timeout),
            Readiness::Ready => return,
        };
        let wanted = (at + extension).min(longest);
        if wanted <= deadline {
            return;
        }
        progress.deadline = Some(wanted);
        match progress.readiness {
            Readiness::Starting => self.told(worker).ready_by = Some(wanted),
            Readiness::Unready | Readiness::Ready => self.told(worker).leaves_by = Some(wanted),
        }
        self.children.set_progress(process, progress);
    }

    /// Whether it said that it stops.
    fn leaves(&self, worker: WorkerId) -> bool {
        let told = self.memory().told.get(&worker);
        told.is_some_and(|told| told.leaves_by.is_some())
    }

    /// How one stands that said that it stops.
    pub(super) fn leaving_progress(&self, cx: &Context, worker: WorkerId) -> Option<Progress> {
        let by = self.memory().told.get(&worker)?.leaves_by?;
        Some(leaving(by.max(cx.now)))
    }

    /// Forgets what processes said that are not there any more.
    pub(super) fn prune_told(&mut self) {
        if self.memory().told.is_empty() {
            return;
        }
        let live: std::collections::BTreeSet<WorkerId> = self
            .children
            .values()
            .map(super::worker::Child::worker)
            .collect();
        let gone =
            |(worker, told): (&WorkerId, &Told)| !live.contains(worker) || *told == Told::default();
        if self.memory().told.iter().any(gone) {
            self.memory_mut()
                .told
                .retain(|worker, told| live.contains(worker) && *told != Told::default());
        }
    }

    /// Whether a process that is ready has been silent for too long.
    pub(super) fn look_at_watchdog(&mut self, cx: &mut Context, process: ProcessId) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let mut voice = child.voice.clone();
        if let Some(late) = voice.check.take_if(|it| it.late_at <= cx.now) {
            cx.cancel_probe(late.probe);
            voice.check_after = cx.now + HEARD_PAUSE;
        }
        let due = voice.check.is_none() && voice.timer().is_some_and(|at| at <= cx.now);
        #[cfg(test)]
        let due = due && cx.fault != Fault::LetItHang;
        if due {
            voice.check = self.send_probe(cx, process, Probe::Notify, HEARD_LIMIT);
        }
        self.children.set_voice(process, voice);
    }

    /// Everything that was said has been heard, or it cannot be told.
    pub(super) fn handle_heard(
        &mut self,
        cx: &mut Context,
        process: ProcessId,
        outcome: &ProbeOutcome,
    ) {
        let Some(child) = self.children.get(process) else {
            return;
        };
        let mut voice = child.voice.clone();
        voice.check = None;
        let silent = voice.timer().is_some_and(|at| at <= cx.now);
        let heard = voice.heard;
        match outcome {
            ProbeOutcome::Failed(_) => voice.check_after = cx.now + HEARD_PAUSE,
            ProbeOutcome::Passed => {}
        }
        self.children.set_voice(process, voice);
        if silent && *outcome == ProbeOutcome::Passed {
            let silence = cx.now.since(heard).as_secs_f64();
            let error = format!("it has not sent WATCHDOG=1 for {silence:.1} s");
            self.fail(cx, process, error);
        }
    }
}

fn child_started(watcher: &Watcher, process: ProcessId) -> Moment {
    watcher
        .children
        .get(process)
        .map_or_else(Moment::default, |child| child.started)
}

fn leaving(by: Moment) -> Progress {
    Progress {
        readiness: Readiness::Unready,
        why: Some("it says that it is stopping".to_owned()),
        deadline: Some(by),
        ..Progress::READY
    }
}

/// For a line of its own, whatever a process makes of it.
fn status_text(text: &str) -> Option<String> {
    let clean = text.trim().replace(char::is_control, "?");
    let short: String = clean.chars().take(STATUS_CHARACTERS_MAX).collect();
    (!short.is_empty()).then_some(short)
}

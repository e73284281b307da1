//! How the manager leaves.
//!
//! | how      | children                                        | what is remembered              |
//! |----------|-------------------------------------------------|---------------------------------|
//! | detach   | all run on                                      | all of it                       |
//! | quit     | those of watchers without `use_papa` are stopped | of those that run on            |
//! | shutdown | all of ours are stopped                         | nothing                         |
//! | replaced | all run on, nothing is asked of the kernel      | all of it                       |
//!
//! Quit ends a session as it did in Circus: the next manager starts what it stopped as the
//! configuration says. Nobody is left without an answer.

use std::collections::BTreeMap;

use super::action::{Action, Level, Outcome};
use super::commands::leaving;
use super::context::Context;
use super::ids::{CommandId, Moment, WatcherKey};
use super::input::Input;
use super::limits::DRAIN_PATIENCE;
use super::manager::Engine;
use super::remember::Memory;
use super::watcher::{Standing, Watcher};
use crate::command::{Answer, Command, Refusal, RefusalKind, Stopping, Wait};

/// How far leaving has come.
#[derive(Debug, Default)]
pub(super) struct Ending {
    how: How,
    /// Exit status of the essential watcher that ended, if that is why.
    status: Option<u8>,
    waiters: Vec<CommandId>,
    patience: Patience,
    swept: Swept,
}

/// Waiting for the output of stopped processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Patience {
    /// There was no reason yet.
    #[default]
    Unused,
    /// Until then.
    Until(Moment),
    /// It is over.
    Over,
}

/// Whether what is remembered of the stopped watchers has been dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Swept {
    #[default]
    NotYet,
    Yes,
}

/// How the manager leaves; later ones win over earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    /// It stays.
    #[default]
    Stay,
    Quit,
    Shutdown,
    Detach,
    Over,
}

impl Ending {
    /// Whether the last action was given out.
    pub(super) fn over(&self) -> bool {
        self.how == How::Over
    }

    /// Whether no further changes are accepted.
    pub(super) fn begun(&self) -> bool {
        self.how != How::Stay
    }

    pub(super) const fn deadline(&self) -> Option<Moment> {
        match self.patience {
            Patience::Until(until) => Some(until),
            Patience::Unused | Patience::Over => None,
        }
    }

    fn takes_along(&self, watcher: &Watcher) -> bool {
        match self.how {
            How::Stay | How::Detach | How::Over => false,
            How::Quit => !watcher.config.use_papa,
            How::Shutdown => true,
        }
    }

    /// Marks the watchers that go with the manager.
    pub(super) fn cover(&self, watchers: &mut BTreeMap<WatcherKey, Watcher>, cx: &mut Context) {
        for watcher in watchers.values_mut() {
            let left_alone = watcher.standing == Standing::Removed(Stopping::Leave);
            let stays =
                watcher.standing == Standing::Configured || left_alone && self.how == How::Shutdown;
            if self.takes_along(watcher) && stays {
                watcher.forget_words(cx, "the manager stops the watcher and leaves");
                watcher.standing = Standing::Leaving;
            }
        }
    }
}

/// Whether a watcher's processes go with the manager, or went before.
fn goes(watcher: &Watcher) -> bool {
    match watcher.standing {
        Standing::Configured | Standing::Removed(Stopping::Leave) => false,
        Standing::Leaving | Standing::Retired | Standing::Removed(Stopping::Stop) => true,
    }
}

impl Engine {
    pub(super) fn handle_ending_command(&mut self, command: CommandId, request: &Command) {
        let (how, wait) = match request {
            Command::Quit(end) => (How::Quit, end.wait),
            Command::Shutdown(end) => (How::Shutdown, end.wait),
            Command::Detach(end) => (How::Detach, end.wait),
            Command::Start(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Reload(_)
            | Command::Incr(_)
            | Command::Decr(_)
            | Command::Scale(_)
            | Command::Signal(_)
            | Command::Kill(_)
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
            | Command::Roll(_)
            | Command::Runs(_)
            | Command::Deploy(_)
            | Command::Rollback(_)
            | Command::History(_)
            | Command::Suspend(_)
            | Command::Resume(_)
            | Command::ListSockets => return,
        };
        match wait {
            Wait::Done => self.ending.waiters.push(command),
            Wait::No => self.cx.promise(command, Ok(Answer::Leaving)),
        }
        if how <= self.ending.how {
            return;
        }
        self.cx.log(
            Level::Info,
            format!("the manager leaves ({})", request.verb()),
        );
        self.begin_ending(how);
    }

    /// Everything of ours is stopped, and the manager ends with this status.
    pub(super) fn begin_essential_ending(&mut self, status: u8) {
        self.ending.status = Some(status);
        self.begin_ending(How::Shutdown);
    }

    fn begin_ending(&mut self, how: How) {
        self.ending.how = how;
        self.ending.cover(&mut self.watchers, &mut self.cx);
        self.note_standpoints();
        // First signals in the order of stops, lowest priority first.
        for key in self.order.clone().iter().rev() {
            if let Some(watcher) = self.watchers.get_mut(key) {
                watcher.settle(&mut self.cx);
            }
        }
        self.touch_all();
    }

    /// Leaves when nothing is left to wait for.
    pub(super) fn advance_ending(&mut self) {
        let outcome = match self.ending.how {
            How::Stay | How::Over => return,
            How::Detach => Outcome::Detached,
            How::Quit => Outcome::Quit,
            How::Shutdown => match self.ending.status {
                Some(status) => Outcome::EssentialEnded { status },
                None => Outcome::ShutDown,
            },
        };
        if outcome == Outcome::Detached {
            if self.cx.connected() && self.cx.writes_outstanding() {
                return;
            }
        } else {
            if !self.cx.connected() || !self.stopped() || self.waits_for_output() {
                return;
            }
            if self.ending.swept == Swept::NotYet {
                self.sweep();
            }
            if self.cx.writes_outstanding() {
                return;
            }
        }
        self.finish(outcome);
    }

    fn stopped(&self) -> bool {
        let mut going = self.watchers.values().filter(|watcher| goes(watcher));
        going.all(|watcher| {
            watcher.empty()
                && watcher.state() == crate::command::WatcherState::Stopped
                && watcher.hooks.idle()
        })
    }

    /// Whether the output of stopped processes may still be stored in time.
    fn waits_for_output(&mut self) -> bool {
        let undrained = self
            .watchers
            .values()
            .filter(|watcher| goes(watcher))
            .any(|watcher| !watcher.ended.is_empty());
        if !undrained {
            return false;
        }
        match self.ending.patience {
            Patience::Unused => {
                self.ending.patience = Patience::Until(self.cx.now + DRAIN_PATIENCE);
                return true;
            }
            Patience::Until(until) if until > self.cx.now => return true,
            Patience::Until(_) => self.ending.patience = Patience::Over,
            Patience::Over => return false,
        }
        self.cx.log(
            Level::Warning,
            "some output of stopped processes could not be stored; the process kernel keeps it for \
             the next manager"
                .to_owned(),
        );
        false
    }

    /// Drops what is remembered of the watchers that were stopped, and closes sockets that nobody
    /// is left to serve.
    fn sweep(&mut self) {
        self.ending.swept = Swept::Yes;
        self.ending.patience = Patience::Over;
        for watcher in self.watchers.values_mut() {
            // What an operator said of one that would have run on is kept as well.
            if !goes(watcher) || self.ending.how == How::Quit && watcher.config.use_papa {
                continue;
            }
            let memory = watcher.memory_mut();
            let accounted = std::mem::take(&mut memory.accounted);
            *memory = Memory {
                accounted,
                ..Memory::default()
            };
            watcher.flush(&mut self.cx);
        }
        let all = self.ending.how == How::Shutdown;
        let staying: Vec<&Watcher> = self
            .watchers
            .values()
            .filter(|watcher| !goes(watcher))
            .collect();
        let closable = self.cx.sockets.closable(|socket| {
            let used = staying
                .iter()
                .any(|watcher| watcher.uses.includes(&socket.name));
            !all && (socket.use_papa || used)
        });
        for kernel_name in closable {
            self.cx.push(Action::CloseSocket { kernel_name });
        }
    }

    /// The last action, after every answer.
    fn finish(&mut self, outcome: Outcome) {
        let next = "the manager leaves; the next one goes on with it";
        for watcher in self.watchers.values_mut() {
            watcher.release_waiters(&mut self.cx, next);
        }
        self.tell_of_unfinished_hooks();
        self.collect_outcomes();
        if self.cx.connected() {
            self.cx.release_promises();
        }
        let reading = std::mem::take(&mut self.reading).into_keys();
        let deferred = std::mem::take(&mut self.deferred).into_iter();
        for command in deferred.map(|(command, _)| command).chain(reading) {
            self.cx.reply(command, Err(leaving()));
        }
        self.cx.refuse_promises(&Refusal {
            kind: RefusalKind::NotRemembered,
            reason: "the manager leaves while the process kernel is out of reach, so this may not \
                     be done"
                .to_owned(),
        });
        for command in std::mem::take(&mut self.ending.waiters) {
            self.cx.reply(command, Ok(Answer::Leaving));
        }
        self.ending.how = How::Over;
        self.cx.push(Action::Finished(outcome));
    }

    fn tell_of_unfinished_hooks(&mut self) {
        for watcher in self.watchers.values().filter(|it| !it.hooks.idle()) {
            let hook = watcher.hooks.running().unwrap_or("others");
            self.cx.log(
                Level::Warning,
                format!(
                    "watcher {:?}: the manager leaves while hooks are called ({hook}); what waits \
                     for their answer is asked again by the next manager, the others are not",
                    watcher.config.name
                ),
            );
        }
    }

    /// Another manager has the lease.
    pub(super) fn handle_replaced(&mut self) {
        self.cx.disconnect();
        let refusal = Refusal {
            kind: RefusalKind::Replaced,
            reason: "another manager has taken over; ask that one".to_owned(),
        };
        self.cx.refuse_promises(&refusal);
        let deferred = std::mem::take(&mut self.deferred)
            .into_iter()
            .map(|(command, _)| command);
        let pending = std::mem::take(&mut self.pending).into_keys();
        let reading = std::mem::take(&mut self.reading).into_keys();
        for command in deferred.chain(pending).chain(reading) {
            self.cx.reply(command, Err(refusal.clone()));
        }
        for command in std::mem::take(&mut self.ending.waiters) {
            self.cx.reply(command, Err(refusal.clone()));
        }
        self.ending.how = How::Over;
        self.cx.log(
            Level::Warning,
            "another manager has taken over; this one leaves".to_owned(),
        );
        self.cx.push(Action::Finished(Outcome::Replaced));
    }

    /// After the last action there are only refusals.
    pub(super) fn refuse_when_over(&mut self, input: &Input) {
        if let Input::CommandReceived {
            command,
            request: _,
        } = input
        {
            self.cx.reply(*command, Err(leaving()));
        }
    }
}

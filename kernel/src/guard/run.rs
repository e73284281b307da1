//! The guard's loop: hold, drop, publish, reap, start again.
//!
//! It waits for signals and for the link, and for nothing else; when nothing happens, nothing wakes
//! up. It has no decision to make about any child.

use super::held::{Held, Kept};
use super::image::Image;
use super::link::{self, Message, Received};
use super::pace::{Pace, STARTS_MAX, Served};
use super::role::{Original, Part, Role};
use super::shared::{Shared, announce_ends};
use super::store::{Store, Told};
use crate::crash::{crash_point, resume_patience};
use crate::exit::Exit;
use crate::log::{Backlog, Log};
use crate::memory::{EndStatus, EndedBy};
use crate::notify::notify;
use crate::pid_files::PidFiles;
use crate::reap::{Reaped, now_ns, sweep};
use crate::sys::alarm;
use crate::sys::daemon::Promise;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Signals that are meant for the kernel and arrive here, because this is the process that was
/// started.
pub const FORWARDED: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR2,
];

/// `si_code` of a signal that Linux itself sent, as a terminal makes it do (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// The guard.
#[derive(Debug)]
pub struct Guard {
    shared: Shared,
    held: Held,
    image: Image,
    /// The program before the present one, for when that never comes to serve.
    previous: Option<Image>,
    original: Original,
    signals: SignalFd,
    log: Log,
    log_waits: Backlog,
    pids: PidFiles,
    promise: Option<Promise>,
    kernel: Option<Running>,
    pace: Pace,
    next_start: Option<Instant>,
    has_served: bool,
    undelivered: Vec<Signal>,
    store: Store,
    /// Whether the guard itself is to become the program that the kernel has become.
    own: Own,
}

/// Which program the guard itself runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// The one it starts, or one that could not be replaced by that.
    Settled,
    /// The one before: to be replaced after this turn.
    Outdated,
}

/// The kernel that runs now.
#[derive(Debug)]
struct Running {
    pid: i32,
    link: OwnedFd,
    started: Instant,
    served: Served,
}

/// What a guard is made of.
#[derive(Debug)]
pub struct Parts {
    /// Fresh, or taken over.
    pub shared: Shared,
    /// What is held already.
    pub held: Held,
    /// What to start.
    pub image: Image,
    /// What children get back.
    pub original: Original,
    /// SIGCHLD and [`FORWARDED`]; blocked.
    pub signals: SignalFd,
    /// Where lines go.
    pub log: Log,
    /// Where pids are written.
    pub pids: PidFiles,
    /// Who waits for the first kernel to serve.
    pub promise: Option<Promise>,
    /// Whether a kernel has served this state before.
    pub has_served: bool,
    /// The kernel that runs already, with the guard's end of its link.
    pub kernel: Option<(i32, OwnedFd)>,
    /// The program before the present one.
    pub previous: Option<OwnedFd>,
    /// What a person should know.
    pub note: Option<String>,
}

impl Guard {
    /// Ready to start the first kernel.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let own_pid = std::process::id().cast_signed();
        parts.shared.memory.set_guard_pid(own_pid);
        parts.pids.write_guard(own_pid);
        let kernel = parts.kernel.map(|(pid, link)| Running {
            pid,
            link,
            started: Instant::now(),
            served: Served::Yes,
        });
        let next_start = kernel.is_none().then(Instant::now);
        let mut guard = Self {
            shared: parts.shared,
            held: parts.held,
            previous: parts.previous.map(|binary| parts.image.with_binary(binary)),
            image: parts.image,
            original: parts.original,
            signals: parts.signals,
            log: parts.log,
            log_waits: Backlog::Empty,
            pids: parts.pids,
            promise: parts.promise,
            kernel,
            pace: Pace::default(),
            next_start,
            has_served: parts.has_served,
            undelivered: Vec::new(),
            store: Store::offered(),
            own: Own::Settled,
        };
        if guard.store.is_offered() {
            // What an earlier program of this process has stored is passed over.
            guard.store.keep_shared(&guard.shared);
            for tag in guard.held.tags() {
                guard.store.note(tag);
            }
        }
        if let Some(note) = parts.note {
            guard.say(&note);
        }
        guard
    }

    /// Guards until a kernel ends because it was asked to. Gives the exit code.
    ///
    /// # Errors
    /// Nothing can be waited for any more.
    pub fn run(mut self) -> Result<Exit, Errno> {
        loop {
            if let Some(exit) = self.turn() {
                return Ok(exit);
            }
            self.wait()?;
        }
    }

    /// Deals with everything that has happened. Gives an exit code when the guard is to end.
    fn turn(&mut self) -> Option<Exit> {
        // First: the program before this one may have left something undone.
        self.take_signals();
        self.take_messages();
        if let Some(exit) = self.sweep() {
            self.store.forget_all();
            self.pids.remove();
            if let Some(promise) = self.promise.take() {
                promise.keep(exit as u8);
            }
            return Some(exit);
        }
        self.log_waits = self.log.flush(now_ns());
        if self.store.tell(&self.held) == Told::Overfull {
            self.say(
                "systemd's descriptor store is full: what comes now does not survive the death of \
                 guard and kernel together (raise FileDescriptorStoreMax)",
            );
        }
        if self.own == Own::Outdated {
            self.become_next();
        }
        if self.next_start.is_some_and(|at| at <= Instant::now()) {
            self.start_kernel();
        }
        None
    }

    /// One turn, with a kernel started at once where one is due: for the simulation.
    #[cfg(test)]
    pub(crate) fn simulated_turn(&mut self) {
        self.next_start = self.next_start.map(|_| Instant::now());
        assert_eq!(self.turn(), None, "nobody asked it to end");
    }

    /// What it holds.
    #[cfg(test)]
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// Becomes the program that the kernel has become. The table, the link and the zombies stay as they
    /// are. Returns only if that failed; then everything is as before.
    fn become_next(&mut self) {
        self.own = Own::Settled;
        let (Some(kernel), Some(previous)) = (&self.kernel, &self.previous) else {
            return;
        };
        let role = Role {
            part: Part::Guard,
            shared: self.shared.numbers(),
            link: Some(kernel.link.as_raw_fd()),
            saved: None,
            previous: Some(previous.binary.as_raw_fd()),
            polled: None,
            witness: None,
            failure: None,
            kernel: Some(kernel.pid),
            binary: Some(self.image.binary.as_raw_fd()),
            original: self.original,
        };
        let mut kept = self.shared.descriptors().collect::<Vec<_>>();
        kept.extend(self.held.descriptors());
        kept.extend([
            kernel.link.as_fd(),
            previous.binary.as_fd(),
            self.image.binary.as_fd(),
        ]);
        crash_point("guard: before exec");
        // Should it hang, it is ended, or becomes this program again.
        let cause = match alarm::set(resume_patience()) {
            Ok(()) => self.image.become_it(&role, &kept),
            Err(cause) => cause,
        };
        alarm::cancel();
        self.say(&format!(
            "cannot become the new program: {}; this one goes on as the guard",
            cause.desc()
        ));
    }

    fn start_kernel(&mut self) {
        self.next_start = None;
        if self.pace.unserved() == STARTS_MAX
            && let Some(previous) = self.previous.take()
        {
            self.image = previous;
            self.say("the new kernel never came to serve: back to the previous program");
        }
        let (own, kernels) = match link::pair() {
            Ok(pair) => pair,
            Err(cause) => return self.start_later("make a link to the kernel", cause),
        };
        self.shared.memory.set_link_handled(0);
        let role = Role {
            part: Part::Kernel,
            shared: self.shared.numbers(),
            link: Some(kernels.as_raw_fd()),
            saved: None,
            previous: None,
            polled: None,
            witness: None,
            failure: None,
            kernel: None,
            binary: None,
            original: self.original,
        };
        let mut kept = self.shared.descriptors().collect::<Vec<_>>();
        kept.extend(self.held.descriptors());
        kept.push(kernels.as_fd());
        match self.image.start(&role, &kept) {
            Ok(pid) => {
                self.pids.write_kernel(pid);
                self.kernel = Some(Running {
                    pid,
                    link: own,
                    started: Instant::now(),
                    served: Served::No,
                });
                for signal in std::mem::take(&mut self.undelivered) {
                    self.forward(signal);
                }
            }
            Err(cause) => self.start_later("start a kernel", cause),
        }
    }

    fn start_later(&mut self, action: &str, cause: Errno) {
        let pause = self.pace.pause_after(Served::No, Duration::ZERO);
        self.next_start = Instant::now().checked_add(pause);
        self.say(&format!(
            "cannot {action}: {}; trying again in {pause:?}",
            cause.desc()
        ));
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(kernel) = &self.kernel {
            polled.push(PollFd::new(kernel.link.as_fd(), PollFlags::POLLIN));
        }
        if let Some(store) = self.store.waits_on() {
            polled.push(PollFd::new(store, PollFlags::POLLOUT));
        }
        if self.log_waits == Backlog::Waiting {
            polled.push(PollFd::new(self.log.descriptor(), PollFlags::POLLOUT));
        }
        let timeout = match self.next_start {
            None => PollTimeout::NONE,
            // Rounded up, so that it is due when the wait is over.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                let millis = left.as_millis().saturating_add(u128::from(!left.is_zero()));
                PollTimeout::try_from(u32::try_from(millis).unwrap_or(5000))
                    .unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => Ok(()),
            other => other.map(drop),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).ok();
            let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) else {
                continue;
            };
            // A terminal signals the kernel as well: it is in the same group.
            if FORWARDED.contains(&signal) && info.ssi_code != SI_KERNEL {
                self.forward(signal);
            }
        }
    }

    fn forward(&mut self, signal: Signal) {
        match &self.kernel {
            // Our own child, not reaped: the pid is its own.
            Some(kernel) => {
                let _ = kill(Pid::from_raw(kernel.pid), signal);
            }
            None => self.undelivered.push(signal),
        }
    }

    /// Takes everything that is in the link now.
    fn take_messages(&mut self) {
        while let Some(kernel) = &self.kernel {
            match link::receive(&kernel.link) {
                Ok(Received::Message(message)) => {
                    self.take_message(message);
                    let memory = &self.shared.memory;
                    memory.set_link_handled(memory.link_handled().saturating_add(1));
                }
                // The end of the link means nothing: only waiting tells whether the kernel is dead.
                Ok(Received::Nothing | Received::End) => return,
                Err(cause) => {
                    self.say(&format!("cannot hear the kernel: {}", cause.desc()));
                    return;
                }
            }
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Hold(all) => {
                for (tag, fd) in all {
                    self.store.note(tag);
                    if self.held.hold(&self.shared.memory, tag, fd) == Kept::NoPlace {
                        self.say("the table of held descriptors is full");
                    }
                }
                crash_point("guard: held");
            }
            Message::Drop(tags) => {
                for tag in tags {
                    self.store.note(tag);
                    self.held.release(&self.shared.memory, tag);
                }
            }
            Message::Ready => self.handle_ready(),
            Message::Binary(binary) => {
                let image = self.image.with_binary(binary);
                self.previous = Some(std::mem::replace(&mut self.image, image));
                self.own = Own::Outdated;
            }
            Message::Truncated => self.say(
                "descriptors were lost on the way to the guard: the limit of open files is reached",
            ),
            Message::Unknown => {}
        }
    }

    fn handle_ready(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.served = Served::Yes;
        }
        if !self.has_served {
            self.has_served = true;
            notify("READY=1");
            if let Some(promise) = self.promise.take() {
                promise.keep(Exit::Done as u8);
            }
        }
    }

    /// Publishes and reaps whoever has ended. Gives an exit code when the guard is to end too.
    fn sweep(&mut self) -> Option<Exit> {
        let memory = &self.shared.memory;
        let kernel = self.kernel.as_ref().map(|kernel| kernel.pid);
        let since = memory.min_epoch();
        let found = sweep(memory, EndedBy::Guard, |pid| {
            if Some(pid) == kernel {
                return None;
            }
            memory.find_running(pid, since)
        });
        let reaped = match found {
            Ok(reaped) => reaped,
            Err(cause) => {
                self.say(&format!("cannot look for ended children: {}", cause.desc()));
                return None;
            }
        };
        if reaped.iter().any(|one| matches!(one, Reaped::Child { .. })) {
            announce_ends(&self.shared.ended);
        }
        let dead = reaped.iter().find_map(|one| match one {
            Reaped::Orphan { pid, end } if Some(*pid) == kernel => Some(end.status),
            _ => None,
        })?;
        self.handle_kernel_dead(dead)
    }

    fn handle_kernel_dead(&mut self, status: EndStatus) -> Option<Exit> {
        // What it sent last is still in the link. Not "until the end of it": a child between clone
        // and exec may have the kernel's end open.
        self.take_messages();
        let kernel = self.kernel.take()?;
        if let EndStatus::Exited(code) = status {
            let meant = match kernel.served {
                Served::Yes => code == Exit::Done as u8,
                Served::No => !self.has_served,
            };
            if meant {
                return Some(Exit::from_code(code));
            }
        }
        let life = kernel.started.elapsed();
        let pause = self.pace.pause_after(kernel.served, life);
        self.next_start = Instant::now().checked_add(pause);
        let how = match status {
            EndStatus::Exited(code) => format!("ended with code {code}"),
            EndStatus::Signaled { signal, .. } => format!("was killed by signal {signal}"),
            EndStatus::Unknown => "has gone".to_owned(),
        };
        let when = if pause.is_zero() {
            "at once".to_owned()
        } else {
            format!("in {pause:?}")
        };
        self.say(&format!(
            "the kernel (pid {}) {how} after {life:.1?}; {} descriptors are held; \
             starting the next one {when}",
            kernel.pid,
            self.held.len()
        ));
        None
    }

    fn say(&mut self, text: &str) {
        self.log_waits = self.log.line(now_ns(), &format!("guard: {text}"));
    }
}

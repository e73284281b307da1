//! The loop: waits for what is ready, turns it into inputs, carries out the effects.
//!
//! One thread. Tokio tells when our epoll has something, and when a deadline has passed; everything
//! else, children's pipes and sessions alike, hangs on that epoll. When nothing happens, nothing
//! wakes up. Nothing here decides: see [`crate::step`].

mod adopt;
mod beginning;
mod carry_out;
mod connections;
mod describing;
mod gathering;
mod guarding;
mod hands;
mod listeners;
mod passing;
mod polled;
mod reading;
mod resting;
mod sessions;
#[cfg(test)]
mod simulation;
mod spawning;
mod text_output;
mod upgrading;

use crate::effect::Effect;
use crate::input::{Input, Now, Room, Termination};
use crate::log::{Backlog, Log};
use crate::peer::Guests;
use crate::reap::now_ns;
use crate::state::{SessionId, State};
use crate::step::step;
use crate::sys::readiness::watch_readable;
use crate::sys::title::ProcessTitle;
use crate::sys::trim::release_unused_code;
use crate::upgrade::saved_state::SavedDescriptor;
pub use adopt::{AdoptError, Inheritance, Rings, Succession};
pub use beginning::{LoopError, Parts};
use connections::{Connection, Sent};
use describing::Preparing;
pub use describing::is_what_was_saved;
use gathering::Gathering;
pub use guarding::Heirloom;
use hands::Hands;
pub use hands::HandsError;
pub use listeners::{ListenError, Listener, Permissions, open_all};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use polled::{Interest, Polled, Ready, Token};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
pub use upgrading::Resumption;
use upgrading::{Decided, Order, Rehearsing, Resumed};

/// How long nothing must have happened before the memory of code is given back.
const QUIET: Duration = Duration::from_secs(5);

/// Whether code has run since its memory was last given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// It has.
    Used,
    /// Only what it takes to wait.
    GivenBack,
}

/// What the kernel is made of.
pub struct Kernel {
    state: State,
    hands: Hands,
    polled: Rc<RefCell<Polled>>,
    connections: BTreeMap<SessionId, Connection>,
    /// Sessions that may have whole requests left to be taken.
    unparsed: BTreeSet<SessionId>,
    /// Sessions with text that is kept back.
    holding: BTreeSet<SessionId>,
    listeners: Vec<Listener>,
    listening: Listening,
    code: Code,
    gathering: Gathering,
    guests: Guests,
    signals: SignalFd,
    log: Log,
    log_polled: Backlog,
    detail: Detail,
    title: Option<ProcessTitle>,
    /// Processes and sockets that the title shows.
    shown_title: Option<(u64, usize)>,
    last_refusal: String,
    inbox: VecDeque<Input>,
    effects: Vec<Effect>,
    scratch: Vec<u8>,
    /// Memory for the next text that is sent, while there is much to send.
    spare_text: Vec<u8>,
    clock: Instant,
    leaving: bool,
    heirloom: Option<Heirloom>,
    /// An upgrade that was asked for in this turn.
    order: Option<Order>,
    /// The one before its rehearsal.
    preparing: Option<Preparing>,
    /// The one whose program rehearses.
    rehearsing: Option<Rehearsing>,
    /// The one that happens after this turn.
    decided: Option<Decided>,
    /// What the one that made this program of the process is to be answered with.
    resumed: Option<Resumed>,
    /// Descriptors that were taken over and not looked at yet.
    unchecked: Vec<SavedDescriptor>,
    /// Until [`Kernel::run`] takes it.
    waiting: Option<Waiting>,
}

/// The runtime, which tells when our epoll has something.
struct Waiting {
    // First, as it is registered with the other.
    watched: Watched,
    runtime: Runtime,
}

/// Our epoll, as the runtime watches it.
enum Watched {
    /// Until there is nothing to do for the first time: for one with thousands of descriptors on it Linux
    /// then looks at each.
    NotYet(OwnedFd),
    Yes(AsyncFd<OwnedFd>),
}

/// How long until it is tried again to have our epoll watched, when Linux refused.
const WATCH_AGAIN: Duration = Duration::from_millis(10);

impl Waiting {
    fn new(polled: &Polled) -> Result<Self, std::io::Error> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Ok(Self {
            watched: Watched::NotYet(polled.handle()?),
            runtime: builder.enable_io().enable_time().build()?,
        })
    }
}

/// Whether listeners are polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listening {
    Yes,
    /// There are no descriptors for more sessions; until one has gone.
    NoDescriptors,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What changes something.
    Normal,
    /// Connections as well.
    Debug,
}

impl Kernel {
    /// Serves until the kernel is asked to end. `started` is called once it does.
    ///
    /// # Errors
    /// Readiness cannot be had any more.
    ///
    /// Nothing happens before the first turn that a failure could have kept from happening.
    pub fn run(mut self, started: impl FnOnce()) -> Result<(), LoopError> {
        let Some(Waiting {
            runtime,
            mut watched,
        }) = self.waiting.take()
        else {
            return Ok(());
        };
        runtime.block_on(async move {
            self.begin_serving();
            started();
            let mut ready: Vec<Ready> = Vec::new();
            while !self.leaving {
                let polled = Rc::clone(&self.polled);
                polled.borrow_mut().take(&mut ready)?;
                let idle = ready.is_empty() && !self.has_work();
                if idle && !self.is_due() {
                    self.wait(&mut watched).await?;
                    continue;
                }
                self.code = Code::Used;
                self.turn(&ready);
                self.look_at_upgrade();
                self.gather(&ready);
            }
            Ok(())
        })
    }

    fn begin_serving(&mut self) {
        // A child may have ended while nobody listened to SIGCHLD (after an exec in place).
        self.sweep();
        self.flush_guard();
        self.show_title();
        self.hands.guard.tell_ready();
        self.tell_resumed();
    }

    /// Between two turns: goes on with an upgrade that was asked for, or decided in the last one.
    fn look_at_upgrade(&mut self) {
        self.look_again();
        self.prepare_upgrade();
        if let Some(order) = self.order.take() {
            self.preparing = Some(Preparing::new(order));
        }
        if let Some(decided) = self.decided.take() {
            self.upgrade(decided);
        }
    }

    async fn wait(&mut self, watched: &mut Watched) -> Result<(), LoopError> {
        if let Watched::NotYet(epoll) = watched {
            let copy = epoll.try_clone();
            match copy.and_then(watch_readable) {
                Ok(begun) => *watched = Watched::Yes(begun),
                // No memory, say: what is ready shows all the same, only later.
                Err(_) => tokio::time::sleep(WATCH_AGAIN).await,
            }
        }
        let Watched::Yes(watched) = watched else {
            return Ok(());
        };
        let readable = async {
            // Our epoll was empty a moment ago. If something has come since, the runtime hears of
            // it when it looks, as that is later.
            watched
                .readable()
                .await
                .map(|mut guard| guard.clear_ready())
        };
        match (self.deadline_ns(), self.code) {
            (None, Code::GivenBack) => readable.await?,
            (None, Code::Used) => match tokio::time::timeout(QUIET, readable).await {
                Ok(result) => result?,
                Err(_) => {
                    self.spare_text = Vec::new();
                    release_unused_code();
                    self.code = Code::GivenBack;
                }
            },
            (Some(deadline), _) => {
                let left = deadline.saturating_sub(self.now().monotonic_ns);
                let waited = tokio::time::timeout(Duration::from_nanos(left), readable).await;
                if let Ok(result) = waited {
                    result?;
                }
            }
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        !self.state.serving.is_empty()
            || !self.unparsed.is_empty()
            || !self.unchecked.is_empty()
            || self.preparing.is_some()
    }

    fn is_due(&self) -> bool {
        self.deadline_ns()
            .is_some_and(|deadline| deadline <= self.now().monotonic_ns)
    }

    /// What is due first: something of the state's, the end of a candidate's time, or that of a pipe's rest.
    fn deadline_ns(&self) -> Option<u64> {
        let others = [self.rehearsal_deadline(), self.hands.rest_ends()];
        let others = others.into_iter().flatten().map(|at| self.clock_ns(at));
        self.state.deadline_ns().into_iter().chain(others).min()
    }

    fn clock_ns(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.clock);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> Now {
        #[cfg(test)]
        if let Some(simulated) = crate::sys::simulated::now_ns() {
            return Now {
                unix_ns: simulated,
                monotonic_ns: simulated,
            };
        }
        Now {
            unix_ns: now_ns(),
            monotonic_ns: self.clock_ns(Instant::now()),
        }
    }

    /// One turn: everything that is ready, once.
    fn turn(&mut self, ready: &[Ready]) {
        for ready in ready {
            match ready.token {
                Token::Signals => self.handle_signals(),
                Token::Log => self.flush_log(),
                Token::Listener(index) => self.accept(index),
                Token::Session(session) => self.handle_session(session, ready),
                Token::Pipe(process, stream) => self.drive(Input::Readable { process, stream }),
                Token::Link => self.handle_link(ready),
                Token::Ends => self.handle_ends(),
                Token::Foreign(process) => self.handle_foreign(process),
            }
        }
        for session in std::mem::take(&mut self.unparsed) {
            self.take_requests(session);
        }
        if self.is_due() {
            self.hands.end_rests();
            self.drive(Input::TimeReached);
            self.look_at_rehearsal();
        }
        if !self.state.serving.is_empty() {
            self.drive(Input::TurnEnded);
        }
        self.flush_guard();
        self.show_title();
    }

    /// Lets one input happen, and everything that follows from it.
    fn drive(&mut self, input: Input) {
        self.inbox.push_back(input);
        loop {
            let Some(input) = self.inbox.pop_front() else {
                // All is done: what sessions are to be told goes out at once.
                let Some(session) = self.holding.pop_first() else {
                    return;
                };
                let outcome = self.let_go(session);
                self.inbox.extend(outcome);
                continue;
            };
            let mut effects = std::mem::take(&mut self.effects);
            let now = self.now();
            step(&mut self.state, now, input, &mut effects);
            for effect in effects.drain(..) {
                if let Some(outcome) = self.carry_out(effect) {
                    self.inbox.push_back(outcome);
                }
            }
            self.effects = effects;
        }
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).ok();
            match number.and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGCHLD) => self.sweep(),
                Some(Signal::SIGQUIT) => {
                    self.drive(Input::Terminate(Termination::Forced("SIGQUIT")));
                }
                Some(Signal::SIGUSR2) => {
                    let refused = self.take_order(Order {
                        asker: None,
                        path: None,
                        extent: crate::effect::UpgradeExtent::Whole,
                    });
                    if let Err(reason) = refused {
                        self.log_line(&format!("upgrade: SIGUSR2: {reason}"));
                    }
                }
                Some(signal @ (Signal::SIGTERM | Signal::SIGINT)) => {
                    self.drive(Input::Terminate(Termination::Polite(signal.as_str())));
                }
                _ => {}
            }
        }
    }

    fn sweep(&mut self) {
        match self.hands.sweep() {
            Ok((ended, orphans)) => {
                ended.into_iter().for_each(|input| self.drive(input));
                orphans
                    .iter()
                    .for_each(|orphan| self.handle_orphan(*orphan));
            }
            Err(cause) => self.log_line(&format!("cannot look for ended children: {cause}")),
        }
    }

    fn show_title(&mut self) {
        let counts = (self.state.running, self.state.sockets.len());
        if self.shown_title != Some(counts) {
            if let Some(shown) = &mut self.title {
                shown.set(&self.state.title());
            }
            self.shown_title = Some(counts);
        }
    }

    fn log_line(&mut self, text: &str) {
        let backlog = self.log.line(now_ns(), text);
        self.poll_log(backlog);
    }

    fn flush_log(&mut self) {
        let backlog = self.log.flush(now_ns());
        self.poll_log(backlog);
    }

    /// Waits for the log's reader only while lines wait.
    fn poll_log(&mut self, backlog: Backlog) {
        if backlog == self.log_polled {
            return;
        }
        let polled = self.polled.borrow();
        match backlog {
            Backlog::Empty => polled.remove(self.log.descriptor()),
            Backlog::Waiting => {
                // Without memory for it the next line tries again.
                let added = polled.add(self.log.descriptor(), Token::Log, Interest::Write);
                if added.is_err() {
                    return;
                }
            }
        }
        self.log_polled = backlog;
    }
}

/// What a session's queue says to the state.
fn room_of_queue(connection: &Connection) -> Room {
    if connection.queue.is_empty() {
        Room::Free
    } else {
        Room::Congested
    }
}

/// What came of sending says to the state.
const fn room_of(sent: Sent) -> Room {
    match sent {
        Sent::All => Room::Free,
        Sent::Queued | Sent::TooSlow | Sent::Broken => Room::Congested,
    }
}

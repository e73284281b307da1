//! The loop: waits for what is ready, turns it into inputs, carries out the effects.
//!
//! One thread. Tokio tells when our epoll has something, and when a deadline has passed; everything
//! else, children's pipes and sessions alike, hangs on that epoll. When nothing happens, nothing
//! wakes up. Nothing here decides: see [`crate::step`].

mod adopt;
mod carry_out;
mod connections;
mod guarding;
mod hands;
mod listeners;
mod passing;
mod polled;
mod reading;
mod spawning;
mod text_output;
mod upgrading;

use crate::crash::{crash_point, resume_stage};
use crate::effect::Effect;
use crate::guard::client::GuardLink;
use crate::input::{Input, Now, Room, Termination};
use crate::limits::{LINE_BYTES_MAX, REQUESTS_PER_TURN_MAX, SESSIONS_MAX};
use crate::log::{Backlog, Log};
use crate::memory::held::Tag;
use crate::peer::Guests;
use crate::reap::now_ns;
use crate::session::framed;
use crate::state::{About, SessionId, State};
use crate::step::step;
use crate::sys::readiness::watch_readable;
use crate::sys::title::ProcessTitle;
use crate::sys::trim::release_unused_code;
use crate::text::lines::LineEvent;
use adopt::Beginning;
pub use adopt::{AdoptError, Inheritance, Succession};
use connections::{Connection, Course, Received, Sent, Speech};
pub use guarding::Heirloom;
use hands::Hands;
pub use hands::HandsError;
use listeners::{Accepted, tell};
pub use listeners::{ListenError, Listener, Permissions, open_all};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use polled::{Interest, Polled, Ready, Token};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use upgrading::{Decided, Order, Rehearsing, Resumed};
pub use upgrading::{Resumption, size_of_saved};

/// Bytes read from a session at once.
const SCRATCH_BYTES: usize = 64 << 10;

/// Connections accepted per turn and listener.
const ACCEPTED_PER_TURN_MAX: usize = 16;

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
    clock: Instant,
    leaving: bool,
    heirloom: Option<Heirloom>,
    /// An upgrade that was asked for in this turn.
    order: Option<Order>,
    /// The one whose program rehearses.
    rehearsing: Option<Rehearsing>,
    /// The one that happens after this turn.
    decided: Option<Decided>,
    /// What the one that made this program of the process is to be answered with.
    resumed: Option<Resumed>,
    /// Until [`Kernel::run`] takes it.
    waiting: Option<Waiting>,
}

/// The runtime, which tells when our epoll has something.
struct Waiting {
    // First, as it is registered with the other.
    watched: tokio::io::unix::AsyncFd<OwnedFd>,
    runtime: tokio::runtime::Runtime,
}

impl Waiting {
    fn new(polled: &Polled) -> Result<Self, std::io::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let watched = {
            let _entered = runtime.enter();
            watch_readable(polled.handle()?)?
        };
        Ok(Self { watched, runtime })
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

/// What a kernel needs from its start.
pub struct Parts {
    /// Who it is.
    pub about: About,
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// Who may.
    pub guests: Guests,
    /// SIGCHLD, SIGTERM, SIGINT, SIGQUIT; blocked.
    pub signals: SignalFd,
    /// Where lines go.
    pub log: Log,
    /// How many.
    pub detail: Detail,
    /// What `ps` shows, if there is room.
    pub title: Option<ProcessTitle>,
    /// The link, if there is a guard.
    pub link: Option<OwnedFd>,
    /// What this process needs to take the guard's place, if there is one.
    pub heirloom: Option<Heirloom>,
    /// What the image before left, if there was one.
    pub resumption: Option<Resumption>,
}

/// Why the loop cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// Shared memory and the like.
    #[error(transparent)]
    Hands(#[from] HandsError),
    /// What another kernel left.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// Readiness.
    #[error("cannot wait for descriptors: {0}")]
    Poll(#[from] Errno),
    /// The runtime.
    #[error("cannot wait for descriptors: {0}")]
    Runtime(#[from] std::io::Error),
    /// The journal took not even its first record.
    #[error("cannot begin the journal: {0}")]
    Journal(Box<kingpole_protocol::ErrorReply>),
}

impl Kernel {
    /// Puts a kernel together that goes on where another one stopped; the first one goes on with
    /// nothing. Also gives the tags of
    /// descriptors that belong to nothing any more. Calls `point_of_no_return` when nothing can fail any
    /// more, before anybody hears of anything.
    ///
    /// # Errors
    /// What was inherited makes no sense, or Linux refuses something.
    pub fn adopt(
        parts: Parts,
        inheritance: Inheritance,
        succession: Succession,
        point_of_no_return: impl FnOnce(),
    ) -> Result<(Self, Vec<Tag>), LoopError> {
        // Nothing that was inherited may be closed by a failure: another program may go on with it.
        // What can fail comes first, and after that nobody hears of anything before all is well.
        let mut parts = ManuallyDrop::new(parts);
        let inheritance = ManuallyDrop::new(inheritance);
        let polled = Rc::new(RefCell::new(Polled::new()?));
        let waiting = Waiting::new(&polled.borrow())?;
        let about = parts.about.clone();
        let resumption = ManuallyDrop::new(parts.resumption.take());
        let sent = resumption.as_ref().map_or(0, |r| r.saved.head.link_sent);
        let guard = GuardLink::new(parts.link.take(), sent);
        resume_stage("resume: loop")?;
        let inheritance = ManuallyDrop::into_inner(inheritance);
        let adopted = adopt::adopt(inheritance, about, succession, Rc::clone(&polled), guard)?;
        let parts = ManuallyDrop::into_inner(parts);
        let kernel = Self::assemble(parts, adopted.state, adopted.hands, polled, waiting);
        let mut kernel = ManuallyDrop::new(kernel);
        if adopted.beginning == Beginning::First {
            let Self { hands, state, .. } = &mut *kernel;
            hands.begin(state).map_err(LoopError::Journal)?;
        }
        kernel.poll_own()?;
        kernel.begin_guarded(&adopted.dropped)?;
        resume_stage("resume: sessions")?;
        let resumed = match ManuallyDrop::into_inner(resumption) {
            Some(resumption) => Some(kernel.resume_connections(resumption)?),
            None => None,
        };
        resume_stage("resume: ready")?;
        point_of_no_return();
        let mut kernel = ManuallyDrop::into_inner(kernel);
        for note in adopted.notes {
            kernel.log_line(&note);
        }
        for input in adopted.inputs {
            kernel.drive(input);
        }
        if let Some(resumed) = resumed {
            kernel.resume_sessions(resumed);
        }
        kernel.look_for_ends();
        crash_point("adopt: before ready");
        Ok((kernel, adopted.dropped))
    }

    /// Ends that somebody else published since we last looked.
    fn look_for_ends(&mut self) {
        for input in self.hands.published_ends(&self.state) {
            self.drive(input);
        }
    }

    fn assemble(
        parts: Parts,
        state: State,
        hands: Hands,
        polled: Rc<RefCell<Polled>>,
        waiting: Waiting,
    ) -> Self {
        Self {
            waiting: Some(waiting),
            state,
            hands,
            polled,
            connections: BTreeMap::new(),
            unparsed: BTreeSet::new(),
            holding: BTreeSet::new(),
            listeners: parts.listeners,
            listening: Listening::Yes,
            code: Code::Used,
            guests: parts.guests,
            signals: parts.signals,
            log: parts.log,
            log_polled: Backlog::Empty,
            detail: parts.detail,
            title: parts.title,
            shown_title: None,
            last_refusal: String::new(),
            inbox: VecDeque::new(),
            effects: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            clock: Instant::now(),
            leaving: false,
            heirloom: parts.heirloom,
            order: None,
            rehearsing: None,
            decided: None,
            resumed: None,
        }
    }

    fn poll_own(&self) -> Result<(), Errno> {
        let polled = self.polled.borrow();
        polled.add(&self.signals, Token::Signals, Interest::Read)?;
        for (index, listener) in (0..).zip(&self.listeners) {
            let token = Token::Listener(index);
            polled.add(listener.descriptor(), token, Interest::Read)?;
        }
        Ok(())
    }

    /// Serves until the kernel is asked to end. `started` is called once it does.
    ///
    /// # Errors
    /// Readiness cannot be had any more.
    ///
    /// Nothing happens before the first turn that a failure could have kept from happening.
    pub fn run(mut self, started: impl FnOnce()) -> Result<(), LoopError> {
        let Some(Waiting { runtime, watched }) = self.waiting.take() else {
            return Ok(());
        };
        runtime.block_on(async move {
            // A child may have ended while nobody listened to SIGCHLD (after an exec in place).
            self.sweep();
            self.flush_guard();
            self.show_title();
            self.hands.guard.tell_ready();
            self.tell_resumed();
            started();
            let mut ready: Vec<Ready> = Vec::new();
            while !self.leaving {
                let polled = Rc::clone(&self.polled);
                polled.borrow_mut().take(&mut ready)?;
                let idle = ready.is_empty() && !self.has_work();
                if idle && !self.is_due() {
                    self.wait(&watched).await?;
                    continue;
                }
                self.code = Code::Used;
                self.turn(&ready);
                if let Some(order) = self.order.take() {
                    self.begin_upgrade(order);
                }
                if let Some(decided) = self.decided.take() {
                    self.upgrade(decided);
                }
            }
            Ok(())
        })
    }

    async fn wait(
        &mut self,
        watched: &tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    ) -> Result<(), LoopError> {
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
        !self.state.serving.is_empty() || !self.unparsed.is_empty()
    }

    fn is_due(&self) -> bool {
        self.deadline_ns()
            .is_some_and(|deadline| deadline <= self.now().monotonic_ns)
    }

    /// What is due first: something of the state's, or the end of a candidate's time.
    fn deadline_ns(&self) -> Option<u64> {
        let rehearsal = self.rehearsal_deadline().map(|at| self.clock_ns(at));
        self.state.deadline_ns().into_iter().chain(rehearsal).min()
    }

    fn clock_ns(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.clock);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> Now {
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

    fn accept(&mut self, index: u64) {
        for _ in 0..ACCEPTED_PER_TURN_MAX {
            let Some(listener) = usize::try_from(index)
                .ok()
                .and_then(|index| self.listeners.get(index))
            else {
                return;
            };
            match listener.accept(&self.guests) {
                Accepted::Nobody => return,
                Accepted::Refused(error) => {
                    let line = format!("{}: a connection was refused: {error}", listener.address);
                    // Somebody who tries again and again shall not fill the log.
                    if line != self.last_refusal || self.detail == Detail::Debug {
                        self.log_line(&line);
                        self.last_refusal = line;
                    }
                }
                Accepted::NoDescriptors => {
                    self.listening = Listening::NoDescriptors;
                    for listener in &self.listeners {
                        self.polled.borrow().remove(listener.descriptor());
                    }
                    self.log_line("no descriptors for more sessions: waiting until one has gone");
                    return;
                }
                Accepted::Guest(socket, _) if !self.has_room_for_a_session() => {
                    tell(
                        &socket,
                        &format!("Error: {SESSIONS_MAX} sessions are open, the limit\n"),
                    );
                    self.log_line("a connection was refused: too many sessions");
                }
                Accepted::Guest(socket, peer) => {
                    let session = SessionId(self.state.newest_session.0.saturating_add(1));
                    let made = Connection::new(socket, session, &self.polled.borrow());
                    let Ok(connection) = made else { continue };
                    if self.detail == Detail::Debug {
                        let text = format!("session {}: {peer:?} connected", session.0);
                        self.log_line(&text);
                    }
                    self.connections.insert(session, connection);
                    self.drive(Input::Connected { session, peer });
                }
            }
        }
    }

    /// Whether another session can be opened, if need be in place of one that does nothing.
    fn has_room_for_a_session(&mut self) -> bool {
        if self.connections.len() >= SESSIONS_MAX
            && let Some(session) = self.state.idlest_text_session()
        {
            self.drive(Input::Displaced { session });
        }
        self.connections.len() < SESSIONS_MAX
    }

    fn listen_again(&mut self) {
        if self.listening == Listening::Yes {
            return;
        }
        self.listening = Listening::Yes;
        for (index, listener) in (0..).zip(&self.listeners) {
            let token = Token::Listener(index);
            // Without memory for it now, the next session that goes tries again.
            if self
                .polled
                .borrow()
                .add(listener.descriptor(), token, Interest::Read)
                .is_err()
            {
                self.listening = Listening::NoDescriptors;
            }
        }
    }

    fn handle_session(&mut self, session: SessionId, ready: &Ready) {
        let Some(connection) = self.connections.get_mut(&session) else {
            return;
        };
        if ready.writable && !connection.queue.is_empty() {
            match connection.flush() {
                Sent::All => self.handle_drained(session),
                Sent::Broken | Sent::TooSlow => return self.disconnect(session),
                Sent::Queued => {}
            }
        }
        let Some(connection) = self.connections.get_mut(&session) else {
            return;
        };
        let reads = connection.course == Course::Open && !connection.stalled;
        if !reads && ready.hung_up {
            // Nobody is there to read what is queued.
            return self.disconnect(session);
        }
        if reads && ready.readable {
            match connection.receive(&mut self.scratch) {
                Received::Bytes => self.take_requests(session),
                Received::Nothing => {}
                Received::Broken => return self.disconnect(session),
                Received::End => {
                    connection.course = Course::HalfClosed;
                    self.close_if_drained(session);
                }
            }
        }
        self.tidy(session);
    }

    fn handle_drained(&mut self, session: SessionId) {
        if let Some(connection) = self.connections.get_mut(&session) {
            if connection.stalled {
                connection.stalled = false;
                self.unparsed.insert(session);
            }
            self.drive(Input::Drained { session });
        }
        self.close_if_drained(session);
    }

    /// A session that was busy takes requests again.
    fn resume(&mut self, session: SessionId) {
        if let Some(connection) = self.connections.get_mut(&session) {
            connection.stalled = false;
            self.unparsed.insert(session);
        }
    }

    fn close_if_drained(&mut self, session: SessionId) {
        let Some(connection) = self.connections.get(&session) else {
            return;
        };
        let unasked = self.unparsed.contains(&session) || connection.stalled;
        let done = match connection.course {
            Course::Open => false,
            Course::HalfClosed => !unasked && self.state.is_silent(session),
            Course::Closing => true,
        };
        if done && connection.queue.is_empty() {
            self.disconnect(session);
        }
    }

    /// Takes the whole requests that have arrived, as long as their answers are read.
    fn take_requests(&mut self, session: SessionId) {
        for _ in 0..REQUESTS_PER_TURN_MAX {
            let Some(connection) = self.connections.get_mut(&session) else {
                return;
            };
            if connection.course == Course::Closing {
                return;
            }
            if self.order.is_some() || self.decided.is_some() {
                // What came behind it is for whoever this process is then.
                self.unparsed.insert(session);
                return;
            }
            if connection.queue.is_high() || !self.state.takes_requests(session) {
                connection.stalled = true;
                return self.tidy(session);
            }
            let input = match connection.speech {
                Speech::Frames => framed::poll_input(session, &mut connection.decoder),
                Speech::Text => match connection.poll_line() {
                    Some(LineEvent::Line(line)) => Some(Input::Line { session, line }),
                    Some(LineEvent::Interrupt) => Some(Input::Interrupt { session }),
                    Some(LineEvent::TooLong) => Some(Input::Garbage {
                        session,
                        reason: format!("The line has more than {LINE_BYTES_MAX} bytes"),
                    }),
                    Some(LineEvent::EndOfInput) => {
                        connection.course = Course::HalfClosed;
                        // Whoever types Ctrl-D is done with what goes on, too.
                        if !self.state.is_silent(session) {
                            self.drive(Input::Interrupt { session });
                        }
                        self.close_if_drained(session);
                        return self.tidy(session);
                    }
                    Some(LineEvent::Answer(bytes)) => {
                        if matches!(connection.send(&[&bytes]), Sent::Broken | Sent::TooSlow) {
                            return self.disconnect(session);
                        }
                        continue;
                    }
                    None => None,
                },
            };
            match input {
                Some(input) => self.drive(input),
                None => {
                    self.close_if_drained(session);
                    return self.tidy(session);
                }
            }
        }
        self.unparsed.insert(session);
    }

    fn tidy(&mut self, session: SessionId) {
        if let Some(connection) = self.connections.get_mut(&session) {
            connection.update_interest(&self.polled.borrow());
        }
    }

    /// Ends a session at once.
    fn disconnect(&mut self, session: SessionId) {
        if self.connections.remove(&session).is_some() {
            self.unparsed.remove(&session);
            self.listen_again();
            self.drive(Input::Disconnected { session });
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

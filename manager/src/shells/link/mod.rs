//! The way to the kernel: one unix socket, connected again with growing pauses whenever it breaks.
//! What is said over it is the business of `session`; what it means is the engine's.

mod session;
mod survey;
mod translate;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::hello::Welcome;
use kingpole_protocol::spec::{ProcessSpec, SocketSpec};
use kingpole_protocol::{Fence, Sequence};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

use self::session::Session;
use self::survey::Survey;
use crate::config::model::SignalNumber;
use crate::engine::{
    Input, KernelFacts, Level, ProcessId, SignalTarget, SpawnFailure, Ticket, WriteId,
};
use crate::shells::clock::Clocks;

/// Pause before the first new attempt after the connection broke. A kernel that replaces itself is
/// back within some milliseconds.
const RECONNECT_MIN: Duration = Duration::from_millis(10);

/// Longest pause between attempts.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// A kernel that does not finish the opening of a session in this time is given up and called again.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a spawn is repeated that the kernel could not decide yet.
const POSTPONED_PAUSE: Duration = Duration::from_millis(100);

/// Pause before a lease is asked for again whose holder may just be ending.
const LEASE_PAUSE: Duration = Duration::from_millis(50);

/// What happens on the way to the kernel.
#[derive(Debug)]
pub enum LinkEvent {
    /// For the engine.
    Input(Input),
    /// For the log.
    Log(Level, String),
    /// The lease is ours under this number; the facts follow at once.
    Opened {
        /// What the kernel said of itself.
        welcome: Welcome,
        /// What all requests of this manager carry from now on.
        fence: Fence,
    },
    /// Another manager holds the lease.
    Refused(Holder),
    /// Output of a process that is followed.
    Output {
        /// Whose.
        process: ProcessId,
        /// In order.
        records: Vec<(Sequence, Vec<u8>)>,
        /// What of the credit they used.
        credit_bytes: u64,
    },
    /// A process that is followed can write nothing more.
    OutputEnded {
        /// Which.
        process: ProcessId,
        /// The number that its next record would have.
        next: Sequence,
    },
    /// The session cannot go on; the link connects again by itself.
    Broken(String),
}

/// Who holds the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What it calls itself.
    pub client: String,
    /// Its process id, 0 if not known.
    pub pid: i32,
}

/// A lease that was held over an earlier connection.
#[derive(Clone, Copy, Debug)]
struct OldLease {
    instance: u64,
    fence: Fence,
}

/// What a link has to know.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The kernel's socket.
    pub socket: PathBuf,
    /// What this manager calls itself, `program/version`.
    pub client: String,
    /// The lease it needs.
    pub lease: String,
    /// Which values the engine wants among the facts.
    pub values_prefix: String,
    /// How long a lease that is held is asked for. A manager that was killed is gone for us before
    /// it is gone for the kernel.
    pub lease_patience: Duration,
    /// Instance of the kernel's state and number of our lease in it, when the program before in this
    /// process held one: nobody can have acted in between.
    pub resume: Option<(u64, Fence)>,
}

enum State {
    Waiting(Instant),
    Connected(Box<Connected>),
    /// For good: the lease is somebody else's.
    Closed,
}

struct Connected {
    stream: UnixStream,
    session: Session,
    /// Bytes on their way, and how many of them are gone.
    outgoing: Vec<u8>,
    written: usize,
    /// When the opening is given up, or postponed spawns are repeated.
    deadline: Option<Instant>,
}

/// See the module.
pub struct KernelLink {
    settings: LinkSettings,
    state: State,
    pause: Duration,
    old: Option<OldLease>,
    /// The last reason for not being connected that was told.
    told: Option<String>,
    /// Since when the lease is held by somebody else.
    refused_since: Option<Instant>,
    events: VecDeque<LinkEvent>,
}

impl KernelLink {
    /// Connects as soon as [`Self::next`] is awaited.
    #[must_use]
    pub fn new(settings: LinkSettings) -> Self {
        let old = settings.resume;
        Self {
            settings,
            state: State::Waiting(Instant::now()),
            pause: RECONNECT_MIN,
            old: old.map(|(instance, fence)| OldLease { instance, fence }),
            told: None,
            refused_since: None,
            events: VecDeque::new(),
        }
    }

    /// The kernel's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.settings.socket
    }

    /// What happens next. May be dropped at any time without losing anything; waits for ever once
    /// the lease is lost.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match &mut self.state {
                State::Closed => std::future::pending().await,
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.connect();
                }
                State::Connected(connected) => match connected.work().await {
                    Ok(()) => self.collect(),
                    Err(reason) => self.disconnect(&reason),
                },
            }
        }
    }

    /// Sends what is queued as far as the kernel takes it now, without waiting.
    pub fn flush(&mut self) {
        if let State::Connected(connected) = &mut self.state {
            // A broken connection shows itself again when it is read.
            let _ = connected.write();
        }
    }

    fn connect(&mut self) {
        match self.try_connect() {
            Ok(connected) => self.state = State::Connected(Box::new(connected)),
            Err(error) => self.wait(&describe(&error)),
        }
    }

    /// Connecting to a unix socket does not block: it succeeds, or the kernel's queue is full.
    fn try_connect(&self) -> io::Result<Connected> {
        let stream = std::os::unix::net::UnixStream::connect(&self.settings.socket)?;
        stream.set_nonblocking(true)?;
        let settings = &self.settings;
        let session = Session::new(
            &settings.client,
            &settings.lease,
            &settings.values_prefix,
            self.old,
        )
        .map_err(io::Error::other)?;
        Ok(Connected {
            stream: UnixStream::from_std(stream)?,
            session,
            outgoing: Vec::new(),
            written: 0,
            deadline: Some(Instant::now() + OPENING_TIMEOUT),
        })
    }

    fn wait(&mut self, reason: &str) {
        if self.told.as_deref() != Some(reason) {
            let socket = self.settings.socket.display();
            let text = format!("no process kernel at {socket}: {reason}; trying again");
            self.events.push_back(LinkEvent::Log(Level::Warning, text));
            self.told = Some(reason.to_owned());
        }
        self.state = State::Waiting(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RECONNECT_MAX);
    }

    fn disconnect(&mut self, reason: &str) {
        self.collect();
        if let State::Connected(connected) = &self.state {
            let was_open = connected.session.is_open();
            let reason = connected.session.goodbye().unwrap_or(reason).to_owned();
            if was_open {
                self.told = Some(reason.clone());
                let text = format!("the connection to the process kernel broke: {reason}");
                self.events.push_back(LinkEvent::Log(Level::Warning, text));
                self.events.push_back(LinkEvent::Input(Input::KernelLost));
            }
            self.wait(&reason);
        }
    }

    /// Takes what the session has to tell.
    fn collect(&mut self) {
        let State::Connected(connected) = &mut self.state else {
            return;
        };
        if connected.session.take_gives_back() {
            self.old = None;
        }
        let mut broken = None;
        let mut over = false;
        while let Some(event) = connected.session.poll_event() {
            match &event {
                LinkEvent::Opened { welcome, fence } => {
                    self.old = Some(OldLease {
                        instance: welcome.instance,
                        fence: *fence,
                    });
                    self.pause = RECONNECT_MIN;
                    self.told = None;
                    connected.deadline = None;
                }
                LinkEvent::Refused(_) => {
                    let since = *self.refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < self.settings.lease_patience {
                        self.state = State::Waiting(Instant::now() + LEASE_PAUSE);
                        return;
                    }
                    over = true;
                }
                LinkEvent::Input(Input::LeaseLost) => over = true,
                LinkEvent::Broken(reason) => {
                    broken = Some(reason.clone());
                    continue;
                }
                LinkEvent::Input(_)
                | LinkEvent::Log(..)
                | LinkEvent::Output { .. }
                | LinkEvent::OutputEnded { .. } => {}
            }
            self.events.push_back(event);
        }
        if over {
            self.state = State::Closed;
        } else if let Some(reason) = broken {
            self.disconnect(&reason);
        }
    }

    fn session(&mut self, act: impl FnOnce(&mut Session)) {
        if let State::Connected(connected) = &mut self.state {
            act(&mut connected.session);
            self.collect();
        }
    }

    /// Starts a process.
    pub fn spawn(&mut self, ticket: Ticket, key: String, spec: ProcessSpec) {
        self.session(|session| session.spawn(ticket, key, spec));
    }

    /// A process cannot be started because it cannot be described; told in the order of requests'
    /// answers as if the kernel had refused it.
    pub fn fail_spawn(&mut self, ticket: Ticket, failure: SpawnFailure) {
        self.session(|session| session.fail_spawn(ticket, failure));
    }

    /// A socket cannot be made because its address cannot be found.
    pub fn fail_socket(&mut self, socket: String, error: String) {
        self.session(|session| session.fail_socket(socket, error));
    }

    /// Signals a process.
    pub fn signal(&mut self, process: ProcessId, signal: SignalNumber, target: SignalTarget) {
        self.session(|session| session.signal(process, signal, target));
    }

    /// Stores or removes a value.
    pub fn set_value(&mut self, write: WriteId, key: String, value: Option<String>) {
        self.session(|session| session.set_value(write, key, value));
    }

    /// Lets the kernel forget an ended process.
    pub fn acknowledge_end(&mut self, process: ProcessId) {
        self.session(|session| session.acknowledge_end(process));
    }

    /// Has the output of a process sent, from the oldest record that is kept; only over this
    /// connection.
    pub fn follow(&mut self, process: ProcessId, credit_bytes: u64) {
        self.session(|session| session.follow(process, credit_bytes));
    }

    /// Lets more output of a process come.
    pub fn grant(&mut self, process: ProcessId, credit_bytes: u64) {
        self.session(|session| session.grant(process, credit_bytes));
    }

    /// Output of a process up to this record needs not be kept any longer.
    pub fn acknowledge_output(&mut self, process: ProcessId, through: Sequence) {
        self.session(|session| session.acknowledge_output(process, through));
    }

    /// Makes a socket of which the engine does not know.
    pub fn make_quietly(&mut self, spec: SocketSpec) {
        self.session(|session| session.make_quietly(spec));
    }

    /// Makes a socket; `socket` is its name in the configuration.
    pub fn make_socket(&mut self, socket: String, spec: SocketSpec) {
        self.session(|session| session.make_socket(socket, spec));
    }

    /// Closes a socket by its name in the kernel.
    pub fn close_socket(&mut self, name: String) {
        self.session(|session| session.close_socket(name));
    }

    /// The lease that was held last, and the instance of the kernel's state in which it counts.
    #[must_use]
    pub fn lease(&self) -> Option<(u64, Fence)> {
        self.old.map(|lease| (lease.instance, lease.fence))
    }

    /// The number under which everything is asked now; nothing without a connection.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        match &self.state {
            State::Connected(connected) if connected.session.is_open() => {
                self.old.map(|lease| lease.fence)
            }
            _ => None,
        }
    }
}

impl Connected {
    /// Waits until something could be read, written or has to be repeated, and does it.
    async fn work(&mut self) -> Result<(), String> {
        self.write()?;
        let waits_to_write = self.written < self.outgoing.len();
        let interest = if waits_to_write {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        if self.session.is_open() && self.session.has_postponed() && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + POSTPONED_PAUSE);
        }
        let ready = match self.deadline {
            None => self.stream.ready(interest).await,
            Some(deadline) => tokio::select! {
                ready = self.stream.ready(interest) => ready,
                () = sleep_until(deadline) => {
                    if !self.session.is_open() {
                        return Err(format!("no answer within {OPENING_TIMEOUT:?}"));
                    }
                    self.deadline = None;
                    self.session.ask_again();
                    return Ok(());
                }
            },
        };
        let ready = ready.map_err(|error| describe(&error))?;
        if ready.is_readable() {
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        match self.stream.try_read(self.session.space()) {
            Ok(0) => Err("the kernel closed the connection".to_owned()),
            Ok(count) => self
                .session
                .handle_read(count)
                .map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(describe(&error)),
        }
    }

    fn write(&mut self) -> Result<(), String> {
        loop {
            if self.written >= self.outgoing.len() {
                if !self.session.has_outgoing() {
                    self.outgoing = Vec::new();
                    self.written = 0;
                    return Ok(());
                }
                self.outgoing = self.session.take_outgoing();
                self.written = 0;
            }
            match self.stream.try_write(&self.outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(describe(&error)),
            }
        }
    }
}

/// What the engine is told of a kernel, read over a session of its own; for looking only.
///
/// # Errors
/// When the session breaks, or the kernel's answers make no sense.
pub fn read_facts(
    kernel: &mut Client,
    values_prefix: &str,
    fence: Fence,
) -> Result<KernelFacts, ClientError> {
    let mut survey = Survey::new(values_prefix);
    while let Some(request) = survey.poll_request() {
        let reply = kernel.call(request)?;
        let name = reply.name();
        if !survey.handle_page(reply) {
            return Err(ClientError::Unexpected(name));
        }
    }
    let generation = kernel.welcome().generation;
    Ok(survey.into_facts(fence, generation, Clocks::read()))
}

/// An error of the system in its own words, without the number that Rust adds.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let text = nix::errno::Errno::from_raw(number).desc();
            let mut letters = text.chars();
            // Sentences of ours do not begin with the system's capital letter.
            letters.next().map_or_else(String::new, |first| {
                first.to_lowercase().chain(letters).collect()
            })
        }
        None => error.to_string(),
    }
}

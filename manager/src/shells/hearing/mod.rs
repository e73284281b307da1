//! What processes say of themselves by systemd's protocol, on its way to the engine.
//!
//! They write to one socket of the process kernel, in the runtime directory. A small child of the
//! process kernel, `listener`, reads it and writes what it read to its output, which the process
//! kernel keeps until it is acknowledged. So what is said while no manager is there waits for the next
//! one and blocks nobody, through upgrades and kills of everything, and neither the process kernel nor
//! its protocol knows of it.
//!
//! This is the manager's end: sees to it that there is a listener, reads what it writes, and
//! acknowledges what the engine has acted on. All of it goes over the link, whose order the engine
//! relies on: a process is known before what it says is read.

mod listener;
mod note;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::request::{CloseSocket, Remove};
use kingpole_protocol::spec::{
    Overflow, ProcessSpec, SocketAddress, SocketKind, SocketSpec, StdinSpec,
};
use kingpole_protocol::status::ProcessInfo;
use kingpole_protocol::{ErrorCode, Sequence};
use tokio::time::Instant;

pub use self::listener::run_if_asked;
use self::note::{MARK, Note, REPEAT};
use super::link::KernelLink;
use super::log::Log;
use crate::config::model::{Configuration, SignalNumber, WatcherConfig};
use crate::engine::{
    Input, KernelFacts, Moment, Notification, Pid, ProbeId, ProbeOutcome, ProcessId, SignalTarget,
    Ticket, labels,
};

/// Name of the socket and of the listener in the process kernel.
const NAME: &str = "kingpole.notify";

/// The socket within the runtime directory.
const SOCKET_FILE: &str = "notify.sock";

/// How the listener's lines are to be read; another number is another language.
const LANGUAGE: &str = "notify/1";

/// The engine's tickets begin with 1.
const TICKET: Ticket = Ticket(0);

/// Notes that wait for a manager; what does not fit stays in the listener, in short.
const BUFFER_BYTES: u64 = 256 << 10;

/// What may be sent before it is dealt with.
const CREDIT_BYTES: u64 = 64 << 10;

/// A line that is longer is none of a listener's.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Pauses between attempts to have a listener.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A listener that lived so long did not fail because of what it is.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// What the environment of processes says about it (sd_notify(3), sd_watchdog_enabled(3)).
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
const WATCHDOG_VARIABLE: &str = "WATCHDOG_USEC";
const WATCHDOG_PID_VARIABLE: &str = "WATCHDOG_PID";

/// See the module.
pub struct Hearing {
    path: PathBuf,
    log: Log,
    wanted: bool,
    connected: bool,
    state: State,
    retry_at: Option<Instant>,
    pause: Duration,
    keys: u64,
    /// What listeners write, this one's and earlier ones'.
    readings: BTreeMap<ProcessId, Reading>,
    /// Notes that the engine was given, and up to where each allows to acknowledge.
    given: VecDeque<(u64, ProcessId, Sequence)>,
    last_note: u64,
    acknowledged: u64,
    marks: BTreeMap<u64, ProbeId>,
    last_mark: u64,
    dropped: u64,
    /// What processes do is to be told again.
    repeat: bool,
}

/// Whether there is a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Starting,
    Running(ProcessId, Instant),
}

/// How far what a listener writes was read.
#[derive(Debug, Default)]
struct Reading {
    /// A line that is not complete.
    open: Vec<u8>,
    owed: u64,
    ended: bool,
    /// Everything before this record was read, and nothing comes after it.
    drained: Option<Sequence>,
}

impl Hearing {
    /// For the socket in this directory; nobody is heard before a watcher wants it.
    #[must_use]
    pub fn new(runtime_dir: &Path, configuration: &Configuration, log: Log) -> Self {
        Self {
            path: runtime_dir.join(SOCKET_FILE),
            log,
            wanted: is_wanted(configuration),
            connected: false,
            state: State::None,
            retry_at: None,
            pause: RETRY_MIN,
            keys: 0,
            readings: BTreeMap::new(),
            given: VecDeque::new(),
            last_note: 0,
            acknowledged: 0,
            marks: BTreeMap::new(),
            last_mark: 0,
            dropped: 0,
            repeat: false,
        }
    }

    /// When [`Self::retry`] is due.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// From now on these watchers are there.
    pub fn configure(&mut self, configuration: &Configuration, link: &mut KernelLink) {
        self.wanted |= is_wanted(configuration);
        self.see_to_it(link);
    }

    /// This is what the process kernel holds.
    pub fn kernel_connected(&mut self, facts: &KernelFacts, link: &mut KernelLink) {
        self.kernel_lost();
        self.connected = true;
        let listeners = facts
            .processes
            .iter()
            .filter(|process| process.name == NAME && process.labels.contains_key(labels::HELP));
        let in_place = std::fs::symlink_metadata(&self.path).is_ok();
        for process in listeners {
            let language = process.labels.get(labels::HELP).map(String::as_str);
            let mut reading = Reading::default();
            if process.ended.is_some() {
                reading.ended = true;
            } else if in_place && language == Some(LANGUAGE) {
                self.state = State::Running(process.id, Instant::now());
                self.repeat = true;
            } else {
                // It listens where nobody speaks, or speaks what we do not understand.
                link.signal(process.id, SignalNumber::TERM, SignalTarget::Process);
            }
            self.readings.insert(process.id, reading);
            link.follow(process.id, CREDIT_BYTES);
        }
        if !in_place && facts.sockets.iter().any(|socket| socket == NAME) {
            link.close_socket(NAME.to_owned());
        }
        self.see_to_it(link);
        self.ask_to_repeat();
    }

    /// Asks the listener what processes have said last that they do: what was said to a manager before
    /// is acknowledged and gone.
    fn ask_to_repeat(&mut self) {
        if !self.repeat || !matches!(self.state, State::Running(..)) {
            return;
        }
        match send(&self.path, &format!("{REPEAT}=1")) {
            Ok(()) => self.repeat = false,
            // The queue is full, most likely.
            Err(_) => self.retry_at = Some(Instant::now() + RETRY_MIN),
        }
    }

    /// The connection is gone; what was not acknowledged comes again over the next one.
    pub fn kernel_lost(&mut self) {
        self.connected = false;
        self.state = State::None;
        self.retry_at = None;
        self.repeat = false;
        self.readings.clear();
        self.given.clear();
        self.marks.clear();
        (self.last_note, self.acknowledged) = (0, 0);
    }

    /// Has a listener started, if one is wanted and there is none.
    fn see_to_it(&mut self, link: &mut KernelLink) {
        let idle = self.state == State::None && self.retry_at.is_none();
        if !self.wanted || !self.connected || !idle {
            return;
        }
        let program = match own_program() {
            Ok(program) => program,
            Err(error) => return self.fail(&format!("this program cannot be found: {error}")),
        };
        self.keys += 1;
        let key = format!("{NAME}-{}-{}", super::clock::wall_ns(), self.keys);
        link.make_quietly(SocketSpec {
            name: NAME.to_owned(),
            address: SocketAddress::Unix {
                path: self.path.as_os_str().into(),
                umask: Some(socket_mask()),
            },
            kind: SocketKind::Datagram,
            backlog: 0,
            interface: None,
            reuseport: false,
        });
        let spec = ProcessSpec {
            name: NAME.to_owned(),
            arguments: vec!["kingpole-notify".into(), listener::ARGUMENT.into()],
            program: Some(program.as_os_str().into()),
            stdin: StdinSpec::Socket(NAME.to_owned()),
            stderr: kingpole_protocol::spec::OutputSpec::Null,
            buffer_bytes: BUFFER_BYTES,
            overflow: Overflow::Block,
            labels: [(labels::HELP.to_owned(), LANGUAGE.to_owned())].into(),
            ..ProcessSpec::default()
        };
        self.state = State::Starting;
        link.spawn(TICKET, key, spec);
    }

    /// The time of [`Self::deadline`] has come.
    pub fn retry(&mut self, link: &mut KernelLink) {
        self.retry_at = None;
        self.see_to_it(link);
        self.ask_to_repeat();
    }

    fn fail(&mut self, why: &str) {
        self.state = State::None;
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RETRY_MAX);
        self.log.warning(format!(
            "what processes say of themselves (ready = notify, watchdog) is not heard for now: {why}"
        ));
    }

    /// Takes what is about the listener; gives back what is about others.
    pub fn filter(&mut self, input: Input, link: &mut KernelLink) -> Option<Input> {
        match input {
            Input::Spawned {
                ticket, process, ..
            } if ticket == TICKET => {
                self.state = State::Running(process, Instant::now());
                self.readings.insert(process, Reading::default());
                link.follow(process, CREDIT_BYTES);
                None
            }
            Input::SpawnFailed { ticket, failure } if ticket == TICKET => {
                let error = failure.error;
                self.fail(&error);
                None
            }
            Input::ProcessEnded { process, .. } if self.readings.contains_key(&process) => {
                if let Some(reading) = self.readings.get_mut(&process) {
                    reading.ended = true;
                }
                if let State::Running(running, since) = self.state
                    && running == process
                {
                    if since.elapsed() > PROVEN_AFTER {
                        self.pause = RETRY_MIN;
                    }
                    self.fail("the process that hears it has ended; another one is started");
                }
                self.settle(process, link);
                None
            }
            other => Some(other),
        }
    }

    /// A listener wrote something. What the engine is to be told of it, in order.
    pub fn read(
        &mut self,
        process: ProcessId,
        records: &[(Sequence, Vec<u8>)],
        credit: u64,
        link: &mut KernelLink,
    ) -> Vec<Input> {
        let mut inputs = Vec::new();
        let Some(mut reading) = self.readings.remove(&process) else {
            return inputs;
        };
        for (sequence, bytes) in records {
            for byte in bytes {
                if *byte != b'\n' {
                    // A longer line is given up; what is left of it makes no sense either.
                    if reading.open.len() < LINE_BYTES_MAX {
                        reading.open.push(*byte);
                    }
                    continue;
                }
                let line = std::mem::take(&mut reading.open);
                match serde_json::from_slice::<Note>(&line) {
                    Ok(note) => inputs.extend(self.take(note)),
                    Err(error) => self
                        .log
                        .debug(format!("a notification makes no sense: {error}")),
                }
            }
            if reading.open.is_empty() {
                self.given.push_back((self.last_note, process, *sequence));
            }
        }
        reading.owed += credit;
        if reading.owed >= CREDIT_BYTES / 4 {
            link.grant(process, std::mem::take(&mut reading.owed));
        }
        self.readings.insert(process, reading);
        self.acknowledge(self.acknowledged, link);
        inputs
    }

    fn take(&mut self, note: Note) -> Vec<Input> {
        if note.dropped > 0 {
            self.dropped += note.dropped;
            self.log.warning(format!(
                "{} notifications of processes were too long or too many and are lost",
                note.dropped
            ));
        }
        if let Some(mark) = note.mark() {
            let later = self.marks.split_off(&(mark + 1));
            let reached = std::mem::replace(&mut self.marks, later);
            let passed = |probe| Input::Probed {
                probe,
                outcome: ProbeOutcome::Passed,
            };
            return reached.into_values().map(passed).collect();
        }
        if note.said.is_empty() {
            return Vec::new();
        }
        self.last_note += 1;
        vec![Input::Notified(Notification {
            number: self.last_note,
            family: note.family.into_iter().map(Pid).collect(),
            at: Moment(note.at),
            said: note.said,
        })]
    }

    /// The engine has acted on all notes up to this one.
    pub fn acknowledge(&mut self, through: u64, link: &mut KernelLink) {
        self.acknowledged = self.acknowledged.max(through);
        let mut newest: BTreeMap<ProcessId, Sequence> = BTreeMap::new();
        while let Some((note, process, sequence)) = self.given.front().copied() {
            if note > self.acknowledged {
                break;
            }
            self.given.pop_front();
            newest.insert(process, sequence);
        }
        for (process, sequence) in newest {
            link.acknowledge_output(process, sequence);
            self.settle(process, link);
        }
    }

    /// Everything that a listener has written was read; the record that does not come would have this
    /// number.
    pub fn drained(&mut self, process: ProcessId, next: Sequence, link: &mut KernelLink) {
        if let Some(reading) = self.readings.get_mut(&process) {
            reading.drained = Some(next);
            self.settle(process, link);
        }
    }

    /// Lets the process kernel forget a listener that has ended, once all it wrote is dealt with.
    fn settle(&mut self, process: ProcessId, link: &mut KernelLink) {
        let waits = self.given.iter().any(|(_, other, _)| *other == process);
        let reading = self.readings.get(&process).filter(|it| it.ended && !waits);
        if let Some(next) = reading.and_then(|reading| reading.drained) {
            self.readings.remove(&process);
            // A last line may be unfinished; nobody will finish it.
            link.acknowledge_output(process, Sequence(next.0.saturating_sub(1)));
            link.acknowledge_end(process);
        }
    }

    /// Makes sure that everything said so far is heard; what comes of it is told by [`Self::read`], or
    /// given back at once.
    pub fn check(&mut self, probe: ProbeId) -> Option<Input> {
        self.last_mark += 1;
        let mark = self.last_mark;
        let sent = match self.state {
            State::Running(..) => send(&self.path, &format!("{MARK}={mark}")),
            State::None | State::Starting => Err(io::Error::other("nobody listens yet")),
        };
        match sent {
            Ok(()) => {
                self.marks.insert(mark, probe);
                None
            }
            Err(error) => Some(Input::Probed {
                probe,
                outcome: ProbeOutcome::Failed(format!(
                    "what it says cannot be heard: {}: {error}",
                    self.path.display()
                )),
            }),
        }
    }

    /// Nobody wants to know any more.
    pub fn cancel(&mut self, probe: ProbeId) {
        self.marks.retain(|_, other| *other != probe);
    }

    /// Tells a process of this watcher where to speak, and how often.
    pub fn equip(
        &mut self,
        spec: &mut ProcessSpec,
        watcher: &WatcherConfig,
        link: &mut KernelLink,
    ) {
        if !watcher.hears_its_processes() {
            return;
        }
        self.wanted = true;
        self.see_to_it(link);
        if watcher.uid.is_some() {
            self.open_the_way();
        }
        let ours = [SOCKET_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE];
        spec.environment
            .retain(|(name, _)| !ours.iter().any(|ours| name.0 == ours.as_bytes()));
        let path = self.path.as_os_str().into();
        spec.environment.push((SOCKET_VARIABLE.into(), path));
        if let Some(us) = watcher.watchdog_us() {
            let us = us.to_string().as_str().into();
            spec.environment.push((WATCHDOG_VARIABLE.into(), us));
        }
    }

    /// Other users reach the socket, though they cannot list the directory. Everything else in it has
    /// a mode of its own.
    fn open_the_way(&self) {
        let Some(directory) = self.path.parent() else {
            return;
        };
        let opened = std::fs::metadata(directory).and_then(|found| {
            let mode = found.permissions().mode();
            if mode & 0o011 == 0o011 {
                return Ok(());
            }
            let passable = std::fs::Permissions::from_mode(mode | 0o011);
            std::fs::set_permissions(directory, passable)
        });
        if let Err(error) = opened {
            self.log.warning(format!(
                "processes of other users cannot reach {}: {error}",
                self.path.display()
            ));
        }
    }
}

fn is_wanted(configuration: &Configuration) -> bool {
    let mut watchers = configuration.watchers.iter();
    watchers.any(WatcherConfig::hears_its_processes)
}

fn send(path: &Path, text: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(text.as_bytes(), path)?;
    Ok(())
}

/// Children of other users can speak where we are root; elsewhere there are none.
fn socket_mask() -> u32 {
    if nix::unistd::geteuid().is_root() {
        0o111
    } else {
        0o177
    }
}

/// This program, also when the file it was started from has been replaced.
fn own_program() -> io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let text = path.to_string_lossy();
    let path = match text.strip_suffix(" (deleted)") {
        Some(path) => PathBuf::from(path),
        None => path.clone(),
    };
    if path.exists() {
        Ok(path)
    } else {
        Ok(format!("/proc/{}/exe", std::process::id()).into())
    }
}

/// Ends the listener and closes its socket. Gives back whom the process kernel has still to forget.
///
/// # Errors
/// When the process kernel cannot be reached, or refuses.
pub fn end(
    kernel: &mut Client,
    processes: &[ProcessInfo],
) -> Result<BTreeSet<kingpole_protocol::ProcessId>, ClientError> {
    let mut left = BTreeSet::new();
    let is_listener =
        |process: &&ProcessInfo| process.name == NAME && process.labels.contains_key(labels::HELP);
    for process in processes.iter().filter(is_listener) {
        let target = kingpole_protocol::request::SignalTarget::Process;
        match kernel.signal(process.process, SignalNumber::TERM.0, target) {
            Ok(_) => {}
            Err(ClientError::Refused(error)) if error.code == ErrorCode::ENDED => {}
            Err(error) => return Err(error),
        }
        left.insert(process.process);
        kernel.call(Remove {
            process: process.process,
        })?;
    }
    let name = NAME.to_owned();
    match kernel.call(CloseSocket { name }) {
        Ok(_) => Ok(left),
        Err(ClientError::Refused(error)) if error.code == ErrorCode::NOT_FOUND => Ok(left),
        Err(error) => Err(error),
    }
}

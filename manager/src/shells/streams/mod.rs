//! The thread that brings children's output into log files and onto the console, by the algorithm of
//! [`crate::streams`]. It has a session of its own with the kernel, and no other thread waits for it.
//!
//! A sink that is stuck stops only its own children: they get no more credit, and the kernel's cap
//! bounds what they leave. Must not know why a process runs.

mod awaited;
mod datagram;
mod early;
pub mod files;
mod in_place;
pub mod lock;
mod program;
mod route;
mod session;
pub mod zone;

use super::console::Color;
use super::history::{History, Origin, Records};
use super::output::{Output, OutputEvent, Streams};
use crate::config::model::{Configuration, StreamConfig, WatcherConfig};
use crate::engine::{self, Level, OutputSource};
use crate::streams::disk::{Stop, Target};
use crate::streams::feed::Chunk;
use crate::streams::limits::Limits;
use crate::streams::notice::NoticeKind;
use crate::streams::position::Child;
use crate::streams::sink::{Event, SinkSpec};
use crate::streams::value::KEY_PREFIX;
use crate::streams::writer::{Alive, Label, Now, Turn, Writer};
use crate::sys::give_memory_back;
use awaited::Awaited;
pub use awaited::LINES_PREFIX;
use early::Early;
pub use files::ConsoleLines;
use files::{Files, LogFile};
use kingpole_protocol::event;
use kingpole_protocol::hello::Welcome;
use kingpole_protocol::record::Stream;
use kingpole_protocol::{Fence, ProcessId, Sequence};
use lock::StreamsLock;
use nix::poll::PollTimeout;
use session::{Notice, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedSender;
use zone::LocalZone;

/// Bytes of records of one process that may be on their way or held: four batches.
const CREDIT_BYTES: u64 = 1 << 20;

/// Notices are taken in portions of so many bytes, one batch, so that files are written in between.
const PORTION_BYTES: u64 = 256 << 10;

/// Output that comes bit by bit is gathered for so long after the last bit, and stored in one batch: with 200 children that write a
/// line each every 10 ms a batch has 200 lines instead of one, and costs one message to the kernel and one write. The
/// first bit after a silence is stored at once.
const GATHER: Duration = Duration::from_millis(10);

/// So much at a time is a flood if it came faster than [`FLOOD_BYTES_PER_MS`]: waiting would only keep it from going on.
const GATHERED_BYTES: u64 = 32 << 10;

/// More than a thousand children bring with a line each every 10 ms.
const FLOOD_BYTES_PER_MS: u64 = 16 << 10;

/// When the engine has certainly attached whatever it will of an older manager's children.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the last lines may take when the manager leaves.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);

/// Pauses between attempts to reach the kernel again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Where the thread works.
#[derive(Debug)]
pub struct StreamsSettings {
    /// The kernel's socket.
    pub socket: PathBuf,
    /// Where the lock is.
    pub runtime_dir: PathBuf,
    /// What becomes of lines for the console.
    pub console: ConsoleLines,
    /// Is shown every line; never waited for.
    pub history: History,
}

enum Order {
    Connect(Fence),
    Disconnect,
    Attach(ProcessId, Arc<Origin>, Box<[StreamConfig; 2]>),
    AwaitLine(ProcessId, Option<String>),
    Configure(Arc<Configuration>),
    GiveMemoryBack,
    Finish,
}

/// A process whose output is stored.
struct Attachment {
    origin: Arc<Origin>,
    /// Shared by all processes of a watcher.
    sinks: Arc<Sinks>,
    drained: bool,
}

/// Where a watcher's output goes.
struct Sinks {
    config: Box<[StreamConfig; 2]>,
    stdout: SinkSpec,
    stderr: SinkSpec,
}

/// The manager's end.
struct Handle {
    orders: Sender<Order>,
    wake: UnixStream,
}

impl Handle {
    fn order(&mut self, order: Order) {
        // The thread may have ended; then nobody minds. A full pipe wakes as well as one byte more.
        let _ = self.orders.send(order);
        let _ = self.wake.write(&[1]);
    }
}

impl Streams for Handle {
    fn kernel_connected(&mut self, _: &Welcome, fence: Fence) {
        self.order(Order::Connect(fence));
    }

    fn kernel_lost(&mut self) {
        self.order(Order::Disconnect);
    }

    fn attach(&mut self, source: OutputSource, configuration: &Configuration) {
        let key = source.watcher.as_str();
        let watcher = configuration.watcher(key);
        let origin = Origin {
            watcher: watcher.map_or_else(|| key.to_owned(), |w| w.name.clone()),
            worker: source.worker.0,
            pid: source.pid.0,
        };
        let process = ProcessId(source.process.0);
        let config = Box::new(watcher.map_or_else(unconfigured, streams_of));
        self.order(Order::Attach(process, Arc::new(origin), config));
    }

    fn await_line(&mut self, process: engine::ProcessId, regex: Option<String>) {
        self.order(Order::AwaitLine(ProcessId(process.0), regex));
    }

    fn configure(&mut self, configuration: &Arc<Configuration>) {
        self.order(Order::Configure(Arc::clone(configuration)));
    }

    fn give_memory_back(&mut self) {
        self.order(Order::GiveMemoryBack);
    }

    fn finish(&mut self) {
        self.order(Order::Finish);
    }
}

fn unconfigured() -> [StreamConfig; 2] {
    [StreamConfig::Unconfigured, StreamConfig::Unconfigured]
}

fn streams_of(watcher: &WatcherConfig) -> [StreamConfig; 2] {
    [watcher.stdout_stream.clone(), watcher.stderr_stream.clone()]
}

/// Begins to store output.
///
/// # Errors
/// When the thread cannot be made.
pub fn start(settings: StreamsSettings) -> io::Result<Output> {
    let (orders, inbox) = channel();
    let (events, reports) = tokio::sync::mpsc::unbounded_channel();
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let history = settings.history.clone();
    let worker = Worker::new(settings, inbox, woken, events);
    std::thread::Builder::new()
        .name("streams".to_owned())
        .spawn(move || worker.run())?;
    Ok(Output::new(
        Box::new(Handle { orders, wake }),
        reports,
        history,
    ))
}

/// Why a session is over without an error.
enum Over {
    Disconnected,
    Finished,
}

struct Worker {
    settings: StreamsSettings,
    inbox: Receiver<Order>,
    woken: UnixStream,
    events: UnboundedSender<OutputEvent>,
    attachments: BTreeMap<ProcessId, Attachment>,
    /// By the watcher's name.
    sinks: BTreeMap<String, Weak<Sinks>>,
    /// Up to which record the history was shown each process; it outlives sessions.
    shown: BTreeMap<ProcessId, Sequence>,
    early: Early,
    awaited: Awaited,
    files: Files,
    lock: Option<StreamsLock>,
    fence: Option<Fence>,
    zone: LocalZone,
    color: Color,
    begun: Instant,
    /// Memory shall be given back when there is nothing else to do.
    trims: bool,
}

/// What lives as long as a session.
struct Work {
    session: Session,
    writer: Writer<LogFile>,
    /// Credit that was used and not yet given again.
    owed: BTreeMap<ProcessId, u64>,
    settles: Option<Instant>,
    /// What came since it was last waited for.
    taken: u64,
    /// When it was last looked at, if that was a little.
    gathers: Option<Instant>,
    /// When something was taken last.
    taken_at: Instant,
}

impl Work {
    /// Until when what comes next is left alone.
    fn gathers_until(&mut self) -> Option<Instant> {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            let now = Instant::now();
            let since = now.saturating_duration_since(std::mem::replace(&mut self.taken_at, now));
            let usual = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            let flood = taken >= GATHERED_BYTES.max(usual.saturating_mul(FLOOD_BYTES_PER_MS));
            self.gathers = (!flood).then_some(now);
        }
        let until = self.gathers? + GATHER;
        (until > Instant::now()).then_some(until)
    }
}

impl Worker {
    fn new(
        settings: StreamsSettings,
        inbox: Receiver<Order>,
        woken: UnixStream,
        events: UnboundedSender<OutputEvent>,
    ) -> Self {
        Self {
            files: Files::new(settings.console),
            settings,
            inbox,
            woken,
            events,
            attachments: BTreeMap::new(),
            sinks: BTreeMap::new(),
            shown: BTreeMap::new(),
            early: Early::default(),
            awaited: Awaited::default(),
            lock: None,
            fence: None,
            zone: LocalZone::system(),
            color: Color::for_stdout(),
            begun: Instant::now(),
            trims: false,
        }
    }

    fn run(mut self) {
        let mut pause = RETRY_MIN;
        let mut retry_at = Instant::now();
        loop {
            if self.attend().is_some() {
                return;
            }
            let Some(fence) = self.fence else {
                self.wait(None, None);
                continue;
            };
            if Instant::now() < retry_at {
                self.wait(None, Some(retry_at));
                continue;
            }
            let begun = Instant::now();
            self.early.clear();
            match self.session(fence) {
                Ok(Over::Finished) => return,
                Ok(Over::Disconnected) => {}
                Err(stop) => {
                    pause = if begun.elapsed() > RETRY_MAX {
                        RETRY_MIN
                    } else {
                        pause
                    };
                    retry_at = Instant::now() + pause;
                    pause = (pause * 2).min(RETRY_MAX);
                    let text = format!("output: {stop}; log files wait, and are gone on with");
                    self.log(Level::Warning, text);
                }
            }
        }
    }

    /// Carries out orders between sessions; whether that was the last.
    fn attend(&mut self) -> Option<Over> {
        match self.take_orders(None) {
            // The manager may be connected again already, in the very next order: the fence tells.
            Ok(None | Some(Over::Disconnected)) => None,
            Ok(Some(Over::Finished)) | Err(_) => Some(Over::Finished),
        }
    }

    fn log(&self, level: Level, text: String) {
        // Who does not listen any more does not want to know.
        let _ = self.events.send(OutputEvent::Log(level, text));
    }

    fn now(&self) -> Now {
        let nanos = |since: Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            monotonic_ns: nanos(self.begun.elapsed()),
            wall_ns: nanos(wall),
        }
    }

    /// Carries out what the manager asked for. `Err` when the manager has gone.
    fn take_orders(&mut self, mut work: Option<&mut Work>) -> Result<Option<Over>, TryRecvError> {
        let mut over = None;
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Connect(fence)) => {
                    let other = self
                        .fence
                        .replace(fence)
                        .is_some_and(|known| known != fence);
                    if other && work.is_some() {
                        over = Some(Over::Disconnected);
                    }
                }
                Ok(Order::Disconnect) => {
                    self.fence = None;
                    over = Some(Over::Disconnected);
                }
                Ok(Order::Configure(configuration)) => {
                    self.configure(&configuration, work.as_deref_mut());
                }
                Ok(Order::Attach(process, origin, config)) => {
                    let attachment = Attachment {
                        sinks: self.sinks_of(&origin.watcher, config),
                        origin,
                        drained: false,
                    };
                    if let Some(work) = &mut work {
                        let child = work.session.child(process);
                        attachment.attach(&mut work.writer, child, self.now());
                    }
                    self.attachments.insert(process, attachment);
                    self.awaited.attached(process);
                    for records in self.early.take(process) {
                        self.show(process, &records);
                    }
                }
                Ok(Order::AwaitLine(process, regex)) => {
                    if self.awaited.set(process, regex) {
                        self.tell_line(process);
                    }
                }
                // Behind all that came before, so that what a thousand attachments leave behind goes as well: without
                // the rest of this thread's a process costs the manager 1 KB more.
                Ok(Order::GiveMemoryBack) => self.trims = true,
                Ok(Order::Finish) => return Ok(Some(Over::Finished)),
                Err(TryRecvError::Empty) => return Ok(over),
                Err(TryRecvError::Disconnected) => return Err(TryRecvError::Disconnected),
            }
        }
    }

    fn tell_line(&self, process: ProcessId) {
        let process = engine::ProcessId(process.0);
        let _ = self.events.send(OutputEvent::LineSeen(process));
    }

    /// Where a watcher's output goes. Finding out costs a look at the disk, so it is done once for all
    /// its processes.
    fn sinks_of(&mut self, watcher: &str, config: Box<[StreamConfig; 2]>) -> Arc<Sinks> {
        let known = self.sinks.get(watcher).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.config == config) {
            return known;
        }
        let [stdout, stderr] = &*config;
        let sinks = Arc::new(Sinks {
            stdout: route::sink(stdout, Stream::Stdout, watcher, self.color),
            stderr: route::sink(stderr, Stream::Stderr, watcher, self.color),
            config,
        });
        self.sinks.retain(|_, other| other.strong_count() > 0);
        self.sinks
            .insert(watcher.to_owned(), Arc::downgrade(&sinks));
        sinks
    }

    /// Takes over what a changed configuration says about output. A watcher that is gone leaves that of
    /// its last processes where it went.
    fn configure(&mut self, configuration: &Configuration, mut work: Option<&mut Work>) {
        let mut attachments = std::mem::take(&mut self.attachments);
        for (process, attachment) in &mut attachments {
            let name = &attachment.origin.watcher;
            let Some(watcher) = configuration.watcher(&name.to_lowercase()) else {
                continue;
            };
            let old = &attachment.sinks.config;
            if old[0] == watcher.stdout_stream && old[1] == watcher.stderr_stream {
                continue;
            }
            attachment.sinks = self.sinks_of(name, Box::new(streams_of(watcher)));
            if let Some(work) = &mut work {
                let child = work.session.child(*process);
                // A file that stays may be rotated or look otherwise from now on.
                work.writer.configure(&attachment.sinks.stdout);
                work.writer.configure(&attachment.sinks.stderr);
                attachment.attach(&mut work.writer, child, self.now());
            }
        }
        self.attachments = attachments;
    }

    /// One session with the kernel, from what it remembers to its end.
    fn session(&mut self, fence: Fence) -> Result<Over, Stop> {
        if self.lock.is_none() {
            let lock = StreamsLock::take(&self.settings.runtime_dir);
            self.lock = Some(lock.map_err(|error| Stop::Kernel(error.to_string()))?);
        }
        let mut session = Session::open(&self.settings.socket, fence, CREDIT_BYTES)?;
        let alive = session.alive()?;
        let values = session.values(KEY_PREFIX)?;
        let notes = session.values(LINES_PREFIX)?;
        let held = |process| alive.iter().any(|alive| alive.child.process == process);
        self.awaited.begin(&notes, held);
        for process in self.awaited.take_noted() {
            self.tell_line(process);
        }
        let writer = Writer::new(Limits::STANDARD, &values, &alive);
        let settles = Some(Instant::now() + SETTLE_TIMEOUT);
        let mut work = Work {
            session,
            writer,
            owed: BTreeMap::new(),
            settles,
            taken: 0,
            gathers: None,
            taken_at: Instant::now(),
        };
        self.attach_known(&mut work, &alive);
        loop {
            match self.take_orders(Some(&mut work)) {
                Ok(None) => {}
                Ok(Some(Over::Finished)) | Err(_) => {
                    // Nobody says it again: should the kernel be gone now, the next manager goes on
                    // where the files stand.
                    if let Err(stop) = self.finish(&mut work) {
                        let text =
                            format!("output: {stop}; the next manager stores the last lines");
                        self.log(Level::Warning, text);
                    }
                    return Ok(Over::Finished);
                }
                Ok(Some(Over::Disconnected)) => return Ok(Over::Disconnected),
            }
            let now = self.now();
            // Without anything to wait for there is no timer: an idle manager does not wake up.
            if let Some(at) = work.settles
                && (at <= Instant::now() || !work.writer.waits_for_children())
            {
                work.settles = None;
                work.writer.handle_attached_all(now);
            }
            let step = self.step(&mut work)?;
            if let Some(over) = step.1 {
                return Ok(over);
            }
            if step.0 == Turn::Again {
                continue;
            }
            work.session.commit_rest()?;
            let (said, tended) = self.files.tend(Instant::now());
            for text in said {
                self.log(Level::Warning, format!("output: {text}"));
            }
            let deadline = work.writer.poll_deadline();
            let deadline = deadline.map(|at| self.begun + Duration::from_nanos(at));
            let deadline = deadline.into_iter().chain(work.settles).chain(tended).min();
            match work.gathers_until() {
                Some(until) => {
                    let until = deadline.map_or(until, |deadline| deadline.min(until));
                    self.wait(None, Some(until));
                }
                None if work.session.has_notices()? => {}
                None => {
                    if std::mem::take(&mut self.trims) {
                        give_memory_back();
                    }
                    self.wait(Some(&work.session), deadline);
                }
            }
        }
    }

    /// Takes what has arrived, writes what can be written, and lets more come.
    fn step(&mut self, work: &mut Work) -> Result<(Turn, Option<Over>), Stop> {
        let mut taken = 0;
        let mut again = Turn::Wait;
        // Whatever has come by now goes into one batch: the fewer there are, the fewer messages and
        // writes it takes. (Waiting up to 2 ms for a flood to fill one made a third as many, and no
        // measurable difference in processor time.)
        loop {
            while taken <= PORTION_BYTES
                && let Some(notice) = work.session.poll_notice()?
            {
                again = Turn::Again;
                if let Some(over) = self.handle_notice(work, notice, &mut taken) {
                    return Ok((again, Some(over)));
                }
            }
            if taken > PORTION_BYTES || !work.session.receive()? {
                break;
            }
        }
        work.session.also_commit(self.awaited.take_changes());
        work.taken += taken;
        let now = self.now();
        let turn = work
            .writer
            .turn(&mut self.files, &mut work.session, &mut self.zone, now)?;
        while let Some(event) = work.writer.poll_event() {
            self.handle_event(event);
        }
        while let Some((child, from)) = work.writer.poll_follow() {
            again = Turn::Again;
            work.session.follow(child.process, from)?;
        }
        let mut grants = Vec::new();
        for (process, owed) in &mut work.owed {
            let child = work.session.child(*process);
            let free = work.writer.held_bytes(child) < CREDIT_BYTES / 2;
            if *owed >= CREDIT_BYTES / 4 && (free || work.writer.is_judged(child)) {
                grants.push((*process, std::mem::take(owed)));
            }
        }
        for (process, credit) in grants {
            work.session.grant(process, credit)?;
        }
        Ok((if turn == Turn::Again { turn } else { again }, None))
    }

    fn attach_known(&mut self, work: &mut Work, alive: &[Alive]) {
        let alive: BTreeSet<ProcessId> = alive.iter().map(|alive| alive.child.process).collect();
        let known = self.attachments.keys().copied();
        let gone: Vec<ProcessId> = known.filter(|process| !alive.contains(process)).collect();
        for process in gone {
            self.forget(process);
        }
        let now = self.now();
        for (process, attachment) in &self.attachments {
            let child = work.session.child(*process);
            attachment.attach(&mut work.writer, child, now);
        }
    }

    /// The kernel does not have it any more: nothing more can come.
    fn forget(&mut self, process: ProcessId) {
        self.shown.remove(&process);
        self.awaited.forget(process);
        self.early.take(process);
        let attachment = self.attachments.remove(&process);
        if attachment.is_some_and(|attachment| !attachment.drained) {
            let process = engine::ProcessId(process.0);
            let _ = self.events.send(OutputEvent::Drained(process));
        }
    }

    fn handle_notice(&mut self, work: &mut Work, notice: Notice, taken: &mut u64) -> Option<Over> {
        match notice {
            Notice::Output(process, records, credit) => {
                *taken += credit;
                *work.owed.entry(process).or_default() += credit;
                let child = work.session.child(process);
                if self.attachments.contains_key(&process) {
                    self.show(process, &records);
                } else {
                    self.early.keep(process, Arc::clone(&records));
                }
                for (stream, chunk) in records.iter() {
                    work.writer.handle_record(child, *stream, chunk.clone());
                }
            }
            Notice::FollowedAnew(process) => {
                work.owed.remove(&process);
            }
            Notice::NotFollowed(process, error) => {
                let text = format!("output: process {process} cannot be followed: {error}");
                self.log(Level::Debug, text);
                work.writer.detach(work.session.child(process));
                self.forget(process);
            }
            Notice::Event(event::Event::Gap(gap)) => {
                let child = work.session.child(gap.process);
                self.show_gap(&work.writer, child, &gap);
                work.writer
                    .handle_gap(child, gap.to, gap.stdout_offset, gap.stderr_offset);
            }
            Notice::Event(event::Event::StreamEnded(ended)) => {
                let child = work.session.child(ended.process);
                let (stream, next, bytes) = (ended.stream, ended.next, ended.bytes);
                work.writer.handle_stream_ended(child, stream, next, bytes);
                if let Some(attachment) = self.attachments.get(&ended.process) {
                    let history = &self.settings.history;
                    history.end(ended.process.0, &attachment.origin, stream);
                }
            }
            Notice::Event(event::Event::ProcessRemoved(removed)) => {
                work.owed.remove(&removed.process);
                work.session.forget(removed.process);
                work.writer.detach(work.session.child(removed.process));
                self.forget(removed.process);
            }
            Notice::Event(event::Event::LeaseLost(_)) => {
                self.fence = None;
                return Some(Over::Disconnected);
            }
            Notice::Event(event::Event::Goodbye(goodbye)) => {
                self.log(
                    Level::Debug,
                    format!("output: the kernel ends: {}", goodbye.reason),
                );
            }
            Notice::Event(_) => {}
        }
        None
    }

    /// Shows the history what it has not been shown.
    fn show(&mut self, process: ProcessId, records: &Records) {
        let Some(attachment) = self.attachments.get(&process) else {
            return;
        };
        let shown = self.shown.entry(process).or_default();
        let newest = records.last().map_or(*shown, |(_, chunk)| chunk.sequence);
        let known = |(_, chunk): &(Stream, Chunk)| chunk.sequence <= *shown;
        let new = match records.iter().filter(|record| known(record)).count() {
            0 => Arc::clone(records),
            known => Arc::new(records[known..].to_vec()),
        };
        *shown = newest.max(*shown);
        if self.awaited.read(process, &new) {
            self.tell_line(process);
        }
        if !new.is_empty() {
            let history = &self.settings.history;
            history.push(process.0, &attachment.origin, new);
        }
    }

    /// Who looks at lines is told that some are missing.
    fn show_gap(&self, writer: &Writer<LogFile>, child: Child, gap: &event::Gap) {
        let shown = self.shown.get(&child.process).copied().unwrap_or_default();
        let Some(attachment) = self.attachments.get(&child.process) else {
            return;
        };
        if gap.to <= shown {
            return;
        }
        for (stream, to) in [
            (Stream::Stdout, gap.stdout_offset),
            (Stream::Stderr, gap.stderr_offset),
        ] {
            let lost = to.saturating_sub(writer.end(child, stream).unwrap_or(to));
            if lost > 0 {
                let history = &self.settings.history;
                history.gap(child.process.0, &attachment.origin, stream, lost);
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        let name = |target: &Target| target.path().display().to_string();
        let (level, text) = match event {
            Event::Drained(child) => {
                if let Some(attachment) = self.attachments.get_mut(&child.process) {
                    attachment.drained = true;
                    let process = engine::ProcessId(child.process.0);
                    let _ = self.events.send(OutputEvent::Drained(process));
                }
                return;
            }
            Event::SinkFailing(_, trouble) => (
                Level::Error,
                format!("log: {trouble}; its output waits, and it is tried again"),
            ),
            Event::SinkRecovered(target) => (
                Level::Info,
                format!("log file {}: writing works again", name(&target)),
            ),
            Event::ConsoleLost(trouble) => (
                Level::Debug,
                format!("console: {trouble}; output for it is thrown away"),
            ),
            Event::RotationFailed(target, trouble) => (
                Level::Error,
                format!(
                    "log file {} cannot be rotated and grows on: {trouble}",
                    name(&target)
                ),
            ),
            Event::GapAnnounced(source, gap) => (
                Level::Warning,
                format!(
                    "{} bytes of {} of {} were lost, its buffer in the kernel was full; the log \
                     says where",
                    gap.to_at.saturating_sub(gap.from_at),
                    source.stream.name(),
                    self.describe(source.child.process),
                ),
            ),
            Event::Noticed(target, notice) => {
                let child = self.describe(notice.source.child.process);
                let what = match notice.kind {
                    NoticeKind::Torn => "a line was cut and follows again",
                    NoticeKind::MayRepeat(_) => "some lines may be in it twice",
                };
                (
                    Level::Warning,
                    format!("log file {}: {what} ({child})", name(&target)),
                )
            }
            Event::SpecConflict(target) => (
                Level::Warning,
                format!(
                    "log file {} is configured in two ways; the first one stands",
                    name(&target)
                ),
            ),
            Event::ValueUnusable(key, error) => (
                Level::Warning,
                format!(
                    "what is remembered as {key} cannot be used: {error}; lines may be doubled"
                ),
            ),
        };
        self.log(level, text);
    }

    fn describe(&self, process: ProcessId) -> String {
        match self.attachments.get(&process) {
            Some(Attachment { origin, .. }) => {
                format!("{}.{} [{}]", origin.watcher, origin.worker, origin.pid)
            }
            None => format!("process {process}"),
        }
    }

    /// Stores what has been read, and tells the kernel.
    fn finish(&mut self, work: &mut Work) -> Result<(), Stop> {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        loop {
            work.writer.hurry();
            let (turn, _) = self.step(work)?;
            let done = turn == Turn::Wait && work.writer.is_told();
            if done || Instant::now() >= deadline {
                return work.session.commit_rest();
            }
        }
    }

    /// Waits for the kernel, the manager or the time. `true` if the kernel said something.
    fn wait(&mut self, session: Option<&Session>, until: Option<Instant>) -> bool {
        let timeout = match until.map(|at| at.saturating_duration_since(Instant::now())) {
            // Rounded up: waking early would only mean waking twice.
            Some(left) => {
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut readers = vec![self.woken.as_fd()];
        readers.extend(session.map(Session::descriptor));
        let readable = self.files.poll(&readers, timeout);
        let at = |index: usize| readable.get(index) == Some(&true);
        let (woken, said) = (at(0), at(1));
        if woken {
            let mut bytes = [0; 64];
            while matches!((&self.woken).read(&mut bytes), Ok(64)) {}
        }
        said
    }
}

impl Attachment {
    fn attach(&self, writer: &mut Writer<LogFile>, child: Child, now: Now) {
        let Sinks { stdout, stderr, .. } = &*self.sinks;
        writer.attach(child, self.label(), stdout, stderr, now);
    }

    fn label(&self) -> Label {
        let Origin {
            watcher,
            worker,
            pid,
        } = &*self.origin;
        Label {
            pid: *pid,
            name: format!("{watcher}.{worker}").into(),
        }
    }
}

#[cfg(test)]
mod tests;

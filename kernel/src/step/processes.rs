//! Children: started, signalled, ended, forgotten.

use super::{Refusal, Step, refusal};
use crate::effect::{Asker, Effect, PassedSocket, SpawnOrder};
use crate::input::Started;
use crate::limits::{
    ARGUMENTS_MAX, DESCRIPTORS_PER_PROCESS, DESCRIPTORS_RESERVE, LISTEN_MAX,
    PROCESS_TEXT_BYTES_MAX, REUSEPORT_FILENO_MIN,
};
use crate::memory::cursor::EofBits;
use crate::memory::cursor::Stream;
use crate::state::{GiveBack, Output, Process, Reading, TextAcknowledged, flags};
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::{ProcessEnded, ProcessRemoved, ProcessStarted};
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::limits::{
    LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX, OUTPUT_BUFFER_BYTES_DEFAULT,
    OUTPUT_BUFFER_BYTES_MAX,
};
use kingpole_protocol::names::check_name;
use kingpole_protocol::reply;
use kingpole_protocol::request::{Signal, Spawn};
use kingpole_protocol::spec::{OutputSpec, ProcessSpec, SocketAddress, StdinSpec};
use kingpole_protocol::status::End;
use std::collections::BTreeSet;

/// How a socket's number is asked for in an argument.
const REFERENCE: &[u8] = b"$(socket.";

impl Step<'_> {
    pub(super) fn spawn(&mut self, asker: Asker, spawn: Spawn) -> Result<(), Refusal> {
        let Spawn { key, spec } = spawn;
        if key.is_empty() || key.len() > NAME_BYTES_MAX {
            let text = format!(
                "the key has {} bytes; it needs 1 to {NAME_BYTES_MAX}",
                key.len()
            );
            return Err(refusal(ErrorCode::INVALID, text));
        }
        if let Some(process) = self
            .state
            .keys
            .get(&key)
            .and_then(|id| self.state.processes.get(id))
        {
            let process = process.info();
            self.reply(
                asker,
                reply::Spawned {
                    process,
                    existed: true,
                },
            );
            return Ok(());
        }
        self.check_intents(&key, &spec.name)?;
        let order = self.check_spawn(asker, key, spec)?;
        self.effects.push(Effect::Spawn(Box::new(order)));
        Ok(())
    }

    fn check_spawn(
        &self,
        asker: Asker,
        key: String,
        mut spec: ProcessSpec,
    ) -> Result<SpawnOrder, Refusal> {
        let invalid = |text: String| refusal(ErrorCode::INVALID, text);
        check_name("process", &spec.name).map_err(|error| invalid(error.to_string()))?;
        if let Some(other) = self
            .state
            .processes_named(&spec.name)
            .find(|p| p.end.is_none())
        {
            let text = format!(
                "process {:?} runs already (number {}, pid {})",
                spec.name, other.id, other.pid
            );
            return Err(refusal(ErrorCode::ALREADY_EXISTS, text));
        }
        check_shape(&spec)?;
        let mut sockets = self.listed_sockets(&spec)?;
        let arguments = std::mem::take(&mut spec.arguments);
        for argument in arguments {
            spec.arguments
                .push(self.replace_references(&spec.name, argument, &mut sockets)?);
        }
        check_text(&key, &spec)?;
        let outputs = [spec.stdout, spec.stderr].into_iter();
        let pipes = outputs.filter(|it| *it == OutputSpec::Capture).count();
        let captured = pipes > 0;
        let buffer_bytes = match spec.buffer_bytes {
            _ if !captured => 0,
            0 => OUTPUT_BUFFER_BYTES_DEFAULT,
            bytes if bytes > OUTPUT_BUFFER_BYTES_MAX => {
                let text = format!(
                    "process {:?}: an output buffer of {bytes} bytes; at most \
                     {OUTPUT_BUFFER_BYTES_MAX} are allowed",
                    spec.name
                );
                return Err(refusal(ErrorCode::LIMIT, text));
            }
            bytes => bytes,
        };
        self.check_descriptors(descriptors_of(captured, pipes))?;
        self.check_recorded(record_estimate(&key, &spec))?;
        let original_limits = self.state.about.original_limits.clone();
        Ok(SpawnOrder {
            asker,
            key,
            spec,
            sockets,
            original_limits,
            buffer_bytes,
        })
    }

    /// The sockets passed as `LISTEN_FDS` and as standard input.
    fn listed_sockets(&self, spec: &ProcessSpec) -> Result<Vec<PassedSocket>, Refusal> {
        if spec.listen.len() > LISTEN_MAX {
            let text = format!(
                "process {:?}: {} sockets to listen on; at most {LISTEN_MAX} are allowed",
                spec.name,
                spec.listen.len()
            );
            return Err(refusal(ErrorCode::LIMIT, text));
        }
        let stdin = match &spec.stdin {
            StdinSpec::Null => None,
            StdinSpec::Socket(name) => Some((0, name)),
        };
        stdin
            .into_iter()
            .chain((3..).zip(&spec.listen))
            .map(|(number, name)| {
                self.socket(&spec.name, name)?;
                Ok(PassedSocket {
                    name: name.clone(),
                    number,
                })
            })
            .collect()
    }

    fn socket(&self, process: &str, name: &str) -> Result<&crate::state::Socket, Refusal> {
        self.state.sockets.get(name).ok_or_else(|| {
            let text = format!("process {process:?}: socket {name:?} not found; make it first");
            refusal(ErrorCode::NOT_FOUND, text)
        })
    }

    /// Replaces `$(socket.NAME.fileno)` and `$(socket.NAME.port)`, and notes whom to pass.
    fn replace_references(
        &self,
        process: &str,
        argument: ByteString,
        sockets: &mut Vec<PassedSocket>,
    ) -> Result<ByteString, Refusal> {
        let invalid = |text: String| refusal(ErrorCode::INVALID, text);
        let mut replaced = Vec::new();
        let mut rest = argument.0.as_slice();
        while let Some(at) = find(rest, REFERENCE) {
            let (before, reference) = rest.split_at_checked(at).unwrap_or((rest, &[]));
            replaced.extend_from_slice(before);
            let body = reference.get(REFERENCE.len()..).unwrap_or_default();
            let Some(end) = body.iter().position(|byte| *byte == b')') else {
                return Err(invalid(format!(
                    "Process for {process} argument starts with \"$(socket.\" but has no closing \
                     parenthesis"
                )));
            };
            let (inside, behind) = body.split_at_checked(end).unwrap_or((body, &[]));
            let inside = String::from_utf8_lossy(inside);
            let (name, what) = match inside.rsplit_once('.') {
                Some((name, what @ ("fileno" | "port"))) => (name, what),
                _ => {
                    return Err(invalid(
                        "You forgot to specify either \".port\" or \".fileno\" after the name"
                            .to_owned(),
                    ));
                }
            };
            let socket = self.socket(process, name)?;
            let number = if what == "port" {
                match &socket.info.spec.address {
                    SocketAddress::Inet { port, .. } | SocketAddress::Inet6 { port, .. } => {
                        i32::from(*port)
                    }
                    SocketAddress::Unix { .. } => {
                        return Err(invalid(format!("socket {name:?} has no port")));
                    }
                }
            } else {
                self.pass(name, socket.info.fileno, sockets)?
            };
            replaced.extend_from_slice(number.to_string().as_bytes());
            rest = behind.get(1..).unwrap_or_default();
        }
        replaced.extend_from_slice(rest);
        Ok(ByteString(replaced))
    }

    /// The number that a socket named in an argument has in the child.
    fn pass(
        &self,
        name: &str,
        fileno: Option<i32>,
        sockets: &mut Vec<PassedSocket>,
    ) -> Result<i32, Refusal> {
        // Those of LISTEN_FDS and standard input have numbers of their own.
        let by_name =
            |passed: &&PassedSocket| passed.name == name && passed.number >= REUSEPORT_FILENO_MIN;
        if let Some(passed) = sockets.iter().find(by_name) {
            return Ok(passed.number);
        }
        let number = match fileno {
            Some(number) => number,
            None => {
                let taken = sockets
                    .iter()
                    .map(|passed| passed.number)
                    .collect::<BTreeSet<_>>();
                let free = (REUSEPORT_FILENO_MIN..crate::limits::SOCKET_FILENO_MIN)
                    .find(|number| !taken.contains(number));
                free.ok_or_else(|| {
                    refusal(
                        ErrorCode::LIMIT,
                        "too many reuseport sockets for one process",
                    )
                })?
            }
        };
        sockets.push(PassedSocket {
            name: name.to_owned(),
            number,
        });
        Ok(number)
    }

    pub(super) fn check_descriptors(&self, more: u64) -> Result<(), Refusal> {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let processes = &self.state.processes;
        let limit = self.state.about.descriptors_limit;
        let spare = limit.saturating_sub(DESCRIPTORS_RESERVE.min(limit / 2));
        let most = count(processes.len()).saturating_mul(DESCRIPTORS_PER_PROCESS);
        let sockets = count(self.state.sockets.len());
        if most.saturating_add(sockets).saturating_add(more) <= spare {
            return Ok(());
        }
        // Only near the limit is it worth a look at all of them.
        let exact = processes.values().map(|process| {
            let ended = |stream: &Stream| process.output.cursor.eof.has(*stream);
            let pipes = Stream::ALL.iter().filter(|stream| !ended(stream)).count();
            descriptors_of(process.output.capacity_bytes > 0, pipes)
        });
        let used = exact.sum::<u64>().saturating_add(sockets);
        if used.saturating_add(more) > spare {
            let text = format!(
                "{used} descriptors are in use for processes and sockets; the limit of {limit} \
                 (RLIMIT_NOFILE) leaves none for another one"
            );
            return Err(refusal(ErrorCode::LIMIT, text));
        }
        Ok(())
    }

    pub(super) fn handle_spawned(&mut self, order: SpawnOrder, started: Started) {
        let SpawnOrder {
            asker, key, spec, ..
        } = order;
        let about = &self.state.about;
        let (uid, gid) = spec
            .user
            .as_ref()
            .map_or((about.uid, about.gid), |u| (u.uid, u.gid));
        let process = Process {
            id: started.process,
            slot: started.slot,
            pid: started.pid,
            name: spec.name,
            key,
            started_ns: started.started_ns,
            arguments: spec.arguments,
            uid,
            gid,
            labels: spec.labels,
            end: None,
            flags: 0,
            output: Output {
                capacity_bytes: started.capacity_bytes,
                overflow: spec.overflow,
                cursor: started.output.cursor,
                oldest: started.output.oldest,
                dropped_records: 0,
                dropped_bytes: 0,
                reading: Reading::Polled,
                refusals: 0,
                seen_empty: EofBits::NONE,
                give_back: GiveBack::Idle,
            },
            followers: BTreeSet::new(),
            text: TextAcknowledged::default(),
            recorded_bytes: started.recorded_bytes,
        };
        let info = process.info();
        self.log(format!(
            "process {} {:?}: started, pid {}",
            process.id, process.name, process.pid
        ));
        self.insert_process(process);
        self.reply(
            asker,
            reply::Spawned {
                process: info.clone(),
                existed: false,
            },
        );
        self.tell_subscribers(|| {
            ProcessStarted {
                process: info.clone(),
            }
            .into()
        });
    }

    pub(super) fn insert_process(&mut self, process: Process) {
        let state = &mut *self.state;
        state.keys.insert(process.key.clone(), process.id);
        state.names.insert((process.name.clone(), process.id));
        state.running = state
            .running
            .saturating_add(u64::from(process.end.is_none()));
        state.recorded_bytes = state.recorded_bytes.saturating_add(process.recorded_bytes);
        state.processes.insert(process.id, Box::new(process));
    }

    pub(super) fn handle_spawn_failed(&mut self, order: &SpawnOrder, error: Refusal) {
        self.log(format!(
            "process {:?}: not started: {error}",
            order.spec.name
        ));
        self.refuse(order.asker, error);
    }

    pub(super) fn signal(&mut self, asker: Asker, signal: &Signal) -> Result<(), Refusal> {
        let process = self.process(signal.process)?;
        // SIGRTMAX is 64 on every Linux but MIPS.
        if !(0..=64).contains(&signal.signal) {
            let text = format!("{} is no signal number", signal.signal);
            return Err(refusal(ErrorCode::INVALID, text));
        }
        if process.end.is_some() {
            let text = format!("process {} ({:?}) has ended", process.id, process.name);
            return Err(refusal(ErrorCode::ENDED, text));
        }
        let &Signal {
            process,
            signal,
            target,
        } = signal;
        self.effects.push(Effect::Signal {
            asker,
            process,
            signal,
            target,
        });
        Ok(())
    }

    pub(super) fn handle_signalled(&mut self, asker: Asker, result: Result<u32, Box<ErrorReply>>) {
        match result {
            Ok(count) => self.reply(asker, reply::Signalled { count }),
            Err(error) => self.refuse(asker, error),
        }
    }

    pub(super) fn handle_ended(&mut self, id: ProcessId, end: End) {
        let Some(process) = self.state.processes.get_mut(&id) else {
            return;
        };
        if process.end.is_some() {
            return;
        }
        process.end = Some(end);
        process.flags |= flags::END_TOLD;
        let flags = process.flags;
        self.effects.push(Effect::SetFlags { process: id, flags });
        self.state.running = self.state.running.saturating_sub(1);
        let line = format!("process {id} {:?}: ended: {:?}", process.name, end.status);
        self.log(line);
        self.wake_followers(id);
        self.tell_subscribers(|| ProcessEnded { process: id, end }.into());
        self.forget_if_done(id);
    }

    pub(super) fn remove(&mut self, asker: Asker, id: ProcessId) -> Result<(), Refusal> {
        let process = self.process(id)?;
        if process.end.is_some() {
            self.forget(id);
            return self.done(asker);
        }
        if let Some(process) = self.state.processes.get_mut(&id)
            && process.flags & flags::REMOVED == 0
        {
            process.flags |= flags::REMOVED;
            let flags = process.flags;
            self.effects.push(Effect::SetFlags { process: id, flags });
            self.effects.push(Effect::Acknowledge {
                process: id,
                through: Sequence(u64::MAX),
            });
        }
        self.done(asker)
    }

    pub(super) fn process(&self, id: ProcessId) -> Result<&Process, Refusal> {
        self.state
            .processes
            .get(&id)
            .map(|process| &**process)
            .ok_or_else(|| {
                refusal(
                    ErrorCode::NOT_FOUND,
                    format!("there is no process with the number {id}"),
                )
            })
    }

    pub(super) fn forget_if_done(&mut self, id: ProcessId) {
        if self
            .state
            .processes
            .get(&id)
            .is_some_and(|process| process.is_done())
        {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ProcessId) {
        self.part_from_followers(id);
        let Some(process) = self.state.processes.remove(&id) else {
            return;
        };
        let state = &mut *self.state;
        if state.keys.get(&process.key) == Some(&id) {
            state.keys.remove(&process.key);
        }
        if process.end.is_none() {
            state.running = state.running.saturating_sub(1);
        }
        if let GiveBack::At(time) = process.output.give_back {
            state.give_back.remove(&(time, id));
        }
        state.recorded_bytes = state.recorded_bytes.saturating_sub(process.recorded_bytes);
        state.names.remove(&(process.name, id));
        self.effects.push(Effect::Forget { process: id });
        self.tell_subscribers(|| ProcessRemoved { process: id }.into());
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn check_shape(spec: &ProcessSpec) -> Result<(), Refusal> {
    let name = &spec.name;
    let invalid = |text: String| Err(refusal(ErrorCode::INVALID, text));
    let count = spec.arguments.len();
    if spec
        .arguments
        .first()
        .is_none_or(|first| first.is_empty() && spec.program.is_none())
    {
        return invalid(format!("process {name:?}: no command"));
    }
    if count > ARGUMENTS_MAX {
        return invalid(format!(
            "process {name:?}: {count} arguments; at most {ARGUMENTS_MAX}"
        ));
    }
    let strings = spec
        .arguments
        .iter()
        .chain(&spec.program)
        .chain([&spec.search_path, &spec.working_directory])
        .chain(
            spec.environment
                .iter()
                .flat_map(|(key, value)| [key, value]),
        );
    if strings.into_iter().any(|string| string.contains(&0)) {
        return invalid(format!(
            "process {name:?}: a string has a NUL byte, which Linux cannot take"
        ));
    }
    if let Some((key, _)) = spec
        .environment
        .iter()
        .find(|(key, _)| key.is_empty() || key.contains(&b'='))
    {
        return invalid(format!(
            "process {name:?}: {key:?} is no name of a variable"
        ));
    }
    let directory = &spec.working_directory;
    if directory.first().is_some_and(|first| *first != b'/') {
        return invalid(format!(
            "process {name:?}: working directory {directory:?} is not absolute"
        ));
    }
    if spec.umask.is_some_and(|mask| mask > 0o777) {
        return invalid(format!("process {name:?}: a umask has nine bits"));
    }
    if spec.stdout == OutputSpec::SameAsStdout {
        return invalid(format!(
            "process {name:?}: stdout cannot go where stdout goes"
        ));
    }
    if spec
        .user
        .as_ref()
        .is_some_and(|user| user.uid == u32::MAX || user.gid == u32::MAX)
    {
        return invalid(format!(
            "process {name:?}: {} is no user or group id",
            u32::MAX
        ));
    }
    Ok(())
}

fn check_text(key: &str, spec: &ProcessSpec) -> Result<(), Refusal> {
    let name = &spec.name;
    if spec.labels.len() > LABELS_MAX {
        let text = format!("process {name:?}: more than {LABELS_MAX} labels");
        return Err(refusal(ErrorCode::LIMIT, text));
    }
    for (label, text) in &spec.labels {
        check_name("label", label)
            .map_err(|error| refusal(ErrorCode::INVALID, error.to_string()))?;
        if label.len().saturating_add(text.len()) > LABEL_BYTES_MAX {
            let text =
                format!("process {name:?}: label {label:?} has over {LABEL_BYTES_MAX} bytes");
            return Err(refusal(ErrorCode::LIMIT, text));
        }
    }
    let bytes = text_bytes(key, spec);
    if bytes > PROCESS_TEXT_BYTES_MAX {
        let text = format!(
            "process {name:?}: arguments and labels have {bytes} bytes; at most \
             {PROCESS_TEXT_BYTES_MAX} are allowed"
        );
        return Err(refusal(ErrorCode::LIMIT, text));
    }
    Ok(())
}

/// Bytes of what is told about a process, lengths (8 bytes each on the wire) included.
fn text_bytes(key: &str, spec: &ProcessSpec) -> usize {
    let arguments = spec.arguments.iter().map(|argument| argument.len());
    let labels = spec
        .labels
        .iter()
        .map(|(label, text)| label.len().saturating_add(text.len()));
    arguments
        .chain(labels)
        .chain([key.len(), spec.name.len()])
        .fold(0, |sum: usize, length| {
            sum.saturating_add(length).saturating_add(16)
        })
}

fn record_estimate(key: &str, spec: &ProcessSpec) -> u64 {
    u64::try_from(text_bytes(key, spec))
        .unwrap_or(u64::MAX)
        .saturating_add(128)
}

/// Descriptors of a process: its pidfd, and if its output is captured a buffer and so many pipes.
fn descriptors_of(captured: bool, pipes: usize) -> u64 {
    let pipes = u64::try_from(pipes).unwrap_or(u64::MAX);
    if captured { pipes.saturating_add(2) } else { 1 }
}

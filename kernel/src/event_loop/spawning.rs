//! Starting programs and making sockets: from the client's words to plans, and back to words.

use super::hands::{Child, Hands, HeldSocket, position};
use crate::crash::crash_point;
use crate::effect::SpawnOrder;
use crate::entry::{Entry, Removed, Spawned};
use crate::guard::client::HoldError;
use crate::input::{OutputPosition, Started};
use crate::limits::{SOCKET_FILENO_MIN, UMASK};
use crate::memory::check::check_bytes;
use crate::memory::cursor::{EofBits, Stream};
use crate::memory::held::{HeldKind, Tag};
use crate::memory::ring::Dropped;
use crate::memory::slot::Intent;
use crate::memory::{Ring, RingSize, SlotIndex};
use crate::reap::now_ns;
use crate::sockets::{
    BoundAt, BoundSocket, IpFamily, ReusePort, SocketError, SocketKind as PlanKind, SocketPlace,
    SocketPlan, unlink_if_ours,
};
use crate::spawn::{
    Limit, OutputPlan, Passed, ReadEnds, SpawnError, SpawnPlan, StdinPlan, Step, UserPlan,
};
use crate::state::{Socket, State};
use crate::sys::process::duplicate_from;
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::spec::{OutputSpec, SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::status::SocketInfo;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where programs without a slash are looked up unless the client says otherwise.
const SEARCH_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

impl Hands {
    /// Starts a program. On failure nothing is left of the attempt.
    pub(super) fn spawn(
        &mut self,
        state: &State,
        order: &SpawnOrder,
    ) -> Result<Started, Box<ErrorReply>> {
        let fresh = self.fresh_sockets(state, order)?;
        let plan = self.plan(order, &fresh)?;
        let prepared = self
            .spawner
            .prepare(&plan)
            .map_err(|error| spawn_error(order, &error))?;
        let ring = match RingSize::holding(order.buffer_bytes) {
            Some(size) => {
                let ring = Ring::create(size).map_err(|error| {
                    Box::new(ErrorReply::new(ErrorCode::SYSTEM, error.to_string()))
                })?;
                Some(ring.limited_to(order.buffer_bytes))
            }
            None => None,
        };
        let slot = self.memory.allocate().ok_or_else(|| {
            let text = "every slot for a process is in use";
            Box::new(ErrorReply::new(ErrorCode::LIMIT, text))
        })?;
        let process = self.memory.take_id();
        let started_ns = now_ns();
        self.memory.slot(slot).begin(&Intent {
            id: process,
            epoch: self.memory.epoch(),
            key_hash: key_hash(&order.key),
            flags: 0,
            time_ns: started_ns,
            eof: uncaptured(order),
        });
        let entry = Entry::Spawned(spawned(state, order, process, slot));
        let recorded_bytes = match self.record(state, &entry) {
            Ok(bytes) => bytes.saturating_add(128),
            Err(error) => {
                self.memory.release(slot);
                return Err(error);
            }
        };
        crash_point("spawn: after the journal");
        let mut prepared = prepared;
        let ends = std::mem::take(&mut prepared.read_ends);
        // Before there is a writer, so that no child ever meets a pipe without a reader.
        if let Err(error) = self.hold_for_spawn(process, &ends, ring.as_ref()) {
            self.undo_spawn(state, process, slot);
            return Err(Box::new(ErrorReply::new(
                ErrorCode::SYSTEM,
                error.to_string(),
            )));
        }
        crash_point("spawn: after the hold");
        let child = match self.spawner.start(prepared, self.memory.slot(slot)) {
            Ok(started) => Child {
                slot,
                stdout: ends.stdout,
                stderr: ends.stderr,
                pidfd: Some(started.pidfd),
                ring,
                pid: started.pid,
                dropped_told: Dropped::default(),
                flows: Default::default(),
            },
            Err(error) => {
                self.undo_spawn(state, process, slot);
                return Err(spawn_error(order, &error));
            }
        };
        self.memory.slot(slot).set_running();
        if let (true, Some(pidfd)) = (self.has_store, &child.pidfd) {
            // Only the store needs it from the guard: it tells of an end that neither of us reaps.
            let tag = Tag::of_process(process, HeldKind::Pidfd);
            let _ = self.guard.hold(&[(tag, pidfd.as_fd())]);
        }
        let pid = child.pid;
        let output = position(&self.memory, slot, child.ring.as_ref()).unwrap_or(OutputPosition {
            cursor: crate::memory::RingCursor::new(EofBits::ALL),
            oldest: crate::memory::cursor::FIRST_SEQ,
        });
        let capacity_bytes = child.ring.as_ref().map_or(0, Ring::capacity_bytes);
        self.insert_child(process, child);
        Ok(Started {
            process,
            slot,
            pid,
            started_ns,
            output,
            capacity_bytes,
            recorded_bytes,
        })
    }

    fn hold_for_spawn(
        &mut self,
        process: ProcessId,
        ends: &ReadEnds,
        ring: Option<&Ring>,
    ) -> Result<(), HoldError> {
        let all = [
            (HeldKind::Stdout, ends.stdout.as_ref().map(AsFd::as_fd)),
            (HeldKind::Stderr, ends.stderr.as_ref().map(AsFd::as_fd)),
            (HeldKind::Ring, ring.map(Ring::descriptor)),
        ];
        let held = all
            .into_iter()
            .filter_map(|(kind, fd)| Some((Tag::of_process(process, kind), fd?)))
            .collect::<Vec<_>>();
        self.guard.hold(&held)
    }

    /// Nothing is left of an attempt: journal, slot, what the guard holds, in this order.
    fn undo_spawn(&mut self, state: &State, process: ProcessId, slot: SlotIndex) {
        // Upkeep fits into the journal's reserve; if not, the free slot tells as well.
        let _ = self.record(state, &Entry::Removed(Removed { process }));
        self.memory.release(slot);
        self.release_held(process);
    }

    /// A socket of its own for each that is shared by port.
    fn fresh_sockets(
        &self,
        state: &State,
        order: &SpawnOrder,
    ) -> Result<Vec<Option<OwnedFd>>, Box<ErrorReply>> {
        let fresh = |name: &str| {
            let socket = state
                .sockets
                .get(name)
                .filter(|socket| socket.info.spec.reuseport)?;
            Some(
                plan_of(&socket.info.spec)
                    .make()
                    .map_err(|error| socket_error(name, &error)),
            )
        };
        let sockets = order
            .sockets
            .iter()
            .map(|passed| fresh(&passed.name).transpose());
        sockets
            .map(|made| made.map(|made| made.map(|bound| bound.fd)))
            .collect()
    }

    fn plan<'fd>(
        &'fd self,
        order: &SpawnOrder,
        fresh: &'fd [Option<OwnedFd>],
    ) -> Result<SpawnPlan<'fd>, Box<ErrorReply>> {
        let spec = &order.spec;
        let invalid = |text: String| Box::new(ErrorReply::new(ErrorCode::INVALID, text));
        let string = |bytes: &ByteString| {
            CString::new(bytes.0.clone())
                .map_err(|_| invalid(format!("process {:?}: a string has a NUL byte", spec.name)))
        };
        let arguments = spec
            .arguments
            .iter()
            .map(string)
            .collect::<Result<Vec<_>, _>>()?;
        let mut plan = SpawnPlan::new(arguments);
        plan.program = spec.program.as_ref().map(string).transpose()?;
        let path = if spec.search_path.is_empty() {
            SEARCH_PATH
        } else {
            &spec.search_path
        };
        let directory = |part: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(part));
        plan.search_path = path
            .split(|byte| *byte == b':')
            .filter(|p| !p.is_empty())
            .map(directory)
            .collect();
        for (key, value) in &spec.environment {
            let pair = [key.0.as_slice(), b"=", value.0.as_slice()].concat();
            plan.environment.push(string(&ByteString(pair))?);
        }
        if !spec.working_directory.is_empty() {
            plan.working_directory = string(&spec.working_directory)?;
        }
        plan.umask = spec.umask.unwrap_or(UMASK);
        plan.user = spec.user.as_ref().map(|user| UserPlan {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        });
        plan.limits = limits(order);
        plan.stdout = output_plan(spec.stdout);
        plan.stderr = output_plan(spec.stderr);
        plan.listen_names.clone_from(&spec.listen);
        for (passed, fresh) in order.sockets.iter().zip(fresh) {
            let source: Option<BorrowedFd<'fd>> = match fresh {
                Some(fresh) => Some(fresh.as_fd()),
                None => self.sockets.get(&passed.name).map(|held| held.fd.as_fd()),
            };
            let source = source.ok_or_else(|| {
                let text = format!("socket {:?} is not open", passed.name);
                Box::new(ErrorReply::new(ErrorCode::NOT_FOUND, text))
            })?;
            if passed.number == 0 {
                plan.stdin = StdinPlan::Descriptor(source);
                continue;
            }
            let number = u16::try_from(passed.number)
                .map_err(|_| invalid(format!("{} is no descriptor number", passed.number)))?;
            plan.passed.push(Passed { source, number });
        }
        Ok(plan)
    }

    /// Makes a socket and keeps it, unless it is shared by port.
    pub(super) fn make_socket(
        &mut self,
        state: &State,
        spec: &SocketSpec,
    ) -> Result<(u64, Box<SocketInfo>), Box<ErrorReply>> {
        let name = &spec.name;
        let failed = |error: &SocketError| socket_error(name, error);
        let BoundSocket { fd, at } = plan_of(spec).make().map_err(|error| failed(&error))?;
        let mut spec = spec.clone();
        let mut file = None;
        match at {
            BoundAt::Unix(unix) => file = Some(unix),
            BoundAt::Inet(real) => {
                if let SocketAddress::Inet { port, .. } | SocketAddress::Inet6 { port, .. } =
                    &mut spec.address
                {
                    *port = real.port();
                }
            }
        }
        if spec.reuseport {
            // Only the port was wanted.
            return Ok((0, Box::new(SocketInfo { spec, fileno: None })));
        }
        let fd = unused_number(state, fd.as_fd()).map_err(|cause| {
            failed(&SocketError::Make {
                action: "move a socket to a high number",
                cause,
            })
        })?;
        let fileno = Some(fd.as_raw_fd());
        let number = state.newest_socket.saturating_add(1);
        crash_point("listener: before the hold");
        if let Err(error) = self
            .guard
            .hold(&[(Tag::new(number, HeldKind::Socket), fd.as_fd())])
        {
            if let Some(file) = &file {
                let _ = unlink_if_ours(file);
            }
            return Err(Box::new(ErrorReply::new(
                ErrorCode::SYSTEM,
                error.to_string(),
            )));
        }
        crash_point("listener: after the hold");
        self.sockets
            .insert(spec.name.clone(), HeldSocket { number, fd, file });
        Ok((number, Box::new(SocketInfo { spec, fileno })))
    }

    /// Closes a socket and removes its path.
    pub(super) fn close_socket(&mut self, socket: &Socket) {
        if let Some(held) = self.sockets.remove(&socket.info.spec.name)
            && let Some(file) = &held.file
        {
            // Whoever connects now is refused either way.
            let _ = unlink_if_ours(file);
        }
        // Its address is free again when the client hears that it is closed.
        self.guard
            .release(Tag::new(socket.number, HeldKind::Socket));
        self.guard.settle(&self.memory);
    }
}

/// A copy under a number that no other socket has in children (one that was inherited may have
/// another number here than there).
fn unused_number(state: &State, fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut least = SOCKET_FILENO_MIN;
    loop {
        let copy = duplicate_from(fd, least)?;
        let number = copy.as_raw_fd();
        if state
            .sockets
            .values()
            .all(|socket| socket.info.fileno != Some(number))
        {
            return Ok(copy);
        }
        least = number.saturating_add(1);
    }
}

/// Only tells most keys apart; the journal has the keys themselves. It lies in shared memory, so
/// later kernels must compute the same.
fn key_hash(key: &str) -> u64 {
    check_bytes(0, key.as_bytes())
}

/// Streams that never bring anything.
fn uncaptured(order: &SpawnOrder) -> EofBits {
    let captured = |spec: OutputSpec| spec == OutputSpec::Capture;
    let mut eof = EofBits::NONE;
    if !captured(order.spec.stdout) {
        eof = eof.with(Stream::Stdout);
    }
    if !captured(order.spec.stderr) {
        eof = eof.with(Stream::Stderr);
    }
    eof
}

fn spawned(state: &State, order: &SpawnOrder, process: ProcessId, slot: SlotIndex) -> Spawned {
    let spec = &order.spec;
    let user = spec.user.as_ref();
    Spawned {
        process,
        slot: u64::from(slot.number()),
        key: order.key.clone(),
        name: spec.name.clone(),
        arguments: spec.arguments.clone(),
        uid: user.map_or(state.about.uid, |user| user.uid),
        gid: user.map_or(state.about.gid, |user| user.gid),
        labels: spec.labels.clone(),
        buffer_bytes: order.buffer_bytes,
        overflow: spec.overflow,
    }
}

/// The client's limits, and before them those that the kernel changed for itself.
fn limits(order: &SpawnOrder) -> Vec<Limit> {
    let asked = &order.spec.limits;
    let kept = order
        .original_limits
        .iter()
        .filter(|limit| asked.iter().all(|asked| asked.resource != limit.resource));
    let limit = |limit: &kingpole_protocol::spec::LimitSpec| Limit {
        resource: limit.resource,
        soft: limit.soft,
        hard: limit.hard,
    };
    kept.chain(asked).map(limit).collect()
}

fn output_plan(spec: OutputSpec) -> OutputPlan {
    match spec {
        OutputSpec::Capture => OutputPlan::Capture,
        OutputSpec::Null => OutputPlan::Null,
        OutputSpec::SameAsStdout => OutputPlan::SameAsStdout,
    }
}

fn plan_of(spec: &SocketSpec) -> SocketPlan {
    let inet = |family, host: &str, port| SocketPlace::Inet {
        family,
        host: (!host.is_empty()).then(|| host.to_owned()),
        port,
        interface: spec.interface.clone(),
        reuse_port: if spec.reuseport {
            ReusePort::Yes
        } else {
            ReusePort::No
        },
    };
    SocketPlan {
        kind: match spec.kind {
            SocketKind::Stream => PlanKind::Stream,
            SocketKind::Datagram => PlanKind::Datagram,
            SocketKind::SeqPacket => PlanKind::SeqPacket,
        },
        backlog: spec.backlog,
        place: match &spec.address {
            SocketAddress::Unix { path, umask } => SocketPlace::Unix {
                path: Path::new(path.as_os_str()).to_owned(),
                umask: *umask,
            },
            SocketAddress::Inet { host, port } => inet(IpFamily::Inet, host, *port),
            SocketAddress::Inet6 { host, port } => inet(IpFamily::Inet6, host, *port),
        },
    }
}

fn socket_error(name: &str, error: &SocketError) -> Box<ErrorReply> {
    let cause = match error {
        SocketError::Bind { cause, .. }
        | SocketError::Listen { cause, .. }
        | SocketError::Interface { cause, .. }
        | SocketError::Make { cause, .. } => *cause as i32,
        SocketError::RelativePath | SocketError::NotNumeric { .. } => 0,
    };
    let reply = ErrorReply::new(
        ErrorCode::SOCKET_FAILED,
        format!("socket {name:?}: {error}"),
    );
    Box::new(ErrorReply {
        errno: cause,
        ..reply
    })
}

fn spawn_error(order: &SpawnOrder, error: &SpawnError) -> Box<ErrorReply> {
    let (code, step, cause) = match error {
        SpawnError::Plan { .. } => (ErrorCode::INVALID, "", None),
        SpawnError::NotFound { .. } => (ErrorCode::SPAWN_FAILED, "exec", Some(Errno::ENOENT)),
        SpawnError::NotExecutable { cause, .. } => (ErrorCode::SPAWN_FAILED, "exec", Some(*cause)),
        SpawnError::WorkingDirectory { cause, .. } => {
            (ErrorCode::SPAWN_FAILED, "working-directory", Some(*cause))
        }
        SpawnError::Step { step, cause, .. } => {
            (ErrorCode::SPAWN_FAILED, step_word(*step), Some(*cause))
        }
        SpawnError::UnknownStep { cause, .. } => (ErrorCode::SPAWN_FAILED, "unknown", Some(*cause)),
        SpawnError::Kernel { cause, .. } => (ErrorCode::SYSTEM, "kernel", Some(*cause)),
    };
    let text = format!("process {:?}: {error}", order.spec.name);
    Box::new(ErrorReply {
        code,
        message: text,
        errno: cause.map_or(0, |cause| cause as i32),
        step: step.to_owned(),
    })
}

/// Permanent words, as in [`ErrorReply::step`].
const fn step_word(step: Step) -> &'static str {
    match step {
        Step::Session => "session",
        Step::MoveDescriptor | Step::PlaceDescriptor | Step::CloseDescriptors => "descriptors",
        Step::Limit => "limit",
        Step::OomScore => "oom-score",
        Step::Groups => "groups",
        Step::Gid => "group",
        Step::Uid => "user",
        Step::WorkingDirectory => "working-directory",
        Step::Signals => "signals",
        Step::Exec => "exec",
    }
}

//! The log writer's own session with the kernel, on a blocking unix socket. What arrives while an
//! answer is awaited is kept in order.

use super::in_place::{self, Access, InPlace};
use crate::crash::crash_point;
use crate::shells::history::Records;
use crate::streams::disk::{self, Keeper, Stop};
use crate::streams::position::Child;
use crate::streams::writer::Alive;
use kingpole_protocol::client::connection::{Connection, Incoming};
use kingpole_protocol::client::{Descriptors, receive_with_descriptors};
use kingpole_protocol::event::Event;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    Commit, Follow, FollowMapped, Grant, ListProcesses, ListValues, OutputAcknowledgement, Request,
    Subscribe, ValueChange,
};
use kingpole_protocol::{ByteString, ErrorCode, ErrorReply, Fence, ProcessId, Sequence};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A kernel that does not answer for so long is taken for broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A read takes what the socket holds, so that a batch is not made of single frames.
const READ_BYTES: usize = 256 << 10;

/// Something that the kernel said by itself.
#[derive(Debug)]
pub(super) enum Notice {
    /// Records of one process, and the credit that they used.
    Output(ProcessId, Records, u64),
    /// Anything else.
    Event(Event),
    /// A process to be followed is not there.
    NotFollowed(ProcessId, ErrorReply),
    /// A process is followed anew, with all the credit that was asked for.
    FollowedAnew(ProcessId),
}

/// See the module.
pub(super) struct Session {
    socket: UnixStream,
    connection: Connection,
    notices: VecDeque<Notice>,
    descriptors: Descriptors,
    in_place: InPlace,
    /// Credit of whoever is followed.
    credit_bytes: u64,
    /// Which state of the kernel this is.
    instance: u64,
    /// What the next commit stores besides.
    besides: Vec<ValueChange>,
}

fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Kernel(error.to_string())
}

impl Session {
    /// Connects, and acts under this lease. Each process that is followed gets so much credit.
    pub(super) fn open(path: &Path, fence: Fence, credit_bytes: u64) -> Result<Self, Stop> {
        let socket = UnixStream::connect(path).map_err(broken)?;
        socket.set_nonblocking(true).map_err(broken)?;
        let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"), " streams");
        let mut connection = Connection::new(client, in_place::WANTED).map_err(broken)?;
        connection.set_fence(fence);
        connection.read_in_pieces_of(READ_BYTES);
        let notices = VecDeque::new();
        let mut session = Self {
            socket,
            connection,
            notices,
            descriptors: Descriptors::new(),
            in_place: InPlace::agreed(0),
            credit_bytes,
            instance: 0,
            besides: Vec::new(),
        };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        session.flush(deadline)?;
        loop {
            match session.connection.poll_incoming().map_err(broken)? {
                Some(Incoming::Welcome(welcome)) => {
                    session.instance = welcome.instance;
                    session.in_place = InPlace::agreed(welcome.capabilities);
                    return Ok(session);
                }
                Some(_) => return Err(broken("the kernel did not greet")),
                None => session.wait(deadline)?,
            }
        }
    }

    /// Which state of the kernel this is: children of another one are others.
    pub(super) fn child(&self, process: ProcessId) -> Child {
        Child {
            process,
            epoch: self.instance,
        }
    }

    /// To wait on, together with other things.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Everything that the kernel keeps under a prefix.
    pub(super) fn values(&mut self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Stop> {
        let mut values = Vec::new();
        let mut after = String::new();
        loop {
            let request = ListValues {
                prefix: prefix.to_owned(),
                after,
                limit: 512,
            };
            let Reply::Values(page) = self.call(&request.into())? else {
                return Err(broken("the kernel does not list its values"));
            };
            let more = page.more;
            values.extend(page.items.into_iter().map(|item| (item.key, item.value.0)));
            match values.last() {
                Some((last, _)) if more => after = last.clone(),
                _ => return Ok(values),
            }
        }
    }

    /// Asks to be told of processes, and which there are.
    pub(super) fn alive(&mut self) -> Result<Vec<Alive>, Stop> {
        self.call(&Subscribe {}.into())?;
        let mut alive: Vec<Alive> = Vec::new();
        loop {
            let after = alive.last().map_or(ProcessId(0), |last| last.child.process);
            let Reply::Processes(page) = self.call(&ListProcesses { after, limit: 512 }.into())?
            else {
                return Err(broken("the kernel does not list its processes"));
            };
            for info in &page.items {
                let pid = u32::try_from(info.pid).unwrap_or(0);
                alive.push(Alive {
                    child: self.child(info.process),
                    pid,
                    baseline: None,
                });
            }
            if !page.more || page.items.is_empty() {
                return Ok(alive);
            }
        }
    }

    /// Asks for a child's output, to be read in place if that can be. A process that is not there is told
    /// as a notice.
    pub(super) fn follow(&mut self, process: ProcessId, from: Sequence) -> Result<(), Stop> {
        let access = self.in_place.access();
        if let Err(error) = self.ask_for_output(process, from, access)? {
            self.notices.push_back(Notice::NotFollowed(process, error));
        }
        Ok(())
    }

    fn ask_for_output(
        &mut self,
        process: ProcessId,
        from: Sequence,
        access: Access,
    ) -> Result<Result<Reply, ErrorReply>, Stop> {
        let credit_bytes = self.credit_bytes;
        self.in_place.forget(process);
        if access == Access::InPlace {
            let mapped = FollowMapped {
                process,
                from,
                credit_bytes,
            };
            match self.ask(&mapped.into())? {
                // It was upgraded, and then to an older one.
                Err(error) if error.code == ErrorCode::UNKNOWN_KIND => self.in_place.not_offered(),
                answer => return Ok(answer),
            }
        }
        let follow = Follow {
            process,
            from,
            credit_bytes,
        };
        self.ask(&follow.into())
    }

    /// Goes on with processes of which something could not be read in place.
    fn follow_anew(&mut self) -> Result<(), Stop> {
        while let Some((process, from, access)) = self.in_place.next_anew() {
            let answer = self.ask_for_output(process, from, access)?;
            let said = self.in_place.followed(process);
            match answer {
                Ok(_) => self.notices.push_back(Notice::FollowedAnew(process)),
                Err(error) => {
                    // What was said last is all that will ever be known of it.
                    let said = said.into_iter().flat_map(|anew| anew.said);
                    self.notices.extend(said.map(Notice::Event));
                    self.notices.push_back(Notice::NotFollowed(process, error));
                }
            }
        }
        Ok(())
    }

    /// A child is not there any more.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.in_place.forget_all(process);
    }

    /// Lets more of a child's output come.
    pub(super) fn grant(&mut self, process: ProcessId, credit_bytes: u64) -> Result<(), Stop> {
        self.connection
            .send(
                &Grant {
                    process,
                    credit_bytes,
                }
                .into(),
            )
            .map_err(broken)?;
        self.flush(Instant::now() + ANSWER_TIMEOUT)
    }

    /// What the kernel said, if something has arrived. Does not wait.
    pub(super) fn poll_notice(&mut self) -> Result<Option<Notice>, Stop> {
        if self.notices.is_empty() {
            self.take()?;
        }
        Ok(self.notices.pop_front())
    }

    /// Whether something has been read that nobody has asked for with [`Self::poll_notice`]: what arrives
    /// while an answer is awaited is kept, and the socket does not tell of it again.
    pub(super) fn has_notices(&mut self) -> Result<bool, Stop> {
        self.take()?;
        Ok(!self.notices.is_empty())
    }

    /// Reads once what has arrived. `false` if nothing has.
    pub(super) fn receive(&mut self) -> Result<bool, Stop> {
        let space = self.connection.space();
        match receive_with_descriptors(&self.socket, space, &mut self.descriptors) {
            Ok(0) => Err(broken("the kernel closed the session")),
            Ok(count) => {
                self.connection.advance(count);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(broken(error)),
        }
    }

    /// These go along with the next commit, or before the acknowledgement of anything that was read.
    pub(super) fn also_commit(&mut self, values: Vec<ValueChange>) {
        self.besides.extend(values);
    }

    /// Commits what no other commit has taken along.
    pub(super) fn commit_rest(&mut self) -> Result<(), Stop> {
        if self.besides.is_empty() {
            return Ok(());
        }
        let values = std::mem::take(&mut self.besides);
        let request = Commit {
            values,
            ..Commit::default()
        };
        crash_point("line: before it is noted");
        let answer = self.call(&request.into()).map(drop);
        crash_point("line: after it is noted");
        answer
    }

    fn call(&mut self, request: &Request) -> Result<Reply, Stop> {
        self.ask(request)?.map_err(broken)
    }

    fn ask(&mut self, request: &Request) -> Result<Result<Reply, ErrorReply>, Stop> {
        let id = self.connection.send(request).map_err(broken)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        self.flush(deadline)?;
        loop {
            while let Some(incoming) = self.connection.poll_incoming().map_err(broken)? {
                match incoming {
                    Incoming::Reply { request, result } if request == id => return Ok(result),
                    other => {
                        let Self {
                            socket,
                            descriptors,
                            in_place,
                            notices,
                            ..
                        } = self;
                        let kept = in_place.handle(socket, descriptors, other, notices);
                        kept.map_err(broken)?;
                    }
                }
            }
            self.wait(deadline)?;
        }
    }

    fn take(&mut self) -> Result<(), Stop> {
        while let Some(incoming) = self.connection.poll_incoming().map_err(broken)? {
            let Self {
                socket,
                descriptors,
                in_place,
                notices,
                ..
            } = self;
            let kept = in_place.handle(socket, descriptors, incoming, notices);
            kept.map_err(broken)?;
        }
        self.follow_anew()
    }

    fn flush(&mut self, deadline: Instant) -> Result<(), Stop> {
        let bytes = self.connection.take_outgoing();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // The kernel may be waiting for us to read.
                    self.ready(PollFlags::POLLIN | PollFlags::POLLOUT, deadline)?;
                    self.receive()?;
                }
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    /// Waits for more to arrive, and reads it.
    fn wait(&mut self, deadline: Instant) -> Result<(), Stop> {
        self.ready(PollFlags::POLLIN, deadline)?;
        self.receive()?;
        Ok(())
    }

    fn ready(&self, flags: PollFlags, deadline: Instant) -> Result<(), Stop> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(broken(format!(
                "the kernel did not answer within {ANSWER_TIMEOUT:?}"
            )));
        }
        let mut polled = [PollFd::new(self.socket.as_fd(), flags)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }
}

impl Keeper for Session {
    fn commit(&mut self, commit: disk::Commit) -> Result<(), Stop> {
        let values = commit.values.into_iter();
        let values = values.map(|(key, value)| ValueChange {
            key,
            value: value.map(ByteString),
        });
        let outputs = commit.acknowledgements.into_iter();
        let outputs = outputs.map(|(child, through)| OutputAcknowledgement {
            process: child.process,
            through,
        });
        let besides = std::mem::take(&mut self.besides);
        let notes = !besides.is_empty();
        let request = Commit {
            values: values.chain(besides).collect(),
            outputs: outputs.collect(),
            ends: Vec::new(),
        };
        crash_point("log: before the commit");
        if notes {
            crash_point("line: before it is noted");
        }
        let answer = self.call(&request.into()).map(drop);
        crash_point("log: after the commit");
        if notes {
            crash_point("line: after it is noted");
        }
        answer
    }
}

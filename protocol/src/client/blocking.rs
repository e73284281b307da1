//! A client that waits, on a unix or TCP socket of the standard library.

use super::connection::{Connection, ConnectionError, Incoming};
use super::mapped::MappedRing;
use crate::codec::CodecError;
use crate::error::ErrorReply;
use crate::event::{Event, RingPassed};
use crate::hello::{Welcome, capability};
use crate::ids::{Fence, ProcessId, RequestId, Sequence};
use crate::places::Address;
use crate::record::RecordHeader;
use crate::reply::{LeaseTaken, Reply, SocketMade, SocketPassed, Spawned};
use crate::request::{
    CloseSocket, Commit, FetchSocket, Follow, FollowMapped, Grant, ListProcesses, ListSockets,
    ListValues, MakeSocket, Request, Signal, SignalTarget, Spawn, Status, Subscribe, TakeLease,
    Unfollow,
};
use crate::spec::{ProcessSpec, SocketSpec};
use crate::status::{KernelStatus, ProcessInfo, SocketInfo, ValueInfo};
use crate::sys::{Descriptors, receive_with_descriptors};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Notices that wait to be fetched while a reply is awaited are kept up to this many bytes of
/// output; past it the session is over, because the caller asked for more than it reads.
const BACKLOG_BYTES_MAX: usize = 64 << 20;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers there, or not as ourselves.
    #[error("cannot reach the kernel at {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// Why.
        source: std::io::Error,
    },
    /// The session broke.
    #[error("the session with the kernel broke: {0}")]
    Io(#[from] std::io::Error),
    /// The kernel closed the session.
    #[error("the kernel closed the session{0}")]
    Closed(String),
    /// No answer in time.
    #[error("the kernel did not answer within {0:?}")]
    TimedOut(Duration),
    /// The conversation went wrong.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A request is too large.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The kernel refused; the session goes on.
    #[error("{0}")]
    Refused(ErrorReply),
    /// The answer is not of the kind that belongs to the request.
    #[error("the kernel answered {0} where that makes no sense")]
    Unexpected(&'static str),
    /// A descriptor was announced and did not arrive: this process has as many open as it may have.
    #[error("a descriptor of the kernel could not be received: too many are open in this process")]
    DescriptorLost,
    /// More notices arrived than the caller fetches.
    #[error("more than {BACKLOG_BYTES_MAX} bytes of output wait to be fetched")]
    Backlog,
}

/// Something that happened, in the order in which the kernel said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An output record of a followed process.
    Output {
        /// Whose.
        process: ProcessId,
        /// Stream, number, time, offset.
        header: RecordHeader,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Anything else.
    Event(Event),
}

enum Socket {
    Unix(UnixStream, Descriptors),
    Tcp(TcpStream),
}

impl Socket {
    fn set_timeout(&self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self {
            Self::Unix(s, _) => s
                .set_read_timeout(timeout)
                .and_then(|()| s.set_write_timeout(timeout)),
            Self::Tcp(s) => s
                .set_read_timeout(timeout)
                .and_then(|()| s.set_write_timeout(timeout)),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(s, descriptors) => receive_with_descriptors(s, into, descriptors),
            Self::Tcp(s) => s.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Unix(s, _) => s.write_all(bytes),
            Self::Tcp(s) => s.write_all(bytes),
        }
    }
}

impl Drop for Socket {
    /// A process that another thread is just starting has a copy of the descriptor until it executes
    /// its program; the session shall not live on in that copy.
    fn drop(&mut self) {
        let _ = match self {
            Self::Unix(s, _) => s.shutdown(Shutdown::Both),
            Self::Tcp(s) => s.shutdown(Shutdown::Both),
        };
    }
}

/// One session with a kernel. Calls wait for their answers; what the kernel says in between is kept
/// for [`Client::next_notice`].
pub struct Client {
    socket: Socket,
    connection: Connection,
    welcome: Welcome,
    notices: VecDeque<Notice>,
    notice_bytes: usize,
    timeout: Option<Duration>,
}

impl Client {
    /// Connects and greets. `name` is what `sessions` will show ("program/version"). `timeout`
    /// bounds this and every later call; `None` waits for ever.
    ///
    /// # Errors
    /// When nobody answers, or not as a kernel, or the peer refuses.
    pub fn connect(
        address: &Address,
        name: &str,
        timeout: Option<Duration>,
    ) -> Result<Self, ClientError> {
        let broken = |source| ClientError::Connect {
            address: address.clone(),
            source,
        };
        let socket = match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(broken)?;
                Socket::Unix(stream, Descriptors::new())
            }
            Address::Tcp(to) => {
                let stream = TcpStream::connect(to).map_err(broken)?;
                stream.set_nodelay(true).map_err(broken)?;
                Socket::Tcp(stream)
            }
        };
        let capabilities = match &socket {
            Socket::Unix(..) => capability::DESCRIPTORS | capability::MAPPED_OUTPUT,
            Socket::Tcp(_) => 0,
        };
        let mut client = Self {
            socket,
            connection: Connection::new(name, capabilities)?,
            welcome: Welcome {
                version: 0,
                capabilities: 0,
                release: String::new(),
                pid: 0,
                generation: 0,
                epoch: 0,
                instance: 0,
                started_ns: 0,
                session: 0,
                newest_fence: Fence::NONE,
            },
            notices: VecDeque::new(),
            notice_bytes: 0,
            timeout,
        };
        client.flush()?;
        let deadline = client.deadline();
        let mut welcome = None;
        while welcome.is_none() {
            match client.connection.poll_incoming()? {
                Some(Incoming::Welcome(greeting)) => welcome = Some(greeting),
                Some(_) => return Err(ClientError::Unexpected("before its welcome")),
                None => client.receive(deadline)?,
            }
        }
        if let Some(welcome) = welcome {
            client.welcome = welcome;
        }
        Ok(client)
    }

    /// What the kernel said when the session began.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The lease under which all further requests act.
    pub fn set_fence(&mut self, fence: Fence) {
        self.connection.set_fence(fence);
    }

    /// The socket, to wait for notices together with other descriptors. Fetch with
    /// [`Self::try_notice`] until it has none before waiting.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(s, _) => s.as_fd(),
            Socket::Tcp(s) => s.as_fd(),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the kernel says no; the session is of no further use after
    /// any other error.
    pub fn call(&mut self, request: impl Into<Request>) -> Result<Reply, ClientError> {
        let id = self.connection.send(&request.into())?;
        self.flush()?;
        self.wait_for(id)
    }

    /// Sends a request without waiting; its answer is fetched with [`Self::wait_for`], in the order
    /// of sending.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn send(&mut self, request: impl Into<Request>) -> Result<RequestId, ClientError> {
        let id = self.connection.send(&request.into())?;
        self.flush()?;
        Ok(id)
    }

    /// Waits for the answer to a request that was sent.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn wait_for(&mut self, id: RequestId) -> Result<Reply, ClientError> {
        let deadline = self.deadline();
        loop {
            while let Some(incoming) = self.connection.poll_incoming()? {
                match incoming {
                    Incoming::Reply { request, result } if request == id => {
                        return result.map_err(ClientError::Refused);
                    }
                    Incoming::Reply { .. } => {}
                    other => keep(&mut self.notices, &mut self.notice_bytes, other)?,
                }
            }
            self.receive(deadline)?;
        }
    }

    /// The next notice, waiting for it up to `timeout` (`None`: for ever); `None` when none came.
    ///
    /// # Errors
    /// When the session broke.
    pub fn next_notice(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<Notice>, ClientError> {
        let deadline = timeout.map(|t| Instant::now().checked_add(t).unwrap_or_else(Instant::now));
        loop {
            if let Some(notice) = self.buffered_notice()? {
                return Ok(Some(notice));
            }
            match self.receive(deadline) {
                Err(ClientError::TimedOut(_)) => return Ok(None),
                other => other?,
            }
        }
    }

    /// The next notice that can be had without waiting.
    ///
    /// # Errors
    /// When the session broke.
    pub fn try_notice(&mut self) -> Result<Option<Notice>, ClientError> {
        self.next_notice(Some(Duration::ZERO))
    }

    fn buffered_notice(&mut self) -> Result<Option<Notice>, ClientError> {
        while self.notices.is_empty() {
            match self.connection.poll_incoming()? {
                Some(incoming) => keep(&mut self.notices, &mut self.notice_bytes, incoming)?,
                None => return Ok(None),
            }
        }
        let notice = self.notices.pop_front();
        if let Some(Notice::Output { data, .. }) = &notice {
            self.notice_bytes = self.notice_bytes.saturating_sub(data.len());
        }
        Ok(notice)
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout
            .map(|t| Instant::now().checked_add(t).unwrap_or_else(Instant::now))
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        self.socket.set_timeout(self.timeout)?;
        let bytes = self.connection.take_outgoing();
        self.socket.write_all(&bytes)?;
        Ok(())
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        // A timeout of zero would mean "for ever" to the socket.
        let left = left.map(|l| l.max(Duration::from_micros(1)));
        self.socket.set_timeout(left)?;
        match self.socket.read(self.connection.space()) {
            Ok(0) => Err(ClientError::Closed(String::new())),
            Ok(count) => {
                self.connection.advance(count);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(ClientError::TimedOut(self.timeout.unwrap_or_default()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn keep(
    notices: &mut VecDeque<Notice>,
    bytes: &mut usize,
    incoming: Incoming<'_>,
) -> Result<(), ClientError> {
    match incoming {
        Incoming::Event(event) => notices.push_back(Notice::Event(event)),
        Incoming::Output(output) => {
            let process = output.process;
            for record in output.records() {
                *bytes = bytes.saturating_add(record.data.len());
                let data = record.data.to_vec();
                notices.push_back(Notice::Output {
                    process,
                    header: record.header,
                    data,
                });
            }
            if *bytes > BACKLOG_BYTES_MAX {
                return Err(ClientError::Backlog);
            }
        }
        Incoming::Welcome(_) | Incoming::Reply { .. } => {}
    }
    Ok(())
}

macro_rules! expect {
    ($reply:expr, $kind:ident) => {
        match $reply? {
            Reply::$kind(reply) => Ok(reply),
            other => Err(ClientError::Unexpected(other.name())),
        }
    };
}

/// The everyday requests by name; all fail as [`Client::call`] does.
impl Client {
    /// The kernel in numbers.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn status(&mut self) -> Result<KernelStatus, ClientError> {
        expect!(self.call(Status {}), KernelStatus)
    }

    /// Starts a process; a repeated `key` finds the one that was started before.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn spawn(&mut self, key: &str, spec: ProcessSpec) -> Result<Spawned, ClientError> {
        expect!(
            self.call(Spawn {
                key: key.to_owned(),
                spec
            }),
            Spawned
        )
    }

    /// Signals a process; answers how many were reached.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn signal(
        &mut self,
        process: ProcessId,
        signal: i32,
        target: SignalTarget,
    ) -> Result<u32, ClientError> {
        expect!(
            self.call(Signal {
                process,
                signal,
                target
            }),
            Signalled
        )
        .map(|r| r.count)
    }

    /// Sets values and acknowledges.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn commit(&mut self, commit: Commit) -> Result<(), ClientError> {
        expect!(self.call(commit), Done).map(|_| ())
    }

    /// Asks for a process's output from a record on (0: the oldest kept); see [`Follow`].
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn follow(
        &mut self,
        process: ProcessId,
        from: Sequence,
        credit_bytes: u64,
    ) -> Result<(), ClientError> {
        expect!(
            self.call(Follow {
                process,
                from,
                credit_bytes
            }),
            Done
        )
        .map(|_| ())
    }

    /// As [`Self::follow`], to read output in place: much of it comes as
    /// [`crate::event::MappedOutput`], which is for [`MappedRing::copy`]. What arrived of this process and was
    /// not fetched yet is forgotten, as it comes again.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn follow_mapped(
        &mut self,
        process: ProcessId,
        from: Sequence,
        credit_bytes: u64,
    ) -> Result<(), ClientError> {
        let answer = self.call(FollowMapped {
            process,
            from,
            credit_bytes,
        });
        expect!(answer, Done)?;
        self.notices.retain(|notice| match notice {
            Notice::Output { process: of, .. } => *of != process,
            Notice::Event(Event::MappedOutput(output)) => output.process != process,
            Notice::Event(Event::Gap(gap)) => gap.process != process,
            Notice::Event(Event::StreamEnded(ended)) => ended.process != process,
            // Descriptors have to be fetched in their order.
            Notice::Event(_) => true,
        });
        Ok(())
    }

    /// The ring of which a [`crate::event::RingPassed`] has just been fetched: each once, in their order.
    ///
    /// # Errors
    /// [`ClientError::DescriptorLost`] when Linux could not give it to us, or it is something else.
    pub fn take_ring(&mut self, passed: &RingPassed) -> Result<MappedRing, ClientError> {
        let descriptor = match &mut self.socket {
            Socket::Unix(_, descriptors) => descriptors.pop_front(),
            Socket::Tcp(_) => None,
        };
        let ring = descriptor.map(|descriptor| MappedRing::new(descriptor, passed));
        ring.and_then(Result::ok).ok_or(ClientError::DescriptorLost)
    }

    /// Gives credit for more output.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn grant(&mut self, process: ProcessId, credit_bytes: u64) -> Result<(), ClientError> {
        self.send(Grant {
            process,
            credit_bytes,
        })
        .map(|_| ())
    }

    /// Wants a process's output no longer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn unfollow(&mut self, process: ProcessId) -> Result<(), ClientError> {
        expect!(self.call(Unfollow { process }), Done).map(|_| ())
    }

    /// Wants to hear of every start and end.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn subscribe(&mut self) -> Result<(), ClientError> {
        expect!(self.call(Subscribe {}), Done).map(|_| ())
    }

    /// Makes a socket or finds the equal one.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn make_socket(&mut self, spec: SocketSpec) -> Result<SocketMade, ClientError> {
        expect!(self.call(MakeSocket { spec }), SocketMade)
    }

    /// Closes a socket.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn close_socket(&mut self, name: &str) -> Result<(), ClientError> {
        expect!(
            self.call(CloseSocket {
                name: name.to_owned()
            }),
            Done
        )
        .map(|_| ())
    }

    /// Whether [`Self::fetch_socket`] can work: the kernel passes descriptors over this session.
    #[must_use]
    pub fn passes_descriptors(&self) -> bool {
        self.welcome.capabilities & capability::DESCRIPTORS != 0
    }

    /// Asks for the descriptor of a socket that the kernel holds. It is close-on-exec and shares its
    /// state (such as `O_NONBLOCK`) with the kernel's own.
    ///
    /// # Errors
    /// As [`Client::call`]; [`ClientError::DescriptorLost`] when Linux could not give it to us.
    pub fn fetch_socket(&mut self, name: &str) -> Result<(SocketPassed, OwnedFd), ClientError> {
        let name = name.to_owned();
        let passed = expect!(self.call(FetchSocket { name }), SocketPassed)?;
        let descriptor = match &mut self.socket {
            Socket::Unix(_, descriptors) => descriptors.pop_front(),
            Socket::Tcp(_) => None,
        };
        descriptor
            .map(|descriptor| (passed, descriptor))
            .ok_or(ClientError::DescriptorLost)
    }

    /// Takes a lease and lets all further requests of this session act under it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn take_lease(&mut self, request: TakeLease) -> Result<Fence, ClientError> {
        let LeaseTaken { fence } = expect!(self.call(request), LeaseTaken)?;
        self.set_fence(fence);
        Ok(fence)
    }

    /// All processes.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn processes(&mut self) -> Result<Vec<ProcessInfo>, ClientError> {
        let mut all: Vec<ProcessInfo> = Vec::new();
        loop {
            let after = all.last().map(|p| p.process).unwrap_or_default();
            let page = expect!(
                self.call(ListProcesses {
                    after,
                    limit: u32::MAX
                }),
                Processes
            )?;
            all.extend(page.items);
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// All sockets.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn sockets(&mut self) -> Result<Vec<SocketInfo>, ClientError> {
        let mut all: Vec<SocketInfo> = Vec::new();
        loop {
            let after = all.last().map(|s| s.spec.name.clone()).unwrap_or_default();
            let page = expect!(
                self.call(ListSockets {
                    after,
                    limit: u32::MAX
                }),
                Sockets
            )?;
            all.extend(page.items);
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// All values whose keys begin with `prefix`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn values(&mut self, prefix: &str) -> Result<Vec<ValueInfo>, ClientError> {
        let mut all: Vec<ValueInfo> = Vec::new();
        loop {
            let after = all.last().map(|v| v.key.clone()).unwrap_or_default();
            let request = ListValues {
                prefix: prefix.to_owned(),
                after,
                limit: u32::MAX,
            };
            let page = expect!(self.call(request), Values)?;
            all.extend(page.items);
            if !page.more {
                return Ok(all);
            }
        }
    }
}

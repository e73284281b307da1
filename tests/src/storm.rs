//! A load whose every byte, end, value and connection is known beforehand, and a client that goes on
//! with it whatever happens to the kernel.

use crate::kernel::pid_in;
use crate::process::{self, Handle};
use crate::{Kernel, pattern, puppet, wait};
use kingpole_protocol::client::blocking::{Client, ClientError, Notice};
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::Event;
use kingpole_protocol::places::Address;
use kingpole_protocol::record::{RecordHeader, Stream};
use kingpole_protocol::request::{Commit, OutputAcknowledgement, ValueChange};
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::status::{EndStatus, KernelStatus};
use kingpole_protocol::{ByteString, ProcessId, Sequence};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Credit for each followed process, bytes.
const CREDIT: u64 = 1 << 20;

/// Random numbers from a seed (splitmix64; public domain, S. Vigna).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// A child that was asked for, and what must come of it.
#[derive(Debug)]
struct Track {
    name: String,
    next: Sequence,
    seen: BTreeMap<Stream, u64>,
    expected: BTreeMap<Stream, u64>,
    complete: BTreeMap<Stream, u64>,
    status: EndStatus,
    end: Option<EndStatus>,
    follows: bool,
}

impl Track {
    fn is_complete(&self) -> bool {
        self.complete.len() == 2 && self.end.is_some()
    }
}

/// What has been verified.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Children from start to end.
    pub children: u64,
    /// Bytes of their output.
    pub bytes: u64,
    /// Values that were stored.
    pub values: u64,
    /// Programs that could not be started, as was to be expected.
    pub failures: u64,
    /// Connections to the held socket.
    pub connections: u64,
    /// Sessions that broke.
    pub reconnects: u64,
}

/// The client.
pub struct Driver<'a> {
    kernel: &'a Kernel,
    client: Option<Client>,
    dice: Dice,
    tracks: BTreeMap<ProcessId, Track>,
    started: u64,
    value: u64,
    server: Option<(std::net::SocketAddr, String)>,
    /// What has been verified so far.
    pub verified: Verified,
}

impl<'a> Driver<'a> {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(kernel: &'a Kernel, seed: u64) -> Self {
        Self {
            kernel,
            client: None,
            dice: Dice::new(seed),
            tracks: BTreeMap::new(),
            started: 0,
            value: 0,
            server: None,
            verified: Verified::default(),
        }
    }

    /// Asks again and again until the kernel answers.
    ///
    /// # Panics
    /// When it does not, or refuses.
    #[track_caller]
    pub fn insist<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> T {
        match self.insist_or_refused(what, &mut ask) {
            Ok(answer) => answer,
            Err(error) => panic!("{what}: {error}; the kernel's log:\n{}", tail(self.kernel)),
        }
    }

    #[track_caller]
    fn insist_or_refused<T>(
        &mut self,
        what: &str,
        ask: &mut impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, kingpole_protocol::ErrorReply> {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < wait::PATIENCE {
            let client = match &mut self.client {
                Some(client) => client,
                none => match self.kernel.try_client("storm/1") {
                    Ok(client) => {
                        for track in self.tracks.values_mut() {
                            track.follows = false;
                        }
                        none.insert(client)
                    }
                    Err(error) => {
                        // Connecting as such never fails: the socket is held.
                        assert!(
                            !matches!(error, ClientError::Connect { .. }),
                            "{what}: {error}"
                        );
                        last = error.to_string();
                        continue;
                    }
                },
            };
            match ask(client) {
                Ok(answer) => return Ok(answer),
                Err(ClientError::Refused(error)) if error.code == ErrorCode::PENDING => {
                    last = error.to_string();
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(ClientError::Refused(error)) => return Err(error),
                Err(error) => {
                    last = error.to_string();
                    self.client = None;
                    self.verified.reconnects += 1;
                }
            }
        }
        panic!(
            "{what}: not within {:?}; last: {last}; log:\n{}",
            wait::PATIENCE,
            tail(self.kernel)
        );
    }

    /// Makes a socket and starts a child that answers on it, for as long as the storm lasts.
    pub fn start_server(&mut self) {
        let spec = SocketSpec {
            name: "served".to_owned(),
            address: SocketAddress::Inet {
                host: "127.0.0.1".to_owned(),
                port: 0,
            },
            kind: SocketKind::Stream,
            backlog: 100,
            interface: None,
            reuseport: false,
        };
        let made = self.insist("a socket", |client| client.make_socket(spec.clone()));
        let SocketAddress::Inet { port, .. } = made.socket.spec.address else {
            panic!("{made:?}");
        };
        let mut server = puppet::spec("server", &["serve 3", "wait"]);
        server.listen = vec!["served".to_owned()];
        let spawned = self.insist("a server", |client| client.spawn("server", server.clone()));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        self.server = Some((address, spawned.process.pid.to_string()));
        self.visit_server();
    }

    fn visit_server(&mut self) {
        let Some((address, pid)) = &self.server else {
            return;
        };
        let mut answer = String::new();
        let mut connection =
            TcpStream::connect(address).expect("the held socket takes connections");
        connection
            .set_read_timeout(Some(wait::PATIENCE))
            .expect("a timeout");
        connection
            .read_to_string(&mut answer)
            .expect("the server answers");
        assert_eq!(answer.trim(), pid, "the same server as in the beginning");
        self.verified.connections += 1;
    }

    /// One random act of a client.
    pub fn act(&mut self) {
        match self.dice.below(10) {
            0 => self.start_failing(),
            1 => self.store_value(),
            2 => self.visit_server(),
            _ if self.tracks.len() < 40 => self.start_child(),
            _ => {}
        }
        self.read(Duration::from_millis(1));
    }

    fn start_child(&mut self) {
        self.started += 1;
        let name = format!("child {}", self.started);
        let mut script = Vec::new();
        let mut expected: BTreeMap<Stream, u64> = Stream::ALL.map(|stream| (stream, 0)).into();
        for _ in 0..=self.dice.below(4) {
            let stream = Stream::ALL[usize::try_from(self.dice.below(2)).expect("0 or 1")];
            let bytes = match self.dice.below(3) {
                0 => 1 + self.dice.below(40),
                1 => 1 + self.dice.below(5000),
                _ => 1 + self.dice.below(70_000),
            };
            let block = 1 + self.dice.below(bytes.min(20_000));
            let word = match stream {
                Stream::Stdout => "out",
                Stream::Stderr => "err",
            };
            let from = expected.entry(stream).or_default();
            script.push(format!("flood {word} {from} {bytes} {block}"));
            *from += bytes;
        }
        let status = if self.dice.below(4) == 0 {
            script.push("die 9".to_owned());
            EndStatus::Signaled {
                signal: 9,
                core_dumped: false,
            }
        } else {
            let code = i32::try_from(self.dice.below(90)).expect("small");
            script.push(format!("exit {code}"));
            EndStatus::Exited(code)
        };
        let words = script.iter().map(String::as_str).collect::<Vec<_>>();
        let spec = puppet::spec(&name, &words);
        let spawned = self.insist(&name, |client| client.spawn(&name, spec.clone()));
        let track = Track {
            name,
            next: Sequence(0),
            seen: BTreeMap::new(),
            expected,
            complete: BTreeMap::new(),
            status,
            end: None,
            follows: false,
        };
        let known = self.tracks.insert(spawned.process.process, track);
        assert!(known.is_none(), "a number was given twice: {known:?}");
    }

    fn start_failing(&mut self) {
        self.started += 1;
        let name = format!("nothing {}", self.started);
        let spec = puppet::program(&name, &["/no/such/program"]);
        let failed = self.insist_or_refused(&name, &mut |client: &mut Client| {
            client.spawn(&name, spec.clone())
        });
        let error = failed.expect_err("there is no such program");
        assert_eq!(error.code, ErrorCode::SPAWN_FAILED, "{error}");
        self.verified.failures += 1;
    }

    fn store_value(&mut self) {
        let value = self.value + 1;
        let change = |value: u64| ValueChange {
            key: "counter".to_owned(),
            value: Some(ByteString(value.to_string().into_bytes())),
        };
        let held = self.insist("values", |client| client.values("counter"));
        let held = held.first().map_or(0, |item| {
            String::from_utf8_lossy(&item.value.0)
                .parse()
                .expect("a number")
        });
        assert_eq!(held, self.value, "a value that was answered for is there");
        self.insist("store a value", |client| {
            let values = vec![change(value)];
            client.commit(Commit {
                values,
                ..Commit::default()
            })
        });
        self.value = value;
        self.verified.values += 1;
    }

    /// Stores one large value over and over, until the journal was compacted.
    pub fn fill_journal(&mut self) {
        for round in 0..30_u8 {
            let change = ValueChange {
                key: "large".to_owned(),
                value: Some(ByteString(vec![round; 8000])),
            };
            self.insist("store a large value", |client| {
                client.commit(Commit {
                    values: vec![change.clone()],
                    ..Commit::default()
                })
            });
            let held = self.insist("values", |client| client.values("large"));
            assert_eq!(held[0].value.0, vec![round; 8000], "a large value");
        }
    }

    /// Follows whoever is not followed, and takes notices for about `time`.
    pub fn read(&mut self, time: Duration) {
        let all = self.tracks.iter().filter(|(_, track)| !track.follows);
        let wanted = all
            .map(|(process, track)| (*process, track.next))
            .collect::<Vec<_>>();
        if self.client.is_none() || !wanted.is_empty() {
            self.insist("subscribe", Client::subscribe);
            // What ended while nobody was subscribed.
            let held = self.insist("the list", Client::processes);
            for process in held {
                if let Some(track) = self.tracks.get_mut(&process.process) {
                    track.end = track.end.or(process.end.map(|end| end.status));
                }
            }
        }
        for (process, next) in wanted {
            self.insist("follow", |client| client.follow(process, next, CREDIT));
            if let Some(track) = self.tracks.get_mut(&process) {
                track.follows = true;
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < time {
            let Some(client) = &mut self.client else {
                return;
            };
            match client.next_notice(Some(Duration::from_millis(1))) {
                Ok(Some(notice)) => self.take(notice),
                Ok(None) => break,
                Err(_) => {
                    self.client = None;
                    self.verified.reconnects += 1;
                    return;
                }
            }
        }
        self.acknowledge();
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Output {
                process,
                header,
                data,
            } => self.take_record(process, header, &data),
            Notice::Event(Event::StreamEnded(ended)) => {
                if let Some(track) = self.tracks.get_mut(&ended.process) {
                    track.complete.insert(ended.stream, ended.bytes);
                }
            }
            Notice::Event(Event::ProcessEnded(ended)) => {
                if let Some(track) = self.tracks.get_mut(&ended.process) {
                    track.end = Some(ended.end.status);
                }
            }
            Notice::Event(Event::Gap(gap)) => panic!("a gap: {gap:?}"),
            Notice::Event(_) => {}
        }
    }

    fn take_record(&mut self, process: ProcessId, header: RecordHeader, data: &[u8]) {
        let Some(track) = self.tracks.get_mut(&process) else {
            return;
        };
        let name = &track.name;
        if track.next != Sequence(0) {
            assert_eq!(header.sequence, track.next, "{name}: sequence");
        }
        let seen = track.seen.entry(header.stream).or_default();
        assert_eq!(
            header.stream_offset, *seen,
            "{name}: offset in {:?}",
            header.stream
        );
        let different = pattern::first_difference(data, header.stream_offset);
        assert_eq!(different, None, "{name}: {:?} differs", header.stream);
        *seen += data.len() as u64;
        track.next = header.sequence.next();
        self.verified.bytes += data.len() as u64;
        if let Some(client) = &mut self.client
            && client.grant(process, header.credit_bytes()).is_err()
        {
            self.client = None;
        }
    }

    /// Acknowledges what was read, and takes leave of whoever is complete.
    fn acknowledge(&mut self) {
        let mut commit = Commit::default();
        for (process, track) in &self.tracks {
            if let Some(through) = track.next.0.checked_sub(1).filter(|through| *through > 0) {
                commit.outputs.push(OutputAcknowledgement {
                    process: *process,
                    through: Sequence(through),
                });
            }
            if track.is_complete() {
                commit.ends.push(*process);
            }
        }
        if commit == Commit::default() {
            return;
        }
        self.insist("acknowledge", |client| client.commit(commit.clone()));
        for process in commit.ends {
            if let Some(track) = self.tracks.remove(&process) {
                let Track {
                    name,
                    seen,
                    expected,
                    status,
                    end,
                    ..
                } = track;
                for (stream, bytes) in expected {
                    let seen = seen.get(&stream).copied().unwrap_or_default();
                    assert_eq!(seen, bytes, "{name}: bytes of {stream:?}");
                }
                assert_eq!(end, Some(status), "{name}: how it ended");
                self.verified.children += 1;
            }
        }
    }

    /// Reads until every child is complete.
    pub fn finish(&mut self) {
        let begun = Instant::now();
        while !self.tracks.is_empty() {
            self.read(Duration::from_millis(20));
            assert!(
                begun.elapsed() < wait::PATIENCE,
                "not complete: {:?}; log:\n{}",
                self.tracks.values().next(),
                tail(self.kernel)
            );
        }
        self.store_value();
        self.visit_server();
    }

    /// Who serves and who guards.
    pub fn status(&mut self) -> KernelStatus {
        self.insist("status", Client::status)
    }
}

/// The end of a kernel's log.
#[must_use]
pub fn tail(kernel: &Kernel) -> String {
    let log = kernel.log();
    let mut lines = log.lines().rev().take(40).collect::<Vec<_>>();
    lines.reverse();
    lines.join("\n")
}

/// Kills guards and kernels.
pub struct Killer {
    runtime_dir: PathBuf,
    dice: Dice,
    /// Kernels that were killed.
    pub kernels: u64,
    /// Guards that were killed.
    pub guards: u64,
}

impl Killer {
    /// Has killed nobody.
    #[must_use]
    pub fn new(kernel: &Kernel, seed: u64) -> Self {
        Self {
            runtime_dir: kernel.scratch().runtime_dir(),
            dice: Dice::new(seed),
            kernels: 0,
            guards: 0,
        }
    }

    /// Kills the kernel, at whatever it is doing.
    pub fn kill_kernel(&mut self) {
        let Some(kernel) = pid_in(&self.runtime_dir, "kernel.pid") else {
            return;
        };
        let guard = pid_in(&self.runtime_dir, "guard.pid");
        let Ok(handle) = Handle::open(kernel) else {
            return;
        };
        // The file may be a moment old, and the number another one's.
        if process::parent(kernel).is_some() && process::parent(kernel) == guard {
            handle.signal(libc::SIGKILL).expect("kill the kernel");
            self.kernels += 1;
        }
    }

    /// Kills the guard once a kernel serves, and waits until the next one does.
    ///
    /// # Panics
    /// When protection does not come back.
    pub fn kill_guard(&mut self) {
        let before = self.serving();
        let guard = Handle::open(before.guard_pid).expect("the guard is there");
        guard.signal(libc::SIGKILL).expect("kill the guard");
        self.guards += 1;
        wait::until("the kernel has become the guard", || {
            let now = self.serving();
            if now.guard_pid == before.pid {
                Ok(())
            } else {
                Err(format!("{now:?}, before {before:?}"))
            }
        });
    }

    /// The kernel that serves; it has a guard.
    #[must_use]
    pub fn serving(&self) -> KernelStatus {
        wait::until("a kernel serves", || {
            let address = Address::kernel_in(&self.runtime_dir);
            let client = Client::connect(&address, "killer/1", Some(wait::PATIENCE));
            let mut client = client.map_err(|e| e.to_string())?;
            client.status().map_err(|e| e.to_string())
        })
    }

    /// Waits 0 to `most` microseconds.
    pub fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_micros(self.dice.below(most)));
    }

    /// True once in `times`.
    pub fn chance(&mut self, times: u64) -> bool {
        self.dice.below(times) == 0
    }
}

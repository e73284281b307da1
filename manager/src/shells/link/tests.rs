//! The link against a small kernel that speaks real frames but only remembers what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kingpole_protocol::decoder::Decoder;
use kingpole_protocol::event::{LeaseLost, ProcessEnded};
use kingpole_protocol::frame;
use kingpole_protocol::hello::Welcome;
use kingpole_protocol::reply::{
    Done, LeaseTaken, Leases, Processes, Sessions, Sockets, Spawned, Values,
};
use kingpole_protocol::request::Request;
use kingpole_protocol::status::{
    End, EndStatus, LeaseInfo, OutputInfo, ProcessInfo, SessionInfo, ValueInfo,
};
use kingpole_protocol::{ErrorCode, ErrorReply, Fence, ProcessId, RequestId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::engine::{EndCause, Epoch, KernelFacts, Pid};

/// What the fake kernel holds, and what it was asked.
struct FakeKernel {
    listener: UnixListener,
    instance: u64,
    newest_fence: u64,
    /// Fence of the lease, and the pid of its holder if that is not the link under test.
    lease: Option<(Fence, Option<i32>)>,
    values: BTreeMap<String, Vec<u8>>,
    keys: BTreeMap<String, ProcessInfo>,
    spawn_refusals: VecDeque<ErrorCode>,
    asked: Vec<&'static str>,
    /// Goes away with the answer to the request for a lease that was given back just before.
    dies_while_leasing: bool,
}

/// One session of it.
struct Served {
    stream: UnixStream,
    decoder: Decoder,
}

impl Served {
    async fn send(&mut self, bytes: Vec<u8>) {
        self.stream.write_all(&bytes).await.expect("the link reads");
    }

    async fn event<M: frame::Message + serde::Serialize>(&mut self, event: &M) {
        self.send(frame::encode(event, RequestId(0), Fence::NONE).unwrap())
            .await;
    }
}

impl FakeKernel {
    fn new(socket: &Path) -> Self {
        Self {
            listener: UnixListener::bind(socket).unwrap(),
            instance: 77,
            newest_fence: 0,
            lease: None,
            values: BTreeMap::new(),
            keys: BTreeMap::new(),
            spawn_refusals: VecDeque::new(),
            asked: Vec::new(),
            dies_while_leasing: false,
        }
    }

    async fn accept(&mut self) -> Served {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        stream
            .write_all(b"Papa is home. Type \"help\" for commands.\n> ")
            .await
            .unwrap();
        let mut line = vec![0; kingpole_protocol::hello::ATTACH_LINE.len()];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(b"Attached (1 to 1).\n").await.unwrap();
        Served {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// Answers everything until the link has nothing more to ask for a moment, or goes.
    async fn serve(&mut self, served: &mut Served) {
        loop {
            while let Some(frame) = served.decoder.next_frame().unwrap() {
                let (id, fence) = (frame.header.request, frame.header.fence);
                let request = Request::decode(frame.header.kind, frame.body)
                    .unwrap()
                    .unwrap();
                let answer = self.answer(request, id, fence);
                if self.dies_while_leasing && self.asked.ends_with(&["ReleaseLease", "TakeLease"]) {
                    self.dies_while_leasing = false;
                    return;
                }
                served.send(answer).await;
            }
            let count = served
                .stream
                .read(served.decoder.space())
                .await
                .unwrap_or(0);
            served.decoder.advance(count);
            if count == 0 {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request, id: RequestId, fence: Fence) -> Vec<u8> {
        let name = request.name();
        self.asked.push(name);
        let refuse =
            |code| frame::encode(&ErrorReply::new(code, "fake refusal"), id, Fence::NONE).unwrap();
        macro_rules! say {
            ($reply:expr) => {
                frame::encode(&$reply, id, Fence::NONE).unwrap()
            };
        }
        if fence != Fence::NONE && self.lease.is_none_or(|(held, _)| held != fence) {
            return refuse(ErrorCode::FENCED);
        }
        match request {
            Request::Hello(_) => say!(Welcome {
                version: 1,
                capabilities: 0,
                release: "fake".into(),
                pid: 1,
                generation: 3,
                epoch: 1,
                instance: self.instance,
                started_ns: 0,
                session: 5,
                newest_fence: Fence(self.newest_fence),
            }),
            Request::TakeLease(take) => {
                match self.lease {
                    Some((held, Some(_))) if take.resume != held => {
                        let fenced = take.resume != Fence::NONE;
                        return refuse(if fenced {
                            ErrorCode::FENCED
                        } else {
                            ErrorCode::LEASE_HELD
                        });
                    }
                    Some((held, None)) if take.resume == held => {
                        return say!(LeaseTaken { fence: held });
                    }
                    _ => {}
                }
                self.newest_fence += 1;
                self.lease = Some((Fence(self.newest_fence), None));
                say!(LeaseTaken {
                    fence: Fence(self.newest_fence)
                })
            }
            Request::ReleaseLease(_) => {
                self.lease = None;
                say!(Done {})
            }
            Request::ListLeases(_) => say!(Leases {
                items: vec![LeaseInfo {
                    name: "manager".into(),
                    fence: Fence(9),
                    session: 4,
                    client: "other/1".into(),
                    taken_ns: 0,
                }],
                more: false,
            }),
            Request::ListSessions(list) => {
                assert_eq!((list.after, list.limit), (3, 1));
                say!(Sessions {
                    items: vec![SessionInfo {
                        session: 4,
                        client: "other/1".into(),
                        framed: true,
                        peer: "unix".into(),
                        uid: 0,
                        pid: self.lease.and_then(|(_, pid)| pid).unwrap_or(0),
                        connected_ns: 0,
                        queued_bytes: 0,
                        following: 0,
                    }],
                    more: false,
                })
            }
            Request::ListProcesses(_) => {
                say!(Processes {
                    items: self.keys.values().cloned().collect(),
                    more: false
                })
            }
            Request::ListSockets(_) => say!(Sockets {
                items: vec![],
                more: false
            }),
            Request::ListValues(_) => say!(Values {
                items: self
                    .values
                    .iter()
                    .map(|(key, value)| ValueInfo {
                        key: key.clone(),
                        value: value.clone().into()
                    })
                    .collect(),
                more: false,
            }),
            Request::Spawn(spawn) => {
                if let Some(code) = self.spawn_refusals.pop_front() {
                    return refuse(code);
                }
                let existed = self.keys.contains_key(&spawn.key);
                let next = self.keys.len() as u64 + 1;
                let process = self
                    .keys
                    .entry(spawn.key.clone())
                    .or_insert_with(|| ProcessInfo {
                        process: ProcessId(next),
                        name: spawn.spec.name,
                        key: spawn.key,
                        pid: i32::MAX,
                        started_ns: 1,
                        arguments: vec![],
                        uid: 0,
                        gid: 0,
                        labels: spawn.spec.labels,
                        end: None,
                        output: OutputInfo::default(),
                    });
                say!(Spawned {
                    process: process.clone(),
                    existed
                })
            }
            Request::Commit(commit) => {
                for change in commit.values {
                    match change.value {
                        Some(value) => self.values.insert(change.key, value.0),
                        None => self.values.remove(&change.key),
                    };
                }
                say!(Done {})
            }
            Request::Signal(_) => refuse(ErrorCode::ENDED),
            _ => say!(Done {}),
        }
    }
}

struct World {
    link: KernelLink,
    kernel: FakeKernel,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kernel.sock");
        let kernel = FakeKernel::new(&socket);
        let link = KernelLink::new(LinkSettings {
            resume: None,
            socket,
            client: "test/1".into(),
            lease: "manager".into(),
            values_prefix: "m/".into(),
            lease_patience: Duration::ZERO,
        });
        Self {
            link,
            kernel,
            _dir: dir,
        }
    }

    /// The next event that is not for the log, the kernel serving meanwhile.
    async fn next(&mut self, served: &mut Served) -> LinkEvent {
        let wait = async {
            tokio::select! {
                event = async { loop {
                    match self.link.next().await {
                        LinkEvent::Log(..) => {}
                        event => break event,
                    }
                }} => event,
                () = async {
                    self.kernel.serve(served).await;
                    std::future::pending::<()>().await;
                } => unreachable!(),
            }
        };
        tokio::time::timeout(Duration::from_secs(90), wait)
            .await
            .expect("an event in time")
    }

    async fn accept(&mut self) -> Served {
        tokio::select! {
            served = self.kernel.accept() => served,
            event = async { loop {
                match self.link.next().await {
                    LinkEvent::Log(..) => {}
                    event => break event,
                }
            }} => panic!("{event:?} before the kernel was there"),
        }
    }

    async fn open(&mut self) -> (Served, KernelFacts) {
        let mut served = self.accept().await;
        let LinkEvent::Opened { fence, .. } = self.next(&mut served).await else {
            panic!("not opened")
        };
        let LinkEvent::Input(Input::KernelConnected(facts)) = self.next(&mut served).await else {
            panic!("no facts")
        };
        assert_eq!(facts.epoch, Epoch(fence.0));
        (served, facts)
    }
}

#[tokio::test]
async fn facts_come_first_then_answers_in_the_order_of_the_actions() {
    let mut world = World::new();
    world.kernel.values.insert("m/a".into(), b"1".to_vec());
    // Before there is a connection, actions are dropped.
    world
        .link
        .set_value(WriteId(1), "m/early".into(), Some("x".into()));
    let (mut served, facts) = world.open().await;
    assert_eq!(
        facts.values,
        BTreeMap::from([("m/a".to_owned(), "1".to_owned())])
    );
    world
        .link
        .set_value(WriteId(2), "m/b".into(), Some("2".into()));
    world.link.spawn(
        Ticket(1),
        "key".into(),
        ProcessSpec {
            name: "p".into(),
            ..Default::default()
        },
    );
    world.link.signal(
        crate::engine::ProcessId(1),
        SignalNumber::TERM,
        SignalTarget::Process,
    );
    world.link.set_value(WriteId(3), "m/a".into(), None);
    let stored = |write| {
        LinkEvent::Input(Input::ValueStored {
            write: WriteId(write),
        })
    };
    assert_eq!(
        format!("{:?}", world.next(&mut served).await),
        format!("{:?}", stored(2))
    );
    let LinkEvent::Input(Input::Spawned { ticket, pid, .. }) = world.next(&mut served).await else {
        panic!("not spawned")
    };
    assert_eq!((ticket, pid), (Ticket(1), Pid(i32::MAX as u32)));
    // The signal to an ended process is no news.
    assert_eq!(
        format!("{:?}", world.next(&mut served).await),
        format!("{:?}", stored(3))
    );
    assert_eq!(world.kernel.values.keys().collect::<Vec<_>>(), ["m/b"]);
}

#[tokio::test]
async fn a_broken_connection_is_told_and_mended_under_a_new_number() {
    let mut world = World::new();
    let (served, facts) = world.open().await;
    assert_eq!(facts.epoch, Epoch(1));
    drop(served);
    let LinkEvent::Input(Input::KernelLost) = (loop {
        match world.link.next().await {
            LinkEvent::Log(..) => {}
            event => break event,
        }
    }) else {
        panic!("the loss is not told")
    };
    world.kernel.asked.clear();
    let (_served, facts) = world.open().await;
    assert_eq!(
        facts.epoch,
        Epoch(2),
        "what was on its way under the old number must be refused"
    );
    assert_eq!(
        &world.kernel.asked[1..4],
        ["TakeLease", "ReleaseLease", "TakeLease"]
    );
}

#[tokio::test]
async fn a_lease_that_somebody_took_meanwhile_is_lost_not_taken_back() {
    let mut world = World::new();
    let (served, _) = world.open().await;
    drop(served);
    assert!(matches!(
        loop {
            match world.link.next().await {
                LinkEvent::Log(..) => {}
                event => break event,
            }
        },
        LinkEvent::Input(Input::KernelLost)
    ));
    world.kernel.lease = Some((Fence(9), Some(4711)));
    let mut served = world.accept().await;
    let event = world.next(&mut served).await;
    assert!(
        matches!(event, LinkEvent::Input(Input::LeaseLost)),
        "{event:?}"
    );
    assert_eq!(world.kernel.lease, Some((Fence(9), Some(4711))));
}

#[tokio::test]
async fn a_second_manager_is_told_who_the_first_one_is() {
    let mut world = World::new();
    world.kernel.lease = Some((Fence(9), Some(4711)));
    let mut served = world.accept().await;
    let LinkEvent::Refused(holder) = world.next(&mut served).await else {
        panic!("not refused")
    };
    assert_eq!(
        holder,
        Holder {
            client: "other/1".into(),
            pid: 4711
        }
    );
}

#[tokio::test]
async fn a_lease_of_a_manager_that_is_just_dying_is_waited_for() {
    let mut world = World::new();
    world.link.settings.lease_patience = Duration::from_secs(60);
    world.kernel.lease = Some((Fence(9), Some(4711)));
    let mut served = world.accept().await;
    // The link leaves after it was refused, which ends this.
    tokio::select! {
        () = world.kernel.serve(&mut served) => {}
        event = world.link.next() => panic!("{event:?}"),
    }
    world.kernel.lease = None;
    let (_served, facts) = world.open().await;
    assert_eq!(facts.epoch, Epoch(1));
}

#[tokio::test]
async fn losing_the_lease_to_a_successor_is_told_once_and_nothing_is_asked_any_more() {
    let mut world = World::new();
    let (mut served, _) = world.open().await;
    served
        .event(&LeaseLost {
            name: "manager".into(),
            lease: Fence(1),
        })
        .await;
    let event = world.next(&mut served).await;
    assert!(
        matches!(event, LinkEvent::Input(Input::LeaseLost)),
        "{event:?}"
    );
    world.kernel.asked.clear();
    world.link.set_value(WriteId(1), "m/a".into(), None);
    let more = tokio::time::timeout(Duration::from_millis(50), world.next(&mut served)).await;
    assert!(more.is_err() && world.kernel.asked.is_empty());
}

#[tokio::test]
async fn a_spawn_that_the_kernel_could_not_decide_is_asked_again_with_the_same_key() {
    let mut world = World::new();
    let (mut served, _) = world.open().await;
    world.kernel.spawn_refusals.push_back(ErrorCode::PENDING);
    world.link.spawn(
        Ticket(8),
        "k".into(),
        ProcessSpec {
            name: "p".into(),
            ..Default::default()
        },
    );
    let event = world.next(&mut served).await;
    assert!(
        matches!(
            event,
            LinkEvent::Input(Input::Spawned {
                ticket: Ticket(8),
                ..
            })
        ),
        "{event:?}"
    );
    assert_eq!(world.kernel.keys.keys().collect::<Vec<_>>(), ["k"]);
}

#[tokio::test]
async fn ends_are_passed_on_as_they_come() {
    let mut world = World::new();
    let (mut served, _) = world.open().await;
    let end = End {
        status: EndStatus::Signaled {
            signal: 9,
            core_dumped: false,
        },
        time_ns: 5,
        user_us: 0,
        system_us: 0,
        max_rss_kib: 0,
    };
    served
        .event(&ProcessEnded {
            process: ProcessId(3),
            end,
        })
        .await;
    let LinkEvent::Input(Input::ProcessEnded { process, end }) = world.next(&mut served).await
    else {
        panic!("no end")
    };
    assert_eq!(process.0, 3);
    assert_eq!(
        end.cause,
        EndCause::Signaled {
            signal: 9,
            core: false
        }
    );
}

#[tokio::test]
async fn a_kernel_that_dies_while_the_lease_is_renewed_is_no_other_manager() {
    let mut world = World::new();
    world.link.settings.lease_patience = Duration::from_secs(60);
    let (served, _) = world.open().await;
    drop(served);
    world.kernel.dies_while_leasing = true;
    // The link hears nothing of the number that it was given.
    let lost = world.link.next().await;
    assert!(matches!(lost, LinkEvent::Log(..)), "{lost:?}");
    let lost = world.link.next().await;
    assert!(
        matches!(lost, LinkEvent::Input(Input::KernelLost)),
        "{lost:?}"
    );
    let mut served = world.accept().await;
    tokio::select! {
        () = world.kernel.serve(&mut served) => {}
        event = world.link.next() => panic!("{event:?}"),
    }
    drop(served);
    let (_served, facts) = world.open().await;
    assert_eq!(facts.epoch, Epoch(world.kernel.newest_fence));
}

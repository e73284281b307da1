//! Holds every message to its bytes on the wire. A golden file is added with its message and never
//! edited: a changed byte here means that released kernels and managers no longer understand us.
//!
//! `KINGPOLE_WRITE_GOLDEN=1 cargo test -p kingpole-protocol --test golden` writes the files that are
//! missing.

use kingpole_protocol::event::{
    Event, Gap, Goodbye, LeaseLost, MappedOutput, ProcessEnded, ProcessRemoved, ProcessStarted,
    RingPassed, StreamEnded,
};
use kingpole_protocol::hello::{Hello, Welcome};
use kingpole_protocol::record::{RecordHeader, Stream};
use kingpole_protocol::reply::{
    Done, LeaseTaken, Leases, Processes, Reply, Sessions, Signalled, SocketMade, SocketPassed,
    Sockets, Spawned, Value, Values,
};
use kingpole_protocol::request::{
    CloseSocket, Commit, ExitIfIdle, FetchSocket, Follow, FollowMapped, GetValue, Grant,
    ListLeases, ListProcesses, ListSessions, ListSockets, ListValues, MakeSocket,
    OutputAcknowledgement, Ping, ReleaseLease, Remove, Request, Signal, SignalTarget, Spawn,
    Status, Subscribe, TakeLease, Unfollow, ValueChange,
};
use kingpole_protocol::spec::{
    LimitSpec, OutputSpec, Overflow, ProcessSpec, SocketAddress, SocketKind, SocketSpec, StdinSpec,
    UserSpec,
};
use kingpole_protocol::status::{
    End, EndStatus, KernelStatus, LeaseInfo, OutputInfo, ProcessInfo, SessionInfo, SocketInfo,
    ValueInfo,
};
use kingpole_protocol::{ErrorCode, ErrorReply, Fence, ProcessId, RequestId, Sequence};
use std::path::PathBuf;

const REQUEST: RequestId = RequestId(0x0102_0304_0506_0708);
const FENCE: Fence = Fence(0x1112_1314_1516_1718);

fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| {
        chunk
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    bytes.chunks(32).map(|chunk| line(chunk) + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|b| u8::from_str_radix(b, 16).unwrap())
        .collect()
}

/// Compares with the golden file, or writes it when it is missing and that was asked for.
fn check(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("golden/v1")
        .join(format!("{name}.hex"));
    if !path.exists() && std::env::var_os("KINGPOLE_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, hex(bytes)).unwrap();
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("no golden file for {name} at {}: {error}", path.display()));
    assert_eq!(
        hex(bytes),
        golden,
        "{name} is written differently than it was released"
    );
    unhex(&golden)
}

fn process_spec() -> ProcessSpec {
    ProcessSpec {
        name: "circus.web.1".into(),
        arguments: vec!["python3".into(), "web.py".into(), b"\xff\x00raw"[..].into()],
        program: Some("/usr/bin/python3".into()),
        search_path: "/usr/bin:/bin".into(),
        environment: vec![("PATH".into(), "/bin".into()), ("EMPTY".into(), "".into())],
        working_directory: "/srv".into(),
        umask: Some(0o22),
        user: Some(UserSpec {
            uid: 33,
            gid: 34,
            groups: vec![35, 36],
        }),
        limits: vec![LimitSpec {
            resource: 7,
            soft: 1024,
            hard: u64::MAX,
        }],
        stdin: StdinSpec::Socket("circus.fcgi".into()),
        stdout: OutputSpec::Capture,
        stderr: OutputSpec::SameAsStdout,
        buffer_bytes: 2 << 20,
        overflow: Overflow::Block,
        listen: vec!["circus.web".into()],
        labels: [("watcher".into(), "web".into()), ("wid".into(), "1".into())].into(),
    }
}

fn socket_specs() -> Vec<SocketSpec> {
    let inet = SocketSpec {
        name: "circus.web".into(),
        address: SocketAddress::Inet {
            host: "127.0.0.1".into(),
            port: 8080,
        },
        kind: SocketKind::Stream,
        backlog: 2048,
        interface: Some("lo".into()),
        reuseport: true,
    };
    let unix = SocketAddress::Unix {
        path: "/run/x.sock".into(),
        umask: Some(0o77),
    };
    let inet6 = SocketAddress::Inet6 {
        host: "::1".into(),
        port: 53,
    };
    vec![
        SocketSpec {
            address: unix,
            kind: SocketKind::SeqPacket,
            ..inet.clone()
        },
        SocketSpec {
            address: inet6,
            kind: SocketKind::Datagram,
            interface: None,
            ..inet.clone()
        },
        inet,
    ]
}

fn process_info() -> ProcessInfo {
    ProcessInfo {
        process: ProcessId(42),
        name: "circus.web.1".into(),
        key: "web/1/7".into(),
        pid: 4711,
        started_ns: 1_700_000_000_123_456_789,
        arguments: process_spec().arguments,
        uid: 33,
        gid: 34,
        labels: process_spec().labels,
        end: Some(end()),
        output: OutputInfo {
            capacity_bytes: 2 << 20,
            used_bytes: 96,
            oldest: Sequence(3),
            next: Sequence(4),
            stdout_bytes: 100,
            stderr_bytes: 200,
            dropped_records: 5,
            dropped_bytes: 6,
            stdout_ended: true,
            stderr_ended: false,
        },
    }
}

fn end() -> End {
    End {
        status: EndStatus::Signaled {
            signal: 9,
            core_dumped: true,
        },
        time_ns: 1_700_000_001_000_000_000,
        user_us: 10,
        system_us: 20,
        max_rss_kib: 30,
    }
}

fn requests() -> Vec<Request> {
    let text = String::from;
    let process = ProcessId(42);
    vec![
        Hello {
            version_min: 1,
            version_max: 2,
            capabilities: 3,
            client: text("m/1"),
        }
        .into(),
        Ping {}.into(),
        Status {}.into(),
        ListProcesses {
            after: process,
            limit: 100,
        }
        .into(),
        ListSockets {
            after: text("a"),
            limit: 100,
        }
        .into(),
        ListValues {
            prefix: text("log/"),
            after: text("log/1"),
            limit: 100,
        }
        .into(),
        ListSessions {
            after: 5,
            limit: 100,
        }
        .into(),
        ListLeases {
            after: text("a"),
            limit: 100,
        }
        .into(),
        Spawn {
            key: text("web/1/7"),
            spec: process_spec(),
        }
        .into(),
        Signal {
            process,
            signal: 15,
            target: SignalTarget::Descendants,
        }
        .into(),
        Remove { process }.into(),
        Commit {
            values: vec![
                ValueChange {
                    key: text("a"),
                    value: Some("1".into()),
                },
                ValueChange {
                    key: text("b"),
                    value: None,
                },
            ],
            outputs: vec![OutputAcknowledgement {
                process,
                through: Sequence(9),
            }],
            ends: vec![process],
        }
        .into(),
        GetValue { key: text("a") }.into(),
        MakeSocket {
            spec: socket_specs().remove(0),
        }
        .into(),
        CloseSocket {
            name: text("circus.web"),
        }
        .into(),
        FetchSocket {
            name: text("manager.control"),
        }
        .into(),
        TakeLease {
            name: text("manager"),
            resume: Fence(8),
            take_over: true,
        }
        .into(),
        ReleaseLease { lease: Fence(8) }.into(),
        Follow {
            process,
            from: Sequence(7),
            credit_bytes: 1 << 20,
        }
        .into(),
        Grant {
            process,
            credit_bytes: 4096,
        }
        .into(),
        Unfollow { process }.into(),
        Subscribe {}.into(),
        FollowMapped {
            process,
            from: Sequence(7),
            credit_bytes: 1 << 20,
        }
        .into(),
        ExitIfIdle {}.into(),
    ]
}

fn replies() -> Vec<Reply> {
    let socket = |spec| SocketInfo {
        spec,
        fileno: Some(7),
    };
    vec![
        ErrorReply {
            code: ErrorCode::SPAWN_FAILED,
            message: "cmd not found: /x".into(),
            errno: 2,
            step: "exec".into(),
        }
        .into(),
        Welcome {
            version: 1,
            capabilities: 1,
            release: "0.1.0".into(),
            pid: 1,
            generation: 2,
            epoch: 3,
            instance: 4,
            started_ns: 5,
            session: 6,
            newest_fence: Fence(7),
        }
        .into(),
        Done {}.into(),
        KernelStatus {
            release: "0.1.0".into(),
            pid: 1,
            guard_pid: 2,
            generation: 3,
            epoch: 4,
            instance: 5,
            started_ns: 6,
            now_ns: 7,
            processes_running: 8,
            processes_ended: 9,
            sockets: 10,
            values: 11,
            values_bytes: 12,
            sessions: 13,
            leases: 14,
            output_bytes: 15,
            output_capacity_bytes: 16,
            resident_kib: 17,
            descriptors: 18,
            descriptors_limit: 19,
        }
        .into(),
        Processes {
            items: vec![
                process_info(),
                ProcessInfo {
                    end: None,
                    ..process_info()
                },
            ],
            more: true,
        }
        .into(),
        Sockets {
            items: socket_specs().into_iter().map(socket).collect(),
            more: false,
        }
        .into(),
        Values {
            items: vec![ValueInfo {
                key: "a".into(),
                value: "1".into(),
            }],
            more: false,
        }
        .into(),
        Sessions {
            items: vec![SessionInfo {
                session: 1,
                client: "m/1".into(),
                framed: true,
                peer: "unix".into(),
                uid: 0,
                pid: 77,
                connected_ns: 5,
                queued_bytes: 6,
                following: 7,
            }],
            more: false,
        }
        .into(),
        Leases {
            items: vec![LeaseInfo {
                name: "manager".into(),
                fence: Fence(7),
                session: 1,
                client: "m/1".into(),
                taken_ns: 5,
            }],
            more: false,
        }
        .into(),
        Spawned {
            process: process_info(),
            existed: true,
        }
        .into(),
        Signalled { count: 3 }.into(),
        Value {
            value: Some("1".into()),
        }
        .into(),
        SocketMade {
            socket: socket(socket_specs().remove(2)),
            existed: false,
        }
        .into(),
        SocketPassed {
            socket: socket(socket_specs().remove(0)),
            reachable: true,
        }
        .into(),
        LeaseTaken { fence: Fence(7) }.into(),
    ]
}

fn events() -> Vec<Event> {
    let process = ProcessId(42);
    vec![
        ProcessStarted {
            process: process_info(),
        }
        .into(),
        ProcessEnded {
            process,
            end: end(),
        }
        .into(),
        ProcessRemoved { process }.into(),
        Gap {
            process,
            from: Sequence(3),
            to: Sequence(9),
            stdout_offset: 100,
            stderr_offset: 200,
        }
        .into(),
        StreamEnded {
            process,
            stream: Stream::Stderr,
            next: Sequence(10),
            bytes: 5,
        }
        .into(),
        RingPassed {
            process,
            ring: 0x1234,
            data_bytes: 2 << 20,
        }
        .into(),
        MappedOutput {
            process,
            ring: 0x1234,
            position: 4 << 20,
            bytes: 131_136,
            from: Sequence(11),
            next: Sequence(13),
        }
        .into(),
        LeaseLost {
            name: "manager".into(),
            lease: Fence(7),
        }
        .into(),
        Goodbye {
            reason: "upgrade".into(),
        }
        .into(),
    ]
}

macro_rules! golden {
    ($test:ident, $all:ident, $family:ident, $prefix:literal) => {
        #[test]
        fn $test() {
            let mut covered: Vec<u16> = Vec::new();
            for message in $all() {
                let bytes = message.encode(REQUEST, FENCE).unwrap();
                let released = check(&format!("{}-{}", $prefix, message.name()), &bytes);
                let read = $family::decode(message.kind(), &released[32..]).unwrap();
                assert_eq!(read, Some(message.clone()));
                covered.push(message.kind());
            }
            let known: Vec<u16> = $family::KINDS.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(covered, known, "every message has one golden file");
        }
    };
}

golden!(every_request_keeps_its_bytes, requests, Request, "request");
golden!(every_reply_keeps_its_bytes, replies, Reply, "reply");
golden!(every_event_keeps_its_bytes, events, Event, "event");

#[test]
fn output_records_keep_their_bytes() {
    let header = RecordHeader {
        length: 5,
        stream: Stream::Stdout,
        sequence: Sequence(9),
        time_ns: 1_700_000_000_123_456_789,
        stream_offset: 1000,
    };
    let released = check("record-header", &header.to_bytes());
    assert_eq!(
        RecordHeader::parse(released.as_slice().try_into().unwrap()),
        Some(header)
    );
}

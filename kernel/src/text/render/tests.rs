use super::*;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::status::OutputInfo;
use std::collections::BTreeMap;

const ROOT: OwnIdentity = OwnIdentity { uid: 0, gid: 0 };

fn process() -> ProcessInfo {
    ProcessInfo {
        process: ProcessId(1),
        name: "web".into(),
        key: "k".into(),
        pid: 1234,
        started_ns: 1_700_000_000_000_050_999,
        arguments: vec!["/bin/sh".into(), "-c".into(), "echo a b\nexit".into()],
        uid: 0,
        gid: 0,
        labels: BTreeMap::new(),
        end: None,
        output: OutputInfo::default(),
    }
}

fn line(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn process_line_is_papas() {
    let mut info = process();
    assert_eq!(
        line(|to| push_process(to, &info, ROOT)),
        "web pid=1234 running=True started=1700000000.000050 args=/bin/sh -c echo a b\\nexit"
    );
    info.uid = 33;
    info.gid = 34;
    info.labels.insert(SHELL_LABEL.into(), "True".into());
    let end = End {
        status: EndStatus::Signaled {
            signal: 9,
            core_dumped: false,
        },
        time_ns: 1_700_000_001_500_000_000,
        user_us: 1,
        system_us: 2,
        max_rss_kib: 3,
    };
    info.end = Some(end);
    assert_eq!(
        line(|to| push_process(to, &info, ROOT)),
        "web pid=1234 running=False started=1700000000.000050 uid=33 gid=34 shell=True \
         args=echo a b\\nexit"
    );
    assert_eq!(
        closed_line("web", &end),
        "closed:web:1700000001.500000:-9\n"
    );
}

#[test]
fn socket_line_has_papas_order() {
    let unix = SocketAddress::Unix {
        path: "/run/w".into(),
        umask: Some(63),
    };
    let spec = SocketSpec {
        name: "w".into(),
        address: unix,
        kind: SocketKind::SeqPacket,
        backlog: 9,
        interface: None,
        reuseport: false,
    };
    let mut info = SocketInfo {
        spec,
        fileno: Some(7),
    };
    assert_eq!(
        line(|to| push_socket(to, &info)),
        "w family=unix type=seqpacket backlog=9 path=/run/w umask=63 fileno=7"
    );
    info.spec.address = SocketAddress::Inet6 {
        host: "::".into(),
        port: 80,
    };
    info.spec.interface = Some("eth0".into());
    info.spec.reuseport = true;
    info.fileno = None;
    assert_eq!(
        line(|to| push_socket(to, &info)),
        "w family=inet6 type=seqpacket backlog=9 host=:: port=80 interface=eth0 reuseport=1"
    );
}

#[test]
fn value_with_line_ends_stays_on_its_line() {
    assert_eq!(line(|to| push_value(to, "a", b"x\n> y\n")), "a x\\n> y\\n");
}

#[test]
fn spans_are_short() {
    let span = |seconds: u64| Span(seconds * SECOND_NS).to_string();
    assert_eq!(
        [span(59), span(200), span(7500), span(100_000)],
        ["59s", "3m20s", "2h05m", "1d03h"]
    );
}

#[test]
fn last_lines_count_an_unfinished_one() {
    let last = |bytes: &'static str, lines| {
        std::str::from_utf8(last_lines(bytes.as_bytes(), lines)).unwrap()
    };
    assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
    assert_eq!(last("a\nb\nc", 2), "b\nc");
    assert_eq!(last("a\nb\n", 5), "a\nb\n");
    assert_eq!(last("\n\n\n", 1), "\n");
    assert_eq!(last("", 3), "");
    assert_eq!(last("a\n", 0), "");
}

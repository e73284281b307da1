//! The kernel from outside, over a real socket: what a manager relies on.

mod common;

use common::{Kernel, PATIENCE, follow_to_the_end, script, until};
use kingpole_protocol::client::blocking::{Client, ClientError, Notice};
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::{Fence, ProcessId, Sequence};
use kingpole_protocol::places::Address;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    Commit, ExitIfIdle, Follow, OutputAcknowledgement, Remove, Request, SignalTarget, Spawn,
    TakeLease, ValueChange,
};
use kingpole_protocol::spec::{
    LimitSpec, OutputSpec, Overflow, ProcessSpec, SocketAddress, SocketKind, SocketSpec, StdinSpec,
};
use kingpole_protocol::status::EndStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorReply {
    match result {
        Err(ClientError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn end_of(client: &mut Client, process: ProcessId) -> EndStatus {
    until("end of a process", || {
        let all = client.processes().unwrap();
        let found = all.iter().find(|info| info.process == process).unwrap();
        found.end.map(|end| end.status).ok_or(format!("{found:?}"))
    })
}

fn inet(name: &str) -> SocketSpec {
    SocketSpec {
        name: name.into(),
        address: SocketAddress::Inet {
            host: "127.0.0.1".into(),
            port: 0,
        },
        kind: SocketKind::Stream,
        backlog: 5,
        interface: None,
        reuseport: false,
    }
}

#[test]
fn output_and_end_stay_until_acknowledged_by_whoever_comes() {
    let kernel = Kernel::start();
    let mut first = kernel.connect();
    let text = "echo out; echo err >&2; exit 7";
    let process = first.spawn("k", script("a", text)).unwrap().process.process;
    drop(first);
    let mut client = kernel.connect();
    let seen = follow_to_the_end(&mut client, process);
    assert_eq!(
        (&seen.stdout[..], &seen.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert!(seen.gaps.is_empty());
    assert_eq!(end_of(&mut client, process), EndStatus::Exited(7));
    let again = follow_to_the_end(&mut kernel.connect(), process);
    assert_eq!(again.stdout, seen.stdout, "nobody has acknowledged it");
    let outputs = vec![OutputAcknowledgement {
        process,
        through: seen.last,
    }];
    client
        .commit(Commit {
            outputs,
            ends: vec![process],
            values: Vec::new(),
        })
        .unwrap();
    assert!(client.processes().unwrap().is_empty());
    assert_eq!(client.status().unwrap().output_bytes, 0);
}

#[test]
fn a_flood_drops_whole_records_and_says_exactly_what_is_missing() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let text = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let mut spec = script("flood", text);
    spec.buffer_bytes = 16384;
    let process = client.spawn("k", spec).unwrap().process.process;
    end_of(&mut client, process);
    until("streams to end", || {
        let info = &client.processes().unwrap()[0].output;
        (info.stdout_ended && info.stderr_ended)
            .then_some(())
            .ok_or(format!("{info:?}"))
    });
    let info = client.processes().unwrap().remove(0).output;
    assert!(info.dropped_records > 0 && info.used_bytes <= 16384);
    assert_eq!(info.dropped_records, info.oldest.0 - 1);
    client.follow(process, Sequence(1), 1 << 40).unwrap();
    let (mut bytes, mut gap) = (0, None);
    loop {
        match client.next_notice(Some(PATIENCE)).unwrap().unwrap() {
            Notice::Event(Event::Gap(found)) => {
                assert_eq!((found.from, found.to), (Sequence(1), info.oldest));
                assert_eq!(found.stdout_offset, info.dropped_bytes);
                gap = Some(found);
            }
            Notice::Output { header, data, .. } => {
                assert_eq!(header.stream_offset, gap.unwrap().stdout_offset + bytes);
                bytes += data.len() as u64;
            }
            Notice::Event(Event::StreamEnded(end)) if end.bytes > 0 => {
                assert_eq!(end.bytes, info.dropped_bytes + bytes);
                break;
            }
            Notice::Event(_) => {}
        }
    }
}

#[test]
fn a_child_that_may_wait_loses_nothing() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let text = "i=0; while [ $i -lt 3000 ]; do echo 0123456789 $i; i=$((i+1)); done";
    let mut spec = script("patient", text);
    spec.buffer_bytes = 8192;
    spec.overflow = Overflow::Block;
    let process = client.spawn("k", spec).unwrap().process.process;
    client.follow(process, Sequence(0), 1 << 40).unwrap();
    let mut all = Vec::new();
    let mut ended = 0;
    while ended < 2 {
        match client.next_notice(Some(PATIENCE)).unwrap().unwrap() {
            Notice::Output { header, data, .. } => {
                all.extend(data);
                let through = header.sequence;
                let outputs = vec![OutputAcknowledgement { process, through }];
                client
                    .commit(Commit {
                        outputs,
                        ..Commit::default()
                    })
                    .unwrap();
            }
            Notice::Event(Event::StreamEnded(_)) => ended += 1,
            Notice::Event(other) => panic!("{other:?}"),
        }
    }
    let expected = (0..3000)
        .map(|i| format!("0123456789 {i}\n"))
        .collect::<String>();
    assert_eq!(String::from_utf8(all).unwrap(), expected);
}

#[test]
fn a_client_that_never_reads_delays_nobody_and_costs_little() {
    let kernel = Kernel::start();
    let mut other = kernel.connect();
    let flood = script("flood", "exec cat /dev/zero");
    let process = other.spawn("k", flood).unwrap().process.process;
    let mut lazy = kernel.connect();
    lazy.follow(process, Sequence(0), u64::MAX).unwrap();
    let mut raw = kernel.raw();
    raw.write_all(b"attach 1\n").unwrap();
    let before = kernel.status("VmRSS");
    // Listings without end, none of which is read.
    for _ in 0..200 {
        other.processes().unwrap();
    }
    other.status().unwrap();
    assert!(kernel.status("VmRSS") < before + 8 * 1024, "bounded");
    until("records to be dropped, as the child is not held up", || {
        let output = other.processes().unwrap().remove(0).output;
        // More than the lazy one can have been sent.
        if output.dropped_records > 50 {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    });
    other.signal(process, 9, SignalTarget::Process).unwrap();
    let signaled = EndStatus::Signaled {
        signal: 9,
        core_dumped: false,
    };
    assert_eq!(end_of(&mut other, process), signaled);
    // The lazy one reads at last, and finds what it missed named.
    let mut gaps = 0;
    loop {
        match lazy.next_notice(Some(PATIENCE)).unwrap().unwrap() {
            Notice::Event(Event::Gap(_)) => gaps += 1,
            Notice::Event(Event::StreamEnded(end)) if end.bytes > 0 => break,
            _ => {}
        }
    }
    assert!(gaps > 0);
}

#[test]
fn requests_without_end_are_not_read_while_their_answers_are_not() {
    let kernel = Kernel::start();
    let mut raw = kernel.raw();
    raw.set_nonblocking(true).unwrap();
    let line = b"help\n".repeat(4096);
    let mut written = 0_usize;
    let mut refused = 0;
    while refused < 1000 && written < 200 << 20 {
        match raw.write(&line) {
            Ok(count) => (written, refused) = (written + count, 0),
            Err(_) => {
                refused += 1;
                kernel.connect().status().unwrap();
            }
        }
        if refused > 20 {
            break;
        }
    }
    assert!(written < 64 << 20, "{written} bytes of requests were taken");
    // Now it reads: every command is answered, and the session goes on.
    raw.set_nonblocking(false).unwrap();
    drop(raw);
    kernel.connect().status().unwrap();
}

#[test]
fn what_is_not_started_leaves_nothing_and_says_why() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let mut missing = script("a", "true");
    missing.arguments = vec!["/nonexistent/program".into()];
    let error = refused(client.spawn("k1", missing));
    assert_eq!(
        (error.code, error.errno),
        (ErrorCode::SPAWN_FAILED, nix::libc::ENOENT)
    );
    assert_eq!(error.step, "exec");
    let mut lost = script("a", "true");
    lost.working_directory = "/nonexistent".into();
    let error = refused(client.spawn("k2", lost));
    assert_eq!(
        (error.step.as_str(), error.errno),
        ("working-directory", nix::libc::ENOENT)
    );
    let long = refused(client.spawn("k3", script(&"n".repeat(10_000), "true")));
    assert_eq!(long.code, ErrorCode::INVALID);
    assert_eq!(
        refused(client.spawn("k4", script("a\nb", "true"))).code,
        ErrorCode::INVALID
    );
    assert_eq!(
        refused(client.spawn("", script("a", "true"))).code,
        ErrorCode::INVALID
    );
    assert!(client.processes().unwrap().is_empty());
    let status = client.status().unwrap();
    client.spawn("k", script("a", "true")).unwrap();
    assert_eq!(status.processes_running, 0);
    assert_eq!(
        kernel.log().matches("not started").count(),
        2,
        "{}",
        kernel.log()
    );
}

#[test]
fn a_spawn_has_exactly_what_its_request_says() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let text = "umask; pwd; ulimit -n; env; ls /proc/$$/fd; readlink /proc/$$/fd/0";
    let mut spec = script("a", text);
    spec.environment.push(("B".into(), "two words".into()));
    spec.working_directory = "/usr".into();
    spec.umask = Some(0o77);
    spec.limits = vec![LimitSpec {
        resource: 7,
        soft: 123,
        hard: 123,
    }];
    let process = client.spawn("k", spec).unwrap().process.process;
    let seen = follow_to_the_end(&mut client, process);
    let text = String::from_utf8(seen.stdout).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("0077"));
    assert_eq!(lines.next(), Some("/usr"));
    assert_eq!(lines.next(), Some("123"));
    let mut rest = lines.collect::<Vec<_>>();
    assert_eq!(rest.split_off(rest.len() - 4), ["0", "1", "2", "/dev/null"]);
    rest.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_="));
    rest.retain(|line| !line.starts_with("SHLVL=") && !line.starts_with("OLDPWD="));
    assert_eq!(rest, ["PATH=/usr/bin:/bin", "B=two words"]);
}

#[test]
fn children_get_the_descriptor_limit_that_the_kernel_was_started_with() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let process = client
        .spawn("k", script("a", "ulimit -Sn; ulimit -Hn"))
        .unwrap()
        .process
        .process;
    let seen = follow_to_the_end(&mut client, process);
    let (soft, hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let shown = |limit: u64| match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    let expected = format!("{}\n{}\n", shown(soft), shown(hard));
    assert_eq!(String::from_utf8(seen.stdout).unwrap(), expected);
}

#[test]
fn sockets_reach_children_by_number_by_listen_fds_and_as_stdin() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    // An address that nobody else uses: nobody takes the port once it is free.
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = format!("127.{high}.{low}.9");
    let web = SocketSpec {
        address: SocketAddress::Inet {
            host: host.clone(),
            port: 0,
        },
        ..inet("web")
    };
    let made = client.make_socket(web.clone()).unwrap();
    assert!(client.make_socket(web.clone()).unwrap().existed);
    let mut other = web;
    other.backlog = 6;
    assert_eq!(
        refused(client.make_socket(other)).code,
        ErrorCode::ALREADY_EXISTS
    );
    let SocketAddress::Inet { port, .. } = made.socket.spec.address else {
        panic!()
    };
    assert!(port > 0);
    client
        .make_socket(SocketSpec {
            reuseport: true,
            ..inet("shared")
        })
        .unwrap();
    let text = "readlink /proc/self/fd/0 /proc/self/fd/3 /proc/self/fd/$1 /proc/self/fd/$3; \
                echo $2 $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && echo mine";
    let mut spec = script("a", text);
    spec.arguments.push("sh".into());
    spec.arguments.push("$(socket.web.fileno)".into());
    spec.arguments.push("$(socket.web.port)".into());
    spec.arguments.push("$(socket.shared.fileno)".into());
    spec.listen = vec!["web".into()];
    spec.stdin = StdinSpec::Socket("web".into());
    let process = client.spawn("k", spec).unwrap().process.process;
    let seen = follow_to_the_end(&mut client, process);
    let text = String::from_utf8(seen.stdout).unwrap();
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(lines[0].starts_with("socket:[") && lines[1] == lines[0] && lines[2] == lines[0]);
    assert!(
        lines[3].starts_with("socket:[") && lines[3] != lines[0],
        "a fresh one: {text}"
    );
    assert_eq!(lines[4], format!("{port} 1 web"));
    assert_eq!(lines[5], "mine");
    std::net::TcpStream::connect((&*host, port)).unwrap();
    client.close_socket("web").unwrap();
    // A guard that has much to do lets go of its copy a little later.
    until(
        "the port to be closed",
        || match std::net::TcpStream::connect((&*host, port)) {
            Err(_) => Ok(()),
            Ok(connection) => Err(format!("{connection:?}")),
        },
    );
    assert_eq!(
        refused(client.close_socket("web")).code,
        ErrorCode::NOT_FOUND
    );
}

#[test]
fn values_are_stored_listed_page_by_page_and_removed() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    for i in 0..30 {
        let value = ValueChange {
            key: format!("a{i:02}"),
            value: Some(vec![7; 10_000].into()),
        };
        client
            .commit(Commit {
                values: vec![value],
                ..Commit::default()
            })
            .unwrap();
    }
    assert_eq!(client.values("a").unwrap().len(), 30);
    assert_eq!(client.values("a1").unwrap().len(), 10);
    assert!(client.values("b").unwrap().is_empty());
    let large = ValueChange {
        key: "x".into(),
        value: Some(vec![0; 300_000].into()),
    };
    let keep = ValueChange {
        key: "a00".into(),
        value: None,
    };
    let commit = Commit {
        values: vec![keep, large],
        ..Commit::default()
    };
    assert_eq!(refused(client.commit(commit)).code, ErrorCode::LIMIT);
    assert_eq!(client.status().unwrap().values, 30, "all or nothing");
}

#[test]
fn values_have_a_bound_together_and_removing_makes_room() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let set = |i: u32, value: Option<Vec<u8>>| {
        let value = ValueChange {
            key: format!("v{i}"),
            value: value.map(Into::into),
        };
        Commit {
            values: vec![value],
            ..Commit::default()
        }
    };
    let full = (0..100)
        .find_map(|i| client.commit(set(i, Some(vec![1; 256 << 10]))).err())
        .map(|error| refused::<()>(Err(error)));
    assert_eq!(full.unwrap().code, ErrorCode::LIMIT);
    // Over and over: the journal is compacted on the way.
    for _ in 0..300 {
        client.commit(set(0, None)).unwrap();
        client.commit(set(0, Some(vec![2; 200 << 10]))).unwrap();
    }
}

#[test]
fn a_second_manager_takes_over_and_the_first_is_fenced() {
    let kernel = Kernel::start();
    let (mut old, mut new) = (kernel.connect(), kernel.connect());
    let take = |take_over| TakeLease {
        name: "manager".into(),
        resume: Fence::NONE,
        take_over,
    };
    let first = old.take_lease(take(false)).unwrap();
    assert_eq!(
        refused(new.take_lease(take(false))).code,
        ErrorCode::LEASE_HELD
    );
    let second = new.take_lease(take(true)).unwrap();
    assert!(second > first);
    match old.next_notice(Some(PATIENCE)).unwrap() {
        Some(Notice::Event(Event::LeaseLost(lost))) => assert_eq!(lost.lease, first),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        refused(old.spawn("k", script("a", "true"))).code,
        ErrorCode::FENCED
    );
    new.spawn("k", script("a", "true")).unwrap();
    drop(new);
    let mut back = kernel.connect();
    let resume = TakeLease {
        name: "manager".into(),
        resume: second,
        take_over: false,
    };
    assert_eq!(back.take_lease(resume).unwrap(), second);
}

#[test]
fn garbage_of_any_kind_hurts_only_its_sender() {
    let kernel = Kernel::start();
    let mut witness = kernel.connect();
    let long = vec![b'x'; 3 << 20];
    let header_only = {
        let mut bytes = b"attach 1\n".to_vec();
        bytes.extend(b"KPL1\x01\0\0\0");
        bytes
    };
    let too_long = {
        let mut bytes = b"attach 1\nKPL1\x01\0\0\0".to_vec();
        bytes.extend([0; 16]);
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    };
    let cases: Vec<&[u8]> = vec![
        b"",
        b"\0\0\0\0\n\xff\xfe\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"attach 1\nnot frames at all, but enough bytes for a header",
        b"attach 2\nattach\nattach 1 2\n",
        &header_only,
        &too_long,
        &long,
    ];
    for bytes in cases {
        let mut raw = kernel.raw();
        let _ = raw.write_all(bytes);
        let _ = raw.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = raw.read_to_end(&mut answer);
        assert!(
            answer.starts_with(b"Papa is home."),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        witness.status().unwrap();
    }
    assert_eq!(witness.status().unwrap().sessions, 1);
}

#[test]
fn frames_that_make_no_sense_are_answered_one_by_one() {
    use kingpole_protocol::frame::Header;
    use kingpole_protocol::ids::RequestId;
    let kernel = Kernel::start();
    let mut raw = kernel.raw();
    let mut bytes = b"attach 1\n".to_vec();
    let frame = |kind: u16, id: u64, body: &[u8], descriptors: u16| {
        let header = Header {
            kind,
            flags: 0,
            request: RequestId(id),
            fence: Fence::NONE,
            body_bytes: body.len() as u32,
            descriptors,
        };
        [&header.to_bytes()[..], body].concat()
    };
    bytes.extend(frame(0x0002, 1, b"", 0));
    bytes.extend(frame(0x3fff, 2, b"unknown", 0));
    bytes.extend(frame(0x4010, 3, b"", 0));
    bytes.extend(frame(0x0001, 4, b"too short", 0));
    bytes.extend(frame(0x0002, 5, b"", 1));
    raw.write_all(&bytes).unwrap();
    raw.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).unwrap();
    let at = answer
        .windows(4)
        .position(|window| window == b"KPL1")
        .unwrap();
    let mut decoder = kingpole_protocol::decoder::Decoder::new();
    decoder.extend(&answer[at..]);
    let mut codes = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        match Reply::decode(frame.header.kind, frame.body)
            .unwrap()
            .unwrap()
        {
            Reply::ErrorReply(error) => codes.push((frame.header.request.0, error.code)),
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        (1, ErrorCode::HELLO_EXPECTED),
        (2, ErrorCode::UNKNOWN_KIND),
        (3, ErrorCode::UNKNOWN_KIND),
        (4, ErrorCode::MALFORMED),
        (5, ErrorCode::UNSUPPORTED),
    ];
    assert_eq!(codes, expected);
}

#[test]
fn a_removed_process_runs_on_unheard_and_is_forgotten_at_its_end() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    client.subscribe().unwrap();
    let child = client
        .spawn("k", script("a", "while :; do echo x; done"))
        .unwrap()
        .process;
    let process = child.process;
    client.call(Remove { process }).unwrap();
    kill(Pid::from_raw(child.pid), None).expect("it was not signalled");
    client.signal(process, 15, SignalTarget::Process).unwrap();
    loop {
        match client.next_notice(Some(PATIENCE)).unwrap() {
            Some(Notice::Event(Event::ProcessRemoved(gone))) => {
                assert_eq!(gone.process, process);
                break;
            }
            Some(_) => {}
            None => panic!("it is not forgotten"),
        }
    }
    assert!(client.processes().unwrap().is_empty());
}

#[test]
fn uncaptured_streams_have_ended_and_stderr_can_go_where_stdout_goes() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let mut spec = script("a", "echo out; echo err >&2");
    spec.stderr = OutputSpec::SameAsStdout;
    let process = client.spawn("k1", spec).unwrap().process.process;
    assert_eq!(
        follow_to_the_end(&mut client, process).stdout,
        b"out\nerr\n"
    );
    let mut spec = script("b", "echo out; echo err >&2");
    spec.stdout = OutputSpec::Null;
    spec.stderr = OutputSpec::Null;
    let info = client.spawn("k2", spec).unwrap().process;
    assert!(info.output.stdout_ended && info.output.stderr_ended);
    assert_eq!(info.output.capacity_bytes, 0);
    end_of(&mut client, info.process);
    client
        .commit(Commit {
            ends: vec![info.process],
            ..Commit::default()
        })
        .unwrap();
    assert_eq!(client.processes().unwrap().len(), 1);
}

#[test]
fn a_kernel_that_holds_something_stays_on_sigterm_and_goes_on_sigquit() {
    let mut kernel = Kernel::start();
    let mut client = kernel.connect();
    let child = client
        .spawn("k", script("a", "exec sleep 600"))
        .unwrap()
        .process;
    assert_eq!(
        refused(client.call(ExitIfIdle {})).code,
        ErrorCode::NOT_IDLE
    );
    kill(
        Pid::from_raw(kernel.process.id().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    until("word of SIGTERM in the log", || {
        let log = kernel.log();
        if log.contains("so the kernel stays") {
            Ok(())
        } else {
            Err(log)
        }
    });
    client.status().unwrap();
    kill(Pid::from_raw(kernel.pid()), Signal::SIGQUIT).unwrap();
    assert_eq!(kernel.process.wait().unwrap().code(), Some(0));
    kill(Pid::from_raw(child.pid), Signal::SIGKILL).expect("children are not signalled");
}

#[test]
fn a_terminal_that_goes_away_takes_nothing_along() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let before = client.welcome().epoch;
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", kernel.pid());
        std::fs::read_to_string(path).unwrap()
    };
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        for pid in children()
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
        {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
        kill(Pid::from_raw(kernel.pid()), signal).unwrap();
    }
    client.status().unwrap();
    assert_eq!(kernel.connect().welcome().epoch, before);
    // Nor do children inherit that they are deaf to it.
    let text = "kill -HUP $$; echo survived";
    let process = client
        .spawn("k", script("a", text))
        .unwrap()
        .process
        .process;
    let signaled = EndStatus::Signaled {
        signal: 1,
        core_dumped: false,
    };
    assert_eq!(end_of(&mut client, process), signaled);
}

#[test]
fn an_idle_kernel_ends_when_asked_and_says_goodbye() {
    let mut kernel = Kernel::start();
    let mut client = kernel.connect();
    let process = client
        .spawn("k", script("a", "true"))
        .unwrap()
        .process
        .process;
    let seen = follow_to_the_end(&mut client, process);
    end_of(&mut client, process);
    assert_eq!(seen.last, Sequence(0));
    client
        .commit(Commit {
            ends: vec![process],
            ..Commit::default()
        })
        .unwrap();
    client.call(ExitIfIdle {}).unwrap();
    assert_eq!(kernel.process.wait().unwrap().code(), Some(0));
    assert!(!kernel.socket().exists());
}

#[test]
fn a_second_kernel_on_the_same_directory_is_refused() {
    let kernel = Kernel::start();
    let second = Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
        .arg("--runtime-dir")
        .arg(kernel.directory.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(73));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        text.contains(&format!("(pid {}) is already running", kernel.process.id())),
        "{text}"
    );
    kernel.connect().status().unwrap();
}

#[test]
fn in_the_background_it_returns_once_it_answers() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kernel.sock");
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
            .arg("--daemonize")
            .arg("--runtime-dir")
            .arg(directory.path())
            .arg("--listen")
            .arg(format!(
                "unix:{}",
                directory.path().join("other.sock").display()
            ))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    assert_eq!(run().status.code(), Some(0));
    let mut client = Client::connect(&Address::Unix(socket), "test/1", Some(PATIENCE)).unwrap();
    assert_eq!(run().status.code(), Some(73));
    assert!(directory.path().join("kernel.log").exists());
    client.call(ExitIfIdle {}).unwrap();
}

#[test]
fn a_public_address_or_a_taken_path_is_refused_at_the_start() {
    let run = |address: &str| {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
            .arg("--runtime-dir")
            .arg(directory.path())
            .arg("--listen")
            .arg(address)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = run("tcp:0.0.0.0:0");
    assert_eq!(code, Some(69));
    assert!(text.contains("only loopback addresses"), "{text}");
    assert_eq!(run("unix:/etc/passwd").0, Some(69));
    assert_eq!(run("http:x").0, Some(2));
}

#[test]
fn tcp_clients_of_this_user_are_served_like_unix_ones() {
    let kernel = Kernel::start_with(&["--listen", "tcp:127.0.0.1:0"]);
    let log = kernel.log();
    let place = log
        .split_whitespace()
        .find(|word| word.starts_with("tcp:127.0.0.1:"))
        .unwrap_or_else(|| panic!("no port in {log}"));
    let address: Address = place.parse().unwrap();
    let mut client = Client::connect(&address, "test/1", Some(PATIENCE)).unwrap();
    let process = client
        .spawn("k", script("a", "echo hello"))
        .unwrap()
        .process
        .process;
    assert_eq!(follow_to_the_end(&mut client, process).stdout, b"hello\n");
    drop(kernel);
}

#[test]
fn a_quiet_kernel_sleeps_in_one_thread() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    client.spawn("k", script("a", "exec sleep 1000")).unwrap();
    client.status().unwrap();
    assert_eq!(kernel.status("Threads"), 1);
    let switches = || kernel.status("voluntary_ctxt_switches");
    // It may still be on its way to sleep, or have something to do once a moment later.
    until("an interval without a wake-up", || {
        let before = switches();
        // Nothing to wait for: the absence of wake-ups is what is tested.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let after = switches();
        if after == before {
            Ok(())
        } else {
            Err(format!("{before} wake-ups, then {after}"))
        }
    });
}

#[test]
fn papas_greeting_prompt_and_listing_are_byte_for_byte() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let spec = ProcessSpec {
        stdout: OutputSpec::Null,
        stderr: OutputSpec::Null,
        ..script("a.1", "exec sleep 600")
    };
    let child = client.spawn("k", spec).unwrap().process;
    let mut raw = kernel.raw();
    raw.write_all(b"\nl p a*\nlist val\nnonsense\r\nquit\n")
        .unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).unwrap();
    let started = child.started_ns;
    let expected = format!(
        "Papa is home. Type \"help\" for commands.\n> > a.1 pid={} running=True started={}.{:06} \
         args=/bin/sh -c exec sleep 600\n> \n> Error: Unknown command \
         \"nonsense\"\n> ok\n",
        child.pid,
        started / 1_000_000_000,
        started % 1_000_000_000 / 1000
    );
    assert_eq!(answer, expected);
    kill(Pid::from_raw(child.pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_long_listing_comes_page_by_page_to_whoever_reads_slowly() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    for i in 0..40 {
        let value = ValueChange {
            key: format!("v{i:02}"),
            value: Some(vec![b'x'; 100_000].into()),
        };
        client
            .commit(Commit {
                values: vec![value],
                ..Commit::default()
            })
            .unwrap();
    }
    let mut raw = kernel.raw();
    raw.write_all(b"list values\nquit\n").unwrap();
    // 4 MB, with requests of others answered in between.
    let mut answer = Vec::new();
    let mut part = vec![0; 50_000];
    loop {
        match raw.read(&mut part).unwrap() {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
        client.status().unwrap();
    }
    let text = String::from_utf8(answer).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("xxx")).count(), 40);
    assert!(text.ends_with("x\n> ok\n"));
}

#[test]
fn credit_is_used_up_record_by_record() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let gate = kernel.directory.path().join("gate").display().to_string();
    let text = format!(
        "for i in 1 2 3 4 5 6; do echo $i; until [ -e {gate}$i ]; do sleep 0.01; done; done"
    );
    let process = client
        .spawn("k", script("a", &text))
        .unwrap()
        .process
        .process;
    // A record for each line.
    for line in 1..=6 {
        until("the line to be read", || {
            let next = client.processes().unwrap()[0].output.next;
            if next == Sequence(line + 1) {
                Ok(())
            } else {
                Err(next.to_string())
            }
        });
        std::fs::write(format!("{gate}{line}"), "").unwrap();
    }
    end_of(&mut client, process);
    let follow = Follow {
        process,
        from: Sequence(1),
        credit_bytes: 65,
    };
    client.call(Request::from(follow)).unwrap();
    let mut taken = 0;
    while let Some(Notice::Output { header, .. }) = client.try_notice().unwrap() {
        taken += header.credit_bytes();
    }
    client.status().unwrap();
    while let Some(Notice::Output { header, .. }) = client.try_notice().unwrap() {
        taken += header.credit_bytes();
    }
    assert!(
        (65..65 + 64).contains(&taken),
        "overdrawn by one record at most: {taken}"
    );
    client.grant(process, 1 << 20).unwrap();
    let mut ended = 0;
    while ended < 2 {
        if let Notice::Event(Event::StreamEnded(_)) =
            client.next_notice(Some(PATIENCE)).unwrap().unwrap()
        {
            ended += 1;
        }
    }
}

#[test]
fn a_repeated_spawn_answers_with_the_first() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let first = client.spawn("k", script("a", "exit 3")).unwrap();
    let again = client
        .call(Spawn {
            key: "k".into(),
            spec: script("a", "exit 4"),
        })
        .unwrap();
    let Reply::Spawned(again) = again else {
        panic!("{again:?}")
    };
    assert!(again.existed && again.process.process == first.process.process);
    assert_eq!(
        end_of(&mut client, first.process.process),
        EndStatus::Exited(3)
    );
    assert!(client.spawn("k", script("a", "exit 5")).unwrap().existed);
}

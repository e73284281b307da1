//! What clients may store and ask, and what those who mean no good cannot do to others.

use crate::harness::{Kernel, PATIENCE, follow_to_the_end, script, until};
use crate::{end_of, refused};
use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::{Fence, Sequence};
use kingpole_protocol::places::Address;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Commit, SignalTarget, TakeLease, ValueChange};
use kingpole_protocol::spec::{OutputSpec, ProcessSpec};
use kingpole_protocol::status::EndStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};

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

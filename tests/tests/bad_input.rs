//! Promise: whatever a client sends, it gets a clear answer or is cut off, and nobody else notices.

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::decoder::Decoder;
use kingpole_protocol::error::ErrorReply;
use kingpole_protocol::frame::{HEADER_BYTES, Header};
use kingpole_protocol::hello::Hello;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{ListSessions, Ping, Request, Subscribe};
use kingpole_protocol::{ErrorCode, Fence, RequestId};
use kingpole_tests::puppet::Puppet;
use kingpole_tests::{Kernel, pattern, wait};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A client without manners.
struct Raw {
    connection: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn connect(kernel: &Kernel) -> Self {
        let connection = UnixStream::connect(kernel.socket()).unwrap();
        connection.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        connection.set_write_timeout(Some(wait::PATIENCE)).unwrap();
        Self {
            connection,
            decoder: Decoder::new(),
        }
    }

    /// Past the greeting and the line that asks for frames.
    fn attach(kernel: &Kernel) -> Self {
        let mut raw = Self::connect(kernel);
        raw.read_past(b"\n> ");
        raw.send(b"attach 1\n");
        let answer = raw.read_past(b"\n");
        assert!(
            answer.starts_with(b"Attached"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        raw
    }

    fn open(kernel: &Kernel) -> Self {
        let mut raw = Self::attach(kernel);
        raw.send(&hello(1, 1));
        assert!(matches!(raw.reply(), Reply::Welcome(_)));
        raw
    }

    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.connection.write_all(bytes).unwrap();
    }

    #[track_caller]
    fn read_past(&mut self, end: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(end) {
            match self.connection.read(&mut byte) {
                Ok(1) => text.push(byte[0]),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&text)),
            }
        }
        text
    }

    #[track_caller]
    fn reply(&mut self) -> Reply {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                if let Some(reply) = Reply::decode(frame.header.kind, frame.body).unwrap() {
                    return reply;
                }
                continue;
            }
            let count = self.connection.read(self.decoder.space()).unwrap();
            assert!(count > 0, "closed where a reply should come");
            self.decoder.advance(count);
        }
    }

    #[track_caller]
    fn error(&mut self) -> ErrorReply {
        match self.reply() {
            Reply::ErrorReply(error) => error,
            other => panic!("no error: {other:?}"),
        }
    }

    /// Reads until the kernel has closed the connection.
    #[track_caller]
    fn expect_closed(&mut self) {
        let mut sink = vec![0; 65_536];
        let begun = Instant::now();
        loop {
            match self.connection.read(&mut sink) {
                Ok(0) => return,
                Ok(_) => assert!(begun.elapsed() < wait::PATIENCE, "it goes on for ever"),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("not closed: {error}"),
            }
        }
    }
}

fn hello(version_min: u16, version_max: u16) -> Vec<u8> {
    let hello = Hello {
        version_min,
        version_max,
        capabilities: 0,
        client: "raw/0".into(),
    };
    Request::from(hello)
        .encode(RequestId(1), Fence::NONE)
        .unwrap()
}

fn header(kind: u16, body_bytes: u32) -> [u8; HEADER_BYTES] {
    let request = RequestId(7);
    Header {
        kind,
        flags: 0,
        request,
        fence: Fence::NONE,
        body_bytes,
        descriptors: 0,
    }
    .to_bytes()
}

/// A bystander who must not notice anything: a session, and a child with output.
struct Bystander {
    client: Client,
    puppet: Puppet,
    lines: u64,
}

impl Bystander {
    fn new(kernel: &Kernel) -> Self {
        let mut client = kernel.client();
        let puppet = Puppet::spawn(kernel, &mut client, "bystander", |_| {});
        Self {
            client,
            puppet,
            lines: 0,
        }
    }

    #[track_caller]
    fn check(&mut self) {
        self.lines += 1;
        self.puppet.ask("text out x");
        wait::until("the bystander's output is read", || {
            let all = self.client.processes().unwrap();
            let output = all
                .iter()
                .find(|p| p.process == self.puppet.process())
                .unwrap()
                .output;
            if output.stdout_bytes == 2 * self.lines {
                Ok(())
            } else {
                Err(format!("{output:?}"))
            }
        });
    }
}

#[test]
fn what_is_no_frame_ends_the_session_and_is_logged_once() {
    let kernel = Kernel::start();
    let mut bystander = Bystander::new(&kernel);
    let mut wrong_length = header(2, u32::MAX).to_vec();
    wrong_length.extend([0; 100]);
    for (what, bytes) in [
        (
            "text",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        ("zeros", vec![0; 4096]),
        ("a length of 4 GiB", wrong_length),
        (
            "a length just past the limit",
            header(2, (1 << 20) + 1).to_vec(),
        ),
    ] {
        for opened in [false, true] {
            let mut raw = if opened {
                Raw::open(&kernel)
            } else {
                Raw::attach(&kernel)
            };
            let before = kernel.log().lines().count();
            raw.send(&bytes);
            raw.expect_closed();
            bystander.check();
            let log = kernel.log();
            let news: Vec<&str> = log.lines().skip(before).collect();
            assert!((1..=2).contains(&news.len()), "{what}: logged {news:?}");
        }
    }
    bystander.check();
}

#[test]
fn an_unknown_kind_or_a_bad_body_is_refused_and_the_session_goes_on() {
    let kernel = Kernel::start();
    let mut raw = Raw::open(&kernel);
    for kind in [0x0fff, 0x3fff, 0x4001, 0x8002, 0xffff] {
        let mut frame = header(kind, 5).to_vec();
        frame.extend(*b"hello");
        raw.send(&frame);
        let error = raw.error();
        assert_eq!(error.code, ErrorCode::UNKNOWN_KIND, "{kind:#x}: {error:?}");
    }
    // A spawn that is cut short, one whose lists are longer than it, and one with rubbish behind.
    let spawn = kingpole_protocol::request::Spawn {
        key: "k".into(),
        spec: kingpole_tests::puppet::program("n", &["/bin/true"]),
    };
    let whole = Request::from(spawn)
        .encode(RequestId(9), Fence::NONE)
        .unwrap();
    let (_, body) = whole.split_at(HEADER_BYTES);
    let mut lying = body.to_vec();
    lying[..8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    let mut long = body.to_vec();
    long.extend([0; 3]);
    for body in [&body[..body.len() - 1], &body[..3], &[][..], &lying, &long] {
        let mut frame = header(0x0020, u32::try_from(body.len()).unwrap()).to_vec();
        frame.extend(body);
        raw.send(&frame);
        let error = raw.error();
        assert_eq!(error.code, ErrorCode::MALFORMED, "{error:?}");
    }
    raw.send(
        &Request::from(Ping {})
            .encode(RequestId(8), Fence::NONE)
            .unwrap(),
    );
    assert!(matches!(raw.reply(), Reply::Done(_)));
    assert_eq!(kernel.client().processes().unwrap(), []);
}

#[test]
fn the_greeting_must_come_first_once_and_with_a_version_we_speak() {
    let kernel = Kernel::start();
    let ping = Request::from(Ping {})
        .encode(RequestId(3), Fence::NONE)
        .unwrap();
    let mut raw = Raw::attach(&kernel);
    raw.send(&ping);
    assert_eq!(raw.error().code, ErrorCode::HELLO_EXPECTED);

    for (min, max) in [(2, 9), (0, 0), (60_000, 65_535)] {
        let mut raw = Raw::attach(&kernel);
        raw.send(&hello(min, max));
        let error = raw.error();
        assert_eq!(
            error.code,
            ErrorCode::UNSUPPORTED,
            "{min} to {max}: {error:?}"
        );
    }
    // A newer client that still speaks version 1 gets version 1.
    let mut raw = Raw::attach(&kernel);
    raw.send(&hello(1, 900));
    match raw.reply() {
        Reply::Welcome(welcome) => assert_eq!(welcome.version, 1),
        other => panic!("{other:?}"),
    }
    raw.send(&hello(1, 1));
    assert_eq!(raw.error().code, ErrorCode::INVALID);
    raw.send(&ping);
    assert!(matches!(raw.reply(), Reply::Done(_)));
}

#[test]
fn the_text_door_answers_what_it_knows_and_refuses_the_rest() {
    let kernel = Kernel::start();
    let mut puppet = Puppet::spawn(&kernel, &mut kernel.client(), "shown", |_| {});
    let mut raw = Raw::connect(&kernel);
    let greeting = raw.read_past(b"\n> ");
    assert_eq!(greeting, b"Papa is home. Type \"help\" for commands.\n> ");
    let mut ask = |line: &[u8]| {
        raw.send(line);
        String::from_utf8(raw.read_past(b"> ")).unwrap()
    };
    assert!(ask(b"frobnicate\n").starts_with("Error: Unknown command \"frobnicate\"\n"));
    assert!(ask(b"attach 99\n").starts_with("Error:"));
    assert!(ask(b"attach\n").starts_with("Error:"));
    assert!(ask(b"help\n").contains("attach"));
    let list = ask(b"l p\r\n");
    assert!(
        list.starts_with(&format!("shown pid={} running=True ", puppet.info.pid)),
        "{list}"
    );
    assert_eq!(ask(b"\n"), "> ");
    raw.send(b"quit\n");
    assert_eq!(raw.read_past(b"\n"), b"ok\n");
    raw.expect_closed();
    puppet.tell("exit 0");
}

#[test]
fn half_frames_keep_nobody_waiting_and_reserve_nothing() {
    let kernel = Kernel::start();
    let mut bystander = Bystander::new(&kernel);
    let before = bystander.client.status().unwrap().resident_kib;
    let mut halves = Vec::new();
    for _ in 0..50 {
        let mut raw = Raw::open(&kernel);
        // Declares a whole megabyte and sends none of it.
        raw.send(&header(0x0030, 1 << 20));
        halves.push(raw);
    }
    bystander.check();
    let after = bystander.client.status().unwrap().resident_kib;
    assert!(
        after < before + (10 << 10),
        "grown from {before} to {after} KiB"
    );
    drop(halves);
    wait::until("their sessions are gone", || {
        let left = bystander.client.status().unwrap().sessions;
        if left <= 2 { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_client_that_never_reads_is_held_back_and_disturbs_nobody() {
    let kernel = Kernel::start();
    let mut bystander = Bystander::new(&kernel);
    let before = bystander.client.status().unwrap().resident_kib;
    let mut deaf = Raw::open(&kernel);
    deaf.send(
        &Request::from(Subscribe {})
            .encode(RequestId(2), Fence::NONE)
            .unwrap(),
    );
    deaf.connection
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    // Each answer is far larger than its question.
    let question = Request::from(kingpole_protocol::request::ListProcesses {
        after: kingpole_protocol::ProcessId(0),
        limit: 100,
    })
    .encode(RequestId(5), Fence::NONE)
    .unwrap();
    let mut taken = 0_usize;
    let limit = 64 << 20;
    while taken < limit {
        match deaf.connection.write(&question) {
            Ok(count) => taken += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        taken < limit,
        "{taken} bytes of questions were taken from a client that reads nothing"
    );
    bystander.check();
    let Reply::Sessions(sessions) = bystander
        .client
        .call(ListSessions {
            after: 0,
            limit: u32::MAX,
        })
        .unwrap()
    else {
        panic!("no sessions")
    };
    for session in &sessions.items {
        assert!(session.queued_bytes < 4 << 20, "{session:?}");
    }
    let after = bystander.client.status().unwrap().resident_kib;
    assert!(
        after < before + (8 << 10),
        "grown from {before} to {after} KiB"
    );
}

#[test]
fn too_many_sessions_are_turned_away_politely() {
    let kernel = Kernel::start();
    let mut bystander = Bystander::new(&kernel);
    // Sessions that have attached; silent ones at the prompt would make room for others.
    let mut held = Vec::new();
    let (first, mut raw) = loop {
        let mut raw = Raw::connect(&kernel);
        let mut first = [0; 5];
        raw.connection
            .read_exact(&mut first)
            .expect("a greeting, or a refusal");
        if first != *b"Papa " {
            break (first, raw);
        }
        raw.read_past(b"\n> ");
        raw.send(b"attach 1\n");
        raw.read_past(b"\n");
        raw.send(&hello(1, 1));
        assert!(matches!(raw.reply(), Reply::Welcome(_)));
        held.push(raw);
        assert!(held.len() < 2000, "two thousand sessions were taken");
    };
    assert_eq!(&first, b"Error");
    raw.expect_closed();
    assert!(held.len() > 100, "only {} sessions were taken", held.len());
    bystander.check();
    drop(held);
    wait::until("there is room again", || {
        kernel.try_client("again/1").map(drop)
    });
}

#[test]
fn mutated_frames_never_bring_the_kernel_down() {
    let kernel = Kernel::start();
    let mut bystander = Bystander::new(&kernel);
    let pid = bystander.client.welcome().pid;
    let golden =
        std::fs::read_dir(kingpole_tests::binaries::workspace().join("protocol/golden/v1"))
            .unwrap();
    let mut frames: Vec<Vec<u8>> = golden
        .filter_map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name()?.to_str()?;
            // A kernel that was told to go would go.
            let wanted = name.starts_with("request-") && !name.contains("ExitIfIdle");
            let text = wanted.then(|| std::fs::read_to_string(&path).ok())??;
            unhex(&text)
        })
        .collect();
    frames.sort();
    assert!(frames.len() > 15, "golden requests were found");
    let mut seed = 0;
    for (number, frame) in frames.iter().enumerate() {
        for round in 0..20_u64 {
            seed += 1;
            let mut mutated = frame.clone();
            if round % 2 == 0 {
                // Without the fencing number, which nobody holds here, it gets further.
                mutated[16..24].fill(0);
            }
            for n in 0..=round % 4 {
                let place = u64::from(pattern::byte_at(seed * 16 + n)) * 256
                    + u64::from(pattern::byte_at(seed * 16 + n + 8));
                let at = usize::try_from(place).unwrap() % mutated.len();
                mutated[at] = pattern::byte_at(seed * 31 + n);
            }
            let mut raw = Raw::open(&kernel);
            // It may be closed while we are still sending.
            let _ = raw.connection.write_all(&mutated);
            let _ = raw.connection.shutdown(std::net::Shutdown::Write);
            let mut sink = Vec::new();
            let _ = raw.connection.read_to_end(&mut sink);
            assert!(
                nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).is_ok(),
                "golden request {number}, round {round}"
            );
        }
    }
    assert_eq!(kernel.client().welcome().pid, pid, "it is the same process");
    bystander.check();
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair.get(1)?).ok())
        .collect()
}

//! The control server on a real socket, asked by the command line's own client and by hand. The
//! engine behind it is a function that answers each command.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc as std_mpsc;
use std::thread;

use kingpole_protocol::places::{Address, MANAGER_SOCKET};
use kingpole_protocol::record::Stream;

use tokio::sync::mpsc;

use super::wire::EventLine;
use super::*;
use crate::cli::client::{ManagerClient, Patience};
use crate::cli::exit::Exit;
use crate::command::{Change, KernelLink, Refusal, RefusalKind, StatusReport, Wait, WatcherStatus};
use crate::command::{
    ProcessState, ProcessStatus, Readiness, Response as CommandResponse, WatcherState,
};
use crate::config::model::{
    FileStreamConfig, GlobalSettings, LineFormat, Location, StreamConfig, WatcherConfig,
};
use crate::engine::{Event, EventAction, Level, Moment, Pid, ProcessId, WorkerId};
use crate::shells::asking::CommandRequest;
use crate::shells::history::Origin;
use crate::shells::log::Decoration;
use crate::shells::place::ManagerLock;
use crate::streams::feed::Chunk;
use kingpole_protocol::Sequence;

struct Served {
    dir: tempfile::TempDir,
    history: History,
    events: Events,
    stay: watch::Sender<Stay>,
    _lock: ManagerLock,
}

impl Served {
    /// A server over an engine that is `answer`; no answer stands for an engine that ends.
    fn start(answer: impl Fn(Command) -> Option<CommandResponse> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Clients look for it before they knock.
        let lock = ManagerLock::take(dir.path()).unwrap();
        let path = dir.path().join(MANAGER_SOCKET);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let listener = HeldListener::from_unix(listener, Address::Unix(path));
        let history = History::default();
        let events = Events::default();
        let (stay, staying) = watch::channel(Stay::Yes);
        let (commands, mut inbox) = mpsc::channel::<CommandRequest>(4);
        let (_, configuration) = watch::channel(Arc::new(configuration(dir.path())));
        let kernel_socket = dir.path().join("kernel.sock");
        let control = Control {
            asker: Asker::new(commands, kernel_socket.clone()),
            history: history.clone(),
            events: events.clone(),
            configuration,
            stay: staying,
            upgrades: Upgrades::new(mpsc::channel(1).0),
            scrapes: Scrapes::default(),
            next: NextManager::default(),
            about: Arc::new(About {
                configuration: "/etc/web.ini".into(),
                runtime_dir: dir.path().to_owned(),
                kernel_socket,
                since: Instant::now(),
            }),
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let log = Log::stderr(Level::Error, Decoration::Full);
                tokio::spawn(async move {
                    while let Some(request) = inbox.recv().await {
                        if let Some(response) = answer(request.command) {
                            let _ = request.reply.send(response);
                        }
                    }
                });
                let _ = serve(listener, control, log).await;
            });
        });
        Self {
            dir,
            history,
            events,
            stay,
            _lock: lock,
        }
    }

    fn client(&self) -> ManagerClient {
        ManagerClient::new(self.dir.path()).unwrap()
    }

    /// Sends bytes as they are and reads until the server closes.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join(MANAGER_SOCKET)).unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn write(&self, watcher: &str, text: &str) {
        let origin = Arc::new(Origin {
            watcher: watcher.into(),
            worker: 1,
            pid: 7,
        });
        let block = Arc::new(text.as_bytes().to_vec());
        let chunk = Chunk::new(Sequence(1), 1_000, 0, block, 0, text.len());
        let records = Arc::new(vec![(Stream::Stdout, chunk)]);
        self.history.push(1, &origin, records);
    }
}

fn configuration(dir: &std::path::Path) -> Configuration {
    let mut web = WatcherConfig::with_defaults("web", Location::new("web.ini", 1, 1));
    web.stdout_stream = StreamConfig::File(FileStreamConfig {
        filename: dir.join("web.log"),
        max_bytes: None,
        backup_count: 0,
        truncate: false,
        lines: LineFormat::Raw,
    });
    let idle = WatcherConfig::with_defaults("idle", Location::new("web.ini", 2, 1));
    Configuration {
        path: "web.ini".into(),
        files: vec!["web.ini".into()],
        global: GlobalSettings::default(),
        watchers: vec![idle, web],
        sockets: vec![],
        plugins: vec![],
        flapping: None,
        warnings: vec![],
    }
}

fn status(_: Command) -> Option<CommandResponse> {
    let process = ProcessStatus {
        worker: WorkerId(1),
        pid: Pid(std::process::id()),
        process: ProcessId(1),
        state: ProcessState::Running,
        readiness: Readiness::Ready,
        readiness_reason: None,
        says: None,
        started: Moment(1),
        uptime_ms: 5,
        restarts: 0,
        outdated: false,
    };
    let watcher = WatcherStatus {
        name: "web".into(),
        state: WatcherState::Active,
        reason: None,
        numprocesses: 1,
        configured: 1,
        actual: 1,
        ready: 1,
        restarts: 0,
        retry_in_ms: None,
        operation: None,
        queued: 0,
        next: String::new(),
        ends: Vec::new(),
        processes: vec![process],
    };
    Some(Ok(Answer::Status(StatusReport {
        kernel: KernelLink::Lost,
        watchers: vec![watcher],
        sockets: vec![],
        foreign_processes: 0,
    })))
}

#[test]
fn status_is_the_engines_report_with_memory_and_who_answers() {
    let served = Served::start(status);
    let client = served.client();
    let report = client.get("/v1/status").unwrap();
    assert_eq!(report["watchers"][0]["name"], "web");
    assert!(
        report["watchers"][0]["processes"][0]["resident_kib"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert_eq!(report["manager"]["pid"], std::process::id());
    assert_eq!(report["kernel"]["state"], "lost");
    let one = client.get("/v1/watchers/web").unwrap();
    assert_eq!(one["state"], "active");
    let asked = client
        .command_value(&Command::Status(Selection::default()), Patience::Usual)
        .unwrap();
    // Memory moves, the rest is the same.
    assert_eq!(asked["watchers"][0]["state"], "active");
    assert!(asked["manager"].is_object());
}

#[test]
fn commands_arrive_as_they_were_sent_and_refusals_keep_their_words() {
    let served = Served::start(|command| match command {
        Command::Stop(change) if change.wait == Wait::Done => {
            assert_eq!(change.selection.watchers, ["web"]);
            Some(Ok(Answer::Changed { watchers: vec![] }))
        }
        _ => Some(Err(Refusal {
            kind: RefusalKind::UnknownWatcher,
            reason: "program nope not found".into(),
        })),
    });
    let selection = Selection::one("web");
    let stop = Command::Stop(Change {
        selection,
        wait: Wait::Done,
    });
    let answer = served.client().command(&stop, Patience::Usual).unwrap();
    assert_eq!(answer, Answer::Changed { watchers: vec![] });
    let start = Command::Start(Change::default());
    let failure = served
        .client()
        .command(&start, Patience::Usual)
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert_eq!(failure.message.unwrap(), "program nope not found");
    let raw = served.raw(
        "POST /v1/commands HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 19\r\n\r\n\
         {\"command\":\"start\"}",
    );
    assert!(
        raw.starts_with("HTTP/1.1 404") && raw.contains("\"unknown_watcher\""),
        "{raw}"
    );
}

#[test]
fn an_engine_that_ends_is_an_error_of_the_request_only() {
    let served = Served::start(|_| None);
    let failure = served.client().get("/v1/status").unwrap_err();
    assert_eq!(failure.message.unwrap(), "the manager is leaving");
}

#[test]
fn patience_ends_with_its_own_exit_code() {
    let (hold, held) = std_mpsc::channel::<()>();
    let served = Served::start(move |_| {
        // Until the test is over.
        let _ = held.recv();
        None
    });
    let wait = Patience::For(std::time::Duration::from_millis(20));
    let failure = served
        .client()
        .command(&Command::Start(Change::default()), wait)
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Unfinished);
    drop(hold);
}

#[test]
fn bad_requests_get_an_error_in_json_and_disturb_nobody() {
    let served = Served::start(status);
    let close = "host: x\r\nconnection: close\r\n";
    let long = "x".repeat(BODY_BYTES_MAX + 1);
    let length = long.len();
    for (request, status, word) in [
        (
            format!("GET /v1/nothing HTTP/1.1\r\n{close}\r\n"),
            "404",
            "not_found",
        ),
        (
            format!("PUT /v1/status HTTP/1.1\r\n{close}\r\n"),
            "405",
            "method_not_allowed",
        ),
        (
            format!("GET /v1/status?colour=red HTTP/1.1\r\n{close}\r\n"),
            "400",
            "colour",
        ),
        (
            format!("GET /v1/logs?lines=many HTTP/1.1\r\n{close}\r\n"),
            "400",
            "lines=many",
        ),
        (
            format!("GET /v1/logs?name=nope HTTP/1.1\r\n{close}\r\n"),
            "404",
            "unknown_watcher",
        ),
        (
            format!("POST /v1/commands HTTP/1.1\r\n{close}content-length: 1\r\n\r\n{{"),
            "400",
            "no JSON",
        ),
        (
            format!("POST /v1/commands HTTP/1.1\r\n{close}content-length: {length}\r\n\r\n{long}"),
            "413",
            "at most",
        ),
        (
            format!("GET /v1/kernel HTTP/1.1\r\n{close}\r\n"),
            "503",
            "kernel_unreachable",
        ),
    ] {
        let answer = served.raw(&request);
        let first = request.lines().next().unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{first}: {answer}"
        );
        assert!(answer.contains(word), "{first}: {answer}");
        assert!(
            answer.contains("{\"error\":{\"code\":"),
            "{first}: {answer}"
        );
    }
    served.raw("\0\x01garbage\r\n\r\n");
    served.client().get("/v1/status").unwrap();
}

#[test]
fn half_requests_keep_nobody_out_and_followers_in() {
    let served = Served::start(status);
    let connect = || UnixStream::connect(served.dir.path().join(MANAGER_SOCKET)).unwrap();
    let mut follower = connect();
    follower
        .write_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    served.events.publish(reap("web"));
    let mut told = Vec::new();
    let mut hear = |word: &str| {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&told).contains(word) {
            let count = follower.read(&mut piece).unwrap();
            assert!(count > 0, "the follower had to leave");
            told.extend_from_slice(&piece[..count]);
        }
    };
    hear("watcher.web.reap");

    let beginnings: [&[u8]; 3] = [
        b"",
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx: ",
        b"POST /v1/commands HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
    ];
    let mut half = Vec::new();
    for beginning in beginnings.iter().cycle().take(3 * 200) {
        let mut visitor = connect();
        visitor.write_all(beginning).unwrap();
        half.push(visitor);
    }
    served.client().get("/v1/status").unwrap();
    served.events.publish(reap("db"));
    hear("watcher.db.reap");
    let mut rest = String::new();
    // The first to come has left; the last may stay.
    assert!(matches!(half[0].read_to_string(&mut rest), Ok(0)), "{rest}");
}

#[test]
fn logs_begin_with_the_file_go_on_with_what_is_remembered_and_then_live() {
    let served = Served::start(status);
    std::fs::write(served.dir.path().join("web.log"), "old 1\nold 2\nnew 1\n").unwrap();
    served.write("web", "new 1\n");
    served.write("idle", "other\n");
    let (lines, seen) = std_mpsc::channel();
    let client = served.client();
    thread::spawn(move || {
        let ended = client.lines("/v1/logs?name=WEB&lines=10&follow=1", |line| {
            let entry: wire::LogEntry = serde_json::from_slice(line).unwrap();
            let _ = lines.send(match entry {
                wire::LogEntry::Line { text, .. } => text,
                wire::LogEntry::Stored { text, .. } => format!("file: {text}"),
                wire::LogEntry::Dropped { dropped } => format!("dropped {dropped}"),
                wire::LogEntry::Gap { lost_bytes, .. } => format!("lost {lost_bytes}"),
                wire::LogEntry::Unseen { .. } => "unseen".to_owned(),
            });
            Ok(())
        });
        let _ = lines.send(format!("ended: {ended:?}"));
    });
    let next = || {
        seen.recv_timeout(std::time::Duration::from_secs(90))
            .unwrap()
    };
    assert_eq!(
        [next(), next(), next()],
        ["file: old 1", "file: old 2", "new 1"]
    );
    served.write("idle", "other\n");
    served.write("web", "new 2\n");
    assert_eq!(next(), "new 2");
    served.write("web", "last\n");
    served.stay.send_replace(Stay::No);
    assert_eq!([next(), next()], ["last", "ended: Ok(())"]);
}

fn reap(watcher: &str) -> EventLine {
    EventLine::from(&Event {
        watcher: watcher.into(),
        at: crate::shells::clock::now(),
        action: EventAction::Reap {
            pid: Pid(7),
            exit_code: -9,
        },
    })
}

#[test]
fn events_of_late_are_told_and_those_that_follow() {
    let served = Served::start(status);
    let (old, new) = (reap("My Web"), reap("db"));
    served.events.publish(old.clone());
    let (lines, seen) = std_mpsc::channel();
    let client = served.client();
    thread::spawn(move || {
        let _ = client.lines("/v1/events?follow=1", |line| {
            let _ = lines.send(String::from_utf8_lossy(line).into_owned());
            Ok(())
        });
    });
    let next = || {
        let line = seen
            .recv_timeout(std::time::Duration::from_secs(90))
            .unwrap();
        serde_json::from_str::<EventLine>(&line).unwrap()
    };
    let told = next();
    assert_eq!(told, old);
    assert_eq!(
        (told.topic.as_str(), told.exit_code),
        ("watcher.my_web.reap", Some(-9))
    );
    served.events.publish(new.clone());
    assert_eq!(next(), new);
}

#[test]
fn who_does_not_follow_events_is_told_those_there_are() {
    let served = Served::start(status);
    for watcher in ["web", "db", "web"] {
        served.events.publish(reap(watcher));
    }
    let told = |path: &str| {
        let mut watchers = Vec::new();
        let lines = served.client().lines(path, |line| {
            let event: EventLine = serde_json::from_slice(line).unwrap();
            watchers.push(event.watcher);
            Ok(())
        });
        lines
            .map(|()| watchers)
            .map_err(|failure| failure.message.unwrap_or_default())
    };
    assert_eq!(told("/v1/events").unwrap(), ["web", "db", "web"]);
    assert_eq!(told("/v1/events?count=2&name=w*").unwrap(), ["web", "web"]);
    assert!(told("/v1/events?name=nope").unwrap_err().contains("nope"));
}

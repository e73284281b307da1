//! The writer on real files, with a kernel that is a map.

use super::files::{ConsoleLines, Files, LogFile};
use super::zone::LocalZone;
use crate::streams::disk::{Commit, Keeper, Stop, Target};
use crate::streams::feed::Chunk;
use crate::streams::format::Style;
use crate::streams::limits::Limits;
use crate::streams::position::Child;
use crate::streams::rotate::Backups;
use crate::streams::schedule::{Clock, Schedule, Unit};
use crate::streams::sink::{Event, Rotation, SinkSpec};
use crate::streams::target::{CommandLine, SyslogAddress};
use crate::streams::writer::{Alive, Label, Now, Turn, Writer};
use kingpole_protocol::record::Stream;
use kingpole_protocol::{Fence, ProcessId, Sequence};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const CHILD: Child = Child {
    process: ProcessId(1),
    epoch: 1,
};

/// Remembers values and acknowledgements; refuses everything after so many messages, as if the
/// manager had been killed then.
#[derive(Default)]
struct MapKernel {
    values: BTreeMap<String, Vec<u8>>,
    acknowledged: u64,
    messages_left: Option<u32>,
}

impl Keeper for MapKernel {
    fn commit(&mut self, commit: Commit) -> Result<(), Stop> {
        match &mut self.messages_left {
            Some(0) => return Err(Stop::Killed),
            Some(left) => *left -= 1,
            None => {}
        }
        for (key, value) in commit.values {
            match value {
                Some(value) => self.values.insert(key, value),
                None => self.values.remove(&key),
            };
        }
        for (_, through) in commit.acknowledgements {
            self.acknowledged = through.0;
        }
        Ok(())
    }
}

fn sink(path: &Path, rotation: Option<(u64, u32)>) -> SinkSpec {
    let backups = |(max_bytes, backups)| Rotation::Size {
        max_bytes,
        backups: Backups(backups),
    };
    SinkSpec {
        target: Target::File(path.to_owned()),
        style: Style::Raw,
        rotation: rotation.map(backups),
    }
}

fn at(milliseconds: u64) -> Now {
    let monotonic_ns = milliseconds * 1_000_000;
    Now {
        monotonic_ns,
        wall_ns: 1_700_000_000_000_000_000 + monotonic_ns,
    }
}

fn writer(kernel: &MapKernel, stdout: &SinkSpec, stderr: &SinkSpec) -> Writer<LogFile> {
    let values: Vec<_> = kernel
        .values
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let alive = Alive {
        child: CHILD,
        pid: 42,
        baseline: None,
    };
    let mut writer = Writer::new(Limits::STANDARD, &values, &[alive]);
    let label = Label {
        pid: 42,
        name: "w.1".into(),
    };
    writer.attach(CHILD, label, stdout, stderr, at(0));
    writer
}

/// Hands over every line from record `from` on; line n is record n of stdout.
fn feed(writer: &mut Writer<LogFile>, lines: &[String], from: u64) {
    let mut offset = 0;
    for (number, line) in (1..).zip(lines) {
        if number >= from {
            let block = Arc::new(line.as_bytes().to_vec());
            let chunk = Chunk::new(Sequence(number), number, offset, block, 0, line.len());
            writer.handle_record(CHILD, Stream::Stdout, chunk);
        }
        offset += line.len() as u64;
    }
}

/// Turns until nothing is left to do, jumping over pauses; at most so many of them.
fn settle(
    writer: &mut Writer<LogFile>,
    kernel: &mut MapKernel,
    pauses: u32,
) -> Result<Vec<Event>, Stop> {
    let mut files = Files::new(ConsoleLines::Shown);
    let mut zone = LocalZone::system();
    let (mut now, mut left) = (at(1), pauses);
    let mut events = Vec::new();
    loop {
        let turn = writer.turn(&mut files, kernel, &mut zone, now)?;
        events.extend(std::iter::from_fn(|| writer.poll_event()));
        match (turn, writer.poll_deadline()) {
            (Turn::Again, _) => {}
            (Turn::Wait, Some(deadline)) if left > 0 => {
                left -= 1;
                now = Now {
                    monotonic_ns: now.monotonic_ns.max(deadline),
                    ..now
                };
            }
            (Turn::Wait, _) => return Ok(events),
        }
    }
}

fn lines(count: u64) -> Vec<String> {
    (1..=count)
        .map(|number| format!("line {number} of the test\n"))
        .collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_manager_killed_after_any_message_leaves_every_line_once_in_real_files() {
    let lines = lines(400);
    for messages in 0..30 {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join("a.log");
        let spec = sink(&path, Some((900, 20)));
        let mut kernel = MapKernel {
            messages_left: Some(messages),
            ..MapKernel::default()
        };
        let mut killed = 0;
        loop {
            let mut writer = writer(&kernel, &spec, &spec);
            let (_, from) = writer.poll_follow().expect("the child is attached");
            feed(&mut writer, &lines, from.0);
            match settle(&mut writer, &mut kernel, 100) {
                Ok(_) => break,
                Err(_) => {
                    killed += 1;
                    kernel.messages_left = (killed < 3).then_some(messages);
                }
            }
        }
        let mut all = String::new();
        for number in (1..=20).rev() {
            all += &read(&PathBuf::from(format!("{}.{number}", path.display())));
        }
        all += &read(&path);
        assert_eq!(all, lines.concat(), "killed after {messages} messages");
        assert_eq!(kernel.acknowledged, 400);
    }
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("a.log");
    let spec = sink(&path, None);
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &spec, &spec);
    let lines = lines(10);
    feed(&mut writer, &lines[..5], 1);
    settle(&mut writer, &mut kernel, 10).expect("not killed");
    let moved = directory.path().join("moved.log");
    std::fs::rename(&path, &moved).expect("renamed");
    feed(&mut writer, &lines, 6);
    settle(&mut writer, &mut kernel, 10).expect("not killed");
    assert_eq!(read(&moved), lines[..5].concat());
    assert_eq!(read(&path), lines[5..].concat());
}

#[test]
fn a_sink_that_fails_holds_only_its_own_output() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("a.log");
    let mut kernel = MapKernel::default();
    // /dev/full says "no space left on device" to every write.
    let mut writer = writer(
        &kernel,
        &sink(&path, None),
        &sink(Path::new("/dev/full"), None),
    );
    let chunk = |sequence, text: &str| {
        Chunk::new(
            Sequence(sequence),
            1,
            0,
            Arc::new(text.as_bytes().to_vec()),
            0,
            text.len(),
        )
    };
    writer.handle_record(CHILD, Stream::Stderr, chunk(1, "stuck\n"));
    writer.handle_record(CHILD, Stream::Stdout, chunk(2, "goes on\n"));
    let events = settle(&mut writer, &mut kernel, 20).expect("not killed");
    assert_eq!(read(&path), "goes on\n");
    assert_eq!(
        kernel.acknowledged, 0,
        "nothing may be acknowledged past what is stuck"
    );
    let failing = events
        .iter()
        .filter(|event| matches!(event, Event::SinkFailing(..)));
    assert_eq!(failing.count(), 1, "{events:?}");
    assert_eq!(writer.held_bytes(CHILD), 6);
}

/// A tiny file system, unmounted at the end; `None` where that needs rights that we lack.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().expect("made");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=16k", "kingpole-test"])
            .arg(directory.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_loses_and_doubles_nothing() {
    let Some(disk) = TinyDisk::mount() else {
        eprintln!("SKIPPED: no file system can be mounted here (needs root)");
        return;
    };
    let path = disk.0.path().join("a.log");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 10]).expect("fits");
    let spec = sink(&path, None);
    let mut kernel = MapKernel::default();
    let lines = lines(600);
    let mut writer = writer(&kernel, &spec, &spec);
    feed(&mut writer, &lines, 1);
    let events = settle(&mut writer, &mut kernel, 20).expect("not killed");
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::SinkFailing(..))),
        "{events:?}"
    );
    let written = read(&path);
    assert!(!written.is_empty() && written.len() < lines.concat().len());
    // The manager is killed in this state; then there is space again.
    let mut writer = self::writer(&kernel, &spec, &spec);
    let (_, from) = writer.poll_follow().expect("the child is attached");
    std::fs::remove_file(&ballast).expect("removed");
    feed(&mut writer, &lines, from.0);
    let events = settle(&mut writer, &mut kernel, 20).expect("not killed");
    assert_eq!(read(&path), lines.concat(), "{events:?}");
    assert_eq!(kernel.acknowledged, 600);
}

/// Turns with the real clock until `done`, or too long.
fn run_until(
    writer: &mut Writer<LogFile>,
    kernel: &mut MapKernel,
    files: &mut Files,
    done: impl Fn() -> bool,
) {
    let begun = std::time::Instant::now();
    let mut zone = LocalZone::system();
    while !done() {
        assert!(begun.elapsed().as_secs() < 60, "it takes too long");
        let now = at(begun.elapsed().as_millis() as u64);
        writer
            .turn(files, kernel, &mut zone, now)
            .expect("the kernel answers");
        files.tend(std::time::Instant::now());
        files.poll(&[], nix::poll::PollTimeout::from(5_u8));
    }
}

fn command(directory: &Path, script: &str) -> SinkSpec {
    let path = directory.join("program");
    std::fs::write(&path, script).expect("written");
    let style = Style::Raw;
    let line = CommandLine {
        command: format!("sh {}", path.display()),
        style: style.clone(),
    };
    SinkSpec {
        target: Target::Command(line),
        style,
        rotation: None,
    }
}

#[test]
fn a_program_that_ends_after_each_line_misses_none() {
    let directory = tempfile::tempdir().expect("made");
    let out = directory.path().join("out");
    // The shell's `read` takes a line and not a byte more.
    let script = format!("read -r line && echo \"$line\" >> {}", out.display());
    let spec = command(directory.path(), &script);
    let lines: Vec<String> = (1..=5).map(|number| format!("line {number}\n")).collect();
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &spec, &spec);
    feed(&mut writer, &lines, 1);
    let mut files = Files::new(ConsoleLines::Shown);
    let written = || std::fs::read_to_string(&out).unwrap_or_default();
    let done = || written().lines().count() >= lines.len();
    run_until(&mut writer, &mut kernel, &mut files, done);
    assert_eq!(written(), lines.concat());
}

#[test]
fn a_program_that_does_not_read_holds_up_its_own_lines_only() {
    let directory = tempfile::tempdir().expect("made");
    let (go, out) = (directory.path().join("go"), directory.path().join("out"));
    let file = sink(&directory.path().join("file"), None);
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).expect("made");
    // It waits for somebody to write into the other pipe.
    let script = format!("read -r x < {}; exec cat > {}", go.display(), out.display());
    let spec = command(directory.path(), &script);
    let text = format!("{}\n", "x".repeat(999));
    let lines: Vec<String> = (0..300).map(|_| text.clone()).collect();
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &spec, &file);
    feed(&mut writer, &lines, 1);
    let other = Arc::new(b"other\n".to_vec());
    let chunk = Chunk::new(Sequence(301), 1, 0, other, 0, 6);
    writer.handle_record(CHILD, Stream::Stderr, chunk);
    let mut files = Files::new(ConsoleLines::Shown);
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let stored = || length(&directory.path().join("file")) == 6;
    run_until(&mut writer, &mut kernel, &mut files, stored);
    assert_eq!(length(&out), 0);
    assert!(
        writer.held_bytes(CHILD) > 0,
        "what it has not taken is kept"
    );
    std::fs::write(&go, "go\n").expect("it reads now");
    let all = || length(&out) == 300_000;
    run_until(&mut writer, &mut kernel, &mut files, all);
}

#[test]
fn the_system_log_gets_what_was_said_while_it_was_away() {
    let directory = tempfile::tempdir().expect("made");
    let socket = directory.path().join("log");
    let address = SyslogAddress {
        socket: socket.clone(),
        facility: 3,
        ident: "w".to_owned(),
    };
    let spec = SinkSpec {
        target: Target::Syslog(address),
        style: Style::Labelled,
        rotation: None,
    };
    let lines = ["one\n".to_owned(), "two\n".to_owned()];
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &spec, &spec);
    feed(&mut writer, &lines, 1);
    let mut files = Files::new(ConsoleLines::Shown);
    let mut zone = LocalZone::system();
    for _ in 0..3 {
        writer
            .turn(&mut files, &mut kernel, &mut zone, at(1))
            .expect("the kernel answers");
    }
    let events: Vec<Event> = std::iter::from_fn(|| writer.poll_event()).collect();
    assert!(matches!(events[..], [Event::SinkFailing(..)]), "{events:?}");
    let log = std::os::unix::net::UnixDatagram::bind(&socket).expect("bound");
    log.set_nonblocking(true).expect("set");
    let got = std::cell::RefCell::new(Vec::new());
    run_until(&mut writer, &mut kernel, &mut files, || {
        let mut bytes = [0; 200];
        while let Ok(length) = log.recv(&mut bytes) {
            got.borrow_mut()
                .push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        got.borrow().len() >= 2
    });
    assert!(got.borrow()[0].ends_with("w[42]: one"), "{got:?}");
    assert!(got.borrow()[1].ends_with("w[42]: two"), "{got:?}");
}

#[test]
fn a_file_is_rotated_by_the_time_of_its_lines_and_old_ones_go() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("w.log");
    let schedule = Schedule {
        unit: Unit::Hours,
        count: 1,
        clock: Clock::Utc,
        keep: 2,
    };
    let spec = SinkSpec {
        rotation: Some(Rotation::Time(schedule)),
        ..sink(&path, None)
    };
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &spec, &spec);
    let hour = 3_600_000_000_000;
    // 2023-11-14 22:13:20, and then an hour later each time; the last one before all others.
    let begin = 1_700_000_000_000_000_000;
    let mut offset = 0;
    for (number, time_ns) in (1..).zip(
        [0, 1, 2, 3, 3]
            .map(|n| begin + n * hour)
            .into_iter()
            .chain([begin - hour]),
    ) {
        let line = format!("line {number}\n");
        let length = line.len();
        let block = Arc::new(line.into_bytes());
        let chunk = Chunk::new(Sequence(number), time_ns, offset, block, 0, length);
        writer.handle_record(CHILD, Stream::Stdout, chunk);
        offset += length as u64;
    }
    std::fs::write(directory.path().join("w.log.notes"), "not ours").expect("written");
    settle(&mut writer, &mut kernel, 20).expect("the kernel answers");
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name));
    assert_eq!(read("w.log").expect("there"), "line 4\nline 5\nline 6\n");
    assert_eq!(read("w.log.2023111500").expect("there"), "line 3\n");
    assert_eq!(read("w.log.2023111423").expect("there"), "line 2\n");
    assert!(read("w.log.2023111422").is_err(), "two are kept");
    assert_eq!(read("w.log.notes").expect("there"), "not ours");
}

#[test]
fn a_full_file_without_backups_is_emptied_if_that_is_wanted() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("w.log");
    let spec = SinkSpec {
        rotation: Some(Rotation::Empty { max_bytes: 30 }),
        ..sink(&path, None)
    };
    let lines: Vec<String> = (1..=10)
        .map(|number| format!("line {number:02}\n"))
        .collect();
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &spec, &spec);
    feed(&mut writer, &lines, 1);
    settle(&mut writer, &mut kernel, 20).expect("the kernel answers");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "line 10\n");
    assert_eq!(kernel.acknowledged, 10);
}

#[test]
fn a_changed_configuration_holds_from_the_next_batch_on_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("made");
    let (a, b) = (
        directory.path().join("a.log"),
        directory.path().join("b.log"),
    );
    let first = sink(&a, None);
    let lines: Vec<String> = (1..=3).map(|number| format!("line {number}\n")).collect();
    let mut kernel = MapKernel::default();
    let mut writer = writer(&kernel, &first, &first);
    feed(&mut writer, &lines[..1], 1);
    settle(&mut writer, &mut kernel, 5).expect("the kernel answers");
    let label = Label {
        pid: 42,
        name: "w.1".into(),
    };
    let timed = SinkSpec {
        style: Style::Prefixed("X".to_owned()),
        ..first.clone()
    };
    writer.configure(&timed);
    writer.attach(CHILD, label.clone(), &timed, &timed, at(0));
    feed(&mut writer, &lines[..2], 1);
    settle(&mut writer, &mut kernel, 5).expect("the kernel answers");
    let second = sink(&b, None);
    writer.configure(&second);
    writer.attach(CHILD, label, &second, &second, at(0));
    feed(&mut writer, &lines, 1);
    settle(&mut writer, &mut kernel, 5).expect("the kernel answers");
    let read = |path: &Path| std::fs::read_to_string(path).expect("there");
    assert_eq!(read(&a), "line 1\nX [42] | line 2\n");
    assert_eq!(read(&b), "line 3\n");
    assert_eq!(kernel.acknowledged, 3);
}

#[test]
fn a_kernel_that_was_lost_and_found_before_anybody_looked_is_connected_to() {
    let (orders, inbox) = std::sync::mpsc::channel();
    let (_wake, woken) = std::os::unix::net::UnixStream::pair().unwrap();
    let (events, _reports) = tokio::sync::mpsc::unbounded_channel();
    let settings = super::StreamsSettings {
        socket: PathBuf::new(),
        runtime_dir: PathBuf::new(),
        console: ConsoleLines::Shown,
        history: Default::default(),
    };
    let mut worker = super::Worker::new(settings, inbox, woken, events);
    for order in [
        super::Order::Connect(Fence(1)),
        super::Order::Disconnect,
        super::Order::Connect(Fence(2)),
    ] {
        orders.send(order).unwrap();
    }
    assert!(worker.attend().is_none());
    assert_eq!(worker.fence, Some(Fence(2)));
    orders.send(super::Order::Disconnect).unwrap();
    assert!(worker.attend().is_none());
    assert_eq!(worker.fence, None);
}

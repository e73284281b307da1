//! The writer on real files, with a kernel that is a map.

use super::files::{ConsoleLines, Files, LogFile};
use super::zone::LocalZone;
use crate::streams::disk::{Commit, Keeper, Stop, Target};
use crate::streams::feed::Chunk;
use crate::streams::format::Style;
use crate::streams::limits::Limits;
use crate::streams::position::Child;
use crate::streams::rotate::Backups;
use crate::streams::sink::{Event, Rotation, SinkSpec};
use crate::streams::writer::{Alive, Now, Turn, Writer};
use kingpole_protocol::record::Stream;
use kingpole_protocol::{ProcessId, Sequence};
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
    let backups = |(max_bytes, backups)| Rotation {
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
    writer.attach(CHILD, 42, stdout, stderr, at(0));
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

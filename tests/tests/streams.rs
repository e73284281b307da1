//! Promise: output reaches every kind of stream, and files effectively once, whatever is killed.

use kingpole_tests::manager::Manager;
use kingpole_tests::{Kernel, wait};
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::rc::Rc;

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// `base` and what was rotated away from it, oldest first.
fn rotated(base: &Path) -> Vec<PathBuf> {
    let directory = base.parent().expect("a directory");
    let name = base.file_name().and_then(|name| name.to_str());
    let prefix = format!("{}.", name.expect("text"));
    let mut old: Vec<(String, u32, PathBuf)> = std::fs::read_dir(directory)
        .expect("listed")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let behind = path.file_name()?.to_str()?.strip_prefix(&prefix)?;
            let (time, number) = behind.split_once('.').unwrap_or((behind, "0"));
            Some((time.to_owned(), number.parse().ok()?, path.clone()))
        })
        .collect();
    old.sort();
    let mut all: Vec<PathBuf> = old.into_iter().map(|(.., path)| path).collect();
    all.push(base.to_owned());
    all
}

#[test]
fn a_process_that_waits_for_its_buffer_loses_nothing_though_managers_are_killed() {
    const LINES: u64 = 200_000;
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("seq.log");
    let ini = format!(
        "[circus]\n[watcher:w]\ncmd = seq {LINES}\nrespawn = false\nbuffer_bytes = 65536\n\
         buffer_full = wait\nstdout_stream.filename = {}\n",
        log.display()
    );
    let configuration = scratch.write("one.ini", ini);
    let mut manager = Manager::start(&scratch, &configuration);
    let mut seen = 0;
    for _ in 0..3 {
        wait::until("some more is written", || match length(&log) {
            now if now > seen => {
                seen = now;
                Ok(())
            }
            now => Err(format!("{now} bytes; {}", manager.log())),
        });
        manager.replace();
    }
    let expected: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    wait::until("all is written", || match length(&log) {
        now if now >= expected.len() as u64 => Ok(()),
        now => Err(format!("{now} of {}; {}", expected.len(), manager.log())),
    });
    let written = std::fs::read_to_string(&log).expect("text");
    assert!(
        written == expected,
        "every line once and in order, nothing else"
    );
}

#[test]
fn rotation_by_time_goes_on_through_kills_and_has_every_line_once() {
    const LINES: u32 = 30;
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("timed.log");
    let script = scratch.write(
        "ticks",
        format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.1; done"),
    );
    let ini = format!(
        "[circus]\n[watcher:w]\ncmd = /bin/sh {}\nrespawn = false\n\
         stdout_stream.class = TimedRotatingFileStream\nstdout_stream.filename = {}\n\
         stdout_stream.rotate_when = S\nstdout_stream.utc = 1\n[env]\nPATH = /usr/bin:/bin\n",
        script.display(),
        log.display()
    );
    let configuration = scratch.write("one.ini", ini);
    let mut manager = Manager::start(&scratch, &configuration);
    let written = || {
        let parts = rotated(&log);
        let texts = parts.iter().map(std::fs::read_to_string);
        texts.map(Result::unwrap_or_default).collect::<String>()
    };
    let has = |number: u32| {
        let line = format!("line {number}\n");
        move |text: &str| text.contains(&line)
    };
    for number in [4, 12, 20, LINES] {
        wait::until("another line is written", || match written() {
            text if has(number)(&text) => Ok(()),
            text => Err(format!("{text:?}; {}", manager.log())),
        });
        if number < LINES {
            manager.replace();
        }
    }
    let expected: String = (1..=LINES)
        .map(|number| format!("line {number}\n"))
        .collect();
    assert_eq!(written(), expected);
    let files = rotated(&log).len();
    assert!(files > 2, "{files} files for three seconds and more");
}

#[test]
fn programs_the_system_log_and_the_journal_get_each_line() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let (syslog, journal) = (scratch.join("log.sock"), scratch.join("journal.sock"));
    let taken = scratch.join("taken");
    let log = UnixDatagram::bind(&syslog).expect("bound");
    let entries = UnixDatagram::bind(&journal).expect("bound");
    for socket in [&log, &entries] {
        let patience = Some(wait::PATIENCE);
        socket.set_read_timeout(patience).expect("set");
    }
    let receive = |socket: &UnixDatagram| {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let script = scratch.write("take", format!("cat >> {}", taken.display()));
    let say = scratch.write("say", "echo to out; echo to err >&2; exec sleep 1000");
    let ini = format!(
        "[circus]\n[env]\nPATH = /usr/bin:/bin\n\
         [watcher:a]\ncmd = /bin/sh {say}\n\
         stdout_stream.class = CommandStream\nstdout_stream.command = /bin/sh {script}\n\
         stdout_stream.format = json\n\
         stderr_stream.class = SyslogStream\nstderr_stream.address = {syslog}\n\
         stderr_stream.facility = local0\n\
         [watcher:b]\ncmd = /bin/sh {say}\n\
         stdout_stream.class = JournalStream\nstdout_stream.address = {journal}\n\
         stdout_stream.ident = second\nstderr_stream.filename = {other}\n\
         stderr_stream.format = json\n",
        say = say.display(),
        script = script.display(),
        syslog = syslog.display(),
        journal = journal.display(),
        other = scratch.join("b.json").display(),
    );
    let configuration = scratch.write("all.ini", ini);
    let manager = Manager::start(&scratch, &configuration);

    let message = receive(&log);
    assert!(message.starts_with("<131>"), "{message}");
    assert!(
        message.contains(" a[") && message.ends_with("]: to err"),
        "{message}"
    );
    let entry = receive(&entries);
    assert!(entry.contains("\nSYSLOG_IDENTIFIER=second\n"), "{entry}");
    assert!(entry.ends_with("\nMESSAGE=to out\n"), "{entry}");
    let line = |path: &Path| {
        let text = wait::until("a line of JSON is there", || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.ends_with('\n') {
                Ok(text)
            } else {
                Err(format!("{text:?}; {}", manager.log()))
            }
        });
        serde_json::from_str::<Value>(&text).expect("one object")
    };
    let given = line(&taken);
    assert_eq!(
        (&given["name"], &given["text"]),
        (&"a.1".into(), &"to out".into())
    );
    let stored = line(&scratch.join("b.json"));
    assert_eq!(
        (&stored["name"], &stored["stream"]),
        (&"b.1".into(), &"stderr".into())
    );
    assert!(
        stored["time"]
            .as_str()
            .is_some_and(|time| time.contains('T')),
        "{stored}"
    );
}

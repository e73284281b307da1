//! Promise: a full disk is said and loses nothing; when there is space again everything goes on. Also
//! while whoever is there is killed on the full disk.
//!
//! Each row runs in a mount namespace of its own, where a small file system lies over a directory.
//! `docs/crash-points.md` has the table: `KINGPOLE_WRITE_DOCS=1` writes it.

use kingpole_tests::crash_table::Section;
use kingpole_tests::manager::{self, Manager, describe};
use kingpole_tests::puppet::{Stage, Strings};
use kingpole_tests::rotated::content;
use kingpole_tests::storm::Killer;
use kingpole_tests::{Kernel, Scratch, binaries, lines, wait};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

const INSIDE_VARIABLE: &str = "KINGPOLE_TEST_INSIDE";

const SECTION: Section = Section {
    title: "A full disk",
    introduction: "A small file system is filled up to its last byte while children write, and somebody \
        is killed on it; then there is space again. The kernel itself has nothing on a disk but its pid \
        files: what it holds lies in memory files (where memory is refused, see above). \
        (`tests/tests/full_disk.rs`)",
    columns: ["full", "who dies meanwhile", "verified"],
};

/// The rows: the test, what is full, who dies, what was verified.
const ROWS: [[&str; 4]; 4] = [
    [
        "a_full_runtime_directory_keeps_nobody_from_taking_over",
        "the runtime directory, bytes and inodes",
        "kernel, guard, manager",
        "each is replaced; every line in the log; clients are served; a kernel's pid is there again later",
    ],
    [
        "a_manager_that_cannot_write_its_own_log_does_its_work",
        "the file system of the manager's own log",
        "manager",
        "every line of the children once and in order; commands are answered",
    ],
    [
        "a_manager_killed_on_a_full_disk_under_a_log_writes_every_line_once",
        "the file system of a child's log",
        "manager, five times",
        "every line once and in order without a notice; \"works again\" is said once, when it does",
    ],
    [
        "a_manager_killed_on_a_full_disk_under_a_rotated_log_writes_every_line_once",
        "the same, and the log is rotated into it all the time",
        "manager, five times",
        "the same, across rotations",
    ],
];

#[test]
fn the_table_has_every_row() {
    let rows = ROWS.map(|[_, what, who, verified]| [what, who, verified].map(str::to_owned));
    SECTION.publish(&rows);
}

/// Whether this is the test in its namespace. If not, lets it run there, and is done.
fn is_inside(test: &str) -> bool {
    assert!(ROWS.iter().any(|row| row[0] == test), "{test} has no row");
    if std::env::var_os(INSIDE_VARIABLE).is_some() {
        return true;
    }
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(arguments).args(["--propagation", "private"]);
        command
    };
    let works = |way: &&&[&str]| {
        let mounts = ["mount", "-t", "tmpfs", "none", "/tmp"];
        let tried = unshare(way).args(mounts).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let Some(way) = ways.iter().find(works) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must allow a mount namespace"
        );
        eprintln!("skipped: a small disk of its own needs a mount namespace");
        return false;
    };
    let status = unshare(way)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE_VARIABLE, "yes")
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
    false
}

/// A small file system.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&at)
            .output()
            .unwrap();
        assert!(mounted.status.success(), "{}", describe(&mounted));
        Self(at)
    }

    /// Takes all the space there is, to the last byte and the last inode.
    fn fill(&self) {
        let ballast = self.0.join("ballast");
        std::fs::create_dir(&ballast).unwrap();
        let mut block = vec![b'.'; 64 << 10];
        for number in 0.. {
            match std::fs::write(ballast.join(number.to_string()), &block) {
                Ok(()) => {}
                Err(_) if block.len() > 1 => block.truncate(block.len() / 2),
                Err(_) => return,
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_dir_all(self.0.join("ballast")).unwrap();
    }
}

/// What a child writes on a slow machine while the disk is full finds room.
const BUFFER_BYTES: u32 = 64_000_000;

fn watcher(name: &str, stage: &Stage, log: &Path) -> String {
    format!(
        "[watcher:{name}]\ncmd = {} \"{}\"\nbuffer_bytes = {BUFFER_BYTES}\n\
         stdout_stream.filename = {}\n\n",
        binaries::puppet().display(),
        stage.command(),
        log.display()
    )
}

/// All lines that a puppet has written are in its log, once and in order.
fn wait_whole(log: &Path, tag: &str, count: u64) {
    wait::until("all lines are in the log", || {
        match lines::check(tag, &content(log), 0)? {
            found if found == count => Ok(()),
            found => Err(format!("{found} of {count} lines")),
        }
    });
}

fn enough(puppet: &mut Strings, tag: &str) -> u64 {
    puppet.ask("enough")[tag].as_u64().unwrap()
}

fn wait_written(log: &Path, bytes: usize) {
    wait::until("lines are in the log", || match content(log).len() {
        found if found >= bytes => Ok(()),
        found => Err(format!("{found} bytes")),
    });
}

#[test]
fn a_full_runtime_directory_keeps_nobody_from_taking_over() {
    if !is_inside("a_full_runtime_directory_keeps_nobody_from_taking_over") {
        return;
    }
    let scratch = Rc::new(Scratch::new());
    let run = scratch.runtime_dir();
    let disk = Disk::mount(run.clone(), "size=512k,nr_inodes=64,mode=0700");
    let kernel = Kernel::start_in(Rc::clone(&scratch), &[] as &[&str]);
    let stage = Stage::new(&scratch);
    let log = scratch.join("out.log");
    let configuration = scratch.write("stack.ini", watcher("writer", &stage, &log));
    let mut manager = Manager::start(&scratch, &configuration);
    let mut writer = stage.accept().unwrap();
    writer.ask("background lines out w 0 0 1000");
    wait_written(&log, 1000);
    disk.fill();
    let mut killer = Killer::new(&kernel, 1);
    killer.kill_kernel();
    manager.kill();
    manager.replace();
    manager.wait_ready();
    killer.kill_guard();
    killer.kill_kernel();
    let pid = wait::until("it runs", || manager.pids("writer"));
    assert_eq!(writer.report()["pid"], pid[0]);
    let now = content(&log).len();
    wait_written(&log, now + 1000);
    let answer = manager::kingpole(&scratch, &["status"]);
    assert!(answer.status.success(), "{}", describe(&answer));
    disk.empty();
    killer.kill_kernel();
    let serving = killer.serving();
    wait::until("its pid is written down", || {
        let found = kingpole_tests::kernel::pid_in(&run, "kernel.pid");
        match found == Some(serving.pid) {
            true => Ok(()),
            false => Err(format!("{found:?}, and {} serves", serving.pid)),
        }
    });
    let count = enough(&mut writer, "w");
    wait_whole(&log, "w", count);
}

#[test]
fn a_manager_that_cannot_write_its_own_log_does_its_work() {
    if !is_inside("a_manager_that_cannot_write_its_own_log_does_its_work") {
        return;
    }
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let disk = Disk::mount(scratch.join("disk"), "size=1m");
    let stage = Stage::new(&scratch);
    let log = scratch.join("out.log");
    let own = disk.0.join("manager.log");
    let text = format!("[circus]\nlogoutput = {}\n\n", own.display());
    let text = text + &watcher("writer", &stage, &log) + "[watcher:other]\ncmd = /bin/sleep 1000\n";
    let configuration = scratch.write("stack.ini", text);
    let mut manager = Manager::start(&scratch, &configuration);
    let mut writer = stage.accept().unwrap();
    writer.ask("background lines out w 0 0 1000");
    wait_written(&log, 1000);
    disk.fill();
    manager.kill();
    manager.replace();
    manager.wait_ready();
    let pid = wait::until("it runs", || manager.pids("writer"));
    assert_eq!(writer.report()["pid"], pid[0]);
    let answer = manager::kingpole(&scratch, &["options", "writer"]);
    assert!(answer.status.success(), "{}", describe(&answer));
    let count = enough(&mut writer, "w");
    wait_whole(&log, "w", count);
    disk.empty();
    let before = std::fs::metadata(&own).unwrap().len();
    wait::until("it is written again", || {
        let answer = manager::kingpole(&scratch, &["restart", "other"]);
        let now = std::fs::metadata(&own).unwrap().len();
        match now > before {
            true => Ok(()),
            false => Err(describe(&answer)),
        }
    });
}

/// What the managers said of the log file.
fn said(manager: &Manager, log: &Path) -> Vec<String> {
    let name = log.display().to_string();
    let text = manager.log();
    let lines = text.lines().filter(|line| line.contains(&name));
    lines.map(str::to_owned).collect()
}

/// Fills the disk under a child's log, kills managers on it, and makes room again.
fn kill_on_a_full_disk(more: &str) {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let disk = Disk::mount(scratch.join("disk"), "size=32m");
    let stage = Stage::new(&scratch);
    let log = disk.0.join("out.log");
    let text = watcher("writer", &stage, &log) + more;
    let configuration = scratch.write("stack.ini", text);
    let mut manager = Manager::start(&scratch, &configuration);
    let mut writer = stage.accept().unwrap();
    writer.ask("background lines out w 0 0 300");
    wait_written(&log, 1000);
    disk.fill();
    let mut failures = 0;
    for _ in 0..5 {
        // Each manager says it anew.
        failures = wait::until("the full disk is said", || {
            let said = said(&manager, &log);
            match said.iter().filter(|line| line.contains("[ERROR]")).count() {
                found if found > failures => Ok(found),
                _ => Err(manager.log()),
            }
        });
        manager.kill();
        manager.replace();
        manager.wait_ready();
    }
    let works = |said: &[String]| {
        said.iter()
            .filter(|line| line.contains("works again"))
            .count()
    };
    let before = said(&manager, &log);
    assert_eq!(works(&before), 0, "the disk is full: {before:#?}");
    disk.empty();
    let count = enough(&mut writer, "w");
    wait_whole(&log, "w", count);
    let all = said(&manager, &log);
    assert!(works(&all) <= 1, "{all:#?}");
    let twice = all.iter().filter(|line| line.contains("twice")).count();
    assert_eq!(twice, 0, "it was known what is in the file: {all:#?}");
}

#[test]
fn a_manager_killed_on_a_full_disk_under_a_log_writes_every_line_once() {
    if is_inside("a_manager_killed_on_a_full_disk_under_a_log_writes_every_line_once") {
        kill_on_a_full_disk("");
    }
}

#[test]
fn a_manager_killed_on_a_full_disk_under_a_rotated_log_writes_every_line_once() {
    if is_inside("a_manager_killed_on_a_full_disk_under_a_rotated_log_writes_every_line_once") {
        kill_on_a_full_disk(
            "stdout_stream.max_bytes = 3000\nstdout_stream.backup_count = 100000\n",
        );
    }
}

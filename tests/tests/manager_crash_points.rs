//! Promise: `kill -9` of the manager is harmless between any two steps. It kills itself at named points
//! while children write, logs are rotated and watchers are reloaded; each row is one run, after which
//! the next manager has everything as it must be.

use kingpole_tests::crash_table::{self, Section};
use kingpole_tests::manager::{Manager, describe, kingpole};
use kingpole_tests::puppet::{Stage, Strings};
use kingpole_tests::rotated::content;
use kingpole_tests::{Kernel, binaries, lines, wait};
use std::os::unix::process::ExitStatusExt;
use std::rc::Rc;

/// What it takes to get to a point.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    /// A child writes, and its log is rotated all the time.
    Writing,
    /// The same, and the manager is started on what another one has left.
    Adopting,
    /// The same, and a watcher is reloaded.
    Reloading,
    /// The same, and it is deployed.
    Deploying,
    /// The same, and a process is ready once it has written a line.
    Line,
    /// The same, and it is ready once it says so.
    Notification,
}

impl Load {
    /// The section of a watcher that only this load has, with one process.
    fn another(self) -> String {
        let (script, ready) = match self {
            Self::Line => ("text out ready", "log ^ready$"),
            Self::Notification => ("notify READY=1", "notify"),
            Self::Writing | Self::Adopting | Self::Reloading | Self::Deploying => {
                return String::new();
            }
        };
        let puppet = binaries::puppet().display();
        format!(
            "[watcher:another]\ncmd = {puppet} '{script}' wait\nready = {ready}\n\
             ready_timeout = 300\n"
        )
    }
}

const ROWS: &[(&str, Load)] = &[
    ("log: before the write#5", Load::Writing),
    ("log: half the write#5", Load::Writing),
    ("log: after the write#5", Load::Writing),
    ("log: before the commit#5", Load::Writing),
    ("log: after the commit#5", Load::Writing),
    ("log: half the write#1", Load::Adopting),
    ("log: before the commit#1", Load::Adopting),
    ("rotation: before a rename#1", Load::Writing),
    ("rotation: after a rename#1", Load::Writing),
    ("rotation: before a rename#4", Load::Writing),
    ("rotation: after a rename#4", Load::Writing),
    ("engine: before a spawn#2", Load::Writing),
    ("engine: before remembering#1", Load::Reloading),
    ("engine: before a spawn#4", Load::Reloading),
    ("engine: before it is asked for#3", Load::Writing),
    ("engine: after it is asked for#3", Load::Writing),
    ("engine: before a signal#1", Load::Reloading),
    ("engine: before an end is acknowledged#1", Load::Reloading),
    ("engine: before remembering#1", Load::Deploying),
    ("engine: before remembering#3", Load::Deploying),
    ("engine: before a spawn#4", Load::Deploying),
    ("engine: before a signal#1", Load::Deploying),
    ("engine: before a signal#2", Load::Deploying),
    ("engine: before an end is acknowledged#1", Load::Deploying),
    ("line: before it counts#1", Load::Line),
    ("line: before it is noted#1", Load::Line),
    ("line: after it is noted#1", Load::Line),
    (
        "hearing: before a notification counts#1",
        Load::Notification,
    ),
    (
        "hearing: before a notification is acknowledged#1",
        Load::Notification,
    ),
];

#[test]
fn a_manager_killed_at_any_point_costs_no_line_and_no_process() {
    // A machine with little to do has a second processor for the other half.
    std::thread::scope(|scope| {
        let halves = ROWS.split_at(ROWS.len() / 2);
        let all = |half: &[(&'static str, Load)]| half.iter().map(run).collect::<Vec<_>>();
        let other = scope.spawn(move || all(halves.1));
        let mut rows = all(halves.0);
        rows.extend(other.join().expect("the other half"));
        SECTION.publish(&rows);
    });
}

const SECTION: Section = Section {
    title: "Manager",
    introduction: "The manager kills itself at the point, at the COUNTth pass (`NAME#COUNT`), while a child \
        writes numbered lines into a log that is rotated all the time; the next manager finds everything, \
        and what is in the log is compared with what was written. (`tests/tests/manager_crash_points.rs`)",
    columns: ["point", "meanwhile", "verified"],
};

/// Runs one row; what was verified.
fn run(row: &(&'static str, Load)) -> crash_table::Row {
    let (point, load) = *row;
    eprintln!("{point}: {load:?}");
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let stage = Stage::new(&scratch);
    let log = scratch.join("out.log");
    let configuration = scratch.write(
        "stack.ini",
        format!(
            "[watcher:writer]\ncmd = {} \"{}\"\nstdout_stream.class = FileStream\n\
             stdout_stream.filename = {}\nstdout_stream.max_bytes = 20000\n\
             stdout_stream.backup_count = 10000\n\n\
             [watcher:web]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n{}",
            binaries::puppet().display(),
            stage.command(),
            log.display(),
            load.another()
        ),
    );
    let mut before = None;
    if load == Load::Adopting {
        let mut first = Manager::start(&scratch, &configuration);
        before = Some(begin_writing(&stage));
        wait::until("lines are in the log", || match content(&log).len() {
            0 => Err("none"),
            _ => Ok(()),
        });
        first.kill();
    }
    let mut manager = Manager::launch_with(
        &scratch,
        &configuration,
        binaries::manager_with_crash_points(),
        &[("KINGPOLE_MANAGER_CRASH_POINT", point)],
    );
    // Where the first start may not be survived, the next manager may be the one that starts it.
    if point.starts_with("log:") || point.starts_with("rotation:") {
        before = before.or_else(|| Some(begin_writing(&stage)));
    }
    let change: Option<&[&str]> = match load {
        Load::Reloading => Some(&["reload", "web"]),
        Load::Deploying => Some(&["deploy", "web", "--cmd", "/bin/sleep 200000", "--no-wait"]),
        _ => None,
    };
    if let Some(change) = change {
        wait::until("it runs all, or is dead", || {
            if manager.process_mut().try_wait().is_some() {
                return Ok(());
            }
            manager.pids("web").map(drop)
        });
        wait::until("it is told, or dead", || {
            let answer = kingpole(&scratch, change);
            let over = manager.process_mut().try_wait().is_some();
            match over || answer.status.success() {
                true => Ok(()),
                false => Err(describe(&answer)),
            }
        });
    }
    let status = wait::until("it dies there", || {
        manager.process_mut().try_wait().ok_or("it lives")
    });
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{point}");
    manager.replace();
    let (tag, mut writer) = before.unwrap_or_else(|| begin_writing(&stage));
    manager.wait_ready();
    wait::until("everything runs", || {
        manager.pids("writer")?;
        if !load.another().is_empty() {
            manager.pids("another")?;
        }
        manager.pids("web").map(drop)
    });
    let count = writer.ask("enough")[tag.as_str()].as_u64().unwrap();
    wait::until("all lines are in the log", || {
        let found = lines::check(&tag, &content(&log), 0)?;
        match found == count {
            true => Ok(()),
            false => Err(format!("{point}: {found} of {count} lines")),
        }
    });
    // Nothing was started twice, nothing is left.
    let mut client = kernel.client();
    let count = 3 + usize::from(!load.another().is_empty());
    wait::until("nobody else is there", || {
        let mut processes = client.processes().unwrap();
        // Not who listens to notifications.
        processes.retain(|process| process.name.starts_with("circus."));
        let running = processes.iter().filter(|process| process.end.is_none());
        match (running.count(), processes.len()) {
            (found, all) if found == count && all == count => Ok(()),
            _ => Err(format!("{point}: {processes:?}")),
        }
    });
    let meanwhile = match load {
        Load::Writing => "a first start",
        Load::Adopting => "taking over from another manager",
        Load::Reloading => "a reload",
        Load::Deploying => "a deploy",
        Load::Line => "a start; one is ready once it has written a line",
        Load::Notification => "a start; one is ready once it says `READY=1`",
    };
    let processes = if count == 3 { "three" } else { "four" };
    let verified =
        format!("every line once and in order across rotations; {processes} processes, none twice");
    let verified = verified.as_str();
    [point, meanwhile, verified].map(str::to_owned)
}

fn begin_writing(stage: &Stage) -> (String, Strings) {
    let mut writer = stage.accept().unwrap();
    let tag = format!("p{}", writer.report()["pid"]);
    writer.ask(&format!("background lines out {tag} 0 0 1000"));
    (tag, writer)
}

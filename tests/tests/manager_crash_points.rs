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
             [watcher:web]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n",
            binaries::puppet().display(),
            stage.command(),
            log.display()
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
    if load == Load::Reloading {
        wait::until("it runs all, or is dead", || {
            if manager.process_mut().try_wait().is_some() {
                return Ok(());
            }
            manager.pids("web").map(drop)
        });
        wait::until("it is reloaded, or dead", || {
            let answer = kingpole(&scratch, &["reload", "web"]);
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
    wait::until("three processes are there", || {
        let processes = client.processes().unwrap();
        let running = processes.iter().filter(|process| process.end.is_none());
        match (running.count(), processes.len()) {
            (3, 3) => Ok(()),
            _ => Err(format!("{point}: {processes:?}")),
        }
    });
    let meanwhile = match load {
        Load::Writing => "a first start",
        Load::Adopting => "taking over from another manager",
        Load::Reloading => "a reload",
    };
    let verified = "every line once and in order across rotations; three processes, none twice";
    [point, meanwhile, verified].map(str::to_owned)
}

fn begin_writing(stage: &Stage) -> (String, Strings) {
    let mut writer = stage.accept().unwrap();
    let tag = format!("p{}", writer.report()["pid"]);
    writer.ask(&format!("background lines out {tag} 0 0 1000"));
    (tag, writer)
}

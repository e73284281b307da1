//! Promise: `kill -9` is harmless between any two steps. Kernel and guard kill themselves at named
//! points; each row is one run of a load in which every byte, end, value and connection is verified.
//!
//! `docs/crash-points.md` has the table of the last run: `KINGPOLE_WRITE_DOCS=1` writes it.

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::record::Stream;
use kingpole_protocol::status::EndStatus;
use kingpole_tests::crash_table::{self, Section};
use kingpole_tests::output::{Acknowledge, Follower};
use kingpole_tests::storm::{Driver, Killer};
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Kernel, Puppet, Scratch, binaries, pattern, puppet, wait};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Who dies, where, and what it takes to get there.
#[derive(Clone, Copy)]
struct Row {
    victim: &'static str,
    /// As the environment variable has it.
    points: &'static str,
    load: Load,
}

#[derive(Clone, Copy, PartialEq)]
enum Load {
    Plain,
    /// Large values, so that the journal is compacted.
    Values,
    /// The kernel is killed from outside in the middle.
    KernelKilled,
    /// A child writes more than its buffer holds, while nobody reads.
    Drops,
    /// The kernel is upgraded in the middle.
    Upgrade,
    /// The same before, and children of the dead one end: the guard publishes and reaps.
    GuardReaps,
}

const fn kernel(points: &'static str) -> Row {
    Row {
        victim: "kernel",
        points,
        load: Load::Plain,
    }
}

const fn with(load: Load, row: Row) -> Row {
    Row { load, ..row }
}

const fn guard(points: &'static str) -> Row {
    Row {
        victim: "guard",
        points,
        load: Load::GuardReaps,
    }
}

/// Nobody dies: Linux refuses the system call there (`NAME#COUNT*TIMES`) for lack of memory.
const fn refused(points: &'static str) -> Row {
    Row {
        victim: "nobody",
        points,
        load: Load::Plain,
    }
}

const ROWS: &[Row] = &[
    kernel("spawn: before the slot#4"),
    kernel("spawn: after the intent#4"),
    kernel("spawn: after the journal#4"),
    kernel("spawn: after the hold#4"),
    kernel("spawn: before clone#4"),
    kernel("child: before the claim#4"),
    kernel("child: after the claim#4"),
    kernel("child: before exec#4"),
    kernel("child: after the failure#1"),
    kernel("spawn: after clone#4"),
    kernel("spawn: write ends closed#4"),
    kernel("spawn failure: before publish#1"),
    kernel("spawn failure: after reap#1"),
    kernel("spawn: run stored#4"),
    kernel("read: cell taken#9"),
    kernel("read: spliced#9"),
    kernel("read: length stored#9"),
    kernel("read: part drained#9"),
    kernel("read: drained#9"),
    kernel("read: header written#9"),
    kernel("control: torn copy#9"),
    kernel("control: published#9"),
    kernel("read: published#9"),
    kernel("read: cell free#9"),
    kernel("eof: before#3"),
    kernel("eof: inside#3"),
    kernel("eof: published#3"),
    kernel("eof: after the drop#3"),
    kernel("end: after the look#2"),
    kernel("end: before ended#2"),
    kernel("end: after ended#2"),
    kernel("end: after reap#2"),
    kernel("journal: half record#7"),
    kernel("journal: before head#7"),
    kernel("journal: after head#7"),
    with(Load::Values, kernel("compaction: before#1")),
    with(Load::Values, kernel("compaction: half#1")),
    with(Load::Values, kernel("compaction: before flip#1")),
    with(Load::Values, kernel("compaction: after flip#1")),
    kernel("remove: after the journal#2"),
    kernel("remove: slot free#2"),
    kernel("listener: before the hold#1"),
    kernel("listener: after the hold#1"),
    with(Load::KernelKilled, kernel("adopt: epoch@2")),
    with(Load::KernelKilled, kernel("adopt: journal@2")),
    with(Load::KernelKilled, kernel("adopt: after the read@2")),
    with(Load::KernelKilled, kernel("adopt: each slot@2")),
    with(Load::KernelKilled, kernel("adopt: before ready@2")),
    with(Load::Drops, kernel("drop: before#3")),
    with(Load::Drops, kernel("drop: published#3")),
    with(Load::Upgrade, kernel("upgrade: rehearsed")),
    with(Load::Upgrade, kernel("upgrade: before exec")),
    kernel("read: part drained#9;adopt: in the read@2"),
    kernel("spawn: after clone#4;adopt: resolve running@2"),
    with(Load::Plain, guard("guard: held#6")),
    with(Load::Upgrade, guard("guard: before exec")),
    guard("end: after the look#1"),
    guard("end: before ended#1"),
    guard("end: after ended#1"),
    guard("end: after reap#2"),
    refused("read: map#9*6"),
    refused("read: splice#9*6"),
    refused("read: drain#9*6"),
];

/// Runs one row; what was verified, and how many kernels it took.
fn run(row: Row, program: &std::path::Path) -> crash_table::Row {
    let scratch = Rc::new(Scratch::new());
    let mut command = Kernel::command_of(program, &scratch);
    let variable = match row.victim {
        "guard" => "KINGPOLE_GUARD_CRASH_POINT",
        "nobody" => "KINGPOLE_FAULT_POINT",
        _ => "KINGPOLE_CRASH_POINT",
    };
    command.env(variable, row.points);
    let kernel = Kernel::start_command(scratch, command);
    let first_guard = kernel.process().handle().pid();
    let mut driver = Driver::new(&kernel, 3);
    driver.start_server();
    if row.load == Load::GuardReaps {
        end_under_the_guard(&kernel, &mut driver);
    }
    for round in 0..30 {
        driver.act();
        if round == 15 && row.load == Load::Drops {
            drop_output(&kernel, &mut driver);
        }
        if round == 15 && row.load == Load::Upgrade {
            ask_for_an_upgrade(&kernel, program);
        }
        if round == 15 && row.load == Load::KernelKilled {
            Killer::new(&kernel, 1).kill_kernel();
        }
    }
    if row.load == Load::Values {
        driver.fill_journal();
    }
    driver.finish();
    let status = driver.status();
    let died = match row.victim {
        "guard" => status.guard_pid != first_guard,
        "nobody" => status.epoch == 1 && kernel.log().contains("can be read again"),
        _ => status.epoch > row.points.split(';').count() as u64,
    };
    assert!(died, "{}: it did not happen: {status:?}", row.points);
    let verified = driver.verified;
    assert!(verified.children > 2 && verified.connections > 0 && verified.values > 0);
    let children = verified.children;
    let verified = format!(
        "{children} children exact, {} values, {} connections, {} kernels",
        verified.values, verified.connections, status.epoch
    );
    [row.points.to_owned(), row.victim.to_owned(), verified]
}

/// A child writes 1 MB into a buffer of 64 KiB: what is left is the end of it, behind one gap, and what is
/// missing is what was counted.
fn drop_output(kernel: &Kernel, driver: &mut Driver<'_>) {
    let mut spec = puppet::spec("wordy", &["flood out 0 1000000 1000", "exit 0"]);
    spec.buffer_bytes = 64 << 10;
    let spawned = driver.insist("wordy", |client| client.spawn("wordy", spec.clone()));
    let process = spawned.process.process;
    wait::until("it has ended", || {
        let all = driver.insist("the list", Client::processes);
        let found = all.iter().find(|one| one.process == process);
        match found {
            Some(one) if one.end.is_some() && one.output.stdout_ended => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let mut reader = Follower::new(kernel.client(), process, Acknowledge::Each);
    reader.read_until("both streams", |reader| reader.ended.len() == 2);
    let kept = reader.of(Stream::Stdout);
    let from = 1_000_000 - kept.len() as u64;
    assert_eq!(reader.headers[0].stream_offset, from);
    assert_eq!(pattern::first_difference(kept, from), None);
    assert!((1..64 << 10).contains(&kept.len()), "{}", kept.len());
}

fn ask_for_an_upgrade(kernel: &Kernel, program: &std::path::Path) {
    let mut session = TextSession::open(&Place::Unix(kernel.socket()));
    // Its answer may die with the kernel.
    session.send(format!("upgrade {}\n", program.display()).as_bytes());
    session.read_first();
}

/// Children of a dead kernel end one after the other, and a client finds how.
fn end_under_the_guard(kernel: &Kernel, driver: &mut Driver<'_>) {
    let mut client = kernel.client();
    let mut puppets = [11, 12, 13].map(|code| {
        let puppet = Puppet::spawn(kernel, &mut client, &format!("puppet {code}"), |_| {});
        (code, puppet)
    });
    let before = driver.status();
    Killer::new(kernel, 1).kill_kernel();
    wait::until("the next kernel serves", || {
        let now = driver.status();
        if now.epoch > before.epoch {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    for (code, puppet) in &mut puppets {
        puppet.tell(&format!("exit {code}"));
        wait::until("its end is known", || {
            let all = driver.insist("the list", Client::processes);
            let found = all
                .iter()
                .find(|process| process.process == puppet.process());
            match found.and_then(|process| process.end) {
                Some(end) if end.status == EndStatus::Exited(*code) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

#[test]
fn a_kill_at_any_point_is_harmless() {
    let program = binaries::kernel_with_crash_points();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![None; ROWS.len()]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = ROWS.get(index) else { return };
                    let row = run(*row, program);
                    println!("{}", row.join(" | "));
                    done.lock().unwrap()[index] = Some(row);
                }
            });
        }
    });
    let rows = done.into_inner().unwrap().into_iter().flatten();
    let rows = rows.collect::<Vec<_>>();
    assert_eq!(rows.len(), ROWS.len());
    SECTION.publish(&rows);
}

const SECTION: Section = Section {
    title: "Kernel and guard",
    introduction: "Kernel or guard kills itself at the point, and everything that a client then finds is \
        compared with what must be there (bytes of both streams, ends, values, connections to a held \
        socket; nothing started twice). `NAME#COUNT@EPOCH`: at the COUNTth pass, in the kernel of that \
        epoch. Where nobody dies, Linux refuses that system call TIMES times (`NAME#COUNT*TIMES`). \
        (`tests/tests/crash_points.rs`)",
    columns: ["point", "who dies", "verified"],
};

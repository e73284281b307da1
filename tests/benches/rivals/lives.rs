//! Children that begin and end: from a death to the replacement, and a thousand of them started.

use super::bell::Bell;
use super::rival::{Job, Rival};
use super::table::{Better, LIMIT, Row};
use super::watching::processor_seconds;
use kingpole_tests::measure::Effort;
use kingpole_tests::process::Handle;
use kingpole_tests::{Scratch, binaries};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a child must have lived: some supervisors pause when one lives shorter.
const AGE: Duration = Duration::from_millis(1300);
/// Children of which one after the other is killed.
const VICTIMS: u32 = 20;

fn hello(name: String, bell: &Bell, processes: u32) -> Job {
    let program = binaries::contestant().display().to_string();
    Job {
        name,
        command: vec![program, "hello".into(), bell.address()],
        processes,
        logged: false,
    }
}

/// From a kill to the replacement's first words, milliseconds: median, and the 99th of a hundred.
pub(super) fn deaths(rivals: &[Box<dyn Rival>], effort: Effort) -> [Row; 2] {
    let row = |what: &str, wanted| {
        let name = format!("from death to replacement, {what}, ms");
        Row::new(name, Better::Less, Some(wanted))
    };
    let mut rows = [row("median", 2.0), row("99 %", 3.0)];
    let mut all: Vec<(String, Vec<f64>)> = vec![(LIMIT.to_owned(), Vec::new())];
    for _ in 0..effort.pick(5, 1) {
        all[0].1.extend(replaced_by_parent());
        for rival in rivals.iter().filter(|it| it.keeps_running()) {
            eprintln!("deaths: {}", rival.name());
            let times = replaced(rival.as_ref(), effort);
            match all.iter_mut().find(|(name, _)| name == rival.name()) {
                Some((_, known)) => known.extend(times),
                None => all.push((rival.name().to_owned(), times)),
            }
        }
    }
    for (name, mut times) in all {
        if times.is_empty() {
            rows[0].note(&name, "none in time");
            continue;
        }
        times.sort_by(f64::total_cmp);
        for (row, share) in rows.iter_mut().zip([0.5, 0.99]) {
            row.add(&name, times[((times.len() - 1) as f64 * share) as usize]);
        }
        let count = times.len() as u32;
        if u64::from(count) < effort.pick(5, 1) * u64::from(VICTIMS) {
            rows[1].note(&name, format!("of {count}"));
        }
    }
    rows
}

fn replaced(rival: &dyn Rival, effort: Effort) -> Vec<f64> {
    let bell = Bell::new();
    // A watcher each, so that no counter of deaths in a row stops it.
    let jobs: Vec<Job> = (0..VICTIMS)
        .map(|number| hello(format!("life{number}"), &bell, 1))
        .collect();
    let running = rival.start(&jobs, Rc::new(Scratch::new()));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut victims = Vec::new();
    while victims.len() < jobs.len() {
        match bell.next(deadline) {
            Some(rung) => victims.push(rung.pid),
            None => return Vec::new(),
        }
    }
    std::thread::sleep(AGE);
    let mut times = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(effort.pick(15, 4));
    for pid in victims {
        let Ok(victim) = Handle::open(pid) else {
            continue;
        };
        let killed = Instant::now();
        let _ = victim.signal(libc::SIGKILL);
        let Some(rung) = bell.next(deadline) else {
            break;
        };
        times.push((rung.at - killed).as_secs_f64() * 1e3);
    }
    drop(running);
    times
}

fn replaced_by_parent() -> Vec<f64> {
    let bell = Bell::new();
    let job = hello("limit".to_owned(), &bell, 1);
    let start = || -> Child {
        let mut command = Command::new(&job.command[0]);
        let command = command.args(&job.command[1..]).stdout(Stdio::null());
        command.spawn().expect("a child")
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut child = start();
    bell.next(deadline).expect("it runs");
    let times = (0..VICTIMS).map(|_| {
        let killed = Instant::now();
        child.kill().expect("ours");
        child.wait().expect("ours");
        child = start();
        let rung = bell.next(deadline).expect("it runs");
        (rung.at - killed).as_secs_f64() * 1e3
    });
    let times = times.collect();
    let _ = child.kill();
    let _ = child.wait();
    times
}

/// Children started, from nothing to the last one's first words: seconds, and processor seconds of the supervisor's own
/// processes, as far as they live.
pub(super) fn starts(rivals: &[Box<dyn Rival>], effort: Effort) -> [Row; 2] {
    let wanted = u32::try_from(effort.pick(1000, 40)).expect("few");
    let row = |what: &str, bound| {
        let name = format!("{wanted} children started, {what}");
        Row::new(name, Better::Less, bound)
    };
    let mut rows = [
        row("seconds", Some(2.0)),
        row("processor seconds", Some(2.0)),
    ];
    for _ in 0..effort.pick(3, 1) {
        let [wall, used] = started_by_parent(wanted);
        rows[0].add(LIMIT, wall);
        rows[1].add(LIMIT, used);
        for rival in rivals {
            let count = wanted.min(rival.processes_max());
            eprintln!("starts: {}", rival.name());
            let bell = Bell::new();
            let job = hello("start".to_owned(), &bell, count);
            let begun = Instant::now();
            let running = rival.start(&[job], Rc::new(Scratch::new()));
            let deadline = begun + Duration::from_secs(120);
            let heard = (0..count).take_while(|_| bell.next(deadline).is_some());
            let heard = heard.count() as u32;
            let wall = begun.elapsed().as_secs_f64();
            if heard < count {
                rows[0].note(rival.name(), format!("{heard} in 120 s"));
                continue;
            }
            rows[0].add(rival.name(), wall);
            rows[1].add(rival.name(), processor_seconds(&running.family().own));
            if count < wanted {
                rows[0].note(rival.name(), format!("{count} children"));
            }
        }
    }
    rows
}

/// A loop that starts them with two pipes each.
fn started_by_parent(count: u32) -> [f64; 2] {
    let bell = Bell::new();
    let job = hello("limit".to_owned(), &bell, 1);
    let own = || processor_seconds(&[i32::try_from(std::process::id()).expect("a pid")]);
    let (begun, before) = (Instant::now(), own());
    let start = |_| -> Child {
        let mut command = Command::new(&job.command[0]);
        command
            .args(&job.command[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("a child")
    };
    // They say their words to a queue of ten: somebody has to listen meanwhile.
    std::thread::scope(|scope| {
        let children = scope.spawn(move || {
            let children: Vec<Child> = (0..count).map(start).collect();
            (children, own() - before)
        });
        let deadline = Instant::now() + Duration::from_secs(120);
        for _ in 0..count {
            bell.next(deadline).expect("they run");
        }
        let wall = begun.elapsed().as_secs_f64();
        let (children, used) = children.join().expect("it ends");
        for mut child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
        [wall, used]
    })
}

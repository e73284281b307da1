//! 200 children with a line each every 10 ms: processor time of whoever stores the lines.

use super::bell::Bell;
use super::rival::{Job, Rival};
use super::table::{Better, LIMIT, Row};
use super::watching::processor_seconds;
use kingpole_tests::measure::Effort;
use kingpole_tests::{Scratch, binaries};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// In which all children must have begun.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) fn measure(rivals: &[Box<dyn Rival>], effort: Effort) -> Row {
    let seconds = effort.pick(10, 2);
    let children = u32::try_from(effort.pick(200, 40)).expect("few");
    let what =
        format!("{children} children, a line every 10 ms for {seconds} s: processor seconds");
    let mut row = Row::new(what, Better::Less, Some(3.0));
    for _ in 0..effort.pick(3, 1) {
        row.add(LIMIT, bare(children, seconds));
        for rival in rivals.iter().filter(|it| it.keeps_running()) {
            eprintln!("ticks: {}", rival.name());
            match one(rival.as_ref(), children, seconds) {
                Some(used) => row.add(rival.name(), used),
                None => row.note(rival.name(), "not all began in time"),
            }
        }
    }
    row
}

/// As an argument: longer than anybody looks.
fn command(bell: &Bell) -> Vec<String> {
    let program = binaries::contestant().display().to_string();
    vec![program, "ticks".into(), bell.address(), "1000000".into()]
}

fn wait_for_all(bell: &Bell, children: u32) -> bool {
    let deadline = Instant::now() + PATIENCE;
    (0..children).all(|_| bell.wait_for("begin", deadline).is_some())
}

fn one(rival: &dyn Rival, children: u32, seconds: u64) -> Option<f64> {
    let bell = Bell::new();
    let job = Job {
        name: "tick".to_owned(),
        command: command(&bell),
        processes: children,
        logged: true,
    };
    let running = rival.start(&[job], Rc::new(Scratch::new()));
    if !wait_for_all(&bell, children) {
        return None;
    }
    let own = running.family().own;
    let before = processor_seconds(&own);
    std::thread::sleep(Duration::from_secs(seconds));
    Some(processor_seconds(&own) - before)
}

/// The least that a reader of all the pipes can do: wait for any, read it, throw it away.
fn bare(children: u32, seconds: u64) -> f64 {
    let bell = Bell::new();
    let words = command(&bell);
    let start = |_| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(Stdio::piped());
        command.spawn().expect("a child")
    };
    let mut started: Vec<Child> = (0..children).map(start).collect();
    assert!(wait_for_all(&bell, children), "the children run");
    let pipes = started.iter_mut().filter_map(|child| child.stdout.take());
    let mut pipes: Vec<_> = pipes.collect();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    for (index, pipe) in pipes.iter().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(pipe, event).expect("a pipe");
    }
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = vec![0; 64 << 10];
    let (own, begun) = (own_seconds(), Instant::now());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let ready = epoll.wait(&mut events, EpollTimeout::from(100_u8));
        for event in &events[..ready.unwrap_or(0)] {
            let index = usize::try_from(event.data()).expect("an index");
            let _ = pipes[index].read(&mut buffer).expect("a read");
        }
    }
    let used = own_seconds() - own;
    for child in &mut started {
        let _ = child.kill();
        let _ = child.wait();
    }
    used
}

fn own_seconds() -> f64 {
    processor_seconds(&[i32::try_from(std::process::id()).expect("a pid")])
}

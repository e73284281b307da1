//! Whole screens, and what keys make of them.

use super::sample::{Kernel, Manager, Process, Sample, Socket, Usage, Watcher};
use super::screen;
use super::view::{Key, Mode, Order, View, Wish};
use crate::command::Command;

fn usage(cpu_percent: f64, megabytes: u64, output: u64, unread: u64) -> Usage {
    Usage {
        cpu_percent,
        resident_bytes: megabytes << 20,
        output_bytes_per_second: output,
        unread_bytes: unread,
        capacity_bytes: 1 << 20,
        dropped_bytes: 0,
    }
}

fn process(worker: u32, pid: u32, uptime_ms: u64, usage: Usage) -> Process {
    Process {
        worker,
        pid,
        state: "running".to_owned(),
        reason: None,
        says: None,
        outdated: false,
        uptime_ms,
        restarts: 0,
        usage,
    }
}

fn watcher(name: &str, state: &str, usage: Usage, processes: Vec<Process>) -> Watcher {
    Watcher {
        name: name.to_owned(),
        state: state.to_owned(),
        actual: u32::try_from(processes.len()).unwrap(),
        ready: 1,
        numprocesses: 2,
        restarts: 1,
        usage,
        reason: None,
        processes,
    }
}

fn sample() -> Sample {
    let mut web = vec![
        process(1, 4101, 91_000, usage(12.5, 20, 0, 0)),
        process(2, 4102, 5_000, usage(50.0, 30, 2048, 0)),
    ];
    web[0].says = Some("3 requests".to_owned());
    let mut late = process(1, 4103, 1_000, usage(1.0, 5, 0, 1 << 20));
    late.outdated = true;
    late.state = "starting".to_owned();
    late.reason = Some("not ready yet".to_owned());
    let mut jobs = watcher("jobs", "starting", usage(1.0, 5, 0, 1 << 20), vec![late]);
    jobs.reason = Some("next attempt in 4.0s".to_owned());
    jobs.usage.dropped_bytes = 700;
    Sample {
        manager: Manager {
            release: "0.1.0".to_owned(),
            pid: 4000,
            uptime_ms: 91_200,
            configuration: "/srv/web.ini".to_owned(),
        },
        kernel: Kernel {
            connected: true,
            release: Some("0.1.0".to_owned()),
            pid: Some(3999),
            generation: Some(1),
        },
        watchers: vec![
            watcher("web", "active", usage(62.5, 50, 2048, 0), web),
            jobs,
        ],
        sockets: vec![Socket {
            name: "web".to_owned(),
            address: "127.0.0.1:8888".to_owned(),
            ready: true,
            backlog: 2048,
            waiting: Some(3),
        }],
    }
}

fn view() -> View {
    let mut view = View::new(Order::Name);
    view.sampled(Ok(sample()));
    view
}

fn text(view: &View, width: usize, height: usize) -> String {
    let lines = screen::draw(view, width, height);
    assert_eq!(lines.len(), height);
    let mut text = String::new();
    for line in lines {
        let line: String = line.pieces.iter().map(|(_, text)| text.as_str()).collect();
        assert!(line.chars().count() <= width, "{line:?}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn a_screen_has_everything_at_its_place() {
    let expected = "\
/srv/web.ini  manager 0.1.0 (pid 4000), up 1m 31s, kernel 0.1.0 (pid 3999)
watchers 2, processes 3, CPU 63.5%, memory 55.0 MB, output 2.0 KB/s
WATCHER      STATE          PID   UPTIME RESTARTS   CPU%       RSS     OUT/s  RING
- web        active         2/2                 1   62.5   50.0 MB    2.0 KB    0%
    web.1    running       4101   1m 31s        0   12.5   20.0 MB         0    0%  says: 3 requests
    web.2    running       4102     5.0s        0   50.0   30.0 MB    2.0 KB    0%
- jobs       starting       1/2                 1    1.0    5.0 MB         0  100%  700 B lost  next attempt in 4.0s
    jobs.1   starting      4103     1.0s        0    1.0    5.0 MB         0  100%  outdated  not ready yet
socket web  127.0.0.1:8888  3 of 2048 waiting

by name  ? keys  q quit
";
    assert_eq!(text(&view(), 120, 11), expected);
}

#[test]
fn a_small_terminal_cuts_and_scrolls_to_the_chosen_row() {
    let mut view = view();
    view.key(Key::End, 1);
    let screen = text(&view, 40, 6);
    assert!(screen.contains("jobs.1"), "{screen}");
    assert!(screen.contains('…'), "{screen}");
    for (width, height) in [(0, 0), (1, 1), (5, 2), (300, 100)] {
        text(&view, width, height);
    }
}

#[test]
fn orders_filters_and_folds() {
    let mut view = view();
    let names = |view: &View| -> Vec<String> {
        view.rows()
            .iter()
            .map(|row| match row.worker {
                Some(worker) => format!("{}.{worker}", row.watcher),
                None => row.watcher.clone(),
            })
            .collect()
    };
    assert_eq!(names(&view), ["web", "web.1", "web.2", "jobs", "jobs.1"]);
    view.order = Order::Cpu;
    assert_eq!(names(&view), ["web", "web.2", "web.1", "jobs", "jobs.1"]);
    view.order = Order::Uptime;
    assert_eq!(names(&view), ["jobs", "jobs.1", "web", "web.2", "web.1"]);
    for key in [Key::Char('/'), Key::Char('J'), Key::Char('o'), Key::Enter] {
        assert_eq!(view.key(key, 10), None);
    }
    assert_eq!(names(&view), ["jobs", "jobs.1"]);
    assert_eq!(view.key(Key::Char(' '), 10), None);
    assert_eq!(names(&view), ["jobs"]);
    assert!(text(&view, 100, 8).contains("+ jobs"));
    view.key(Key::Escape, 10);
    view.key(Key::Char('F'), 10);
    assert_eq!(names(&view), ["jobs", "web"], "all are folded");
    view.key(Key::Char('F'), 10);
    assert_eq!(names(&view).len(), 5, "none is");
}

#[test]
fn what_ends_processes_is_confirmed_first() {
    let mut view = view();
    view.key(Key::Down, 10);
    assert_eq!(view.key(Key::Char('r'), 10), None);
    assert!(text(&view, 80, 10).ends_with("restart web.1? (y/n)\n"));
    assert_eq!(view.key(Key::Char('n'), 10), None);
    assert_eq!(view.mode, Mode::Table);
    view.key(Key::Char('r'), 10);
    let Some(Wish::Tell(Command::Kill(kill))) = view.key(Key::Char('y'), 10) else {
        panic!("a process is replaced by killing it");
    };
    assert_eq!(
        (kill.worker, &*kill.selection.watchers),
        (Some(1), &["web".to_owned()][..])
    );
    view.key(Key::Up, 10);
    view.key(Key::Char('x'), 10);
    assert!(matches!(
        view.key(Key::Char('y'), 10),
        Some(Wish::Tell(Command::Stop(_)))
    ));
}

#[test]
fn a_signal_goes_to_the_chosen_process() {
    let mut view = view();
    for key in [
        Key::Down,
        Key::Down,
        Key::Char('s'),
        Key::Char('h'),
        Key::Char('u'),
        Key::Char('p'),
    ] {
        assert_eq!(view.key(key, 10), None);
    }
    assert!(text(&view, 80, 10).ends_with("signal for web.2: hup_\n"));
    let Some(Wish::Tell(Command::Signal(signal))) = view.key(Key::Enter, 10) else {
        panic!("a signal is sent");
    };
    assert_eq!((signal.signal, signal.worker), (1, Some(2)));
    for key in [Key::Char('s'), Key::Char('z'), Key::Enter] {
        assert_eq!(view.key(key, 10), None);
    }
    assert!(text(&view, 80, 10).contains("no such signal: z"));
}

#[test]
fn output_is_followed_and_left_again() {
    let mut view = view();
    assert_eq!(
        view.key(Key::Char('l'), 10),
        Some(Wish::Follow("web".to_owned()))
    );
    for number in 0..5000 {
        view.logged(format!("line {number}\x1b[2J"));
    }
    assert!(view.log.len() <= 1000);
    let screen = text(&view, 60, 10);
    assert!(
        screen.contains("line 4999?[2J") && screen.ends_with("output of web  q back\n"),
        "{screen}"
    );
    assert_eq!(view.key(Key::Char('q'), 10), Some(Wish::Unfollow));
    assert_eq!(view.key(Key::Char('q'), 10), Some(Wish::Quit));
}

#[test]
fn a_manager_that_is_away_is_said_and_the_last_facts_stay() {
    let mut view = view();
    view.sampled(Err("no manager runs in /run/kingpole".to_owned()));
    let screen = text(&view, 80, 12);
    assert!(screen.contains("web.1"), "{screen}");
    assert!(
        screen.ends_with("no manager runs in /run/kingpole\n"),
        "{screen}"
    );
}

#[test]
fn the_chosen_row_stays_chosen_when_others_come_and_go() {
    let mut view = view();
    view.key(Key::End, 10);
    assert_eq!(view.chosen(), Some(4));
    let mut fewer = sample();
    fewer.watchers.remove(0);
    view.sampled(Ok(fewer.clone()));
    assert_eq!(view.chosen(), Some(1), "the same process");
    let mut without = sample();
    without.watchers[1].processes.clear();
    view.sampled(Ok(without));
    assert_eq!(
        view.chosen(),
        Some(3),
        "its watcher, which is not the first row"
    );
    fewer.watchers.clear();
    view.sampled(Ok(fewer));
    assert_eq!(view.chosen(), None);
    assert_eq!(view.key(Key::Char('r'), 10), None);
}

use std::time::Duration;

use super::*;
use crate::command::{Change, Reload, ReloadMethod, Wait};

fn two() -> WatcherConfig {
    let mut config = watcher("web");
    config.numprocesses = 2;
    config
}

fn reload(method: ReloadMethod) -> Command {
    Command::Reload(Reload {
        selection: Selection::one("web"),
        method,
        wait: Wait::Done,
    })
}

#[test]
fn graceful_reload_has_the_new_ones_up_before_the_old_ones_end() {
    let mut bench = Bench::new(vec![two()]);
    bench.take_events();
    let command = bench.command(reload(ReloadMethod::Graceful));
    let four = [
        "circus.web.1",
        "circus.web.2",
        "circus.web.3",
        "circus.web.4",
    ];
    assert_eq!(bench.live(), four);
    assert_eq!(
        bench.take_events(),
        ["web.spawn", "web.spawn", "web.kill", "web.kill"]
    );
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.web.3", "circus.web.4"]);
    assert_eq!(bench.take_events(), ["web.reap", "web.reap", "web.reload"]);
    match &bench.replies[&command] {
        Ok(Answer::Changed { watchers }) => {
            assert_eq!(
                (watchers[0].started.len(), watchers[0].stopped.len()),
                (2, 2)
            );
            assert!(watchers[0].kept.is_empty());
        }
        other => panic!("{other:?}"),
    }
    bench.command(reload(ReloadMethod::Graceful));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.web.1", "circus.web.2"]);
}

#[test]
fn graceful_reload_keeps_the_old_ones_while_new_ones_cannot_start() {
    let mut bench = Bench::new(vec![two()]);
    bench.kernel.weather.failing_spawns = 1;
    let command = bench.command(reload(ReloadMethod::Graceful));
    bench.advance(Duration::from_secs(300));
    assert_eq!(bench.live(), ["circus.web.1", "circus.web.2"]);
    match &bench.replies[&command] {
        Ok(Answer::Changed { watchers }) => {
            let reason = watchers[0].reason.as_deref().unwrap_or_default();
            assert!(reason.ends_with("cannot start; attempts go on"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    bench.kernel.weather.failing_spawns = 0;
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.live(), ["circus.web.3", "circus.web.4"]);
}

#[test]
fn sequential_reload_goes_one_by_one() {
    let mut bench = Bench::new(vec![two()]);
    bench.take_events();
    bench.command(reload(ReloadMethod::Sequential));
    bench.advance(Duration::from_secs(10));
    let one = ["web.kill", "web.reap", "web.spawn"];
    let expected: Vec<&str> = one
        .iter()
        .chain(&one)
        .copied()
        .chain(["web.reload"])
        .collect();
    assert_eq!(bench.take_events(), expected);
    assert_eq!(bench.live().len(), 2);
}

#[test]
fn restart_stops_all_and_starts_all() {
    let mut bench = Bench::new(vec![two()]);
    bench.take_events();
    bench.command(Command::Restart(Change::default()));
    bench.advance(Duration::from_secs(3));
    let stop = ["web.kill", "web.kill", "web.reap", "web.reap", "web.stop"];
    let start = ["web.spawn", "web.spawn", "web.start"];
    assert_eq!(bench.take_events(), [&stop[..], &start[..]].concat());
}

#[test]
fn send_hup_keeps_the_processes() {
    let mut config = two();
    config.send_hup = true;
    let mut bench = Bench::new(vec![config]);
    bench.take_events();
    bench.command(reload(ReloadMethod::Graceful));
    assert_eq!(bench.take_signals(), [(1, SignalTarget::Process); 2]);
    assert_eq!(bench.take_events(), ["web.reload"]);
}

#[test]
fn reload_starts_what_is_stopped() {
    let mut config = two();
    config.autostart = false;
    let mut bench = Bench::new(vec![config]);
    bench.command(reload(ReloadMethod::Graceful));
    assert_eq!(bench.live().len(), 2);
}

#[test]
fn the_next_manager_finishes_a_reload() {
    for method in [
        ReloadMethod::Graceful,
        ReloadMethod::Sequential,
        ReloadMethod::Terminate,
    ] {
        let mut bench = Bench::new(vec![two()]);
        let newest = bench.id("circus.web.2");
        bench.command(reload(method));
        let mut bench = bench.next_manager(configuration(vec![two()]));
        bench.advance(Duration::from_secs(20));
        assert_eq!(bench.live().len(), 2, "{method:?}");
        assert!(
            bench.kernel.live().all(|it| it.held.id > newest),
            "{method:?}"
        );
    }
}

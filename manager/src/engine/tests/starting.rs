use std::time::Duration;

use super::*;
use crate::command::{Change, WatcherState};
use crate::config::model::RetryLimit;

#[test]
fn watchers_start_by_priority_and_equal_ones_as_configured() {
    let (a, mut b, c) = (watcher("a"), watcher("b"), watcher("c"));
    b.priority = 5;
    let mut bench = Bench::new(vec![a, b, c]);
    let expected = [
        "b.spawn", "b.start", "a.spawn", "a.start", "c.spawn", "c.start",
    ];
    assert_eq!(bench.take_events(), expected);
}

#[test]
fn warm_up_spaces_spawns_and_watchers() {
    let (mut a, b) = (watcher("a"), watcher("b"));
    a.numprocesses = 2;
    a.warmup_delay = Duration::from_secs(1);
    let mut configuration = configuration(vec![a, b]);
    configuration.global.warmup_delay = Duration::from_secs(3);
    let mut bench = Bench::with(configuration, SimKernel::new(CALM));
    assert_eq!(bench.take_events(), ["a.spawn"]);
    bench.advance(Duration::from_secs(1));
    assert_eq!(bench.take_events(), ["a.spawn"]);
    bench.advance(Duration::from_millis(999));
    assert!(bench.take_events().is_empty());
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.take_events(), ["a.start"]);
    bench.advance(Duration::from_millis(2999));
    assert!(bench.take_events().is_empty());
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.take_events(), ["b.spawn", "b.start"]);
}

#[test]
fn autostart_off_waits_for_a_command() {
    let mut config = watcher("web");
    config.autostart = false;
    let mut bench = Bench::new(vec![config]);
    assert!(bench.live().is_empty());
    assert_eq!(
        bench.status("web").reason.as_deref(),
        Some("autostart is off")
    );
    let change = Change {
        selection: Selection::one("WEB"),
        ..Change::default()
    };
    bench.command(Command::Start(change));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn a_socket_that_fails_holds_its_watchers_back_and_nobody_else() {
    let mut web = watcher("web");
    web.cmd = "serve --fd $(CIRCUS.sockets.Front)".to_owned();
    let mut configuration = configuration(vec![web, watcher("other")]);
    configuration.sockets = vec![socket("front")];
    let mut kernel = SimKernel::new(CALM);
    kernel.weather.failing_sockets = 1;
    let mut bench = Bench::with(configuration, kernel);
    assert_eq!(bench.live(), ["circus.other.1"]);
    let status = bench.status("web");
    assert_eq!(status.state, WatcherState::Starting);
    assert!(
        status
            .reason
            .is_some_and(|it| it.contains("\"front\": address in use"))
    );
    bench.kernel.weather.failing_sockets = 0;
    bench.advance(Duration::from_secs(1));
    assert_eq!(bench.live(), ["circus.other.1", "circus.web.1"]);
}

#[test]
fn a_watcher_that_cannot_start_is_stopped_after_max_retry_with_the_reason() {
    let mut config = watcher("web");
    config.max_retry = RetryLimit::Attempts(3);
    let mut kernel = SimKernel::new(CALM);
    kernel.weather.failing_spawns = 1;
    let mut bench = Bench::with(configuration(vec![config]), kernel);
    bench.advance(Duration::from_secs(600));
    let status = bench.status("web");
    assert_eq!(status.state, WatcherState::Stopped);
    assert!(status.reason.is_some_and(|it| it.ends_with("cannot start")));
    assert_eq!(bench.take_events(), ["web.stop"]);
    bench.kernel.weather.failing_spawns = 0;
    bench.command(Command::Start(Change::default()));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn another_configuration_is_another_chance_after_giving_up() {
    let mut config = watcher("web");
    config.max_retry = RetryLimit::Attempts(1);
    let mut kernel = SimKernel::new(CALM);
    kernel.weather.failing_spawns = 1;
    let mut bench = Bench::with(configuration(vec![config.clone()]), kernel);
    bench.advance(Duration::from_secs(600));
    bench.kernel.weather.failing_spawns = 0;
    let bench = bench.next_manager(configuration(vec![config.clone()]));
    assert!(bench.live().is_empty());
    config.cmd = "serve --repaired".to_owned();
    let bench = bench.next_manager(configuration(vec![config]));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn max_retry_of_minus_one_tries_for_ever() {
    let mut config = watcher("web");
    config.max_retry = RetryLimit::Forever;
    let mut kernel = SimKernel::new(CALM);
    kernel.weather.failing_spawns = 1;
    let mut bench = Bench::with(configuration(vec![config]), kernel);
    bench.advance(Duration::from_secs(3600));
    let status = bench.status("web");
    assert_eq!(status.state, WatcherState::Starting);
    assert!(status.retry_in_ms.is_some_and(|ms| ms <= 33_000));
    bench.kernel.weather.failing_spawns = 0;
    bench.advance(Duration::from_secs(33));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn the_first_death_is_replaced_at_once_and_the_next_ones_wait() {
    let mut bench = Bench::new(vec![watcher("web")]);
    bench.die("circus.web.1");
    assert_eq!(bench.live(), ["circus.web.1"]);
    bench.die("circus.web.1");
    assert!(bench.live().is_empty());
    assert!(
        bench
            .status("web")
            .retry_in_ms
            .is_some_and(|ms| (100..=110).contains(&ms))
    );
    bench.advance(Duration::from_millis(110));
    let status = bench.status("web");
    assert_eq!((status.restarts, status.processes[0].restarts), (2, 2));
}

#[test]
fn a_process_that_lived_long_enough_is_replaced_at_once() {
    let mut bench = Bench::new(vec![watcher("web")]);
    for _ in 0..5 {
        bench.advance(Duration::from_secs(10));
        bench.die("circus.web.1");
        assert_eq!(bench.live(), ["circus.web.1"]);
    }
}

#[test]
fn the_lowest_free_worker_id_is_used_again() {
    let mut config = watcher("web");
    config.numprocesses = 3;
    let mut bench = Bench::new(vec![config]);
    bench.die("circus.web.2");
    assert_eq!(
        bench.live(),
        ["circus.web.1", "circus.web.2", "circus.web.3"]
    );
}

#[test]
fn without_respawn_the_watcher_stops_with_its_last_process() {
    let mut config = watcher("once");
    config.numprocesses = 2;
    config.respawn = false;
    let mut bench = Bench::new(vec![config.clone()]);
    bench.take_events();
    bench.die("circus.once.1");
    assert_eq!(bench.live(), ["circus.once.2"]);
    let mut bench = bench.next_manager(configuration(vec![config.clone()]));
    assert_eq!(bench.live(), ["circus.once.2"], "the next manager knows");
    bench.take_events();
    bench.die("circus.once.2");
    assert_eq!(bench.take_events(), ["once.reap", "once.stop"]);
    let mut bench = bench.next_manager(configuration(vec![config]));
    assert!(bench.live().is_empty());
    bench.command(Command::Start(Change::default()));
    assert_eq!(bench.live().len(), 2);
}

#[test]
fn max_age_replaces_processes() {
    let mut config = watcher("aged");
    config.max_age = Some(Duration::from_secs(60));
    config.max_age_variance = Duration::from_secs(10);
    let mut bench = Bench::new(vec![config]);
    bench.take_events();
    let first = bench.id("circus.aged.1");
    bench.advance(Duration::from_secs(59));
    assert_eq!(bench.id("circus.aged.1"), first);
    bench.advance(Duration::from_secs(15));
    assert_ne!(bench.id("circus.aged.1"), first);
    assert_eq!(
        bench.take_events(),
        ["aged.kill", "aged.reap", "aged.spawn"]
    );
}

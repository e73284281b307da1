//! Processes that end again and again, or grow too big.

use super::*;
use crate::command::{Change, Wait, WatcherState};
use crate::config::model::{Flapping, RetryLimit};

/// A manager with the flapping plugin's settings and a watcher of these options.
fn flapping(settings: Flapping, options: &[(&str, &str)]) -> Bench {
    Bench::with(file(settings, options), SimKernel::new(CALM))
}

fn file(settings: Flapping, options: &[(&str, &str)]) -> Configuration {
    Configuration {
        flapping: Some(settings),
        ..configuration(vec![written("web", options)])
    }
}

#[test]
fn a_flapping_watcher_stops_and_is_tried_again_after_a_while() {
    let mut bench = flapping(Flapping::default(), &[]);
    bench.die("circus.web.1");
    bench.take_events();
    bench.die("circus.web.1");
    assert_eq!(bench.take_events(), ["web.reap", "web.stop"]);
    let status = bench.status("web");
    assert_eq!(status.state, WatcherState::Stopped);
    assert_eq!(status.retry_in_ms, Some(7000));
    assert!(
        status
            .reason
            .is_some_and(|it| it.contains("again and again"))
    );
    bench.advance(Duration::from_millis(6900));
    assert!(bench.live().is_empty());
    bench.advance(Duration::from_millis(200));
    assert_eq!(bench.take_events(), ["web.spawn", "web.start"]);
}

#[test]
fn what_has_flapped_is_known_to_the_next_manager() {
    let settings = Flapping {
        max_retry: RetryLimit::Attempts(1),
        ..Flapping::default()
    };
    let mut bench = flapping(settings, &[]);
    bench.die("circus.web.1");
    // Half of the ends are seen by one manager, half by the next.
    let mut bench = bench.next_manager(file(settings, &[]));
    bench.die("circus.web.1");
    assert!(bench.live().is_empty());
    let mut bench = bench.next_manager(file(settings, &[]));
    bench.advance(Duration::from_secs(6));
    assert!(bench.live().is_empty());
    bench.advance(Duration::from_secs(2));
    bench.die("circus.web.1");
    let mut bench = bench.next_manager(file(settings, &[]));
    bench.die("circus.web.1");
    bench.advance(Duration::from_secs(600));
    assert!(bench.live().is_empty(), "it was tried once, which was all");
    bench.command(Command::Start(Change {
        selection: Selection::one("web"),
        wait: Wait::No,
    }));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn a_watcher_may_have_settings_of_its_own() {
    let mut bench = flapping(Flapping::default(), &[("flapping.active", "false")]);
    for _ in 0..4 {
        bench.die("circus.web.1");
        bench.advance(Duration::from_millis(500));
    }
    assert_eq!(bench.status("web").state, WatcherState::Active);
    let mut bench = flapping(Flapping::default(), &[("flapping.attempts", "3")]);
    bench.die("circus.web.1");
    bench.die("circus.web.1");
    bench.advance(Duration::from_millis(500));
    assert_eq!(bench.live(), ["circus.web.1"]);
    bench.die("circus.web.1");
    assert!(bench.live().is_empty());
}

#[test]
fn an_exit_that_is_a_success_is_no_flapping_and_costs_no_wait() {
    let mut bench = flapping(Flapping::default(), &[("success_exit_codes", "0, 1")]);
    for _ in 0..8 {
        bench.advance(Duration::from_secs(1));
        bench.die("circus.web.1");
        assert_eq!(bench.live(), ["circus.web.1"]);
    }
}

#[test]
fn a_stop_by_an_operator_wins_over_the_retry() {
    let mut bench = flapping(Flapping::default(), &[]);
    bench.die("circus.web.1");
    bench.die("circus.web.1");
    bench.command(Command::Stop(Change {
        selection: Selection::one("web"),
        wait: Wait::No,
    }));
    bench.advance(Duration::from_secs(60));
    assert!(bench.live().is_empty());
}

#[test]
fn a_process_that_outgrew_its_limit_is_replaced() {
    let mut bench = Bench::new(vec![written(
        "web",
        &[("max_rss", "1M"), ("numprocesses", "2")],
    )]);
    bench.take_events();
    bench.resident_bytes = 1 << 20;
    bench.advance(Duration::from_secs(20));
    assert!(bench.take_events().is_empty());
    bench.resident_bytes += 1;
    bench.advance(Duration::from_secs(6));
    bench.resident_bytes = 0;
    bench.advance(Duration::from_secs(4));
    let events = bench.take_events();
    assert_eq!(
        events.iter().filter(|it| *it == "web.kill").count(),
        2,
        "{events:?}"
    );
    assert_eq!(bench.live().len(), 2);
    assert_eq!(bench.status("web").restarts, 0);
}

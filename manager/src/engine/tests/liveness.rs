use std::time::Duration;

use super::*;
use crate::command::Readiness;

fn watched() -> WatcherConfig {
    let options = [
        ("alive", "tcp 127.0.0.1:1"),
        ("alive_interval", "10"),
        ("alive_failures", "2"),
    ];
    written("web", &options)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn answer(bench: &mut Bench, outcome: &ProbeOutcome) {
    for request in std::mem::take(&mut bench.probed) {
        bench.tell(Input::Probed {
            probe: request.id,
            outcome: outcome.clone(),
        });
    }
}

fn refused() -> ProbeOutcome {
    ProbeOutcome::Failed("connection refused".to_owned())
}

#[test]
fn a_process_that_answers_is_left_alone_and_looked_at_again() {
    let mut bench = Bench::new(vec![watched()]);
    assert!(bench.probed.is_empty());
    for _ in 0..20 {
        bench.advance(seconds(10));
        assert_eq!(bench.probed.len(), 1);
        answer(&mut bench, &ProbeOutcome::Passed);
    }
    assert!(bench.take_signals().is_empty());
}

#[test]
fn so_many_failures_in_a_row_replace_a_process_and_count_as_one() {
    let mut bench = Bench::new(vec![watched()]);
    bench.advance(seconds(10));
    answer(&mut bench, &refused());
    let status = bench.status("web");
    assert_eq!(status.processes[0].readiness, Readiness::Ready);
    let note = status.processes[0].readiness_reason.clone();
    assert_eq!(
        note.as_deref(),
        Some("has not answered 1 times, 2 are too many: connection refused")
    );
    bench.advance(seconds(10));
    answer(&mut bench, &ProbeOutcome::Passed);
    bench.advance(seconds(10));
    answer(&mut bench, &refused());
    assert!(bench.take_signals().is_empty());
    bench.advance(seconds(10));
    bench.take_events();
    answer(&mut bench, &refused());
    assert_eq!(bench.take_events(), ["web.unready", "web.kill"]);
    assert_eq!(
        bench.status("web").processes[0].readiness,
        Readiness::Unready
    );
    bench.advance(seconds(5));
    let status = bench.status("web");
    assert_eq!((status.restarts, status.actual), (1, 1));
}

#[test]
fn a_look_that_never_ends_is_a_failure() {
    let mut bench = Bench::new(vec![watched()]);
    bench.advance(seconds(10 + 5 + 10 + 5));
    assert_eq!(bench.take_signals().len(), 1);
}

#[test]
fn a_process_is_looked_at_once_it_is_ready() {
    let options = [
        ("ready", "uptime 30"),
        ("alive", "tcp 127.0.0.1:1"),
        ("alive_interval", "10"),
        ("alive_grace", "2"),
    ];
    let mut bench = Bench::new(vec![written("web", &options)]);
    bench.advance(seconds(31));
    assert!(bench.probed.is_empty());
    bench.advance(seconds(1));
    assert_eq!(bench.probed.len(), 1);
}

#[test]
fn the_next_manager_looks_too_and_counts_anew() {
    let mut bench = Bench::new(vec![watched()]);
    bench.advance(seconds(10));
    answer(&mut bench, &refused());
    let mut bench = bench.next_manager(configuration(vec![watched()]));
    bench.advance(seconds(10));
    answer(&mut bench, &refused());
    assert!(bench.take_signals().is_empty());
    bench.advance(seconds(10));
    answer(&mut bench, &refused());
    assert_eq!(bench.take_signals().len(), 1);
}

#[test]
fn looks_that_are_asked_for_later_begin_then_and_end_when_they_are_not() {
    let mut bench = Bench::new(vec![watcher("web")]);
    let changed = configuration(vec![watched()]);
    bench.tell(Input::ConfigurationChanged(Box::new(changed)));
    bench.advance(seconds(10));
    assert_eq!(bench.probed.len(), 1);
    let changed = configuration(vec![watcher("web")]);
    bench.tell(Input::ConfigurationChanged(Box::new(changed)));
    assert!(bench.probed.is_empty());
    bench.advance(seconds(60));
    assert!(bench.probed.is_empty());
}

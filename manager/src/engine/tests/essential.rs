use std::time::Duration;

use super::*;
use crate::command::{Change, Wait};

fn essential(options: &[(&str, &str)]) -> Vec<WatcherConfig> {
    let own = [("essential", "true")];
    let all: Vec<_> = own.iter().chain(options).copied().collect();
    vec![written("main", &all), watcher("helper")]
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn its_end_stops_everything_and_its_status_is_the_managers() {
    for (status, respawn) in [(0, "false"), (3, "false")] {
        let mut bench = Bench::new(essential(&[("respawn", respawn)]));
        bench.exit("circus.main.1", status);
        bench.advance(seconds(10));
        assert!(bench.live().is_empty());
        assert_eq!(bench.finished, Some(Outcome::EssentialEnded { status }));
        assert!(bench.kernel.values.is_empty());
    }
}

#[test]
fn a_signal_counts_as_in_a_shell() {
    let mut bench = Bench::new(essential(&[("respawn", "false")]));
    let process = bench.id("circus.main.1");
    let now = bench.now;
    bench
        .kernel
        .processes
        .get_mut(&process)
        .expect("alive")
        .killed_by = Some((9, now));
    bench.advance(seconds(10));
    assert_eq!(
        bench.finished,
        Some(Outcome::EssentialEnded { status: 137 })
    );
}

#[test]
fn one_that_is_started_again_goes_on() {
    let mut bench = Bench::new(essential(&[]));
    bench.die("circus.main.1");
    bench.advance(seconds(10));
    assert_eq!(bench.live(), ["circus.helper.1", "circus.main.1"]);
    assert_eq!(bench.finished, None);
}

#[test]
fn one_that_an_operator_stops_goes_alone() {
    let mut bench = Bench::new(essential(&[("respawn", "false")]));
    bench.command(Command::Stop(Change {
        selection: Selection::one("main"),
        wait: Wait::No,
    }));
    bench.advance(seconds(10));
    assert_eq!(bench.live(), ["circus.helper.1"]);
    assert_eq!(bench.finished, None);
}

#[test]
fn one_that_cannot_be_started_is_a_failure() {
    let mut bench = Bench::new(vec![watcher("helper")]);
    bench.kernel.weather.failing_spawns = 1;
    let mut changed = essential(&[("max_retry", "2"), ("backoff_max", "1")]);
    changed[0].numprocesses = 1;
    bench.tell(Input::ConfigurationChanged(Box::new(configuration(
        changed,
    ))));
    bench.advance(seconds(120));
    assert_eq!(bench.finished, Some(Outcome::EssentialEnded { status: 1 }));
}

#[test]
fn an_end_that_no_manager_saw_counts_too() {
    let mut bench = Bench::new(essential(&[("respawn", "false")]));
    let process = bench.id("circus.main.1");
    bench.kernel.end(process, bench.now).expect("alive");
    let mut bench = bench.next_manager(configuration(essential(&[("respawn", "false")])));
    bench.advance(seconds(10));
    assert_eq!(bench.finished, Some(Outcome::EssentialEnded { status: 1 }));
}

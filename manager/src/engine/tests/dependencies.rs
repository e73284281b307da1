use std::time::Duration;

use super::*;
use crate::command::{Change, End, Wait, WatcherResult, WatcherState};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn pair() -> Vec<WatcherConfig> {
    vec![
        written("app", &[("depends_on", "DB"), ("priority", "9")]),
        written("db", &[("ready", "uptime 3")]),
    ]
}

#[test]
fn a_watcher_starts_when_what_it_depends_on_is_ready() {
    let mut bench = Bench::new(pair());
    assert_eq!(bench.live(), ["circus.db.1"]);
    let status = bench.status("app");
    assert_eq!(status.state, WatcherState::Starting);
    assert_eq!(
        status.reason.as_deref(),
        Some("waits for watcher \"db\" to be up")
    );
    bench.advance(seconds(3));
    assert_eq!(bench.live(), ["circus.app.1", "circus.db.1"]);
    let events = ["db.spawn", "db.ready", "db.start", "app.spawn", "app.start"];
    assert_eq!(bench.take_events(), events);
}

#[test]
fn what_runs_goes_on_when_what_it_depends_on_ends() {
    let mut bench = Bench::new(pair());
    bench.advance(seconds(3));
    bench.command(Command::Stop(Change {
        selection: Selection::one("db"),
        wait: Wait::No,
    }));
    bench.advance(seconds(5));
    assert_eq!(bench.live(), ["circus.app.1"]);
    bench.die("circus.app.1");
    bench.advance(seconds(5));
    assert_eq!(bench.live(), ["circus.app.1"]);
}

#[test]
fn what_depends_on_others_stops_before_them() {
    let mut bench = Bench::new(pair());
    bench.advance(seconds(3));
    bench.take_events();
    bench.command(Command::Shutdown(End::default()));
    assert_eq!(bench.take_events(), ["app.kill"]);
    bench.advance(seconds(10));
    assert_eq!(
        bench.take_events(),
        ["app.reap", "app.stop", "db.kill", "db.reap", "db.stop"]
    );
    assert_eq!(bench.finished, Some(Outcome::ShutDown));
}

#[test]
fn a_restart_of_all_goes_down_and_up_in_order() {
    let mut bench = Bench::new(pair());
    bench.advance(seconds(3));
    bench.take_events();
    bench.command(Command::Restart(Change::default()));
    bench.advance(seconds(20));
    let events = bench.take_events();
    let place = |event: &str| events.iter().position(|it| it == event);
    assert!(place("app.reap") < place("db.kill"), "{events:?}");
    assert!(place("db.ready") < place("app.spawn"), "{events:?}");
    assert_eq!(bench.live(), ["circus.app.1", "circus.db.1"]);
}

#[test]
fn a_start_that_waits_for_what_is_stopped_says_so() {
    let mut watchers = pair();
    watchers[1].autostart = false;
    watchers[0].autostart = false;
    let mut bench = Bench::new(watchers);
    let command = bench.command(Command::Start(Change {
        selection: Selection::one("app"),
        wait: Wait::Done,
    }));
    match &bench.replies[&command] {
        Ok(Answer::Changed { watchers }) => {
            assert_eq!(watchers[0].result, WatcherResult::Failed);
            let reason = watchers[0].reason.as_deref();
            assert_eq!(reason, Some("waits for watcher \"db\", which is stopped"));
        }
        other => panic!("{other:?}"),
    }
    bench.command(Command::Start(Change {
        selection: Selection::one("db"),
        wait: Wait::No,
    }));
    bench.advance(seconds(3));
    assert_eq!(bench.live(), ["circus.app.1", "circus.db.1"]);
}

#[test]
fn a_job_that_has_ended_well_is_as_good_as_one_that_runs() {
    let job = [("respawn", "false"), ("success_exit_codes", "1")];
    let watchers = vec![
        written("app", &[("depends_on", "job")]),
        written("job", &job),
        written("zz", &[("depends_on", "bad")]),
        written("bad", &job),
    ];
    let mut bench = Bench::new(watchers);
    assert_eq!(bench.live().len(), 4);
    // Both run, so both who wait were started; begun anew, only one of them is.
    let stop = |name: &str| {
        Command::Stop(Change {
            selection: Selection::one(name),
            wait: Wait::No,
        })
    };
    bench.command(stop("app"));
    bench.command(stop("zz"));
    bench.advance(seconds(5));
    bench.exit("circus.job.1", 0);
    bench.exit("circus.bad.1", 1);
    bench.command(Command::Start(Change {
        selection: Selection {
            watchers: vec!["app".to_owned(), "zz".to_owned()],
            ..Selection::default()
        },
        wait: Wait::No,
    }));
    bench.advance(seconds(5));
    assert_eq!(bench.live(), ["circus.app.1"]);
}

#[test]
fn the_next_manager_keeps_what_runs_and_waits_with_the_rest() {
    let mut bench = Bench::new(pair());
    bench.advance(seconds(1));
    let mut bench = bench.next_manager(configuration(pair()));
    assert_eq!(bench.live(), ["circus.db.1"]);
    bench.advance(seconds(3));
    assert_eq!(bench.live(), ["circus.app.1", "circus.db.1"]);
    let mut bench = bench.next_manager(configuration(pair()));
    bench.advance(seconds(3));
    assert!(bench.take_signals().is_empty());
}

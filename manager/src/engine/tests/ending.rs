use std::time::Duration;

use super::*;
use crate::command::{Change, End, RefusalKind, Step, Wait};

fn watchers() -> Vec<WatcherConfig> {
    let mut kept = watcher("kept");
    kept.use_papa = true;
    vec![kept, watcher("web")]
}

fn bench() -> Bench {
    let mut configuration = configuration(watchers());
    configuration.watchers[0].cmd = "serve $(circus.sockets.used)".to_owned();
    configuration.sockets = vec![socket("papa"), socket("plain"), socket("used")];
    configuration.sockets[0].use_papa = true;
    Bench::with(configuration, SimKernel::new(CALM))
}

#[test]
fn detach_leaves_everything_running_and_remembered() {
    let mut bench = bench();
    let stop = Change {
        selection: Selection::one("web"),
        wait: Wait::Done,
    };
    let waits = bench.command(Command::Stop(stop));
    let detach = bench.command(Command::Detach(End { wait: Wait::Done }));
    assert_eq!(bench.finished, Some(Outcome::Detached));
    assert!(bench.replies[&waits].is_ok() && bench.replies[&detach].is_ok());
    assert_eq!(bench.live().len(), 2, "nobody waits for the stop");
    assert_eq!(bench.kernel.values.len(), 1);
    assert_eq!(bench.kernel.sockets.len(), 3);
}

#[test]
fn quit_stops_what_is_not_use_papa_and_forgets_it() {
    let mut bench = bench();
    for name in ["web", "kept"] {
        let step = Step {
            selection: Selection::one(name),
            by: 1,
            wait: Wait::No,
        };
        bench.command(Command::Incr(step));
    }
    let quit = bench.command(Command::Quit(End { wait: Wait::Done }));
    assert!(bench.finished.is_none() && !bench.replies.contains_key(&quit));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.finished, Some(Outcome::Quit));
    assert!(bench.replies[&quit].is_ok());
    assert_eq!(bench.live(), ["circus.kept.1", "circus.kept.2"]);
    assert_eq!(bench.kernel.values.len(), 1);
    let sockets: Vec<_> = bench.kernel.sockets.iter().cloned().collect();
    assert_eq!(sockets, ["circus.papa", "circus.used"]);
    let bench = bench.next_manager(configuration(watchers()));
    assert_eq!(
        bench.live(),
        ["circus.kept.1", "circus.kept.2", "circus.web.1"]
    );
}

#[test]
fn shutdown_leaves_nothing_of_ours() {
    let mut bench = bench();
    let mut random = Random::new(1);
    bench
        .kernel
        .start("mail", BTreeMap::new(), "k", Moment(0), &mut random);
    bench.command(Command::Stop(Change {
        selection: Selection::one("web"),
        wait: Wait::No,
    }));
    bench.command(Command::Shutdown(End { wait: Wait::No }));
    bench.advance(Duration::from_secs(6));
    assert_eq!(bench.finished, Some(Outcome::ShutDown));
    assert_eq!(bench.live(), ["mail"]);
    assert!(bench.kernel.values.is_empty() && bench.kernel.sockets.is_empty());
}

#[test]
fn who_leaves_accepts_no_changes_and_still_shows_the_state() {
    let mut bench = bench();
    bench.command(Command::Quit(End { wait: Wait::No }));
    let start = bench.command(Command::Start(Change::default()));
    assert_eq!(
        bench.replies[&start].as_ref().unwrap_err().kind,
        RefusalKind::Leaving
    );
    assert_eq!(
        bench.status("web").reason.as_deref(),
        Some("the manager is leaving")
    );
}

#[test]
fn a_detach_overrules_a_quit_that_takes_long() {
    let mut kernel = SimKernel::new(CALM);
    kernel.weather.stubborn = 1;
    let mut bench = Bench::with(configuration(vec![watcher("web")]), kernel);
    bench.command(Command::Quit(End { wait: Wait::No }));
    bench.command(Command::Detach(End { wait: Wait::No }));
    assert_eq!(bench.finished, Some(Outcome::Detached));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn who_loses_the_lease_asks_nothing_more_and_answers_everybody() {
    let mut bench = bench();
    let stop = Change {
        selection: Selection::one("web"),
        wait: Wait::Done,
    };
    let stop = bench.command(Command::Stop(stop));
    bench.asked.clear();
    bench.tell(Input::LeaseLost);
    assert_eq!(bench.finished, Some(Outcome::Replaced));
    assert_eq!(
        bench.replies[&stop].as_ref().unwrap_err().kind,
        RefusalKind::Replaced
    );
    assert!(bench.asked.is_empty());
    let late = bench.command(Command::Status(Selection::default()));
    assert!(bench.replies[&late].is_err());
}

#[test]
fn a_detach_without_a_kernel_does_not_wait_for_one() {
    let mut bench = bench();
    bench.tell(Input::KernelLost);
    let stop = bench.command(Command::Stop(Change::default()));
    bench.command(Command::Detach(End { wait: Wait::No }));
    assert_eq!(bench.finished, Some(Outcome::Detached));
    assert_eq!(
        bench.replies[&stop].as_ref().unwrap_err().kind,
        RefusalKind::NotRemembered
    );
}

use std::time::Duration;

use super::*;
use crate::command::{
    Change, KillRequest, Matching, Scale, Step, Wait, WatcherResult, WatcherState,
};

fn one(name: &str, wait: Wait) -> Change {
    Change {
        selection: Selection::one(name),
        wait,
    }
}

fn results(response: &Response) -> Vec<WatcherResult> {
    match response {
        Ok(Answer::Changed { watchers }) => watchers.iter().map(|it| it.result).collect(),
        other => panic!("not changed: {other:?}"),
    }
}

#[test]
fn stop_asks_waits_and_tells_when_the_last_is_gone() {
    let mut config = watcher("web");
    config.numprocesses = 2;
    let mut bench = Bench::new(vec![config]);
    bench.take_events();
    let stop = bench.command(Command::Stop(one("web", Wait::Done)));
    assert_eq!(bench.status("web").state, WatcherState::Stopping);
    assert!(!bench.replies.contains_key(&stop));
    bench.advance(Duration::from_secs(3));
    assert_eq!(
        bench.take_events(),
        ["web.kill", "web.kill", "web.reap", "web.reap", "web.stop"]
    );
    assert_eq!(results(&bench.replies[&stop]), [WatcherResult::Done]);
    assert_eq!(
        bench.status("web").reason.as_deref(),
        Some("stopped by an operator")
    );
}

#[test]
fn a_stubborn_process_is_killed_with_its_group_after_the_graceful_timeout() {
    let mut kernel = SimKernel::new(CALM);
    kernel.weather.stubborn = 1;
    let mut bench = Bench::with(configuration(vec![watcher("slow")]), kernel);
    bench.take_events();
    bench.command(Command::Stop(one("slow", Wait::No)));
    bench.advance(Duration::from_millis(4999));
    assert_eq!(bench.take_signals(), [(15, SignalTarget::Process)]);
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.take_signals(), [(9, SignalTarget::Group)]);
    assert_eq!(
        bench.take_events(),
        ["slow.kill", "slow.kill", "slow.reap", "slow.stop"]
    );
}

#[test]
fn stop_children_spreads_both_signals_over_the_tree() {
    let mut config = watcher("tree");
    config.stop_children = true;
    config.graceful_timeout = Duration::ZERO;
    let mut bench = Bench::new(vec![config]);
    bench.command(Command::Stop(one("tree", Wait::No)));
    assert_eq!(
        bench.take_signals(),
        [(15, SignalTarget::Tree), (9, SignalTarget::Tree)]
    );
}

#[test]
fn several_are_asked_to_stop_from_the_lowest_priority_on() {
    let (mut a, b) = (watcher("a"), watcher("b"));
    a.priority = 9;
    let mut bench = Bench::new(vec![a, b]);
    bench.take_events();
    bench.command(Command::Stop(Change::default()));
    assert_eq!(bench.take_events(), ["b.kill", "a.kill"]);
}

#[test]
fn decr_stops_the_oldest_and_incr_fills_the_lowest_id() {
    let mut config = watcher("web");
    config.numprocesses = 2;
    let mut bench = Bench::new(vec![config]);
    let step = |by| Step {
        selection: Selection::one("web"),
        by,
        wait: Wait::Done,
    };
    let incr = bench.command(Command::Incr(step(1)));
    assert_eq!(bench.live().len(), 3);
    assert_eq!(results(&bench.replies[&incr]), [WatcherResult::Done]);
    let decr = bench.command(Command::Decr(step(2)));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.web.3"]);
    assert_eq!(results(&bench.replies[&decr]), [WatcherResult::Done]);
    bench.command(Command::Incr(step(1)));
    assert_eq!(bench.live(), ["circus.web.1", "circus.web.3"]);
}

#[test]
fn a_number_below_zero_is_zero_and_too_large_a_one_is_refused() {
    let mut bench = Bench::new(vec![watcher("web")]);
    let selection = Selection::one("web");
    let step = Step {
        selection: selection.clone(),
        by: u32::MAX,
        wait: Wait::No,
    };
    bench.command(Command::Decr(step));
    assert_eq!(bench.status("web").numprocesses, 0);
    let scale = Scale {
        selection,
        numprocesses: u32::MAX,
        wait: Wait::No,
    };
    let refused = bench.command(Command::Scale(scale));
    assert!(bench.replies[&refused].is_err());
    assert_eq!(bench.status("web").numprocesses, 0);
}

#[test]
fn a_singleton_stays_one() {
    let mut config = watcher("only");
    config.singleton = true;
    let mut bench = Bench::new(vec![config]);
    let step = Step {
        selection: Selection::one("only"),
        by: 3,
        wait: Wait::Done,
    };
    let incr = bench.command(Command::Incr(step));
    assert_eq!(results(&bench.replies[&incr]), [WatcherResult::Unchanged]);
    assert_eq!(bench.live(), ["circus.only.1"]);
}

#[test]
fn a_start_during_a_stop_waits_for_its_end() {
    let mut bench = Bench::new(vec![watcher("web")]);
    bench.take_events();
    bench.command(Command::Stop(one("web", Wait::No)));
    let start = bench.command(Command::Start(one("web", Wait::Done)));
    assert_eq!(bench.status("web").queued, 1);
    bench.advance(Duration::from_secs(3));
    assert_eq!(
        bench.take_events(),
        ["web.kill", "web.reap", "web.stop", "web.spawn", "web.start"]
    );
    assert_eq!(results(&bench.replies[&start]), [WatcherResult::Done]);
}

#[test]
fn a_stop_does_not_wait_and_answers_those_it_makes_pointless() {
    let mut config = watcher("web");
    config.warmup_delay = Duration::from_secs(60);
    let mut bench = Bench::new(vec![config]);
    let restart = bench.command(Command::Restart(one("web", Wait::Done)));
    let start = bench.command(Command::Start(one("web", Wait::Done)));
    let stop = bench.command(Command::Stop(one("web", Wait::Done)));
    bench.advance(Duration::from_secs(3));
    for (command, expected) in [
        (restart, WatcherResult::Superseded),
        (start, WatcherResult::Superseded),
        (stop, WatcherResult::Done),
    ] {
        assert_eq!(results(&bench.replies[&command]), [expected]);
    }
}

#[test]
fn a_killed_process_is_replaced_when_it_is_gone() {
    let mut config = watcher("web");
    config.numprocesses = 2;
    let mut bench = Bench::new(vec![config]);
    bench.take_events();
    let before = bench.id("circus.web.2");
    bench.command(Command::Kill(KillRequest {
        selection: Selection {
            watchers: vec!["w*".to_owned()],
            matching: Matching::Glob,
        },
        pid: None,
        worker: Some(2),
        signal: Some(3),
        graceful_timeout_ms: Some(100),
        wait: Wait::No,
    }));
    assert_eq!(bench.take_signals(), [(3, SignalTarget::Process)]);
    bench.advance(Duration::from_secs(1));
    assert_ne!(bench.id("circus.web.2"), before);
    assert!(
        bench
            .take_events()
            .ends_with(&["web.reap".to_owned(), "web.spawn".to_owned()])
    );
}

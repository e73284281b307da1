use std::time::Duration;

use super::*;
use crate::command::{Change, Readiness, Reload, ReloadMethod, Wait};

fn probed(numprocesses: &str) -> WatcherConfig {
    let options = [
        ("numprocesses", numprocesses),
        ("ready", "tcp 127.0.0.1:1"),
        ("ready_timeout", "20"),
    ];
    written("web", &options)
}

fn after(seconds: &str) -> WatcherConfig {
    let ready = format!("uptime {seconds}");
    written("web", &[("numprocesses", "2"), ("ready", &ready)])
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Bench {
    /// All probes that are being made come to this.
    fn probes_say(&mut self, outcome: &ProbeOutcome) {
        for request in std::mem::take(&mut self.probed) {
            self.tell(Input::Probed {
                probe: request.id,
                outcome: outcome.clone(),
            });
        }
    }

    fn readiness(&mut self) -> Vec<Readiness> {
        let status = self.status("web");
        status.processes.iter().map(|it| it.readiness).collect()
    }
}

fn refused() -> ProbeOutcome {
    ProbeOutcome::Failed("connection refused".to_owned())
}

#[test]
fn without_the_option_what_runs_is_ready() {
    let mut bench = Bench::new(vec![watcher("web")]);
    assert_eq!(bench.status("web").ready, 1);
    assert_eq!(bench.take_events(), ["web.spawn", "web.start"]);
}

#[test]
fn a_process_is_ready_when_it_has_run_long_enough_and_the_watcher_is_up_then() {
    let mut bench = Bench::new(vec![after("3")]);
    assert_eq!(bench.readiness(), [Readiness::Starting; 2]);
    assert_eq!(
        bench.status("web").state,
        crate::command::WatcherState::Starting
    );
    bench.advance(seconds(2));
    assert_eq!(bench.status("web").ready, 0);
    bench.advance(seconds(1));
    assert_eq!(bench.readiness(), [Readiness::Ready; 2]);
    let events = [
        "web.spawn",
        "web.spawn",
        "web.ready",
        "web.ready",
        "web.start",
    ];
    assert_eq!(bench.take_events(), events);
}

#[test]
fn a_probe_is_repeated_until_it_passes() {
    let mut bench = Bench::new(vec![probed("1")]);
    assert_eq!(bench.probed.len(), 1);
    bench.probes_say(&refused());
    let reason = bench.status("web").processes[0].readiness_reason.clone();
    assert_eq!(
        reason.as_deref(),
        Some("not ready yet (tcp 127.0.0.1:1): connection refused")
    );
    assert!(bench.probed.is_empty());
    bench.advance(seconds(1));
    bench.probes_say(&ProbeOutcome::Passed);
    assert_eq!(bench.readiness(), [Readiness::Ready]);
    bench.advance(seconds(60));
    assert!(bench.probed.is_empty());
}

#[test]
fn a_process_that_is_not_ready_in_time_is_replaced_with_back_off() {
    let mut bench = Bench::new(vec![probed("1")]);
    bench.take_events();
    for _ in 0..20 {
        bench.probes_say(&refused());
        bench.advance(seconds(1));
    }
    assert_eq!(bench.take_events()[..2], ["web.unready", "web.kill"]);
    bench.advance(seconds(3));
    let status = bench.status("web");
    assert_eq!((status.restarts, status.processes[0].restarts), (1, 1));
    assert_eq!(status.processes[0].readiness, Readiness::Starting);
    assert_eq!(
        bench.engine.watchers[&WatcherKey::of("web")]
            .memory()
            .failures
            .len(),
        1
    );
}

#[test]
fn a_probe_that_never_answers_counts_as_failed() {
    let mut bench = Bench::new(vec![probed("1")]);
    bench.advance(seconds(5));
    assert!(bench.probed.is_empty());
    let reason = bench.status("web").processes[0].readiness_reason.clone();
    assert!(reason.is_some_and(|it| it.ends_with("no answer within 5 s")));
    bench.advance(seconds(1));
    assert_eq!(bench.probed.len(), 1);
}

#[test]
fn what_was_ready_is_ready_under_the_next_manager_and_the_rest_is_looked_at_again() {
    let mut bench = Bench::new(vec![probed("2")]);
    let first = bench.probed.remove(0);
    bench.tell(Input::Probed {
        probe: first.id,
        outcome: ProbeOutcome::Passed,
    });
    let mut bench = bench.next_manager(configuration(vec![probed("2")]));
    assert_eq!(bench.readiness(), [Readiness::Ready, Readiness::Starting]);
    assert_eq!(bench.probed.len(), 1);
    bench.probes_say(&ProbeOutcome::Passed);
    assert_eq!(bench.status("web").ready, 2);
    let bench = bench.next_manager(configuration(vec![probed("2")]));
    assert!(bench.probed.is_empty());
}

#[test]
fn a_manager_that_comes_late_looks_before_it_judges() {
    let mut bench = Bench::new(vec![probed("1")]);
    bench.now = bench.now + seconds(3600);
    let mut bench = bench.next_manager(configuration(vec![probed("1")]));
    bench.probes_say(&ProbeOutcome::Passed);
    assert_eq!(bench.readiness(), [Readiness::Ready]);
    assert!(bench.take_signals().is_empty());
}

#[test]
fn options_that_come_later_leave_what_runs_ready() {
    let bench = Bench::new(vec![watcher("web")]);
    let mut bench = bench.next_manager(configuration(vec![probed("1")]));
    assert_eq!(bench.readiness(), [Readiness::Ready]);
}

#[test]
fn options_that_go_make_what_runs_ready() {
    let mut bench = Bench::new(vec![probed("1")]);
    let changed = configuration(vec![watcher("web")]);
    bench.tell(Input::ConfigurationChanged(Box::new(changed)));
    assert_eq!(bench.readiness(), [Readiness::Ready]);
    assert!(bench.probed.is_empty());
}

#[test]
fn a_graceful_reload_ends_the_old_ones_when_the_new_ones_are_ready() {
    let mut bench = Bench::new(vec![probed("2")]);
    bench.probes_say(&ProbeOutcome::Passed);
    let command = Command::Reload(Reload {
        selection: Selection::one("web"),
        method: ReloadMethod::Graceful,
        wait: Wait::Done,
    });
    bench.take_signals();
    let command = bench.command(command);
    assert_eq!(bench.live().len(), 4);
    bench.probes_say(&refused());
    bench.advance(seconds(1));
    assert!(bench.take_signals().is_empty());
    bench.probes_say(&ProbeOutcome::Passed);
    assert_eq!(bench.take_signals().len(), 2);
    bench.advance(seconds(3));
    assert_eq!(bench.live(), ["circus.web.3", "circus.web.4"]);
    assert!(bench.replies.contains_key(&command));
}

#[test]
fn a_sequential_reload_waits_for_each_successor() {
    let mut bench = Bench::new(vec![probed("2")]);
    bench.probes_say(&ProbeOutcome::Passed);
    bench.command(Command::Reload(Reload {
        selection: Selection::one("web"),
        method: ReloadMethod::Sequential,
        wait: Wait::Done,
    }));
    bench.advance(seconds(4));
    assert_eq!(bench.take_signals().len(), 1);
    bench.probes_say(&ProbeOutcome::Passed);
    bench.advance(seconds(4));
    assert_eq!(bench.take_signals().len(), 1);
    bench.probes_say(&ProbeOutcome::Passed);
    assert_eq!(bench.status("web").operation, None);
}

#[test]
fn a_start_is_done_when_all_are_ready() {
    let mut config = after("3");
    config.autostart = false;
    let mut bench = Bench::new(vec![config]);
    let wait = Change {
        selection: Selection::one("web"),
        wait: Wait::Done,
    };
    let command = bench.command(Command::Start(wait));
    bench.advance(seconds(2));
    assert!(!bench.replies.contains_key(&command));
    bench.advance(seconds(1));
    assert!(bench.replies.contains_key(&command));
}

#[test]
fn a_watcher_that_is_slow_to_be_ready_holds_back_nobody_else() {
    let slow = probed("1");
    let bench = Bench::new(vec![slow, watcher("zz")]);
    assert_eq!(bench.live(), ["circus.web.1", "circus.zz.1"]);
}

#[test]
fn nobody_looks_at_what_is_asked_to_stop() {
    let mut bench = Bench::new(vec![probed("1")]);
    bench.command(Command::Stop(Change::default()));
    assert!(bench.probed.is_empty());
    bench.advance(seconds(30));
    assert!(bench.live().is_empty());
    assert!(!bench.take_events().contains(&"web.unready".to_owned()));
}

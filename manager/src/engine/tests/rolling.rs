use std::time::Duration;

use super::*;
use crate::command::{
    Caller, Change, Deploy, GetOptions, RefusalKind, Roll, RollOptions, Rollback, RunReport,
    RunState, Scale, VersionReport, Wait,
};

fn three() -> WatcherConfig {
    written("web", &[("numprocesses", "3")])
}

fn roll(options: RollOptions) -> Command {
    Command::Roll(Roll {
        selection: Selection::one("web"),
        options,
        dry_run: false,
        wait: Wait::No,
        by: Caller {
            uid: Some(7),
            user: Some("alice".to_owned()),
        },
    })
}

fn usual() -> RollOptions {
    RollOptions::default()
}

/// A manager whose processes have been ready for long.
fn ready(config: WatcherConfig) -> Bench {
    let mut bench = Bench::new(vec![config]);
    bench.advance(Duration::from_secs(30));
    bench.take_events();
    bench
}

impl Bench {
    fn run_report(&mut self) -> RunReport {
        let command = self.command(Command::Runs(Selection::one("web")));
        match self.replies.remove(&command) {
            Some(Ok(Answer::Runs { runs })) => runs[0].clone(),
            other => panic!("no runs: {other:?}"),
        }
    }

    fn refusal(&mut self, command: Command) -> (RefusalKind, String) {
        let command = self.command(command);
        match self.replies.remove(&command) {
            Some(Err(refusal)) => (refusal.kind, refusal.reason),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn ids(&self) -> Vec<u64> {
        self.kernel.live().map(|it| it.held.id.0).collect()
    }
}

#[test]
fn new_ones_are_ready_before_old_ones_are_stopped() {
    let mut bench = ready(three());
    bench.command(roll(usual()));
    assert_eq!(bench.take_events(), ["web.spawn"]);
    bench.advance(Duration::from_millis(900));
    assert_eq!(bench.take_events(), [""; 0]);
    bench.advance(Duration::from_millis(200));
    assert_eq!(bench.take_events()[0], "web.kill");
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.ids(), [4, 5, 6]);
    let report = bench.run_report();
    assert_eq!(
        (report.state, report.replaced, report.ready),
        (RunState::Done, 3, 3)
    );
    assert_eq!(report.by.user.as_deref(), Some("alice"));
}

#[test]
fn all_but_the_minimum_go_at_once_without_extra_ones() {
    let mut bench = ready(three());
    let options = RollOptions {
        min_active: Some(1),
        max_surge: Some(0),
        ..usual()
    };
    bench.command(roll(options));
    assert_eq!(bench.take_events(), ["web.kill", "web.kill"]);
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.ids(), [4, 5, 6]);
    assert_eq!(bench.run_report().state, RunState::Done);
}

#[test]
fn stops_keep_their_distance() {
    let mut bench = ready(three());
    let options = RollOptions {
        min_active: Some(0),
        skew_ms: Some(5000),
        ..usual()
    };
    bench.command(roll(options));
    let kills = |bench: &mut Bench| {
        let events = bench.take_events();
        events.iter().filter(|event| *event == "web.kill").count()
    };
    assert_eq!(kills(&mut bench), 1);
    bench.advance(Duration::from_millis(4900));
    assert_eq!(kills(&mut bench), 0);
    bench.advance(Duration::from_millis(200));
    assert_eq!(kills(&mut bench), 1);
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.run_report().state, RunState::Done);
}

#[test]
fn what_cannot_be_kept_up_is_refused() {
    let mut bench = ready(three());
    let options = RollOptions {
        min_active: Some(3),
        max_surge: Some(0),
        ..usual()
    };
    let (kind, reason) = bench.refusal(roll(options));
    assert_eq!(kind, RefusalKind::Invalid);
    assert!(
        reason.contains("--max-surge 1, or --min-active 2"),
        "{reason}"
    );
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[test]
fn a_second_run_is_told_who_holds_the_first() {
    let mut bench = ready(three());
    bench.command(roll(usual()));
    let (kind, reason) = bench.refusal(roll(usual()));
    assert_eq!(kind, RefusalKind::Busy);
    assert!(reason.contains("that alice began 0 s ago"), "{reason}");
    bench.advance(Duration::from_secs(20));
    let command = bench.command(roll(usual()));
    assert!(bench.replies[&command].is_ok());
}

#[test]
fn a_new_one_that_crashes_stops_the_run() {
    let mut bench = ready(three());
    bench.command(roll(usual()));
    bench.die("circus.web.4");
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.ids(), [1, 2, 3]);
    let report = bench.run_report();
    assert_eq!((report.state, report.replaced), (RunState::Failed, 0));
    let trouble = report.trouble.expect("a culprit");
    assert_eq!(trouble.why, "exited with status 1 after 0.0 s");
    assert_eq!(trouble.worker, Some(WorkerId(4)));
}

#[test]
fn without_extra_ones_the_place_of_a_failed_one_is_filled_again() {
    let mut bench = ready(three());
    let options = RollOptions {
        max_surge: Some(0),
        ..usual()
    };
    bench.command(roll(options));
    bench.advance(Duration::from_millis(2500));
    let newest = bench.kernel.live().last().expect("one").held.name.clone();
    assert_eq!(bench.ids().len(), 3);
    bench.die(&newest);
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.run_report().state, RunState::Failed);
    let ids = bench.ids();
    assert_eq!((ids.len(), &ids[..2]), (3, &[2, 3][..]));
}

#[test]
fn what_cannot_be_started_stops_the_run_and_nothing_else() {
    let mut bench = ready(three());
    bench.kernel.weather.failing_spawns = 1;
    bench.command(roll(RollOptions {
        timeout_ms: Some(10_000),
        ..usual()
    }));
    bench.advance(Duration::from_secs(60));
    let report = bench.run_report();
    assert_eq!(report.state, RunState::Failed);
    let reason = report.reason.expect("a reason");
    assert!(reason.contains("cannot start"), "{reason}");
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[test]
fn a_hook_that_refuses_stops_the_run_and_not_the_watcher() {
    let options = [("numprocesses", "2"), ("hooks.after_spawn", "./x,False")];
    let mut bench = Bench::new(vec![written("web", &options)]);
    let answer = |bench: &mut Bench, answer: &HookAnswer| {
        while let Some(request) = bench.called.pop() {
            let hook = request.id;
            let answer = answer.clone();
            bench.tell(Input::HookAnswered { hook, answer });
        }
    };
    answer(&mut bench, &HookAnswer::Yes);
    bench.advance(Duration::from_secs(5));
    bench.command(roll(usual()));
    bench.advance(Duration::from_secs(5));
    answer(&mut bench, &HookAnswer::No);
    bench.advance(Duration::from_secs(60));
    answer(&mut bench, &HookAnswer::Yes);
    assert_eq!(bench.run_report().state, RunState::Failed);
    assert_eq!(bench.ids(), [1, 2]);
}

#[test]
fn the_next_manager_goes_on_from_where_it_was() {
    let mut bench = ready(three());
    bench.command(roll(usual()));
    bench.advance(Duration::from_millis(1100));
    let mut bench = bench.next_manager(configuration(vec![three()]));
    assert_eq!(bench.run_report().state, RunState::Rolling);
    bench.advance(Duration::from_secs(30));
    assert_eq!(bench.ids(), [4, 5, 6]);
    let report = bench.run_report();
    assert_eq!((report.run, report.state), (1, RunState::Done));
}

#[test]
fn stop_ends_a_run() {
    let mut bench = ready(three());
    bench.command(roll(usual()));
    bench.command(Command::Stop(Change::default()));
    bench.advance(Duration::from_secs(30));
    assert_eq!(bench.ids(), [0; 0]);
    assert_eq!(bench.run_report().state, RunState::Superseded);
}

#[test]
fn numbers_may_change_in_the_middle() {
    let mut bench = ready(three());
    bench.command(roll(usual()));
    bench.advance(Duration::from_millis(1100));
    bench.command(Command::Scale(Scale {
        selection: Selection::one("web"),
        numprocesses: 5,
        wait: Wait::No,
    }));
    bench.advance(Duration::from_secs(30));
    assert_eq!(bench.run_report().state, RunState::Done);
    assert_eq!(bench.ids(), [4, 5, 6, 7, 8]);
}

#[test]
fn a_singleton_goes_before_its_successor_comes() {
    let mut bench = ready(written("web", &[("singleton", "true")]));
    let command = bench.command(roll(usual()));
    assert!(bench.replies[&command].is_ok());
    assert_eq!(bench.take_events(), ["web.kill"]);
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.ids(), [2]);
    let (_, reason) = bench.refusal(roll(RollOptions {
        min_active: Some(1),
        ..usual()
    }));
    assert!(reason.contains("singleton"), "{reason}");
}

#[test]
fn what_is_stopped_is_started_by_a_run() {
    let mut bench = ready(written(
        "web",
        &[("autostart", "false"), ("numprocesses", "2")],
    ));
    bench.command(roll(usual()));
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.ids(), [1, 2]);
    assert_eq!(bench.run_report().state, RunState::Done);
}

fn deploy(cmd: &str, env: &[(&str, &str)]) -> Command {
    let env = env.iter();
    Command::Deploy(Deploy {
        watcher: "web".to_owned(),
        options: [("cmd".to_owned(), serde_json::json!(cmd))].into(),
        env: env
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        by: Caller {
            uid: Some(7),
            user: Some("alice".to_owned()),
        },
        ..Deploy::default()
    })
}

fn rollback(version: Option<u64>) -> Command {
    Command::Rollback(Rollback {
        watcher: "web".to_owned(),
        version,
        ..Rollback::default()
    })
}

impl Bench {
    fn versions(&mut self) -> Vec<VersionReport> {
        let command = self.command(Command::History(GetOptions {
            watcher: "web".to_owned(),
            keys: Vec::new(),
        }));
        match self.replies.remove(&command) {
            Some(Ok(Answer::History { versions, .. })) => versions,
            other => panic!("no history: {other:?}"),
        }
    }

    fn cmd(&self) -> String {
        let configuration = self.configured.as_ref().expect("configured");
        configuration.watcher("web").expect("web").cmd.clone()
    }
}

#[test]
fn a_deploy_rolls_the_new_version_and_remembers_both() {
    let mut bench = ready(three());
    bench.command(deploy("better", &[("TOKEN", "secret")]));
    assert_eq!(bench.cmd(), "better");
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.ids(), [4, 5, 6]);
    let report = bench.run_report();
    assert_eq!((report.state, report.version), (RunState::Done, Some(2)));
    assert!(!bench.status("web").processes.iter().any(|it| it.outdated));
    let versions = bench.versions();
    assert_eq!(versions.len(), 2);
    assert_eq!(
        (versions[0].cmd.as_str(), versions[0].current),
        ("serve", false)
    );
    assert_eq!(
        (versions[1].cmd.as_str(), versions[1].current),
        ("better", true)
    );
    assert_eq!(versions[1].env, ["TOKEN"]);
    assert!(!format!("{versions:?}").contains("secret"));
}

#[test]
fn a_version_that_crashes_is_taken_back() {
    let mut bench = ready(three());
    bench.command(deploy("worse", &[]));
    bench.advance(Duration::from_millis(2500));
    // Some run already, and are ready.
    assert_eq!(bench.cmd(), "worse");
    let newest = bench.kernel.live().last().expect("one").held.name.clone();
    bench.die(&newest);
    assert_eq!(bench.cmd(), "serve");
    bench.advance(Duration::from_secs(60));
    let report = bench.run_report();
    assert_eq!(report.state, RunState::Failed);
    let status = bench.status("web");
    assert_eq!(status.processes.len(), 3);
    assert!(!status.processes.iter().any(|it| it.outdated), "{status:?}");
    let versions = bench.versions();
    let states: Vec<_> = versions.iter().map(|it| (it.state, it.current)).collect();
    assert_eq!(states, [(RunState::Done, true), (RunState::Failed, false)]);
    assert!(versions[1].reason.is_some());
}

#[test]
fn a_way_back_that_takes_longer_than_the_time_limit_comes_to_its_end() {
    let mut kernel = SimKernel::new(CALM);
    // Old ones take 30 s to end.
    kernel.weather.stubborn = 1;
    let two = written("web", &[("numprocesses", "2"), ("graceful_timeout", "30")]);
    let mut bench = Bench::with(configuration(vec![two]), kernel);
    bench.advance(Duration::from_secs(30));
    let Command::Deploy(mut order) = deploy("worse", &[]) else {
        unreachable!("a deploy is one")
    };
    order.pace.max_surge = Some(2);
    order.pace.timeout_ms = Some(5000);
    bench.command(Command::Deploy(order));
    bench.advance(Duration::from_millis(2500));
    bench.die("circus.web.4");
    bench.advance(Duration::from_secs(120));
    assert_eq!(bench.run_report().state, RunState::Failed);
    let status = bench.status("web");
    assert_eq!(status.processes.len(), 2, "{status:?}");
    assert!(!status.processes.iter().any(|it| it.outdated), "{status:?}");
}

#[test]
fn the_next_manager_goes_on_with_a_deploy_and_with_its_way_back() {
    let mut bench = ready(three());
    bench.command(deploy("worse", &[]));
    bench.advance(Duration::from_millis(2500));
    let mut bench = bench.next_manager(configuration(vec![three()]));
    assert_eq!(bench.cmd(), "worse");
    let newest = bench.kernel.live().last().expect("one").held.name.clone();
    bench.die(&newest);
    let mut bench = bench.next_manager(configuration(vec![three()]));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.run_report().state, RunState::Failed);
    let status = bench.status("web");
    assert!(!status.processes.iter().any(|it| it.outdated), "{status:?}");
}

#[test]
fn rollback_brings_back_the_version_before() {
    let mut bench = ready(three());
    let (_, reason) = bench.refusal(rollback(None));
    assert!(reason.contains("no version before"), "{reason}");
    bench.command(deploy("better", &[]));
    bench.advance(Duration::from_secs(20));
    bench.command(deploy("best", &[]));
    bench.advance(Duration::from_secs(20));
    bench.command(rollback(None));
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.cmd(), "better");
    bench.command(rollback(Some(1)));
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.cmd(), "serve");
    let (_, reason) = bench.refusal(rollback(Some(1)));
    assert!(reason.contains("runs version 1 already"), "{reason}");
}

#[test]
fn stop_in_the_middle_of_a_deploy_takes_it_back() {
    let mut bench = ready(three());
    bench.command(deploy("worse", &[]));
    bench.command(Command::Stop(Change::default()));
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.cmd(), "serve");
    assert_eq!(bench.versions()[1].state, RunState::Superseded);
}

#[test]
fn nothing_is_started_while_spawning_is_suspended() {
    let mut bench = ready(three());
    bench.command(Command::Suspend(Change::default()));
    bench.die("circus.web.1");
    let mut bench = bench.next_manager(configuration(vec![three()]));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.ids(), [2, 3]);
    let (_, reason) = bench.refusal(roll(usual()));
    assert!(reason.contains("kingpole resume web"), "{reason}");
    bench.command(Command::Resume(Change::default()));
    assert_eq!(bench.ids(), [2, 3, 4]);
}

fn configured() -> WatcherConfig {
    let options = [
        ("numprocesses", "3"),
        ("rolling", "true"),
        ("rolling_max_surge", "2"),
    ];
    written("web", &options)
}

fn reload() -> Command {
    Command::Reload(crate::command::Reload {
        selection: Selection::one("web"),
        wait: Wait::Done,
        ..crate::command::Reload::default()
    })
}

#[test]
fn where_the_file_says_so_every_graceful_replacement_is_a_rolling_run() {
    let mut bench = ready(configured());
    let command = bench.command(reload());
    assert_eq!(bench.take_events(), ["web.spawn", "web.spawn"]);
    bench.advance(Duration::from_secs(30));
    assert_eq!(bench.ids(), [4, 5, 6]);
    let Some(Ok(Answer::Changed { watchers })) = bench.replies.remove(&command) else {
        panic!("an answer as to any reload")
    };
    assert_eq!(
        (watchers[0].started.len(), watchers[0].stopped.len()),
        (3, 3)
    );
    let report = bench.run_report();
    assert_eq!((report.state, report.limits.max_surge), (RunState::Done, 2));
    // A changed option, and a changed file.
    bench.take_events();
    let options = serde_json::from_value(serde_json::json!({"args": "--level 2"}));
    bench.command(Command::Set(crate::command::SetOptions {
        selection: Selection::one("web"),
        options: options.expect("an object"),
        wait: Wait::No,
    }));
    assert_eq!(
        bench.take_events(),
        ["web.updated", "web.spawn", "web.spawn"]
    );
    bench.advance(Duration::from_secs(30));
    assert_eq!(bench.run_report().run, 2);
    assert_eq!(bench.ids(), [7, 8, 9]);
    let options = [
        ("cmd", "serve --other"),
        ("numprocesses", "3"),
        ("rolling", "true"),
    ];
    bench.file = Ok(configuration(vec![written("web", &options)]));
    bench.command(Command::ReloadConfig(
        crate::command::ReloadConfig::default(),
    ));
    bench.advance(Duration::from_secs(30));
    let report = bench.run_report();
    assert_eq!((report.run, report.state), (3, RunState::Done));
    assert_eq!(bench.ids(), [10, 11, 12]);
}

#[test]
fn a_reload_during_a_run_of_the_file_s_waits_for_its_end() {
    let mut bench = ready(configured());
    bench.command(reload());
    let second = bench.command(reload());
    bench.advance(Duration::from_secs(60));
    assert!(bench.replies.contains_key(&second));
    assert_eq!(bench.run_report().run, 2);
    assert_eq!(bench.ids(), [7, 8, 9]);
}

#[test]
fn what_cannot_be_rolled_is_reloaded_gracefully() {
    let options = [
        ("numprocesses", "2"),
        ("rolling", "true"),
        ("rolling_min_active", "1"),
        ("rolling_max_surge", "0"),
    ];
    let mut bench = ready(written("web", &options));
    bench.command(Command::Scale(Scale {
        selection: Selection::one("web"),
        numprocesses: 1,
        wait: Wait::No,
    }));
    bench.advance(Duration::from_secs(20));
    bench.take_events();
    bench.command(reload());
    bench.advance(Duration::from_secs(20));
    assert_eq!(bench.ids().len(), 1);
    assert!(bench.take_events().contains(&"web.reload".to_owned()));
}

#[test]
fn only_so_many_of_the_oldest_are_replaced() {
    let mut bench = ready(three());
    let options = RollOptions {
        workers: Some(2),
        ..usual()
    };
    bench.command(roll(options));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.ids(), [3, 4, 5]);
    let report = bench.run_report();
    assert_eq!(
        (report.state, report.to_replace, report.replaced),
        (RunState::Done, 2, 2)
    );
}

use std::time::Duration;

use super::*;
use crate::command::{Change, Reload, Step, Wait, WatcherState};
use crate::engine::labels::Identity;

fn three() -> WatcherConfig {
    let mut config = watcher("web");
    config.numprocesses = 3;
    config
}

fn ids(bench: &Bench) -> Vec<ProcessId> {
    bench.kernel.live().map(|it| it.held.id).collect()
}

fn identity(watcher: &str, worker: u32) -> Identity {
    Identity {
        watcher: WatcherKey::of(watcher),
        worker: WorkerId(worker),
        program: None,
        configuration: String::new(),
        restarts: 0,
        spawn: format!("{watcher}-{worker}"),
        watchdog_us: None,
    }
}

#[test]
fn the_next_manager_adopts_everything_and_touches_nothing() {
    let bench = Bench::new(vec![three()]);
    let before = ids(&bench);
    let mut bench = bench.next_manager(configuration(vec![three()]));
    assert_eq!(ids(&bench), before);
    assert_eq!(
        bench.take_events(),
        ["web.spawn", "web.spawn", "web.spawn", "web.start"]
    );
    assert!(bench.asked.is_empty(), "{:?}", bench.asked);
    assert_eq!(bench.status("web").state, WatcherState::Active);
}

#[test]
fn a_reconnection_is_not_an_event() {
    let mut bench = Bench::new(vec![three()]);
    bench.take_events();
    bench.tell(Input::KernelLost);
    bench.connect();
    assert!(bench.take_events().is_empty());
    assert_eq!(bench.live().len(), 3);
}

#[test]
fn an_end_while_nobody_was_there_counts_and_is_acknowledged_once() {
    let mut bench = Bench::new(vec![three()]);
    let dead = bench.id("circus.web.2");
    bench.kernel.end(dead, bench.now);
    let mut bench = bench.next_manager(configuration(vec![three()]));
    assert_eq!(bench.live().len(), 3);
    assert!(!bench.kernel.processes.contains_key(&dead));
    assert_eq!(bench.status("web").restarts, 1);
    let events = bench.take_events();
    assert_eq!(
        events.iter().filter(|event| *event == "web.reap").count(),
        1
    );
}

#[test]
fn other_peoples_processes_are_left_alone() {
    let mut kernel = SimKernel::new(CALM);
    let mut random = Random::new(9);
    let other = identity("web", 1).into_labels("other");
    kernel.start("circus.web.7", other, "k1", Moment(0), &mut random);
    kernel.start("mail", BTreeMap::new(), "k2", Moment(0), &mut random);
    let mut bench = Bench::with(configuration(vec![three()]), kernel);
    assert_eq!(bench.live().len(), 5);
    let command = bench.command(Command::Status(Selection::default()));
    match &bench.replies[&command] {
        Ok(Answer::Status(report)) => assert_eq!(report.foreign_processes, 2),
        other => panic!("{other:?}"),
    }
    assert!(bench.take_signals().is_empty());
}

#[test]
fn of_two_with_one_worker_id_the_older_stays() {
    let mut kernel = SimKernel::new(CALM);
    let mut random = Random::new(9);
    for key in ["k1", "k2"] {
        let labels = identity("web", 1).into_labels("sim");
        kernel.start(
            &format!("circus.web.{key}"),
            labels,
            key,
            Moment(0),
            &mut random,
        );
    }
    let mut config = watcher("web");
    config.numprocesses = 1;
    let mut bench = Bench::with(configuration(vec![config]), kernel);
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.web.k1"]);
}

#[test]
fn processes_of_a_watcher_that_is_gone_are_stopped_and_forgotten() {
    let mut bench = Bench::new(vec![three(), watcher("other")]);
    bench.command(Command::Incr(Step {
        selection: Selection::one("web"),
        by: 1,
        wait: Wait::No,
    }));
    assert_eq!(bench.kernel.values.len(), 1);
    let mut bench = bench.next_manager(configuration(vec![watcher("other")]));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.other.1"]);
    assert!(bench.kernel.values.is_empty());
    let command = bench.command(Command::Status(Selection::one("web")));
    assert!(bench.replies[&command].is_err());
}

#[test]
fn a_changed_command_is_applied_by_the_next_manager() {
    let bench = Bench::new(vec![watcher("web"), watcher("other")]);
    let before = ids(&bench);
    let better = written("web", &[("cmd", "serve --better")]);
    let mut bench = bench.next_manager(configuration(vec![better, watcher("other")]));
    bench.advance(Duration::from_secs(60));
    assert!(!bench.status("web").processes[0].outdated);
    let after = ids(&bench);
    assert_eq!(after.iter().filter(|id| before.contains(id)).count(), 1);
}

#[test]
fn another_environment_of_the_manager_replaces_nothing() {
    let bench = Bench::new(vec![watcher("web")]);
    let before = ids(&bench);
    let mut config = watcher("web");
    config
        .environment
        .insert("TERM".to_owned(), "vt100".to_owned());
    let mut bench = bench.next_manager(configuration(vec![config]));
    bench.advance(Duration::from_secs(60));
    assert_eq!(ids(&bench), before);
    assert!(bench.status("web").processes[0].outdated);
    bench.command(Command::Reload(Reload::default()));
    bench.advance(Duration::from_secs(3));
    assert!(!bench.status("web").processes[0].outdated);
}

#[test]
fn stops_and_counts_survive_the_manager() {
    let mut bench = Bench::new(vec![three(), watcher("other")]);
    bench.command(Command::Incr(Step {
        selection: Selection::one("web"),
        by: 2,
        wait: Wait::No,
    }));
    let stop = Change {
        selection: Selection::one("other"),
        wait: Wait::No,
    };
    bench.command(Command::Stop(stop));
    let mut bench = bench.next_manager(configuration(vec![three(), watcher("other")]));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live().len(), 5);
    assert_eq!(bench.status("other").state, WatcherState::Stopped);
    let mut edited = three();
    edited.numprocesses = 2;
    let mut bench = bench.next_manager(configuration(vec![edited, watcher("other")]));
    bench.advance(Duration::from_secs(3));
    assert_eq!(
        bench.live().len(),
        2,
        "the file was edited, which is the later word"
    );
}

#[test]
fn nothing_is_promised_before_the_kernel_remembers_it() {
    let mut bench = Bench::new(vec![watcher("web")]);
    bench.hold_values = true;
    let stop = bench.command(Command::Stop(Change::default()));
    assert!(!bench.replies.contains_key(&stop));
    bench.hold_values = false;
    bench.tell(Input::KernelLost);
    assert!(!bench.replies.contains_key(&stop));
    bench.connect();
    assert!(bench.replies[&stop].is_ok());
}

#[test]
fn what_a_command_begins_at_once_is_there_when_it_is_answered() {
    let mut bench = Bench::new(vec![watcher("web")]);
    bench.held_spawns = Some(vec![]);
    let incr = bench.command(Command::Incr(Step {
        selection: Selection::one("web"),
        by: 2,
        wait: Wait::No,
    }));
    assert!(!bench.replies.contains_key(&incr));
    let held = bench.held_spawns.replace(vec![]).unwrap();
    assert_eq!(held.len(), 2);
    // The first will do: nobody is kept waiting for all.
    bench.tell(held[0].clone());
    assert!(bench.replies[&incr].is_ok());
}

#[test]
fn a_command_before_the_first_connection_waits_for_it() {
    let mut config = watcher("web");
    config.autostart = false;
    let mut bench = Bench::with(configuration(vec![]), SimKernel::new(CALM));
    let settings = Settings {
        namespace: "sim".to_owned(),
        seed: 3,
    };
    bench.engine = Engine::new(settings, configuration(vec![config]));
    let start = bench.command(Command::Start(Change {
        selection: Selection::one("web"),
        wait: Wait::Done,
    }));
    assert!(bench.replies.is_empty());
    bench.connect();
    assert_eq!(bench.live(), ["circus.web.1"]);
    assert!(bench.replies[&start].is_ok());
}

#[test]
fn a_spawn_whose_answer_was_lost_is_repeated_with_its_key_or_found() {
    let mut bench = Bench::new(vec![]);
    let mut config = watcher("web");
    config.warmup_delay = Duration::from_secs(1);
    let configuration = Box::new(configuration(vec![config]));
    bench
        .engine
        .handle_input(Input::ConfigurationChanged(configuration), bench.now);
    let key_of = |engine: &mut Engine| {
        std::iter::from_fn(|| engine.poll_action()).find_map(|action| match action {
            Action::Spawn(request) => Some(request.key),
            _ => None,
        })
    };
    let first = key_of(&mut bench.engine).expect("a spawn");
    bench.engine.handle_input(Input::KernelLost, bench.now);
    let facts = bench.kernel.connect(&bench.engine.values_prefix());
    bench.now = bench.now + Duration::from_secs(2);
    bench
        .engine
        .handle_input(Input::KernelConnected(facts), bench.now);
    assert_eq!(key_of(&mut bench.engine), Some(first));
}

//! What operators change at run time: options, watchers, the configuration file.

use serde_json::{Value, json};

use super::*;
use crate::command::{
    Add, Change, GetOptions, Matching, Refusal, RefusalKind, ReloadConfig, Remove, SetOptions,
    Step, Stopping, Wait, WatcherResult, WatcherState,
};

fn set(name: &str, options: Value) -> Command {
    Command::Set(SetOptions {
        selection: Selection::one(name),
        options: serde_json::from_value(options).expect("an object"),
        wait: Wait::Done,
    })
}

fn add(name: &str, options: Value, start: bool) -> Command {
    Command::Add(Add {
        name: name.to_owned(),
        options: serde_json::from_value(options).expect("an object"),
        start,
        ..Add::default()
    })
}

fn remove(name: &str, stopping: Stopping) -> Command {
    Command::Rm(Remove {
        selection: Selection::one(name),
        stopping,
        wait: Wait::Done,
    })
}

fn reload(dry_run: bool) -> Command {
    Command::ReloadConfig(ReloadConfig {
        dry_run,
        wait: Wait::Done,
    })
}

fn option(bench: &mut Bench, name: &str, key: &str) -> Value {
    let command = bench.command(Command::Get(GetOptions {
        watcher: name.to_owned(),
        keys: vec![key.to_owned()],
    }));
    match bench.replies.remove(&command) {
        Some(Ok(Answer::Options { options })) => options[key].clone(),
        other => panic!("no options: {other:?}"),
    }
}

fn refusal(bench: &mut Bench, command: Command) -> Refusal {
    let command = bench.command(command);
    match bench.replies.remove(&command) {
        Some(Err(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn two() -> WatcherConfig {
    written("web", &[("numprocesses", "2")])
}

#[test]
fn a_changed_command_replaces_processes_gracefully_and_survives_the_manager() {
    let mut bench = Bench::new(vec![two()]);
    bench.take_events();
    let command = bench.command(set("WEB", json!({"cmd": "serve --better"})));
    bench.advance(Duration::from_secs(5));
    let Some(Ok(Answer::Changed { watchers })) = bench.replies.get(&command) else {
        panic!("{:?}", bench.replies);
    };
    assert_eq!(watchers[0].result, WatcherResult::Done);
    assert_eq!(
        (watchers[0].started.len(), watchers[0].stopped.len()),
        (2, 2)
    );
    assert_eq!(
        bench.take_events(),
        [
            "web.updated",
            "web.spawn",
            "web.spawn",
            "web.kill",
            "web.kill",
            "web.reap",
            "web.reap",
            "web.reload"
        ]
    );
    assert_eq!(option(&mut bench, "web", "cmd"), json!("serve --better"));
    let mut bench = bench.next_manager(configuration(vec![two()]));
    assert_eq!(option(&mut bench, "web", "cmd"), json!("serve --better"));
    let told = bench.configured.clone().expect("the shells are told");
    assert_eq!(told.watchers[0].cmd, "serve --better");
    bench.advance(Duration::from_secs(5));
    assert!(bench.take_signals().is_empty());
    assert!(!bench.status("web").processes[0].outdated);
}

#[test]
fn the_file_has_the_last_word_once_it_says_something_else() {
    let mut bench = Bench::new(vec![two()]);
    bench.command(set("web", json!({"args": "-v", "graceful_timeout": 1})));
    bench.advance(Duration::from_secs(5));
    let other = written("web", &[("numprocesses", "2"), ("args", "-q")]);
    let mut bench = bench.next_manager(configuration(vec![other]));
    assert_eq!(option(&mut bench, "web", "args"), json!("-q"));
    assert_eq!(option(&mut bench, "web", "graceful_timeout"), json!(1.0));
    bench.command(set("web", json!({"graceful_timeout": null})));
    assert_eq!(option(&mut bench, "web", "graceful_timeout"), json!(5.0));
    bench.advance(Duration::from_secs(5));
    assert!(bench.kernel.values.is_empty());
}

#[test]
fn what_needs_no_other_processes_replaces_none() {
    let mut bench = Bench::new(vec![two()]);
    let before = bench.kernel.history.spawns;
    let options = json!({
        "graceful_timeout": 0.5, "stop_signal": "INT", "max_age": 1000, "respawn": false,
        "priority": 3,
    });
    bench.command(set("web", options));
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.kernel.history.spawns, before);
    bench.take_signals();
    bench.command(Command::Stop(Change {
        selection: Selection::one("web"),
        wait: Wait::No,
    }));
    assert_eq!(bench.take_signals()[0].0, 2);
}

#[test]
fn a_shorter_age_counts_for_processes_that_run() {
    let mut bench = Bench::new(vec![two()]);
    bench.advance(Duration::from_secs(50));
    let first = bench.kernel.history.spawns;
    bench.command(set("web", json!({"max_age": 60, "max_age_variance": 0})));
    bench.advance(Duration::from_secs(9));
    assert_eq!(bench.kernel.history.spawns, first);
    bench.advance(Duration::from_secs(6));
    assert_eq!(bench.kernel.history.spawns, first + 2);
}

#[test]
fn a_number_that_is_set_is_the_number_that_incr_counts_from() {
    let mut bench = Bench::new(vec![two()]);
    bench.command(set("web", json!({"numprocesses": 4})));
    bench.command(Command::Incr(Step {
        selection: Selection::one("web"),
        by: 1,
        wait: Wait::No,
    }));
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.live().len(), 5);
    assert_eq!(option(&mut bench, "web", "numprocesses"), json!(5));
    assert_eq!(bench.status("web").configured, 2);
}

#[test]
fn a_singleton_is_never_there_twice() {
    let mut bench = Bench::new(vec![written("web", &[("singleton", "true")])]);
    let error = refusal(&mut bench, set("web", json!({"numprocesses": 2})));
    assert_eq!(error.kind, RefusalKind::Invalid);
    bench.take_events();
    bench.command(set("web", json!({"cmd": "serve --better"})));
    bench.advance(Duration::from_secs(5));
    assert_eq!(
        bench.take_events(),
        [
            "web.updated",
            "web.kill",
            "web.reap",
            "web.spawn",
            "web.reload"
        ]
    );
}

#[test]
fn what_cannot_be_set_changes_nothing() {
    let mut bench = Bench::new(vec![two()]);
    for (options, kind, text) in [
        (
            json!({"bogus": 1, "args": "-v"}),
            RefusalKind::UnknownOption,
            "unknown key 'bogus'",
        ),
        (
            json!({"args": "-v", "priority": "high"}),
            RefusalKind::Invalid,
            "not an integer",
        ),
        (
            json!({"args": "'"}),
            RefusalKind::Invalid,
            "cannot be split",
        ),
        (
            json!({"numprocesses": 200_000}),
            RefusalKind::Invalid,
            "numprocesses",
        ),
        (
            json!({"args": "x".repeat(40_000)}),
            RefusalKind::Invalid,
            "bytes are too many",
        ),
    ] {
        let error = refusal(&mut bench, set("web", options));
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.reason.contains(text), "{error}");
    }
    assert_eq!(option(&mut bench, "web", "args"), json!(""));
    assert!(bench.kernel.values.is_empty());
    let error = refusal(&mut bench, set("nope", json!({"args": "-v"})));
    assert_eq!(error.kind, RefusalKind::UnknownWatcher);
}

#[test]
fn an_added_watcher_is_there_until_it_is_removed() {
    let mut bench = Bench::new(vec![two()]);
    bench.take_events();
    bench.command(add("Mine", json!({"cmd": "work", "numprocesses": 2}), true));
    assert_eq!(
        bench.take_events(),
        ["mine.add", "mine.spawn", "mine.spawn", "mine.start"]
    );
    let error = refusal(&mut bench, add("mine", json!({"cmd": "x"}), false));
    assert_eq!(error.kind, RefusalKind::AlreadyExists);
    assert!(error.reason.contains("already exist"), "{error}");
    let mut bench = bench.next_manager(configuration(vec![two()]));
    assert_eq!(bench.status("MINE").name, "Mine");
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.live().len(), 4);
    assert!(bench.take_signals().is_empty());
    bench.take_events();
    let command = bench.command(remove("mine", Stopping::Stop));
    bench.advance(Duration::from_secs(5));
    assert_eq!(
        bench.take_events(),
        [
            "mine.remove",
            "mine.kill",
            "mine.kill",
            "mine.reap",
            "mine.reap",
            "mine.stop"
        ]
    );
    assert!(bench.replies[&command].is_ok());
    assert_eq!(bench.live().len(), 2);
    assert!(bench.kernel.values.is_empty(), "{:?}", bench.kernel.values);
}

#[test]
fn a_watcher_added_without_start_waits_to_be_started() {
    let mut bench = Bench::new(Vec::new());
    bench.command(add("mine", json!({"cmd": "work"}), false));
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.status("mine").state, WatcherState::Stopped);
    let mut bench = bench.next_manager(configuration(Vec::new()));
    assert_eq!(bench.status("mine").state, WatcherState::Stopped);
    bench.command(Command::Start(Change {
        selection: Selection::one("mine"),
        wait: Wait::No,
    }));
    assert_eq!(bench.live(), ["circus.mine.1"]);
}

#[test]
fn a_watcher_of_the_file_stays_removed_until_its_section_changes() {
    let mut bench = Bench::new(vec![two()]);
    bench.command(remove("web", Stopping::Stop));
    bench.advance(Duration::from_secs(5));
    assert!(bench.live().is_empty());
    let mut bench = bench.next_manager(configuration(vec![two()]));
    bench.advance(Duration::from_secs(5));
    assert!(bench.live().is_empty());
    assert_eq!(
        refusal(&mut bench, set("web", json!({}))).kind,
        RefusalKind::UnknownWatcher
    );
    let other = written("web", &[("numprocesses", "3")]);
    let mut bench = bench.next_manager(configuration(vec![other]));
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.live().len(), 3);
}

#[test]
fn without_stop_processes_are_left_to_themselves_and_can_be_taken_back() {
    let mut bench = Bench::new(vec![two()]);
    bench.take_events();
    bench.command(remove("web", Stopping::Leave));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.take_events(), ["web.remove"]);
    bench.die("circus.web.1");
    let mut bench = bench.next_manager(configuration(vec![two()]));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.live(), ["circus.web.2"]);
    assert!(bench.take_signals().is_empty());
    bench.command(add("web", json!({"cmd": "serve", "numprocesses": 2}), true));
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.live(), ["circus.web.1", "circus.web.2"]);
}

#[test]
fn reloadconfig_tells_its_plan_and_does_exactly_that() {
    let unchanged = watcher("same");
    let mut bench = Bench::new(vec![unchanged.clone(), watcher("old"), two()]);
    let same = bench.id("circus.same.1");
    let web = bench.id("circus.web.1");
    let new = written("web", &[("numprocesses", "2"), ("args", "-v")]);
    bench.file = Ok(configuration(vec![watcher("fresh"), unchanged, new]));
    let command = bench.command(reload(true));
    let Some(Ok(Answer::Plan { lines, applied, .. })) = bench.replies.get(&command) else {
        panic!("{:?}", bench.replies);
    };
    assert!(!applied);
    assert_eq!(
        *lines,
        [
            "watcher \"fresh\": added",
            "watcher \"old\": stopped and removed",
            "watcher \"web\": restarted because of args",
        ]
    );
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.id("circus.web.1"), web);
    let command = bench.command(reload(false));
    bench.advance(Duration::from_secs(10));
    let Some(Ok(Answer::Plan {
        applied: true,
        watchers,
        ..
    })) = bench.replies.get(&command)
    else {
        panic!("{:?}", bench.replies);
    };
    assert!(
        watchers.iter().all(|it| it.result == WatcherResult::Done),
        "{watchers:?}"
    );
    assert_eq!(
        bench.live(),
        [
            "circus.fresh.1",
            "circus.same.1",
            "circus.web.1",
            "circus.web.2"
        ]
    );
    assert_eq!(bench.id("circus.same.1"), same);
    assert_ne!(bench.id("circus.web.1"), web);
    assert!(!bench.status("web").processes[0].outdated);
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    let mut bench = Bench::new(vec![two()]);
    bench.file = Err("web.ini:1:1: no".to_owned());
    let error = refusal(&mut bench, reload(false));
    assert_eq!(error.kind, RefusalKind::InvalidConfiguration);
    assert_eq!(error.reason, "web.ini:1:1: no");
    bench.advance(Duration::from_secs(5));
    assert_eq!(bench.live().len(), 2);
}

#[test]
fn a_socket_that_is_bound_anew_restarts_those_who_use_it() {
    let serving = written("web", &[("cmd", "serve $(circus.sockets.web)")]);
    let mut before = configuration(vec![serving, watcher("other")]);
    before.sockets = vec![socket("web")];
    let mut bench = Bench::with(before.clone(), SimKernel::new(CALM));
    let (web, other) = (bench.id("circus.web.1"), bench.id("circus.other.1"));
    let mut after = before;
    after.sockets[0].backlog = 7;
    bench.file = Ok(after);
    bench.command(reload(false));
    bench.advance(Duration::from_secs(5));
    assert_ne!(bench.id("circus.web.1"), web);
    assert_eq!(bench.id("circus.other.1"), other);
}

#[test]
fn regular_expressions_select_by_the_beginning_of_the_name() {
    let mut bench = Bench::new(vec![watcher("web-1"), watcher("web-2"), watcher("other")]);
    let pids = |bench: &mut Bench, pattern: &str| {
        let selection = Selection {
            watchers: vec![pattern.to_owned()],
            matching: Matching::Regex,
        };
        let command = bench.command(Command::ListPids(selection));
        bench.replies.remove(&command).expect("an answer")
    };
    let Ok(Answer::Pids { watchers }) = pids(&mut bench, r"WEB-\d") else {
        panic!("no pids");
    };
    assert_eq!(watchers.len(), 2);
    assert_eq!(
        pids(&mut bench, "(").unwrap_err().kind,
        RefusalKind::Invalid
    );
    assert_eq!(
        pids(&mut bench, "eb").unwrap_err().kind,
        RefusalKind::UnknownWatcher
    );
}

#[test]
fn quit_forgets_what_was_changed_at_run_time() {
    let mut bench = Bench::new(vec![two()]);
    bench.command(set("web", json!({"args": "-v"})));
    bench.command(add("mine", json!({"cmd": "work"}), true));
    bench.command(Command::Quit(crate::command::End { wait: Wait::Done }));
    bench.advance(Duration::from_secs(10));
    assert_eq!(bench.finished, Some(Outcome::Quit));
    assert!(bench.live().is_empty());
    assert!(bench.kernel.values.is_empty(), "{:?}", bench.kernel.values);
}

#[test]
fn one_process_more_of_a_watcher_runs_for_a_while_with_other_variables_and_under_the_next_manager()
{
    let options = [
        ("numprocesses", "2"),
        ("env", r#"{"A": "1", "B": "2"}"#),
        ("stdout_stream.filename", "/tmp/web.log"),
        ("max_age", "5"),
    ];
    let mut bench = Bench::new(vec![written("web", &options)]);
    let env = [("B".to_owned(), "other".to_owned())].into();
    bench.command(Command::Add(Add::profile("Web", env, 30_000)));
    assert_eq!(bench.kernel.live().count(), 3);
    assert_eq!(option(&mut bench, "Web-profile", "cmd"), json!("serve"));
    let configured = bench.configured.clone().expect("a configuration");
    let config = configured.watcher("web-profile").expect("the new one");
    let variables: Vec<_> = config.environment.iter().collect();
    let expected = [("A", "1"), ("B", "other")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(
        variables,
        expected.iter().map(|(k, v)| (k, v)).collect::<Vec<_>>()
    );
    assert_eq!((config.respawn, config.max_age), (false, None));
    assert_eq!(
        config.stdout_stream,
        crate::config::model::StreamConfig::Unconfigured
    );
    let again = Add::profile("web", BTreeMap::new(), 30_000);
    let refused = refusal(&mut bench, Command::Add(again));
    assert_eq!(refused.kind, RefusalKind::AlreadyExists);
    bench.advance(Duration::from_secs(20));
    let file = bench.file.clone().expect("a file");
    let mut bench = bench.next_manager(file);
    assert!(
        bench
            .engine
            .watchers
            .contains_key(&WatcherKey::of("web-profile"))
    );
    bench.advance(Duration::from_secs(11));
    bench.advance(Duration::from_secs(10));
    assert!(
        !bench
            .engine
            .watchers
            .contains_key(&WatcherKey::of("web-profile"))
    );
    assert_eq!(bench.kernel.live().count(), 2);
    let unknown = Add::profile("nobody", BTreeMap::new(), 1);
    assert_eq!(
        refusal(&mut bench, Command::Add(unknown)).kind,
        RefusalKind::UnknownWatcher
    );
}

use super::*;
use crate::command::{Change, Matching, RefusalKind, SignalRequest, Step, Wait};
use crate::engine::limits::QUEUED_OPERATIONS_MAX;

fn parse(json: &str) -> Command {
    serde_json::from_str(json).expect("a command")
}

#[test]
fn commands_are_read_from_json_with_defaults() {
    let change = Change {
        selection: Selection {
            watchers: vec!["web*".to_owned()],
            matching: Matching::Glob,
        },
        wait: Wait::Done,
    };
    let text = r#"{"command": "restart", "watchers": ["web*"], "wait": true}"#;
    assert_eq!(parse(text), Command::Restart(change));
    assert_eq!(
        parse(r#"{"command": "status"}"#),
        Command::Status(Selection::default())
    );
    let step = Step {
        selection: Selection::one("a"),
        by: 1,
        wait: Wait::No,
    };
    let text = r#"{"command": "incr", "watchers": ["a"], "match": "simple"}"#;
    assert_eq!(parse(text), Command::Incr(step));
    let error = serde_json::from_str::<Command>(r#"{"command": "frobnicate"}"#);
    assert!(error.is_err());
}

#[test]
fn commands_survive_json() {
    for command in [
        Command::Stop(Change::default()),
        Command::Signal(SignalRequest {
            selection: Selection::default(),
            signal: 1,
            pid: Some(7),
            worker: None,
            child_pid: None,
            target: SignalTarget::Tree,
        }),
        Command::Quit(crate::command::End { wait: Wait::Done }),
    ] {
        let text = serde_json::to_string(&command).expect("JSON");
        assert_eq!(parse(&text), command, "{text}");
    }
}

#[test]
fn an_unknown_name_is_refused_as_a_whole_with_circus_words() {
    let mut bench = Bench::new(vec![watcher("web")]);
    let selection = Selection {
        watchers: vec!["web".to_owned(), "nope".to_owned()],
        ..Selection::default()
    };
    let command = bench.command(Command::Stop(Change {
        selection,
        wait: Wait::Done,
    }));
    let refusal = bench.replies[&command].clone().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::UnknownWatcher);
    assert_eq!(refusal.reason, "program nope not found; there are: web");
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn names_match_in_any_case_and_patterns_the_whole_name() {
    let mut bench = Bench::new(vec![watcher("Web One"), watcher("web-2"), watcher("mail")]);
    let selection = Selection {
        watchers: vec!["WEB*".to_owned()],
        ..Selection::default()
    };
    let command = bench.command(Command::List(selection));
    let expected = vec!["Web One".to_owned(), "web-2".to_owned()];
    assert_eq!(
        bench.replies[&command],
        Ok(Answer::List { watchers: expected })
    );
}

#[test]
fn a_queue_is_bounded_and_stop_gets_through() {
    let mut bench = Bench::new(vec![watcher("web")]);
    bench.tell(Input::KernelLost);
    for _ in 0..QUEUED_OPERATIONS_MAX {
        bench.command(Command::Restart(Change::default()));
    }
    let restart = bench.command(Command::Restart(Change::default()));
    assert_eq!(
        bench.replies[&restart].as_ref().unwrap_err().kind,
        RefusalKind::TooMany
    );
    let stop = bench.command(Command::Stop(Change::default()));
    bench.connect();
    assert!(bench.replies[&stop].is_ok());
}

#[test]
fn a_signal_reaches_the_chosen_processes_or_is_refused() {
    let mut config = watcher("web");
    config.numprocesses = 2;
    let mut bench = Bench::new(vec![config]);
    let request = |signal, worker| {
        Command::Signal(SignalRequest {
            selection: Selection::one("web"),
            signal,
            pid: None,
            worker,
            child_pid: None,
            target: SignalTarget::Process,
        })
    };
    bench.command(request(1, Some(2)));
    assert_eq!(bench.take_signals(), [(1, SignalTarget::Process)]);
    for (command, kind) in [
        (request(9999, None), RefusalKind::Invalid),
        (request(1, Some(7)), RefusalKind::UnknownProcess),
    ] {
        let id = bench.command(command);
        assert_eq!(bench.replies[&id].as_ref().unwrap_err().kind, kind);
    }
    bench.tell(Input::KernelLost);
    let id = bench.command(request(1, None));
    assert_eq!(
        bench.replies[&id].as_ref().unwrap_err().kind,
        RefusalKind::KernelLost
    );
}

use super::*;
use proptest::prelude::*;

fn parse(line: &str) -> Result<Command, TextError> {
    parse_line(line.as_bytes(), 1000)
}

fn refused(line: &str) -> String {
    parse(line).unwrap_err().to_string()
}

fn all(things: Things) -> Result<Command, TextError> {
    Ok(Command::List {
        things,
        selection: Selection::All,
    })
}

#[test]
fn everyday_abbreviations_mean_what_they_meant_to_papa() {
    assert_eq!(parse("l p"), all(Things::Processes));
    assert_eq!(parse("LI Sock"), all(Things::Sockets));
    assert_eq!(parse("list v"), all(Things::Values));
    assert_eq!(parse(" \r"), Ok(Command::Blank));
    assert_eq!(parse("Q"), Ok(Command::Quit));
    assert!(matches!(parse("s a 1"), Ok(Command::Set { .. })));
    assert!(matches!(
        parse("r v a"),
        Ok(Command::Remove {
            things: Things::Values,
            ..
        })
    ));
    assert!(matches!(parse("w p"), Ok(Command::Watch(Selection::All))));
    assert!(matches!(
        parse("m p a /bin/true"),
        Ok(Command::MakeProcess(_))
    ));
    assert!(matches!(parse("m s a"), Ok(Command::MakeSocket(_))));
    for mistake in ["make sockets", "make processs", "m x"] {
        let text = "Bad \"make\" command. The following word must be one of: process, socket";
        assert_eq!(refused(mistake), text);
    }
}

#[test]
fn ours_come_after_papas() {
    assert_eq!(parse("le"), Ok(Command::Leases));
    assert_eq!(parse("ses"), Ok(Command::Sessions));
    assert_eq!(parse("v"), Ok(Command::Version));
    assert_eq!(parse("st"), Ok(Command::Stats(Selection::All)));
    assert!(matches!(
        parse("si web HUP"),
        Ok(Command::Signal { signal: 1, .. })
    ));
    assert_eq!(
        refused("sessions x"),
        "\"sessions\" does not understand \"x\"; type \"help sessions\""
    );
}

#[test]
fn errors_are_papas_to_the_letter() {
    assert_eq!(refused("BOGUS"), "Unknown command \"bogus\"");
    let things = "processes, sockets, values";
    assert_eq!(
        refused("l"),
        format!("\"list\" must be followed by one of: {things}")
    );
    assert_eq!(
        refused("remove x"),
        format!("Bad \"remove\" command. The following word must be one of: {things}")
    );
    assert_eq!(
        refused("w sockets"),
        "Bad \"watch\" command. The following word must be one of: processes"
    );
    for word in ["e", "exit", "exit-if-idl"] {
        assert_eq!(refused(word), "You cannot abbreviate \"exit-if-idle\"");
    }
    assert_eq!(parse("EXIT-IF-IDLE"), Ok(Command::ExitIfIdle));
    for word in ["get", "set", "set *"] {
        assert_eq!(refused(word), "Value requires a name");
    }
    for line in ["r v", "remove values *"] {
        assert_eq!(refused(line), "You cannot remove all variables");
    }
}

#[test]
fn values_are_words_joined_by_one_space() {
    let value = Some(ByteString::from("x y z"));
    assert_eq!(
        parse("set a  x   y\\ z"),
        Ok(Command::Set {
            key: "a".into(),
            value
        })
    );
    assert_eq!(
        parse("set a"),
        Ok(Command::Set {
            key: "a".into(),
            value: None
        })
    );
    assert_eq!(parse("get a b"), Ok(Command::Get { key: "a".into() }));
}

#[test]
fn tail_takes_its_number_on_either_side() {
    let tail = |mode, lines| {
        Ok(Command::Tail {
            mode,
            name: "web".into(),
            lines,
        })
    };
    assert_eq!(parse("tail web"), tail(TailMode::Once, TAIL_LINES_DEFAULT));
    assert_eq!(parse("tail web 3"), tail(TailMode::Once, 3));
    assert_eq!(parse("tail -3 web -f"), tail(TailMode::Follow, 3));
    assert_eq!(parse("tail -f web -7"), tail(TailMode::Follow, 7));
    let by_pid = Command::Tail {
        mode: TailMode::Once,
        name: "12".into(),
        lines: 3,
    };
    assert_eq!(parse("tail 12 3"), Ok(by_pid));
    assert_eq!(
        refused("tail -f"),
        "\"tail\" requires the name of a process; type \"help tail\""
    );
    assert!(parse("tail web 3 4").is_err());
}

#[test]
fn signals_have_names_and_numbers() {
    let signal = |line: &str| match parse(line) {
        Ok(Command::Signal { signal, target, .. }) => Some((signal, target)),
        _ => None,
    };
    assert_eq!(signal("signal web 15"), Some((15, SignalTarget::Process)));
    assert_eq!(signal("signal web term"), Some((15, SignalTarget::Process)));
    assert_eq!(
        signal("signal web SIGHUP group"),
        Some((1, SignalTarget::Group))
    );
    assert_eq!(signal("signal web 64 tree"), Some((64, SignalTarget::Tree)));
    assert_eq!(refused("signal web BOGUS"), "Unknown signal \"BOGUS\"");
    assert_eq!(refused("signal web 65"), "Unknown signal \"65\"");
    assert_eq!(refused("signal web 0"), "Unknown signal \"0\"");
    assert!(refused("signal web").starts_with("\"signal\" requires"));
}

#[test]
fn attach_needs_its_version() {
    assert_eq!(parse("attach 1"), Ok(Command::Attach { version: 1 }));
    for line in [
        "attach",
        "attach x",
        "attach 1 2",
        "attach -1",
        "attach 99999",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn help_knows_every_command_and_answers_mistakes_as_text() {
    for (name, _) in VERBS {
        let Ok(Command::Help(text)) = parse(&format!("help {name}")) else {
            panic!("{name}")
        };
        assert!(
            text.len() > 20 && !text.starts_with("Error"),
            "{name}: {text}"
        );
        assert!(
            help::OVERVIEW.contains(name),
            "{name} is not in the overview"
        );
    }
    let text = |line: &str| match parse(line) {
        Ok(Command::Help(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(text("h bogus"), "Unknown command \"bogus\"\n");
    assert_eq!(
        text("help list bogus"),
        "Bad \"list\" command. The following word must be one of: processes, sockets, values\n"
    );
    assert_eq!(
        text("help exit"),
        "You cannot abbreviate \"exit-if-idle\"\n"
    );
    assert_ne!(text("help list"), text("help l s"));
    assert_ne!(text("help make process"), text("help m"));
}

#[test]
fn refusal_does_not_repeat_a_huge_word() {
    assert!(refused(&"x".repeat(1 << 20)).len() < 300);
    assert!(refused(&format!("sessions {}", "é".repeat(1 << 18))).len() < 600);
}

proptest! {
    #[test]
    fn no_line_can_do_more_than_be_refused(line in any::<Vec<u8>>()) {
        let _ = parse_line(&line, 50);
    }

    #[test]
    fn no_words_can_do_more_than_be_refused(
        words in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    "make", "process", "socket", "list", "watch", "remove", "values", "tail", "-f",
                    "signal", "help", "set", "get", "attach", "env.A=", "port=80", "path=/x", "*",
                    "rlimit.nofile=1", "bufsize=1k", "stderr=stdout", "$(socket.a.port)", "\\",
                ]).prop_map(str::to_owned),
                "[ -~]{0,12}",
            ],
            0..12,
        ),
    ) {
        let _ = parse(&words.join(" "));
    }
}

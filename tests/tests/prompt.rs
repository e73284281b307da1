//! Our own commands at the prompt: what they show is so, and what they do is done.

use kingpole_protocol::ids::{Fence, Sequence};
use kingpole_protocol::request::{Follow, TakeLease};
use kingpole_tests::text::{Place, TextSession, stdout_of};
use kingpole_tests::{Kernel, wait};

fn open(kernel: &Kernel) -> TextSession {
    TextSession::open(&Place::Unix(kernel.scratch().join("text.sock")))
}

/// What stands behind `mark` in a line, up to the next space.
#[track_caller]
fn field<'a>(line: &'a str, mark: &str) -> &'a str {
    let (_, behind) = line.split_once(mark).unwrap_or_else(|| panic!("{line}"));
    behind.split_whitespace().next().unwrap_or_default()
}

/// Bytes in, acknowledged, dropped and unread, of a line of `stats`.
#[track_caller]
fn account(line: &str) -> [u64; 4] {
    let number = |mark| field(line, mark).parse::<u64>().unwrap();
    let (out, err) = field(line, " in=").split_once('+').unwrap();
    let read = out.parse::<u64>().unwrap() + err.parse::<u64>().unwrap();
    [
        read,
        number(" acknowledged="),
        number(" dropped="),
        number(" unread="),
    ]
}

/// Looks until all of `bytes` has come in.
#[track_caller]
fn account_after(session: &mut TextSession, name: &str, bytes: u64) -> [u64; 4] {
    wait::until("its output has come in", || {
        let line = session.ask(&format!("stats {name}"));
        let account = account(&line);
        if account[0] == bytes {
            Ok(account)
        } else {
            Err(line)
        }
    })
}

/// Kills the kernel, and waits until there is another one.
#[track_caller]
fn crash(kernel: &Kernel) {
    let killed = kernel.serving();
    killed.signal(libc::SIGKILL).unwrap();
    wait::until("another kernel serves", || {
        let client = kernel.try_client("waiting");
        match client.map(|client| client.welcome().pid) {
            Ok(pid) if pid != killed.pid() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn what_stats_counts_adds_up_while_output_is_read_released_and_dropped() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    let gate = kernel.scratch().join("gate");
    let script = format!(
        "echo 123456789; echo abcd >&2; while [ ! -e {gate} ]; do sleep 0.01; done; \
         echo more >&2; echo 1234567; while [ ! -e {gate}2 ]; do sleep 0.01; done; \
         i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo 123456789; done; exec sleep 600\n",
        gate = gate.display()
    );
    let script = kernel.scratch().write("p.sh", script);
    let make = format!("make process p bufsize=8k /bin/sh {}", script.display());
    session.ask(&make);
    assert_eq!(account_after(&mut session, "p", 15), [15, 0, 0, 15]);
    let mut watcher = open(&kernel);
    watcher.send(b"watch processes p\n");
    watcher.expect("Watching 1\n");
    // Records come in one batch or in two.
    let mut seen = watcher.read_batch().len();
    while seen < 2 {
        watcher.send(b"\n");
        seen += watcher.read_batch().len();
    }
    watcher.send(b"q\n");
    watcher.expect("Stopped watching\n> ");
    assert_eq!(account_after(&mut session, "p", 15), [15, 15, 0, 0]);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(account_after(&mut session, "p", 28), [28, 15, 0, 13]);
    std::fs::write(format!("{}2", gate.display()), "").unwrap();
    let [read, acknowledged, dropped, unread] = account_after(&mut session, "p", 20_028);
    assert_eq!((read, acknowledged), (20_028, 15));
    assert!(dropped > 10_000 && unread > 0, "{dropped} {unread}");
    assert_eq!(dropped + unread, 20_013);
    // The same after a crash of the kernel.
    crash(&kernel);
    let mut session = open(&kernel);
    assert_eq!(
        account(&session.ask("stats p")),
        [20_028, 15, dropped, unread]
    );
}

#[test]
fn stats_shows_all_of_very_many() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    for number in 0..300 {
        session.send(format!("make process p{number:03} /bin/true\n").as_bytes());
    }
    for number in 0..300 {
        session.expect(&format!("p{number:03} pid="));
        session.read_until("> ");
    }
    let stats = session.ask("stats");
    let names = stats.lines().map(|line| &line[..4]).collect::<Vec<_>>();
    let want = (0..300).map(|n| format!("p{n:03}")).collect::<Vec<_>>();
    assert_eq!(names, want);
}

#[test]
fn sessions_shows_what_waits_for_whom() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    let client = kernel.client();
    let mut slow = open(&kernel);
    session.ask("make process p /bin/sh -c exec\\ head\\ -c\\ 1500000\\ /dev/zero");
    slow.send(b"tail -f p\n");
    wait::until("more waits for it than its socket holds", || {
        let shown = session.ask("sessions");
        let lines = shown.lines().collect::<Vec<_>>();
        let [mine, framed, slow] = lines[..] else {
            return Err(shown);
        };
        let (me, _) = mine.split_once(' ').unwrap();
        assert!(
            me.ends_with('*') && mine.contains(" text peer=unix "),
            "{mine}"
        );
        assert_eq!(field(mine, " queued="), "0");
        assert!(framed.contains(" frames peer=unix "), "{framed}");
        assert_eq!(field(framed, " pid="), std::process::id().to_string());
        let waits = field(slow, " follows=") == "1" && field(slow, " queued=") != "0";
        if waits { Ok(()) } else { Err(shown) }
    });
    drop(client);
}

#[test]
fn a_signal_from_the_prompt_arrives_and_leases_and_version_are_shown() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    session.ask("make process p /bin/sh -c trap\\ 'exit\\ 7'\\ HUP;\\ echo\\ up;\\ while\\ :;\\ do\\ sleep\\ 0.01;\\ done");
    account_after(&mut session, "p", 3);
    assert_eq!(session.ask("signal p HUP"), "Signalled 1");
    wait::until("it has exited", || {
        let line = session.ask("stats p");
        if line.contains("p exit=7 ran=") {
            Ok(())
        } else {
            Err(line)
        }
    });
    assert_eq!(session.ask("leases"), "");
    let mut client = kernel.client();
    let lease = TakeLease {
        name: "manager".into(),
        resume: Fence::NONE,
        take_over: false,
    };
    let fence = client.take_lease(lease).unwrap();
    let shown = session.ask("leases");
    assert!(
        shown.starts_with(&format!("manager number={fence} session=")),
        "{shown}"
    );
    let version = session.ask("version");
    let pid = kernel.serving().pid();
    assert!(version.contains(&format!(" pid={pid} guard=")), "{version}");
}

#[test]
fn what_was_acknowledged_but_held_back_is_sent_again_after_a_crash() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    session.ask("make process p /bin/sh -c echo\\ one;\\ exec\\ sleep\\ 600");
    let mut client = kernel.client();
    let process = client.processes().unwrap()[0].process;
    let follow = Follow {
        process,
        from: Sequence(0),
        credit_bytes: 1 << 20,
    };
    client.call(follow).unwrap();
    let watch = |session: &mut TextSession| {
        session.send(b"watch processes p\n");
        session.expect("Watching 1\n");
        assert_eq!(stdout_of(&session.read_batch()), "one\n");
        session.send(b"q\n");
        session.expect("Stopped watching\n> ");
    };
    watch(&mut session);
    assert_eq!(account(&session.ask("stats p")), [4, 0, 0, 4]);
    crash(&kernel);
    let mut session = open(&kernel);
    watch(&mut session);
    // Nobody holds it back any more, so this is for good.
    assert_eq!(account(&session.ask("stats p")), [4, 4, 0, 0]);
    crash(&kernel);
    assert_eq!(account(&open(&kernel).ask("stats p")), [4, 4, 0, 0]);
}

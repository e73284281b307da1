//! Papa's door: the text protocol byte for byte, for people and for existing clients, and what
//! it must not let anybody do.

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::request::{Commit, Follow, OutputAcknowledgement, Unfollow};
use kingpole_protocol::status::ProcessInfo;
use kingpole_tests::text::{
    GREETING, Place, TextSession, Watched, replay, replay_document, stdout_of,
};
use kingpole_tests::{Kernel, Puppet, Scratch, binaries, wait};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn place(kernel: &Kernel) -> Place {
    Place::Unix(kernel.scratch().join("text.sock"))
}

fn open(kernel: &Kernel) -> TextSession {
    TextSession::open(&place(kernel))
}

fn replay_file(name: &str) {
    let kernel = Kernel::start();
    let file = binaries::workspace()
        .join("tests/interop/transcripts")
        .join(name);
    let scratch = kernel.scratch().join("replay");
    std::fs::create_dir(&scratch).unwrap();
    replay(&place(&kernel), &file, &scratch);
}

#[test]
fn words_and_abbreviations_are_papas_byte_for_byte() {
    replay_file("words.txt");
}

#[test]
fn values_are_papas_byte_for_byte() {
    replay_file("values.txt");
}

#[test]
fn sockets_are_papas_byte_for_byte() {
    replay_file("sockets.txt");
}

#[test]
fn processes_are_papas_byte_for_byte() {
    if !nix::unistd::geteuid().is_root() {
        return skip("children of other users need root");
    }
    replay_file("processes.txt");
}

#[test]
fn watching_is_papas_byte_for_byte() {
    replay_file("watching.txt");
}

#[test]
fn leaving_is_papas_byte_for_byte_and_the_kernel_ends_when_alone() {
    let mut kernel = Kernel::start();
    let file = binaries::workspace().join("tests/interop/transcripts/leaving.txt");
    replay(&place(&kernel), &file, kernel.scratch().path());
    wait::until("the kernel ends", || {
        kernel
            .process_mut()
            .try_wait()
            .map_or(Err("it runs"), |status| {
                assert!(status.success(), "{status}");
                Ok(())
            })
    });
}

#[test]
fn the_session_that_the_document_shows_happens() {
    let kernel = Kernel::start();
    let document = binaries::workspace().join("docs/telnet.md");
    let document = std::fs::read_to_string(document).unwrap();
    assert_eq!(replay_document(&place(&kernel), &document), 1);
}

/// Says that a test was left out, which is a failure where everything has to run.
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(
        std::env::var_os("CI").is_none(),
        "skipped with CI set: {why}"
    );
}

#[test]
fn processes_are_found_by_pid_and_sockets_by_file_number() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    let line = session.ask("make process web /bin/sleep 600");
    let pid = word_behind(&line, "pid=");
    assert_eq!(session.ask(&format!("list processes {pid}")), line);
    let socket = session.ask("make socket front");
    let fileno = word_behind(&socket, "fileno=");
    assert_eq!(session.ask(&format!("l s {fileno}")), socket);
    assert_eq!(session.ask(&format!("r s {fileno}")), "");
    assert_eq!(session.ask("l s"), "");
    assert_eq!(session.ask(&format!("signal {pid} KILL")), "Signalled 1");
    session.send(format!("w p {pid}\n").as_bytes());
    session.expect("Watching 1\nclosed:web:");
    session.read_until(":-9\n] ");
    session.send(b"\n");
    session.expect("Nothing left to watch\n> ");
    assert_eq!(
        session.ask(&format!("w p {pid}")),
        format!("Error: {pid} not found")
    );
}

fn word_behind(line: &str, mark: &str) -> String {
    let (_, behind) = line
        .split_once(mark)
        .unwrap_or_else(|| panic!("no {mark} in {line}"));
    behind
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn two_watchers_of_one_process_both_see_everything() {
    let kernel = Kernel::start();
    let (mut left, mut right) = (open(&kernel), open(&kernel));
    let gate = kernel.scratch().join("gate");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.01; done\ni=0\nwhile [ $i -lt 300 ]; do i=$((i+1)); echo $i; done\n",
        gate.display()
    );
    let script = kernel.scratch().write("p.sh", script);
    left.ask(&format!("make process both /bin/sh {}", script.display()));
    for watcher in [&mut left, &mut right] {
        watcher.send(b"watch processes both\n");
        watcher.expect("Watching 1\n");
    }
    std::fs::write(&gate, "").unwrap();
    let reader = std::thread::spawn(move || right.read_watch());
    let left = left.read_watch();
    let right = reader.join().unwrap();
    let want = (1..=300).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(stdout_of(&left), want);
    assert_eq!(stdout_of(&right), want);
    assert_eq!(open(&kernel).ask("l p"), "");
}

#[test]
fn a_watcher_that_never_answers_keeps_the_others_output() {
    let kernel = Kernel::start();
    let (mut silent, mut other) = (open(&kernel), open(&kernel));
    silent.ask("make process p /bin/sh -c echo\\ one;\\ exec\\ sleep\\ 600");
    silent.send(b"w p p\n");
    silent.expect("Watching 1\n");
    assert_eq!(stdout_of(&silent.read_batch()), "one\n");
    other.send(b"w p p\n");
    other.expect("Watching 1\n");
    // It has been sent to both, so the acknowledgement of one is enough.
    assert_eq!(stdout_of(&other.read_batch()), "one\n");
    other.send(b"q\n");
    other.expect("Stopped watching\n> ");
    let stats = other.ask("stats p");
    assert!(stats.contains(" kept=0/"), "{stats}");
}

fn find(client: &mut Client, process: ProcessId) -> Option<ProcessInfo> {
    let listed = client.processes().unwrap();
    listed.into_iter().find(|info| info.process == process)
}

#[test]
fn a_watcher_takes_nothing_from_a_framed_manager() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "hosted", |_| {});
    let process = puppet.info.process;
    puppet.tell("text out precious");
    puppet.tell("exit 3");
    wait::until("it has ended", || match find(&mut client, process) {
        Some(info) if info.end.is_some() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut session = open(&kernel);
    session.send(b"watch processes hosted\n");
    session.expect("Watching 1\n");
    let seen = session.read_watch();
    assert_eq!(stdout_of(&seen), "precious\n");
    // All of it is still there for the manager, the end as well.
    let info = find(&mut client, process).expect("it is kept");
    assert!(info.output.used_bytes > 0 && info.end.is_some(), "{info:?}");
    assert!(session.ask("l p hosted").contains("running=False"));
}

#[test]
fn a_manager_that_follows_a_process_of_the_prompt_keeps_its_output_too() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    session.ask("make process p /bin/sh -c echo\\ one;\\ exec\\ sleep\\ 600");
    let mut client = kernel.client();
    let listed = client.processes().unwrap();
    let process = listed.iter().find(|info| info.name == "p").unwrap().process;
    client
        .call(Follow {
            process,
            from: Sequence(0),
            credit_bytes: 1 << 20,
        })
        .unwrap();
    session.send(b"w p p\n");
    session.expect("Watching 1\n");
    assert_eq!(stdout_of(&session.read_batch()), "one\n");
    session.send(b"q\n");
    session.expect("Stopped watching\n> ");
    assert!(!session.ask("stats p").contains(" kept=0/"));
    client.call(Unfollow { process }).unwrap();
    // Now what the prompt has acknowledged may go.
    wait::until("it is released", || {
        let stats = session.ask("stats p");
        if stats.contains(" kept=0/") {
            Ok(())
        } else {
            Err(stats)
        }
    });
    let through = OutputAcknowledgement {
        process,
        through: Sequence(1),
    };
    client
        .call(Commit {
            outputs: vec![through],
            ..Commit::default()
        })
        .unwrap();
}

#[test]
fn tail_shows_the_end_and_goes_on_without_acknowledging() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    let fifo = kernel.scratch().join("fifo");
    let script = format!(
        "for i in 1 2 3 4 5; do echo line $i; done; while [ ! -e {0} ]; do sleep 0.01; done; \
         echo late; printf unfinished; while [ ! -e {0}2 ]; do sleep 0.01; done; exit 4",
        fifo.display()
    );
    let script = kernel.scratch().write("t.sh", script);
    session.ask(&format!("make process t /bin/sh {}", script.display()));
    wait::until("its lines are there", || {
        let tail = session.ask("tail t 2");
        if tail == "line 4\nline 5" {
            Ok(())
        } else {
            Err(tail)
        }
    });
    session.send(b"tail -f t 1\n");
    session.expect("line 5\n");
    std::fs::write(&fifo, "").unwrap();
    session.expect("late\nunfinished");
    session.send(b"\n");
    session.expect("\n> ");
    session.send(b"tail -f -1 t\n");
    session.expect("unfinished");
    std::fs::write(kernel.scratch().join("fifo2"), "").unwrap();
    session.expect("\nt exit=4 ran=");
    session.read_until("\n> ");
    // Nothing was acknowledged by all that.
    session.send(b"w p t\n");
    session.expect("Watching 1\n");
    let all = session.read_watch();
    assert!(stdout_of(&all).starts_with("line 1\n"));
    assert_eq!(session.ask("tail t"), "Error: t not found");
}

#[test]
fn closed_comes_although_a_descendant_holds_the_output_open() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    let gate = kernel.scratch().join("gate");
    let script = format!(
        "(while [ ! -e {} ]; do sleep 0.01; done; echo orphan; echo orphan) & echo parent; exit 5",
        gate.display()
    );
    let script = kernel.scratch().write("d.sh", script);
    let make = format!("make process d /bin/sh {}", script.display());
    session.send(format!("{}\n", make.replace("process d ", "process d watch=1 ")).as_bytes());
    session.read_until("\n");
    let seen = session.read_watch();
    assert_eq!(stdout_of(&seen), "parent\n");
    assert!(seen.contains(&Watched::Closed {
        name: "d".into(),
        code: 5
    }));
    assert_eq!(session.ask("l p"), "");
    // The name is free for a new one with the same options, although the old one is still open.
    let line = session.ask(&make);
    assert!(line.starts_with("d pid="), "{line}");
    std::fs::write(&gate, "").unwrap();
    session.send(b"w p d\n");
    session.expect("Watching 1\n");
    let seen = session.read_watch();
    assert!(stdout_of(&seen).starts_with("parent\n"));
    wait::until("nothing is held", || {
        let version = session.ask("version");
        if version.contains("processes=0 running, 0 ended") {
            Ok(())
        } else {
            Err(version)
        }
    });
}

#[test]
fn q_stops_a_watch_that_has_nothing_to_say() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    session.ask("make process quiet /bin/sleep 600");
    session.send(b"w p quiet\n");
    session.expect("Watching 1\n");
    session.send(b"q\n");
    session.expect("Stopped watching\n> ");
    // A line that is sent ahead acknowledges the batch to come.
    session.send(b"make process say /bin/sh -c sleep\\ 0.1;\\ echo\\ hi;\\ exec\\ sleep\\ 600\nw p say\n\nq\n");
    session.read_until("Watching 1\n");
    assert_eq!(stdout_of(&session.read_batch()), "hi\n");
    session.expect("Stopped watching\n> ");
    assert!(session.ask("stats say").contains(" kept=0/"));
}

#[test]
fn telnet_bytes_and_ctrl_d_are_understood() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    // IAC DO SUPPRESS-GO-AHEAD, a line ended as telnet ends it, IAC WILL NAWS in between.
    session.send(b"\xff\xfd\x03set a\xff\xfb\x1f 1\r\n");
    assert_eq!(session.read_exactly(6), b"\xff\xfc\x03\xff\xfe\x1f");
    session.expect("\n> ");
    assert_eq!(session.ask("get a"), "1");
    session.ask("make process p /bin/sleep 600");
    session.send(b"w p p\n");
    session.expect("Watching 1\n");
    // Ctrl-C: IAC IP.
    session.send(b"\xff\xf4");
    session.expect("Stopped watching\n> ");
    session.send(b"\x04");
    assert_eq!(session.read_to_end(), "");
}

#[test]
fn what_was_asked_before_hanging_up_the_sending_side_is_answered() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    session.send(b"set a 1\nget a\nlist values\n");
    session.finish_sending();
    assert_eq!(session.read_to_end(), "\n> 1\n> a 1\n> ");
    let mut session = open(&kernel);
    session.send(b"make process p /bin/echo hi\nw p p\n");
    session.finish_sending();
    let rest = session.read_to_end();
    assert!(
        rest.ends_with("] ") && rest.contains(":3\nhi\n\n"),
        "{rest:?}"
    );
    // Nobody acknowledged it.
    assert!(!open(&kernel).ask("stats p").contains(" kept=0/"));
}

#[test]
fn who_sends_an_endless_line_is_cut_off_and_costs_little() {
    let kernel = Kernel::start();
    let mut bystander = kernel.client();
    let before = bystander.status().unwrap().resident_kib;
    let mut session = open(&kernel);
    let mebibyte = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 1 << 10 && session.try_send(&mebibyte).is_ok() {
        sent += 1;
    }
    assert!(sent < 1 << 10, "a gigabyte was read as one line");
    let rest = session.read_to_end();
    assert!(
        rest.is_empty() || rest.starts_with("Error: The line has more than "),
        "{rest}"
    );
    let after = bystander.status().unwrap().resident_kib;
    assert!(
        after < before + (4 << 10),
        "grown from {before} to {after} KiB"
    );
}

#[test]
fn who_asks_and_never_reads_costs_a_bounded_amount() {
    let kernel = Kernel::start();
    let mut bystander = kernel.client();
    let mut filler = open(&kernel);
    let value = "v".repeat(200_000);
    for n in 0..40 {
        filler.ask(&format!("set value{n} {value}"));
    }
    let before = bystander.status().unwrap().resident_kib;
    let mut greedy = (0..8).map(|_| open(&kernel)).collect::<Vec<_>>();
    for session in &mut greedy {
        session.send("list values\n".repeat(100).as_bytes());
    }
    // Each asked for 800 MB. The kernel goes on, and others are served.
    for n in 0..40 {
        assert_eq!(filler.ask(&format!("get value{n}")).len(), value.len());
    }
    let after = bystander.status().unwrap().resident_kib;
    assert!(
        after < before + (16 << 10),
        "grown from {before} to {after} KiB"
    );
}

#[test]
fn a_flood_of_values_ends_at_the_bound_and_disturbs_nobody() {
    let kernel = Kernel::start();
    let mut session = open(&kernel);
    let value = "v".repeat(100_000);
    let mut stored = 0;
    loop {
        let reply = session.ask(&format!("set flood{stored} {value}"));
        if reply.starts_with("Error: ") {
            assert!(reply.contains("values together"), "{reply}");
            break;
        }
        stored += 1;
        assert!(stored < 1000, "there is no bound");
    }
    assert!(stored > 20, "{stored}");
    assert_eq!(open(&kernel).ask("get flood0").len(), value.len());
    session.ask("remove values flood*");
    assert_eq!(session.ask("set after 1"), "");
}

#[test]
fn ten_thousand_sessions_displace_the_idle_ones_and_disturb_nobody() {
    let kernel = Kernel::start();
    let mut manager = kernel.client();
    let mut watcher = open(&kernel);
    watcher.ask("make process p /bin/sleep 600");
    watcher.send(b"w p p\n");
    watcher.expect("Watching 1\n");
    let before = manager.status().unwrap().resident_kib;
    let mut bystander = open(&kernel);
    let mut sessions = Vec::new();
    for count in 0..descriptors_for(10_000) {
        sessions.push(TextSession::connect(&place(&kernel)));
        if count % 100 == 0 {
            assert_eq!(bystander.ask("get a"), "");
        }
    }
    // The newest are served, the oldest idle ones were told why not.
    let mut newest = sessions.pop().unwrap();
    newest.expect(GREETING);
    assert_eq!(newest.ask("get a"), "");
    let oldest = sessions.first_mut().unwrap().read_to_end();
    assert!(oldest.contains("Error: "), "{oldest}");
    // Those that do something stay.
    let status = manager.status().unwrap();
    assert!(status.sessions <= 256);
    let after = status.resident_kib;
    assert!(
        after < before + (4 << 10),
        "grown from {before} to {after} KiB"
    );
    watcher.send(b"q\n");
    watcher.expect("Stopped watching\n> ");
}

/// So many, or as many as this process may have open beside those of other tests.
fn descriptors_for(wanted: u64) -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let room = most.saturating_sub(400);
    if room < wanted {
        eprintln!("{room} sessions instead of {wanted}: Linux allows no more descriptors");
    }
    assert!(room > 500, "{most} descriptors are too few for this test");
    wanted.min(room)
}

#[test]
fn a_second_user_is_refused_over_unix_and_tcp_and_a_named_one_is_served() {
    if !nix::unistd::geteuid().is_root() {
        return skip("acting as another user needs root");
    }
    for (allowed, word) in [(false, "Error: permission denied\n"), (true, GREETING)] {
        let arguments: &[&str] = match allowed {
            true => &["--allow-user", "nobody"],
            false => &[],
        };
        let (kernel, port) = Kernel::start_with_port(arguments);
        assert_eq!(as_nobody(Place::Tcp(port)).as_deref(), Some(word));
        // The mode of the socket keeps strangers out before the kernel has to.
        let over_unix = as_nobody(place(&kernel));
        assert_eq!(over_unix.as_deref(), allowed.then_some(GREETING));
        if !allowed {
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(kernel.scratch().join("text.sock"), everybody).unwrap();
            assert_eq!(as_nobody(place(&kernel)).as_deref(), Some(word));
        }
        // Who may, still can.
        assert_eq!(open(&kernel).ask("get a"), "");
        assert_eq!(TextSession::open(&Place::Tcp(port)).ask("get a"), "");
    }
}

/// What a connection of user 65534 is told first; nothing when it is not even connected.
fn as_nobody(place: Place) -> Option<String> {
    let stranger = std::thread::spawn(move || {
        // Of this thread alone, which ends here.
        kingpole_tests::sys::become_user(65534).expect("root may be anybody");
        let mut session = TextSession::try_connect(&place).ok()?;
        Some(session.read_first())
    });
    stranger.join().unwrap()
}

#[test]
fn an_address_that_others_could_reach_is_refused_at_the_start() {
    let scratch = Scratch::new();
    for address in ["tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:192.0.2.1:20202"] {
        let mut command = Kernel::command(&scratch);
        let output = command.args(["--listen", address]).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{address}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains("only loopback addresses"),
            "{address}: {text}"
        );
    }
}

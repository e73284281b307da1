//! Promise: a child gets exactly what its specification says and nothing else, and a start that
//! fails says at which step and leaves nothing behind.

use kingpole_protocol::record::Stream;
use kingpole_protocol::request::{Commit, Remove};
use kingpole_protocol::spec::{LimitSpec, OutputSpec, StdinSpec, UserSpec};
use kingpole_protocol::status::EndStatus;
use kingpole_protocol::{ByteString, ErrorCode};
use kingpole_tests::kernel::refused;
use kingpole_tests::output::{Acknowledge, Follower};
use kingpole_tests::puppet::{self, Puppet};
use kingpole_tests::{Kernel, wait};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn environment_arguments_and_directory_are_exactly_those_asked_for() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let directory = kernel.scratch().join("a dir");
    std::fs::create_dir(&directory).unwrap();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "exact", |spec| {
        spec.environment = vec![("A".into(), "1 2".into()), ("EMPTY".into(), "".into())];
        spec.working_directory = puppet::bytes(&directory);
    });
    let report = puppet.report();
    assert_eq!(report["environment"], json!({ "A": "1 2", "EMPTY": "" }));
    assert_eq!(report["cwd"], json!(directory));
    let told: Vec<String> = puppet
        .info
        .arguments
        .iter()
        .map(|a| a.to_text().into_owned())
        .collect();
    assert_eq!(report["arguments"], json!(told));
}

#[test]
fn defaults_are_no_environment_root_directory_and_umask_027() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let report = Puppet::spawn(&kernel, &mut client, "plain", |_| {}).report();
    assert_eq!(report["environment"], json!({}));
    assert_eq!(report["cwd"], "/");
    assert_eq!(report["status"]["Umask"], "0027");
}

#[test]
fn umask_and_limits_are_set_and_the_other_limits_are_the_kernels() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let plain = Puppet::spawn(&kernel, &mut client, "plain", |_| {}).report();
    let limited = Puppet::spawn(&kernel, &mut client, "limited", |spec| {
        spec.umask = Some(0o002);
        spec.limits = vec![
            LimitSpec {
                resource: libc::RLIMIT_NOFILE,
                soft: 100,
                hard: 200,
            },
            LimitSpec {
                resource: libc::RLIMIT_CORE,
                soft: 0,
                hard: 4096,
            },
        ];
    })
    .report();
    assert_eq!(limited["status"]["Umask"], "0002");
    let mut expected = plain["limits"].clone();
    expected[libc::RLIMIT_NOFILE.to_string()] = json!([100, 200]);
    expected[libc::RLIMIT_CORE.to_string()] = json!([0, 4096]);
    assert_eq!(limited["limits"], expected);
}

#[test]
fn a_child_leads_a_session_and_the_kernel_is_its_parent() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "leader", |_| {});
    let report = puppet.report();
    let pid = json!(puppet.info.pid);
    assert_eq!(report["pid"], pid);
    assert_eq!(report["session"], pid);
    assert_eq!(report["group"], pid);
    assert_eq!(report["parent"], json!(client.welcome().pid));
}

#[test]
fn nothing_leaks_into_a_child_while_the_kernel_holds_much() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut others: Vec<Puppet> = (0..10)
        .map(|n| Puppet::spawn(&kernel, &mut client, &format!("other {n}"), |_| {}))
        .collect();
    for n in 0..10 {
        let spec = kingpole_protocol::spec::SocketSpec {
            name: format!("socket {n}"),
            address: kingpole_protocol::spec::SocketAddress::Inet {
                host: "127.0.0.1".into(),
                port: 0,
            },
            kind: kingpole_protocol::spec::SocketKind::Stream,
            backlog: 5,
            interface: None,
            reuseport: false,
        };
        client.make_socket(spec).unwrap();
    }
    let report = Puppet::spawn(&kernel, &mut client, "checked", |_| {}).report();
    let descriptors: BTreeMap<String, String> =
        serde_json::from_value(report["descriptors"].clone()).unwrap();
    let numbers: Vec<&str> = descriptors.keys().map(String::as_str).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{descriptors:?}");
    assert_eq!(descriptors["0"], "/dev/null");
    assert!(descriptors["1"].starts_with("pipe:"), "{descriptors:?}");
    assert!(descriptors["2"].starts_with("pipe:"), "{descriptors:?}");
    assert_ne!(descriptors["1"], descriptors["2"]);
    for other in &mut others {
        other.tell("exit 0");
    }
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    // Not the puppet: the runtime of Rust changes SIGPIPE before main.
    let spec = puppet::program("cat", &["/bin/cat", "/proc/self/status"]);
    let process = client.spawn("cat", spec).unwrap().process.process;
    let mut follower = Follower::new(kernel.client(), process, Acknowledge::Each);
    follower.read_to_end();
    let text = String::from_utf8_lossy(follower.of(Stream::Stdout)).into_owned();
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = text.lines().find(|l| l.starts_with(field)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

#[test]
fn outputs_can_be_discarded_or_merged() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut null = Puppet::spawn(&kernel, &mut client, "null", |spec| {
        spec.stdout = OutputSpec::Null;
        spec.stderr = OutputSpec::Null;
    });
    let report = null.report();
    assert_eq!(
        report["descriptors"],
        json!({ "0": "/dev/null", "1": "/dev/null", "2": "/dev/null" })
    );
    assert_eq!(null.info.output.capacity_bytes, 0);

    let mut merged = Puppet::spawn(&kernel, &mut client, "merged", |spec| {
        spec.stderr = OutputSpec::SameAsStdout;
    });
    let report = merged.report();
    assert_eq!(report["descriptors"]["1"], report["descriptors"]["2"]);
    merged.ask("text out first");
    merged.ask("text err second");
    merged.ask("text out third");
    merged.tell("exit 0");
    let mut follower = Follower::new(kernel.client(), merged.process(), Acknowledge::Each);
    follower.read_until("all of it", |f| {
        f.of(Stream::Stdout) == b"first\nsecond\nthird\n"
    });
    assert!(follower.of(Stream::Stderr).is_empty());
}

#[test]
fn a_program_is_looked_up_in_the_search_path_and_nowhere_else() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let bin = kernel.scratch().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = kernel
        .scratch()
        .program("bin/kp-only-here", b"#!/bin/sh\necho \"$0\"\n");

    let mut spec = puppet::program("lookup", &["kp-only-here"]);
    let error = refused(client.spawn("lookup/1", spec.clone()));
    assert_eq!(error.code, ErrorCode::SPAWN_FAILED);
    assert!(error.message.contains("kp-only-here"), "{error:?}");

    spec.search_path = format!("/nowhere:{}:/bin", bin.display()).into();
    let process = client.spawn("lookup/2", spec).unwrap().process.process;
    let mut follower = Follower::new(kernel.client(), process, Acknowledge::Each);
    follower.read_to_end();
    assert_eq!(
        follower.of(Stream::Stdout),
        format!("{}\n", script.display()).as_bytes()
    );

    let mut renamed = puppet::program("renamed", &["another name", "-c", "echo $0 $1", "x", "y"]);
    renamed.program = Some("/bin/sh".into());
    let process = client.spawn("renamed", renamed).unwrap().process.process;
    let mut follower = Follower::new(kernel.client(), process, Acknowledge::Each);
    follower.read_to_end();
    assert_eq!(follower.of(Stream::Stdout), b"x y\n");
}

#[test]
fn a_failed_start_names_its_step_and_leaves_nothing() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let plain = kernel.scratch().write("plain", "no program");
    let plain = plain.to_str().unwrap();
    let before = client.status().unwrap();

    for round in 0..25 {
        let mut cases = vec![
            (
                puppet::program("n", &["/nowhere/at/all"]),
                "exec",
                libc::ENOENT,
                "/nowhere/at/all",
            ),
            (puppet::program("n", &[plain]), "exec", libc::EACCES, plain),
        ];
        let mut away = puppet::program("n", &["/bin/true"]);
        away.working_directory = "/nowhere/dir".into();
        cases.push((away, "working-directory", libc::ENOENT, "/nowhere/dir"));
        let mut file = puppet::program("n", &["/bin/true"]);
        file.working_directory = plain.into();
        cases.push((file, "working-directory", libc::ENOTDIR, plain));
        for (spec, step, errno, object) in cases {
            let error = refused(client.spawn(&format!("{step}/{errno}/{round}"), spec));
            assert_eq!(error.code, ErrorCode::SPAWN_FAILED, "{error:?}");
            assert_eq!(
                (error.step.as_str(), error.errno),
                (step, errno),
                "{error:?}"
            );
            assert!(error.message.contains(object), "{error:?}");
        }
    }

    assert_eq!(client.processes().unwrap(), []);
    let after = client.status().unwrap();
    assert_eq!(
        after.descriptors, before.descriptors,
        "descriptors of the kernel"
    );
    assert_eq!(after.output_capacity_bytes, 0);
    let zombies = kingpole_tests::process::children(after.pid);
    assert_eq!(zombies, [] as [i32; 0], "children of the kernel");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_happens() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let good = || puppet::program("n", &["/bin/true"]);
    let mut cases = vec![("no command", puppet::program("n", &[]), ErrorCode::INVALID)];
    for (what, name) in [
        ("empty name", String::new()),
        ("newline in name", "a\nb".to_owned()),
        ("10,000 characters", "x".repeat(10_000)),
        ("wildcard", "web*".to_owned()),
    ] {
        let mut spec = good();
        spec.name = name;
        cases.push((what, spec, ErrorCode::INVALID));
    }
    let mut zero = good();
    zero.arguments.push("a\0b".into());
    cases.push(("zero byte", zero, ErrorCode::INVALID));
    let mut relative = good();
    relative.working_directory = "not/absolute".into();
    cases.push(("relative directory", relative, ErrorCode::INVALID));
    let mut mask = good();
    mask.umask = Some(0o7777);
    cases.push(("umask", mask, ErrorCode::INVALID));
    let mut stdin = good();
    stdin.stdin = StdinSpec::Socket("nobody".into());
    cases.push(("stdin socket", stdin, ErrorCode::NOT_FOUND));
    let mut listen = good();
    listen.listen = vec!["nobody".into()];
    cases.push(("listen socket", listen, ErrorCode::NOT_FOUND));
    let mut argument = good();
    argument.arguments.push("$(socket.nobody.fileno)".into());
    cases.push(("socket in an argument", argument, ErrorCode::NOT_FOUND));
    let mut buffer = good();
    buffer.buffer_bytes = u64::MAX;
    cases.push(("buffer", buffer, ErrorCode::LIMIT));

    for (number, (what, spec, code)) in cases.into_iter().enumerate() {
        let error = refused(client.spawn(&format!("key {number}"), spec));
        assert_eq!(error.code, code, "{what}: {error:?}");
        assert!(!error.message.is_empty(), "{what}");
    }
    assert_eq!(client.processes().unwrap(), []);
}

#[test]
fn names_with_spaces_and_dots_come_back_as_they_were() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let name = "circus.a b é/x.1";
    let mut puppet = Puppet::spawn(&kernel, &mut client, name, |spec| {
        spec.labels = BTreeMap::from([
            ("who".into(), "ä b=c\nd".into()),
            (String::new(), "".into()),
        ]);
        spec.labels.remove("");
    });
    let listed = client.processes().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, name);
    assert_eq!(listed[0].key, name);
    assert_eq!(listed[0].labels["who"], "ä b=c\nd");
    assert_eq!(listed[0].pid, puppet.info.pid);
    assert_eq!(listed[0].end, None);
    puppet.tell("exit 0");
}

#[test]
fn a_repeated_spawn_finds_the_first_one_and_a_taken_name_is_refused() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let sleeper = puppet::program("sleeper", &["/bin/sleep", "1000"]);
    let first = client.spawn("key", sleeper.clone()).unwrap();
    assert!(!first.existed);
    let again = kernel.client().spawn("key", sleeper.clone()).unwrap();
    assert!(again.existed);
    assert_eq!(again.process.pid, first.process.pid);
    assert_eq!(again.process.process, first.process.process);
    let error = refused(client.spawn("another key", sleeper));
    assert_eq!(error.code, ErrorCode::ALREADY_EXISTS, "{error:?}");
    assert!(error.message.contains("sleeper"), "{error:?}");
    assert_eq!(client.processes().unwrap().len(), 1);
}

#[test]
fn children_that_came_and_went_leave_nothing_in_the_kernel() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let before = client.status().unwrap();
    for round in 0..200 {
        let name = format!("short {round}");
        let spec = puppet::program(&name, &["/bin/echo", "some output"]);
        let process = client.spawn(&name, spec).unwrap().process.process;
        client.call(Remove { process }).unwrap();
    }
    wait::until("all are forgotten", || {
        let left = client.processes().unwrap();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{} processes", left.len()))
        }
    });
    let after = client.status().unwrap();
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.output_capacity_bytes, before.output_capacity_bytes);
    assert_eq!(after.output_bytes, 0);
    assert_eq!(kingpole_tests::process::children(after.pid), [] as [i32; 0]);
}

#[test]
fn orphaned_grandchildren_are_adopted_and_reaped() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "father", |_| {});
    let kernel_pid = client.welcome().pid;
    assert_eq!(puppet.ask("orphan close 1; close 2; wait"), json!(0));
    let orphan = wait::until("the orphan is the kernel's", || {
        let children = kingpole_tests::process::children(kernel_pid);
        children
            .iter()
            .copied()
            .find(|&c| c != puppet.info.pid)
            .ok_or(format!("{children:?}"))
    });
    let handle = kingpole_tests::process::Handle::open(orphan).unwrap();
    handle.signal(libc::SIGKILL).unwrap();
    wait::until("it is reaped", || {
        let children = kingpole_tests::process::children(kernel_pid);
        if children == [puppet.info.pid] {
            Ok(())
        } else {
            Err(format!("{children:?}"))
        }
    });
    assert_eq!(
        client.processes().unwrap().len(),
        1,
        "nobody asked for the orphan"
    );
    puppet.tell("exit 0");
}

#[test]
fn a_removed_child_runs_on_unsignalled_and_is_forgotten_at_its_end() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "gone", |_| {});
    client
        .call(Remove {
            process: puppet.process(),
        })
        .unwrap();
    // It is not stopped by a full pipe or a closed one either.
    puppet.ask("flood out 0 300000 4096");
    let handle = kingpole_tests::process::Handle::open(puppet.info.pid).unwrap();
    assert!(handle.runs());
    puppet.tell("exit 0");
    handle.wait_ended("the removed child");
    wait::until("it is forgotten", || {
        match client.processes().unwrap().as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

#[test]
fn the_process_title_tells_what_is_held() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let pid = client.welcome().pid;
    let mut puppet = Puppet::spawn(&kernel, &mut client, "one", |_| {});
    wait::until("the title counts the process", || {
        let title = kingpole_tests::process::command_line(pid);
        let right = title.starts_with("kingpole-kernel: 1 process");
        if right { Ok(()) } else { Err(title) }
    });
    puppet.tell("exit 0");
}

#[test]
fn a_child_becomes_its_user_in_every_respect() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        eprintln!("skipped: only root may start children of other users");
        return;
    }
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let everyone = puppet::for_everyone(kernel.scratch());
    let report = Puppet::spawn(&kernel, &mut client, "nobody", |spec| {
        spec.program = Some(everyone);
        spec.user = Some(UserSpec {
            uid: 65_534,
            gid: 65_533,
            groups: vec![7, 9],
        });
    })
    .report();
    assert_eq!(report["uids"], json!([65_534, 65_534, 65_534]));
    assert_eq!(report["gids"], json!([65_533, 65_533, 65_533]));
    assert_eq!(report["groups"], json!([7, 9]));
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(
            report["status"][capabilities], "0000000000000000",
            "{capabilities}"
        );
    }
    let listed = client.processes().unwrap();
    assert_eq!((listed[0].uid, listed[0].gid), (65_534, 65_533));

    let private = kernel.scratch().runtime_dir();
    let mut spec = puppet::program("locked out", &["/bin/true"]);
    spec.user = Some(UserSpec {
        uid: 65_534,
        gid: 65_533,
        groups: vec![],
    });
    spec.working_directory = puppet::bytes(&private);
    let error = refused(client.spawn("locked out", spec));
    assert_eq!(
        (error.step.as_str(), error.errno),
        ("working-directory", libc::EACCES),
        "{error:?}"
    );
}

#[test]
fn an_end_tells_code_or_signal_and_what_was_used() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut cases: Vec<(Puppet, &str, EndStatus)> = Vec::new();
    let signaled = |signal| EndStatus::Signaled {
        signal,
        core_dumped: false,
    };
    for (command, status) in [
        ("exit 0", EndStatus::Exited(0)),
        ("exit 255", EndStatus::Exited(255)),
        ("die 9", signaled(9)),
        ("die 15", signaled(15)),
        ("die 13", signaled(13)),
    ] {
        let puppet = Puppet::spawn(&kernel, &mut client, command, |_| {});
        cases.push((puppet, command, status));
    }
    let started = client.status().unwrap().now_ns;
    for (puppet, command, _) in &mut cases {
        puppet.tell(command);
    }
    for (puppet, command, status) in &cases {
        let end = wait::until(&format!("{command} is told"), || {
            let all = client.processes().unwrap();
            let found = all
                .into_iter()
                .find(|p| p.process == puppet.process())
                .unwrap();
            found.end.ok_or("no end yet")
        });
        assert_eq!(end.status, *status, "{command}");
        assert!(end.time_ns >= started && end.time_ns <= client.status().unwrap().now_ns);
        assert!(end.max_rss_kib > 100, "{end:?}");
    }
    let ends = cases.iter().map(|(p, _, _)| p.process()).collect();
    client
        .commit(Commit {
            ends,
            ..Commit::default()
        })
        .unwrap();
}

#[test]
fn bytes_that_are_not_text_reach_a_child_unchanged() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let odd = ByteString(vec![0xff, b'\n', 0x80, b' ', b'$', b'(', 0xfe]);
    let mut spec = puppet::program("odd", &["/usr/bin/printf", "%s|"]);
    spec.arguments.push(odd.clone());
    let process = client.spawn("odd", spec).unwrap().process.process;
    let mut follower = Follower::new(kernel.client(), process, Acknowledge::Each);
    follower.read_to_end();
    let mut expected = odd.0;
    expected.push(b'|');
    assert_eq!(follower.of(Stream::Stdout), expected);
}

//! Promise: an upgrade that fails changes nothing, whenever it fails, and says why.
//!
//! The candidate is a build of the kernel that fails, or dies, at a stage of going on where the program
//! before it stopped; the program before ignores the variables that ask for it.

use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::places::Address;
use kingpole_protocol::status::EndStatus;
use kingpole_protocol::{ByteString, Sequence};
use kingpole_tests::puppet::Puppet;
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Kernel, Scratch, binaries, pattern, wait};
use std::rc::Rc;

/// Everything that can fail or be killed after the exec, in order.
const STAGES: [&str; 8] = [
    "resume: saved",
    "resume: descriptors",
    "resume: shared memory",
    "resume: program",
    "resume: loop",
    "resume: journal",
    "resume: sessions",
    "resume: ready",
];

/// A kernel whose next program meets `value` of `variable`.
fn kernel_with(variable: &str, value: &str, arguments: &[&str]) -> Kernel {
    let scratch = Rc::new(Scratch::new());
    let mut command = Kernel::command(&scratch);
    command.env(variable, value).args(arguments);
    Kernel::start_command(scratch, command)
}

/// Reads `count` bytes of the puppet's pattern from `seen` on.
#[track_caller]
fn read_pattern(client: &mut Client, kernel: &Kernel, mut seen: u64, until: u64) {
    while seen < until {
        match client.next_notice(Some(wait::PATIENCE)).unwrap() {
            Some(Notice::Output { header, data, .. }) => {
                assert_eq!(header.stream_offset, seen);
                assert_eq!(pattern::first_difference(&data, seen), None);
                seen += data.len() as u64;
            }
            Some(_) => {}
            None => panic!("{seen} bytes; {}", kernel.log()),
        }
    }
}

#[test]
fn a_program_that_cannot_go_on_gives_way_to_the_one_before_in_the_same_process() {
    let candidate = binaries::kernel_with_crash_points();
    for stage in STAGES {
        for arguments in [&[][..], &["--no-guard"]] {
            let kernel = kernel_with("KINGPOLE_RESUME_FAULT", stage, arguments);
            let mut client = kernel.client();
            let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
            client.subscribe().unwrap();
            client
                .follow(puppet.process(), Sequence(0), 1 << 20)
                .unwrap();
            let mut text = TextSession::open(&Place::Unix(kernel.socket()));
            text.ask("set colour red");
            puppet.ask("flood out 0 3000 100");
            // What only the first program of a process has open is gone.
            let good = format!("upgrade {}", binaries::kernel().display());
            assert!(text.ask(&good).contains(" carried in "));
            let before = client.status().unwrap();

            let answer = text.ask(&format!("upgrade {}", candidate.display()));
            assert!(
                answer.contains("nothing has happened") && answer.contains("Out of memory"),
                "{stage} {arguments:?}: {answer}"
            );
            assert!(kernel.log().contains("it could not go on"), "{stage}");

            // Both sessions go on, and so does everything else.
            assert_eq!(text.ask("get colour"), "red");
            puppet.ask("flood out 3000 3000 100");
            read_pattern(&mut client, &kernel, 0, 6000);
            let after = client.status().unwrap();
            assert_eq!(
                (after.pid, after.guard_pid, after.epoch, after.generation),
                (
                    before.pid,
                    before.guard_pid,
                    before.epoch,
                    before.generation
                ),
            );
            assert_eq!(after.descriptors, before.descriptors, "{stage}");
            let program = std::fs::read_link(format!("/proc/{}/exe", after.pid)).unwrap();
            assert_eq!(program, binaries::kernel(), "{stage}");

            // The next one is taken.
            let answer = text.ask(&good);
            assert!(answer.contains(" carried in "), "{stage}: {answer}");
            puppet.ask("flood out 6000 10 10");
            read_pattern(&mut client, &kernel, 6000, 6010);
        }
    }
}

#[test]
fn a_program_that_dies_while_it_goes_on_is_replaced_by_the_one_before() {
    let candidate = binaries::kernel_with_crash_points();
    for stage in STAGES {
        let kernel = kernel_with("KINGPOLE_RESUME_CRASH", stage, &[]);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        puppet.ask("flood out 0 3000 100");
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        text.ask("set colour red");
        text.send(format!("upgrade {}\n", candidate.display()).as_bytes());
        let mut client = wait::until("the program before serves again", || {
            let mut client = kernel.try_client("t/1").map_err(|e| e.to_string())?;
            let status = client.status().map_err(|e| e.to_string())?;
            if status.epoch == 2 {
                Ok(client)
            } else {
                Err(format!("{stage}: {status:?}"))
            }
        });
        let status = client.status().unwrap();
        let program = std::fs::read_link(format!("/proc/{}/exe", status.pid)).unwrap();
        assert_eq!(program, binaries::kernel(), "{stage}");
        let values = client.values("colour").unwrap();
        assert_eq!(values[0].value, ByteString(b"red".to_vec()), "{stage}");
        client.subscribe().unwrap();
        client
            .follow(puppet.process(), Sequence(0), 1 << 20)
            .unwrap();
        puppet.ask("flood out 3000 3000 100");
        read_pattern(&mut client, &kernel, 0, 6000);
        puppet.tell("exit 9");
        wait::until("its end", || {
            let all = client.processes().map_err(|e| e.to_string())?;
            match all.first().and_then(|one| one.end) {
                Some(end) if end.status == EndStatus::Exited(9) => Ok(()),
                other => Err(format!("{stage}: {other:?}")),
            }
        });
    }
}

/// Children's descriptors are looked at once sessions are served again; the guard has what is right.
#[test]
fn a_descriptor_that_is_another_one_after_all_makes_the_guard_start_a_kernel_with_its_own() {
    let candidate = binaries::kernel_with_crash_points();
    let kernel = kernel_with("KINGPOLE_RESUME_FAULT", "resume: looked again", &[]);
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    puppet.ask("flood out 0 3000 100");
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    text.send(format!("upgrade {}\n", candidate.display()).as_bytes());
    let mut client = wait::until("the next kernel serves", || {
        let mut client = kernel.try_client("t/1").map_err(|e| e.to_string())?;
        let status = client.status().map_err(|e| e.to_string())?;
        if status.epoch == 2 {
            Ok(client)
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert!(
        kernel
            .log()
            .contains("is not what the program before saved")
    );
    client
        .follow(puppet.process(), Sequence(0), 1 << 20)
        .unwrap();
    puppet.ask("flood out 3000 3000 100");
    read_pattern(&mut client, &kernel, 0, 6000);
}

/// How long a program may take in the tests that have it hang; those that do not hang must not be
/// taken for such ones on a busy machine.
const HANG_PATIENCE_MS: &str = "4000";

/// A kernel that becomes a program which hangs at a stage.
fn kernel_that_meets_hang(variable: &str, stage: &str, arguments: &[&str]) -> Kernel {
    let scratch = Rc::new(Scratch::new());
    let mut command = Kernel::command_of(binaries::kernel_with_crash_points(), &scratch);
    command
        .env(variable, stage)
        .env("KINGPOLE_RESUME_PATIENCE_MS", HANG_PATIENCE_MS)
        .args(arguments);
    Kernel::start_command(scratch, command)
}

#[test]
fn a_program_that_hangs_while_it_goes_on_gives_way_to_the_one_before_in_the_same_process() {
    let candidate = binaries::kernel_with_crash_points();
    let hang = |stage: &'static str, arguments: &[&str]| {
        let kernel = kernel_that_meets_hang("KINGPOLE_RESUME_HANG", stage, arguments);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        client
            .follow(puppet.process(), Sequence(0), 1 << 20)
            .unwrap();
        puppet.ask("flood out 0 3000 100");
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        text.ask("set colour red");
        let before = client.status().unwrap();

        let answer = text.ask(&format!("upgrade {}", candidate.display()));
        assert!(
            answer.contains("nothing has happened") && answer.contains("did not serve within 4s"),
            "{stage} {arguments:?}: {answer}"
        );

        // Both sessions go on, and so does everything else.
        assert_eq!(text.ask("get colour"), "red");
        puppet.ask("flood out 3000 3000 100");
        read_pattern(&mut client, &kernel, 0, 6000);
        let after = client.status().unwrap();
        assert_eq!(
            (after.pid, after.guard_pid, after.epoch, after.generation),
            (
                before.pid,
                before.guard_pid,
                before.epoch,
                before.generation
            ),
        );
        puppet.report();
    };
    // All at once: each waits for most of its time.
    std::thread::scope(|scope| {
        for stage in STAGES {
            for arguments in [&[][..], &["--no-guard"]] {
                let hang = &hang;
                scope.spawn(move || hang(stage, arguments));
            }
        }
    });
}

#[test]
fn a_program_that_hangs_before_it_can_go_back_is_ended_and_the_one_before_started() {
    let candidate = binaries::kernel_with_crash_points();
    let kernel = kernel_that_meets_hang("KINGPOLE_RESUME_HANG", "resume: start", &[]);
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    puppet.ask("flood out 0 3000 100");
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    text.send(format!("upgrade {}\n", candidate.display()).as_bytes());
    let mut client = wait::until("the program before serves again", || {
        let patience = Some(std::time::Duration::from_secs(1));
        let address = Address::Unix(kernel.socket());
        let mut client =
            Client::connect(&address, "t/1", patience).map_err(|error| error.to_string())?;
        let status = client.status().map_err(|error| error.to_string())?;
        if status.epoch == 2 {
            Ok(client)
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert!(
        kernel.log().contains("killed by signal 14"),
        "{}",
        kernel.log()
    );
    client
        .follow(puppet.process(), Sequence(0), 1 << 20)
        .unwrap();
    puppet.ask("flood out 3000 3000 100");
    read_pattern(&mut client, &kernel, 0, 6000);
}

/// A kernel of a second epoch, which has a guard, with everything that the first one had.
#[track_caller]
fn expect_rescue(kernel: &Kernel, puppet: &mut Puppet, what: &str) {
    let mut client = wait::until("the program before serves again", || {
        // One that hangs lets clients connect.
        let patience = Some(std::time::Duration::from_secs(1));
        let address = Address::Unix(kernel.socket());
        let mut client = Client::connect(&address, "t/1", patience).map_err(|e| e.to_string())?;
        let status = client.status().map_err(|error| error.to_string())?;
        if status.epoch == 2 {
            Ok(client)
        } else {
            Err(format!("{what}: {status:?}"))
        }
    });
    let status = client.status().unwrap();
    assert_ne!(status.guard_pid, 0, "{what}");
    let values = client.values("colour").unwrap();
    assert_eq!(values[0].value, ByteString(b"red".to_vec()), "{what}");
    client
        .follow(puppet.process(), Sequence(0), 1 << 20)
        .unwrap();
    puppet.ask("flood out 3000 3000 100");
    read_pattern(&mut client, kernel, 0, 6000);
    // Whoever stood by during an upgrade that went well is gone: only the guard is there now.
    kernel.serving().signal(libc::SIGKILL).unwrap();
    wait::until("a third kernel", || {
        let mut client = kernel.try_client("t/1").map_err(|e| e.to_string())?;
        let status = client.status().map_err(|error| error.to_string())?;
        if status.epoch == 3 {
            Ok(())
        } else {
            Err(format!("{what}: {status:?}"))
        }
    });
    puppet.report();
}

#[test]
fn without_a_guard_a_program_that_dies_or_hangs_for_good_is_replaced_by_the_one_before_and_a_guard()
{
    let candidate = binaries::kernel_with_crash_points();
    let rescue = |variable: &str, stage: &str| {
        let kernel = kernel_that_meets_hang(variable, stage, &["--no-guard"]);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        puppet.ask("flood out 0 3000 100");
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        text.ask("set colour red");
        text.send(format!("upgrade {}\n", candidate.display()).as_bytes());
        expect_rescue(&kernel, &mut puppet, &format!("{variable} {stage}"));
    };
    std::thread::scope(|scope| {
        for (variable, stage) in [
            ("KINGPOLE_RESUME_CRASH", "resume: start"),
            ("KINGPOLE_RESUME_CRASH", "resume: journal"),
            ("KINGPOLE_RESUME_CRASH", "resume: no return"),
            ("KINGPOLE_RESUME_HANG", "resume: start"),
            ("KINGPOLE_RESUME_HANG", "resume: no return"),
        ] {
            let rescue = &rescue;
            scope.spawn(move || rescue(variable, stage));
        }
    });
}

#[test]
fn without_a_guard_nobody_stands_by_after_an_upgrade_that_went_well_or_failed() {
    let scratch = Rc::new(Scratch::new());
    let kernel = Kernel::start_in(scratch, &["--no-guard"]);
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    let pid = client.welcome().pid;
    let children = || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        match text.split_whitespace().count() {
            1 => Ok(()),
            _ => Err(text),
        }
    };
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    for _ in 0..3 {
        let answer = text.ask(&format!("upgrade {}", binaries::kernel().display()));
        assert!(answer.contains(" carried in "), "{answer}");
        wait::until("only the puppet is a child", children);
    }
    puppet.report();
}

#[test]
fn a_guard_that_hangs_while_it_becomes_the_new_program_goes_on_as_it_was() {
    let candidate = binaries::kernel_with_crash_points();
    let hang = |stage: &'static str| {
        let kernel = kernel_that_meets_hang("KINGPOLE_GUARD_RESUME_HANG", stage, &[]);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        let before = client.status().unwrap();
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        let answer = text.ask(&format!("upgrade {}", candidate.display()));
        assert!(answer.contains(" carried in "), "{answer}");
        wait::until("the guard has gone back", || {
            let log = kernel.log();
            if log.contains("could not go on as the guard") && log.contains("did not serve") {
                Ok(())
            } else {
                Err(log)
            }
        });
        let after = kernel.client().status().unwrap();
        assert_eq!(
            (after.pid, after.guard_pid, after.epoch),
            (before.pid, before.guard_pid, before.epoch),
        );
        puppet.report();
    };
    std::thread::scope(|scope| {
        for stage in ["guard: shared memory", "guard: ready"] {
            let hang = &hang;
            scope.spawn(move || hang(stage));
        }
    });
}

#[test]
fn a_guard_that_cannot_become_the_new_program_goes_on_as_it_was() {
    let candidate = binaries::kernel_with_crash_points();
    for stage in ["guard: shared memory", "guard: ready"] {
        let kernel = kernel_with("KINGPOLE_GUARD_RESUME_FAULT", stage, &[]);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        let before = client.status().unwrap();
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        let answer = text.ask(&format!("upgrade {}", candidate.display()));
        assert!(answer.contains(" carried in "), "{answer}");
        wait::until("the guard has tried", || {
            let log = kernel.log();
            if log.contains("the new program could not go on as the guard") {
                Ok(())
            } else {
                Err(log)
            }
        });
        let program = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(program(before.guard_pid), binaries::kernel());
        // The kernel is the new one, and so is the next.
        kernel.serving().signal(libc::SIGKILL).unwrap();
        let next = wait::until("the next kernel", || {
            let mut client = kernel.try_client("t/1").map_err(|e| e.to_string())?;
            let status = client.status().map_err(|e| e.to_string())?;
            if status.epoch == 2 {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        });
        assert_eq!(next.guard_pid, before.guard_pid);
        assert_eq!(program(next.pid), candidate);
        puppet.report();
    }
}

#[test]
fn a_guard_that_dies_while_it_becomes_the_new_program_is_replaced_by_the_kernel() {
    let candidate = binaries::kernel_with_crash_points();
    for stage in ["guard: shared memory", "guard: ready"] {
        let kernel = kernel_with("KINGPOLE_GUARD_RESUME_CRASH", stage, &[]);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        let before = client.status().unwrap();
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        text.send(format!("upgrade {}\n", candidate.display()).as_bytes());
        let next = wait::until("the kernel has become the guard", || {
            let mut client = kernel.try_client("t/1").map_err(|e| e.to_string())?;
            let status = client.status().map_err(|e| e.to_string())?;
            if status.guard_pid == before.pid {
                Ok(status)
            } else {
                Err(format!("{stage}: {status:?}"))
            }
        });
        assert_eq!(next.epoch, 2);
        puppet.report();
    }
}

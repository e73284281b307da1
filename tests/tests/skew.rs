//! Promise: any manager works with any kernel, older or newer, and a state too new is refused (P7).
//!
//! The newer ones are test builds that claim the next version of frames and of the saved state. Saved states
//! and frames of released versions are golden files: `kernel/tests/golden`, `protocol/golden`.

use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::hello::VERSION_MAX;
use kingpole_protocol::status::EndStatus;
use kingpole_protocol::{ByteString, Sequence};
use kingpole_tests::manager::{Manager, json, pids};
use kingpole_tests::process::Guarded;
use kingpole_tests::puppet::Puppet;
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Kernel, Scratch, binaries, pattern, wait};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

fn read_pattern(client: &mut Client, mut seen: u64, until: u64) {
    while seen < until {
        match client.next_notice(Some(wait::PATIENCE)).unwrap() {
            Some(Notice::Output { header, data, .. }) => {
                assert_eq!(header.stream_offset, seen);
                assert_eq!(pattern::first_difference(&data, seen), None);
                seen += data.len() as u64;
            }
            Some(_) => {}
            None => panic!("{seen} bytes"),
        }
    }
}

#[test]
fn a_kernel_goes_up_a_version_and_refuses_to_go_down_with_a_state_too_new() {
    let kernel = Kernel::start();
    let (old, new) = (binaries::kernel(), binaries::kernel_with_crash_points());
    let mut client = kernel.client();
    assert_eq!(client.welcome().version, VERSION_MAX);
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    client
        .follow(puppet.process(), Sequence(0), 1 << 20)
        .unwrap();
    puppet.ask("flood out 0 1000 100");
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    text.ask("set colour red");
    let answer = text.ask(&format!("upgrade {}", new.display()));
    assert!(answer.contains(" carried in "), "{answer}");

    // Down again: what the newer one saves is not known to the older one, which says so.
    let answer = text.ask(&format!("upgrade {}", old.display()));
    assert!(
        answer.contains("nothing has happened")
            && answer.contains("the saved state has version 2; this kernel reads up to 1")
            && answer.contains("it is older than the one that runs"),
        "{answer}"
    );
    assert_eq!(text.ask("get colour"), "red");
    puppet.ask("flood out 1000 1000 100");
    read_pattern(&mut client, 0, 2000);
    let answer = text.ask(&format!("upgrade {}", new.display()));
    assert!(answer.contains(" carried in "), "{answer}");
    assert_eq!(client.status().unwrap().generation, 3);
    // An older client has been talking to a newer kernel all the time; a new session does so, too.
    let mut fresh = kernel.client();
    assert_eq!(fresh.welcome().version, VERSION_MAX);
    let values = fresh.values("colour").unwrap();
    assert_eq!(values[0].value, ByteString(b"red".to_vec()));
}

#[test]
fn a_kernel_goes_down_a_version_and_up_again_with_a_state_that_both_read() {
    let (old, new) = (binaries::kernel(), binaries::kernel_with_crash_points());
    for arguments in [&[][..], &["--no-guard"]] {
        let scratch = Rc::new(Scratch::new());
        let mut command = Kernel::command_of(new, &scratch);
        // As a later release does that has nothing new to save.
        command.env("KINGPOLE_STATE_VERSION", "1").args(arguments);
        let kernel = Kernel::start_command(scratch, command);
        let mut client = kernel.client();
        let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
        client
            .follow(puppet.process(), Sequence(0), 1 << 20)
            .unwrap();
        let mut text = TextSession::open(&Place::Unix(kernel.socket()));
        text.ask("set colour red");
        let before = client.status().unwrap();
        let mut written = 0;
        let mut write_more = |client: &mut Client| {
            puppet.ask(&format!("flood out {written} 1000 100"));
            read_pattern(client, written, written + 1000);
            written += 1000;
        };
        write_more(&mut client);
        for (generation, program) in (2..).zip([old, new, old, old, new]) {
            let answer = text.ask(&format!("upgrade {}", program.display()));
            assert!(answer.contains(" carried in "), "{answer}");
            assert_eq!(text.ask("get colour"), "red");
            write_more(&mut client);
            let status = client.status().unwrap();
            assert_eq!((status.pid, status.generation), (before.pid, generation));
            assert_eq!(status.processes_running, 1);
            let running = std::fs::read_link(format!("/proc/{}/exe", status.pid)).unwrap();
            assert_eq!(running, program);
            let mut fresh = kernel.client();
            let values = fresh.values("colour").unwrap();
            assert_eq!(values[0].value, ByteString(b"red".to_vec()));
        }
        let mut puppet = puppet;
        puppet.tell("exit 9");
        wait::until("its end", || {
            let all = client.processes().map_err(|e| e.to_string())?;
            match all.first().and_then(|one| one.end) {
                Some(end) if end.status == EndStatus::Exited(9) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

/// A manager of one version on a kernel of another: it starts what it is told, its successor finds it
/// running, and what was written is in the log once.
fn attach_spawn_and_log(kernel_program: &Path, manager_program: &Path) {
    let scratch = Rc::new(Scratch::new());
    let command = Kernel::command_of(kernel_program, &scratch);
    let kernel = Kernel::start_command(Rc::clone(&scratch), command);
    let log = scratch.join("out.log");
    let configuration = scratch.write(
        "skew.ini",
        format!(
            "[watcher:talker]\ncmd = /bin/sh -c 'echo begun; exec sleep 1000'\nnumprocesses = 1\n\
             stdout_stream.class = FileStream\nstdout_stream.filename = {}\n",
            log.display()
        ),
    );
    let start = || {
        let ordinary = Manager::command(&scratch, &configuration);
        let mut command = Command::new(manager_program);
        command.args(ordinary.get_args());
        command.current_dir(scratch.path());
        for (name, value) in ordinary.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        Guarded::start("kingpole-manager", command, scratch.join("manager.log"))
    };
    let running = || {
        wait::until("the talker runs and has spoken", || {
            let status = json(&scratch, &["status", "--json"])?;
            let pids = pids(&status, "talker")?;
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said == "begun\n" {
                Ok(pids)
            } else {
                Err(format!("{said:?}"))
            }
        })
    };
    let mut manager = start();
    let before = running();
    manager.kill();
    let _next = start();
    assert_eq!(running(), before, "{}", kernel.log());
}

#[test]
fn every_manager_works_with_every_kernel() {
    let kernels = [binaries::kernel(), binaries::kernel_with_crash_points()];
    let managers = [binaries::manager(), binaries::manager_ahead()];
    for kernel in kernels {
        for manager in managers {
            attach_spawn_and_log(kernel, manager);
        }
    }
}

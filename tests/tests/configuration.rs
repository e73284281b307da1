//! Promise: what stands in a file has its effect on real processes and sockets (P10).

use kingpole_tests::manager::{Manager, describe, json, kingpole, kingpole_command, pids};
use kingpole_tests::process::{Guarded, Handle};
use kingpole_tests::{Kernel, Scratch, binaries, kernel, lines, wait};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A program that writes what Linux knows of the descriptor in its first argument to the file in its second.
const SHOWS_FLAGS: &str = "#!/bin/sh\ngrep flags: /proc/self/fdinfo/$1 > $2.new\nmv $2.new $2\n\
                           exec sleep 100000\n";

/// `O_NONBLOCK` of fcntl(2), on Linux's usual machines.
const NONBLOCK: u32 = 0o4000;

#[test]
fn a_socket_is_as_blocking_as_the_file_says() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let program = scratch.program("shows", SHOWS_FLAGS.as_bytes());
    let section = |name: &str, line: &str| {
        let out = scratch.join(name);
        format!(
            "[watcher:{name}]\ncmd = {} $(circus.sockets.{name}) {}\ncopy_env = true\n\
             [socket:{name}]\nhost = 127.0.0.1\nport = 0\nproto = tcp\n{line}\n",
            program.display(),
            out.display()
        )
    };
    let text = [
        ("quick", "blocking = false"),
        ("slow", "blocking = yes"),
        ("plain", ""),
    ]
    .map(|(name, line)| section(name, line));
    let configuration = scratch.write("stack.ini", text.concat());
    let mut manager = Manager::start(&scratch, &configuration);
    let check = || {
        for (name, nonblocking) in [("quick", true), ("slow", false), ("plain", false)] {
            let flags = wait::until(&format!("{name} has looked"), || {
                std::fs::read_to_string(scratch.join(name))
            });
            let flags = flags.trim().trim_start_matches("flags:").trim();
            let flags = u32::from_str_radix(flags, 8).expect("octal");
            assert_eq!(flags & NONBLOCK != 0, nonblocking, "{name}: {flags:o}");
            std::fs::remove_file(scratch.join(name)).unwrap();
        }
    };
    check();
    // The next manager finds the sockets in the kernel.
    manager.kill();
    manager.replace();
    manager.wait_ready();
    let restart = kingpole(&scratch, &["restart", "--wait"]);
    assert!(restart.status.success(), "{}", describe(&restart));
    check();
}

#[test]
fn a_kernel_that_does_not_listen_at_papa_endpoint_is_told_of() {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let start = |address: &Path| {
        let text = format!(
            "[circus]\nloglevel = debug\npapa_endpoint = ipc:/{}\n[watcher:w]\ncmd = /bin/sleep 100000\n",
            address.display()
        );
        let configuration = scratch.write("stack.ini", text);
        Manager::start(&scratch, &configuration)
    };
    let nowhere: PathBuf = scratch.join("papa.sock");
    let manager = start(&nowhere);
    let hint = format!("--listen unix:{}", nowhere.display());
    wait::until("the log says what to do", || {
        let log = manager.log();
        let said = log
            .lines()
            .any(|line| line.contains("papa_endpoint: ") && line.contains(&hint));
        if said { Ok(()) } else { Err(log) }
    });
    drop(manager);
    let manager = start(&kernel.socket());
    wait::until("it is found where it is", || {
        let log = manager.log();
        let found = log.contains("papa_endpoint: the process kernel is found");
        if found { Ok(()) } else { Err(log) }
    });
}

/// Ends a kernel that is nobody's child, however the test ends.
struct Stray(Rc<Scratch>);

impl Drop for Stray {
    fn drop(&mut self) {
        let pid = kernel::pid_in(&self.0.runtime_dir(), "kernel.pid");
        if let Some(kernel) = pid.and_then(|pid| Handle::open(pid).ok()) {
            let _ = kernel.signal(libc::SIGQUIT);
        }
    }
}

#[test]
fn kingpole_run_starts_a_kernel_that_listens_at_papa_endpoint() {
    let scratch = Rc::new(Scratch::new());
    let _stray = Stray(Rc::clone(&scratch));
    let papa = scratch.join("papa.sock");
    let text = format!(
        "[circus]\npapa_endpoint = ipc:/{}\n[watcher:w]\ncmd = /bin/sleep 100000\n",
        papa.display()
    );
    let configuration = scratch.write("stack.ini", text);
    let command = kingpole_command(&scratch, &["run", configuration.to_str().unwrap()]);
    let mut running = Guarded::start("kingpole run", command, scratch.join("run.log"));
    wait::until("the kernel answers there", || {
        UnixStream::connect(&papa).map(drop)
    });
    wait::until("the manager is ready", || {
        let status = json(&scratch, &["status", "--json"])?;
        pids(&status, "w").map(drop)
    });
    running.handle().signal(libc::SIGINT).unwrap();
    let status = running.wait();
    assert!(status.success(), "{status}: {}", running.log());
}

#[test]
fn kingpole_run_serves_beside_a_kernel_without_a_guard() {
    let mut kernel = Kernel::start_in(Rc::new(Scratch::new()), &["--no-guard"]);
    let scratch = Rc::clone(kernel.scratch());
    let log = scratch.join("out.log");
    let text = format!(
        "[watcher:w]\ncmd = {} 'lines out w 0 1000 0' wait\nstdout_stream.filename = {}\n",
        binaries::puppet().display(),
        log.display()
    );
    let configuration = scratch.write("stack.ini", text);
    let arguments = ["run", configuration.to_str().unwrap()];
    let start = || {
        let command = kingpole_command(&scratch, &arguments);
        Guarded::start("kingpole run", command, scratch.join("run.log"))
    };
    let running_pids = || {
        wait::until("the manager is ready", || {
            let status = json(&scratch, &["status", "--json"])?;
            pids(&status, "w")
        })
    };
    let mut running = start();
    let first = running_pids();
    wait::until("all lines are in the log", || {
        let content = std::fs::read(&log).map_err(|error| error.to_string())?;
        match lines::check("w", &content, 0)? {
            1000 => Ok(()),
            found => Err(format!("{found} lines")),
        }
    });
    // Leaves and comes back: the kernel has everything, though nobody guards it.
    running.kill();
    running = start();
    assert_eq!(running_pids(), first);
    let status = kernel.client().status().unwrap();
    assert_eq!(status.guard_pid, 0, "{status:?}");
    // An upgrade in place needs no guard either.
    let upgraded = kingpole(
        &scratch,
        &["upgrade", "--kernel", binaries::kernel().to_str().unwrap()],
    );
    assert!(upgraded.status.success(), "{}", describe(&upgraded));
    assert_eq!(running_pids(), first);
    running.handle().signal(libc::SIGINT).unwrap();
    let status = running.wait();
    assert!(status.success(), "{status}: {}", running.log());
    // Its last manager has stopped everything, and the kernel ends with it.
    assert!(kernel.process_mut().wait().success());
}

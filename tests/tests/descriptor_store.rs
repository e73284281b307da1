//! Promise: with systemd's descriptor store even the death of guard and kernel together loses nothing.
//!
//! A stand-in speaks its protocol (sd_notify(3), sd_listen_fds(3)): it keeps what it is sent, and the next
//! start finds it under the numbers from 3 on.

use kingpole_protocol::client::blocking::Notice;
use kingpole_protocol::status::EndStatus;
use kingpole_protocol::{ByteString, Sequence};
use kingpole_tests::process::Handle;
use kingpole_tests::puppet::Puppet;
use kingpole_tests::storm::Driver;
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Kernel, Scratch, pattern, wait};
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// Numbers that nothing else in this program has.
const FIRST_NUMBER: RawFd = 400;

/// What was stored, by name: numbers of descriptors that this program keeps open.
type Kept = Arc<Mutex<BTreeMap<String, RawFd>>>;

fn inode(number: RawFd) -> (u64, u64) {
    let fd = kingpole_tests::sys::inherited(number).unwrap();
    let stat = nix::sys::stat::fstat(fd).unwrap();
    (stat.st_dev, stat.st_ino)
}

/// Keeps descriptors until the program ends.
fn store_in(scratch: &Scratch) -> Kept {
    let socket = UnixDatagram::bind(scratch.join("notify.sock")).unwrap();
    let kept = Kept::default();
    let keeps = Arc::clone(&kept);
    std::thread::spawn(move || {
        loop {
            let mut bytes = [0; 4096];
            let mut space = cmsg_space!([RawFd; 8]);
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message =
                recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags).unwrap();
            let fds = message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let length = message.bytes;
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let field = |name: &str| {
                let mut lines = text.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            };
            let mut kept = keeps.lock().unwrap();
            let name = field("FDNAME").unwrap_or("stored").to_owned();
            if field("FDSTOREREMOVE") == Some("1") {
                if let Some(fd) = kept.remove(&name) {
                    nix::unistd::close(fd).unwrap();
                }
            } else if field("FDSTORE") == Some("1") {
                assert_eq!(field("FDPOLL"), Some("0"), "pipes are not to be dropped");
                let [fd] = fds.expect("a descriptor")[..] else {
                    panic!("{text}");
                };
                let borrowed = kingpole_tests::sys::inherited(fd).unwrap();
                let copy = fcntl(borrowed, FcntlArg::F_DUPFD_CLOEXEC(FIRST_NUMBER)).unwrap();
                nix::unistd::close(fd).unwrap();
                match kept.get(&name) {
                    // systemd passes over what it has, too.
                    Some(known) if inode(*known) == inode(copy) => {
                        nix::unistd::close(copy).unwrap();
                    }
                    Some(_) => panic!("another one under the same name: {text}"),
                    None => {
                        kept.insert(name, copy);
                    }
                }
            }
        }
    });
    kept
}

fn command_with_store(scratch: &Scratch, count_max: usize) -> Command {
    let mut command = Kernel::command(scratch);
    command
        .env("NOTIFY_SOCKET", scratch.join("notify.sock"))
        .env("FDSTORE", count_max.to_string());
    command
}

/// The same start again, as systemd does it: with everything that it has kept.
fn handed_back(ordinary: &Command, kept: &Kept) -> Command {
    let kept = kept.lock().unwrap();
    // The shell knows the pid that the program will have.
    let mut command = Command::new("/bin/sh");
    kingpole_tests::sys::pass_from_three(&mut command, kept.values().copied().collect());
    command
        .env_clear()
        .current_dir(ordinary.get_current_dir().expect("the scratch directory"))
        .env("LISTEN_FDS", kept.len().to_string())
        .env(
            "LISTEN_FDNAMES",
            kept.keys().cloned().collect::<Vec<_>>().join(":"),
        )
        .arg("-c")
        .arg("LISTEN_PID=$$ exec \"$@\"")
        .arg("sh")
        .arg(ordinary.get_program())
        .args(ordinary.get_args());
    for (name, value) in ordinary.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

#[test]
fn guard_and_kernel_killed_together_lose_nothing() {
    // Like systemd, this program gets the children of the dead, and reaps them.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let scratch = Rc::new(Scratch::new());
    let kept = store_in(&scratch);
    let command = command_with_store(&scratch, 100);
    let mut kernel = Kernel::start_command(Rc::clone(&scratch), command);
    let mut driver = Driver::new(&kernel, 5);
    driver.start_server();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    puppet.ask("flood out 0 3000 100");
    TextSession::open(&Place::Unix(kernel.socket())).ask("set colour red");
    let before = client.processes().unwrap();
    let pids = before.iter().map(|one| one.pid).collect::<Vec<_>>();
    wait::until("everything is stored", || {
        // What is shared, four of each child, the socket, and where clients come in.
        let names = kept.lock().unwrap().keys().cloned().collect::<Vec<_>>();
        if names.len() == 5 + 4 * pids.len() + 1 + 2 {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    wait::until("what the child wrote is read", || {
        let read = client.processes().map_err(|e| e.to_string())?;
        let bytes = read.iter().map(|one| one.output.stdout_bytes).max();
        if bytes == Some(3000) {
            Ok(())
        } else {
            Err(format!("{bytes:?}"))
        }
    });

    // Stopped first, so that neither can replace the other.
    let serving = kernel.serving();
    kernel.process().handle().signal(libc::SIGSTOP).unwrap();
    serving.signal(libc::SIGKILL).unwrap();
    serving.wait_ended("the kernel");
    kernel.process_mut().kill();
    // Nobody is there, and the child goes on writing.
    puppet.ask("flood out 3000 3000 100");

    let ordinary = command_with_store(&scratch, 100);
    let command = handed_back(&ordinary, &kept);
    let next = Kernel::start_command(Rc::clone(&scratch), command);
    assert!(next.log().contains("systemd has kept"), "{}", next.log());
    let mut client = next.client();
    let status = client.status().unwrap();
    assert_eq!((status.epoch, status.processes_running), (2, 2));
    let after = client.processes().unwrap();
    assert_eq!(
        after.iter().map(|one| one.pid).collect::<Vec<_>>(),
        pids,
        "{}",
        next.log()
    );
    let values = client.values("colour").unwrap();
    assert_eq!(values[0].value, ByteString(b"red".to_vec()));
    client.subscribe().unwrap();
    client
        .follow(puppet.process(), Sequence(0), 1 << 20)
        .unwrap();
    puppet.ask("flood out 6000 3000 100");
    let mut seen = 0;
    while seen < 9000 {
        match client.next_notice(Some(wait::PATIENCE)).unwrap() {
            Some(Notice::Output { header, data, .. }) => {
                assert_eq!(header.stream_offset, seen);
                assert_eq!(pattern::first_difference(&data, seen), None);
                seen += data.len() as u64;
            }
            Some(_) => {}
            None => panic!("{seen} bytes; {}", next.log()),
        }
    }

    // Its end is exact, although somebody else reaps it.
    let pid = after
        .iter()
        .find(|one| one.process == puppet.process())
        .map(|one| Pid::from_raw(one.pid))
        .unwrap();
    puppet.tell("exit 7");
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 7)));
    wait::until("its end", || {
        let all = client.processes().map_err(|e| e.to_string())?;
        let found = all.iter().find(|one| one.process == puppet.process());
        match found.and_then(|one| one.end) {
            Some(end) if end.status == EndStatus::Exited(7) => Ok(()),
            // Before Linux 6.15 nobody but the parent is told.
            Some(end) if end.status == EndStatus::Unknown => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // From here on all is as ever: a kill of the kernel alone.
    next.serving().signal(libc::SIGKILL).unwrap();
    let third = wait::until("the kernel after that", || {
        let mut client = next.try_client("t/1").map_err(|e| e.to_string())?;
        let status = client.status().map_err(|e| e.to_string())?;
        if status.epoch == 3 {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert_eq!(third.processes_running, 1);
    // The server was this program's child; nobody else would reap it.
    let server = pids.iter().find(|one| **one != pid.as_raw()).copied();
    let server = Handle::open(server.unwrap()).unwrap();
    server.signal(libc::SIGKILL).unwrap();
    server.wait_ended("the server");
}

#[test]
fn what_systemd_has_kept_is_gone_on_with_although_no_guard_was_asked_for() {
    let scratch = Rc::new(Scratch::new());
    let kept = store_in(&scratch);
    let command = command_with_store(&scratch, 100);
    let mut kernel = Kernel::start_command(Rc::clone(&scratch), command);
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    TextSession::open(&Place::Unix(kernel.socket())).ask("set colour red");
    wait::until("everything is stored", || {
        let names = kept.lock().unwrap().keys().cloned().collect::<Vec<_>>();
        if names.len() == 5 + 4 + 2 {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    // Stopped first, so that neither can replace the other.
    let serving = kernel.serving();
    kernel.process().handle().signal(libc::SIGSTOP).unwrap();
    serving.signal(libc::SIGKILL).unwrap();
    serving.wait_ended("the kernel");
    kernel.process_mut().kill();

    let mut ordinary = command_with_store(&scratch, 100);
    ordinary.arg("--no-guard");
    let next = Kernel::start_command(Rc::clone(&scratch), handed_back(&ordinary, &kept));
    assert!(next.log().contains("although --no-guard"), "{}", next.log());
    let mut client = next.client();
    let status = client.status().unwrap();
    assert_eq!((status.epoch, status.processes_running), (2, 1));
    assert_ne!(status.guard_pid, 0);
    let values = client.values("colour").unwrap();
    assert_eq!(values[0].value, ByteString(b"red".to_vec()));
    puppet.report();
}

#[test]
fn without_a_guard_it_is_said_that_the_store_stays_empty() {
    let scratch = Rc::new(Scratch::new());
    let kept = store_in(&scratch);
    let mut command = command_with_store(&scratch, 100);
    command.arg("--no-guard");
    let kernel = Kernel::start_command(Rc::clone(&scratch), command);
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    puppet.report();
    let log = kernel.log();
    assert!(log.contains("descriptor store is not used"), "{log}");
    assert_eq!(kept.lock().unwrap().len(), 0);
}

#[test]
fn a_full_store_is_told_and_keeps_nothing_else_from_working() {
    let scratch = Rc::new(Scratch::new());
    let kept = store_in(&scratch);
    let kernel = Kernel::start_command(Rc::clone(&scratch), command_with_store(&scratch, 8));
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "child", |_| {});
    puppet.report();
    wait::until("the guard says that the store is full", || {
        let log = kernel.log();
        if log.contains("descriptor store is full") {
            Ok(())
        } else {
            Err(log)
        }
    });
    wait::until("it holds what it can", || {
        let count = kept.lock().unwrap().len();
        if count == 8 {
            Ok(())
        } else {
            Err(count.to_string())
        }
    });
}

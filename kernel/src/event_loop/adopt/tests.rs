use super::*;
use crate::effect::Asker;
use crate::entry::Entry;
use crate::event_loop::{Detail, Kernel, Parts};
use crate::log::Log;
use crate::memory::images::FileImage;
use crate::memory::{EndStatus as SlotEndStatus, EndedBy, Intent};
use crate::peer::Guests;
use crate::state::{Peer, SessionId};
use kingpole_protocol::hello::Hello;
use kingpole_protocol::ids::{Fence, RequestId};
use kingpole_protocol::request::*;
use kingpole_protocol::spec::{ProcessSpec, SocketSpec};
use kingpole_protocol::status::EndStatus;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal as SignalName};
use nix::sys::signalfd::SignalFd;
use std::cell::Cell;

fn parts() -> Parts {
    let mut set = SigSet::empty();
    set.add(SignalName::SIGURG);
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    Parts {
        about: About {
            descriptors_limit: 1 << 16,
            instance: 77,
            ..About::default()
        },
        listeners: Vec::new(),
        guests: Guests::default(),
        signals: SignalFd::new(&set).unwrap(),
        log: Log::new(null.into()),
        detail: Detail::Normal,
        title: None,
        link: None,
        heirloom: None,
        resumption: None,
        polled: None,
    }
}

fn fresh() -> Kernel {
    let shared = crate::guard::shared::Shared::create(None).unwrap();
    let inheritance = Inheritance {
        state: shared.memory,
        journal: shared.journal,
        bounce: shared.bounce,
        held: BTreeMap::new(),
        rings: Rings::Unknown,
    };
    Kernel::adopt(parts(), inheritance, Succession::Crash, || {})
        .unwrap()
        .0
}

/// A kernel with one session that speaks frames, whose answers go nowhere.
fn kernel() -> Kernel {
    attach(fresh())
}

fn attach(mut kernel: Kernel) -> Kernel {
    let session = SessionId(1);
    let peer = Peer {
        address: "unix".into(),
        uid: 0,
        pid: 1,
    };
    kernel.drive(Input::Connected { session, peer });
    kernel.drive(Input::Line {
        session,
        line: b"attach 1".to_vec(),
    });
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        capabilities: 0,
        client: "t".into(),
    };
    ask(&mut kernel, hello);
    kernel
}

fn ask(kernel: &mut Kernel, request: impl Into<Request>) {
    let asker = Asker {
        session: SessionId(1),
        request: RequestId(1),
    };
    let request = Box::new(request.into());
    kernel.drive(Input::Request {
        asker,
        fence: Fence::NONE,
        request,
    });
}

fn script(text: &str) -> ProcessSpec {
    ProcessSpec {
        name: "child".into(),
        arguments: ["/bin/sh", "-c", text].map(Into::into).to_vec(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        labels: BTreeMap::from([("worker".into(), "1".into())]),
        ..ProcessSpec::default()
    }
}

fn set(key: &str, value: Option<Vec<u8>>) -> Commit {
    let values = vec![ValueChange {
        key: key.into(),
        value: value.map(Into::into),
    }];
    Commit {
        values,
        ..Commit::default()
    }
}

/// Copies of everything a guard would hold.
fn bequeath(kernel: &Kernel) -> Inheritance {
    let copy = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
    let hands = &kernel.hands;
    let mut held = BTreeMap::new();
    for (id, child) in &hands.children {
        let parts: [(HeldKind, Option<OwnedFd>); 4] = [
            (HeldKind::Stdout, child.stdout.as_ref().map(|fd| copy(fd))),
            (HeldKind::Stderr, child.stderr.as_ref().map(|fd| copy(fd))),
            (HeldKind::Pidfd, child.pidfd.as_ref().map(|fd| copy(fd))),
            (
                HeldKind::Ring,
                child.ring.as_ref().map(|ring| copy(&ring.descriptor())),
            ),
        ];
        for (kind, fd) in parts {
            held.extend(fd.map(|fd| (Tag::new(id.0, kind), fd)));
        }
    }
    for (name, socket) in &hands.sockets {
        let id = kernel.state.sockets[name].number;
        held.insert(Tag::new(id, HeldKind::Socket), copy(&socket.fd));
    }
    Inheritance {
        state: StateMemory::open(copy(&hands.memory.descriptor())).unwrap(),
        journal: copy(&hands.journal.descriptor()),
        bounce: Bounce::open(
            copy(&hands.bounce.read_end()),
            copy(&hands.bounce.write_end()),
        )
        .unwrap(),
        held,
        rings: Rings::Unknown,
    }
}

/// What clients can see, as text, without what may change by itself.
fn told(state: &State) -> String {
    let processes = state
        .processes
        .values()
        .map(|process| process.info())
        .collect::<Vec<_>>();
    let sockets = state
        .sockets
        .values()
        // A number is free or taken as the neighbouring tests of this process have it.
        .map(|socket| &socket.info.spec)
        .collect::<Vec<_>>();
    let leases = state
        .leases
        .values()
        .map(|lease| (&lease.name, lease.fence, &lease.client, lease.taken_ns))
        .collect::<Vec<_>>();
    format!(
        "{processes:#?}\n{sockets:#?}\n{:?}\n{leases:#?}\n{:?} {} {}",
        state.values, state.newest_fence, state.values_bytes, state.newest_socket
    )
}

fn read_until(kernel: &mut Kernel, process: ProcessId, bytes: u64) {
    while kernel.state.processes[&process].output.cursor.stdout_bytes < bytes {
        let pipe = kernel.hands.children[&process]
            .stdout
            .as_ref()
            .unwrap()
            .try_clone()
            .unwrap();
        let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut polled, PollTimeout::from(60_000_u16)),
            Ok(1),
            "output in time"
        );
        kernel.drive(Input::Readable {
            process,
            stream: Stream::Stdout,
        });
    }
}

fn succeed(kernel: Kernel, succession: Succession) -> (Kernel, Vec<Tag>) {
    let inheritance = bequeath(&kernel);
    drop(kernel);
    Kernel::adopt(parts(), inheritance, succession, || {}).unwrap()
}

#[test]
fn a_successor_knows_everything_and_goes_on_reading() {
    let mut kernel = kernel();
    let directory = tempfile::tempdir().unwrap();
    let path = directory
        .path()
        .join("socket")
        .into_os_string()
        .into_encoded_bytes();
    let socket = SocketSpec {
        name: "s".into(),
        address: SocketAddress::Unix {
            path: path.into(),
            umask: None,
        },
        kind: Default::default(),
        backlog: 5,
        interface: None,
        reuseport: false,
    };
    ask(&mut kernel, MakeSocket { spec: socket });
    let text = "trap 'echo bye; exit 5' TERM; echo hi; while :; do sleep 0.01; done";
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script(text),
        },
    );
    let process = *kernel.state.keys.get("k").unwrap();
    ask(&mut kernel, set("v", Some(b"x".to_vec())));
    let take = TakeLease {
        name: "m".into(),
        resume: Fence::NONE,
        take_over: false,
    };
    ask(&mut kernel, take);
    read_until(&mut kernel, process, 3);
    let before = told(&kernel.state);
    let (kernel, dropped) = succeed(kernel, Succession::Upgrade);
    assert_eq!(dropped, []);
    assert_eq!(told(&kernel.state), before);
    assert_eq!(kernel.state.about.instance, 77);
    let mut kernel = attach(kernel);
    let signal = Signal {
        process,
        signal: 15,
        target: SignalTarget::Process,
    };
    ask(&mut kernel, signal);
    read_until(&mut kernel, process, 7);
    // Only this child: other tests of this process have children too.
    let ended = loop {
        let pid = kernel.state.processes[&process].pid;
        let whom = crate::sys::wait::Whom::Pid(pid);
        let (look, hang) = (
            crate::sys::wait::After::Reap,
            crate::sys::wait::Blocking::Wait,
        );
        if let Some(ended) = crate::sys::wait::wait_ended(whom, look, hang).unwrap() {
            break crate::reap::end_from(&ended, 1);
        }
    };
    let slot = kernel.state.processes[&process].slot;
    kernel
        .hands
        .memory
        .slot(slot)
        .publish_end(&ended, EndedBy::Guard);
    kernel.look_for_ends();
    let end = kernel.state.processes[&process].end.unwrap();
    assert_eq!(end.status, EndStatus::Exited(5));
    assert_eq!(kernel.state.running, 0);
}

#[test]
fn a_half_done_removal_is_finished() {
    let mut kernel = kernel();
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script("exec sleep 1000"),
        },
    );
    let process = *kernel.state.keys.get("k").unwrap();
    kill_child(&kernel, process);
    // Cut after the journal and before the slot.
    let removed = Entry::Removed(crate::entry::Removed { process });
    kernel.hands.record(&kernel.state, &removed).unwrap();
    let (kernel, dropped) = succeed(kernel, Succession::Crash);
    assert!(kernel.state.processes.is_empty() && dropped.is_empty());
    assert_eq!(kernel.hands.memory.slots_in_use().count(), 0);
}

fn kill_child(kernel: &Kernel, process: ProcessId) {
    let pid = kernel.state.processes[&process].pid;
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, SignalName::SIGKILL).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
}

#[test]
fn a_lost_pipe_ends_its_stream_and_nothing_else() {
    let mut kernel = kernel();
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script("echo hi; exec sleep 1000"),
        },
    );
    let process = *kernel.state.keys.get("k").unwrap();
    read_until(&mut kernel, process, 3);
    kill_child(&kernel, process);
    let mut inheritance = bequeath(&kernel);
    drop(kernel);
    let stderr = Tag::of_process(process, HeldKind::Stderr);
    inheritance.held.remove(&stderr).unwrap();
    let (kernel, _) = Kernel::adopt(parts(), inheritance, Succession::Crash, || {}).unwrap();
    let cursor = kernel.state.processes[&process].output.cursor;
    assert!(cursor.eof.has(Stream::Stderr) && !cursor.eof.has(Stream::Stdout));
    assert_eq!(cursor.stdout_bytes, 3);
    assert!(!cursor.is_empty(), "what was read is kept");
}

#[test]
fn a_spawn_that_never_began_is_pending_until_that_is_certain() {
    let kernel = kernel();
    let mut kernel = kernel;
    let slot = kernel.hands.memory.allocate().unwrap();
    let process = kernel.hands.memory.take_id();
    kernel.hands.memory.slot(slot).begin(&Intent {
        id: process,
        epoch: kernel.hands.memory.epoch(),
        key_hash: 0,
        flags: 0,
        time_ns: 1,
        eof: crate::memory::EofBits::NONE,
    });
    let spawned = Spawned {
        process,
        slot: u64::from(slot.number()),
        key: "k".into(),
        name: "child".into(),
        arguments: Vec::new(),
        uid: 0,
        gid: 0,
        labels: BTreeMap::new(),
        buffer_bytes: 4096,
        overflow: Default::default(),
    };
    kernel
        .hands
        .record(&kernel.state, &Entry::Spawned(spawned))
        .unwrap();
    let (kernel, _) = succeed(kernel, Succession::Crash);
    assert_eq!(kernel.state.intents.len(), 1);
    let mut kernel = attach(kernel);
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script("exec sleep 1000"),
        },
    );
    assert!(
        kernel.state.processes.is_empty(),
        "no answer before it is certain"
    );
    // A compaction in between must not lose it.
    for _ in 0..20 {
        ask(&mut kernel, set("v", Some(vec![1; 10_000])));
    }
    let (mut kernel, _) = succeed(kernel, Succession::Crash);
    assert_eq!(kernel.state.intents.len(), 1);
    while !kernel.state.intents.is_empty() {
        if kernel.is_due() {
            kernel.drive(Input::TimeReached);
        }
    }
    assert_eq!(kernel.state.deadline_ns(), None);
    let mut kernel = attach(kernel);
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script("exec sleep 1000"),
        },
    );
    let process = *kernel.state.keys.get("k").unwrap();
    kill_child(&kernel, process);
}

#[test]
fn an_end_that_the_guard_published_meanwhile_is_told() {
    let mut kernel = kernel();
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script("exec sleep 1000"),
        },
    );
    let process = *kernel.state.keys.get("k").unwrap();
    kill_child(&kernel, process);
    let slot = kernel.state.processes[&process].slot;
    let end = crate::memory::End {
        status: SlotEndStatus::Signaled {
            signal: 9,
            core_dumped: false,
        },
        time_ns: 5,
        user_us: 0,
        system_us: 0,
        max_rss_kb: 0,
    };
    let inheritance = bequeath(&kernel);
    kernel
        .hands
        .memory
        .slot(slot)
        .publish_end(&end, EndedBy::Guard);
    drop(kernel);
    let (kernel, _) = Kernel::adopt(parts(), inheritance, Succession::Crash, || {}).unwrap();
    let found = kernel.state.processes[&process].end.unwrap();
    assert_eq!(
        found.status,
        EndStatus::Signaled {
            signal: 9,
            core_dumped: false
        }
    );
    assert_eq!(kernel.state.running, 0);
}

/// Kills between any two stores: what was answered is there, what was not is there wholly or not at
/// all.
#[test]
fn a_kill_between_any_two_stores_takes_back_nothing_that_was_answered() {
    let mut kernel = kernel();
    let large = |byte: u8| Some(vec![byte; 20_000]);
    let take = |take_over| {
        TakeLease {
            name: "m".into(),
            resume: Fence::NONE,
            take_over,
        }
        .into()
    };
    let steps: Vec<Request> = vec![
        set("a", large(1)).into(),
        take(false),
        set("b", large(2)).into(),
        set("a", None).into(),
        ReleaseLease { lease: Fence(1) }.into(),
        set("c", large(3)).into(),
        set("c", large(4)).into(),
        take(true),
        set("b", large(5)).into(),
        set("d", large(6)).into(),
    ];
    let remembered = |state: &State| {
        let leases = state
            .leases
            .values()
            .map(|lease| (lease.name.clone(), lease.fence));
        let values = state
            .values
            .iter()
            .map(|(k, v)| (k.clone(), v.len(), v.first().copied()));
        (leases.collect::<Vec<_>>(), values.collect::<Vec<_>>())
    };
    let state_file = kernel
        .hands
        .memory
        .descriptor()
        .try_clone_to_owned()
        .unwrap();
    let journal_file = kernel
        .hands
        .journal
        .descriptor()
        .try_clone_to_owned()
        .unwrap();
    let mut expected = vec![remembered(&kernel.state)];
    let current = Rc::new(Cell::new(0));
    let cuts = Rc::new(RefCell::new(Vec::new()));
    let watcher = {
        let (cuts, current) = (Rc::clone(&cuts), Rc::clone(&current));
        move |name: &'static str| {
            let images = (FileImage::take(&state_file), FileImage::take(&journal_file));
            cuts.borrow_mut().push((name, current.get(), images));
        }
    };
    crate::crash::watch::while_watching(watcher, || {
        for (index, request) in steps.into_iter().enumerate() {
            current.set(index);
            ask(&mut kernel, request);
            expected.push(remembered(&kernel.state));
        }
    });
    let cuts = cuts.take();
    assert!(
        cuts.iter()
            .any(|(name, _, _)| name.starts_with("compaction")),
        "it was compacted"
    );
    assert!(cuts.len() > 30);
    for (name, index, (state, journal)) in cuts {
        let (read_end, write_end) = nix::unistd::pipe().unwrap();
        let inheritance = Inheritance {
            state: StateMemory::open(state.revive()).unwrap(),
            journal: journal.revive(),
            bounce: Bounce::open(read_end, write_end).unwrap(),
            held: BTreeMap::new(),
            rings: Rings::Unknown,
        };
        let (kernel, _) = Kernel::adopt(parts(), inheritance, Succession::Crash, || {}).unwrap();
        let found = remembered(&kernel.state);
        let either = [&expected[index], &expected[index + 1]];
        assert!(
            either.contains(&&found),
            "{name} in step {index}: {found:?}, not {either:?}"
        );
    }
}

/// A kernel with a child that has said "before", and goes on when its parent writes a line.
fn talker() -> (Kernel, ProcessId, OwnedFd) {
    let mut kernel = kernel();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("go");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = format!(
        "exec 3<>{}; echo before; read line <&3; echo after",
        path.display()
    );
    ask(
        &mut kernel,
        Spawn {
            key: "k".into(),
            spec: script(&text),
        },
    );
    let process = *kernel.state.keys.get("k").unwrap();
    read_until(&mut kernel, process, 7);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    (kernel, process, file.into())
}

/// Lets the child say "after": it ends with code 0 only if nobody closed its pipe.
fn goes_on(kernel: &mut Kernel, process: ProcessId, go: &OwnedFd, told: u64) {
    nix::unistd::write(go, b"\n").unwrap();
    read_until(kernel, process, told + 6);
    let pid = nix::unistd::Pid::from_raw(kernel.state.processes[&process].pid);
    let status = nix::sys::wait::waitpid(pid, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 0));
}

#[test]
fn a_child_with_a_damaged_slot_is_kept_and_loses_nothing() {
    let (kernel, process, go) = talker();
    let slot = kernel.state.processes[&process].slot;
    let before = kernel.state.processes[&process].output.cursor;
    kernel.hands.memory.slot(slot).damage_selected();
    let (mut kernel, _) = succeed(kernel, Succession::Crash);
    assert_eq!(kernel.state.processes[&process].output.cursor, before);
    goes_on(&mut kernel, process, &go, 7);
}

#[test]
fn a_child_with_an_unreadable_slot_is_kept_and_its_sequence_goes_on_behind_a_gap() {
    let (kernel, process, go) = talker();
    let slot = kernel.state.processes[&process].slot;
    let before = kernel.state.processes[&process].output.cursor;
    kernel.hands.memory.slot(slot).damage_selected();
    kernel.hands.memory.slot(slot).damage_unselected();
    let (mut kernel, _) = succeed(kernel, Succession::Crash);
    let after = kernel.state.processes[&process].output.cursor;
    assert_eq!(after.next_seq, before.next_seq);
    assert_eq!(after.stdout_bytes, 7);
    assert!(after.is_empty(), "what was unread is a gap");
    goes_on(&mut kernel, process, &go, 7);
}

#[test]
fn a_child_whose_ring_is_lost_gets_a_fresh_one_and_a_gap() {
    let (kernel, process, go) = talker();
    let before = kernel.state.processes[&process].output;
    let mut inheritance = bequeath(&kernel);
    drop(kernel);
    let ring = Tag::of_process(process, HeldKind::Ring);
    inheritance.held.remove(&ring).unwrap();
    let (mut kernel, _) = Kernel::adopt(parts(), inheritance, Succession::Crash, || {}).unwrap();
    let after = kernel.state.processes[&process].output;
    assert_eq!(after.capacity_bytes, before.capacity_bytes);
    assert_eq!(after.cursor.next_seq, before.cursor.next_seq);
    assert!(after.cursor.is_empty() && !after.cursor.eof.has(Stream::Stdout));
    goes_on(&mut kernel, process, &go, 7);
    let child = &kernel.hands.children[&process];
    let cursor = kernel.state.processes[&process].output.cursor;
    let ring = child.ring.as_ref().unwrap();
    let read = ring
        .records(&cursor, &crate::memory::ReadMark::default())
        .map(|record| record.unwrap().data.concat())
        .collect::<Vec<_>>();
    assert_eq!(read.concat(), b"after\n");
}

#[test]
fn a_pipe_that_linux_refuses_to_read_is_read_later_and_loses_nothing() {
    for point in ["read: map", "read: splice", "read: drain"] {
        // `drain` comes in two parts here, so that a failure falls in the middle, too.
        for spared in 0..2 {
            let (mut kernel, process, go) = talker();
            nix::unistd::write(&go, b"\n").unwrap();
            crate::crash::faults::set(point, spared, 3);
            for _ in 0..10_000 {
                if kernel.state.processes[&process].output.cursor.stdout_bytes == 13 {
                    break;
                }
                let pipe = kernel.hands.children[&process].stdout.as_ref().unwrap();
                let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
                if poll(&mut polled, PollTimeout::from(1_u8)) == Ok(1) {
                    kernel.drive(Input::Readable {
                        process,
                        stream: Stream::Stdout,
                    });
                }
                if kernel.is_due() {
                    kernel.drive(Input::TimeReached);
                }
            }
            let pid = nix::unistd::Pid::from_raw(kernel.state.processes[&process].pid);
            let status = nix::sys::wait::waitpid(pid, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 0));
            crate::crash::faults::set("", 0, 0);
            let child = &kernel.hands.children[&process];
            let cursor = kernel.state.processes[&process].output.cursor;
            let ring = child.ring.as_ref().unwrap();
            let read = ring
                .records(&cursor, &crate::memory::ReadMark::default())
                .map(|record| record.unwrap().data.concat())
                .collect::<Vec<_>>();
            assert_eq!(read.concat(), b"before\nafter\n", "{point} {spared}");
        }
    }
}

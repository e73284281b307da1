//! Reaping and signalling real processes. Sweeps take every child of the process, so the tests in
//! this file take turns.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

use kingpole_kernel::memory::{
    End, EndStatus, EndedBy, EofBits, Epoch, Intent, SlotIndex, SlotState, StateMemory,
};
use kingpole_kernel::reap::{Reaped, now_ns, sweep};
use kingpole_kernel::signals::{self, Delivered, SignalError};
use kingpole_kernel::spawn::{ReadEnds, SpawnPlan, Spawner, Started};
use kingpole_kernel::sys::process::{become_subreaper, pidfd_open, pidfd_send_signal};
use kingpole_kernel::sys::wait::{After, Blocking, Whom, wait_ended};
use kingpole_protocol::request::SignalTarget;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

struct House {
    state: StateMemory,
    spawner: Spawner,
    _turn: MutexGuard<'static, ()>,
}

struct Child {
    started: Started,
    ends: ReadEnds,
    slot: SlotIndex,
}

impl House {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        become_subreaper().unwrap();
        let state = StateMemory::create().unwrap();
        Self {
            state,
            spawner: Spawner::new().unwrap(),
            _turn: turn,
        }
    }

    fn start(&mut self, script: &str) -> Child {
        let arguments = ["/bin/sh", "-c", script].map(|word| CString::new(word).unwrap());
        let mut plan = SpawnPlan::new(arguments.to_vec());
        plan.environment = vec![c"PATH=/bin:/usr/bin".to_owned()];
        let mut prepared = self.spawner.prepare(&plan).unwrap();
        let ends = std::mem::take(&mut prepared.read_ends);
        let slot = self.state.allocate().unwrap();
        self.state.slot(slot).begin(&Intent {
            id: self.state.take_id(),
            epoch: self.state.epoch(),
            key_hash: 0,
            flags: 0,
            time_ns: now_ns(),
            eof: EofBits::NONE,
        });
        let started = self.spawner.start(prepared, self.state.slot(slot)).unwrap();
        self.state.slot(slot).set_running();
        Child {
            started,
            ends,
            slot,
        }
    }

    /// Waits until something ended, then sweeps.
    fn sweep(&self) -> Vec<Reaped> {
        wait_ended(Whom::Any, After::Look, Blocking::Wait).unwrap();
        sweep(&self.state, EndedBy::Kernel, |pid| {
            self.state.find_running(pid, Epoch(0))
        })
        .unwrap()
    }

    /// Sweeps until `count` children of ours ended; gives their ends in order of slots.
    fn ends(&self, count: usize) -> Vec<End> {
        let mut reaped = Vec::new();
        while reaped.len() < count {
            reaped.extend(self.sweep().into_iter().filter_map(|reaped| match reaped {
                Reaped::Child { slot, end, .. } => Some((slot, end)),
                Reaped::Orphan { .. } => None,
            }));
        }
        reaped.sort_by_key(|(slot, _)| *slot);
        for (slot, end) in &reaped {
            assert_eq!(self.state.slot(*slot).ended(), Some(*end), "published");
        }
        reaped.into_iter().map(|(_, end)| end).collect()
    }

    fn signal(
        &self,
        child: &Child,
        signal: i32,
        target: SignalTarget,
    ) -> Result<Delivered, SignalError> {
        signals::send(
            child.started.pid,
            child.started.pidfd.as_fd(),
            signal,
            target,
        )
    }
}

/// Lines of standard output, until it says enough.
fn lines(child: &mut Child, count: usize) -> Vec<String> {
    let mut reader = BufReader::new(File::from(child.ends.stdout.take().unwrap()));
    let mut lines = Vec::new();
    for _ in 0..count {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        lines.push(line.trim_end().to_owned());
    }
    child.ends.stdout = Some(reader.into_inner().into());
    lines
}

#[test]
fn exit_codes_signals_and_resource_use_are_exact() {
    let mut house = House::new();
    let before = now_ns();
    house.start("exit 0");
    house.start("exit 42");
    house.start("kill -TERM $$");
    house.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
    let ends = house.ends(4);
    assert_eq!(ends[0].status, EndStatus::Exited(0));
    assert_eq!(ends[1].status, EndStatus::Exited(42));
    assert_eq!(
        ends[2].status,
        EndStatus::Signaled {
            signal: 15,
            core_dumped: false
        }
    );
    assert!(ends[3].user_us + ends[3].system_us > ends[0].user_us + ends[0].system_us);
    for end in ends {
        assert!(end.time_ns >= before && end.time_ns <= now_ns());
        assert!(end.max_rss_kb > 100, "{} KB", end.max_rss_kb);
    }
}

#[test]
fn orphans_are_reaped_and_belong_to_nobody() {
    let mut house = House::new();
    let mut child = house.start("(sleep 0; read line; exit 9) & echo $!; exit 3");
    let orphan = lines(&mut child, 1)[0].parse::<i32>().unwrap();
    let (mut seen_child, mut seen_orphan) = (None, None);
    while seen_child.is_none() || seen_orphan.is_none() {
        for reaped in house.sweep() {
            match reaped {
                Reaped::Child { end, .. } => seen_child = Some(end.status),
                Reaped::Orphan { pid, end } if pid == orphan => seen_orphan = Some(end.status),
                Reaped::Orphan { .. } => {}
            }
        }
    }
    assert_eq!(seen_child, Some(EndStatus::Exited(3)));
    assert_eq!(seen_orphan, Some(EndStatus::Exited(9)));
    let left = wait_ended(Whom::Pid(orphan), After::Look, Blocking::NoHang);
    assert_eq!(left, Err(Errno::ECHILD));
}

#[test]
fn a_sweep_without_children_or_ends_finds_nothing() {
    let mut house = House::new();
    assert_eq!(sweep(&house.state, EndedBy::Kernel, |_| None).unwrap(), []);
    let child = house.start("kill -STOP $$");
    assert_eq!(sweep(&house.state, EndedBy::Kernel, |_| None).unwrap(), []);
    house
        .signal(&child, sigkill(), SignalTarget::Process)
        .unwrap();
    house.ends(1);
}

#[test]
fn a_signal_to_a_process_that_was_reaped_reaches_nobody() {
    let mut house = House::new();
    let child = house.start("exit 0");
    house.ends(1);
    for target in [
        SignalTarget::Process,
        SignalTarget::Tree,
        SignalTarget::Group,
    ] {
        assert_eq!(house.signal(&child, 9, target), Err(SignalError::Gone));
    }
    house.state.release(child.slot);
    assert_eq!(house.state.slot(child.slot).state(), SlotState::Free);
}

/// A child in its shell's own process group, one in another group of the session, one in another
/// session, and the shell itself; each says who it is when it is up.
const FAMILY: &str = "
    sh -c 'echo group $$; exec sleep 1000' &
    set -m; sh -c 'echo session $$; exec sleep 1000' & set +m
    setsid sh -c 'echo elsewhere $$; exec sleep 1000' &
    echo itself $$; exec sleep 1000";

fn has_ended(pidfd: &OwnedFd, timeout: PollTimeout) -> bool {
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, timeout).unwrap() == 1
}

#[test]
fn each_target_reaches_exactly_those_it_names() {
    for (target, expected) in [
        (SignalTarget::Process, &["itself"][..]),
        (SignalTarget::Group, &["itself", "group", "session"]),
        (
            SignalTarget::Tree,
            &["itself", "group", "session", "elsewhere"],
        ),
        (
            SignalTarget::Descendants,
            &["group", "session", "elsewhere"],
        ),
        (SignalTarget::Children, &["group", "session", "elsewhere"]),
    ] {
        let mut house = House::new();
        let mut child = house.start(FAMILY);
        let family = lines(&mut child, 4).into_iter().map(|line| {
            let (who, pid) = line.split_once(' ').unwrap();
            (who.to_owned(), pidfd_open(pid.parse().unwrap()).unwrap())
        });
        let family = family.collect::<BTreeMap<_, _>>();
        let delivered = house.signal(&child, sigkill(), target).unwrap();
        assert_eq!(
            delivered,
            Delivered {
                processes: expected.len(),
                refused: 0
            },
            "{target:?}"
        );
        for who in expected {
            assert!(
                has_ended(&family[*who], PollTimeout::from(60_000_u16)),
                "{target:?}: {who}"
            );
        }
        for (who, pidfd) in &family {
            let ended = has_ended(pidfd, PollTimeout::ZERO);
            assert_eq!(ended, expected.contains(&who.as_str()), "{target:?}: {who}");
            let _ = pidfd_send_signal(pidfd, sigkill());
        }
        // All of them come to us in the end, as we are the subreaper.
        while wait_ended(Whom::Any, After::Look, Blocking::Wait).is_ok() {
            house.sweep();
        }
    }
}

fn sigkill() -> i32 {
    nix::sys::signal::SIGKILL as i32
}

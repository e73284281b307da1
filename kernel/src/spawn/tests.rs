//! Real programs, started for real. They run as root and as an ordinary user.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;

use nix::unistd::geteuid;

use super::*;
use crate::memory::{EndStatus, EofBits, Intent, SlotIndex, StateMemory};

fn text(string: &str) -> CString {
    CString::new(string).unwrap()
}

fn shell(script: &str) -> SpawnPlan<'static> {
    SpawnPlan::new(vec![text("/bin/sh"), text("-c"), text(script)])
}

/// A kernel's worth of things around one spawn.
struct House {
    state: StateMemory,
    spawner: Spawner,
}

struct Ran {
    status: EndStatus,
    stdout: String,
    stderr: String,
}

impl House {
    fn new() -> Self {
        Self {
            state: StateMemory::create().unwrap(),
            spawner: Spawner::new().unwrap(),
        }
    }

    fn begin(&mut self) -> SlotIndex {
        let index = self.state.allocate().unwrap();
        self.state.slot(index).begin(&Intent {
            id: self.state.take_id(),
            epoch: self.state.epoch(),
            key_hash: 0,
            flags: 0,
            time_ns: now_ns(),
            eof: EofBits::NONE,
        });
        index
    }

    fn start(
        &mut self,
        plan: &SpawnPlan<'_>,
    ) -> Result<(Started, ReadEnds, SlotIndex), SpawnError> {
        let mut prepared = self.spawner.prepare(plan)?;
        let ends = std::mem::take(&mut prepared.read_ends);
        let index = self.begin();
        let started = self.spawner.start(prepared, self.state.slot(index));
        match started {
            Ok(started) => Ok((started, ends, index)),
            Err(error) => {
                self.state.release(index);
                Err(error)
            }
        }
    }

    fn run(&mut self, plan: &SpawnPlan<'_>) -> Result<Ran, SpawnError> {
        let (started, ends, index) = self.start(plan)?;
        let read = |end: Option<OwnedFd>| {
            let mut bytes = String::new();
            end.map(|end| File::from(end).read_to_string(&mut bytes).unwrap());
            bytes
        };
        let (stdout, stderr) = (read(ends.stdout), read(ends.stderr));
        let ended = wait_ended(Whom::Pid(started.pid), After::Reap, Blocking::Wait)
            .unwrap()
            .unwrap();
        assert_eq!(self.state.slot(index).pid(), Some(started.pid));
        self.state.release(index);
        let status = EndStatus::from_wait_status(ended.wait_status);
        Ok(Ran {
            status,
            stdout,
            stderr,
        })
    }
}

#[test]
fn output_of_both_streams_and_exit_code_arrive() {
    let ran = House::new()
        .run(&shell("echo to-out; echo to-err >&2; exit 7"))
        .unwrap();
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("to-out\n", "to-err\n")
    );
    assert_eq!(ran.status, EndStatus::Exited(7));
}

#[test]
fn stderr_can_go_where_stdout_goes_and_null_swallows() {
    let mut plan = shell("echo one; echo two >&2");
    plan.stderr = OutputPlan::SameAsStdout;
    assert_eq!(House::new().run(&plan).unwrap().stdout, "one\ntwo\n");
    plan.stdout = OutputPlan::Null;
    let ran = House::new().run(&plan).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

#[test]
fn environment_is_exactly_what_the_plan_says() {
    let mut plan = SpawnPlan::new(vec![text("/usr/bin/env")]);
    plan.environment = vec![text("B=two words"), text("A=")];
    assert_eq!(House::new().run(&plan).unwrap().stdout, "B=two words\nA=\n");
    plan.environment.clear();
    assert_eq!(House::new().run(&plan).unwrap().stdout, "");
}

#[test]
fn child_leads_a_session_of_its_own_with_the_plans_umask_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = shell("umask; pwd; cut -d' ' -f5,6 /proc/$$/stat; echo $$");
    plan.umask = 0o031;
    plan.working_directory = text(directory.path().to_str().unwrap());
    plan.environment = vec![text("PATH=/bin:/usr/bin")];
    let ran = House::new().run(&plan).unwrap();
    let lines = ran.stdout.lines().collect::<Vec<_>>();
    assert_eq!(&lines[..2], &["0031", directory.path().to_str().unwrap()]);
    let pid = lines[3];
    assert_eq!(
        lines[2],
        format!("{pid} {pid}"),
        "process group and session"
    );
}

#[test]
fn child_has_exactly_the_descriptors_of_the_plan_at_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passed");
    fs::write(&path, "content").unwrap();
    let file = File::open(&path).unwrap();
    let mut plan = shell("ls -l /proc/self/fd; cat <&5");
    plan.environment = vec![text("PATH=/bin:/usr/bin")];
    plan.passed = vec![
        Passed {
            source: file.as_fd(),
            number: 5,
        },
        Passed {
            source: file.as_fd(),
            number: 9,
        },
    ];
    let ran = House::new().run(&plan).unwrap();
    let mut numbers = ran
        .stdout
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(left, to)| (left.rsplit(' ').next().unwrap().to_owned(), to.to_owned()))
        .filter(|(_, to)| !to.starts_with("/proc/"))
        .collect::<Vec<_>>();
    numbers.sort();
    let path = path.to_str().unwrap().to_owned();
    assert_eq!(
        numbers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["0", "1", "2", "5", "9"]
    );
    assert_eq!(numbers[0].1, "/dev/null");
    assert_eq!((&numbers[3].1, &numbers[4].1), (&path, &path));
    assert!(ran.stdout.ends_with("content"), "{}", ran.stdout);
}

#[test]
fn sources_that_are_each_others_targets_do_not_overwrite_each_other() {
    // Descriptors at low numbers of ours, asked for crosswise at each other's numbers.
    let directory = tempfile::tempdir().unwrap();
    let files = ["a", "b", "c"].map(|name| {
        let path = directory.path().join(name);
        fs::write(&path, name).unwrap();
        File::open(path).unwrap()
    });
    let number = |file: &File| u16::try_from(file.as_raw_fd()).unwrap();
    let numbers = [number(&files[1]), number(&files[2]), number(&files[0])];
    let script = numbers.map(|n| format!("cat /proc/self/fd/{n};")).concat();
    let mut plan = shell(&script);
    plan.environment = vec![text("PATH=/bin:/usr/bin")];
    plan.passed = files
        .iter()
        .zip(numbers)
        .map(|(file, number)| Passed {
            source: file.as_fd(),
            number,
        })
        .collect();
    plan.stdin = StdinPlan::Descriptor(files[2].as_fd());
    let ran = House::new().run(&plan).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("abc", ""));
}

#[test]
fn listening_sockets_come_with_their_names_and_the_childs_own_pid() {
    let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let two = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = shell("echo $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && echo mine");
    plan.passed = vec![
        Passed {
            source: one.as_fd(),
            number: 3,
        },
        Passed {
            source: two.as_fd(),
            number: 4,
        },
    ];
    plan.listen_names = vec!["web".to_owned(), "admin".to_owned()];
    assert_eq!(
        House::new().run(&plan).unwrap().stdout,
        "2 web:admin\nmine\n"
    );

    plan.passed.pop();
    let error = House::new().run(&plan).err().unwrap();
    assert_eq!(
        error.to_string(),
        "descriptor 4, named \"admin\", is not passed"
    );
}

#[test]
fn ignored_and_blocked_signals_are_not_inherited() {
    use nix::sys::signal::{SigSet, Signal};
    // Rust ignores SIGPIPE, and this thread blocks another one.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    let old = blocked
        .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
        .unwrap();
    let plan = SpawnPlan::new(vec![text("/bin/cat"), text("/proc/self/status")]);
    let ran = House::new().run(&plan).unwrap();
    old.thread_set_mask().unwrap();
    let is_set = |line: &&str| {
        ["SigBlk", "SigIgn", "SigCgt"]
            .iter()
            .any(|s| line.starts_with(s))
    };
    let masks = ran.stdout.lines().filter(is_set).collect::<Vec<_>>();
    assert_eq!(masks.len(), 3);
    for line in masks {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

#[test]
fn limits_are_those_of_the_plan() {
    let limit = |resource: u32| Limit {
        resource,
        soft: 20,
        hard: 30,
    };
    let mut plan = shell("ulimit -Sn; ulimit -Hn");
    plan.limits = vec![limit(libc::RLIMIT_NOFILE)];
    assert_eq!(House::new().run(&plan).unwrap().stdout, "20\n30\n");

    plan.limits.push(limit(9999));
    let error = House::new().run(&plan).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot set resource limit 9999 to 20 (at most 30): Invalid argument"
    );

    // More than the kernel's own, or more soft than hard.
    plan.limits = vec![Limit {
        resource: libc::RLIMIT_NOFILE,
        soft: 30,
        hard: 20,
    }];
    let error = House::new().run(&plan).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot set resource limit nofile to 30 (at most 20): Invalid argument"
    );
}

#[test]
fn a_missing_program_is_named_and_leaves_no_process() {
    let mut house = House::new();
    let mut plan = SpawnPlan::new(vec![text("/no/such/program")]);
    let error = house.run(&plan).err().unwrap();
    assert_eq!(error.to_string(), "cmd not found: /no/such/program");
    plan.arguments = vec![text("no-such-program")];
    plan.search_path = vec!["/bin".into(), "/nowhere".into()];
    let error = house.run(&plan).err().unwrap();
    assert_eq!(error.to_string(), "cmd not found: no-such-program");
}

#[test]
fn a_failed_exec_is_published_before_it_is_reaped() {
    let mut house = House::new();
    let plan = SpawnPlan::new(vec![text("/no/such/program")]);
    let prepared = house.spawner.prepare(&plan).unwrap();
    let index = house.begin();
    let slot = house.state.slot(index);
    house.spawner.start(prepared, slot).unwrap_err();
    let pid = slot.pid().unwrap();
    assert_eq!(slot.ended().unwrap().status, EndStatus::Exited(127));
    assert!(slot.is_claimed_by_child());
    let failure = slot.failure().unwrap();
    assert_eq!(Step::from_number(failure.step), Some((Step::Exec, 0)));
    assert_eq!(
        explain_without_plan(failure).to_string(),
        "cmd not found: (unknown)"
    );
    assert_eq!(
        wait_ended(Whom::Pid(pid), After::Look, Blocking::NoHang),
        Err(Errno::ECHILD),
        "it was reaped"
    );
}

#[test]
fn the_first_program_on_the_search_path_that_may_be_executed_wins() {
    let directory = tempfile::tempdir().unwrap();
    let place = |sub: &str, mode: u32| {
        let sub = directory.path().join(sub);
        fs::create_dir(&sub).unwrap();
        let path = sub.join("tool");
        // By another process: a neighbouring test that starts something now would have our descriptor
        // for a moment, and what is open for writing cannot be executed.
        let write = "printf '#!/bin/sh\\necho %s\\n' \"$1\" >\"$2\"";
        let mut writer = std::process::Command::new("/bin/sh");
        let written = writer
            .args(["-c", write, "sh"])
            .arg(&sub)
            .arg(&path)
            .status();
        assert!(written.unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        sub
    };
    let (plain, good, later) = (
        place("plain", 0o644),
        place("good", 0o755),
        place("later", 0o755),
    );
    let mut plan = SpawnPlan::new(vec![text("tool")]);
    plan.search_path = vec!["/nowhere".into(), plain.clone(), good.clone(), later];
    assert_eq!(
        House::new().run(&plan).unwrap().stdout,
        format!("{}\n", good.display())
    );
    plan.search_path = vec![plain];
    let error = House::new().run(&plan).err().unwrap();
    assert!(
        matches!(
            error,
            SpawnError::NotExecutable {
                cause: Errno::EACCES,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_missing_directory_is_named() {
    let mut plan = shell("exit 0");
    plan.working_directory = text("/no/such/directory");
    let error = House::new().run(&plan).err().unwrap();
    assert_eq!(
        error.to_string(),
        "working directory not there: /no/such/directory"
    );
    plan.working_directory = text("/dev/null");
    let error = House::new().run(&plan).err().unwrap();
    assert_eq!(
        error.to_string(),
        "working directory is not a directory: /dev/null"
    );
}

#[test]
fn plans_that_contradict_themselves_are_refused_before_anything_happens() {
    let house = House::new();
    let refused = |plan: &SpawnPlan<'_>| house.spawner.prepare(plan).err().unwrap().to_string();
    assert_eq!(refused(&SpawnPlan::new(Vec::new())), "there is no command");
    assert_eq!(
        refused(&SpawnPlan::new(vec![text("")])),
        "the command is empty"
    );
    let null = File::open("/dev/null").unwrap();
    let mut plan = shell("exit 0");
    let pass = |number| Passed {
        source: null.as_fd(),
        number,
    };
    plan.passed = vec![pass(2)];
    assert_eq!(
        refused(&plan),
        "descriptor 2 cannot be passed: 0 to 2 are set"
    );
    plan.passed = vec![pass(7), pass(7)];
    assert_eq!(refused(&plan), "descriptor 7 is passed twice");
}

#[test]
fn an_ordinary_user_gets_its_own_groups_and_nothing_of_ours() {
    let mut plan = shell("id -u; id -g; id -G");
    plan.environment = vec![text("PATH=/bin:/usr/bin")];
    if geteuid().is_root() {
        plan.user = Some(UserPlan {
            uid: 65534,
            gid: 65533,
            groups: vec![1234, 65533],
        });
        let ran = House::new().run(&plan).unwrap();
        assert_eq!(ran.stdout, "65534\n65533\n65533 1234\n", "{}", ran.stderr);
        assert!(
            crate::sys::process::is_dumpable(),
            "the kernel's own memory is as before"
        );
    } else {
        eprintln!("SKIPPED the part that needs root: becoming another user");
        let (uid, gid) = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
        plan.user = Some(UserPlan {
            uid,
            gid,
            groups: Vec::new(),
        });
        let ran = House::new().run(&plan).unwrap();
        assert!(
            ran.stdout.starts_with(&format!("{uid}\n{gid}\n")),
            "{}",
            ran.stdout
        );
        plan.user = Some(UserPlan {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        });
        let error = House::new().run(&plan).err().unwrap();
        assert!(matches!(error, SpawnError::Step { .. }), "{error}");
    }
}

#[test]
fn an_aborted_claim_stops_the_child_before_it_does_anything() {
    let mut house = House::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ran");
    let prepared = house
        .spawner
        .prepare(&shell(&format!("echo ran > {}", path.display())))
        .unwrap();
    let index = house.begin();
    let slot = house.state.slot(index);
    assert_eq!(slot.abort_claim(), crate::memory::Abort::NeverStarted);
    let started = house.spawner.start(prepared, slot).unwrap();
    let ended = wait_ended(Whom::Pid(started.pid), After::Reap, Blocking::Wait)
        .unwrap()
        .unwrap();
    assert_eq!(
        EndStatus::from_wait_status(ended.wait_status),
        EndStatus::Exited(127)
    );
    assert!(!path.exists());
}

#[test]
fn a_child_of_an_unfinished_spawn_is_seen_to_have_called_exec() {
    let mut house = House::new();
    let (started, _ends, _index) = house.start(&shell("read line")).unwrap();
    // stdin is /dev/null, so it ends by itself; a zombie has called exec all the same.
    assert_eq!(crate::signals::has_called_exec(started.pid), Some(true));
    wait_ended(Whom::Pid(started.pid), After::Reap, Blocking::Wait).unwrap();
}

#[test]
fn an_intent_is_resolved_by_how_far_its_child_got() {
    let mut house = House::new();
    // Nobody cloned: given up, and again, as a successor's successor would.
    let index = house.begin();
    assert_eq!(resolve(house.state.slot(index)), Resolution::NeverStarted);
    assert_eq!(resolve(house.state.slot(index)), Resolution::NeverStarted);

    // The program runs, whatever the dead kernel had not come to say.
    let (started, _ends, index) = house.start(&shell("kill -STOP $$")).unwrap();
    let slot = house.state.slot(index);
    assert_eq!(slot.state(), crate::memory::SlotState::Intent);
    assert_eq!(resolve(slot), Resolution::Running);
    assert_eq!(slot.state(), crate::memory::SlotState::Run);
    pidfd_send_signal(&started.pidfd, libc::SIGKILL).unwrap();
    wait_ended(Whom::Pid(started.pid), After::Reap, Blocking::Wait).unwrap();

    // The program never came to run: with its end published, the intent is a failure.
    let prepared = house
        .spawner
        .prepare(&SpawnPlan::new(vec![text("/no/such")]))
        .unwrap();
    let index = house.begin();
    house
        .spawner
        .start(prepared, house.state.slot(index))
        .unwrap_err();
    let failure = house.state.slot(index).failure().unwrap();
    assert_eq!(
        resolve(house.state.slot(index)),
        Resolution::Failed(failure)
    );

    // It ran and has ended before anybody looked.
    let (started, _ends, index) = house.start(&shell("exit 4")).unwrap();
    let ended = wait_ended(Whom::Pid(started.pid), After::Look, Blocking::Wait)
        .unwrap()
        .unwrap();
    let slot = house.state.slot(index);
    slot.publish_end(&end_from(&ended, now_ns()), EndedBy::Guard);
    wait_ended(Whom::Pid(started.pid), After::Reap, Blocking::Wait).unwrap();
    assert_eq!(resolve(slot), Resolution::Running);
    assert_eq!(slot.ended().unwrap().status, EndStatus::Exited(4));
}

#[test]
fn spawning_does_not_copy_a_big_parent() {
    use nix::sys::resource::{UsageWho, getrusage};
    let faults = || {
        getrusage(UsageWho::RUSAGE_THREAD)
            .unwrap()
            .minor_page_faults()
    };
    let mut house = House::new();
    let mut ballast = vec![1_u8; 64 << 20];
    let mut touch = || ballast.iter_mut().step_by(4096).for_each(|byte| *byte += 1);
    touch();
    house.run(&SpawnPlan::new(vec![text("/bin/true")])).unwrap();
    // After a plain fork every page would be write-protected: one fault each, 16,384 of them, or
    // 32 of huge ones.
    let before = faults();
    touch();
    let caused = faults() - before;
    assert!(caused < 16, "{caused} page faults");
}

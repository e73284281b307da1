//! From a plan to what the child needs: strings, pipes, an order of descriptors.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{getegid, geteuid, pipe2};

use super::error::{SpawnError, child_error};
use super::plan::{Limit, OutputPlan, SpawnPlan, StdinPlan};
use crate::memory::ChildFailure;
use crate::sys::child::{ChildJob, ChildLimit, Decimal, Identity, Placement, Step};

/// Digits that a pid can have (2^22 at most, but room for any i32).
const PID_DIGITS: usize = 10;

/// The kernel's ends of the output pipes. Absent ones are not captured.
#[derive(Debug, Default)]
pub struct ReadEnds {
    /// Of standard output.
    pub stdout: Option<OwnedFd>,
    /// Of standard error.
    pub stderr: Option<OwnedFd>,
}

/// What of this process's own settings a child must not inherit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inheritance {
    /// What its `oom_score_adj` was before it protected itself.
    pub(super) oom_score: Option<i32>,
    /// Signals with a disposition of their own.
    pub(super) changed_signals: u64,
}

/// A child that only needs to be started. Dropping it undoes everything.
#[derive(Debug)]
pub struct PreparedSpawn {
    /// The ends to read from: give copies to the guard before the start, keep them after.
    pub read_ends: ReadEnds,
    write_ends: [Option<OwnedFd>; 2],
    strings: Strings,
    placements: Vec<Placement>,
    first_free: RawFd,
    limits: Vec<ChildLimit>,
    identity: Option<Identity>,
    umask: u32,
    inheritance: Inheritance,
    job: Option<Box<ChildJob>>,
}

/// Owns what the job points to.
#[derive(Debug)]
struct Strings {
    programs: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    listen_pid: Option<Vec<u8>>,
    working_directory: CString,
    /// As asked for, for messages.
    program: CString,
}

fn refuse(reason: impl Into<String>) -> SpawnError {
    SpawnError::Plan {
        reason: reason.into(),
    }
}

impl PreparedSpawn {
    pub(super) fn new(
        plan: &SpawnPlan<'_>,
        null: BorrowedFd<'_>,
        inheritance: Inheritance,
    ) -> Result<Self, SpawnError> {
        let strings = Strings::new(plan)?;
        if plan.stdout == OutputPlan::SameAsStdout {
            return Err(refuse("standard output cannot be the same as itself"));
        }
        if plan.umask & !0o777 != 0 {
            return Err(refuse(format!(
                "the umask {:o} is more than 777",
                plan.umask
            )));
        }
        let (read_stdout, write_stdout) = output_pipe(plan.stdout, plan.pipe_bytes)?;
        let (read_stderr, write_stderr) = output_pipe(plan.stderr, plan.pipe_bytes)?;
        let null = null.as_raw_fd();
        let stdin = match plan.stdin {
            StdinPlan::Null => null,
            StdinPlan::Descriptor(fd) => fd.as_raw_fd(),
        };
        let stdout = write_stdout.as_ref().map_or(null, AsRawFd::as_raw_fd);
        let stderr = match plan.stderr {
            OutputPlan::SameAsStdout => stdout,
            _ => write_stderr.as_ref().map_or(null, AsRawFd::as_raw_fd),
        };
        let mut placements = vec![
            Placement {
                source: stdin,
                target: 0,
            },
            Placement {
                source: stdout,
                target: 1,
            },
            Placement {
                source: stderr,
                target: 2,
            },
        ];
        for passed in &plan.passed {
            if passed.number < 3 {
                let number = passed.number;
                return Err(refuse(format!(
                    "descriptor {number} cannot be passed: 0 to 2 are set"
                )));
            }
            let target = RawFd::from(passed.number);
            placements.push(Placement {
                source: passed.source.as_raw_fd(),
                target,
            });
        }
        placements.sort_unstable_by_key(|placement| placement.target);
        for pair in placements.windows(2) {
            if let [one, other] = pair
                && one.target == other.target
            {
                return Err(refuse(format!("descriptor {} is passed twice", one.target)));
            }
        }
        for (number, name) in (3..).zip(&plan.listen_names) {
            if !placements
                .iter()
                .any(|placement| placement.target == number)
            {
                return Err(refuse(format!(
                    "descriptor {number}, named {name:?}, is not passed"
                )));
            }
        }
        let highest = placements.last().map_or(2, |placement| placement.target);
        Ok(Self {
            read_ends: ReadEnds {
                stdout: read_stdout,
                stderr: read_stderr,
            },
            write_ends: [write_stdout, write_stderr],
            strings,
            placements,
            first_free: highest.saturating_add(1),
            limits: limits(plan),
            identity: identity(plan),
            umask: plan.umask,
            inheritance,
            job: None,
        })
    }

    /// Points a job at the strings. They are not touched again until the child is done with them.
    pub(super) fn job(&mut self, claim: (u32, u32)) -> &mut ChildJob {
        let strings = &mut self.strings;
        let terminated = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let mut environment = terminated(&strings.environment);
        let listen_pid = strings.listen_pid.as_mut().map(|text| {
            let start = text.as_mut_ptr();
            environment.insert(0, start.cast_const().cast());
            (start.wrapping_add(LISTEN_PID.len()), PID_DIGITS)
        });
        self.job.insert(Box::new(ChildJob {
            programs: strings
                .programs
                .iter()
                .map(|string| string.as_ptr())
                .collect(),
            arguments: terminated(&strings.arguments),
            environment,
            listen_pid,
            placements: self.placements.clone(),
            first_free: self.first_free,
            limits: self.limits.clone(),
            changed_signals: self.inheritance.changed_signals,
            oom_score: self.inheritance.oom_score.map(Decimal::new),
            identity: self.identity.take(),
            umask: self.umask,
            working_directory: strings.working_directory.as_ptr(),
            claim,
        }))
    }

    pub(super) fn close_write_ends(&mut self) {
        self.write_ends = [None, None];
    }

    /// What a failure in the child means, in words that name its object.
    pub(super) fn explain(&self, failure: ChildFailure) -> SpawnError {
        child_error(failure, &|step, index| self.object_of(step, index))
    }

    fn object_of(&self, step: Step, index: usize) -> Option<String> {
        let text = |string: &CStr| string.to_string_lossy().into_owned();
        match step {
            Step::Exec => Some(text(&self.strings.program)),
            Step::WorkingDirectory => Some(text(&self.strings.working_directory)),
            Step::Limit => self.limits.get(index).map(|limit| {
                let (soft, hard) = (limit.limit.rlim_cur, limit.limit.rlim_max);
                let limit = Limit {
                    resource: limit.resource,
                    soft,
                    hard,
                };
                let name = limit
                    .name()
                    .map_or_else(|| limit.resource.to_string(), str::to_owned);
                format!("{name} to {soft} (at most {hard})")
            }),
            Step::MoveDescriptor | Step::PlaceDescriptor => self
                .placements
                .get(index)
                .map(|placement| placement.target.to_string()),
            Step::Uid => self
                .job
                .as_ref()?
                .identity
                .as_ref()
                .map(|id| id.uid.to_string()),
            Step::Gid => self
                .job
                .as_ref()?
                .identity
                .as_ref()
                .map(|id| id.gid.to_string()),
            Step::Session
            | Step::CloseDescriptors
            | Step::OomScore
            | Step::Groups
            | Step::Signals => None,
        }
    }
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";

impl Strings {
    fn new(plan: &SpawnPlan<'_>) -> Result<Self, SpawnError> {
        let first = plan
            .arguments
            .first()
            .ok_or_else(|| refuse("there is no command"))?;
        let program = plan.program.as_ref().unwrap_or(first).clone();
        if program.is_empty() {
            return Err(refuse("the command is empty"));
        }
        let mut environment = plan.environment.clone();
        let mut listen_pid = None;
        if !plan.listen_names.is_empty() {
            if let Some(name) = plan
                .listen_names
                .iter()
                .find(|name| name.contains([':', '\0']))
            {
                return Err(refuse(format!(
                    "the socket name {name:?} holds a colon or a NUL"
                )));
            }
            let count = plan.listen_names.len();
            let names = plan.listen_names.join(":");
            for text in [
                format!("LISTEN_FDS={count}"),
                format!("LISTEN_FDNAMES={names}"),
            ] {
                environment.push(CString::new(text).map_err(|_| refuse("a NUL in a name"))?);
            }
            let mut text = LISTEN_PID.to_vec();
            text.resize(LISTEN_PID.len() + PID_DIGITS + 1, 0);
            listen_pid = Some(text);
        }
        Ok(Self {
            programs: candidates(&program, &plan.search_path)?,
            arguments: plan.arguments.clone(),
            environment,
            listen_pid,
            working_directory: plan.working_directory.clone(),
            program,
        })
    }
}

/// Where `execve` is to try. The child tries, not we: it has the user's rights.
fn candidates(
    program: &CStr,
    search_path: &[std::path::PathBuf],
) -> Result<Vec<CString>, SpawnError> {
    if program.to_bytes().contains(&b'/') {
        return Ok(vec![program.to_owned()]);
    }
    let name = Path::new(std::ffi::OsStr::from_bytes(program.to_bytes()));
    search_path
        .iter()
        .map(|directory| CString::new(directory.join(name).as_os_str().as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|_| refuse("a directory of the search path holds a NUL"))
}

fn limits(plan: &SpawnPlan<'_>) -> Vec<ChildLimit> {
    plan.limits
        .iter()
        .map(|limit| ChildLimit {
            resource: limit.resource,
            limit: libc::rlimit {
                rlim_cur: limit.soft,
                rlim_max: limit.hard,
            },
        })
        .collect()
}

/// An ordinary user may "become" itself, but may not set its groups.
fn identity(plan: &SpawnPlan<'_>) -> Option<Identity> {
    plan.user.as_ref().map(|user| {
        let is_own = !geteuid().is_root()
            && user.uid == geteuid().as_raw()
            && user.gid == getegid().as_raw();
        let groups = (!is_own).then(|| user.groups.clone());
        Identity {
            uid: user.uid,
            gid: user.gid,
            groups,
        }
    })
}

fn output_pipe(
    plan: OutputPlan,
    bytes: Option<u32>,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>), SpawnError> {
    if plan != OutputPlan::Capture {
        return Ok((None, None));
    }
    // Blocking on both sides: the child expects it, and the kernel splices without waiting anyway.
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).map_err(|cause| SpawnError::Kernel {
        action: "make an output pipe",
        cause,
    })?;
    if let Some(bytes) = bytes.and_then(|bytes| i32::try_from(bytes).ok()) {
        // EPERM past the user's quota: the pipe stays small and works.
        let _: Result<i32, Errno> = fcntl(&write_end, FcntlArg::F_SETPIPE_SZ(bytes));
    }
    Ok((Some(read_end), Some(write_end)))
}

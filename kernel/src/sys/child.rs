//! The few microseconds between clone and exec.
//!
//! The child shares our memory while we are suspended. So nothing here allocates, locks, panics or
//! calls into the runtime; every string and array was prepared before. It leaves word of a failure
//! in its slot as (step, errno) and exits.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::crash::crash_point_in_child;
use crate::memory::layout::SlotWords;

/// Bytes of the child's stack; it uses a few hundred.
const STACK_BYTES: usize = 64 * 1024;
/// Below the stack, inaccessible, so that an overflow cannot write anywhere.
const GUARD_BYTES: usize = 4096;

/// What a child was doing when it failed. The numbers lie in shared memory: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// `setsid`.
    Session = 1,
    /// Moving a descriptor out of the way of the target numbers.
    MoveDescriptor = 2,
    /// Putting a descriptor at its number.
    PlaceDescriptor = 3,
    /// Closing all others.
    CloseDescriptors = 4,
    /// A resource limit; the index tells which.
    Limit = 5,
    /// `/proc/self/oom_score_adj`.
    OomScore = 6,
    /// Supplementary groups.
    Groups = 7,
    /// Group id.
    Gid = 8,
    /// User id.
    Uid = 9,
    /// Working directory.
    WorkingDirectory = 10,
    /// Signal dispositions and mask.
    Signals = 11,
    /// `execve`.
    Exec = 12,
}

impl Step {
    /// The step of a number in shared memory, without its index.
    #[must_use]
    pub fn from_number(number: u32) -> Option<(Self, usize)> {
        let [step, ..] = number.to_le_bytes();
        let index = usize::try_from(number >> 8).ok()?;
        [
            Self::Session,
            Self::MoveDescriptor,
            Self::PlaceDescriptor,
            Self::CloseDescriptors,
            Self::Limit,
            Self::OomScore,
            Self::Groups,
            Self::Gid,
            Self::Uid,
            Self::WorkingDirectory,
            Self::Signals,
            Self::Exec,
        ]
        .into_iter()
        .find(|known| *known as u8 == step)
        .map(|known| (known, index))
    }
}

/// A descriptor that the child gets at a certain number.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Ours. The child changes its copy of this field.
    pub source: RawFd,
    /// The number in the child.
    pub target: RawFd,
}

/// Whose rights the child runs with.
#[derive(Debug)]
pub struct Identity {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups; `None` leaves them as they are.
    pub groups: Option<Vec<u32>>,
}

/// One limit.
#[derive(Debug, Clone, Copy)]
pub struct ChildLimit {
    /// Linux's number.
    pub resource: u32,
    /// Soft and hard.
    pub limit: libc::rlimit,
}

/// A number in decimal, prepared so that the child allocates nothing.
#[derive(Debug, Clone)]
pub struct Decimal(String);

impl Decimal {
    /// Prepares it.
    #[must_use]
    pub fn new(number: i32) -> Self {
        Self(number.to_string())
    }

    fn text(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Everything the child needs, prepared. Pointers stay inside this structure.
#[derive(Debug)]
pub struct ChildJob {
    /// Where to look for the program, in order: `execve` is tried with each.
    pub programs: Vec<*const c_char>,
    /// Null-terminated.
    pub arguments: Vec<*const c_char>,
    /// Null-terminated.
    pub environment: Vec<*const c_char>,
    /// Where in the string of `LISTEN_PID` the digits go, and how many there is room for.
    pub listen_pid: Option<(*mut u8, usize)>,
    /// Sorted by target, targets unique.
    pub placements: Vec<Placement>,
    /// One above the highest target.
    pub first_free: RawFd,
    /// Resource limits.
    pub limits: Vec<ChildLimit>,
    /// Signals whose disposition may not be the default; see [`changed_signals`].
    pub changed_signals: u64,
    /// The `oom_score_adj` to go back to, as the kernel's own must not be inherited.
    pub oom_score: Option<Decimal>,
    /// User and groups.
    pub identity: Option<Identity>,
    /// File mode mask.
    pub umask: libc::mode_t,
    /// Null-terminated path.
    pub working_directory: *const c_char,
    /// Claim word that means "open", and the one the child puts in its place.
    pub claim: (u32, u32),
}

/// The stack that children run on until they exec. One is enough: the parent waits meanwhile.
#[derive(Debug)]
pub struct ChildStack {
    start: *mut c_void,
}

// SAFETY: a plain mapping; `run` takes `&mut self`, so one child uses it at a time.
unsafe impl Send for ChildStack {}

impl ChildStack {
    /// Maps one.
    ///
    /// # Errors
    /// That of `mmap`.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: a fresh anonymous mapping.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                STACK_BYTES + GUARD_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let stack = Self { start };
        // SAFETY: the lowest page of the mapping just made.
        Errno::result(unsafe { libc::mprotect(start, GUARD_BYTES, libc::PROT_NONE) })?;
        Ok(stack)
    }

    /// Starts a child that does `job` and waits until it has called exec or exited. Gives its pid,
    /// which Linux also stored in `slot`. A failure is in `slot`, and the child is a zombie then.
    ///
    /// # Errors
    /// No child was made: process limits, memory.
    pub fn run(&mut self, job: &mut ChildJob, slot: &SlotWords) -> Result<i32, Errno> {
        #[cfg(test)]
        if let Some(pid) = super::simulated::clone(job, slot) {
            return Ok(pid);
        }
        let mut start = ChildStart { job, slot };
        let mut mask = SigSet::empty();
        sigprocmask(
            SigmaskHow::SIG_SETMASK,
            Some(&SigSet::all()),
            Some(&mut mask),
        )?;
        // SAFETY: the stack is ours, 16-aligned at its top, and used by one child at a time. The
        // child shares our memory but we are suspended until it execs or exits (CLONE_VFORK), so
        // `start` and all it borrows outlive its use. `slot.pid` is a shared mapped word.
        let pid = unsafe {
            libc::clone(
                child_main,
                self.start.byte_add(STACK_BYTES + GUARD_BYTES),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD,
                (&raw mut start).cast(),
                slot.pid.as_ptr(),
            )
        };
        let pid = Errno::result(pid);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        pid
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: our mapping, and no child runs on it.
        unsafe { libc::munmap(self.start, STACK_BYTES + GUARD_BYTES) };
    }
}

struct ChildStart<'a> {
    job: &'a mut ChildJob,
    slot: &'a SlotWords,
}

/// The child's errno after a failed call. It is the parent's thread-local, which is suspended.
fn errno() -> i32 {
    Errno::last_raw()
}

extern "C" fn child_main(argument: *mut c_void) -> c_int {
    // SAFETY: `run` passed a pointer to a `ChildStart` that outlives the child's use of it, and
    // the parent does not touch it meanwhile.
    let start = unsafe { &mut *argument.cast::<ChildStart<'_>>() };
    let slot = start.slot;
    crash_point_in_child("child: before the claim");
    let (open, claimed) = start.job.claim;
    if slot
        .claim
        .compare_exchange(open, claimed, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        exit_child();
    }
    // SAFETY: no memory involved. The raw call, as libc may cache its parent's answer.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    let pid = i32::try_from(pid).unwrap_or(0);
    slot.pid.store(pid, Ordering::Release);
    crash_point_in_child("child: after the claim");
    // SAFETY: we are the child, and the job was prepared for it.
    let (step, index, errno) = unsafe { become_program(start.job, pid) };
    slot.failed_step
        .store((index << 8) | step as u32, Ordering::Relaxed);
    slot.failed_errno.store(errno.max(1), Ordering::Release);
    crash_point_in_child("child: after the failure");
    exit_child()
}

fn exit_child() -> ! {
    // SAFETY: ends this process without touching the shared runtime.
    unsafe { libc::_exit(127) }
}

/// Does the whole job. Returns only when a step failed: which, its index, and errno.
///
/// # Safety
/// Only in a child that shares memory with its suspended parent, with a job whose pointers are
/// valid.
unsafe fn become_program(job: &mut ChildJob, pid: i32) -> (Step, u32, i32) {
    // SAFETY: raw system calls on prepared, valid, null-terminated data.
    unsafe {
        if libc::syscall(libc::SYS_setsid) < 0 {
            return (Step::Session, 0, errno());
        }
        if let Err(failure) = place_descriptors(job) {
            return failure;
        }
        for (index, limit) in (0_u32..).zip(&job.limits) {
            let none = ptr::null_mut::<libc::rlimit>();
            let result = libc::syscall(
                libc::SYS_prlimit64,
                0,
                limit.resource,
                &raw const limit.limit,
                none,
            );
            if result < 0 {
                return (Step::Limit, index, errno());
            }
        }
        if let Some(score) = &job.oom_score
            && !write_oom_score(score)
        {
            return (Step::OomScore, 0, errno());
        }
        if let Some(identity) = &job.identity {
            // Raw calls: libc's wrappers would signal the threads of the parent.
            if let Some(groups) = &identity.groups
                && libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0
            {
                return (Step::Groups, 0, errno());
            }
            let (uid, gid) = (identity.uid, identity.gid);
            if libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0 {
                return (Step::Gid, 0, errno());
            }
            if libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0 {
                return (Step::Uid, 0, errno());
            }
        }
        libc::umask(job.umask);
        if libc::chdir(job.working_directory) < 0 {
            return (Step::WorkingDirectory, 0, errno());
        }
        if let Some((digits, room)) = job.listen_pid {
            write_number(digits, room, pid);
        }
        if let Err(errno) = default_signals(job.changed_signals) {
            return (Step::Signals, 0, errno);
        }
        crash_point_in_child("child: before exec");
        (Step::Exec, 0, try_programs(job))
    }
}

/// Puts every descriptor at its number and closes all others.
///
/// # Safety
/// See [`become_program`].
unsafe fn place_descriptors(job: &mut ChildJob) -> Result<(), (Step, u32, i32)> {
    // SAFETY: raw system calls on the child's own descriptor table.
    unsafe {
        for (index, placement) in (0_u32..).zip(job.placements.iter_mut()) {
            // A source among the targets could be overwritten before its turn.
            if placement.source < job.first_free && placement.source != placement.target {
                let moved = libc::fcntl(placement.source, libc::F_DUPFD_CLOEXEC, job.first_free);
                if moved < 0 {
                    return Err((Step::MoveDescriptor, index, errno()));
                }
                placement.source = moved;
            }
        }
        let mut next: u32 = 0;
        for (index, placement) in (0_u32..).zip(&job.placements) {
            let target = placement.target.unsigned_abs();
            if target > next && close_range(next, target - 1) < 0 {
                return Err((Step::CloseDescriptors, 0, errno()));
            }
            next = target.saturating_add(1);
            let result = if placement.source == placement.target {
                libc::fcntl(placement.target, libc::F_SETFD, 0)
            } else {
                libc::syscall(libc::SYS_dup3, placement.source, placement.target, 0) as c_int
            };
            if result < 0 {
                return Err((Step::PlaceDescriptor, index, errno()));
            }
        }
        // A real close, now: a pipe end left open until exec would keep others from seeing the end.
        if close_range(next, u32::MAX) < 0 {
            return Err((Step::CloseDescriptors, 0, errno()));
        }
        Ok(())
    }
}

/// # Safety
/// Closes descriptors by number: only for the child's own table.
unsafe fn close_range(first: u32, last: u32) -> c_int {
    // SAFETY: no memory involved.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) as c_int }
}

/// # Safety
/// See [`become_program`].
unsafe fn write_oom_score(score: &Decimal) -> bool {
    const PATH: &CStr = c"/proc/self/oom_score_adj";
    let text = score.text();
    // SAFETY: a constant path, and prepared bytes.
    unsafe {
        let file = libc::open(PATH.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return false;
        }
        let written = libc::write(file, text.as_ptr().cast(), text.len());
        let saved = errno();
        libc::close(file);
        Errno::set_raw(saved);
        usize::try_from(written) == Ok(text.len())
    }
}

/// The signals that this process ignores or handles, bit 0 for signal 1, together with those that
/// a runtime is likely to handle later. Resetting all 64 in each child took a tenth of its start.
#[must_use]
pub fn changed_signals() -> u64 {
    const LIKELY: [c_int; 5] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGPIPE,
        libc::SIGTERM,
        libc::SIGCHLD,
    ];
    let likely = LIKELY
        .iter()
        .fold(0, |set, signal| set | 1_u64 << (signal - 1));
    (1..=64_u32).fold(likely, |set, signal| {
        let mut found = [0_u64; 8];
        let nothing = ptr::null::<u64>();
        // SAFETY: stores at most Linux's `struct sigaction`, which is shorter than `found`. Raw,
        // because libc hides two signals that an ancestor may have left ignored.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                nothing,
                found.as_mut_ptr(),
                8,
            )
        };
        // The first word is the handler on x86-64, aarch64 and riscv64; SIG_DFL is 0.
        let is_default = result < 0 || found[0] == 0;
        if is_default {
            set
        } else {
            set | 1_u64 << (signal - 1)
        }
    })
}

/// Default dispositions first, the empty mask after: no handler of the parent may run here.
///
/// # Safety
/// See [`become_program`].
unsafe fn default_signals(changed: u64) -> Result<(), i32> {
    /// Linux's own `struct sigaction` is at most this long everywhere.
    const ALL_ZERO: [u64; 8] = [0; 8];
    // SAFETY: all zero is SIG_DFL without flags, and an empty mask. Raw calls, because libc keeps
    // two signals from its users that an ancestor may have left ignored. Linux's mask is 64 bits.
    unsafe {
        let nothing = ptr::null_mut::<u64>();
        let mut rest = changed;
        while rest != 0 {
            let signal = rest.trailing_zeros() + 1;
            rest &= rest - 1;
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                ALL_ZERO.as_ptr(),
                nothing,
                8,
            );
        }
        let how = libc::SIG_SETMASK;
        if libc::syscall(libc::SYS_rt_sigprocmask, how, ALL_ZERO.as_ptr(), nothing, 8) < 0 {
            return Err(errno());
        }
    }
    Ok(())
}

/// Writes a positive number, decimal, into a prepared string; NUL ends it.
///
/// # Safety
/// `digits` must be valid for `room` bytes and one NUL more.
unsafe fn write_number(digits: *mut u8, room: usize, number: i32) {
    let mut reversed = [0_u8; 10];
    let mut rest = number.unsigned_abs();
    let mut count = 0_usize;
    for digit in &mut reversed {
        *digit = b'0'.wrapping_add((rest % 10) as u8);
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    let count = count.min(room);
    for (place, digit) in reversed.iter().take(count).rev().enumerate() {
        // SAFETY: `place` is below `room`.
        unsafe { digits.add(place).write(*digit) };
    }
    // SAFETY: at most `room`, where there is room for the NUL (contract).
    unsafe { digits.add(count).write(0) };
}

/// As execvp does: goes on past places where the program is not, and reports a refusal rather than
/// "not found" when there was one.
///
/// # Safety
/// See [`become_program`].
unsafe fn try_programs(job: &ChildJob) -> i32 {
    let mut worst = libc::ENOENT;
    for program in &job.programs {
        // SAFETY: null-terminated strings and arrays.
        unsafe { libc::execve(*program, job.arguments.as_ptr(), job.environment.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            other => return other,
        }
    }
    worst
}

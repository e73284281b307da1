//! A bound on how long a program may take to go on where another one stopped: a timer that survives
//! exec. Unless something better was arranged, it ends the process; [`arrange`] makes it become the
//! program before instead, from wherever it hangs.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use std::ffi::{CString, c_char, c_int};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

/// What the program before gets to go on in its turn, before the process is ended after all.
const WAY_BACK_SECONDS: u32 = 30;

/// Ends the process after `patience`, through exec as well, unless [`cancel`] comes first.
///
/// # Errors
/// None that is documented applies.
pub fn set(patience: Duration) -> Result<(), Errno> {
    #[cfg(test)]
    if super::simulated::now_ns().is_some() {
        return Ok(());
    }
    // Whoever started us may have had it ignored or blocked, and both go through exec.
    by_default();
    let seconds = libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX);
    start_timer(seconds, libc::suseconds_t::from(patience.subsec_micros()))
}

/// All is well.
pub fn cancel() {
    // Stopping a timer cannot fail.
    let _ = start_timer(0, 0);
}

fn start_timer(seconds: libc::time_t, micros: libc::suseconds_t) -> Result<(), Errno> {
    let never = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let value = libc::timeval {
        tv_sec: seconds,
        tv_usec: micros,
    };
    let timer = libc::itimerval {
        it_interval: never,
        it_value: value,
    };
    // SAFETY: Linux only reads the structure, which lives until the call is over.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()) };
    Errno::result(result).map(drop)
}

fn by_default() {
    // SAFETY: the default needs no handler of ours.
    let _ = unsafe { signal(Signal::SIGALRM, SigHandler::SigDfl) };
    unblock();
}

fn unblock() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGALRM);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
}

/// A program to become, wholly prepared: a signal handler can neither allocate nor ask.
#[derive(Debug)]
struct WayBack {
    binary: OwnedFd,
    /// What is to stay open.
    numbers: Vec<RawFd>,
    argv: Vec<*mut c_char>,
    envp: Vec<*mut c_char>,
}

static WAY_BACK: AtomicPtr<WayBack> = AtomicPtr::new(null_mut());

/// While this is there, the timer makes the process another program instead of ending it.
#[derive(Debug)]
pub struct Arranged(());

/// Lets the timer make this process `binary`, with `numbers` open. Once in a process.
///
/// # Errors
/// That of `sigaction`.
pub fn arrange(
    binary: OwnedFd,
    numbers: Vec<RawFd>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
) -> Result<Arranged, Errno> {
    let pointers = |strings: Vec<CString>| {
        let pointers = strings.into_iter().map(CString::into_raw);
        pointers.chain([null_mut()]).collect()
    };
    let way_back = Box::new(WayBack {
        binary,
        numbers,
        argv: pointers(arguments),
        envp: pointers(environment),
    });
    WAY_BACK.store(Box::into_raw(way_back), Ordering::SeqCst);
    // SAFETY: the handler calls nothing but system calls, on memory that nobody changes while it is
    // installed; it does not return into what it interrupted.
    unsafe { signal(Signal::SIGALRM, SigHandler::Handler(go_back)) }?;
    Ok(Arranged(()))
}

impl Drop for Arranged {
    fn drop(&mut self) {
        by_default();
        let pointer = WAY_BACK.swap(null_mut(), Ordering::SeqCst);
        if pointer.is_null() {
            return;
        }
        // SAFETY: it came out of a box in `arrange`, and the handler that looked at it is gone.
        let way_back = unsafe { Box::from_raw(pointer) };
        let WayBack { argv, envp, .. } = *way_back;
        for pointer in argv.into_iter().chain(envp).filter(|one| !one.is_null()) {
            // SAFETY: each came out of a string in `arrange`.
            drop(unsafe { CString::from_raw(pointer) });
        }
    }
}

extern "C" fn go_back(_: c_int) {
    let pointer = WAY_BACK.load(Ordering::SeqCst);
    // SAFETY: null, or set once by `arrange` and freed only after this handler was taken away; there
    // is one thread.
    if let Some(way_back) = unsafe { pointer.as_ref() } {
        for number in &way_back.numbers {
            // SAFETY: changes a flag of the number, if it is open; no memory is involved.
            unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
        }
        unblock();
        let flags = libc::AT_EMPTY_PATH;
        let binary = way_back.binary.as_raw_fd();
        // SAFETY: strings and arrays end with a null and live as long as the process. The timer is set
        // anew first: it goes through exec, and the handler does not.
        unsafe {
            libc::alarm(WAY_BACK_SECONDS);
            let (argv, envp) = (way_back.argv.as_ptr(), way_back.envp.as_ptr());
            libc::syscall(libc::SYS_execveat, binary, c"".as_ptr(), argv, envp, flags);
        }
    }
    // SAFETY: ends the process: without a way back there is nothing it could do. Whoever guards it
    // starts the program before.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
}

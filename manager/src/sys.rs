//! The `unsafe` of this crate: taking over descriptors that an earlier program left in this process,
//! becoming another program from within a signal handler, and waiting for descriptors.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes over a descriptor by its number; it is close-on-exec from here on. Must be called once per
/// number, by whoever was told that it is theirs.
///
/// # Errors
/// When nothing is open under that number.
pub(crate) fn adopt_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only looks whether the number is in use.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the program that this process was before has left it to us under this
    // number; nothing else here knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives memory that was freed back to the system: after a burst of work the allocator would keep it for the next.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and looks at the allocator's own lists, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What a signal makes of this process.
pub(crate) struct Fallback {
    /// The program.
    pub(crate) program: CString,
    /// Its arguments for each signal.
    pub(crate) arguments: Vec<(c_int, Vec<CString>)>,
    /// Descriptors that it gets.
    pub(crate) descriptors: Vec<RawFd>,
}

/// The same, ready to be used where nothing may be allocated.
struct Ready {
    program: CString,
    /// The strings that `pointers` point into.
    _arguments: Vec<(c_int, Vec<CString>)>,
    pointers: Vec<(c_int, Vec<*const c_char>)>,
    descriptors: Vec<RawFd>,
}

static READY: AtomicPtr<Ready> = AtomicPtr::new(ptr::null_mut());

/// The signals of a fallback until [`disarm`].
pub(crate) struct Armed {
    before: Vec<(c_int, libc::sigaction)>,
}

/// From here on each signal that `fallback` has arguments for makes this process that program.
///
/// # Errors
/// When Linux refuses a signal.
pub(crate) fn arm(fallback: Fallback) -> io::Result<Armed> {
    let pointers = fallback
        .arguments
        .iter()
        .map(|(signal, arguments)| {
            let ends = std::iter::once(ptr::null());
            let all = arguments.iter().map(|argument| argument.as_ptr());
            (*signal, all.chain(ends).collect())
        })
        .collect();
    let signals: Vec<c_int> = fallback.arguments.iter().map(|(s, _)| *s).collect();
    // Never freed: a signal may be on its way at any time.
    let ready = Box::leak(Box::new(Ready {
        program: fallback.program,
        pointers,
        _arguments: fallback.arguments,
        descriptors: fallback.descriptors,
    }));
    READY.store(ready, Ordering::SeqCst);
    let mut before = Vec::new();
    for signal in signals {
        // SAFETY: all zeros is a valid sigaction, and `become_fallback` only does what a handler may.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = become_fallback as *const () as usize;
        // The next program must not find the signal blocked.
        action.sa_flags = libc::SA_NODEFER | libc::SA_ONSTACK;
        // SAFETY: as above.
        let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both point to sigactions that live here.
        if unsafe { libc::sigaction(signal, &action, &mut old) } < 0 {
            return Err(io::Error::last_os_error());
        }
        before.push((signal, old));
    }
    Ok(Armed { before })
}

/// Gives the signals back what they meant before.
pub(crate) fn disarm(armed: Armed) {
    READY.store(ptr::null_mut(), Ordering::SeqCst);
    for (signal, old) in armed.before {
        // SAFETY: what was there before is put back.
        unsafe { libc::sigaction(signal, &old, ptr::null_mut()) };
    }
}

/// Only what signal-safety(7) allows.
extern "C" fn become_fallback(signal: c_int) {
    // SAFETY: it is null or was leaked by `arm`, so it is there for ever.
    if let Some(ready) = unsafe { READY.load(Ordering::SeqCst).as_ref() } {
        // SAFETY: takes no pointer.
        unsafe { libc::alarm(0) };
        for number in &ready.descriptors {
            // SAFETY: takes no pointer; the worst is a number that is not open.
            unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
        }
        if let Some((_, arguments)) = ready.pointers.iter().find(|(s, _)| *s == signal) {
            // SAFETY: strings and the array that ends with a null pointer are never freed.
            unsafe { libc::execv(ready.program.as_ptr(), arguments.as_ptr()) };
        }
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(128 + signal) };
}

/// Lets descriptors go along into the next program.
pub(crate) fn let_through(numbers: &[RawFd]) {
    for number in numbers {
        // SAFETY: takes no pointer; the worst is a number that is not open.
        unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
    }
}

/// Becomes another program. Returns only when that fails.
pub(crate) fn become_program(program: &CStr, arguments: &[CString]) -> nix::errno::Errno {
    match nix::unistd::execv(program, arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Registers a descriptor with the runtime, to wait until it is readable.
///
/// # Errors
/// Linux refuses to wait for it.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, and stays open and the same one until the `AsyncFd` is
    // dropped, which owns it; `OwnedFd` gives no way to change it from outside.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

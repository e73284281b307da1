//! What a guard or kernel changes about its own process, and what children get back instead.

use crate::guard::role::Original;
use crate::guard::run::FORWARDED;
use kingpole_protocol::spec::LimitSpec;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Most descriptors that are asked for: four per slot, and room for sockets and sessions.
const DESCRIPTORS_WANTED: u64 = crate::memory::layout::HELD_MAX as u64 + 1024;

const OOM_FILE: &str = "/proc/self/oom_score_adj";
/// Never killed for memory: it uses next to none, and everything hangs on it.
const OOM_GUARD: &str = "-1000";
/// Killed for memory last; nothing is lost by it.
const OOM_KERNEL: &str = "-900";

/// Raises what may be open, as far as Linux allows.
///
/// # Errors
/// The limit cannot be asked for.
pub(super) fn prepare_limits() -> Result<Original, Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(DESCRIPTORS_WANTED);
    // Only root may raise the hard limit, up to fs.nr_open; everybody else takes what there is.
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    let changed = raised.is_ok() && getrlimit(Resource::RLIMIT_NOFILE)? != (soft, hard);
    Ok(Original {
        descriptors: changed.then_some((soft, hard)),
        oom_score: None,
    })
}

/// Protects it from the OOM killer. Gives the score from before if that was allowed.
pub(super) fn protect_guard() -> Option<i32> {
    let before = std::fs::read_to_string(OOM_FILE).ok()?;
    let before = before.trim().parse().ok()?;
    std::fs::write(OOM_FILE, OOM_GUARD)
        .is_ok()
        .then_some(before)
}

/// The kernel may be killed before the guard, and after everybody else.
pub(super) fn protect_kernel(original: &Original) {
    if original.oom_score.is_some() {
        // It stays as well protected as the guard otherwise.
        let _ = std::fs::write(OOM_FILE, OOM_KERNEL);
    }
}

/// Most descriptors that this process may open.
///
/// # Errors
/// That of `getrlimit`.
pub(super) fn descriptors_limit() -> Result<u64, Errno> {
    getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft)
}

/// Limits that children get back.
pub(super) fn original_limits(original: &Original) -> Vec<LimitSpec> {
    let limit = |(soft, hard)| LimitSpec {
        resource: Resource::RLIMIT_NOFILE as u32,
        soft,
        hard,
    };
    original.descriptors.map(limit).into_iter().collect()
}

/// Blocks the signals that guard and kernel read from a descriptor, and makes it.
///
/// # Errors
/// Descriptor limits.
pub(super) fn signals() -> Result<SignalFd, Errno> {
    let mut set = SigSet::empty();
    for signal in FORWARDED.into_iter().chain([Signal::SIGCHLD]) {
        set.add(signal);
    }
    // These mean nothing here, and must not end what holds everything: above all a terminal that
    // goes away. Blocked without being read; children begin with an empty mask.
    let mut blocked = set;
    blocked.add(Signal::SIGHUP);
    blocked.add(Signal::SIGUSR1);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

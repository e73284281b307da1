//! The clocks: the boot clock that the engine counts in, the wall clock that the kernel stamps
//! with, and the way from one to the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::engine::Moment;

/// Where the wall clock's time of a start and Linux's own differ by more than this, the wall clock
/// was set in between and Linux is right. `/proc` counts in hundredths of a second.
const WALL_CLOCK_SLACK: Duration = Duration::from_secs(1);

/// Now, by the boot clock.
#[must_use]
pub fn now() -> Moment {
    Moment(nanos(ClockId::CLOCK_BOOTTIME))
}

/// Now, nanoseconds since 1970.
#[must_use]
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

fn nanos(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux that has pidfds, so there is no error to report.
    clock_gettime(clock).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// How far the two clocks are apart at one time.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    wall_ns: u64,
    boot: Moment,
}

impl Clocks {
    /// As they stand now.
    #[must_use]
    pub fn read() -> Self {
        Self {
            wall_ns: wall_ns(),
            boot: now(),
        }
    }

    /// The moment of a wall clock's time, never later than now.
    #[must_use]
    pub fn moment_of(self, wall_ns: u64) -> Moment {
        let ago = self.wall_ns.saturating_sub(wall_ns);
        Moment(self.boot.0.saturating_sub(ago))
    }

    /// The wall clock's time of a moment.
    #[must_use]
    pub fn wall_of(self, moment: Moment) -> u64 {
        self.wall_ns
            .saturating_sub(self.boot.0.saturating_sub(moment.0))
    }

    /// When a running process was started, given what the kernel stamped then. Linux's own record
    /// wins where the wall clock was set since.
    #[must_use]
    pub fn started(self, pid: u32, stamped_ns: u64) -> Moment {
        let stamped = self.moment_of(stamped_ns);
        match started_by_linux(pid) {
            Some(real) if real.since(stamped).max(stamped.since(real)) > WALL_CLOCK_SLACK => real,
            _ => stamped,
        }
    }
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)): ticks of the boot clock.
fn started_by_linux(pid: u32) -> Option<Moment> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = start_ticks(&text)?;
    let hertz = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some(Moment(
        ticks.checked_mul(1_000_000_000)?.checked_div(hertz)?,
    ))
}

fn start_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, parentheses and spaces included.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 1";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks("7 (x"), None);
    }

    #[test]
    fn this_process_started_in_the_past_whatever_was_stamped() {
        let clocks = Clocks::read();
        let own = std::process::id();
        let real = clocks.started(own, 0);
        assert!(real > Moment(0) && real <= clocks.boot, "{real:?}");
        let stamped = clocks.wall_of(real);
        assert!(clocks.started(own, stamped).since(real) <= WALL_CLOCK_SLACK);
    }
}

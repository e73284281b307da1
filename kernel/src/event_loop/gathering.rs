//! Many children that each write a line now and then: looked at together.
//!
//! Whoever is woken for each line of 200 children pays for a wake-up, a look at the epoll and a frame 20,000 times a second. So
//! once pipes come closely one after the other for a while, and each brings little, pipes are left alone for [`GATHER`] after each
//! look, and what has come by then is read in one turn and sent in one write. Sessions, connections, signals and the guard are not
//! left alone: they end the waiting. A single child is never waited for, nor is one that writes blocks, as its pipe would
//! run full; what a flood of lines needs is in [`super::resting`].
//!
//! The timestamp of a line is late by [`GATHER`] at most.

use super::Kernel;
use super::polled::{Interest, Ready, Token};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long pipes are left alone.
const GATHER: Duration = Duration::from_millis(2);
/// Turns that follow each other so closely are those of many children.
const CLOSE: Duration = Duration::from_millis(1);
/// So many close turns one after the other begin it: a burst is over before that.
const CLOSE_TURNS: u32 = 16;
/// Fewer pipes than this after [`GATHER`] end it: to wait for them gains nothing.
const PIPES_MIN: usize = 4;
/// Whoever fills so much between two looks writes more than lines now and then.
const LITTLE_BYTES: u32 = 4 << 10;
/// With more sessions than this the epoll is the better way to wait.
const SESSIONS_MAX: usize = 32;

/// How pipes have come lately.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// When pipes were read last.
    read_at: Option<Instant>,
    /// Turns with pipes that followed the one before closely.
    close_turns: u32,
    active: bool,
}

impl Gathering {
    /// A turn has read so many pipes, the fullest of which had so many bytes. Until when to leave them alone.
    fn after_turn(&mut self, pipes: usize, most_bytes: u32, now: Instant) -> Option<Instant> {
        if pipes == 0 {
            // A session or a signal ended the waiting: it goes on from where it began.
            let until = self.read_at? + GATHER;
            return (self.active && until > now).then_some(until);
        }
        let since = self.read_at.replace(now);
        let close = since.is_some_and(|since| now.saturating_duration_since(since) < CLOSE);
        let few = self.active && !close && pipes < PIPES_MIN;
        if most_bytes >= LITTLE_BYTES || few || !(close || self.active) {
            self.active = false;
            self.close_turns = 0;
            return None;
        }
        self.close_turns = self.close_turns.saturating_add(1);
        self.active = self.active || self.close_turns >= CLOSE_TURNS;
        self.active.then(|| now + GATHER)
    }
}

impl Kernel {
    /// After a turn: waits until pipes shall be looked at again, or until there is something else to do.
    pub(super) fn gather(&mut self, ready: &[Ready]) {
        let is_pipe = |ready: &&Ready| matches!(ready.token, Token::Pipe(..));
        let pipes = ready.iter().filter(is_pipe).count();
        let most_bytes = std::mem::take(&mut self.hands.most_read);
        let now = Instant::now();
        let Some(until) = self.gathering.after_turn(pipes, most_bytes, now) else {
            return;
        };
        if self.has_work() || self.leaving || self.connections.len() > SESSIONS_MAX {
            return;
        }
        let left = until.saturating_duration_since(now);
        let due = self.deadline_ns().map(|deadline| {
            let left = deadline.saturating_sub(self.now().monotonic_ns);
            Duration::from_nanos(left)
        });
        let left = due.map_or(left, |due| due.min(left));
        let mut waited = self.prompt_ones();
        // Failing to wait only means to look at once.
        let _ = ppoll(&mut waited, Some(TimeSpec::from_duration(left)), None);
    }

    /// Everything that is polled and is not a child's.
    fn prompt_ones(&self) -> Vec<PollFd<'_>> {
        let read = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut waited = vec![read(self.signals.as_fd())];
        waited.extend(self.hands.guard.descriptor().map(read));
        waited.extend(self.heirloom.as_ref().map(|it| read(it.ended.as_fd())));
        waited.extend(self.listeners.iter().map(|it| read(it.descriptor())));
        waited.extend(self.connections.values().filter_map(|connection| {
            let flags = match connection.interest() {
                Interest::None => return None,
                Interest::Read | Interest::Once => PollFlags::POLLIN,
                Interest::Write => PollFlags::POLLOUT,
                Interest::ReadWrite => PollFlags::POLLIN | PollFlags::POLLOUT,
            };
            Some(PollFd::new(connection.socket(), flags))
        }));
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_micros(100);

    /// So many turns with one pipe each, a moment apart.
    fn ticks(gathering: &mut Gathering, now: &mut Instant, turns: u32) -> Option<Instant> {
        let mut until = None;
        for _ in 0..turns {
            *now += MOMENT;
            until = gathering.after_turn(1, 100, *now);
        }
        until
    }

    #[test]
    fn a_few_lines_are_read_at_once_and_a_stream_of_them_is_gathered() {
        let (mut gathering, mut now) = (Gathering::default(), Instant::now());
        assert_eq!(ticks(&mut gathering, &mut now, CLOSE_TURNS), None);
        let until = ticks(&mut gathering, &mut now, 1);
        assert_eq!(until, Some(now + GATHER));
        // It goes on while each look finds some.
        now += GATHER;
        let until = gathering.after_turn(PIPES_MIN, 100, now);
        assert_eq!(until, Some(now + GATHER));
        now += GATHER;
        assert_eq!(gathering.after_turn(PIPES_MIN - 1, 100, now), None);
        assert_eq!(ticks(&mut gathering, &mut now, 1), None);
    }

    #[test]
    fn a_request_in_between_does_not_put_off_the_next_look() {
        let (mut gathering, mut now) = (Gathering::default(), Instant::now());
        let until = ticks(&mut gathering, &mut now, CLOSE_TURNS + 1);
        assert_eq!(gathering.after_turn(0, 0, now + MOMENT), until);
        assert_eq!(gathering.after_turn(0, 0, now + GATHER), None);
        // Without a stream of lines requests are no reason to wait.
        assert_eq!(Gathering::default().after_turn(0, 0, now), None);
    }

    #[test]
    fn a_child_that_fills_its_pipe_is_not_left_alone() {
        let (mut gathering, mut now) = (Gathering::default(), Instant::now());
        ticks(&mut gathering, &mut now, CLOSE_TURNS + 1);
        now += MOMENT;
        assert_eq!(gathering.after_turn(9, LITTLE_BYTES, now), None);
        assert_eq!(ticks(&mut gathering, &mut now, 1), None);
    }
}

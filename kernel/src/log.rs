//! The log: one line per event, to standard error, never waiting for its reader.
//!
//! A line is written only when the descriptor takes it at once. Until then lines queue, up to a
//! bound; what goes past it is counted, and the count is the next line.

use crate::limits::LOG_LINES_MAX;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

/// Longest line; a pipe takes so many bytes at once or none (PIPE_BUF, pipe(7)).
const LINE_BYTES_MAX: usize = 4096;

/// The log.
#[derive(Debug)]
pub struct Log {
    to: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
    dropped: u64,
}

/// Whether lines wait for the descriptor to be writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// All is written.
    Empty,
    /// Call [`Log::flush`] when the descriptor is writable.
    Waiting,
}

impl Log {
    /// Writes to `to`.
    #[must_use]
    pub fn new(to: OwnedFd) -> Self {
        Self {
            to,
            waiting: VecDeque::new(),
            dropped: 0,
        }
    }

    /// The descriptor, to be polled while lines wait.
    #[must_use]
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.to.as_fd()
    }

    /// Adds a line and writes what can be written.
    pub fn line(&mut self, unix_ns: u64, text: &str) -> Backlog {
        if self.waiting.len() >= LOG_LINES_MAX {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.waiting.push_back(format_line(unix_ns, text));
        }
        self.flush(unix_ns)
    }

    /// Writes what can be written.
    pub fn flush(&mut self, unix_ns: u64) -> Backlog {
        loop {
            let Some(line) = self.waiting.front() else {
                if self.dropped == 0 {
                    return Backlog::Empty;
                }
                let text = format!(
                    "log: {} lines were dropped, its reader is slow",
                    self.dropped
                );
                self.dropped = 0;
                self.waiting.push_back(format_line(unix_ns, &text));
                continue;
            };
            if !is_writable(&self.to) {
                return Backlog::Waiting;
            }
            match nix::unistd::write(&self.to, line) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Backlog::Waiting,
                // Whole, in part (a full disk), or never: there is nobody to tell.
                Ok(_) | Err(_) => {
                    self.waiting.pop_front();
                }
            }
        }
    }
}

fn is_writable(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(0) => false,
        // A closed or broken log takes everything, by throwing it away.
        _ => true,
    }
}

fn format_line(unix_ns: u64, text: &str) -> Vec<u8> {
    let mut line = format!("{} ", Timestamp(unix_ns)).into_bytes();
    for character in text.chars() {
        let clean = if character.is_control() {
            ' '
        } else {
            character
        };
        let mut buffer = [0; 4];
        let bytes = clean.encode_utf8(&mut buffer).as_bytes();
        if line.len().saturating_add(bytes.len()) >= LINE_BYTES_MAX {
            break;
        }
        line.extend_from_slice(bytes);
    }
    line.push(b'\n');
    line
}

/// A time as `2026-11-21T09:30:00.123Z`.
struct Timestamp(u64);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0 / 1_000_000 % 1000;
        let seconds = self.0 / 1_000_000_000;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days to date, with years that begin in March (the leap day comes last): the algorithm of
        // Howard Hinnant's "chrono-compatible low-level date algorithms". Any u64 of nanoseconds
        // stays below the year 2600, so nothing overflows.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn times_are_utc() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        let leap_day = Timestamp(1_709_164_800_000_000_000 + 5_000_000);
        assert_eq!(leap_day.to_string(), "2024-02-29T00:00:00.005Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), "2554-07-21T23:34:33.709Z");
    }

    #[test]
    fn a_reader_that_sleeps_costs_lines_and_no_waiting() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut log = Log::new(write);
        let text = "x".repeat(1000);
        let last = (0..5000).map(|_| log.line(0, &text)).last();
        assert_eq!(last, Some(Backlog::Waiting));
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            std::fs::File::from(read).read_to_string(&mut all).unwrap();
            all
        });
        while log.flush(0) == Backlog::Waiting {
            let mut polled = [PollFd::new(log.descriptor(), PollFlags::POLLOUT)];
            poll(&mut polled, PollTimeout::NONE).unwrap();
        }
        drop(log);
        let all = reader.join().unwrap();
        let dropped = all.lines().last().unwrap();
        let written = all.lines().count() as u64 - 1;
        assert!(
            dropped.contains(&format!("{} lines were dropped", 5000 - written)),
            "{dropped}"
        );
    }

    #[test]
    fn a_line_stays_a_line() {
        let line = format_line(0, "a\nb\u{1b}c");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(format_line(0, &"é".repeat(10_000)).len() <= LINE_BYTES_MAX);
    }
}

//! Pipes that are left alone for a moment because their children write line after line.
//!
//! A prompt reader of such a child is woken for each line, and its waking slows the child down: on a busy machine, before and after
//! in turns, 100-byte lines reached their file at 8.7 MB/s with one and at 16.9 MB/s with this, and a GB of them took kernel,
//! guard and manager 5.8 and 3.7 processor seconds. So a pipe that had something again within
//! [`CLOSE`] of the last time is not looked at for [`REST`]; what it gets meanwhile is one record. The first lines after a
//! silence are read at once, and a pipe that its writer has closed shows that while it rests. The timestamp of a line is
//! late by [`REST`] and the granularity of the timer, two milliseconds together, at most.

use super::hands::Hands;
use super::polled::{Interest, Token};
use crate::memory::cursor::Stream;
use kingpole_protocol::ids::ProcessId;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a pipe rests.
const REST: Duration = Duration::from_millis(1);
/// Output that follows the last read, or the last rest, so closely is a stream of lines.
const CLOSE: Duration = Duration::from_millis(1);
/// Whoever fills so much in a moment writes blocks: waiting would gain nothing and let its pipe run full.
const BLOCK_BYTES: u32 = 16 << 10;

/// The pipes that rest, the first to be woken in front. At most two for each child.
pub(super) type Resting = VecDeque<(Instant, ProcessId, Stream)>;

impl Hands {
    /// A record of this length was read: lets the pipe rest if more such will follow.
    pub(super) fn rest_after(&mut self, process: ProcessId, stream: Stream, bytes: u32) {
        self.most_read = self.most_read.max(bytes);
        // Its clock is not ours, and what happens in it must not depend on how fast this machine is.
        #[cfg(test)]
        if crate::sys::simulated::with(|_| ()).is_some() {
            return;
        }
        let now = Instant::now();
        let Some(child) = self.children.get_mut(&process) else {
            return;
        };
        let flow = child.flow_mut(stream);
        let is_close = |since: Instant| now.saturating_duration_since(since) < CLOSE;
        let floods = bytes < BLOCK_BYTES && flow.free_since.is_some_and(is_close);
        flow.free_since = Some(now);
        // A narrow pipe would be full before the rest is over.
        if !floods || !child.widen(stream) {
            return;
        }
        let Some(pipe) = child.pipe(stream) else {
            return;
        };
        let token = Token::Pipe(process, stream);
        let polled = self.polled.borrow();
        if polled.change(pipe, token, Interest::None).is_ok() {
            self.resting.push_back((now + REST, process, stream));
        }
    }

    /// When the next rest is over.
    pub(super) fn rest_ends(&self) -> Option<Instant> {
        self.resting.front().map(|(until, ..)| *until)
    }

    /// Looks again at pipes that have rested long enough.
    pub(super) fn end_rests(&mut self) {
        let now = Instant::now();
        while let Some((until, process, stream)) = self.resting.front().copied() {
            if until > now {
                return;
            }
            self.resting.pop_front();
            self.look_again(process, stream, now);
        }
    }

    /// Looks again at all pipes, before somebody else goes on with them.
    pub(super) fn end_all_rests(&mut self) {
        let now = Instant::now();
        while let Some((_, process, stream)) = self.resting.pop_front() {
            self.look_again(process, stream, now);
        }
    }

    fn look_again(&mut self, process: ProcessId, stream: Stream, now: Instant) {
        let Some(child) = self.children.get_mut(&process) else {
            return;
        };
        child.flow_mut(stream).free_since = Some(now);
        if let Some(pipe) = child.pipe(stream) {
            let token = Token::Pipe(process, stream);
            // Not there: its reading is paused, and begins anew by itself.
            let _ = self.polled.borrow().change(pipe, token, Interest::Read);
        }
    }
}

//! Output: read from children, kept, followed, released.

use super::{Refusal, Step, refusal};
use crate::effect::{Asker, Delivery, Effect};
use crate::input::{OutputPosition, ReadOutcome, Room};
use crate::limits::{
    GIVE_BACK_DELAY_NS, READ_AGAIN_DOUBLINGS_MAX, READ_AGAIN_FIRST_NS, RINGS_PASSED_MAX,
    SERVED_PER_TURN_MAX,
};
use crate::memory::cursor::{EofBits, Stream};
use crate::memory::read_cell::OverflowPolicy;
use crate::memory::ring::{Gap as RingGap, ReadMark};
use crate::state::{Access, Follow, GiveBack, Phase, Process, Reading, SessionId, flags};
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::{Gap, StreamEnded};
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::request;
use kingpole_protocol::spec::Overflow;

impl Step<'_> {
    pub(super) fn handle_readable(&mut self, id: ProcessId, stream: Stream) {
        let Some(process) = self.state.processes.get(&id) else {
            return;
        };
        let policy = match process.output.overflow {
            _ if process.flags & flags::REMOVED != 0 => OverflowPolicy::DropOldest,
            Overflow::DropOldest => OverflowPolicy::DropOldest,
            Overflow::Block => OverflowPolicy::Block,
        };
        self.effects.push(Effect::Read {
            process: id,
            stream,
            policy,
        });
    }

    pub(super) fn handle_output_read(
        &mut self,
        id: ProcessId,
        stream: Stream,
        outcome: ReadOutcome,
    ) {
        let Some(process) = self.state.processes.get_mut(&id) else {
            return;
        };
        let output = &mut process.output;
        if std::mem::take(&mut output.refusals) > 0 {
            self.effects.push(Effect::Log(format!(
                "process {id}: its output can be read again"
            )));
        }
        match outcome {
            ReadOutcome::Nothing => {
                if process.end.is_some() && !output.seen_empty.has(stream) {
                    output.seen_empty = output.seen_empty.with(stream);
                    self.wake_followers(id);
                }
            }
            ReadOutcome::NoRoom => {
                output.reading = Reading::Paused;
                self.effects.push(Effect::PauseReading { process: id });
                self.wake_followers(id);
            }
            ReadOutcome::Record {
                output: position,
                dropped_records,
                dropped_bytes,
            } => {
                output.cursor = position.cursor;
                output.oldest = position.oldest;
                output.dropped_records = output.dropped_records.saturating_add(dropped_records);
                output.dropped_bytes = output.dropped_bytes.saturating_add(dropped_bytes);
                if process.flags & flags::REMOVED != 0 {
                    let through = Sequence(u64::MAX);
                    self.effects.push(Effect::Acknowledge {
                        process: id,
                        through,
                    });
                } else {
                    self.discard_if_unwanted(id);
                    self.wake_followers(id);
                }
            }
            ReadOutcome::EndOfStream(position) => {
                output.cursor = position.cursor;
                output.oldest = position.oldest;
                self.wake_followers(id);
                self.forget_if_done(id);
            }
        }
    }

    /// Reading goes on later, ever more rarely, for as long as it takes: the child waits meanwhile.
    pub(super) fn handle_read_failed(
        &mut self,
        id: ProcessId,
        position: Option<OutputPosition>,
        reason: &str,
    ) {
        let Some(process) = self.state.processes.get_mut(&id) else {
            return;
        };
        let output = &mut process.output;
        if let Some(position) = position {
            output.cursor = position.cursor;
            output.oldest = position.oldest;
        }
        if output.reading != Reading::Polled {
            return;
        }
        output.reading = Reading::PutOff;
        let doublings = output.refusals.min(READ_AGAIN_DOUBLINGS_MAX);
        output.refusals = output.refusals.saturating_add(1);
        let is_first = output.refusals == 1;
        let at = self
            .now
            .monotonic_ns
            .saturating_add(READ_AGAIN_FIRST_NS << doublings);
        self.state.read_again.insert((at, id));
        self.effects.push(Effect::PauseReading { process: id });
        if is_first {
            self.log(format!(
                "process {id}: its output cannot be read now, and it waits: {reason}; trying again"
            ));
        }
    }

    /// The timer of reading that was put off.
    pub(super) fn read_again(&mut self) {
        while let Some((at, id)) = self.state.read_again.first().copied() {
            if at > self.now.monotonic_ns {
                return;
            }
            self.state.read_again.remove(&(at, id));
            let Some(process) = self.state.processes.get_mut(&id) else {
                continue;
            };
            if process.output.reading == Reading::PutOff {
                process.output.reading = Reading::Polled;
                self.effects.push(Effect::ResumeReading { process: id });
            }
        }
    }

    pub(super) fn handle_acknowledged(&mut self, id: ProcessId, position: OutputPosition) {
        let Some(process) = self.state.processes.get_mut(&id) else {
            return;
        };
        let output = &mut process.output;
        output.cursor = position.cursor;
        output.oldest = position.oldest;
        if output.reading == Reading::Paused {
            output.reading = Reading::Polled;
            self.effects.push(Effect::ResumeReading { process: id });
        }
        if output.cursor.is_empty() && output.give_back == GiveBack::Idle {
            let at = self.now.monotonic_ns.saturating_add(GIVE_BACK_DELAY_NS);
            output.give_back = GiveBack::At(at);
            self.state.give_back.insert((at, id));
        }
        // A follower that was behind has a gap now.
        self.wake_followers(id);
        self.forget_if_done(id);
    }

    /// The timer of drained rings.
    pub(super) fn give_memory_back(&mut self) {
        while let Some((at, id)) = self.state.give_back.first().copied() {
            if at > self.now.monotonic_ns {
                return;
            }
            self.state.give_back.remove(&(at, id));
            let Some(process) = self.state.processes.get_mut(&id) else {
                continue;
            };
            process.output.give_back = GiveBack::Idle;
            // Otherwise the next acknowledgement that drains it starts the timer again.
            if process.output.cursor.is_empty() {
                self.effects.push(Effect::GiveBack { process: id });
            }
        }
    }

    pub(super) fn handle_ring_damaged(&mut self, id: ProcessId, reason: &str) {
        self.log(format!(
            "process {id}: {reason}; its unread output is given up"
        ));
        self.effects.push(Effect::AbandonOutput { process: id });
    }

    pub(super) fn follow_mapped(
        &mut self,
        asker: Asker,
        follow: &request::FollowMapped,
    ) -> Result<(), Refusal> {
        if !self.passes_descriptors(asker.session) {
            let text = "output cannot be read in place over TCP; have it sent";
            return Err(refusal(ErrorCode::UNSUPPORTED, text));
        }
        #[cfg(test)]
        if !crate::sys::simulated::knows_readers() {
            let text = "a kernel before this was thought of";
            return Err(refusal(ErrorCode::UNKNOWN_KIND, text));
        }
        let request::FollowMapped {
            process,
            from,
            credit_bytes,
        } = *follow;
        let follow = request::Follow {
            process,
            from,
            credit_bytes,
        };
        self.follow(asker, &follow, Access::InPlace)
    }

    pub(super) fn follow(
        &mut self,
        asker: Asker,
        follow: &request::Follow,
        access: Access,
    ) -> Result<(), Refusal> {
        let id = follow.process;
        let output = &self.process(id)?.output;
        let next = output.cursor.next_seq;
        if follow.from > next {
            let text = format!(
                "process {id}: record {} is not there yet; the next is {next}",
                follow.from
            );
            return Err(refusal(ErrorCode::INVALID, text));
        }
        let seq = if follow.from == Sequence(0) {
            output.oldest
        } else {
            follow.from
        };
        let mark = ReadMark {
            seq,
            position: output.cursor.tail,
        };
        let credit = i64::try_from(follow.credit_bytes).unwrap_or(i64::MAX);
        self.begin_following(asker.session, id, mark, credit, access);
        self.done(asker)?;
        self.wake(asker.session, id);
        Ok(())
    }

    pub(super) fn begin_following(
        &mut self,
        session: SessionId,
        id: ProcessId,
        mark: ReadMark,
        credit: i64,
        access: Access,
    ) {
        let follow = Follow {
            mark,
            credit,
            told: EofBits::NONE,
            access,
        };
        let Some(session) = self.state.sessions.get_mut(&session) else {
            return;
        };
        // Whoever asks anew may have closed the file of the ring.
        session.rings.remove(&id);
        session.follows.insert(id, follow);
        if let Some(process) = self.state.processes.get_mut(&id) {
            process.followers.insert(session.id);
        }
    }

    /// Whether it did follow.
    pub(super) fn stop_following(&mut self, session: SessionId, id: ProcessId) -> bool {
        let known = self
            .state
            .sessions
            .get_mut(&session)
            .is_some_and(|session| {
                session.pending.remove(&id);
                session.rings.remove(&id);
                session.follows.remove(&id).is_some()
            });
        if let Some(process) = self.state.processes.get_mut(&id) {
            process.followers.remove(&session);
        }
        known
    }

    pub(super) fn grant(&mut self, session: SessionId, id: ProcessId, credit_bytes: u64) {
        // A grant has no answer; one that crossed the end of its follow means nothing.
        let Some(held) = self.state.sessions.get_mut(&session) else {
            return;
        };
        let Some(follow) = held.follows.get_mut(&id) else {
            return;
        };
        let more = i64::try_from(credit_bytes).unwrap_or(i64::MAX);
        follow.credit = follow.credit.saturating_add(more);
        self.wake(session, id);
    }

    pub(super) fn unfollow(&mut self, asker: Asker, id: ProcessId) -> Result<(), Refusal> {
        let known = self.stop_following(asker.session, id);
        if !known {
            let text = format!("this session does not follow process {id}");
            return Err(refusal(ErrorCode::NOT_FOUND, text));
        }
        self.release(id);
        self.done(asker)
    }

    pub(super) fn wake_followers(&mut self, id: ProcessId) {
        let Some(process) = self.state.processes.get(&id) else {
            return;
        };
        if process.followers.is_empty() {
            return;
        }
        for session in process.followers.clone() {
            self.wake(session, id);
        }
    }

    /// Notes that there may be something to send.
    pub(super) fn wake(&mut self, id: SessionId, process: ProcessId) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.pending.insert(process);
        if session.takes_output() {
            self.state.serving.insert(id);
        }
    }

    /// Sends each session that has room something of each process that it follows, at most
    /// [`SERVED_PER_TURN_MAX`] in turn.
    pub(super) fn serve_followers(&mut self) {
        for id in self.state.serving.clone() {
            let Some(session) = self.state.sessions.get_mut(&id) else {
                self.state.serving.remove(&id);
                continue;
            };
            if session.phase == Phase::Text {
                self.serve_text(id);
                continue;
            }
            let next = session.serve_next;
            let turn = session
                .pending
                .range(next..)
                .chain(session.pending.range(..next))
                .take(SERVED_PER_TURN_MAX)
                .copied()
                .collect::<Vec<_>>();
            if let Some(last) = turn.last() {
                session.serve_next = ProcessId(last.0.saturating_add(1));
            }
            for process in turn {
                self.serve(id, process);
            }
            self.rest_if_served(id);
        }
    }

    fn rest_if_served(&mut self, id: SessionId) {
        let busy = self
            .state
            .sessions
            .get(&id)
            .is_some_and(|s| !s.pending.is_empty() && s.queue == Room::Free);
        if !busy {
            self.state.serving.remove(&id);
        }
    }

    /// One helping for one follower, or the news that a stream is complete.
    fn serve(&mut self, id: SessionId, process_id: ProcessId) {
        let state = &mut *self.state;
        let Some(session) = state.sessions.get_mut(&id) else {
            return;
        };
        let (Some(follow), Some(process)) = (
            session.follows.get_mut(&process_id),
            state.processes.get(&process_id),
        ) else {
            session.pending.remove(&process_id);
            return;
        };
        let behind = follow.mark.seq < process.output.cursor.next_seq;
        if behind && follow.credit > 0 {
            let credit = u64::try_from(follow.credit).unwrap_or(0);
            let mark = follow.mark;
            let ring = session.rings.get(&process_id).copied();
            let passes = ring.is_some() || session.rings.len() < RINGS_PASSED_MAX;
            let delivery = match follow.access {
                Access::InPlace if passes => Delivery::InPlace { ring },
                Access::InPlace | Access::Sent => Delivery::Bytes,
            };
            self.effects.push(Effect::SendOutput {
                session: id,
                process: process_id,
                mark,
                credit,
                delivery,
            });
            return;
        }
        let ended = ended_streams(process, follow);
        session.pending.remove(&process_id);
        for event in ended {
            self.event(id, event);
        }
    }

    pub(super) fn handle_output_gap(
        &mut self,
        id: SessionId,
        process: ProcessId,
        missed: &RingGap,
        mark: ReadMark,
    ) {
        let Some(follow) = self.follow_of(id, process) else {
            return;
        };
        follow.mark = mark;
        if self.is_text(id) {
            return self.handle_text_gap(id, missed);
        }
        self.event(id, gap(process, missed));
        self.wake(id, process);
    }

    pub(super) fn note_passed_ring(
        &mut self,
        id: SessionId,
        process: ProcessId,
        passed: Option<u64>,
    ) {
        let session = self.state.sessions.get_mut(&id);
        if let (Some(session), Some(ring)) = (session, passed)
            && session.follows.contains_key(&process)
        {
            session.rings.insert(process, ring);
        }
    }

    pub(super) fn handle_output_sent(
        &mut self,
        id: SessionId,
        process_id: ProcessId,
        mark: ReadMark,
        bytes: u64,
        room: Room,
    ) {
        if let Some(follow) = self.follow_of(id, process_id) {
            follow.mark = mark;
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            follow.credit = follow.credit.saturating_sub(bytes);
        }
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.queue = room;
        if room == Room::Congested {
            self.state.serving.remove(&id);
            return;
        }
        let state = &*self.state;
        let follow = state
            .sessions
            .get(&id)
            .and_then(|s| s.follows.get(&process_id));
        let process = state.processes.get(&process_id);
        let more = match (follow, process) {
            (Some(follow), Some(process)) => {
                let behind = follow.mark.seq < process.output.cursor.next_seq;
                if behind {
                    follow.credit > 0
                } else {
                    process.output.cursor.eof != follow.told
                }
            }
            _ => false,
        };
        if more {
            self.wake(id, process_id);
        } else if let Some(session) = self.state.sessions.get_mut(&id) {
            session.pending.remove(&process_id);
        }
    }

    fn follow_of(&mut self, session: SessionId, process: ProcessId) -> Option<&mut Follow> {
        self.state
            .sessions
            .get_mut(&session)?
            .follows
            .get_mut(&process)
    }

    /// A process is about to be forgotten: its followers hear how its streams ended.
    pub(super) fn part_from_followers(&mut self, id: ProcessId) {
        let Some(process) = self.state.processes.get_mut(&id) else {
            return;
        };
        for session in std::mem::take(&mut process.followers) {
            if self.is_text(session) {
                self.part_from_text(session, id);
                continue;
            }
            let state = &mut *self.state;
            let Some(process) = state.processes.get(&id) else {
                return;
            };
            let Some(held) = state.sessions.get_mut(&session) else {
                continue;
            };
            held.pending.remove(&id);
            held.rings.remove(&id);
            let Some(mut follow) = held.follows.remove(&id) else {
                continue;
            };
            let cursor = &process.output.cursor;
            let missed = (follow.mark.seq < cursor.next_seq).then_some(RingGap {
                from: follow.mark.seq,
                to: cursor.next_seq,
                stdout_offset: cursor.stdout_bytes,
                stderr_offset: cursor.stderr_bytes,
            });
            follow.mark = ReadMark {
                seq: cursor.next_seq,
                position: cursor.head,
            };
            let ended = ended_streams(process, &mut follow);
            if let Some(missed) = missed {
                self.event(session, gap(id, &missed));
            }
            for event in ended {
                self.event(session, event);
            }
        }
    }
}

fn gap(process: ProcessId, gap: &RingGap) -> Gap {
    let &RingGap {
        from,
        to,
        stdout_offset,
        stderr_offset,
    } = gap;
    Gap {
        process,
        from,
        to,
        stdout_offset,
        stderr_offset,
    }
}

/// The streams that ended, were sent whole and were not told of yet.
fn ended_streams(process: &Process, follow: &mut Follow) -> Vec<StreamEnded> {
    let cursor = &process.output.cursor;
    let mut ended = Vec::new();
    for stream in Stream::ALL {
        let complete = follow.mark.seq >= cursor.next_seq;
        if cursor.eof.has(stream) && complete && !follow.told.has(stream) {
            follow.told = follow.told.with(stream);
            ended.push(StreamEnded {
                process: process.id,
                stream,
                next: cursor.next_seq,
                bytes: cursor.stream_bytes(stream),
            });
        }
    }
    ended
}

//! Children's output between pipe and state: read, released, given up, and what is done when Linux
//! refuses for the moment.
//!
//! A pipe is closed at its end and never because of an error: its child would be killed by SIGPIPE.
//! What cannot be read now is tried again; what cannot be read at all is given up as a gap.

use super::adopt::kind_of_pipe;
use super::hands::{Child, Hands, position};
use super::polled::{Interest, Token};
use crate::crash::crash_point;
use crate::input::{Input, OutputPosition, ReadOutcome};
use crate::memory::cursor::{RingCursor, Sequence, Stream};
use crate::memory::held::{HeldKind, Tag};
use crate::memory::read_cell::{
    OverflowPolicy, ReadError, ReadOutcome as CellOutcome, Reading, abandon_read,
    is_read_in_flight, read_in_flight, recover_read,
};
use crate::memory::{Ring, RingSize, SlotIndex};
use crate::reap::now_ns;
use crate::state::State;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::limits::RECORD_DATA_BYTES_MAX;
use nix::errno::Errno;
use std::os::fd::AsFd;

impl Hands {
    /// Polls a child's pipes; what is polled already stays so.
    pub(super) fn poll_pipes(&self, child: &Child, process: ProcessId) -> Result<(), Errno> {
        for stream in Stream::ALL {
            let Some(pipe) = child.pipe(stream) else {
                continue;
            };
            let token = Token::Pipe(process, stream);
            self.polled.borrow().add(pipe, token, Interest::Read)?;
        }
        Ok(())
    }

    pub(super) fn pause(&self, process: ProcessId) {
        let Some(child) = self.children.get(&process) else {
            return;
        };
        for pipe in Stream::ALL
            .into_iter()
            .filter_map(|stream| child.pipe(stream))
        {
            self.polled.borrow().remove(pipe);
        }
    }

    /// Polls a child's pipes again. What is in flight does not show on any pipe, so it goes first.
    pub(super) fn resume(&mut self, state: &State, process: ProcessId) -> [Option<Input>; 2] {
        let finished = match self.finish_read(state) {
            Ok(finished) => finished,
            Err(reason) => return [None, Some(self.failed(process, reason))],
        };
        let Some(child) = self.children.get(&process) else {
            return [finished, None];
        };
        let refused = self.poll_pipes(child, process).err();
        let failed = refused.map(|cause| format!("its pipes cannot be polled: {cause}"));
        [finished, failed.map(|reason| self.failed(process, reason))]
    }

    /// Children whose pipes could not be polled, or not read, when they were new here.
    pub(super) fn take_unpolled(&mut self) -> Vec<Input> {
        let unpolled = std::mem::take(&mut self.unpolled);
        unpolled
            .into_iter()
            .map(|process| self.failed(process, "it could not be done at once".to_owned()))
            .collect()
    }

    /// Reads a pipe once. A read that met an error goes first: there is room for one in flight.
    pub(super) fn read(
        &mut self,
        state: &State,
        process: ProcessId,
        stream: Stream,
        policy: OverflowPolicy,
    ) -> [Option<Input>; 2] {
        let finished = match self.finish_read(state) {
            Ok(finished) => finished,
            Err(reason) => return [None, Some(self.failed(process, reason))],
        };
        [finished, self.read_once(state, process, stream, policy)]
    }

    fn read_once(
        &mut self,
        state: &State,
        process: ProcessId,
        stream: Stream,
        policy: OverflowPolicy,
    ) -> Option<Input> {
        if let Err(error) = self.ensure_ring(state, process)? {
            return Some(self.failed(process, format!("its buffer cannot be made: {error}")));
        }
        let child = self.children.get_mut(&process)?;
        let slot = child.slot;
        let pipe = match stream {
            Stream::Stdout => child.stdout.as_ref(),
            Stream::Stderr => child.stderr.as_ref(),
        }?;
        let ring = child.ring.as_mut()?;
        let mut reading = Reading {
            state: &self.memory,
            bounce: &self.bounce,
            slot,
            ring,
            policy,
        };
        let outcome = match reading.read(pipe.as_fd(), stream, now_ns()) {
            Ok(CellOutcome::Nothing) => ReadOutcome::Nothing,
            Ok(CellOutcome::NoRoom) => ReadOutcome::NoRoom,
            Ok(CellOutcome::Record(header)) => {
                if header.length as usize >= RECORD_DATA_BYTES_MAX {
                    child.widen(stream);
                }
                self.rest_after(process, stream, header.length);
                self.record_outcome(process)?
            }
            Ok(CellOutcome::EndOfFile) => {
                // The guard still has it for a moment, and for as long as it is stopped.
                self.polled.borrow().remove(pipe);
                child.drop_pipe(stream);
                self.guard
                    .release(Tag::of_process(process, kind_of_pipe(stream)));
                crash_point("eof: after the drop");
                let child = self.children.get(&process)?;
                ReadOutcome::EndOfStream(position(&self.memory, slot, child.ring.as_ref())?)
            }
            // The state remembers where the ring stands: that is published again, without what is in it.
            Err(error @ (ReadError::Ring(_) | ReadError::Slot(_))) => {
                let reason = error.to_string();
                return Some(Input::RingDamaged { process, reason });
            }
            Err(error) => {
                return Some(self.failed(process, format!("{}: {error}", stream.name())));
            }
        };
        Some(Input::OutputRead {
            process,
            stream,
            outcome,
        })
    }

    /// What a published record means to the state.
    fn record_outcome(&mut self, process: ProcessId) -> Option<ReadOutcome> {
        let child = self.children.get_mut(&process)?;
        let ring = child.ring.as_ref();
        let output = position(&self.memory, child.slot, ring)?;
        let (told, now) = (
            child.dropped_told,
            ring.map(Ring::dropped).unwrap_or_default(),
        );
        child.dropped_told = now;
        let dropped_records = now.records.saturating_sub(told.records);
        let dropped_bytes = now.bytes.saturating_sub(told.bytes);
        if dropped_records != 0 {
            let slot = self.memory.slot(child.slot);
            slot.count_dropped(dropped_records, dropped_bytes);
        }
        Some(ReadOutcome::Record {
            output,
            dropped_records,
            dropped_bytes,
        })
    }

    /// Reading is put off. Room may have been made already, so the state hears where the ring stands.
    fn failed(&self, process: ProcessId, reason: String) -> Input {
        let output = self
            .children
            .get(&process)
            .and_then(|child| position(&self.memory, child.slot, child.ring.as_ref()));
        Input::ReadFailed {
            process,
            output,
            reason,
        }
    }

    /// A child whose buffer was lost gets a new one. `None` when it has nothing to be read.
    fn ensure_ring(&mut self, state: &State, process: ProcessId) -> Option<Result<(), String>> {
        let child = self.children.get_mut(&process)?;
        if child.ring.is_some() {
            return Some(Ok(()));
        }
        let asked_bytes = state.processes.get(&process)?.output.capacity_bytes;
        let ring = match Ring::create(RingSize::holding(asked_bytes)?) {
            Ok(ring) => ring.limited_to(asked_bytes),
            Err(error) => return Some(Err(error.to_string())),
        };
        let tag = Tag::of_process(process, HeldKind::Ring);
        if let Err(error) = self.guard.hold(&[(tag, ring.descriptor())]) {
            return Some(Err(error.to_string()));
        }
        child.ring = Some(ring);
        Some(Ok(()))
    }

    /// Finishes the read that is in flight, if any, whosoever it is; an error says why that has to
    /// wait.
    fn finish_read(&mut self, state: &State) -> Result<Option<Input>, String> {
        if !is_read_in_flight(&self.memory) {
            return Ok(None);
        }
        let Some((slot, stream)) = read_in_flight(&self.memory) else {
            return Ok(self.lose_read(state, None));
        };
        let owner = self.process_of(slot);
        if let Some(known) = owner.and_then(|process| state.processes.get(&process))
            && self.memory.slot(slot).cursor().is_err()
        {
            self.memory.slot(slot).publish(&known.output.cursor);
        }
        let children = &mut self.children;
        let recovered = recover_read(&self.memory, &self.bounce, now_ns(), |_| {
            children.get_mut(&owner?)?.ring.as_mut()
        });
        match (recovered, owner) {
            (Ok(_), Some(process)) => {
                let outcome = self.record_outcome(process);
                Ok(outcome.map(|outcome| Input::OutputRead {
                    process,
                    stream,
                    outcome,
                }))
            }
            (Ok(_), None) => Ok(None),
            (Err(error @ ReadError::Call { .. }), Some(_)) => Err(error.to_string()),
            (Err(_), _) => Ok(self.lose_read(state, owner.map(|process| (process, slot, stream)))),
        }
    }

    /// Empties the bounce pipe of bytes that cannot be brought to their ring; the loss shows as a gap.
    fn lose_read(
        &mut self,
        state: &State,
        owner: Option<(ProcessId, SlotIndex, Stream)>,
    ) -> Option<Input> {
        let lost = abandon_read(&self.memory, &self.bounce).unwrap_or(0);
        let (process, slot, stream) = owner?;
        let known = state.processes.get(&process)?.output.cursor;
        let cursor = known.after_loss(stream, lost);
        self.memory.slot(slot).publish(&cursor);
        let reason = format!("{lost} bytes of {} were lost on their way", stream.name());
        Some(Input::RingDamaged { process, reason })
    }

    fn process_of(&self, slot: SlotIndex) -> Option<ProcessId> {
        let mut children = self.children.iter();
        children.find_map(|(process, child)| (child.slot == slot).then_some(*process))
    }

    fn is_in_flight(&self, slot: SlotIndex) -> bool {
        read_in_flight(&self.memory).is_some_and(|(owner, _)| owner == slot)
    }

    /// Nobody wants the rest of a forgotten child's output.
    pub(super) fn forget_read_of(&mut self, slot: SlotIndex) {
        if self.is_in_flight(slot) {
            let _ = abandon_read(&self.memory, &self.bounce);
        }
    }

    /// Publishes the release of output up to and including `through`.
    pub(super) fn acknowledge(&mut self, process: ProcessId, through: Sequence) -> Option<Input> {
        let child = self.children.get(&process)?;
        let slot = self.memory.slot(child.slot);
        let Some(ring) = &child.ring else {
            let output = position(&self.memory, child.slot, None)?;
            return Some(Input::Acknowledged { process, output });
        };
        let released = slot
            .cursor()
            .map_err(|error| error.to_string())
            .and_then(|cursor| {
                let after = ring.acknowledge(&cursor, through);
                after
                    .map(|after| self.without_restart(child.slot, &cursor, after))
                    .map_err(|error| error.to_string())
            });
        Some(match released {
            Ok(cursor) => {
                slot.publish(&cursor);
                let output = position(&self.memory, child.slot, Some(ring))?;
                Input::Acknowledged { process, output }
            }
            Err(reason) => Input::RingDamaged { process, reason },
        })
    }

    /// The place of a record that is in flight must not change.
    fn without_restart(
        &self,
        slot: SlotIndex,
        before: &RingCursor,
        mut after: RingCursor,
    ) -> RingCursor {
        if self.is_in_flight(slot) && after.head != before.head {
            after.head = before.head;
            after.tail = before.head;
        }
        after
    }

    pub(super) fn abandon_output(&mut self, state: &State, process: ProcessId) -> Option<Input> {
        let child = self.children.get(&process)?;
        let slot = self.memory.slot(child.slot);
        // The control block may be damaged; what the state remembers of it is not.
        let known = state.processes.get(&process)?.output.cursor;
        let before = slot.cursor().unwrap_or(known);
        let size = child.ring.as_ref().map_or(0, |ring| ring.size().bytes());
        let mut cursor = self.without_restart(child.slot, &before, before.after_damage(size));
        for stream in Stream::ALL {
            if child.pipe(stream).is_none() {
                cursor = cursor.after_eof(stream);
            }
        }
        slot.publish(&cursor);
        let output = OutputPosition {
            cursor,
            oldest: cursor.next_seq,
        };
        Some(Input::Acknowledged { process, output })
    }

    pub(super) fn give_back(&mut self, process: ProcessId) {
        let Some(child) = self.children.get_mut(&process) else {
            return;
        };
        if read_in_flight(&self.memory).is_some_and(|(owner, _)| owner == child.slot) {
            return;
        }
        if let (Some(ring), Ok(cursor)) = (&mut child.ring, self.memory.slot(child.slot).cursor()) {
            // Failing to only costs memory until the next time.
            let _ = ring.give_back(&cursor);
        }
    }
}

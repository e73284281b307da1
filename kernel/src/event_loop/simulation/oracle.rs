//! What must be so, whatever happened.

use super::children::is_written;
use super::moves::NOTE;
use super::world::World;
use crate::event_loop::Kernel;
use crate::event_loop::hands::end_of;
use crate::memory::cursor::Stream;
use crate::memory::read_cell::read_in_flight;
use crate::memory::{End, EndStatus, ReadMark};
use crate::replay::remember;
use crate::state::{Process, flags};
use crate::sys::process::bytes_waiting;
use crate::sys::simulated::{self, Ledger, Linux, Stage};
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::spec::Overflow;
use kingpole_protocol::status;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// Whether an end that was told is the one that happened.
pub(super) fn check_end(ledger: &Ledger, told: &status::End, id: ProcessId) {
    let Some(status) = ledger.ended else {
        panic!("process {id} runs, and its end was told: {told:?}");
    };
    let is_unknown = told.status == status::EndStatus::Unknown;
    let may_be_unknown = simulated::with(|linux| !linux.tells_ends) == Some(true);
    if is_unknown && ledger.lost_parent && may_be_unknown {
        return;
    }
    let end = End {
        status: EndStatus::from_wait_status(status),
        time_ns: told.time_ns,
        user_us: told.user_us,
        system_us: told.system_us,
        max_rss_kb: told.max_rss_kib,
    };
    assert_eq!(told.status, end_of(&end).status, "process {id}");
}

/// Whether a child wrote so much that some of it may have been dropped.
pub(super) fn may_drop(ledger: &Ledger, process: &Process) -> bool {
    let records = process.output.cursor.next_seq.0;
    let bytes = ledger.written[0] + ledger.written[1] + 64 * records;
    process.output.overflow == Overflow::DropOldest && bytes > process.output.capacity_bytes
}

impl World {
    /// Looks whether everything is as it must be.
    pub(super) fn look(&self) {
        let looks = self.looks.get();
        self.looks.set(looks + 1);
        self.look_closely(looks.is_multiple_of(16));
    }

    /// `at_bytes`: whether to read every byte that is kept.
    pub(super) fn look_closely(&self, at_bytes: bool) {
        let Some(running) = &self.kernel else { return };
        let kernel = &running.kernel;
        simulated::with(|linux| {
            for process in kernel.state.processes.values() {
                let Some(ledger) = linux.ledger.get(&process.id) else {
                    panic!("process {} was never started", process.id);
                };
                self.look_at_process(kernel, process, ledger, linux);
                let is_kept = process.flags & flags::REMOVED == 0;
                if at_bytes && is_kept {
                    self.look_at_ring(kernel, process, ledger);
                }
            }
            self.look_at_children(kernel, linux);
        });
        for process in kernel.state.processes.values() {
            if let Some(told) = &process.end {
                let ledger = simulated::with(|linux| linux.ledger[&process.id].clone());
                check_end(&ledger.unwrap(), told, process.id);
            }
        }
        if at_bytes {
            self.look_at_notes(kernel);
        }
        self.manager.look(kernel);
        self.prompt.look(&kernel.state);
    }

    fn look_at_process(&self, kernel: &Kernel, process: &Process, ledger: &Ledger, linux: &Linux) {
        let id = process.id;
        assert!(ledger.executed, "process {id} was never executed");
        assert_eq!(process.pid, ledger.pid, "process {id}");
        if let Some(worker) = process.name.strip_prefix('f') {
            assert_eq!(process.labels["worker"], worker, "process {id}");
        }
        let child = &kernel.hands.children[&id];
        let cursor = kernel.hands.memory.slot(process.slot).cursor();
        let cursor = cursor.unwrap_or_else(|damage| panic!("process {id}: {damage}"));
        assert_eq!(
            cursor, process.output.cursor,
            "process {id}: not as published"
        );
        let in_flight = read_in_flight(&kernel.hands.memory)
            .filter(|(slot, _)| *slot == process.slot)
            .map(|(_, stream)| stream);
        let alive = linux.processes.get(&ledger.pid);
        let alive = alive.and_then(|process| process.child.as_ref());
        for (index, stream) in Stream::ALL.into_iter().enumerate() {
            let read = cursor.stream_bytes(stream);
            let written = ledger.written[index];
            let own_end = alive.and_then(|child| child.ends[index].as_ref());
            if cursor.eof.has(stream) {
                assert!(
                    own_end.is_none(),
                    "process {id}: the end of {stream:?} was told, and it is open"
                );
                assert_eq!(read, written, "process {id}: {stream:?} at its end");
                continue;
            }
            let pipe = child.pipe(stream);
            let pipe = pipe.unwrap_or_else(|| panic!("process {id}: no pipe of {stream:?}"));
            if let Some(own_end) = own_end {
                let mut polled = [PollFd::new(own_end.as_fd(), PollFlags::POLLOUT)];
                poll(&mut polled, PollTimeout::ZERO).unwrap();
                let found = polled[0].revents().unwrap();
                assert!(
                    !found.contains(PollFlags::POLLERR),
                    "process {id}: it would get SIGPIPE"
                );
            }
            let waiting = bytes_waiting(pipe.as_fd()).unwrap();
            if in_flight != Some(stream) {
                let found = read + waiting;
                assert_eq!(found, written, "process {id}: {stream:?} is not all there");
            }
        }
    }

    fn look_at_ring(&self, kernel: &Kernel, process: &Process, ledger: &Ledger) {
        let id = process.id;
        let cursor = process.output.cursor;
        let oldest = process.output.oldest;
        let Some(ring) = &kernel.hands.children[&id].ring else {
            return;
        };
        let mark = ReadMark::from_seq(oldest);
        let (start, gap) = ring.seek(&cursor, &mark).unwrap();
        assert_eq!(gap, None, "process {id}: the oldest is not there");
        let mut next = oldest;
        let mut ends: [Option<u64>; 2] = [None, None];
        for record in ring.records(&cursor, &start) {
            let record = record.unwrap_or_else(|damage| panic!("process {id}: {damage}"));
            let header = record.header;
            assert_eq!(header.sequence, next, "process {id}");
            next = next.next();
            let index = usize::from(header.stream == Stream::Stderr);
            let offset = header.stream_offset;
            assert_eq!(
                ends[index].unwrap_or(offset),
                offset,
                "process {id}: a hole"
            );
            let [first, second] = record.data;
            assert!(
                is_written(id, index, offset, first)
                    && is_written(id, index, offset + first.len() as u64, second),
                "process {id}: record {} is not what it wrote",
                header.sequence
            );
            ends[index] = Some(offset + u64::from(header.length));
        }
        assert_eq!(next, cursor.next_seq, "process {id}: records are missing");
        for (index, stream) in Stream::ALL.into_iter().enumerate() {
            let behind = ends[index].unwrap_or(cursor.stream_bytes(stream));
            assert_eq!(
                behind,
                cursor.stream_bytes(stream),
                "process {id}: {stream:?}"
            );
        }
        if !may_drop(ledger, process) {
            assert_eq!(process.output.dropped_records, 0, "process {id}");
        }
    }

    /// Who runs is known, and nobody runs twice for one key.
    fn look_at_children(&self, kernel: &Kernel, linux: &Linux) {
        let mut keys = BTreeSet::new();
        for (pid, process) in &linux.processes {
            let Some(child) = process.child.as_ref().filter(|_| linux.runs(*pid)) else {
                continue;
            };
            if child.stage != Stage::Decided {
                continue;
            }
            match kernel.state.processes.get(&child.id) {
                Some(known) => {
                    assert!(keys.insert(&known.key), "{:?} was started twice", known.key);
                }
                None => assert!(
                    kernel.state.intents.contains_key(&child.id),
                    "process {} runs, and nobody knows it",
                    child.id
                ),
            }
        }
    }

    fn look_at_notes(&self, kernel: &Kernel) {
        if self.notes.is_empty() {
            return;
        }
        let remembered = remember(&kernel.hands.journal).unwrap();
        let notes = remembered.carried.iter().map(|(kind, note)| {
            assert_eq!(*kind, NOTE);
            note.clone()
        });
        assert_eq!(
            notes.collect::<Vec<_>>(),
            self.notes,
            "a later kernel's notes"
        );
    }

    /// Everything that ever ran was told, whole.
    pub(super) fn look_back(&self) {
        simulated::with(|linux| {
            for (id, ledger) in linux.ledger.iter().filter(|(_, ledger)| ledger.executed) {
                self.manager.look_back(*id, ledger);
                self.prompt.look_back(*id, ledger);
            }
        });
    }
}

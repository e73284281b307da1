//! What the manager knows and has written down, and what must be so of it.

use super::{Asked, Logged, Manager, Session, Values, apply, key_of};
use crate::event_loop::Kernel;
use crate::event_loop::simulation::children::is_written;
use crate::event_loop::simulation::oracle::{check_end, may_drop};
use crate::state::State;
use crate::sys::simulated::{self, Ledger};
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::record::{OutputFrame, Stream};
use kingpole_protocol::request::{Commit, OutputAcknowledgement, Spawn, ValueChange};
use kingpole_protocol::status::{End, ProcessInfo};

impl Manager {
    pub(super) fn ask_for_wanted(&mut self) {
        if let Some(mut session) = self.session.take() {
            self.ask_for_wanted_of(&mut session);
            self.session = Some(session);
        }
    }

    pub(super) fn ask_for_wanted_of(&self, session: &mut Session) {
        for (key, spec) in &self.wanted {
            let spawn = Spawn {
                key: key.clone(),
                spec: spec.clone(),
            };
            let is_asked = |asked: &Asked| matches!(asked, Asked::Spawn(other) if other == key);
            if !session.asked.values().any(is_asked) {
                session.ask_with_lease(spawn, Asked::Spawn(key.clone()));
            }
        }
    }

    /// Takes a process over that runs, or ran: goes on where its log ends.
    pub(super) fn take(&mut self, session: &mut Session, info: &ProcessInfo) {
        let id = info.process;
        let logged = self.log.entry(id).or_insert_with(Logged::new);
        let next = logged.next;
        if session.follows.insert(id) {
            match id.0.is_multiple_of(3) {
                true => session.follow(id, next),
                false => session.follow_in_place(id, next),
            }
        }
        if let Some(end) = &info.end {
            self.learn_end(id, end);
        }
    }

    pub(super) fn learn_end(&mut self, id: ProcessId, end: &End) {
        let ledger = simulated::with(|linux| linux.ledger[&id].clone());
        check_end(&ledger.unwrap(), end, id);
        if let Some(logged) = self.log.get_mut(&id) {
            let before = logged.end.replace(*end);
            assert!(before.is_none_or(|before| before == *end), "process {id}");
        }
    }

    pub(super) fn forget(&mut self, id: ProcessId) {
        if self.log.contains_key(&id) {
            assert!(
                self.parted.contains(&id),
                "process {id} was given up by nobody"
            );
            self.gone.insert(id);
        }
    }

    pub(super) fn part_with(&mut self, id: ProcessId) {
        self.parted.insert(id);
        self.started.retain(|_, process| *process != id);
    }

    pub(super) fn handle_output(&mut self, frame: &OutputFrame<'_>) -> u64 {
        let id = frame.process;
        let logged = self.log.get_mut(&id).unwrap();
        for record in frame.records() {
            let header = record.header;
            assert_eq!(
                header.sequence, logged.next,
                "process {id}: sent twice or not"
            );
            let index = usize::from(header.stream == Stream::Stderr);
            assert_eq!(header.stream_offset, logged.offsets[index], "process {id}");
            assert!(
                is_written(id, index, header.stream_offset, record.data),
                "process {id}: record {} is not what it wrote",
                header.sequence
            );
            logged.offsets[index] += u64::from(header.length);
            logged.next = logged.next.next();
        }
        frame.credit_bytes() as u64
    }

    /// Acknowledges what is in the log, together with a value that says so.
    pub(super) fn commit(&mut self, padding: usize) {
        let Some(session) = self.session.as_mut().filter(|session| session.has_lease) else {
            return;
        };
        let mut commit = Commit::default();
        for (id, logged) in &mut self.log {
            if self.gone.contains(id) {
                continue;
            }
            let through = Sequence(logged.next.0 - 1);
            if through > logged.acknowledged {
                logged.acknowledged = through;
                let mut value = through.0.to_le_bytes().to_vec();
                value.resize(8 + padding, b'.');
                commit.values.push(ValueChange {
                    key: key_of(*id),
                    value: Some(value.into()),
                });
                commit.outputs.push(OutputAcknowledgement {
                    process: *id,
                    through,
                });
            }
            let is_told = simulated::with(|linux| {
                let ledger = &linux.ledger[id];
                logged.offsets == ledger.written
            });
            // Never before all of it is in the log.
            if logged.end.is_some() && is_told == Some(true) {
                commit.ends.push(*id);
            }
        }
        for id in &self.gone {
            if self.values.contains_key(&key_of(*id)) {
                commit.values.push(ValueChange {
                    key: key_of(*id),
                    value: None,
                });
            }
        }
        if commit == Commit::default() {
            return;
        }
        let changes = commit.values.clone();
        let ends = commit.ends.clone();
        if let Some(request) = session.ask_with_lease(commit, Asked::Commit) {
            self.pending.push((request, changes));
            for id in ends {
                self.part_with(id);
            }
        }
    }

    /// What the kernel has is what was answered, and the first few of the rest.
    pub(super) fn stored(&self, kernel: &Kernel) -> Option<Values> {
        let found = kernel.state.values.iter();
        let found = found
            .map(|(key, value)| (key.clone(), value.0.clone()))
            .collect::<Values>();
        let mut values = self.values.clone();
        if values == found {
            return Some(found);
        }
        for (_, changes) in &self.pending {
            apply(&mut values, changes);
            if values == found {
                return Some(found);
            }
        }
        None
    }

    pub(super) fn settle_values(&mut self, kernel: &Kernel) {
        self.values = self.stored(kernel).expect("values that nobody stored");
        self.pending.clear();
    }

    /// What is still to be done, for when it never is.
    pub(in super::super) fn left(&self, state: &State) -> String {
        let log = self
            .log
            .iter()
            .filter(|(id, _)| state.processes.contains_key(id));
        let log = log.collect::<Vec<_>>();
        format!("{:?}; {log:?}; {:?}", self.wanted.keys(), self.session)
    }

    pub(in super::super) fn is_done(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What must be so as long as a kernel serves.
    pub(in super::super) fn look(&self, kernel: &Kernel) {
        assert!(
            self.stored(kernel).is_some(),
            "values: {:?} and {} unanswered commits, but {:?}",
            self.values.keys(),
            self.pending.len(),
            kernel.state.values.keys()
        );
        for (key, id) in &self.started {
            assert!(
                kernel.state.processes.contains_key(id) || kernel.state.intents.contains_key(id),
                "process {id} ({key}) was answered and is lost"
            );
        }
        for (id, process) in &kernel.state.processes {
            if !process.name.starts_with('f') || self.parted.contains(id) {
                continue;
            }
            let ledger = simulated::with(|linux| linux.ledger[id].clone()).unwrap();
            let released = process.output.oldest.0 - 1;
            let position = kernel.state.values.get(&key_of(*id));
            let position = position
                .and_then(|value| value.0.first_chunk::<8>().copied())
                .map_or(0, u64::from_le_bytes);
            assert!(
                released <= position || may_drop(&ledger, process),
                "process {id}: {released} records are released, {position} are accounted for"
            );
        }
    }

    pub(in super::super) fn look_back(&self, id: ProcessId, ledger: &Ledger) {
        let Some(logged) = self.log.get(&id) else {
            return;
        };
        if logged.end.is_none() {
            assert!(
                self.parted.contains(&id),
                "process {id}: its end was not told"
            );
            return;
        }
        if self.started.values().any(|started| *started == id) || logged.offsets != ledger.written {
            // Removed with what was unread.
            assert!(self.parted.contains(&id), "process {id}: not all was told");
        }
    }
}

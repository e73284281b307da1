//! Somebody at the prompt: starts children, watches them, and acknowledges what is shown.

use super::children::is_written;
use super::oracle::check_end;
use super::world::World;
use crate::state::State;
use crate::sys::simulated::{self, Ledger};
use kingpole_protocol::ids::ProcessId;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

#[derive(Debug, Default)]
pub(super) struct Prompt {
    session: Option<Session>,
    seen: BTreeMap<ProcessId, Seen>,
    made: u64,
    /// Whoever was started at the prompt.
    named: RefCell<BTreeMap<String, ProcessId>>,
}

#[derive(Debug)]
struct Session {
    socket: UnixStream,
    received: Vec<u8>,
    mode: Mode,
    /// Whose output was shown in this session, in each stream up to where.
    shown: BTreeMap<ProcessId, [Option<u64>; 2]>,
    closed: BTreeSet<ProcessId>,
    /// Whether the next thing it says shows that it has taken an acknowledgement.
    acknowledging: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// An answer is on its way.
    Waiting,
    Prompt,
    Watching,
    /// A batch waits to be acknowledged.
    Batch,
}

/// What was acknowledged of a process.
#[derive(Debug, Default)]
struct Seen {
    /// Bytes of each stream whose acknowledgement the kernel has taken.
    certain: [u64; 2],
    /// And those whose acknowledgement was sent.
    sent: [u64; 2],
    end_acknowledged: bool,
}

impl World {
    pub(super) fn prompt_moves(&mut self) {
        match &self.prompt.session {
            None => self.prompt_connects(),
            Some(_) if self.random.one_in(25) => {
                self.note("who was at the prompt is gone");
                self.prompt_leaves();
            }
            Some(session) => {
                let mode = session.mode;
                let answers = self.random.one_in(2);
                self.prompt_does(mode, answers);
            }
        }
    }

    pub(super) fn prompt_works(&mut self) {
        match &self.prompt.session {
            None => self.prompt_connects(),
            Some(session) => self.prompt_does(session.mode, true),
        }
    }

    fn prompt_connects(&mut self) {
        if let Some(socket) = self.connect() {
            self.note("somebody comes to the prompt");
            self.prompt.session = Some(Session {
                socket,
                received: Vec::new(),
                mode: Mode::Waiting,
                shown: BTreeMap::new(),
                closed: BTreeSet::new(),
                acknowledging: false,
            });
        }
    }

    fn prompt_leaves(&mut self) {
        self.prompt.session = None;
    }

    fn prompt_does(&mut self, mode: Mode, answers: bool) {
        match mode {
            Mode::Prompt if self.prompt.made < 3 && !self.manager.asks_no_more => {
                self.prompt.made += 1;
                let made = self.prompt.made;
                self.prompt_says(&format!("make process t{made} /bin/simulated\n"));
            }
            Mode::Prompt => self.prompt_says("watch processes t*\n"),
            Mode::Batch if answers => {
                self.note("the batch is acknowledged");
                self.prompt.acknowledge();
                self.prompt_says("\n");
            }
            Mode::Batch | Mode::Watching | Mode::Waiting => {}
        }
        self.prompt_reads();
    }

    fn prompt_says(&mut self, line: &str) {
        let Some(session) = &mut self.prompt.session else {
            return;
        };
        session.mode = match session.mode {
            Mode::Batch => Mode::Watching,
            _ => Mode::Waiting,
        };
        if session.socket.write_all(line.as_bytes()).is_err() {
            self.prompt_leaves();
        }
    }

    fn prompt_reads(&mut self) {
        let Some(mut session) = self.prompt.session.take() else {
            return;
        };
        let mut bytes = vec![0; 200_000];
        match session.socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => session.received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        while self.take_part(&mut session) {}
        self.prompt.session = Some(session);
    }

    /// Understands the next whole part of what was received.
    fn take_part(&mut self, session: &mut Session) -> bool {
        let received = &session.received;
        if session.acknowledging && !received.is_empty() {
            session.acknowledging = false;
            for id in session.shown.keys() {
                let seen = self.prompt.seen.entry(*id).or_default();
                seen.certain = seen.sent;
            }
        }
        if received.starts_with(b"> ") {
            session.received.drain(..2);
            session.mode = Mode::Prompt;
            return true;
        }
        if received.starts_with(b"] ") {
            session.received.drain(..2);
            session.mode = Mode::Batch;
            return true;
        }
        let Some(end) = received.iter().position(|byte| *byte == b'\n') else {
            return false;
        };
        let line = String::from_utf8(received[..end].to_vec()).unwrap();
        let words = line.split(':').collect::<Vec<_>>();
        match words.as_slice() {
            [stream @ ("out" | "err"), name, _, length] => {
                let length = length.parse::<usize>().unwrap();
                let data = received.get(end + 1..end + 2 + length);
                let Some(data) = data.map(|data| data[..length].to_vec()) else {
                    return false;
                };
                session.received.drain(..end + 2 + length);
                self.show(session, name, usize::from(*stream == "err"), &data);
            }
            ["closed", name, _, code] => {
                let (id, ledger) = self.process_named(name);
                let code = code.parse::<i32>().unwrap();
                let told = self.kernel.as_ref().and_then(|running| {
                    let process = running.kernel.state.processes.get(&id)?;
                    process.end
                });
                if let Some(told) = told {
                    check_end(&ledger, &told, id);
                    assert_eq!(told.status.code(), code, "process {id}");
                }
                session.closed.insert(id);
                session.received.drain(..=end);
            }
            _ => {
                if line.starts_with("Watching") {
                    session.mode = Mode::Watching;
                    session.shown.clear();
                    session.closed.clear();
                }
                session.received.drain(..=end);
            }
        }
        true
    }

    fn process_named(&self, name: &str) -> (ProcessId, Ledger) {
        let named = self.prompt.named.borrow();
        let id = named.get(name).copied();
        let id = id.unwrap_or_else(|| panic!("there is no {name}"));
        let ledger = simulated::with(|linux| linux.ledger[&id].clone());
        (id, ledger.unwrap())
    }

    /// It is what comes next, or what comes again because its acknowledgement may have been lost.
    fn show(&mut self, session: &mut Session, name: &str, stream: usize, data: &[u8]) {
        let (id, _) = self.process_named(name);
        let seen = self.prompt.seen.entry(id).or_default();
        let shown = session.shown.entry(id).or_default();
        let candidates = match shown[stream] {
            Some(offset) => vec![offset],
            None => vec![seen.sent[stream], seen.certain[stream]],
        };
        let mut candidates = candidates.into_iter();
        let offset = candidates.find(|offset| is_written(id, stream, *offset, data));
        let offset = offset.unwrap_or_else(|| {
            panic!("process {id}: shown twice or not at all: {seen:?} {shown:?}")
        });
        if shown[stream].is_none() {
            (seen.certain[stream], seen.sent[stream]) = (offset, offset);
        }
        shown[stream] = Some(offset + data.len() as u64);
    }
}

impl Prompt {
    /// The line that acknowledges what was shown is about to be sent.
    fn acknowledge(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.acknowledging = true;
        for (id, shown) in &session.shown {
            let seen = self.seen.entry(*id).or_default();
            for (stream, shown) in shown.iter().enumerate() {
                if let Some(shown) = shown {
                    seen.sent[stream] = *shown;
                }
            }
        }
        for id in &session.closed {
            self.seen.entry(*id).or_default().end_acknowledged = true;
        }
    }

    pub(super) fn look(&self, state: &State) {
        let mut named = self.named.borrow_mut();
        for process in state.processes.values() {
            if process.name.starts_with('t') {
                named.insert(process.name.clone(), process.id);
            }
        }
    }

    pub(super) fn look_back(&self, id: ProcessId, ledger: &Ledger) {
        if let Some(seen) = self.seen.get(&id) {
            assert_eq!(seen.sent, ledger.written, "process {id}: at the prompt");
            assert!(seen.end_acknowledged, "process {id}: its end was not shown");
        }
    }
}

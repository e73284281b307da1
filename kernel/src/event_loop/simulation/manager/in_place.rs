//! How the manager reads rings in place: as a real one does, however late, and with every byte compared.

use super::{Asked, CREDIT_BYTES, Manager, Session};
use kingpole_protocol::client::{Copied, MappedRing, MappedRingError};
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::{Event, MappedOutput};
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::record::OutputFrame;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Follow, FollowMapped, Grant};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

thread_local! {
    static MET: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// What has happened in this thread since this was asked last.
pub(in crate::event_loop::simulation) fn met() -> BTreeMap<&'static str, u64> {
    MET.take()
}

fn note(what: &'static str) {
    MET.with_borrow_mut(|met| *met.entry(what).or_insert(0) += 1);
}

/// What a session knows of rings.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    rings: BTreeMap<ProcessId, MappedRing>,
    /// Those that were overtaken, or are asked for: what comes before the answer is from before.
    asked_anew: BTreeSet<ProcessId>,
    /// To be read some other time, and everything that came behind it.
    put_off: Option<MappedOutput>,
    is_over: bool,
}

impl InPlace {
    pub(super) fn passes_over(&self, process: ProcessId) -> bool {
        self.asked_anew.contains(&process)
    }

    pub(super) fn put_off(&mut self, output: MappedOutput) {
        if !self.passes_over(output.process) {
            self.put_off = Some(output);
        }
    }

    pub(super) fn take_put_off(&mut self) -> Option<MappedOutput> {
        self.put_off.take()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Session {
    pub(super) fn follow(&mut self, process: ProcessId, from: Sequence) {
        let follow = Follow {
            process,
            from,
            credit_bytes: CREDIT_BYTES,
        };
        self.ask(follow, Asked::Other);
    }

    pub(super) fn follow_in_place(&mut self, process: ProcessId, from: Sequence) {
        let follow = FollowMapped {
            process,
            from,
            credit_bytes: CREDIT_BYTES,
        };
        self.in_place.rings.remove(&process);
        self.in_place.asked_anew.insert(process);
        self.ask(follow, Asked::InPlace(process));
    }
}

impl Manager {
    /// Takes the event if it is about output of a process that is read in place.
    pub(super) fn read_in_place(&mut self, session: &mut Session, event: Event) -> Option<Event> {
        let passes_over = |process| session.in_place.passes_over(process);
        match event {
            Event::RingPassed(passed) => {
                let descriptor = session.descriptors.pop_front().expect("its descriptor");
                let ring = MappedRing::new(descriptor, &passed).unwrap();
                if !passes_over(passed.process) {
                    session.in_place.rings.insert(passed.process, ring);
                }
                None
            }
            Event::Gap(gap) if passes_over(gap.process) => None,
            Event::StreamEnded(ended) if passes_over(ended.process) => None,
            Event::MappedOutput(output) => {
                if !passes_over(output.process) {
                    self.copy(session, &output);
                }
                None
            }
            Event::ProcessRemoved(ref removed) => {
                session.in_place.rings.remove(&removed.process);
                Some(event)
            }
            event => Some(event),
        }
    }

    pub(super) fn copy(&mut self, session: &mut Session, output: &MappedOutput) {
        let process = output.process;
        let ring = &session.in_place.rings[&process];
        let mut records = Vec::new();
        match ring.copy(&session.socket, output, &mut records) {
            Ok(Copied::Whole) => {
                note("copied");
                let body = [&process.0.to_le_bytes()[..], &records].concat();
                let credit_bytes = self.handle_output(&OutputFrame::parse(&body).unwrap());
                assert_eq!(credit_bytes, output.bytes);
                assert_eq!(self.log[&process].next, output.next);
                let grant = Grant {
                    process,
                    credit_bytes,
                };
                session.connection.send(&grant.into()).unwrap();
            }
            Ok(Copied::Overtaken) => {
                note("overtaken");
                assert_eq!(self.log[&process].next, output.from);
                session.follow_in_place(process, output.from);
            }
            Err(MappedRingError::SessionOver) => {
                note("over");
                session.in_place.is_over = true;
            }
            Err(error) => panic!("process {process}: {error}"),
        }
    }

    pub(super) fn follows_in_place(
        &mut self,
        session: &mut Session,
        process: ProcessId,
        result: Result<Reply, ErrorReply>,
    ) {
        session.in_place.asked_anew.remove(&process);
        match result {
            Ok(_) => {}
            // A kernel that does not know it.
            Err(error) if error.code == ErrorCode::UNKNOWN_KIND => {
                note("refused");
                session.follow(process, self.log[&process].next);
            }
            Err(error) => assert_eq!(error.code, ErrorCode::NOT_FOUND, "{error:?}"),
        }
    }
}

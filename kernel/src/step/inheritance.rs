//! What another kernel on the same state left: processes, and spawns that it did not finish.

use super::{Refusal, Step, refusal};
use crate::effect::Effect;
use crate::input::ResumedSession;
use crate::limits::RESOLVE_DELAY_NS;
use crate::state::saving::Loss;
use crate::state::text::TextMode;
use crate::state::{Process, Session, SessionId};
use crate::upgrade::saved_state::SavedCounts;
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::ProcessStarted;
use kingpole_protocol::ids::ProcessId;

impl Step<'_> {
    pub(super) fn handle_adopted(&mut self, intents: Vec<(ProcessId, String, String)>) {
        let held = self.state.processes.len();
        let sockets = self.state.sockets.len();
        let values = self.state.values.len();
        let unfinished = intents.len();
        self.log(format!(
            "taken over: {held} processes, {sockets} sockets, {values} values, {unfinished} \
             unfinished spawns"
        ));
        for (process, key, name) in intents {
            self.state.intents.insert(process, (key, name));
        }
        // Some may have been about to be forgotten.
        for process in self.state.processes.keys().copied().collect::<Vec<_>>() {
            self.forget_if_done(process);
        }
        self.schedule_resolution();
    }

    /// The sessions of the image before go on.
    pub(super) fn handle_resumed(
        &mut self,
        newest_session: SessionId,
        sessions: Vec<ResumedSession>,
        holders: Vec<(String, u64)>,
        counts: Vec<SavedCounts>,
    ) {
        self.state.newest_session = newest_session;
        for SavedCounts {
            process,
            dropped_records,
            dropped_bytes,
        } in counts
        {
            if let Some(process) = self.state.processes.get_mut(&process) {
                process.output.dropped_records = dropped_records;
                process.output.dropped_bytes = dropped_bytes;
            }
        }
        for ResumedSession { saved, queue } in sessions {
            let (session, loss) = Session::restore(saved, queue, self.now.monotonic_ns);
            let id = session.id;
            let follows = session.follows.keys().copied().collect::<Vec<_>>();
            self.state.sessions.insert(id, session);
            for process in follows {
                if let Some(process) = self.state.processes.get_mut(&process) {
                    process.followers.insert(id);
                }
                self.wake(id, process);
            }
            if loss == Loss::Listing {
                let text = "Error: the kernel was upgraded within this listing; ask again\n> ";
                self.text(id, text);
            }
        }
        for (name, session) in holders {
            let session = SessionId(session);
            if self.state.sessions.contains_key(&session)
                && let Some(lease) = self.state.leases.get_mut(&name)
            {
                lease.session = Some(session);
            }
        }
    }

    pub(super) fn handle_upgrade_answered(&mut self, id: SessionId, text: &str) {
        if let Some(session) = self.state.sessions.get_mut(&id) {
            // In the next image it is at its prompt already.
            session.text.mode = TextMode::Prompt;
            self.effects.push(Effect::TakeRequests { session: id });
        }
        self.text(id, format!("{text}\n> "));
    }

    fn schedule_resolution(&mut self) {
        let at = self.now.monotonic_ns.saturating_add(RESOLVE_DELAY_NS);
        self.state.resolve_at = (!self.state.intents.is_empty()).then_some(at);
    }

    pub(super) fn look_at_intents(&mut self) {
        if self
            .state
            .resolve_at
            .is_some_and(|at| at <= self.now.monotonic_ns)
        {
            self.schedule_resolution();
            self.effects.push(Effect::ResolveIntents);
        }
    }

    pub(super) fn handle_intent_resolved(&mut self, id: ProcessId, running: Option<Box<Process>>) {
        let Some((_, name)) = self.state.intents.remove(&id) else {
            return;
        };
        self.schedule_resolution();
        match running {
            Some(process) => {
                self.log(format!(
                    "process {id} {name:?}: was started before the takeover"
                ));
                let info = process.info();
                self.insert_process(*process);
                self.tell_subscribers(|| {
                    ProcessStarted {
                        process: info.clone(),
                    }
                    .into()
                });
                self.forget_if_done(id);
            }
            None => {
                self.log(format!(
                    "process {id} {name:?}: was not started before the takeover"
                ));
                self.effects.push(Effect::Forget { process: id });
            }
        }
    }

    /// As long as it is open whether a program runs, nobody is told either.
    pub(super) fn check_intents(&self, key: &str, name: &str) -> Result<(), Refusal> {
        if self
            .state
            .intents
            .values()
            .any(|(k, n)| k == key || n == name)
        {
            let text = format!("process {name:?}: an earlier request is not decided yet");
            return Err(refusal(ErrorCode::PENDING, text));
        }
        Ok(())
    }
}

//! `tail`: output that is looked at without acknowledging anything.

use super::watch::{EndNews, Served};
use super::{Step, not_found};
use crate::effect::Effect;
use crate::limits::{BATCH_BYTES, TAIL_LINES_MAX};
use crate::memory::ring::{Gap, ReadMark};
use crate::state::text::{Awaiting, LineEnd, Tail, TextMode, Then};
use crate::state::{Access, Process, SessionId};
use crate::text::command::TailMode;
use crate::text::error::TextError;
use crate::text::render;
use crate::text::selector::parse_number;
use kingpole_protocol::ids::ProcessId;

impl Step<'_> {
    pub(super) fn tail(
        &mut self,
        id: SessionId,
        mode: TailMode,
        name: &str,
        lines: usize,
    ) -> Result<(), TextError> {
        let process = self.one_process(name).ok_or_else(|| not_found(name))?;
        let (process_id, name) = (process.id, process.name.clone());
        let tail = Tail {
            process: process_id,
            name,
            mode,
            line: LineEnd::Within,
        };
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return Ok(());
        };
        session.text.mode = TextMode::Awaiting(Box::new(Awaiting {
            then: Then::Tail(Box::new(tail)),
            missing: 1,
            refused: None,
            signalled: 0,
        }));
        self.effects.push(Effect::ReadTail {
            session: id,
            process: process_id,
            lines: lines.min(TAIL_LINES_MAX),
        });
        Ok(())
    }

    /// The process of this name that runs, else the newest; else that of this process id.
    fn one_process(&self, name: &str) -> Option<&Process> {
        let running = self
            .visible_named(name)
            .find(|process| process.end.is_none());
        running
            .or_else(|| self.visible_named(name).last())
            .or_else(|| {
                let pid = parse_number(name)?;
                let mut processes = self.state.processes.values();
                processes
                    .find(|process| process.pid == pid && Self::visible(process))
                    .map(|process| &**process)
            })
    }

    pub(in crate::step) fn handle_tail_read(
        &mut self,
        id: SessionId,
        bytes: Vec<u8>,
        mark: ReadMark,
    ) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        let TextMode::Awaiting(awaiting) = std::mem::take(&mut session.text.mode) else {
            return;
        };
        self.effects.push(Effect::TakeRequests { session: id });
        let Then::Tail(mut tail) = awaiting.then else {
            return;
        };
        if tail.mode == TailMode::Once {
            return self.text_reply(id, bytes);
        }
        if bytes.last() == Some(&b'\n') {
            tail.line = LineEnd::AtStart;
        }
        let process = tail.process;
        session.text.mode = TextMode::Tailing(tail);
        self.begin_following(id, process, mark, i64::MAX, Access::Sent);
        self.text(id, bytes);
        self.wake(id, process);
    }

    pub(super) fn serve_tail(&mut self, id: SessionId, process_id: ProcessId) -> Served {
        if self.send_more(id, process_id, BATCH_BYTES) == Served::Later {
            return Served::Later;
        }
        match self.news_of_end(process_id) {
            EndNews::Soon => return Served::Later,
            EndNews::None => {}
            EndNews::Now(_) => {
                self.end_tail(id);
                return Served::Done;
            }
        }
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.pending.remove(&process_id);
        }
        Served::Done
    }

    /// Back to the prompt, at the start of a line; with a last word about a process that ended.
    pub(super) fn end_tail(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        let TextMode::Tailing(tail) = std::mem::take(&mut session.text.mode) else {
            return;
        };
        self.stop_following_all(id);
        let mut text = match tail.line {
            LineEnd::AtStart => String::new(),
            LineEnd::Within => "\n".to_owned(),
        };
        if let Some(process) = self.state.processes.get(&tail.process)
            && let Some(end) = &process.end
        {
            text.push_str(&render::ended_line(&process.info(), end));
            text.push('\n');
        }
        text.push_str(crate::text::PROMPT);
        self.text(id, text);
        self.effects.push(Effect::TakeRequests { session: id });
    }

    /// Records that a text session follows are gone. A tail says so; a batch has no words for it
    /// that clients would understand (`stats` tells what was dropped).
    pub(in crate::step) fn handle_text_gap(&mut self, id: SessionId, gap: &Gap) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        if let TextMode::Tailing(tail) = &mut session.text.mode {
            let start = match tail.line {
                LineEnd::AtStart => "",
                LineEnd::Within => "\n",
            };
            tail.line = LineEnd::AtStart;
            let missing = gap.to.0.saturating_sub(gap.from.0);
            self.text(
                id,
                format!("{start}[{missing} records are not kept any more]\n"),
            );
        }
        self.serve_text(id);
    }
}

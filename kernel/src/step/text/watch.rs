//! `watch`: batches of output and ends, each acknowledged by a line.
//!
//! Each watcher has its own place in each process's output. What an acknowledgement releases:
//! - nothing of a process that was started over frames, or that a framed session follows: that is
//!   released by frames alone, so nobody at a prompt can take a manager's output;
//! - otherwise what this watcher was sent, as far as every other watcher was sent it too.

use super::Step;
use crate::effect::{Effect, TextForm};
use crate::input::{LineRead, Room};
use crate::limits::{BATCH_BYTES, LINE_READ_FIRST_NS, LINE_READ_MOST_NS};
use crate::memory::cursor::Stream;
use crate::memory::ring::ReadMark;
use crate::state::text::{Batch, EndTold, LineEnd, TextMode, Watch, WatchStart, Watched};
use crate::state::{Access, Phase, Process, Reading, Session, SessionId, flags};
use crate::text::error::TextError;
use crate::text::make_process::is_text_key;
use crate::text::render;
use crate::text::selector::Selection;
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::status::End;

/// What there is to say about an end to somebody who has all the output so far.
pub(super) enum EndNews {
    /// It runs, or it ended and its pipe is full.
    None,
    /// It ended, and the pipes are being looked into for a last time.
    Soon,
    /// It ended, and nothing of its own output is missing.
    Now(End),
}

impl Step<'_> {
    pub(super) fn watch(&mut self, id: SessionId, selection: &Selection) -> Result<(), TextError> {
        let processes = self.selected_processes(selection)?;
        if processes.is_empty() {
            return Err(TextError::NothingToWatch);
        }
        self.text(id, format!("Watching {}\n", processes.len()));
        self.start_watch(id, &processes);
        Ok(())
    }

    pub(super) fn start_watch(&mut self, id: SessionId, processes: &[ProcessId]) {
        let mut watch = Watch::default();
        for process_id in processes {
            let Some(process) = self.state.processes.get(process_id) else {
                continue;
            };
            let watched = Watched {
                name: process.name.clone(),
                end: EndTold::No,
            };
            watch.watched.insert(*process_id, watched);
            let output = &process.output;
            let mark = ReadMark {
                seq: output.oldest,
                position: output.cursor.tail,
            };
            self.begin_following(id, *process_id, mark, i64::MAX, Access::Sent);
        }
        watch.start = WatchStart::LineUnread(LINE_READ_FIRST_NS);
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.text.mode = TextMode::Watching(Box::new(watch));
        }
        for process in processes {
            self.wake(id, *process);
        }
        self.look_again(id, LINE_READ_FIRST_NS);
    }

    fn look_again(&mut self, id: SessionId, delay_ns: u64) {
        let at = self.now.monotonic_ns.saturating_add(delay_ns);
        self.state.first_batches.insert((at, id));
    }

    /// The timer of watchers whose clients may not have read the answer yet.
    pub(in crate::step) fn ask_whether_read(&mut self) {
        while let Some((at, id)) = self.state.first_batches.first().copied() {
            if at > self.now.monotonic_ns {
                return;
            }
            self.state.first_batches.remove(&(at, id));
            self.effects.push(Effect::AskWhetherRead { session: id });
        }
    }

    pub(in crate::step) fn handle_line_read(&mut self, id: SessionId, answer: LineRead) {
        let Some(watch) = self.watch_of(id) else {
            return;
        };
        let WatchStart::LineUnread(delay_ns) = watch.start else {
            return;
        };
        match answer {
            LineRead::Yes => {
                watch.start = WatchStart::Begun;
                self.state.serving.insert(id);
            }
            LineRead::No => {
                let delay_ns = delay_ns.saturating_mul(2).min(LINE_READ_MOST_NS);
                watch.start = WatchStart::LineUnread(delay_ns);
                self.look_again(id, delay_ns);
            }
        }
    }

    pub(super) fn handle_watchers_line(&mut self, id: SessionId, line: Vec<u8>) {
        let Some(watch) = self.watch_of(id) else {
            return;
        };
        if watch.batch == Batch::Sent {
            return self.acknowledge_batch(id, &line);
        }
        // As in Papa it acknowledges the batch to come. Only q need not wait for one.
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.text.held = Some(line);
            self.state.serving.insert(id);
        }
    }

    fn watch_of(&mut self, id: SessionId) -> Option<&mut Watch> {
        match &mut self.state.sessions.get_mut(&id)?.text.mode {
            TextMode::Watching(watch) => Some(watch),
            _ => None,
        }
    }

    /// Sends what a text session follows, as far as it can be sent now.
    pub(in crate::step) fn serve_text(&mut self, id: SessionId) {
        loop {
            let Some(process) = self.next_to_serve(id) else {
                if self.tell_parted(id) {
                    continue;
                }
                break;
            };
            match self
                .state
                .sessions
                .get(&id)
                .map(|session| &session.text.mode)
            {
                Some(TextMode::Watching(_)) => {
                    if self.serve_watched(id, process) == Served::Later {
                        return;
                    }
                }
                Some(TextMode::Tailing(_)) => {
                    if self.serve_tail(id, process) == Served::Later {
                        return;
                    }
                }
                _ => break,
            }
        }
        self.state.serving.remove(&id);
        self.close_batch(id);
    }

    /// Tells the end of a process that is not there any more; whether there was one.
    fn tell_parted(&mut self, id: SessionId) -> bool {
        let takes = self
            .state
            .sessions
            .get(&id)
            .is_some_and(Session::takes_output);
        let parted = match self.watch_of(id) {
            Some(watch) if takes && !watch.is_full() => watch.parted.pop_front(),
            _ => None,
        };
        let Some((process, end)) = parted else {
            return false;
        };
        self.tell_end(id, process, &end);
        true
    }

    /// The process whose turn it is, if the session has room for more.
    fn next_to_serve(&mut self, id: SessionId) -> Option<ProcessId> {
        let session = self.state.sessions.get_mut(&id)?;
        if !session.takes_output() {
            return None;
        }
        if let TextMode::Watching(watch) = &session.text.mode
            && watch.is_full()
        {
            return None;
        }
        let next = session.serve_next;
        let mut turn = session.pending.range(next..).chain(&session.pending);
        let process = turn.next().copied()?;
        session.serve_next = ProcessId(process.0.saturating_add(1));
        Some(process)
    }

    fn serve_watched(&mut self, id: SessionId, process_id: ProcessId) -> Served {
        if self.send_more(id, process_id, BATCH_BYTES) == Served::Later {
            return Served::Later;
        }
        let told = match self.watch_of(id).and_then(|w| w.watched.get(&process_id)) {
            Some(watched) => watched.end,
            None => EndTold::Yes,
        };
        let end = match told {
            EndTold::Yes => None,
            EndTold::No => match self.news_of_end(process_id) {
                EndNews::None => None,
                // The session stays in line, and its batch open, until the answer is there.
                EndNews::Soon => return Served::Later,
                EndNews::Now(end) => Some(end),
            },
        };
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.pending.remove(&process_id);
        }
        if let Some(end) = end {
            self.tell_end(id, process_id, &end);
        }
        Served::Done
    }

    /// Asks for records to be sent, if there are any that the session has not had.
    pub(super) fn send_more(&mut self, id: SessionId, process_id: ProcessId, most: u64) -> Served {
        let state = &*self.state;
        let Some(session) = state.sessions.get(&id) else {
            return Served::Done;
        };
        let (Some(follow), Some(process)) = (
            session.follows.get(&process_id),
            state.processes.get(&process_id),
        ) else {
            return Served::Done;
        };
        if follow.mark.seq >= process.output.cursor.next_seq {
            return Served::Done;
        }
        let (form, sent) = match &session.text.mode {
            TextMode::Watching(watch) => match watch.batch {
                Batch::Open(bytes) => (TextForm::Batch, bytes),
                Batch::Empty | Batch::Sent => (TextForm::Batch, 0),
            },
            _ => (TextForm::Plain, 0),
        };
        self.effects.push(Effect::SendText {
            session: id,
            process: process_id,
            mark: follow.mark,
            form,
            bytes_max: most.saturating_sub(sent),
        });
        Served::Later
    }

    /// Whether a process has ended and all that it wrote itself was read. Its pipes may still be
    /// held open by descendants; they are looked into once more then.
    pub(super) fn news_of_end(&mut self, process_id: ProcessId) -> EndNews {
        let Some(process) = self.state.processes.get(&process_id) else {
            return EndNews::None;
        };
        let Some(end) = process.end else {
            return EndNews::None;
        };
        let output = &process.output;
        let open =
            |stream: &Stream| !output.cursor.eof.has(*stream) && !output.seen_empty.has(*stream);
        let unsettled = Stream::ALL.into_iter().filter(open).collect::<Vec<_>>();
        if unsettled.is_empty() {
            return EndNews::Now(end);
        }
        if output.reading == Reading::Paused {
            return EndNews::None;
        }
        for stream in unsettled {
            self.handle_readable(process_id, stream);
        }
        EndNews::Soon
    }

    fn tell_end(&mut self, id: SessionId, process_id: ProcessId, end: &End) {
        let Some(watch) = self.watch_of(id) else {
            return;
        };
        let Some(watched) = watch.watched.get_mut(&process_id) else {
            return;
        };
        watched.end = EndTold::Yes;
        let line = render::closed_line(&watched.name, end);
        watch
            .batch
            .add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        self.text(id, line);
        self.release(process_id);
    }

    /// Records went to a text session.
    pub(in crate::step) fn handle_text_sent(
        &mut self,
        id: SessionId,
        process_id: ProcessId,
        mark: ReadMark,
        bytes: u64,
        line: LineEnd,
        room: Room,
    ) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.queue = room;
        if let Some(follow) = session.follows.get_mut(&process_id) {
            follow.mark = mark;
        }
        match &mut session.text.mode {
            TextMode::Watching(watch) if bytes > 0 => watch.batch.add(bytes),
            TextMode::Tailing(tail) if bytes > 0 => tail.line = line,
            _ => {}
        }
        self.release(process_id);
        self.serve_text(id);
    }

    /// Ends the batch that was begun; or the watch, if nothing is left of it.
    fn close_batch(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        let TextMode::Watching(watch) = &mut session.text.mode else {
            return;
        };
        match watch.batch {
            Batch::Sent => {}
            Batch::Open(_) => {
                watch.batch = Batch::Sent;
                let held = session.text.held.take();
                self.text(id, crate::text::BATCH_END);
                if let Some(line) = held {
                    self.acknowledge_batch(id, &line);
                }
                self.effects.push(Effect::TakeRequests { session: id });
            }
            // The answer to the command is still on its way.
            Batch::Empty if watch.start != WatchStart::Begun => {}
            Batch::Empty if watch.watched.is_empty() => {
                self.end_watch(id, "Nothing left to watch\n> ");
            }
            Batch::Empty => {
                if session.text.held.as_deref().is_some_and(is_quit) {
                    self.end_watch(id, "Stopped watching\n> ");
                }
            }
        }
    }

    fn acknowledge_batch(&mut self, id: SessionId, line: &[u8]) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        let TextMode::Watching(watch) = &mut session.text.mode else {
            return;
        };
        watch.batch = Batch::Empty;
        let mut closed = Vec::new();
        let mut seen = Vec::new();
        for (process_id, watched) in &watch.watched {
            let is_closed = watched.end == EndTold::Yes;
            let mark = session.follows.get(process_id).map(|follow| follow.mark);
            seen.push((*process_id, mark, is_closed));
            if is_closed {
                closed.push(*process_id);
            }
        }
        for process_id in &closed {
            watch.watched.remove(process_id);
        }
        let is_empty = watch.watched.is_empty();
        for (process_id, mark, is_closed) in seen {
            if let Some(process) = self.state.processes.get_mut(&process_id) {
                let text = &mut process.text;
                if let Some(mark) = mark {
                    text.acknowledged = text.acknowledged.max(mark.seq);
                }
                text.end_acknowledged |= is_closed;
            }
            if is_closed {
                self.stop_following(id, process_id);
            }
            self.release(process_id);
        }
        if is_empty {
            self.end_watch(id, "Nothing left to watch\n> ");
        } else if is_quit(line) {
            self.end_watch(id, "Stopped watching\n> ");
        } else if let Some(session) = self.state.sessions.get_mut(&id) {
            session.pending = session.follows.keys().copied().collect();
            self.state.serving.insert(id);
        }
    }

    /// Back to the prompt.
    pub(super) fn end_watch(&mut self, id: SessionId, message: &str) {
        let followed = self.stop_following_all(id);
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.text.mode = TextMode::Prompt;
            session.text.held = None;
        }
        self.text(id, message);
        self.effects.push(Effect::TakeRequests { session: id });
        for process in followed {
            self.release(process);
        }
    }

    pub(super) fn stop_following_all(&mut self, id: SessionId) -> Vec<ProcessId> {
        let Some(session) = self.state.sessions.get(&id) else {
            return Vec::new();
        };
        let followed = session.follows.keys().copied().collect::<Vec<_>>();
        for process in &followed {
            self.stop_following(id, *process);
        }
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.pending.clear();
        }
        self.state.serving.remove(&id);
        followed
    }

    /// Lets go of the output and the end of a process, as far as the watchers' acknowledgements
    /// reach and everybody present was sent it.
    pub(in crate::step) fn release(&mut self, process_id: ProcessId) {
        let state = &*self.state;
        let Some(process) = state.processes.get(&process_id) else {
            return;
        };
        if !is_text_key(&process.key) {
            return;
        }
        let mut through = process.text.acknowledged;
        let mut end_told = true;
        for follower in &process.followers {
            let Some(session) = state.sessions.get(follower) else {
                continue;
            };
            match (session.phase, &session.text.mode) {
                (Phase::Text, TextMode::Watching(watch)) => {
                    if let Some(follow) = session.follows.get(&process_id) {
                        through = through.min(follow.mark.seq);
                    }
                    let told = watch.watched.get(&process_id).map(|watched| watched.end);
                    end_told &= told.is_none_or(|told| told == EndTold::Yes);
                }
                // Somebody who tails has no claim on anything.
                (Phase::Text, _) => {}
                (Phase::Hello | Phase::Open, _) => return,
            }
        }
        let forgets = process.text.end_acknowledged && end_told && process.end.is_some();
        if through > process.output.oldest {
            self.effects.push(Effect::Acknowledge {
                process: process_id,
                through: Sequence(through.0.saturating_sub(1)),
            });
        }
        if forgets {
            self.acknowledge_end(process_id);
            self.discard_if_unwanted(process_id);
        }
    }

    /// What descendants go on writing once a text session has acknowledged the end is nobody's.
    pub(in crate::step) fn discard_if_unwanted(&mut self, process_id: ProcessId) {
        let Some(process) = self.state.processes.get(&process_id) else {
            return;
        };
        if is_unwanted(process) && !process.output.cursor.is_empty() {
            self.effects.push(Effect::Acknowledge {
                process: process_id,
                through: Sequence(u64::MAX),
            });
        }
    }

    /// A process that this session follows is about to be forgotten.
    pub(in crate::step) fn part_from_text(&mut self, id: SessionId, process_id: ProcessId) {
        let end = self
            .state
            .processes
            .get(&process_id)
            .and_then(|process| process.end);
        self.stop_following(id, process_id);
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        match &mut session.text.mode {
            TextMode::Watching(watch) => {
                if let Some(watched) = watch.watched.get_mut(&process_id)
                    && watched.end == EndTold::No
                {
                    match end {
                        Some(end) => watch.parted.push_back((process_id, end)),
                        None => drop(watch.watched.remove(&process_id)),
                    }
                }
                if watch.batch != Batch::Sent {
                    self.state.serving.insert(id);
                }
            }
            TextMode::Tailing(_) => self.end_tail(id),
            _ => {}
        }
    }
}

/// Whether something was left to the next effect's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Nothing more for this process now.
    Done,
    /// An effect is under way; its outcome goes on.
    Later,
}

impl Watch {
    fn is_full(&self) -> bool {
        matches!(self.batch, Batch::Open(bytes) if bytes >= BATCH_BYTES)
    }
}

impl Batch {
    fn add(&mut self, bytes: u64) {
        *self = match self {
            Self::Open(before) => Self::Open(before.saturating_add(bytes)),
            Self::Empty | Self::Sent => Self::Open(bytes),
        };
    }
}

fn is_quit(line: &[u8]) -> bool {
    line.trim_ascii().eq_ignore_ascii_case(b"q")
}

fn is_unwanted(process: &Process) -> bool {
    is_text_key(&process.key)
        && process.flags & flags::END_ACKNOWLEDGED != 0
        && process.followers.is_empty()
}

//! Carries effects out, one by one; outcomes are inputs.

use super::connections::{Course, Sent, Speech};
use super::hands::Helping;
use super::text_output::{TextHelping, look_up};
use super::upgrading::Order;
use super::{Kernel, room_of};
use crate::effect::{Asker, Countable, Delivery, Effect, TextForm};
use crate::input::{Input, Room};
use crate::memory::ring::ReadMark;
use crate::state::SessionId;
use crate::sys::inherited::open_count;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::OUTPUT_KIND;
use kingpole_protocol::frame::Header;
use kingpole_protocol::ids::{Fence, ProcessId, RequestId};
use kingpole_protocol::record::OutputFrame;
use kingpole_protocol::reply::Reply;

impl Kernel {
    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Reply { asker, reply } => self.reply(asker, *reply),
            Effect::Event { session, event } => match event.encode(RequestId(0), Fence::NONE) {
                Ok(frame) => self.send(session, &[&frame]),
                Err(error) => {
                    self.log_line(&format!("session {}: event left out: {error}", session.0));
                    None
                }
            },
            Effect::Text { session, text } => {
                self.hold(session, &text);
                None
            }
            Effect::TellWhenDrained { session } => match self.let_go(session) {
                None => {
                    let connection = self.connections.get(&session)?;
                    let drained = connection.queue.is_empty();
                    drained.then_some(Input::Drained { session })
                }
                gone_or_congested => gone_or_congested,
            },
            Effect::TakeRequests { session } => {
                self.resume(session);
                None
            }
            Effect::AskWhetherRead { session } => {
                let connection = self.connections.get(&session)?;
                let answer = connection.was_read();
                Some(Input::LineRead { session, answer })
            }
            Effect::LookUp { session, question } => Some(Input::LookedUp {
                session,
                answer: Box::new(look_up(question)),
            }),
            Effect::Count { session, what } => {
                let counts = self.count(&what);
                Some(Input::Counted { session, counts })
            }
            Effect::ReadTail {
                session,
                process,
                lines,
            } => {
                let (bytes, mark) = self
                    .hands
                    .last_lines(&self.state, process, lines)
                    .unwrap_or_default();
                Some(Input::TailRead {
                    session,
                    bytes,
                    mark,
                })
            }
            Effect::SendText {
                session,
                process,
                mark,
                form,
                bytes_max,
            } => self.send_text(session, process, mark, form, bytes_max),
            Effect::SwitchToFrames { session } => {
                self.connections.get_mut(&session)?.speech = Speech::Frames;
                None
            }
            Effect::Close { session } => self.close(session),
            Effect::Spawn(order) => Some(match self.hands.spawn(&self.state, &order) {
                Ok(started) => Input::Spawned { order, started },
                Err(error) => Input::SpawnFailed { order, error },
            }),
            Effect::Signal {
                asker,
                process,
                signal,
                target,
            } => {
                let result = self.hands.signal(process, signal, target);
                Some(Input::Signalled { asker, result })
            }
            Effect::Measure { asker } => Some(measure(asker)),
            Effect::MakeSocket { asker, spec } => {
                let result = self.hands.make_socket(&self.state, &spec);
                Some(Input::SocketMade { asker, result })
            }
            Effect::PassSocket { asker, socket } => self.pass_socket(asker, *socket),
            Effect::CloseSocket { socket } => {
                self.hands.close_socket(&socket);
                None
            }
            Effect::Record { entry, after } => {
                let result = self.hands.record(&self.state, &entry).map(|_| ());
                Some(Input::Recorded { after, result })
            }
            Effect::Read {
                process,
                stream,
                policy,
            } => {
                let [finished, outcome] = self.hands.read(&self.state, process, stream, policy);
                self.inbox.extend(finished);
                outcome
            }
            Effect::Acknowledge { process, through } => self.hands.acknowledge(process, through),
            Effect::AbandonOutput { process } => self.hands.abandon_output(&self.state, process),
            Effect::SetFlags { process, flags } => {
                self.hands.set_flags(process, flags);
                None
            }
            Effect::PauseReading { process } => {
                self.hands.pause(process);
                None
            }
            Effect::ResumeReading { process } => {
                let outcomes = self.hands.resume(&self.state, process);
                self.inbox.extend(outcomes.into_iter().flatten());
                None
            }
            Effect::GiveBack { process } => {
                self.hands.give_back(process);
                None
            }
            Effect::Forget { process } => {
                if let Err(error) = self.hands.forget(&self.state, process) {
                    self.log_line(&format!("process {process}: forgotten, but: {error}"));
                }
                None
            }
            Effect::SendOutput {
                session,
                process,
                mark,
                credit,
                delivery,
            } => {
                let follower = (session, process);
                let announced = match delivery {
                    Delivery::InPlace { ring } => self.announce(follower, mark, credit, ring),
                    Delivery::Bytes => None,
                };
                announced.or_else(|| self.send_output(session, process, mark, credit))
            }
            Effect::ResolveIntents => {
                let resolved = self.hands.resolve();
                self.inbox.extend(resolved);
                None
            }
            Effect::Upgrade {
                session,
                path,
                extent,
            } => {
                let refused = self.take_order(Order {
                    asker: Some(session),
                    path: Some(path),
                    extent,
                });
                let text = refused.err()?;
                Some(Input::UpgradeAnswered { session, text })
            }
            Effect::Log(line) => {
                self.log_line(&line);
                None
            }
            Effect::Exit => {
                self.leaving = true;
                None
            }
        }
    }

    /// Bytes that lie in rings and queues.
    fn count(&self, what: &Countable) -> Vec<(u64, u64)> {
        match what {
            Countable::Unread(processes) => processes
                .iter()
                .map(|process| (process.0, self.hands.unread_bytes(&self.state, *process)))
                .collect(),
            Countable::Queued(sessions) => sessions
                .iter()
                .map(|session| (session.0, self.queued_bytes(*session)))
                .collect(),
        }
    }

    fn queued_bytes(&self, session: SessionId) -> u64 {
        let connection = self.connections.get(&session);
        let queued = connection.map_or(0, |connection| connection.queue.len());
        u64::try_from(queued).unwrap_or(u64::MAX)
    }

    pub(super) fn reply(&mut self, asker: Asker, mut reply: Reply) -> Option<Input> {
        let Asker { session, request } = asker;
        if let Reply::Sessions(page) = &mut reply {
            for item in &mut page.items {
                item.queued_bytes = self.queued_bytes(SessionId(item.session));
            }
        }
        let frame = reply.encode(request, Fence::NONE).or_else(|error| {
            // Every item has a bound that lets it fit, so this is for the unforeseen: the client
            // must get one answer in any case.
            let refused = ErrorReply::new(ErrorCode::LIMIT, error.to_string());
            Reply::from(refused).encode(request, Fence::NONE)
        });
        match frame {
            Ok(frame) => self.send(session, &[&frame]),
            Err(error) => {
                self.log_line(&format!(
                    "session {}: an answer is lost: {error}",
                    session.0
                ));
                self.close(session)
            }
        }
    }

    /// Queues or sends; a client that cannot keep up with what it asked for is parted with.
    fn send(&mut self, session: SessionId, parts: &[&[u8]]) -> Option<Input> {
        let connection = self.connections.get_mut(&session)?;
        let sent = connection.send(parts);
        connection.update_interest(&self.polled.borrow());
        match sent {
            Sent::All | Sent::Queued => None,
            Sent::Broken => self.part_with(session),
            Sent::TooSlow => {
                self.log_line(&format!(
                    "session {}: closed: it does not read what it asked for",
                    session.0
                ));
                self.part_with(session)
            }
        }
    }

    pub(super) fn part_with(&mut self, session: SessionId) -> Option<Input> {
        self.unparsed.remove(&session);
        let known = self.connections.remove(&session).is_some();
        self.listen_again();
        known.then_some(Input::Disconnected { session })
    }

    fn close(&mut self, session: SessionId) -> Option<Input> {
        let connection = self.connections.get_mut(&session)?;
        if matches!(
            connection.let_go(&mut self.spare_text),
            Sent::Broken | Sent::TooSlow
        ) {
            return self.part_with(session);
        }
        connection.course = Course::Closing;
        connection.update_interest(&self.polled.borrow());
        if connection.queue.is_empty() {
            self.part_with(session)
        } else {
            None
        }
    }

    /// Sends records as text.
    fn send_text(
        &mut self,
        session: SessionId,
        process: ProcessId,
        mark: ReadMark,
        form: TextForm,
        bytes_max: u64,
    ) -> Option<Input> {
        let connection = self.connections.get_mut(&session)?;
        let text = connection.held(&mut self.spare_text);
        let helping =
            self.hands
                .text_helping(&self.state, process, mark, (form, bytes_max), text)?;
        let (bytes, mark, line) = match helping {
            Err(damaged) => return Some(damaged),
            Ok(TextHelping::Gap { gap, mark }) => {
                return Some(Input::OutputGap {
                    session,
                    process,
                    gap,
                    mark,
                });
            }
            Ok(TextHelping::Text { bytes, mark, line }) => (bytes, mark, line),
        };
        let room = match form {
            // It ends with a text of its own, which goes out together with it.
            TextForm::Batch => {
                let room = match connection.queue.is_empty() {
                    true => Room::Free,
                    false => Room::Congested,
                };
                self.holding.insert(session);
                room
            }
            TextForm::Plain => {
                let sent = connection.let_go(&mut self.spare_text);
                connection.update_interest(&self.polled.borrow());
                match sent {
                    Sent::Broken | Sent::TooSlow => return self.part_with(session),
                    Sent::All | Sent::Queued => room_of(sent),
                }
            }
        };
        Some(Input::TextSent {
            session,
            process,
            mark,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            line,
            room,
        })
    }

    fn hold(&mut self, session: SessionId, text: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&session) {
            let held = connection.held(&mut self.spare_text);
            held.extend_from_slice(text);
            self.holding.insert(session);
        }
    }

    /// Sends what was kept back for a session.
    pub(super) fn let_go(&mut self, session: SessionId) -> Option<Input> {
        let connection = self.connections.get_mut(&session)?;
        let sent = connection.let_go(&mut self.spare_text);
        connection.update_interest(&self.polled.borrow());
        match sent {
            Sent::All => None,
            Sent::Queued => Some(Input::Congested { session }),
            Sent::Broken => self.part_with(session),
            Sent::TooSlow => {
                self.log_line(&format!(
                    "session {}: closed: it does not read what it asked for",
                    session.0
                ));
                self.part_with(session)
            }
        }
    }

    /// Sends one helping of records, straight from the ring.
    fn send_output(
        &mut self,
        session: SessionId,
        process: ProcessId,
        mark: ReadMark,
        credit: u64,
    ) -> Option<Input> {
        let connection = self.connections.get_mut(&session)?;
        if !connection.queue.is_empty() {
            return Some(Helping::refused(session, process, mark));
        }
        let most = crate::limits::OUTPUT_SEND_BYTES;
        let helping = self
            .hands
            .helping(&self.state, process, mark, credit, most)?;
        let (records, mark, bytes) = match helping {
            Err(damaged) => return Some(damaged),
            Ok(Helping::Gap { gap, mark }) => {
                return Some(Input::OutputGap {
                    session,
                    process,
                    gap,
                    mark,
                });
            }
            Ok(Helping::Records {
                records,
                mark,
                bytes,
                ..
            }) => (records, mark, bytes),
        };
        let length = u64::try_from(OutputFrame::PREFIX_BYTES)
            .unwrap_or(8)
            .saturating_add(bytes);
        let header = Header {
            kind: OUTPUT_KIND,
            flags: 0,
            request: RequestId(0),
            fence: Fence::NONE,
            body_bytes: u32::try_from(length).unwrap_or(u32::MAX),
            descriptors: 0,
        };
        let [first, second] = records;
        let parts = [
            &header.to_bytes()[..],
            &process.0.to_le_bytes(),
            first,
            second,
        ];
        let sent = if connection.hold_frame(&parts, &mut self.spare_text) {
            self.holding.insert(session);
            Sent::All
        } else {
            let sent = connection.send(&parts);
            connection.update_interest(&self.polled.borrow());
            sent
        };
        match sent {
            Sent::Broken | Sent::TooSlow => self.part_with(session),
            Sent::All | Sent::Queued => {
                let room = room_of(sent);
                Some(Input::OutputSent {
                    session,
                    process,
                    mark,
                    bytes,
                    passed: None,
                    room,
                })
            }
        }
    }
}

/// Resident memory and open descriptors, from `/proc/self`.
fn measure(asker: Asker) -> Input {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0);
    let page_kib = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes / 1024).ok())
        .unwrap_or(4);
    let descriptors = count_descriptors().unwrap_or(0);
    let descriptors = u64::try_from(descriptors).unwrap_or(u64::MAX);
    Input::Measured {
        asker,
        resident_kib: pages.saturating_mul(page_kib),
        descriptors,
    }
}

/// With 1,000 children, counting the entries of the directory takes 4 ms, in which nobody is served.
fn count_descriptors() -> Option<usize> {
    let listed = || {
        let entries = std::fs::read_dir("/proc/self/fd").ok()?;
        // The listing itself has one open.
        Some(entries.count().saturating_sub(1))
    };
    open_count().filter(|count| *count != 0).or_else(listed)
}

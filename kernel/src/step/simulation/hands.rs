//! What Linux would do with an effect, and what it would find wrong with it.

use super::{RECORDS_MAX, Ring, SPAN, World};
use crate::effect::{Countable, Delivery, Effect, Question};
use crate::input::{Answer, Input, LineRead, OutputPosition, ReadOutcome, Room, Started};
use crate::memory::SlotIndex;
use crate::memory::cursor::{EofBits, RingCursor, Sequence, Stream};
use crate::memory::ring::{Gap, ReadMark};
use crate::state::SessionId;
use crate::state::text::LineEnd;
use crate::text::users::UserDatabase;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::reply::{Reply, SocketPassed};
use kingpole_protocol::status::SocketInfo;

impl World {
    fn refused(&self) -> Box<ErrorReply> {
        Box::new(ErrorReply::new(ErrorCode::SYSTEM, "the world refuses"))
    }

    pub(super) fn position(&self, process: ProcessId) -> Option<OutputPosition> {
        let ring = self.rings.get(&process)?;
        Some(OutputPosition {
            cursor: ring.cursor,
            oldest: Sequence(ring.oldest),
        })
    }

    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Reply { asker, reply } => {
                let heard = self
                    .heard
                    .get_mut(&asker.session)
                    .expect("answers to the living");
                heard.replies.push((asker.request.0, *reply));
                None
            }
            Effect::Event { session, event } => {
                let heard = self.heard.get_mut(&session).expect("events to the living");
                if let Event::Gap(gap) = &*event {
                    let next = heard.next.entry(gap.process).or_insert(gap.from.0);
                    assert_eq!(*next, gap.from.0, "a gap begins where the output stopped");
                    assert!(gap.to > gap.from);
                    *next = gap.to.0;
                }
                if let Event::StreamEnded(end) = &*event {
                    let next = heard.next.get(&end.process).copied();
                    assert_eq!(next.unwrap_or(end.next.0), end.next.0, "told too early");
                }
                heard.events.push(*event);
                None
            }
            Effect::Text { session, text } => {
                self.heard
                    .get_mut(&session)
                    .expect("text to the living")
                    .text += &String::from_utf8_lossy(&text);
                None
            }
            Effect::LookUp { session, question } => {
                let answer = match question {
                    Question::Users(draft) => Answer::Users {
                        draft,
                        database: Ok(UserDatabase {
                            passwd: "ann:x:1000:1000:::\n".into(),
                            group: "ann:x:1000:\n".into(),
                        }),
                    },
                    Question::Host(spec) => Answer::Host {
                        spec,
                        hosts: Err("the world has no names".into()),
                    },
                };
                Some(Input::LookedUp {
                    session,
                    answer: Box::new(answer),
                })
            }
            Effect::AskWhetherRead { session } => {
                let answer = match self.congested.contains(&session) {
                    true => LineRead::No,
                    false => LineRead::Yes,
                };
                Some(Input::LineRead { session, answer })
            }
            Effect::Count { session, what } => {
                let counts = match what {
                    Countable::Unread(processes) => processes
                        .iter()
                        .map(|process| (process.0, self.rings[process].cursor.used() / SPAN * 10))
                        .collect(),
                    Countable::Queued(sessions) => {
                        let queued = |id| u64::from(self.congested.contains(id));
                        sessions.iter().map(|id| (id.0, queued(id))).collect()
                    }
                };
                Some(Input::Counted { session, counts })
            }
            Effect::ReadTail {
                session, process, ..
            } => {
                let ring = self.rings.get(&process)?;
                let mark = ReadMark {
                    seq: ring.cursor.next_seq,
                    position: ring.cursor.head,
                };
                Some(Input::TailRead {
                    session,
                    bytes: b"tail\n".to_vec(),
                    mark,
                })
            }
            Effect::SendText {
                session,
                process,
                mark,
                ..
            } => self.send_text(session, process, mark),
            Effect::TellWhenDrained { session } => Some(Input::Drained { session }),
            Effect::Close { session } => {
                self.heard.get_mut(&session)?.closed = true;
                Some(Input::Disconnected { session })
            }
            Effect::Spawn(order) if self.fails => {
                let error = self.refused();
                Some(Input::SpawnFailed { order, error })
            }
            Effect::Spawn(order) => {
                let process = ProcessId(self.next_process);
                self.next_process += 1;
                let captured = order.buffer_bytes > 0;
                let ended = if captured {
                    EofBits::NONE
                } else {
                    EofBits::ALL
                };
                let cursor = RingCursor::new(ended);
                self.rings.insert(process, Ring { cursor, oldest: 1 });
                let started = Started {
                    process,
                    slot: SlotIndex::new(process.0 % 1000).unwrap(),
                    pid: 1000 + process.0 as i32,
                    started_ns: self.clock,
                    output: self.position(process)?,
                    capacity_bytes: u64::from(captured) * SPAN * RECORDS_MAX as u64,
                    recorded_bytes: 100,
                };
                Some(Input::Spawned { order, started })
            }
            Effect::Signal { asker, .. } => Some(Input::Signalled {
                asker,
                result: Ok(1),
            }),
            Effect::Measure { asker } => Some(Input::Measured {
                asker,
                resident_kib: 1,
                descriptors: 1,
            }),
            Effect::MakeSocket { asker, .. } if self.fails => {
                let result = Err(self.refused());
                Some(Input::SocketMade { asker, result })
            }
            Effect::MakeSocket { asker, spec } => {
                let number = self.state.newest_socket + 1;
                let info = SocketInfo {
                    spec: *spec,
                    fileno: Some(64 + number as i32),
                };
                Some(Input::SocketMade {
                    asker,
                    result: Ok((number, Box::new(info))),
                })
            }
            // Descriptors are the event loop's business.
            Effect::Upgrade { session, .. } => Some(Input::UpgradeAnswered {
                session,
                text: "Error: the world has no other program".into(),
            }),
            Effect::PassSocket { asker, socket } => self.carry_out(Effect::Reply {
                asker,
                reply: Box::new(Reply::from(SocketPassed {
                    socket: *socket,
                    reachable: true,
                })),
            }),
            Effect::Record { after, .. } => {
                let result = if self.fails {
                    Err(self.refused())
                } else {
                    Ok(())
                };
                Some(Input::Recorded { after, result })
            }
            Effect::Read {
                process, stream, ..
            } => {
                if std::mem::take(&mut self.written) {
                    return self.read(process, stream);
                }
                Some(Input::OutputRead {
                    process,
                    stream,
                    outcome: ReadOutcome::Nothing,
                })
            }
            Effect::Acknowledge { process, through } => {
                if let Some(releasable) = &self.releasable
                    && through.0 != u64::MAX
                {
                    let most = releasable.get(&process).copied().unwrap_or(0);
                    assert!(
                        through.0 <= most,
                        "{process}: {through} released, {most} allowed"
                    );
                }
                let ring = self.rings.get_mut(&process)?;
                while ring.cursor.tail < ring.cursor.head && ring.oldest <= through.0 {
                    ring.cursor.tail += SPAN;
                    ring.oldest += 1;
                }
                let output = self.position(process)?;
                Some(Input::Acknowledged { process, output })
            }
            Effect::AbandonOutput { process } => {
                let ring = self.rings.get_mut(&process)?;
                ring.cursor.tail = ring.cursor.head;
                ring.oldest = ring.cursor.next_seq.0;
                let output = self.position(process)?;
                Some(Input::Acknowledged { process, output })
            }
            Effect::Forget { process } => {
                assert!(self.rings.remove(&process).is_some(), "forgotten once");
                None
            }
            Effect::SendOutput {
                session,
                process,
                mark,
                credit,
                delivery,
            } => self.send_output(session, process, mark, (credit, delivery)),
            Effect::Exit => {
                self.exits = true;
                None
            }
            Effect::SwitchToFrames { .. }
            | Effect::TakeRequests { .. }
            | Effect::CloseSocket { .. }
            | Effect::SetFlags { .. }
            | Effect::PauseReading { .. }
            | Effect::ResumeReading { .. }
            | Effect::GiveBack { .. }
            | Effect::ResolveIntents
            | Effect::Log(_) => None,
        }
    }

    fn read(&mut self, process: ProcessId, stream: Stream) -> Option<Input> {
        let ring = self.rings.get_mut(&process)?;
        let mut dropped_records = 0;
        if ring.cursor.used() >= SPAN * RECORDS_MAX as u64 {
            ring.cursor.tail += SPAN;
            ring.oldest += 1;
            dropped_records = 1;
        }
        ring.cursor.head += SPAN;
        ring.cursor.next_seq = ring.cursor.next_seq.next();
        match stream {
            Stream::Stdout => ring.cursor.stdout_bytes += 10,
            Stream::Stderr => ring.cursor.stderr_bytes += 10,
        }
        let output = self.position(process)?;
        let outcome = ReadOutcome::Record {
            output,
            dropped_records,
            dropped_bytes: dropped_records * 10,
        };
        Some(Input::OutputRead {
            process,
            stream,
            outcome,
        })
    }

    /// What a follower hears whose next record was dropped.
    fn gap_before(&self, session: SessionId, process: ProcessId, mark: ReadMark) -> Option<Input> {
        let ring = self.rings.get(&process).expect("only what is held is sent");
        let to = Sequence(ring.oldest);
        (mark.seq < to).then_some(Input::OutputGap {
            session,
            process,
            gap: Gap {
                from: mark.seq,
                to,
                stdout_offset: 0,
                stderr_offset: 0,
            },
            mark: ReadMark {
                seq: to,
                position: ring.cursor.tail,
            },
        })
    }

    fn send_output(
        &mut self,
        session: SessionId,
        process: ProcessId,
        mark: ReadMark,
        (credit, delivery): (u64, Delivery),
    ) -> Option<Input> {
        assert!(credit > 0, "nothing is sent on credit that is not there");
        if self.congested.contains(&session) {
            let room = Room::Congested;
            return Some(Input::OutputSent {
                session,
                process,
                mark,
                bytes: 0,
                passed: None,
                room,
            });
        }
        if let Some(gap) = self.gap_before(session, process, mark) {
            return Some(gap);
        }
        let ring = self.rings.get(&process).expect("only what is held is sent");
        assert!(
            mark.seq < ring.cursor.next_seq,
            "there is something to send"
        );
        let passed = self.pass_ring(session, process, delivery);
        let heard = self.heard.get_mut(&session).expect("output to the living");
        let next = heard.next.entry(process).or_insert(mark.seq.0);
        assert_eq!(*next, mark.seq.0, "records come in order, each once");
        *next += 1;
        let mark = ReadMark {
            seq: mark.seq.next(),
            position: 0,
        };
        Some(Input::OutputSent {
            session,
            process,
            mark,
            bytes: SPAN,
            passed,
            room: Room::Free,
        })
    }

    /// A ring is passed once to each who asked, unless Linux refuses; it is then read in place.
    fn pass_ring(
        &mut self,
        session: SessionId,
        process: ProcessId,
        delivery: Delivery,
    ) -> Option<u64> {
        let Delivery::InPlace { ring } = delivery else {
            return None;
        };
        let heard = self.heard.get_mut(&session).expect("output to the living");
        let number = process.0 + 1000;
        match ring {
            Some(known) => {
                assert_eq!(known, number);
                assert!(heard.rings.contains(&process), "it has this ring");
                None
            }
            None if self.fails => None,
            None => {
                heard.rings.insert(process);
                Some(number)
            }
        }
    }

    fn send_text(
        &mut self,
        session: SessionId,
        process: ProcessId,
        mark: ReadMark,
    ) -> Option<Input> {
        if let Some(gap) = self.gap_before(session, process, mark) {
            return Some(gap);
        }
        let heard = self.heard.get_mut(&session).expect("output to the living");
        let line = format!("record:{}:{}\n", process.0, mark.seq.0);
        heard.text += &line;
        let room = match self.congested.contains(&session) {
            true => Room::Congested,
            false => Room::Free,
        };
        Some(Input::TextSent {
            session,
            process,
            mark: ReadMark {
                seq: mark.seq.next(),
                position: 0,
            },
            bytes: line.len() as u64,
            line: LineEnd::AtStart,
            room,
        })
    }
}

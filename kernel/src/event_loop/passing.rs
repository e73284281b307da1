//! Handing descriptors to clients: of held sockets, to accept beside the kernel, and of output rings, to
//! read in place.

use super::connections::{Connection, Sent};
use super::hands::{Hands, Helping};
use super::{Kernel, room_of};
use crate::effect::Asker;
use crate::input::Input;
use crate::limits::MAPPED_BYTES_MIN;
use crate::memory::ring::ReadMark;
use crate::sockets::is_in_place;
use crate::state::{SessionId, State};
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::event::{Event, MappedOutput, RingPassed};
use kingpole_protocol::frame::announce_descriptor;
use kingpole_protocol::ids::{Fence, ProcessId, RequestId};
use kingpole_protocol::limits::MAPPED_OUTPUT_BYTES_MAX;
use kingpole_protocol::reply::{Reply, SocketPassed};
use kingpole_protocol::spec::SocketAddress;
use kingpole_protocol::status::SocketInfo;
use std::os::fd::AsFd;

impl Kernel {
    /// Sends the descriptor at once or not at all: one that waited in the queue of a session would
    /// have to be counted, and carried through an upgrade.
    pub(super) fn pass_socket(&mut self, asker: Asker, socket: SocketInfo) -> Option<Input> {
        let name = socket.spec.name.clone();
        let refuse = |code, text: String| Reply::from(ErrorReply::new(code, text));
        let Some(held) = self.hands.sockets.get(&name) else {
            let text = format!("socket {name:?}: its descriptor is lost");
            return self.reply(asker, refuse(ErrorCode::SYSTEM, text));
        };
        let reachable = match (&socket.spec.address, &held.file) {
            (SocketAddress::Unix { .. }, None) => false,
            (SocketAddress::Unix { .. }, Some(file)) => is_in_place(file),
            (SocketAddress::Inet { .. } | SocketAddress::Inet6 { .. }, _) => true,
        };
        let reply = Reply::from(SocketPassed { socket, reachable });
        let mut frame = match reply.encode(asker.request, Fence::NONE) {
            Ok(frame) => frame,
            Err(error) => {
                return self.reply(asker, refuse(ErrorCode::LIMIT, error.to_string()));
            }
        };
        announce_descriptor(&mut frame);
        let connection = self.connections.get_mut(&asker.session)?;
        let sent = connection.pass(&frame, held.fd.as_fd());
        connection.update_interest(&self.polled.borrow());
        match sent {
            Some(Sent::All | Sent::Queued) => None,
            Some(Sent::Broken | Sent::TooSlow) => self.part_with(asker.session),
            None => {
                let text = format!(
                    "socket {name:?}: earlier answers wait to be read; read them and ask again"
                );
                self.reply(asker, refuse(ErrorCode::PENDING, text))
            }
        }
    }

    /// Says where a follower's next records lie, after passing it the ring if it does not have it. `None`
    /// if they are few, or something is in the way: then they are sent as bytes.
    pub(super) fn announce(
        &mut self,
        (session, process): (SessionId, ProcessId),
        mark: ReadMark,
        credit: u64,
        known: Option<u64>,
    ) -> Option<Input> {
        let connection = self.connections.get_mut(&session)?;
        if !connection.queue.is_empty() {
            return None;
        }
        let most = MAPPED_OUTPUT_BYTES_MAX;
        let newest = self.state.processes.get(&process)?.output.cursor.head;
        if newest.saturating_sub(mark.position) < MAPPED_BYTES_MIN {
            return None;
        }
        let helping = self
            .hands
            .helping(&self.state, process, mark, credit, most)?;
        let Ok(Helping::Records {
            start, mark, bytes, ..
        }) = helping
        else {
            return None;
        };
        if !(MAPPED_BYTES_MIN..=most).contains(&bytes) {
            return None;
        }
        let mut passed = None;
        let ring = match known {
            Some(ring) => ring,
            None => {
                let (ring, sent) = self.hands.pass_ring(&self.state, process, connection)?;
                if matches!(sent, Sent::Broken | Sent::TooSlow) {
                    return self.part_with(session);
                }
                *passed.insert(ring)
            }
        };
        let output = MappedOutput {
            process,
            ring,
            position: start.position,
            bytes,
            from: start.seq,
            next: mark.seq,
        };
        let connection = self.connections.get_mut(&session)?;
        let sent = match Event::from(output).encode(RequestId(0), Fence::NONE) {
            Ok(frame) => connection.send(&[&frame]),
            Err(_) => Sent::Broken,
        };
        connection.update_interest(&self.polled.borrow());
        match sent {
            Sent::Broken | Sent::TooSlow => self.part_with(session),
            Sent::All | Sent::Queued => Some(Input::OutputSent {
                session,
                process,
                mark,
                bytes,
                passed,
                room: room_of(sent),
            }),
        }
    }
}

impl Hands {
    /// Sends a client the file of a ring; `None` when that cannot be done now.
    fn pass_ring(
        &self,
        state: &State,
        process: ProcessId,
        connection: &mut Connection,
    ) -> Option<(u64, Sent)> {
        let ring = self.children.get(&process)?.ring.as_ref()?;
        let cursor = state.processes.get(&process)?.output.cursor;
        let (file, number) = ring.share(&cursor).ok()?;
        let passed = RingPassed {
            process,
            ring: number,
            data_bytes: ring.size().bytes(),
        };
        let mut frame = Event::from(passed).encode(RequestId(0), Fence::NONE).ok()?;
        announce_descriptor(&mut frame);
        let sent = connection.pass(&frame, file.as_fd())?;
        Some((number, sent))
    }

    /// Nobody shall believe what is read in place while this process becomes another program: that may
    /// be one that does not know of such readers.
    pub(super) fn close_rings(&self) {
        for ring in self
            .children
            .values()
            .filter_map(|child| child.ring.as_ref())
        {
            ring.close_to_readers();
        }
    }

    /// It did not.
    pub(super) fn open_rings(&self) {
        for child in self.children.values() {
            if let (Some(ring), Ok(cursor)) = (&child.ring, self.memory.slot(child.slot).cursor()) {
                ring.tell_readers(&cursor);
            }
        }
    }
}

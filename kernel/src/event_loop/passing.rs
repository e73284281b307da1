//! Handing the descriptors of held sockets to clients that accept beside the kernel.

use super::Kernel;
use super::connections::Sent;
use crate::effect::Asker;
use crate::input::Input;
use crate::sockets::is_in_place;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::frame::announce_descriptor;
use kingpole_protocol::ids::Fence;
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
}

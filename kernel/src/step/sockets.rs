//! Sockets that the kernel holds for its children.

use super::{Refusal, Step, refusal};
use crate::effect::{After, Asker, Effect};
use crate::entry::{Entry, SocketClosed, socket_made};
use crate::limits::{RECORDED_BYTES_MAX, SOCKETS_MAX};
use crate::state::{SessionId, Socket};
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::names::check_name;
use kingpole_protocol::reply;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::status::SocketInfo;

impl Step<'_> {
    pub(super) fn make_socket(&mut self, asker: Asker, spec: SocketSpec) -> Result<(), Refusal> {
        check_spec(&spec)?;
        if let Some(socket) = self.state.sockets.get(&spec.name) {
            if !is_same(socket, &spec) {
                let text = format!(
                    "socket {:?} was made with other options: {:?}; close it first",
                    spec.name, socket.info.spec.address
                );
                return Err(refusal(ErrorCode::ALREADY_EXISTS, text));
            }
            let socket = socket.info.clone();
            self.reply(
                asker,
                reply::SocketMade {
                    socket,
                    existed: true,
                },
            );
            return Ok(());
        }
        if self.state.sockets.len() >= SOCKETS_MAX {
            let text = format!("{SOCKETS_MAX} sockets are held, which is the limit");
            return Err(refusal(ErrorCode::LIMIT, text));
        }
        self.check_descriptors(1)?;
        self.check_recorded(record_estimate(&spec))?;
        self.effects.push(Effect::MakeSocket {
            asker,
            spec: Box::new(spec),
        });
        Ok(())
    }

    pub(super) fn handle_socket_made(
        &mut self,
        asker: Asker,
        result: Result<(u64, Box<SocketInfo>), Refusal>,
    ) {
        let (number, info) = match result {
            Ok(made) => made,
            Err(error) => {
                self.log(format!("socket: {error}"));
                return self.refuse(asker, error);
            }
        };
        self.state.newest_socket = self.state.newest_socket.max(number);
        let recorded_bytes = record_estimate(&info.spec);
        let asked_port = port(&info.spec.address).unwrap_or(0);
        let socket = Socket {
            number,
            info: *info,
            asked_port,
            recorded_bytes,
        };
        let entry = Box::new(Entry::SocketMade(socket_made(&socket)));
        let after = Box::new(After::SocketMade {
            asker,
            socket: Box::new(socket),
        });
        self.effects.push(Effect::Record { entry, after });
    }

    pub(super) fn handle_socket_recorded(&mut self, asker: Asker, socket: Socket) {
        let info = socket.info.clone();
        self.log(format!(
            "socket {:?}: made at {:?}",
            info.spec.name, info.spec.address
        ));
        let bytes = socket.recorded_bytes;
        self.state.recorded_bytes = self.state.recorded_bytes.saturating_add(bytes);
        self.state.sockets.insert(info.spec.name.clone(), socket);
        self.reply(
            asker,
            reply::SocketMade {
                socket: info,
                existed: false,
            },
        );
    }

    pub(super) fn close_socket(&mut self, asker: Asker, name: &str) -> Result<(), Refusal> {
        if !self.state.sockets.contains_key(name) {
            return Err(refusal(
                ErrorCode::NOT_FOUND,
                format!("no socket is called {name:?}"),
            ));
        }
        let name = name.to_owned();
        let entry = Box::new(Entry::SocketClosed(SocketClosed { name: name.clone() }));
        let after = Box::new(After::SocketClosed { asker, name });
        self.effects.push(Effect::Record { entry, after });
        Ok(())
    }

    /// Descriptors travel over unix sockets only.
    pub(super) fn passes_descriptors(&self, session: SessionId) -> bool {
        let session = self.state.sessions.get(&session);
        session.is_some_and(|session| session.peer.is_unix())
    }

    pub(super) fn fetch_socket(&mut self, asker: Asker, name: &str) -> Result<(), Refusal> {
        if !self.passes_descriptors(asker.session) {
            let text = "descriptors cannot travel over TCP; connect over a unix socket, or listen \
                        without the kernel";
            return Err(refusal(ErrorCode::UNSUPPORTED, text));
        }
        let Some(socket) = self.state.sockets.get(name) else {
            let text = format!("no socket is called {name:?}");
            return Err(refusal(ErrorCode::NOT_FOUND, text));
        };
        if socket.info.spec.reuseport {
            let text = format!("socket {name:?} has reuseport, so the kernel keeps none open");
            return Err(refusal(ErrorCode::INVALID, text));
        }
        let socket = Box::new(socket.info.clone());
        self.effects.push(Effect::PassSocket { asker, socket });
        Ok(())
    }

    pub(super) fn handle_socket_forgotten(&mut self, asker: Asker, name: &str) {
        if let Some(socket) = self.state.sockets.remove(name) {
            let bytes = socket.recorded_bytes;
            self.state.recorded_bytes = self.state.recorded_bytes.saturating_sub(bytes);
            self.log(format!("socket {name:?}: closed"));
            self.effects.push(Effect::CloseSocket {
                socket: Box::new(socket),
            });
        }
        self.reply(asker, reply::Done {});
    }

    /// Refuses what would make the records of processes and sockets too large together.
    pub(super) fn check_recorded(&self, more: u64) -> Result<(), Refusal> {
        if self.state.recorded_bytes.saturating_add(more) > RECORDED_BYTES_MAX {
            let text = format!(
                "what is known about processes and sockets may have {RECORDED_BYTES_MAX} bytes"
            );
            return Err(refusal(ErrorCode::LIMIT, text));
        }
        Ok(())
    }
}

fn record_estimate(spec: &SocketSpec) -> u64 {
    let address = match &spec.address {
        SocketAddress::Unix { path, .. } => path.len(),
        SocketAddress::Inet { host, .. } | SocketAddress::Inet6 { host, .. } => host.len(),
    };
    let text = spec.name.len().saturating_add(address);
    u64::try_from(text).unwrap_or(u64::MAX).saturating_add(256)
}

fn port(address: &SocketAddress) -> Option<u16> {
    match address {
        SocketAddress::Unix { .. } => None,
        SocketAddress::Inet { port, .. } | SocketAddress::Inet6 { port, .. } => Some(*port),
    }
}

/// Equal options; a port of 0 equals whatever Linux picked, as in Papa.
fn is_same(held: &Socket, asked: &SocketSpec) -> bool {
    let mut asked = asked.clone();
    let real = port(&held.info.spec.address).unwrap_or(0);
    if let SocketAddress::Inet { port, .. } | SocketAddress::Inet6 { port, .. } = &mut asked.address
        && *port == 0
    {
        *port = real;
    }
    held.info.spec == asked
}

fn check_spec(spec: &SocketSpec) -> Result<(), Refusal> {
    let invalid = |text: String| refusal(ErrorCode::INVALID, text);
    check_name("socket", &spec.name).map_err(|error| invalid(error.to_string()))?;
    let name = &spec.name;
    match &spec.address {
        SocketAddress::Unix { path, .. } => {
            if path.first() != Some(&b'/') || path.contains(&0) {
                return Err(invalid(format!(
                    "socket {name:?}: {path:?} is no absolute path"
                )));
            }
            // sockaddr_un has room for 108 bytes with the final NUL.
            if path.len() > 107 {
                let length = path.len();
                return Err(invalid(format!(
                    "socket {name:?}: the path has {length} bytes; Linux takes at most 107"
                )));
            }
            if spec.interface.is_some() || spec.reuseport {
                return Err(invalid(format!(
                    "socket {name:?}: interface and reuseport are for inet and inet6"
                )));
            }
        }
        SocketAddress::Inet { .. } | SocketAddress::Inet6 { .. } => {
            if spec.kind == SocketKind::SeqPacket {
                return Err(invalid(format!(
                    "socket {name:?}: sequenced packets are for unix sockets"
                )));
            }
        }
    }
    Ok(())
}

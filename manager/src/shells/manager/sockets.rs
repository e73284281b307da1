//! Sockets of the configuration: their hosts are looked up, the kernel makes them, and whoever waits for
//! connections at them is told.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kingpole_protocol::spec::SocketSpec;

use super::Running;
use crate::engine::Input;
use crate::shells::connections::ConnectionNews;
use crate::shells::launch::{PrepareError, needs_lookup, socket_spec};
use crate::shells::socket_mode;

impl Running {
    pub(super) fn await_connections(&mut self, sockets: BTreeSet<String>) {
        let configuration = self.manager.configuration.borrow().clone();
        let known = sockets.into_iter().filter_map(|socket| {
            let name = configuration.socket(&socket)?.kernel_socket_name();
            Some((socket, name))
        });
        self.connections.wait_at(known.collect());
    }

    pub(super) fn handle_connection(&mut self, news: ConnectionNews) {
        let ConnectionNews { socket, blind } = news;
        if let Some(why) = blind {
            self.manager.log.warning(format!(
                "socket {socket:?}: it cannot be said whether a connection waits, so those that are \
                 on_demand are started at once: {why}"
            ));
        }
        self.input(Input::ConnectionWaits { socket });
    }

    pub(super) fn find_socket(&mut self, socket: String) {
        let configuration = self.manager.configuration.borrow().clone();
        let directory: PathBuf = self.manager.around.working_directory.clone();
        match configuration.socket(&socket).cloned() {
            None => {
                let error = format!("socket {socket:?} is not configured");
                self.manager.link.fail_socket(socket, error);
            }
            Some(config) if needs_lookup(&config) => {
                self.lookups
                    .spawn_blocking(move || (socket, socket_spec(&config, &directory)));
            }
            Some(config) => self.make_socket(socket, socket_spec(&config, &directory)),
        }
    }

    pub(super) fn make_socket(&mut self, socket: String, spec: Result<SocketSpec, PrepareError>) {
        match spec {
            Ok(spec) => self.manager.link.make_socket(socket, spec),
            Err(error) => self.manager.link.fail_socket(socket, error.to_string()),
        }
    }

    /// Gives an input back, unless it is that of a socket whose mode is written: that one is told once it
    /// has the mode.
    pub(super) fn after_its_mode(&mut self, input: Input) -> Option<Input> {
        let Input::SocketReady { socket } = &input else {
            return Some(input);
        };
        let configuration = self.manager.configuration.borrow().clone();
        let found = configuration.socket(socket);
        let Some((config, blocking)) = found.and_then(|it| Some((it, it.blocking?))) else {
            return Some(input);
        };
        // The kernel makes those for each process anew.
        if config.so_reuseport {
            return Some(input);
        }
        let (socket, name) = (socket.clone(), config.kernel_socket_name());
        let kernel = self.manager.link.socket().to_owned();
        self.modes.spawn_blocking(move || {
            let result = socket_mode::set(&kernel, &name, blocking);
            (socket, result)
        });
        None
    }

    pub(super) fn handle_mode(&mut self, socket: String, result: Result<(), String>) {
        if let Err(error) = result {
            self.manager.log.warning(format!(
                "socket {socket:?} stays as it is instead of becoming what blocking says: {error}"
            ));
        }
        self.input(Input::SocketReady { socket });
    }
}

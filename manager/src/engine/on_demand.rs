//! Watchers that are started by the first connection to one of their sockets (`on_demand`).
//!
//! Such a watcher rests until a shell says that a connection waits: it shall run then, as any other
//! does, until a process of it ends by itself. From then on nothing is replaced until the next
//! connection waits. Nothing of this is remembered: whether there are processes, and whether a
//! connection waits, the next manager sees for itself.

use std::collections::BTreeSet;

use super::action::{Action, Level};
use super::manager::Engine;
use super::sockets::Sockets;
use super::watcher::{Standing, Watcher};

impl Watcher {
    /// Whether missing processes are not replaced before a connection waits.
    pub(super) const fn rests(&self) -> bool {
        self.config.on_demand && !self.demanded
    }

    /// Whether it would run if a connection waited.
    pub(super) fn is_armed(&self) -> bool {
        self.config.on_demand && self.standing == Standing::Configured && self.word()
    }

    /// Sockets of which it wants to know when a connection waits.
    fn awaited(&self, sockets: &Sockets) -> BTreeSet<String> {
        if self.is_armed() && self.rests() {
            sockets.ready_for(&self.uses)
        } else {
            BTreeSet::new()
        }
    }
}

impl Engine {
    /// Says whose connections are waited for, when that has changed.
    pub(super) fn await_connections(&mut self) {
        if !self.cx.connected() || self.ending.begun() {
            return;
        }
        let sockets: BTreeSet<String> = self
            .watchers
            .values()
            .flat_map(|watcher| watcher.awaited(&self.cx.sockets))
            .collect();
        if sockets != self.awaited {
            self.awaited.clone_from(&sockets);
            self.cx.push(Action::AwaitConnections { sockets });
        }
    }

    /// A connection waits at a socket, which is not looked at any more.
    pub(super) fn handle_connection(&mut self, socket: &str) {
        if !self.awaited.remove(socket) {
            // It was about what is not waited for any more.
            return;
        }
        let called: Vec<_> = self
            .watchers
            .values()
            .filter(|watcher| watcher.awaited(&self.cx.sockets).contains(socket))
            .map(|watcher| watcher.key.clone())
            .collect();
        for key in called {
            if let Some(watcher) = self.watchers.get_mut(&key) {
                let name = &watcher.config.name;
                let text = format!("watcher {name:?}: a connection waits at socket {socket:?}");
                self.cx.log(Level::Info, text);
                watcher.demanded = true;
            }
            self.grant_turn(&key);
            self.touch(&key);
        }
    }
}

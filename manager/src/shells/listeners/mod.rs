//! Listening sockets that the process kernel holds for the manager, so that they outlive it: while
//! no manager is there, or one takes over from another, connections wait in their queues instead of
//! failing.
//!
//! Everything that serves clients gets its listener here: [`Listeners::open`] takes a name and an
//! address, finds the socket in the kernel or has it made there, and returns a [`HeldListener`] to
//! accept from. Where the kernel cannot hold it (there is none yet, it is too old to pass
//! descriptors, it runs as another user) the manager listens by itself, and hands the address over
//! as soon as it can. It knows nothing of what is spoken over the connections.
//!
//! Sockets stay in the kernel when the manager is killed, upgraded or detached; [`Listeners::close`]
//! ends them, which is what a manager does that quits.

mod accepting;
mod kernel;
mod own;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kingpole_protocol::client::blocking::ClientError;
use kingpole_protocol::places::Address;
use kingpole_protocol::{ErrorCode, Fence};
use tokio::sync::mpsc;

use self::accepting::StdListener;
pub use self::accepting::{Connection, HeldListener};
use self::kernel::Now;
pub use self::own::ListenError;
use super::log::Log;

/// What the names of our sockets in the kernel begin with. Those of a configuration begin with
/// `circus.`.
const PREFIX: &str = "kingpole.";

/// Listeners of one manager; a clone is the same.
#[derive(Clone, Debug)]
pub struct Listeners {
    shared: Arc<Mutex<Shared>>,
    kernel_socket: PathBuf,
    log: Log,
}

#[derive(Debug, Default)]
struct Shared {
    /// The lease under which the kernel is asked, once we have it.
    fence: Option<Fence>,
    open: BTreeMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    address: Address,
    held_by: HeldBy,
    /// Where further listeners of the same name go.
    successors: mpsc::UnboundedSender<StdListener>,
}

/// Who keeps a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBy {
    /// The kernel with this state.
    Kernel(u64),
    /// Only we: it ends with us.
    Manager,
}

/// Whether the kernel holds all that it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handing {
    /// It does.
    Complete,
    /// [`Listeners::hand_over`] has something to do.
    Missing,
}

impl Listeners {
    /// None yet. `kernel_socket` is where the kernel is asked.
    #[must_use]
    pub fn new(kernel_socket: &Path, log: Log) -> Self {
        Self {
            shared: Arc::default(),
            kernel_socket: kernel_socket.to_owned(),
            log,
        }
    }

    /// Listens on `address`, under a name of the caller's choice that is the same for every manager.
    /// A unix socket gets mode 0600; what a dead manager has left at its path is replaced, anything
    /// else there is not. With port 0 Linux picks one, the same for every later manager.
    ///
    /// Waits for the kernel, some seconds at most, so an event loop should let a thread do it.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub fn open(&self, name: &str, address: &Address) -> Result<HeldListener, ListenError> {
        let fence = self.shared().fence;
        let held = kernel::hold(
            &self.kernel_socket,
            fence,
            &kernel_name(name),
            address,
            Now::Unserved,
        );
        let (listener, held_by) = match held {
            Ok((listener, instance)) => (listener, HeldBy::Kernel(instance)),
            Err(reason) => {
                self.log.debug(format!(
                    "{name}: {address} is not held by the process kernel: {reason}"
                ));
                (own::listen(address)?, HeldBy::Manager)
            }
        };
        let (successors, incoming) = mpsc::unbounded_channel();
        // Port 0 became a number.
        let address = listener.address().unwrap_or_else(|| address.clone());
        let open = Open {
            address: address.clone(),
            held_by,
            successors,
        };
        self.shared().open.insert(name.to_owned(), open);
        Ok(HeldListener::new(listener, address, incoming))
    }

    /// The kernel is there and we hold its lease.
    pub fn kernel_connected(&self, instance: u64, fence: Fence) -> Handing {
        let mut shared = self.shared();
        shared.fence = Some(fence);
        let held = HeldBy::Kernel(instance);
        match shared.open.values().all(|open| open.held_by == held) {
            true => Handing::Complete,
            false => Handing::Missing,
        }
    }

    /// Hands over what the kernel does not hold yet. Waits for it, so an event loop should let a
    /// thread do it.
    pub fn hand_over(&self, instance: u64, fence: Fence) {
        let wanted: Vec<(String, Address)> = {
            let shared = self.shared();
            let missing = |open: &&Open| open.held_by != HeldBy::Kernel(instance);
            let open = shared.open.iter().filter(|(_, open)| missing(open));
            open.map(|(name, open)| (name.clone(), open.address.clone()))
                .collect()
        };
        for (name, address) in wanted {
            // Nobody else can bind a port on which we listen.
            if matches!(address, Address::Tcp(_)) {
                continue;
            }
            match kernel::hold(
                &self.kernel_socket,
                Some(fence),
                &kernel_name(&name),
                &address,
                Now::Ourselves,
            ) {
                Ok((listener, instance)) => {
                    if let Some(open) = self.shared().open.get_mut(&name) {
                        open.held_by = HeldBy::Kernel(instance);
                        // Whoever accepted may have ended.
                        let _ = open.successors.send(listener);
                    }
                }
                Err(reason) => self.log.warning(format!(
                    "{name}: {address} is not held by the process kernel: {reason}; clients will \
                     be refused while no manager runs"
                )),
            }
        }
    }

    /// Ends one for good: the kernel forgets it, its path is removed. Connections that were accepted
    /// go on. Waits for the kernel.
    pub fn close(&self, name: &str) {
        let (open, fence) = {
            let mut shared = self.shared();
            (shared.open.remove(name), shared.fence)
        };
        let Some(open) = open else {
            return;
        };
        if let HeldBy::Kernel(_) = open.held_by
            && let Err(reason) = kernel::close(&self.kernel_socket, fence, &kernel_name(name))
        {
            self.log.debug(format!("{name}: not closed: {reason}"));
        }
        own::remove_path(&open.address);
    }

    /// Ends what an earlier manager has left under this name and nobody wants any more. Waits for the kernel.
    pub fn forget(&self, name: &str) {
        let fence = {
            let shared = self.shared();
            if shared.open.contains_key(name) {
                return;
            }
            shared.fence
        };
        match kernel::close(&self.kernel_socket, fence, &kernel_name(name)) {
            Ok(()) => self.log.info(format!(
                "{name}: is not configured any more; its socket is closed"
            )),
            Err(ClientError::Refused(error)) if error.code == ErrorCode::NOT_FOUND => {}
            Err(reason) => self.log.debug(format!("{name}: not closed: {reason}")),
        }
    }

    /// Ends all of them, as [`Self::close`] does.
    pub fn close_all(&self) {
        let names: Vec<String> = self.shared().open.keys().cloned().collect();
        for name in names {
            self.close(&name);
        }
    }

    /// This manager leaves and another one may come: what only it listens on is closed, what the
    /// kernel holds stays.
    pub fn leave(&self) {
        let open = std::mem::take(&mut self.shared().open);
        for open in open.into_values() {
            if open.held_by == HeldBy::Manager {
                own::remove_path(&open.address);
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Every change of it is one assignment, so a panic elsewhere leaves it sound.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kernel_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

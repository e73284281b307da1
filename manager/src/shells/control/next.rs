//! Visitors that go on with the next program in this process: the connection, and what has arrived on it
//! and was not looked at. They notice a pause.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UnixStream;

/// Bytes that have arrived, for all visitors together; whoever has more has to ask again.
const CARRIED_BYTES_MAX: usize = 4 << 20;

/// A visitor between two programs.
#[derive(Debug)]
pub struct CarriedVisitor {
    /// The connection.
    pub socket: OwnedFd,
    /// What has arrived and was not looked at.
    pub unread: Vec<u8>,
}

/// Visitors that arrived from the program before, or that wait for the next; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct NextManager(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    visitors: Vec<CarriedVisitor>,
    open: bool,
}

impl NextManager {
    /// With those who arrived from the program before.
    #[must_use]
    pub fn new(arrived: Vec<CarriedVisitor>) -> Self {
        let next = Self::default();
        next.lock().visitors = arrived;
        next
    }

    /// There will be a next program, and it takes visitors.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// Whether visitors go on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lock().open
    }

    /// One of those who arrived.
    #[must_use]
    pub(super) fn next_arrived(&self) -> Option<CarriedVisitor> {
        let mut waiting = self.lock();
        match waiting.open {
            true => None,
            false => waiting.visitors.pop(),
        }
    }

    /// All who go on.
    #[must_use]
    pub fn take(&self) -> Vec<CarriedVisitor> {
        std::mem::take(&mut self.lock().visitors)
    }

    /// Leaves one for the next program, if there is room.
    pub(super) fn leave(&self, stream: UnixStream, unread: Vec<u8>) {
        let mut waiting = self.lock();
        let bytes: usize = waiting.visitors.iter().map(|one| one.unread.len()).sum();
        if bytes.saturating_add(unread.len()) > CARRIED_BYTES_MAX {
            return;
        }
        // What Linux does not give back is closed, and the visitor comes again.
        if let Ok(stream) = stream.into_std() {
            let socket = stream.into();
            waiting.visitors.push(CarriedVisitor { socket, unread });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Signals to the manager, as events.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that means something to a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagerSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT (Ctrl-C) or SIGQUIT.
    Interrupt,
    /// SIGHUP.
    HangUp,
}

/// All signals that are listened to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to listen; from now on none of them has its usual effect.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. May be dropped without losing one.
    pub async fn next(&mut self) -> ManagerSignal {
        tokio::select! {
            _ = self.terminate.recv() => ManagerSignal::Terminate,
            _ = self.interrupt.recv() => ManagerSignal::Interrupt,
            _ = self.quit.recv() => ManagerSignal::Interrupt,
            _ = self.hang_up.recv() => ManagerSignal::HangUp,
        }
    }
}

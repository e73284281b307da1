//! The children's output on its way through the manager: the streams' thread stores it, the history
//! remembers the newest lines of it. This is the manager loop's end of that.

use std::sync::Arc;

use kingpole_protocol::Fence;
use kingpole_protocol::hello::Welcome;
use tokio::sync::mpsc;

use super::history::History;
use crate::config::model::Configuration;
use crate::engine::{Level, OutputSource, ProcessId};

/// What the streams tell the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputEvent {
    /// Everything that an ended process wrote is stored.
    Drained(ProcessId),
    /// A process has written the line that was awaited.
    LineSeen(ProcessId),
    /// For the log.
    Log(Level, String),
}

/// What the manager tells the streams.
pub trait Streams: Send {
    /// The kernel is there, and this is the number under which everything is asked from now on.
    fn kernel_connected(&mut self, welcome: &Welcome, fence: Fence);
    /// The kernel is gone for now.
    fn kernel_lost(&mut self);
    /// Store the output of this process from where it was left.
    fn attach(&mut self, source: OutputSource, configuration: &Configuration);
    /// Tell once when this process writes a line in which the regular expression is found, or do not
    /// any more.
    fn await_line(&mut self, process: ProcessId, regex: Option<String>);
    /// The configuration is another one: from now on output goes where it says, also that of
    /// processes that run already. What is on its way goes where it was going.
    fn configure(&mut self, configuration: &Arc<Configuration>);
    /// A burst of work is over: memory that it left behind goes back to the system.
    fn give_memory_back(&mut self);
    /// Store what has been read and end; the receiver of events is told until then.
    fn finish(&mut self);
}

/// See the module.
pub struct Output {
    streams: Box<dyn Streams>,
    events: mpsc::UnboundedReceiver<OutputEvent>,
    history: History,
}

impl Output {
    /// Of these streams, which tell what happens through the other end of `events` and drop it when
    /// they have ended.
    #[must_use]
    pub fn new(
        streams: Box<dyn Streams>,
        events: mpsc::UnboundedReceiver<OutputEvent>,
        history: History,
    ) -> Self {
        Self {
            streams,
            events,
            history,
        }
    }

    /// The newest lines.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What happens next; nothing when the streams have ended, which they only do by a fault before
    /// they are told to. May be dropped at any time.
    pub async fn next(&mut self) -> Option<OutputEvent> {
        self.events.recv().await
    }

    /// See [`Streams::kernel_connected`].
    pub fn kernel_connected(&mut self, welcome: &Welcome, fence: Fence) {
        self.streams.kernel_connected(welcome, fence);
    }

    /// See [`Streams::kernel_lost`].
    pub fn kernel_lost(&mut self) {
        self.streams.kernel_lost();
    }

    /// See [`Streams::attach`].
    pub fn attach(&mut self, source: OutputSource, configuration: &Configuration) {
        self.streams.attach(source, configuration);
    }

    /// See [`Streams::await_line`].
    pub fn await_line(&mut self, process: ProcessId, regex: Option<String>) {
        self.streams.await_line(process, regex);
    }

    /// See [`Streams::configure`].
    pub fn configure(&mut self, configuration: &Arc<Configuration>) {
        self.streams.configure(configuration);
    }

    /// See [`Streams::give_memory_back`].
    pub fn give_memory_back(&mut self) {
        self.streams.give_memory_back();
    }

    /// Lets the streams end, and gives back what they still had to say.
    pub async fn finish(&mut self) -> Vec<(Level, String)> {
        self.streams.finish();
        let mut lines = Vec::new();
        while let Some(event) = self.events.recv().await {
            if let OutputEvent::Log(level, text) = event {
                lines.push((level, text));
            }
        }
        lines
    }
}

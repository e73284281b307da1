//! What hooks have to say to the manager.

use std::fmt;

use tokio::sync::mpsc;

use crate::engine::{HookAnswer, HookId, Level};

/// One thing that came from a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookNews {
    /// It answered.
    Answer(HookId, HookAnswer),
    /// A line for the manager's log.
    Log(Level, String),
}

/// Tells the manager. Waits when the manager is behind, so that hooks wait and not the manager.
#[derive(Clone, Debug)]
pub(super) struct Reporter(pub(super) mpsc::Sender<HookNews>);

impl Reporter {
    pub(super) async fn log(&self, level: Level, text: String) {
        // Without a manager nobody wants to know.
        let _ = self.0.send(HookNews::Log(level, text)).await;
    }

    pub(super) async fn answer(&self, hook: HookId, answer: HookAnswer) {
        let _ = self.0.send(HookNews::Answer(hook, answer)).await;
    }
}

/// Whose hook it is, for people.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) watcher: String,
    pub(super) hook: &'static str,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watcher {:?}: hook {}", self.watcher, self.hook)
    }
}

//! Replies and errors in the form of Circus (its section 1.3): what all clients expect around what a
//! command has to say.

use serde_json::Value;
use serde_json::value::RawValue;

use super::json::{Tree, to_bytes};
use crate::command::{Refusal, RefusalKind};
use crate::shells::clock;

/// Numbers of errors, as Circus has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Errno {
    InvalidJson = 1,
    UnknownCommand = 2,
    Message = 3,
    System = 4,
    Command = 5,
    Failed = 6,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CircusError {
    pub(super) errno: Errno,
    pub(super) reason: String,
}

impl CircusError {
    pub(super) fn new(errno: Errno, reason: impl Into<String>) -> Self {
        Self {
            errno,
            reason: reason.into(),
        }
    }

    /// Something is wrong with the message, or with whom it names.
    pub(super) fn message(reason: impl Into<String>) -> Self {
        Self::new(Errno::Message, reason)
    }

    /// The command could not be done.
    pub(super) fn command(reason: impl Into<String>) -> Self {
        Self::new(Errno::Command, reason)
    }
}

impl From<Refusal> for CircusError {
    fn from(refusal: Refusal) -> Self {
        let errno = match refusal.kind {
            RefusalKind::UnknownWatcher
            | RefusalKind::UnknownProcess
            | RefusalKind::UnknownOption
            | RefusalKind::Invalid => Errno::Message,
            RefusalKind::AlreadyExists
            | RefusalKind::Busy
            | RefusalKind::TooMany
            | RefusalKind::Leaving
            | RefusalKind::Replaced
            | RefusalKind::KernelLost
            | RefusalKind::NotRemembered => Errno::Command,
            RefusalKind::InvalidConfiguration => Errno::Failed,
        };
        Self::new(errno, refusal.reason)
    }
}

/// What a command has to say beside `status`, `time` and `id`, in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, Tree)>);

impl Fields {
    /// Nothing.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// With one more whose own order matters.
    pub(super) fn and_tree(mut self, key: &str, value: Tree) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    /// With one more.
    pub(super) fn and(mut self, key: &str, value: impl Into<Tree>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }
}

/// The bytes of a reply.
pub(super) fn render(id: Option<Box<RawValue>>, outcome: Result<Fields, CircusError>) -> Vec<u8> {
    let time = Tree::from(seconds(clock::wall_ns()));
    let id = (
        "id".to_owned(),
        id.map_or(Tree::Value(Value::Null), Tree::Raw),
    );
    let text = |key: &str, value: Tree| (key.to_owned(), value);
    let fields = match outcome {
        Ok(Fields(own)) => {
            let mut fields = vec![text("status", "ok".into()), text("time", time)];
            for (key, value) in own {
                // `status NAME` says the watcher's status instead of "ok".
                match fields.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, other)) => *other = value,
                    None => fields.push((key, value)),
                }
            }
            fields.push(id);
            fields
        }
        Err(error) => vec![
            text("status", "error".into()),
            text("reason", error.reason.into()),
            text("tb", Value::Null.into()),
            text("time", time),
            text("errno", (error.errno as u8).into()),
            id,
        ],
    };
    to_bytes(&Tree::Object(fields))
}

/// Nanoseconds as the seconds that Python counts in.
pub(super) fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}

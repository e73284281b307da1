//! Why a command did not do what it was for: a sentence for people and an exit code for scripts.

use std::io;

use super::exit::Exit;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the program exits with.
    pub exit: Exit,
    /// What is said on standard error; nothing when all has been said.
    pub message: Option<String>,
}

impl Failure {
    /// With a sentence.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: Some(message.into()),
        }
    }

    /// [`Exit::Failed`] with a sentence.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Everything has been said already.
    #[must_use]
    pub const fn silent(exit: Exit) -> Self {
        Self {
            exit,
            message: None,
        }
    }
}

/// Only writing to standard output fails in this way. Whoever closed the pipe has seen enough.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Exit::Done),
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }
}

/// How every verb ends.
pub type Outcome = Result<Exit, Failure>;

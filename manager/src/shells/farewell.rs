//! What is left to do when everything of ours has been stopped: forget where log files stood, and
//! let the kernel end if nobody else has anything in it.

use std::path::Path;
use std::time::Duration;

use kingpole_protocol::client::blocking::{Client, ClientError, Notice};
use kingpole_protocol::event::Event;
use kingpole_protocol::places::Address;
use kingpole_protocol::request::{Commit, ExitIfIdle, ValueChange};
use kingpole_protocol::{ErrorCode, Fence};

use crate::engine::labels::Identity;
use crate::shells::hearing;
use crate::shells::streams::LINES_PREFIX;
use crate::streams::value::KEY_PREFIX;

/// How long the kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEnd {
    /// It has ended.
    Ended,
    /// It goes on, for this reason.
    Stays(String),
}

/// Does it, over a session of its own that acts under the manager's lease. Waits.
#[must_use]
pub fn say(socket: &Path, fence: Fence, namespace: &str) -> KernelEnd {
    match try_say(socket, fence, namespace) {
        Ok(end) => end,
        Err(error) => KernelEnd::Stays(error.to_string()),
    }
}

/// Ends the listener for what processes say of themselves, if no process of ours is left that could
/// say anything, and waits until the process kernel has forgotten it.
///
/// # Errors
/// When the process kernel cannot be reached, or refuses.
pub fn stop_hearing(socket: &Path, fence: Fence, namespace: &str) -> Result<(), ClientError> {
    let mut kernel = connect(socket, fence)?;
    let ours = |labels| Identity::from_labels(labels, namespace).is_some();
    kernel.subscribe()?;
    let processes = kernel.processes()?;
    if processes
        .iter()
        .any(|process| process.end.is_none() && ours(&process.labels))
    {
        return Ok(());
    }
    let mut left = hearing::end(&mut kernel, &processes)?;
    while !left.is_empty() {
        match kernel.next_notice(Some(ANSWER_TIMEOUT))? {
            Some(Notice::Event(Event::ProcessRemoved(removed))) => {
                left.remove(&removed.process);
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

fn connect(socket: &Path, fence: Fence) -> Result<Client, ClientError> {
    let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"), " farewell");
    let address = Address::Unix(socket.to_owned());
    let mut kernel = Client::connect(&address, client, Some(ANSWER_TIMEOUT))?;
    kernel.set_fence(fence);
    Ok(kernel)
}

fn try_say(socket: &Path, fence: Fence, namespace: &str) -> Result<KernelEnd, ClientError> {
    let mut kernel = connect(socket, fence)?;
    let processes = kernel.processes()?;
    let ours = |labels| Identity::from_labels(labels, namespace).is_some();
    // One whose output could not be stored in time is the next manager's to finish, from exactly
    // where its log file stands.
    if !processes.iter().any(|process| ours(&process.labels)) {
        let mut values = kernel.values(KEY_PREFIX)?;
        values.extend(kernel.values(LINES_PREFIX)?);
        let remove = |key| ValueChange { key, value: None };
        let values = values.into_iter().map(|info| remove(info.key)).collect();
        kernel.commit(Commit {
            values,
            ..Commit::default()
        })?;
    }
    match kernel.call(ExitIfIdle {}) {
        Ok(_) => Ok(KernelEnd::Ended),
        Err(ClientError::Refused(error)) if error.code == ErrorCode::NOT_IDLE => {
            Ok(KernelEnd::Stays(error.message))
        }
        Err(error) => Err(error),
    }
}

//! Starting programs of hooks and probes, and ending them with everything they started.

use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A program in a process group of its own, which ends when this is dropped.
pub(in crate::shells) struct Program {
    pub(in crate::shells) child: Child,
    group: Option<Pid>,
}

impl Program {
    /// Starts it with pipes on all three standard descriptors.
    pub(in crate::shells) fn start(command: &mut Command) -> std::io::Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            child,
            group: group.map(Pid::from_raw),
        })
    }

    /// It has been waited for: its number may belong to somebody else from now on.
    pub(in crate::shells) const fn is_over(&mut self) {
        self.group = None;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The leader has not been waited for, so the number is still that of its group.
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

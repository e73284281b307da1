//! Exit codes of `kingpole-kernel`. Permanent; `--help` and `docs/operations.md` list them.

use std::process::ExitCode;

/// Why the kernel process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was asked to, or (with `--daemonize`) the kernel in the background answers.
    Done = 0,
    /// Something went wrong while it worked.
    Failed = 1,
    /// The command line makes no sense (clap's own code too).
    Usage = 2,
    /// An address that was asked for cannot be listened on.
    Address = 69,
    /// Linux refused something at the start.
    System = 71,
    /// Another kernel works on this runtime directory.
    AlreadyRunning = 73,
    /// The runtime directory cannot be used or trusted.
    RuntimeDirectory = 77,
}

impl Exit {
    /// From the code of a process of ours.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            69 => Self::Address,
            71 => Self::System,
            73 => Self::AlreadyRunning,
            77 => Self::RuntimeDirectory,
            _ => Self::Failed,
        }
    }
}

/// For `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   it was asked to end (--daemonize: the kernel in the background answers)
  1   something went wrong while it worked
  2   the command line makes no sense
  69  an address that was asked for cannot be listened on
  71  Linux refused something at the start
  73  another kernel works on this runtime directory
  77  the runtime directory cannot be used or trusted

Signals:
  SIGTERM, SIGINT  end, if no process, socket or value is held; else log that and stay
  SIGQUIT          end, whatever is held: children lose their output pipes
  SIGHUP, SIGUSR1  nothing: a terminal may go away";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

//! `kingpole run`: a kernel if there is none, a manager in the foreground, and the output of the
//! programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::hello::Welcome;
use kingpole_protocol::places::{Address, KERNEL_SOCKET};

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::kernel::unreachable_kernel;
use super::succession::{Succession, lock, stand_by};
use crate::config::check::render_diagnostics;
use crate::config::load_file;
use crate::config::model::Configuration;
use crate::engine::{Level, Outcome as EngineOutcome};
use crate::shells::log::{Decoration, Log, least_level};
use crate::shells::manager::{Ended, OnInterrupt};
use crate::shells::papa_endpoint;
use crate::shells::startup::{self, Setup, Show};

/// How long a kernel that was started may take to answer.
const KERNEL_START_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two attempts to reach a kernel that was just started.
const KERNEL_START_PAUSE: Duration = Duration::from_millis(10);

/// The kernel's program.
const KERNEL_PROGRAM: &str = "kingpole-kernel";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file
    file: PathBuf,
    #[command(flatten)]
    succession: Succession,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let since = Instant::now();
    let resumed = arguments.succession.begin()?;
    let configuration = load(&arguments.file)?;
    if arguments.succession.standby {
        return stand_by(configuration, dir);
    }
    let log = Log::stderr(Level::Info, Decoration::Console);
    prepare_log(&log, &configuration);
    // Before a kernel is started for a manager that may not be.
    let lock = lock(dir, resumed.as_ref())?;
    let socket = dir.join(KERNEL_SOCKET);
    let (welcome, found) = match greet(&socket) {
        Ok(welcome) => (welcome, "found"),
        Err(error) if is_absent(&error) => {
            let listen = papa_endpoint::wanted(&configuration.global);
            (start_kernel(dir, &socket, listen)?, "started")
        }
        Err(error) => return Err(unreachable_kernel(&socket, &error)),
    };
    log.info(format!(
        "process kernel {} {found} (pid {})",
        welcome.release, welcome.pid
    ));
    let runtime_dir = dir.to_owned();
    let on_interrupt = OnInterrupt::Shutdown;
    let setup = Setup {
        configuration,
        runtime_dir,
        log: log.clone(),
        show: Show::Decorated,
        on_interrupt,
        since,
        resumed,
    };
    let ended = startup::run(setup, lock).map_err(|error| Failure::failed(error.to_string()))?;
    conclude(ended, &log)
}

/// The configuration, or all that is wrong with it.
pub(crate) fn load(file: &Path) -> Result<Configuration, Failure> {
    load_file(file).map_err(|error| {
        let text = render_diagnostics(&error.files, &error.errors, &error.warnings);
        let count = error.errors.len();
        let errors = if count == 1 {
            "1 error"
        } else {
            &format!("{count} errors")
        };
        let file = file.display();
        Failure::failed(format!(
            "{file}: {errors}, nothing was started\n{}",
            text.trim_end()
        ))
    })
}

/// Level and place of the log as the configuration says, and what it has to say about itself.
pub(crate) fn prepare_log(log: &Log, configuration: &Configuration) {
    if let Some(level) = configuration.global.loglevel {
        log.set_least(least_level(level));
    }
    if let Some(output) = &configuration.global.logoutput
        && let Err(error) = log.redirect(output)
    {
        log.warning(error);
    }
    for warning in &configuration.warnings {
        log.warning(warning.to_string());
    }
}

/// What the manager's end means to whoever started it.
pub(crate) fn conclude(ended: Ended, log: &Log) -> Outcome {
    match ended {
        Ended::Finished(EngineOutcome::Detached) | Ended::Abandoned => {
            log.info("the manager has left; the children run on in the process kernel");
        }
        Ended::Finished(EngineOutcome::Quit) => log.info("the manager has quit"),
        Ended::Finished(EngineOutcome::ShutDown) => {
            log.info("everything of ours is stopped");
        }
        Ended::EssentialEnded(status)
        | Ended::Finished(EngineOutcome::EssentialEnded { status }) => {
            log.info(format!("everything is stopped; exit status {status}"));
            return Ok(Exit::Essential(status));
        }
        Ended::Finished(EngineOutcome::Replaced) => {
            log.warning("another manager has taken over; leaving the children to it");
        }
        Ended::KernelEnded => log.info("everything is stopped, and the process kernel too"),
        Ended::KernelKept(reason) => {
            log.info(format!(
                "everything of ours is stopped; the process kernel stays: {reason}"
            ));
        }
        // Whoever runs a manager sees to that before.
        Ended::Upgrading(_) => {}
        Ended::Failed(reason) => {
            return Err(Failure::failed(format!(
                "{reason}; the children run on, start the manager again"
            )));
        }
        Ended::Refused(holder) => {
            return Err(Failure::failed(format!(
                "another manager ({}, pid {}) holds the lease in the process kernel; \
                 end it first: kingpole detach",
                holder.client, holder.pid
            )));
        }
    }
    Ok(Exit::Done)
}

fn greet(socket: &Path) -> Result<Welcome, ClientError> {
    let client = concat!("kingpole/", env!("CARGO_PKG_VERSION"));
    let address = Address::Unix(socket.to_owned());
    Client::connect(&address, client, Some(KERNEL_START_TIMEOUT)).map(|c| c.welcome().clone())
}

fn is_absent(error: &ClientError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, ClientError::Connect { source, .. }
        if matches!(source.kind(), NotFound | ConnectionRefused))
}

/// Starts a kernel that is nobody's child but its own, so that neither Ctrl-C nor the end of this
/// program reaches it.
fn start_kernel(dir: &Path, socket: &Path, listen: Option<Address>) -> Result<Welcome, Failure> {
    let program = kernel_program();
    let shown = program.display().to_string();
    let mut command = Command::new(&program);
    command
        .arg("--daemonize")
        .arg("--runtime-dir")
        .arg(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()))
        .stdin(Stdio::null());
    if let Some(address) = listen {
        command.arg("--listen").arg(address.to_string());
    }
    let output = command.output().map_err(|error| {
        let reason = crate::shells::link::describe(&error);
        Failure::failed(format!("cannot start a process kernel: {shown}: {reason}"))
    })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        return Err(Failure::failed(format!(
            "cannot start a process kernel: {shown}: {}: {said}",
            output.status
        )));
    }
    let deadline = Instant::now() + KERNEL_START_TIMEOUT;
    loop {
        match greet(socket) {
            Ok(welcome) => return Ok(welcome),
            // It may have answered before its socket was there.
            Err(error) if is_absent(&error) && Instant::now() < deadline => {
                std::thread::sleep(KERNEL_START_PAUSE);
            }
            Err(error) => {
                return Err(Failure::new(
                    Exit::CannotReach,
                    format!("{shown} was started and does not answer: {error}; it said: {said}"),
                ));
            }
        }
    }
}

/// Next to this program, as it is installed and built; else wherever PATH finds it.
pub(super) fn kernel_program() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(KERNEL_PROGRAM)));
    beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(KERNEL_PROGRAM))
}

//! The command line of `kingpole-manager`, which a service manager starts.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use super::client::directory;
use super::exit::HELP;
use super::failure::{Failure, Outcome};
use super::run::{conclude, load, prepare_log};
use super::succession::{Succession, lock, stand_by};
use crate::engine::Level;
use crate::shells::log::{Decoration, Log};
use crate::shells::manager::OnInterrupt;
use crate::shells::startup::{self, Setup, Show};

/// Manages the programs of a Circus configuration; they live in the process kernel and go on without
/// it.
///
/// SIGTERM leaves everything running, SIGINT and SIGQUIT stop what is not use_papa, SIGHUP reloads
/// all watchers.
#[derive(Debug, Parser)]
#[command(name = "kingpole-manager", version, after_help = HELP)]
struct Cli {
    /// The configuration file
    file: PathBuf,
    /// Where kernel.sock and manager.sock are [default: $KINGPOLE_RUNTIME_DIR, else /run/kingpole
    /// for root, else $XDG_RUNTIME_DIR/kingpole, else /tmp/kingpole-UID]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Least severe level that is logged; wins over loglevel of the file
    #[arg(long, value_enum, ignore_case = true)]
    log_level: Option<LevelName>,
    /// Where the log goes: a file, - for standard output; wins over logoutput of the file
    #[arg(long, value_name = "FILE")]
    log_output: Option<String>,
    /// Where the process id is written; wins over pidfile of the file
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    #[command(flatten)]
    succession: Succession,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LevelName {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
}

/// The `kingpole-manager` program.
#[must_use]
pub fn main() -> ExitCode {
    super::conclude(run(Cli::parse()))
}

fn run(cli: Cli) -> Outcome {
    let since = Instant::now();
    let resumed = cli.succession.begin()?;
    let mut configuration = load(&cli.file)?;
    if let Some(output) = cli.log_output {
        configuration.global.logoutput = Some(output);
    }
    if cli.pidfile.is_some() {
        configuration.global.pidfile = cli.pidfile;
    }
    let log = Log::stderr(Level::Info, Decoration::Full);
    prepare_log(&log, &configuration);
    match cli.log_level {
        None => {}
        Some(LevelName::Critical | LevelName::Error) => log.set_least(Level::Error),
        Some(LevelName::Warning) => log.set_least(Level::Warning),
        Some(LevelName::Info) => log.set_least(Level::Info),
        Some(LevelName::Debug) => log.set_least(Level::Debug),
    }
    let runtime_dir = directory(cli.runtime_dir.as_deref());
    if cli.succession.standby {
        return stand_by(configuration, &runtime_dir);
    }
    let lock = lock(&runtime_dir, resumed.as_ref())?;
    let setup = Setup {
        configuration,
        runtime_dir,
        log: log.clone(),
        show: Show::AsConfigured,
        on_interrupt: OnInterrupt::Quit,
        since,
        resumed,
    };
    let ended = startup::run(setup, lock).map_err(|error| Failure::failed(error.to_string()))?;
    conclude(ended, &log)
}

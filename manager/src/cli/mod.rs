//! The `kingpole` command: one file per verb, and what they share. It holds no policy: it asks the
//! manager, or the process kernel where no manager is needed, and shows the answers.

mod add;
mod change;
mod check;
pub mod client;
mod completions;
pub mod daemon;
mod decr;
mod deploy;
mod detach;
#[cfg(test)]
mod documented;
mod dstats;
mod events;
pub mod exit;
mod explain;
pub mod failure;
mod following;
mod get;
mod globaloptions;
mod history;
mod import;
mod incr;
mod kernel;
mod kill;
mod list;
mod listsockets;
mod logs;
mod man;
mod metrics;
mod numprocesses;
mod options;
mod options_args;
mod profile;
mod quit;
mod reload;
mod reloadconfig;
mod restart;
mod resume;
mod rm;
mod rollback;
mod rolling;
mod run;
mod scale;
mod set;
mod shell;
mod signal;
mod start;
mod stats;
mod status;
mod stop;
mod succession;
mod suspend;
pub mod table;
mod top;
mod upgrade;
mod vassals;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::client::directory;
use self::exit::{Exit, HELP};
use self::failure::{Failure, Outcome};
use crate::shells::console::When;
use crate::shells::upgrade::probation;

/// Supervises programs that outlive their supervisor.
#[derive(Debug, Parser)]
#[command(name = "kingpole", version, after_help = HELP, propagate_version = true)]
struct Cli {
    /// Where kernel.sock and manager.sock are [default: $KINGPOLE_RUNTIME_DIR, else /run/kingpole
    /// for root, else $XDG_RUNTIME_DIR/kingpole, else /tmp/kingpole-UID]
    #[arg(long, global = true, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Whether to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: When,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a configuration in the foreground and show what its programs write
    #[command(
        after_help = "Examples:\n  kingpole run web.ini\n  kingpole run --color never web.ini > run.log"
    )]
    Run(run::Arguments),
    /// Check a configuration and say what is understood; nothing is started
    #[command(after_help = "Examples:\n  kingpole check web.ini\n  kingpole check web.ini --json")]
    Check(check::Arguments),
    /// Make a configuration from Supervisor's, a Procfile or PM2's
    Import(import::Arguments),
    /// Show watchers and their processes
    #[command(after_help = "Examples:\n  kingpole status\n  kingpole status 'web*' --json")]
    Status(status::Arguments),
    /// Say why a watcher is in its state, and what happens next
    Explain(explain::Arguments),
    /// Print the names of watchers
    #[command(after_help = "Examples:\n  kingpole list\n  kingpole list 'web*'")]
    List(list::Arguments),
    /// Show what the processes wrote
    #[command(
        after_help = "Examples:\n  kingpole logs -f web 'job*'\n  kingpole logs --since 10m --stderr --grep timeout"
    )]
    Logs(logs::Arguments),
    /// Show what happens to watchers and processes, as it happens
    #[command(after_help = "Examples:\n  kingpole events\n  kingpole events --json web")]
    Events(events::Arguments),
    /// Start watchers
    #[command(after_help = "Examples:\n  kingpole start\n  kingpole start web --wait")]
    Start(start::Arguments),
    /// Stop watchers; they stay stopped until they are started
    #[command(after_help = "Examples:\n  kingpole stop 'job*'\n  kingpole stop web --timeout 30s")]
    Stop(stop::Arguments),
    /// Stop all processes of watchers and start them again
    #[command(after_help = "Examples:\n  kingpole restart web --wait")]
    Restart(restart::Arguments),
    /// Replace the processes of watchers without an interruption
    #[command(after_help = "Examples:\n  kingpole reload web --wait\n  kingpole reload")]
    Reload(reload::Arguments),
    /// Roll out a new version of a watcher, and take it back if it does not work
    Deploy(deploy::Arguments),
    /// Roll out an earlier version of a watcher
    Rollback(rollback::Arguments),
    /// Show the versions of a watcher
    History(history::Arguments),
    /// Start no processes of watchers until they are resumed; what runs runs on
    Suspend(suspend::Arguments),
    /// Start processes of suspended watchers again
    Resume(resume::Arguments),
    /// Run one process more of a watcher for a while, with other environment variables
    Profile(profile::Arguments),
    /// Run more processes of watchers
    #[command(after_help = "Examples:\n  kingpole incr web\n  kingpole incr web --by 2 --wait")]
    Incr(incr::Arguments),
    /// Run fewer processes of watchers
    #[command(after_help = "Examples:\n  kingpole decr web")]
    Decr(decr::Arguments),
    /// Set the number of processes of watchers
    Scale(scale::Arguments),
    /// Print how many processes are alive
    Numprocesses(numprocesses::Arguments),
    /// Stop processes of watchers; they are replaced
    Kill(kill::Arguments),
    /// Send a signal to the processes of watchers
    #[command(
        after_help = "Examples:\n  kingpole signal HUP web\n  kingpole signal USR1 web --worker 2"
    )]
    Signal(signal::Arguments),
    /// Make a watcher that no file knows
    Add(add::Arguments),
    /// Remove watchers
    Rm(rm::Arguments),
    /// Change options of watchers
    Set(set::Arguments),
    /// Show some options of a watcher
    Get(get::Arguments),
    /// Show all options of a watcher
    Options(options::Arguments),
    /// Show options of the manager
    Globaloptions(globaloptions::Arguments),
    /// Read the configuration file again and do what has changed in it
    Reloadconfig(reloadconfig::Arguments),
    /// Show what processes use
    Stats(stats::Arguments),
    /// Show watchers and processes on a full screen, as they change
    Top(top::Arguments),
    /// Give commands at a prompt, with history and completion
    Shell(shell::Arguments),
    /// Print metrics in Prometheus's form
    Metrics(metrics::Arguments),
    /// Show what the manager itself uses
    Dstats(dstats::Arguments),
    /// Show managed sockets and where they listen
    Listsockets(listsockets::Arguments),
    /// End the manager and what is not use_papa; the rest runs on
    #[command(after_help = "Examples:\n  kingpole quit --wait")]
    Quit(quit::Arguments),
    /// End the manager only; everything runs on
    #[command(after_help = "Examples:\n  kingpole detach")]
    Detach(detach::Arguments),
    /// Replace the program of the manager or of the process kernel; everything runs on
    #[command(
        after_help = "Examples:\n  kingpole upgrade --manager --check\n  kingpole upgrade --kernel /usr/local/bin/kingpole-kernel"
    )]
    Upgrade(upgrade::Arguments),
    /// Work with the vassals of a uWSGI emperor
    Vassals(vassals::Arguments),
    /// Print what a shell's Tab key needs
    Completions(completions::Arguments),
    /// Print or write the manual pages
    Man(man::Arguments),
    /// Look at the process kernel itself
    Kernel(kernel::Arguments),
}

/// The `kingpole` program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.hold();
    let dir = directory(cli.runtime_dir.as_deref());
    let outcome = match cli.verb {
        Verb::Run(arguments) => run::run(arguments, &dir),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Import(arguments) => import::run(&arguments),
        Verb::Status(arguments) => status::run(arguments, &dir),
        Verb::Explain(arguments) => explain::run(&arguments, &dir),
        Verb::List(arguments) => list::run(arguments, &dir),
        Verb::Logs(arguments) => logs::run(&arguments, &dir),
        Verb::Events(arguments) => events::run(&arguments, &dir),
        Verb::Start(arguments) => start::run(arguments, &dir),
        Verb::Stop(arguments) => stop::run(arguments, &dir),
        Verb::Restart(arguments) => restart::run(arguments, &dir),
        Verb::Reload(arguments) => reload::run(arguments, &dir),
        Verb::Deploy(arguments) => deploy::run(arguments, &dir),
        Verb::Rollback(arguments) => rollback::run(arguments, &dir),
        Verb::History(arguments) => history::run(&arguments, &dir),
        Verb::Suspend(arguments) => suspend::run(arguments, &dir),
        Verb::Resume(arguments) => resume::run(arguments, &dir),
        Verb::Profile(arguments) => profile::run(arguments, &dir),
        Verb::Incr(arguments) => incr::run(arguments, &dir),
        Verb::Decr(arguments) => decr::run(arguments, &dir),
        Verb::Add(arguments) => add::run(arguments, &dir),
        Verb::Rm(arguments) => rm::run(arguments, &dir),
        Verb::Set(arguments) => set::run(arguments, &dir),
        Verb::Get(arguments) => get::run(arguments, &dir),
        Verb::Options(arguments) => options::run(arguments, &dir),
        Verb::Globaloptions(arguments) => globaloptions::run(arguments, &dir),
        Verb::Reloadconfig(arguments) => reloadconfig::run(arguments, &dir),
        Verb::Scale(arguments) => scale::run(arguments, &dir),
        Verb::Numprocesses(arguments) => numprocesses::run(arguments, &dir),
        Verb::Kill(arguments) => kill::run(arguments, &dir),
        Verb::Stats(arguments) => stats::run(arguments, &dir),
        Verb::Shell(arguments) => shell::run(&arguments, &dir, &Cli::command()),
        Verb::Top(arguments) => top::run(arguments, &dir),
        Verb::Metrics(arguments) => metrics::run(&arguments, &dir),
        Verb::Dstats(arguments) => dstats::run(&arguments, &dir),
        Verb::Listsockets(arguments) => listsockets::run(&arguments, &dir),
        Verb::Signal(arguments) => signal::run(arguments, &dir),
        Verb::Quit(arguments) => quit::run(&arguments, &dir),
        Verb::Detach(arguments) => detach::run(&arguments, &dir),
        Verb::Upgrade(arguments) => upgrade::run(&arguments, &dir),
        Verb::Vassals(arguments) => vassals::run(arguments),
        Verb::Completions(arguments) => completions::run(&arguments, &mut Cli::command()),
        Verb::Man(arguments) => man::run(&arguments, Cli::command()),
        Verb::Kernel(arguments) => kernel::run(&arguments, &dir),
    };
    conclude(outcome)
}

/// Says what went wrong and gives the exit code.
#[must_use]
pub fn conclude(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            // The program before goes on then, and says it in its own log.
            probation::fail(message.as_deref().unwrap_or("the new manager ended"));
            if let Some(message) = message {
                // With standard error gone there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "kingpole: {message}");
            }
            exit.into()
        }
    }
}

/// Writes to standard output; a closed pipe is told apart by [`Failure`].
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes JSON for programs.
fn print_json(value: &impl serde::Serialize) -> Result<Exit, Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("the answer cannot be written: {error}")))?;
    text.push('\n');
    print(&text)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_tells_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.contains("3 not running") && help.contains("runtime-dir"),
            "{help}"
        );
    }
}

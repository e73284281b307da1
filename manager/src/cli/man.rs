//! `kingpole man`: manual pages, from the same table as `--help`.

use std::path::{Path, PathBuf};

use clap::{Args, Command};

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kingpole man | man -l -
  kingpole man --output-dir /usr/local/share/man/man1")]
pub(super) struct Arguments {
    /// Write a page for the command and one for each verb into this directory; without it, the
    /// command's page is printed
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, command: Command) -> Outcome {
    match &arguments.output_dir {
        None => print(&page(command, "kingpole")?)?,
        Some(directory) => write_all(directory, command)?,
    }
    Ok(Exit::Done)
}

fn page(command: Command, title: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command)
        .title(title)
        .render(&mut bytes)?;
    String::from_utf8(bytes)
        .map_err(|error| Failure::failed(format!("the page is not UTF-8: {error}")))
}

fn write_all(directory: &Path, command: Command) -> Result<(), Failure> {
    std::fs::create_dir_all(directory).map_err(|error| {
        Failure::failed(format!("{} cannot be made: {error}", directory.display()))
    })?;
    let mut command = command.disable_help_subcommand(true);
    // Gives the verbs their full names: `kingpole restart`.
    command.build();
    let verbs: Vec<Command> = command.get_subcommands().cloned().collect();
    for command in std::iter::once(command).chain(verbs) {
        let whole = command.get_bin_name().unwrap_or(command.get_name());
        let name = whole.replace(' ', "-");
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, page(command, &name)?).map_err(|error| {
            Failure::failed(format!("{} cannot be written: {error}", path.display()))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_verb_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path(), crate::cli::Cli::command()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("kingpole.1").contains("Exit codes"));
        assert!(read("kingpole-restart.1").contains("restart"));
        let pages = std::fs::read_dir(directory.path()).unwrap().count();
        let verbs = crate::cli::Cli::command().get_subcommands().count();
        assert_eq!(pages, verbs + 1);
    }
}

//! `kingpole check`: what a configuration means and what is wrong with it.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::failure::Outcome;
use super::{print, print_json};
use crate::config::check::{check_report, render_check};
use crate::config::load_file;
use crate::shells::machine;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let loaded = load_file(&arguments.file).map(|mut configuration| {
        configuration.warnings.extend(machine::look(&configuration));
        configuration
    });
    if arguments.json {
        print_json(&check_report(&loaded))?;
    } else {
        print(&render_check(&loaded))?;
    }
    Ok(if loaded.is_ok() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

//! `kingpole dstats`: what the manager itself uses.

use std::path::Path;

use clap::Args;

use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::stats::{add, columns};
use super::{print, print_json};
use crate::command::{Answer, Command};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole dstats --json")]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let answer = ManagerClient::new(dir)?.command(&Command::Dstats, Patience::Usual)?;
    let Answer::Dstats {
        manager: Some(manager),
    } = &answer
    else {
        return Err(Failure::failed("the manager cannot look at itself"));
    };
    if arguments.json {
        return print_json(manager);
    }
    let mut table = columns();
    add(&mut table, "(manager)", &manager.info, 0);
    print(&table.render())?;
    Ok(Exit::Done)
}

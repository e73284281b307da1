//! `kingpole metrics`: what a scraper gets.

use std::path::Path;

use clap::Args;

use super::client::ManagerClient;
use super::exit::Exit;
use super::failure::Outcome;
use super::print;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  kingpole metrics\n\nScrapers find the same at /metrics on manager.sock."
)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments, dir: &Path) -> Outcome {
    print(&ManagerClient::new(dir)?.text("/metrics")?)?;
    Ok(Exit::Done)
}

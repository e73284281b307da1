//! Looks whether the process kernel can be found where `papa_endpoint` says. It opens its addresses when
//! it starts, by its own command line, so all that a manager can do is to say what is missing there.

use std::time::Duration;

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::places::Address;
use tokio::task::spawn_blocking;

use super::log::Log;
use crate::config::model::GlobalSettings;
use crate::config::papa_endpoint;

/// How long whoever answers there may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The address that the configuration has for the process kernel.
#[must_use]
pub fn wanted(global: &GlobalSettings) -> Option<Address> {
    papa_endpoint::parse(global.papa_endpoint.as_deref()?)
}

/// Looks whether the kernel of that instance answers there, and warns when it does not. Nobody waits for it.
pub fn look_for(instance: u64, global: &GlobalSettings, log: Log) {
    let Some(address) = wanted(global) else {
        return;
    };
    spawn_blocking(move || {
        match problem(instance, &address) {
            None => log.debug(format!("papa_endpoint: the process kernel is found at {address}")),
            Some(problem) => log.warning(format!(
                "papa_endpoint: {problem}; the process kernel listens there if it is started with --listen {address}"
            )),
        }
    });
}

fn problem(instance: u64, address: &Address) -> Option<String> {
    let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"), " look");
    match Client::connect(address, client, Some(ANSWER_TIMEOUT)) {
        Ok(other) if other.welcome().instance == instance => None,
        Ok(_) => Some(format!("another process kernel answers at {address}")),
        Err(error) => Some(error.to_string()),
    }
}

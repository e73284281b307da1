//! Being the candidate: everything that a manager does at its start, short of acting.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use kingpole_protocol::Fence;
use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::places::{Address, KERNEL_SOCKET};
use serde::{Deserialize, Serialize};

use crate::config::model::Configuration;
use crate::engine::{Engine, Input, Settings};
use crate::shells::clock;
use crate::shells::link::read_facts;
use crate::shells::startup::NAMESPACE;

/// How long the kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the line that says so begins with. The number is that of what can be carried.
pub(super) const READY_PREFIX: &str = "ready 1 ";

/// What a candidate has found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its release.
    pub release: String,
    /// Watchers in the configuration as it reads it.
    pub watchers: usize,
    /// Processes that it would take over or leave alone.
    pub processes: usize,
    /// Whether it goes on with connections of Circus's clients; who does not say so does not.
    #[serde(default)]
    pub takes_connections: bool,
    /// Whether it goes on with connections to `manager.sock`; who does not say so does not.
    #[serde(default)]
    pub takes_visitors: bool,
}

/// Rehearses, and says on standard output what came of it.
///
/// # Errors
/// A sentence that says why it cannot be the next manager.
pub fn stand_by(configuration: Configuration, runtime_dir: &Path) -> Result<(), String> {
    let address = Address::Unix(runtime_dir.join(KERNEL_SOCKET));
    let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"), " standby");
    let settings = Settings {
        namespace: NAMESPACE.to_owned(),
        seed: 0,
    };
    let watchers = configuration.watchers.len();
    let mut engine = Engine::new(settings, configuration);
    let mut kernel = Client::connect(&address, client, Some(ANSWER_TIMEOUT))
        .map_err(|error| format!("the process kernel is not understood: {error}"))?;
    let facts = read_facts(&mut kernel, &engine.values_prefix(), Fence(u64::MAX))
        .map_err(|error| format!("what the process kernel holds is not understood: {error}"))?;
    let processes = facts.processes.len();
    engine.handle_input(Input::KernelConnected(facts), clock::now());
    // What it would do is not done; that it can be decided is what counts.
    while engine.poll_action().is_some() {}
    let ready = Ready {
        release: super::RELEASE.to_owned(),
        watchers,
        processes,
        takes_connections: true,
        takes_visitors: true,
    };
    let text = serde_json::to_string(&ready).map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "{READY_PREFIX}{text}").map_err(|error| error.to_string())
}

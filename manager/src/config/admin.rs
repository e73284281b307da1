//! Section `[admin]` (ours): a loopback port with the paths of Wiseguy's admin server.

use std::net::SocketAddr;

use serde::Serialize;

use super::document::Section;
use super::global::loopback_port;
use super::ini::strip;
use super::keys;
use super::section::{Findings, Reader};
use super::variables::EnvironmentVariables;

/// What it serves, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdminConfig {
    /// A port of the loopback interface; 0 for one that Linux picks.
    pub endpoint: SocketAddr,
    /// Names or patterns of the watchers that requests mean which name none; empty for all.
    pub watchers: Vec<String>,
}

pub(super) fn read(
    section: &Section,
    variables: &EnvironmentVariables,
    findings: &mut Findings,
) -> Option<AdminConfig> {
    let mut reader = Reader::new(
        "[admin]".to_owned(),
        section,
        keys::ADMIN,
        variables,
        findings,
    );
    if reader.written("endpoint").is_none() {
        reader.section_error("endpoint is missing; write endpoint = 127.0.0.1:PORT");
    }
    let endpoint = reader.parsed(
        "endpoint",
        "a port of the loopback interface, such as 127.0.0.1:8011",
        loopback_port,
    );
    let watchers = reader.text("watchers").unwrap_or_default();
    let watchers = watchers.split(',').map(strip);
    let watchers = watchers.filter(|name| !name.is_empty());
    let watchers = watchers.map(str::to_owned).collect();
    reader.unknown(|_| false);
    let endpoint = endpoint?;
    Some(AdminConfig { endpoint, watchers })
}

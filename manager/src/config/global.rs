//! Section `[circus]` (reference, section 5.7).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::coerce;
use super::document::{Document, Section};
use super::endpoint::{self, Endpoint, Reach};
use super::ini::quoted;
use super::keys;
use super::model::{GlobalSettings, Location, LogLevel};
use super::papa_endpoint;
use super::section::{Findings, Reader};
use super::syslog::SyslogOutput;
use super::variables::EnvironmentVariables;

/// Reads the section, or gives the defaults when there is none.
pub(super) fn read(
    document: &Document,
    main_file: &str,
    variables: &EnvironmentVariables,
    findings: &mut Findings,
) -> GlobalSettings {
    let absent;
    let section = match document.section("circus") {
        Some(section) => section,
        None => {
            absent = Section::new("circus".to_owned(), Location::new(main_file, 1, 1));
            &absent
        }
    };
    let mut reader = Reader::new(
        "[circus]".to_owned(),
        section,
        keys::CIRCUS,
        variables,
        findings,
    );
    let defaults = GlobalSettings::default();
    let allow_remote = reader.boolean("allow_remote", false);
    let control_endpoint = endpoint(&mut reader, "endpoint", allow_remote);
    let pubsub_endpoint = endpoint(&mut reader, "pubsub_endpoint", allow_remote);
    let stats_endpoint = endpoint(&mut reader, "stats_endpoint", allow_remote);
    let settings = GlobalSettings {
        check_delay: check_delay(&mut reader, defaults.check_delay),
        warmup_delay: reader.whole_seconds("warmup_delay", defaults.warmup_delay),
        umask: reader.parsed("umask", "an octal mask such as 022", coerce::octal),
        pidfile: reader.some_text("pidfile").map(PathBuf::from),
        loglevel: reader.parsed(
            "loglevel",
            "one of critical error warning info debug",
            log_level,
        ),
        logoutput: reader.some_text("logoutput"),
        loggerconfig: reader.some_text("loggerconfig"),
        endpoint: control_endpoint,
        pubsub_endpoint,
        // An endpoint for statistics is of no use without them.
        statsd: reader.boolean("statsd", false) || stats_endpoint.is_some(),
        stats_endpoint,
        multicast_endpoint: multicast_endpoint(&mut reader),
        metrics_endpoint: reader.parsed(
            "metrics_endpoint",
            "a port of the loopback interface, such as 127.0.0.1:9187",
            loopback_port,
        ),
        endpoint_owner: reader.some_text("endpoint_owner"),
        allow_remote,
        allow_users: reader
            .some_text("allow_users")
            .map(|text| words(&text))
            .unwrap_or_default(),
        httpd: reader.boolean("httpd", false),
        httpd_host: reader
            .some_text("httpd_host")
            .unwrap_or(defaults.httpd_host),
        httpd_port: reader
            .integer("httpd_port", 0..=i64::from(u16::MAX))
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(defaults.httpd_port),
        debug: reader.boolean("debug", false),
        fqdn_prefix: reader.some_text("fqdn_prefix"),
        papa_endpoint: papa_endpoint(&mut reader),
        // Another section says.
        admin: None,
        other: BTreeMap::new(),
    };
    reader.warn_unsupported(|key| match key {
        "httpd" => !settings.httpd,
        // Nobody listens there unless the console is on, and then that is what to warn of.
        "httpd_host" | "httpd_port" => true,
        _ => false,
    });
    if let Some(written) = reader.written("logoutput")
        && let Some(Err(problem)) = SyslogOutput::parse(&written.value)
    {
        reader.error(written.entry, &problem);
    }
    GlobalSettings {
        other: reader.unknown(|_| false),
        ..settings
    }
}

/// An endpoint as written, once it is clear that it is one.
fn endpoint(reader: &mut Reader<'_>, key: &str, allow_remote: bool) -> Option<String> {
    reader.some_text(key)?;
    let found = reader.parsed(key, endpoint::EXPECTED, Endpoint::parse)?;
    let written = reader.written(key)?;
    match (found.reach(), allow_remote) {
        (Reach::Machine, _) => {}
        (Reach::Network, false) => reader.warn(
            written.entry,
            "is not served: other machines could reach it, and whoever reaches it can run any \
             program as this user, because Circus's protocol knows no passwords; use 127.0.0.1, or \
             write allow_remote = true if that is meant",
        ),
        (Reach::Network, true) => reader.warn(
            written.entry,
            "can be reached from other machines (allow_remote): whoever reaches it can run any \
             program as this user",
        ),
    }
    Some(written.value)
}

/// The group as written.
fn multicast_endpoint(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.some_text("multicast_endpoint")?;
    // For Circus this was no reason not to start.
    if endpoint::multicast_group(&text).is_none()
        && let Some(written) = reader.written("multicast_endpoint")
    {
        let problem = format!(
            "is not udp://GROUP:PORT with a multicast address, such as udp://237.219.251.97:12027; \
             nobody can discover the manager: {}",
            quoted(&text)
        );
        reader.warn(written.entry, &problem);
    }
    Some(text)
}

/// The address as written, once it is clear that it is one.
fn papa_endpoint(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.some_text("papa_endpoint")?;
    reader.parsed(
        "papa_endpoint",
        papa_endpoint::EXPECTED,
        papa_endpoint::parse,
    )?;
    Some(text)
}

/// Other machines are not served: they have no user who could be looked up.
pub(super) fn loopback_port(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let address = text.strip_prefix("tcp://").unwrap_or(text);
    let address = address.replacen("localhost:", "127.0.0.1:", 1);
    let address: SocketAddr = address.parse().ok()?;
    address.ip().is_loopback().then_some(address)
}

fn words(text: &str) -> Vec<String> {
    let words = text.split([',', ' ', '\t', '\n']);
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Circus's own tests switch housekeeping off with a negative period; here exits are noticed
/// without it, so there is nothing to switch off.
fn check_delay(reader: &mut Reader<'_>, default: Duration) -> Duration {
    let negative = reader
        .written("check_delay")
        .filter(|w| coerce::float(&w.value).is_some_and(|s| s <= 0.0));
    match negative {
        Some(written) => {
            reader.warn(
                written.entry,
                "must be above 0; the default of 5 seconds is used",
            );
            default
        }
        None => reader.seconds("check_delay", default),
    }
}

fn log_level(text: &str) -> Option<LogLevel> {
    match text.trim().to_lowercase().as_str() {
        "critical" => Some(LogLevel::Critical),
        "error" => Some(LogLevel::Error),
        "warning" | "warn" => Some(LogLevel::Warning),
        "info" => Some(LogLevel::Info),
        "debug" => Some(LogLevel::Debug),
        _ => None,
    }
}

//! From merged sections to the checked model, and what must hold between sections.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::diagnostic::{Diagnostic, Location};
use super::document::{Document, Section};
use super::environments::Environments;
use super::ini::{quoted, strip};
use super::model::{Configuration, PluginConfig, SocketConfig, WatcherConfig};
use super::plugin_watcher::watcher_of;
use super::section::Findings;
use super::{admin, depend, global, limits, plugin, socket, suggest, variables, watcher};

/// What a section's header says it is.
pub(super) enum Kind<'a> {
    Circus,
    Admin,
    Env,
    EnvFor(&'a str),
    Watcher(&'a str),
    Socket(&'a str),
    Plugin(&'a str),
    Unknown,
}

pub(super) fn kind_of(section: &Section) -> Kind<'_> {
    match (section.name.as_str(), section.name.split_once(':')) {
        ("circus", _) => Kind::Circus,
        ("admin", _) => Kind::Admin,
        ("env", _) => Kind::Env,
        (_, Some(("env", patterns))) => Kind::EnvFor(patterns),
        (_, Some(("watcher", name))) => Kind::Watcher(name),
        (_, Some(("socket", name))) => Kind::Socket(name),
        (_, Some(("plugin", name))) => Kind::Plugin(name),
        _ => Kind::Unknown,
    }
}

/// Reads all sections of a document. With any error found the result is not to be used.
pub(super) fn interpret(
    document: &Document,
    main_file: &str,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Configuration {
    let environments = Environments::read(document, environment, findings);
    let variables = &environments.variables;
    let mut global = global::read(document, main_file, variables, findings);
    let mut watchers: Vec<WatcherConfig> = Vec::new();
    let mut sockets: Vec<SocketConfig> = Vec::new();
    let mut plugins: Vec<PluginConfig> = Vec::new();
    for section in &document.sections {
        let kind = kind_of(section);
        let named = match kind {
            Kind::Circus | Kind::Env | Kind::EnvFor(_) => None,
            Kind::Admin => {
                global.admin = admin::read(section, variables, findings);
                None
            }
            Kind::Unknown => {
                warn_unknown_section(section, findings);
                None
            }
            Kind::Watcher(name) => Some(("watcher", name)),
            Kind::Socket(name) => Some(("socket", name)),
            Kind::Plugin(name) => Some(("plugin", name)),
        };
        let Some((what, name)) = named else { continue };
        if section.entries.is_empty() {
            let message = format!("[{}] has no options and is skipped", section.name);
            let location = section.location.clone();
            findings
                .warnings
                .push(Diagnostic::warning(location, message));
            continue;
        }
        if !check_name(what, name, section, findings) {
            continue;
        }
        match kind {
            Kind::Watcher(name) => {
                let own = environments.of_watcher(name);
                watchers.push(watcher::read(name, section, own, findings));
            }
            Kind::Socket(name) => sockets.push(socket::read(name, section, variables, findings)),
            _ => plugins.push(plugin::read(name, section, variables, findings)),
        }
    }
    let of_plugins = plugins.iter().filter_map(|plugin| {
        let own = environments.of_watcher(&format!("plugin:{}", plugin.name));
        watcher_of(plugin, &global, &own)
    });
    watchers.extend(of_plugins);
    watchers.sort_by(|a, b| a.name.cmp(&b.name));
    sockets.sort_by(|a, b| a.name.cmp(&b.name));
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    check_duplicates(
        "watcher",
        watchers.iter().map(|w| (w.key(), &w.origin)),
        findings,
    );
    check_duplicates(
        "socket",
        sockets.iter().map(|s| (s.name.clone(), &s.origin)),
        findings,
    );
    environments.warn_unmatched(&watchers, findings);
    let socket_names = sockets.iter().map(|socket| socket.name.as_str()).collect();
    for watcher in &watchers {
        check_sockets(watcher, &socket_names, findings);
    }
    depend::check(&watchers, findings);
    plugin::check_watchers(&plugins, &watchers, document, findings);
    Configuration {
        path: PathBuf::new(),
        files: Vec::new(),
        global,
        watchers,
        sockets,
        flapping: super::flapping::of_plugins(&plugins),
        plugins,
        warnings: Vec::new(),
    }
}

fn warn_unknown_section(section: &Section, findings: &mut Findings) {
    let prefix = section.name.split_once(':').map(|(prefix, _)| prefix);
    let kinds = [
        "circus", "admin", "env", "DEFAULT", "watcher", "socket", "plugin",
    ];
    let meant = suggest::nearest(prefix.unwrap_or(&section.name), kinds);
    let message = format!(
        "section [{}] is unknown and ignored{}",
        section.name,
        did_you_mean(meant)
    );
    findings
        .warnings
        .push(Diagnostic::warning(section.location.clone(), message));
}

pub(super) fn did_you_mean(meant: Option<&str>) -> String {
    meant
        .map(|meant| format!("; did you mean {meant}?"))
        .unwrap_or_default()
}

/// Whether a name can be one; what cannot is an error.
fn check_name(what: &str, name: &str, section: &Section, findings: &mut Findings) -> bool {
    let problem = if name.is_empty() {
        "has no name".to_owned()
    } else if name.len().max(name.to_lowercase().len()) > limits::NAME_BYTES {
        // A few letters take more bytes in lower case, which is what the kernel gets to see.
        let length = name.len().max(name.to_lowercase().len());
        format!(
            "has a name of {length} bytes; at most {} are allowed",
            limits::NAME_BYTES
        )
    } else if name.chars().any(char::is_control) {
        "has a control character in its name".to_owned()
    } else if what == "socket" && name.ends_with('*') {
        "has a name that ends in *, which stands for any ending".to_owned()
    } else {
        if strip(name) != name {
            let message = format!(
                "{what} {}: the spaces at the ends belong to the name",
                quoted(name)
            );
            let location = section.location.clone();
            findings
                .warnings
                .push(Diagnostic::warning(location, message));
        }
        return true;
    };
    let message = format!("{what} {} {problem}", quoted(name));
    findings
        .errors
        .push(Diagnostic::error(section.location.clone(), message));
    false
}

/// Two sections whose names differ in case only. Circus drops one of them when it creates it.
fn check_duplicates<'a>(
    what: &str,
    named: impl Iterator<Item = (String, &'a Location)>,
    findings: &mut Findings,
) {
    let mut seen: BTreeMap<String, &Location> = BTreeMap::new();
    for (key, location) in named {
        let Some(other) = seen.insert(key.clone(), location) else {
            continue;
        };
        let (first, second) = if other < location {
            (other, location)
        } else {
            (location, other)
        };
        let message = format!(
            "{what} {}: the name is taken, apart from the case of letters (line {} of {})",
            quoted(&key),
            first.line,
            first.file
        );
        findings
            .errors
            .push(Diagnostic::error(second.clone(), message));
    }
}

/// Sockets that a watcher names but nobody configures.
fn check_sockets(watcher: &WatcherConfig, sockets: &BTreeSet<&str>, findings: &mut Findings) {
    let exists = |name: &str| sockets.contains(name);
    let place = |key: &str| {
        watcher
            .written_at
            .get(key)
            .unwrap_or(&watcher.origin)
            .clone()
    };
    let meant = |name: &str| did_you_mean(suggest::nearest(name, sockets.iter().copied()));
    let title = format!("watcher {}", quoted(&watcher.name));
    if let Some(name) = watcher.stdin_socket.as_deref().filter(|name| !exists(name)) {
        let message = format!(
            "{title}: stdin_socket names a socket that does not exist: {}{}",
            quoted(name),
            meant(name)
        );
        findings
            .errors
            .push(Diagnostic::error(place("stdin_socket"), message));
    }
    for (key, text) in [("cmd", &watcher.cmd), ("args", &watcher.args)] {
        for variable in variables::names(text) {
            if let Some(name) = variable
                .strip_prefix("sockets.")
                .filter(|name| !exists(name))
            {
                let message = format!(
                    "{title}: {key} names a socket that does not exist, and stays as it is: \
                     {}{}",
                    quoted(name),
                    meant(name)
                );
                findings
                    .warnings
                    .push(Diagnostic::warning(place(key), message));
            }
        }
    }
}

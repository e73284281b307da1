//! What `kingpole check` says about a configuration: what is understood, in the order of the
//! file, and everything that is wrong or has no effect.

use std::fmt::Write;

use serde::Serialize;

use super::diagnostic::{Diagnostic, Location, Severity, visible};
use super::load::LoadError;
use super::model::{Configuration, GlobalSettings, SocketAddress, SocketConfig};
use super::summary;

/// The machine's form of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport<'a> {
    /// Whether the configuration can be used.
    pub ok: bool,
    /// The files that were read, the main one first.
    pub files: &'a [String],
    /// Why it cannot be used.
    pub errors: &'a [Diagnostic],
    /// What has no effect, or not the one that was probably meant.
    pub warnings: &'a [Diagnostic],
    /// What is understood. Of environments only the names are shown.
    pub configuration: Option<&'a Configuration>,
}

/// What is to be said about the outcome of loading a configuration.
#[must_use]
pub fn check_report(loaded: &Result<Configuration, LoadError>) -> CheckReport<'_> {
    match loaded {
        Ok(configuration) => CheckReport {
            ok: true,
            files: &configuration.files,
            errors: &[],
            warnings: &configuration.warnings,
            configuration: Some(configuration),
        },
        Err(error) => CheckReport {
            ok: false,
            files: &error.files,
            errors: &error.errors,
            warnings: &error.warnings,
            configuration: None,
        },
    }
}

/// The same for people; ends with a line end.
#[must_use]
pub fn render_check(loaded: &Result<Configuration, LoadError>) -> String {
    let report = check_report(loaded);
    let mut text = String::new();
    if let Some(configuration) = report.configuration {
        text.push_str(&render_configuration(configuration));
    }
    text.push_str(&render_diagnostics(
        report.files,
        report.errors,
        report.warnings,
    ));
    let main_file = report.files.first().map_or("", String::as_str);
    let verdict = match report.configuration {
        Some(configuration) => format!(
            "good: {}, {}, {}",
            counted(configuration.watchers.len(), "watcher"),
            counted(configuration.sockets.len(), "socket"),
            counted(configuration.plugins.len(), "plugin"),
        ),
        None => format!("refused: {}", counted(report.errors.len(), "error")),
    };
    let warnings = match report.warnings.len() {
        0 => String::new(),
        number => format!("; {}", counted(number, "warning")),
    };
    text.push_str(&visible(&format!("{main_file}: {verdict}{warnings}")));
    text.push('\n');
    text
}

/// Errors and warnings in the order of files and lines, one line each, as compilers show them.
#[must_use]
pub fn render_diagnostics(
    files: &[String],
    errors: &[Diagnostic],
    warnings: &[Diagnostic],
) -> String {
    let mut all: Vec<&Diagnostic> = errors.iter().chain(warnings).collect();
    all.sort_by_key(|d| (place(files, &d.location), d.severity));
    let mut text = String::new();
    for Diagnostic {
        location,
        severity,
        message,
    } in all
    {
        let label = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        text.push_str(&visible(&format!("{location}: {label}: {message}")));
        text.push('\n');
    }
    text
}

/// Where something stands among all files.
fn place(files: &[String], location: &Location) -> (usize, u32, u32) {
    let file = files
        .iter()
        .position(|file| *file == location.file)
        .unwrap_or(files.len());
    (file, location.line, location.column)
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn render_configuration(configuration: &Configuration) -> String {
    let Configuration {
        path: _,
        files,
        global,
        watchers,
        sockets,
        plugins,
        // Said with the plugin and its watchers.
        flapping: _,
        warnings: _,
    } = configuration;
    let mut blocks: Vec<((usize, u32, u32), String)> = Vec::new();
    let mut add = |title: String, origin: &Location, facts: Vec<(&str, String)>| {
        let mut block = format!("{title}  ({}:{})\n", origin.file, origin.line);
        for (name, value) in facts {
            // Writing to a string cannot fail.
            let _ = writeln!(block, "  {name:<12} {}", visible(&value));
        }
        block.push('\n');
        blocks.push((place(files, origin), block));
    };
    for watcher in watchers {
        add(
            format!("watcher {:?}", watcher.name),
            &watcher.origin,
            summary::of_watcher(watcher),
        );
    }
    for socket in sockets {
        add(
            format!("socket {:?}", socket.name),
            &socket.origin,
            of_socket(socket),
        );
    }
    for plugin in plugins {
        let class = plugin.class.clone().unwrap_or_default();
        add(
            format!("plugin {:?}", plugin.name),
            &plugin.origin,
            vec![("class", class)],
        );
    }
    blocks.sort();
    let mut text = String::new();
    let facts = of_global(global);
    if !facts.is_empty() {
        text.push_str("[circus]\n");
        for (name, value) in facts {
            let _ = writeln!(text, "  {name:<12} {}", visible(&value));
        }
        text.push('\n');
    }
    text.extend(blocks.into_iter().map(|(_, block)| block));
    text
}

/// What differs from the defaults.
fn of_global(global: &GlobalSettings) -> Vec<(&'static str, String)> {
    let defaults = GlobalSettings::default();
    let mut facts = Vec::new();
    if global.check_delay != defaults.check_delay {
        facts.push(("check_delay", summary::seconds(global.check_delay)));
    }
    if global.warmup_delay != defaults.warmup_delay {
        facts.push(("warmup_delay", summary::seconds(global.warmup_delay)));
    }
    facts.extend(
        global
            .admin
            .as_ref()
            .map(|it| ("admin", it.endpoint.to_string())),
    );
    facts.extend(global.umask.map(|umask| ("umask", format!("{umask:03o}"))));
    facts
}

fn of_socket(socket: &SocketConfig) -> Vec<(&'static str, String)> {
    let address = match &socket.address {
        SocketAddress::Unix {
            path,
            umask,
            replace,
        } => {
            let replace = if *replace {
                ", replaces an existing file"
            } else {
                ""
            };
            format!("unix {}, umask {umask:03o}{replace}", path.display())
        }
        SocketAddress::Inet { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        SocketAddress::Inet { host, port, .. } => format!("{host}:{port}"),
    };
    let kind = format!("{:?}", socket.kind).to_lowercase();
    let mut facts = vec![
        ("at", address),
        ("kind", format!("{kind}, backlog {}", socket.backlog)),
    ];
    facts.extend(
        socket
            .interface
            .clone()
            .map(|interface| ("interface", interface)),
    );
    if socket.so_reuseport {
        facts.push(("reuseport", "a fresh socket for each process".to_owned()));
    }
    facts
}

#[cfg(test)]
mod tests;

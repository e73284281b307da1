//! Sections `[plugin:NAME]` (reference, sections 5.9 and 8.1): read as they are; [`super::plugin_watcher`] says what
//! becomes of them.

use std::collections::BTreeMap;

use super::diagnostic::Diagnostic;
use super::document::{Section, Source};
use super::flapping::{is_flapping, put};
use super::ini::quoted;
use super::model::{FlappingOverrides, PluginConfig};
use super::plugin_settings::{self, PluginOptions};
use super::plugin_watcher::{BuiltIn, built_in};
use super::section::Findings;
use super::suggest::nearest;
use super::variables::EnvironmentVariables;
use super::{coerce, keys};

/// Reads one section whose header names the plugin `name`.
pub(super) fn read(
    name: &str,
    section: &Section,
    variables: &EnvironmentVariables,
    findings: &mut Findings,
) -> PluginConfig {
    let title = format!("plugin {}", quoted(name));
    let expanded = |key: &str| section.get(key).map(|entry| variables.expand(&entry.value));
    let class = expanded("use");
    let flapping = class.as_deref().is_some_and(is_flapping);
    if flapping {
        check_flapping(&title, section, variables, findings);
    }
    if class.is_none() {
        let message = format!("{title}: use is missing");
        findings
            .errors
            .push(Diagnostic::error(section.location.clone(), message));
    }
    let priority = expanded("priority").and_then(|value| coerce::integer(&value));
    if let Some(entry) = section.get("priority")
        && priority.is_none()
    {
        let message = format!(
            "{title}: priority is not an integer: {}",
            quoted(&entry.value)
        );
        findings
            .errors
            .push(Diagnostic::error(entry.value_location.clone(), message));
    }
    let options = section
        .entries
        .iter()
        .filter(|item| item.source == Source::Section)
        .map(|item| &item.entry)
        .filter(|entry| keys::find(keys::PLUGIN, &entry.key).is_none())
        .map(|entry| (entry.key.clone(), variables.expand(&entry.value)))
        .collect();
    let options: BTreeMap<String, String> = options;
    if let Some(kind) = class.as_deref().and_then(built_in) {
        check_built_in(&title, kind, &options, section, findings);
    }
    let origin = section.location.clone();
    PluginConfig {
        name: name.to_owned(),
        origin,
        class,
        priority: priority.unwrap_or(1),
        options,
    }
}

/// It begins with the same options, which have to make sense then.
fn check_built_in(
    title: &str,
    kind: BuiltIn,
    options: &BTreeMap<String, String>,
    section: &Section,
    findings: &mut Findings,
) {
    let known = plugin_settings::known(kind);
    for key in options.keys().filter(|key| !known.contains(&key.as_str())) {
        let Some(entry) = section.get(key) else {
            continue;
        };
        let meant = match nearest(key, known.iter().copied()) {
            Some(word) => format!("; did you mean {word}?"),
            None => format!("; there are {}", known.join(", ")),
        };
        let message = format!("{title}: {key} is unknown{meant}");
        let place = entry.key_location.clone();
        findings.warnings.push(Diagnostic::warning(place, message));
    }
    let options = PluginOptions::new(options.clone());
    if let Err(error) = plugin_settings::check(kind, &options) {
        let place = match section.get(error.key) {
            Some(entry) => entry.value_location.clone(),
            None => section.location.clone(),
        };
        let message = format!("{title}: {error}");
        findings.errors.push(Diagnostic::error(place, message));
    }
}

/// The manager does this plugin's work itself, so its settings have to make sense.
fn check_flapping(
    title: &str,
    section: &Section,
    variables: &EnvironmentVariables,
    findings: &mut Findings,
) {
    for item in &section.entries {
        let entry = &item.entry;
        let value = variables.expand(&entry.value);
        if let Some(Err(problem)) = put(&mut FlappingOverrides::default(), &entry.key, &value) {
            let message = format!("{title}: {} {problem}: {}", entry.key, quoted(&entry.value));
            let place = entry.value_location.clone();
            findings.errors.push(Diagnostic::error(place, message));
        }
    }
}

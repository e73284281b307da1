//! Sections `[plugin:NAME]` (reference, sections 5.9 and 8.1): read as they are; [`super::plugin_watcher`] says what
//! becomes of them.

use std::collections::BTreeMap;

use super::diagnostic::Diagnostic;
use super::document::{Document, Section, Source};
use super::flapping::{is_flapping, put};
use super::hook::is_identifier;
use super::ini::{IniEntry, quoted};
use super::interpret::did_you_mean;
use super::model::{FlappingOverrides, PluginConfig, WatcherConfig};
use super::plugin_settings::{self, PluginOptions};
use super::plugin_watcher::{BuiltIn, built_in};
use super::section::Findings;
use super::suggest::nearest;
use super::variables::EnvironmentVariables;
use super::{coerce, keys, plugin_watcher};

/// Reads one section whose header names the plugin `name`.
pub(super) fn read(
    name: &str,
    section: &Section,
    variables: &EnvironmentVariables,
    findings: &mut Findings,
) -> PluginConfig {
    let title = format!("plugin {}", quoted(name));
    let expanded = |key: &str| section.get(key).map(|entry| variables.expand(&entry.value));
    let class = expanded("use").filter(|class| !class.is_empty());
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
    if let (Some(class), Some(entry)) = (&class, section.get("use")) {
        check_class(&title, class, entry, findings);
    }
    let priority = expanded("priority").and_then(|value| coerce::integer(&value));
    if let Some(entry) = section.get("priority")
        && priority.is_none()
    {
        let message = format!(
            "{title}: priority is not an integer such as 5: {}",
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

/// What is no name of a class cannot be run, and what is none of Circus's own plugins although it has their prefix will not be
/// found.
fn check_class(title: &str, class: &str, entry: &IniEntry, findings: &mut Findings) {
    const OF_CIRCUS: &str = "circus.plugins.";
    let place = entry.value_location.clone();
    let shown = quoted(class);
    let (is_dotted, fits) = (class.contains('.'), class.split('.').all(is_identifier));
    if !(is_dotted && fits) {
        let message =
            format!("{title}: use is no Python class such as package.module.Class: {shown}");
        return findings.errors.push(Diagnostic::error(place, message));
    }
    if class.starts_with(OF_CIRCUS) && built_in(class).is_none() {
        let meant = nearest(class, plugin_watcher::BUILT_IN.iter().copied());
        let message = format!(
            "{title}: use names a plugin that Circus does not have: {shown}{}",
            did_you_mean(meant)
        );
        findings.warnings.push(Diagnostic::warning(place, message));
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

/// Watchers that a built-in plugin names although there are none of that name: it would act on nothing, or on one that
/// is added at run time.
pub(super) fn check_watchers(
    plugins: &[PluginConfig],
    watchers: &[WatcherConfig],
    document: &Document,
    findings: &mut Findings,
) {
    let names: BTreeMap<String, &str> = watchers
        .iter()
        .map(|watcher| (watcher.key(), watcher.name.as_str()))
        .collect();
    for plugin in plugins {
        let keys: &[&str] = match plugin.class.as_deref().and_then(built_in) {
            Some(BuiltIn::ResourceWatcher) => &["watcher", "service"],
            Some(BuiltIn::HttpObserver) => &["restart_on_error"],
            Some(BuiltIn::RedisObserver) => &["restart_on_timeout"],
            _ => continue,
        };
        for key in keys {
            let Some(name) = plugin.options.get(*key).filter(|name| !name.is_empty()) else {
                continue;
            };
            if names.contains_key(&name.to_lowercase()) {
                continue;
            }
            let section = document.section(&format!("plugin:{}", plugin.name));
            let entry = section.and_then(|section| section.get(key));
            let place = entry.map_or(&plugin.origin, |entry| &entry.value_location);
            let message = format!(
                "plugin {}: {key} names a watcher that does not exist: {}{}",
                quoted(&plugin.name),
                quoted(name),
                did_you_mean(nearest(name, names.values().copied()))
            );
            findings
                .warnings
                .push(Diagnostic::warning(place.clone(), message));
        }
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

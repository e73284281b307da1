//! Sections `[env]` and `[env:PATTERN,...]` (reference, section 5.4).

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::Diagnostic;
use super::document::{Document, Section};
use super::ini::{quoted, strip};
use super::interpret::{Kind, did_you_mean, kind_of};
use super::model::WatcherConfig;
use super::section::Findings;
use super::variables::{self, EnvironmentVariables};
use super::watcher::Environment;
use super::{pattern, suggest};

/// All of them, read.
pub(super) struct Environments<'a> {
    /// `[env]`, variables replaced.
    common: BTreeMap<String, String>,
    /// `[env:...]` in file order, variables replaced.
    special: Vec<Special<'a>>,
    /// Where in `special` a watcher's plain name is written. Large configurations have a section
    /// for each watcher, and comparing all with all would take minutes.
    by_name: BTreeMap<&'a str, Vec<usize>>,
    /// Where in `special` there are real patterns.
    by_pattern: Vec<usize>,
    /// The manager's environment below `[env]`.
    pub(super) variables: EnvironmentVariables,
}

/// One section `[env:...]`.
struct Special<'a> {
    section: &'a Section,
    patterns: Vec<&'a str>,
    entries: BTreeMap<String, String>,
}

impl<'a> Environments<'a> {
    pub(super) fn read(
        document: &'a Document,
        environment: &BTreeMap<String, String>,
        findings: &mut Findings,
    ) -> Self {
        let of_manager = EnvironmentVariables::new(environment);
        let common = document
            .section("env")
            .map(|section| entries(section, environment, Some(&of_manager), findings))
            .unwrap_or_default();
        let mut special = Vec::new();
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut by_pattern = Vec::new();
        for section in &document.sections {
            let Kind::EnvFor(patterns) = kind_of(section) else {
                continue;
            };
            let at = special.len();
            let patterns: Vec<&str> = patterns.split(',').map(strip).collect();
            for name in patterns.iter().filter(|one| !pattern::is_pattern(one)) {
                by_name.entry(name).or_default().push(at);
            }
            if patterns.iter().any(|one| pattern::is_pattern(one)) {
                by_pattern.push(at);
            }
            let entries = entries(section, environment, None, findings);
            special.push(Special {
                section,
                patterns,
                entries,
            });
        }
        let mut variables = of_manager;
        variables.lay_over(&common);
        Self {
            common,
            special,
            by_name,
            by_pattern,
            variables,
        }
    }

    /// What applies to the watcher of that name.
    pub(super) fn of_watcher(&self, name: &str) -> Environment {
        let matching = self.by_pattern.iter().filter(|at| {
            let patterns = self.special.get(**at).map(|special| &special.patterns);
            patterns.is_some_and(|all| all.iter().any(|one| pattern::matches(one, name)))
        });
        let named = self.by_name.get(name).into_iter().flatten();
        let places: BTreeSet<usize> = matching.chain(named).copied().collect();
        let mut own = self.common.clone();
        for special in places.into_iter().filter_map(|at| self.special.get(at)) {
            own.extend(special.entries.clone());
        }
        let mut variables = self.variables.clone();
        variables.lay_over(&own);
        Environment { own, variables }
    }

    /// Warns of patterns that no watcher matches.
    pub(super) fn warn_unmatched(&self, watchers: &[WatcherConfig], findings: &mut Findings) {
        let names: BTreeSet<&str> = watchers.iter().map(|w| w.name.as_str()).collect();
        for Special {
            section, patterns, ..
        } in &self.special
        {
            for one in patterns {
                let is_matched = if pattern::is_pattern(one) {
                    names.iter().any(|name| pattern::matches(one, name))
                } else {
                    names.contains(one)
                };
                if is_matched {
                    continue;
                }
                let meant = suggest::nearest(one, names.iter().copied());
                let message = format!(
                    "[{}]: no watcher matches {}{}",
                    section.name,
                    quoted(one),
                    did_you_mean(meant)
                );
                let location = section.location.clone();
                findings
                    .warnings
                    .push(Diagnostic::warning(location, message));
            }
        }
    }
}

/// The variables that one section sets. Only `[env]` has its `$(circus.env.NAME)` replaced, as in
/// Circus; `$NAME` is replaced in all.
fn entries(
    section: &Section,
    environment: &BTreeMap<String, String>,
    variables: Option<&EnvironmentVariables>,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for item in &section.entries {
        let entry = &item.entry;
        let key = strip(&entry.key);
        let warning = if key.is_empty() {
            Some(format!(
                "[{}]: a value without a name is left out",
                section.name
            ))
        } else if variables.is_none() && !variables::names(&entry.value).is_empty() {
            Some(format!(
                "[{}]: the variables in {key} stay as they are; only [env] replaces \
                          $(circus.env.NAME)",
                section.name
            ))
        } else {
            None
        };
        if let Some(message) = warning {
            let location = entry.key_location.clone();
            findings
                .warnings
                .push(Diagnostic::warning(location, message));
        }
        if !key.is_empty() {
            let value = variables.map_or(entry.value.clone(), |v| v.expand(&entry.value));
            let value = variables::expand_dollars(&value, environment);
            entries.insert(key.to_owned(), strip(&value).to_owned());
        }
    }
    entries
}

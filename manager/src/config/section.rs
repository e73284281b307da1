//! Reading typed values out of one section, with an error for each that cannot be read.
//!
//! Knows the tables of keys, but not what a value is used for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::coerce;
use super::diagnostic::{Diagnostic, Location};
use super::document::{Section, Source};
use super::ini::{IniEntry, quoted};
use super::keys::{self, Key, Support};
use super::suggest;
use super::variables::EnvironmentVariables;

/// What is found out while reading.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

/// A value with its variables replaced.
pub(super) struct Written<'a> {
    pub(super) value: String,
    pub(super) entry: &'a IniEntry,
}

/// One section while it is read.
pub(super) struct Reader<'a> {
    /// What messages begin with: `watcher "web"`.
    title: String,
    section: &'a Section,
    table: &'static [Key],
    variables: &'a EnvironmentVariables,
    findings: &'a mut Findings,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        title: String,
        section: &'a Section,
        table: &'static [Key],
        variables: &'a EnvironmentVariables,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            title,
            section,
            table,
            variables,
            findings,
        }
    }

    pub(super) fn origin(&self) -> Location {
        self.section.location.clone()
    }

    /// The value of a key that is written.
    pub(super) fn written(&self, key: &str) -> Option<Written<'a>> {
        let entry = self.section.get(key)?;
        Some(Written {
            value: self.variables.expand(&entry.value),
            entry,
        })
    }

    /// All entries whose key begins with `prefix`, with the rest of the key.
    pub(super) fn with_prefix(&self, prefix: &str) -> Vec<(&'a str, Written<'a>)> {
        let entries = self.section.entries.iter();
        entries
            .filter_map(|e| {
                let rest = e.entry.key.strip_prefix(prefix)?;
                let value = self.variables.expand(&e.entry.value);
                Some((
                    rest,
                    Written {
                        value,
                        entry: &e.entry,
                    },
                ))
            })
            .collect()
    }

    /// An error about a value, at its place.
    pub(super) fn error(&mut self, entry: &IniEntry, problem: &str) {
        let message = format!("{}: {} {problem}", self.title, entry.key);
        self.findings
            .errors
            .push(Diagnostic::error(entry.value_location.clone(), message));
    }

    /// An error about the section as a whole.
    pub(super) fn section_error(&mut self, problem: &str) {
        let message = format!("{}: {problem}", self.title);
        self.findings
            .errors
            .push(Diagnostic::error(self.origin(), message));
    }

    /// A warning about a value, at the place of its key.
    pub(super) fn warn(&mut self, entry: &IniEntry, problem: &str) {
        let message = format!("{}: {} {problem}", self.title, entry.key);
        self.findings
            .warnings
            .push(Diagnostic::warning(entry.key_location.clone(), message));
    }

    /// Text; empty when it is written empty, `None` when it is not written.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.written(key).map(|written| written.value)
    }

    /// Text that is not empty.
    pub(super) fn some_text(&self, key: &str) -> Option<String> {
        self.text(key).filter(|value| !value.is_empty())
    }

    /// What `parse` makes of the value, or an error that it `is_not` what it should be.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        is_not: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let written = self.written(key)?;
        let parsed = parse(&written.value);
        if parsed.is_none() {
            // The value as written: what variables stand for may be secret.
            let problem = format!("is not {is_not}: {}", quoted(&written.entry.value));
            self.error(written.entry, &problem);
        }
        parsed
    }

    /// What `parse` makes of the value, or an error in its words.
    pub(super) fn parsed_or<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let written = self.written(key)?;
        match parse(&written.value) {
            Ok(value) => Some(value),
            Err(problem) => {
                let problem = format!("{problem}: {}", quoted(&written.entry.value));
                self.error(written.entry, &problem);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.parsed(
            key,
            "yes or no (true, on, 1; false, off, 0)",
            coerce::boolean,
        )
        .unwrap_or(default)
    }

    /// A whole number inside a range.
    pub(super) fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.parsed(key, "an integer such as 5", coerce::integer)?;
        if range.contains(&number) {
            return Some(number);
        }
        let written = self.written(key)?;
        let (low, high) = (*range.start(), *range.end());
        let problem = if high >= i64::from(i32::MAX) {
            format!("must not be below {low}: {number}")
        } else {
            format!("must be from {low} to {high}: {number}")
        };
        self.error(written.entry, &problem);
        None
    }

    /// Whole seconds.
    pub(super) fn whole_seconds(&mut self, key: &str, default: Duration) -> Duration {
        let Some(seconds) = self.integer(key, 0..=i64::MAX) else {
            return default;
        };
        let duration = u64::try_from(seconds).map(Duration::from_secs);
        self.bounded(
            key,
            duration.ok().filter(|d| *d <= super::limits::DURATION),
            default,
        )
    }

    /// Seconds with a fraction.
    pub(super) fn seconds(&mut self, key: &str, default: Duration) -> Duration {
        let Some(seconds) = self.parsed(key, "a number of seconds such as 2.5", coerce::float)
        else {
            return default;
        };
        self.bounded(key, coerce::duration(seconds), default)
    }

    fn bounded(&mut self, key: &str, found: Option<Duration>, default: Duration) -> Duration {
        if let Some(duration) = found {
            return duration;
        }
        if let Some(written) = self.written(key) {
            let problem = format!(
                "must be from 0 to a hundred years, in seconds: {}",
                quoted(&written.entry.value)
            );
            self.error(written.entry, &problem);
        }
        default
    }

    /// Warns of what is written but not supported; `is_default` tells which of those say what
    /// holds anyway.
    pub(super) fn warn_unsupported(&mut self, is_default: impl Fn(&str) -> bool) {
        let section = self.section;
        for item in section
            .entries
            .iter()
            .filter(|e| e.source == Source::Section)
        {
            let entry = &item.entry;
            match keys::find(self.table, &entry.key).map(|key| key.support) {
                Some(Support::NotYet(instead)) if !is_default(&entry.key) => {
                    self.warn(entry, &format!("is not supported yet: {instead}"));
                }
                Some(Support::Ignored(why)) => self.warn(entry, &format!("is ignored: {why}")),
                _ => {}
            }
        }
    }

    /// Keys that no table has, each with a warning.
    pub(super) fn unknown(&mut self, is_known: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let mut unknown = BTreeMap::new();
        let section = self.section;
        for item in &section.entries {
            let entry = &item.entry;
            if keys::find(self.table, &entry.key).is_some() || is_known(&entry.key) {
                continue;
            }
            // [DEFAULT] fills every section, also those that have no use for a key.
            if item.source == Source::Default && is_known_anywhere(&entry.key) {
                continue;
            }
            self.warn_unknown(entry);
            unknown.insert(entry.key.clone(), self.variables.expand(&entry.value));
        }
        unknown
    }

    fn has_hooks(&self) -> bool {
        let mut keys = self.section.entries.iter().map(|item| &item.entry.key);
        keys.any(|key| key.starts_with("hooks."))
    }

    fn warn_unknown(&mut self, entry: &IniEntry) {
        let names = self.table.iter().map(|key| key.name.trim_end_matches('*'));
        let problem = match suggest::nearest(&entry.key, names) {
            Some(meant) => format!("is unknown; did you mean {meant}?"),
            // They get all options, and many have some of their own.
            None if self.has_hooks() => "is unknown; only hooks can read it".to_owned(),
            None => "is unknown and has no effect".to_owned(),
        };
        let message = format!("{}: {} {problem}", self.title, quoted(&entry.key));
        self.findings
            .warnings
            .push(Diagnostic::warning(entry.key_location.clone(), message));
    }
}

/// Whether any section has a use for the key.
fn is_known_anywhere(key: &str) -> bool {
    let tables = [
        keys::CIRCUS,
        keys::ADMIN,
        keys::WATCHER,
        keys::SOCKET,
        keys::PLUGIN,
    ];
    tables
        .into_iter()
        .any(|table| keys::find(table, key).is_some())
        || key.starts_with("stdout_stream.")
        || key.starts_with("stderr_stream.")
}

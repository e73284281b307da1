//! Several files as one: sections merged, first value first, `[DEFAULT]` filled in.
//!
//! Neutral to the grammar that the files were written in.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Location};
use super::ini::{IniEntry, IniFile, quoted};

/// Merged sections in the order in which their names first appear.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub(super) sections: Vec<Section>,
    /// Where each name is in `sections`.
    index: BTreeMap<String, usize>,
}

/// A merged section with unique keys.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) location: Location,
    pub(super) entries: Vec<Entry>,
    /// Where each key is in `entries`.
    index: BTreeMap<String, usize>,
}

/// A value and whether it was written in the section itself.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) entry: IniEntry,
    pub(super) source: Source,
}

/// Where a section has a value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Section,
    Default,
}

/// Section whose values all others take over.
const DEFAULT: &str = "DEFAULT";

impl Section {
    /// A section without any key.
    pub(super) fn new(name: String, location: Location) -> Self {
        Self {
            name,
            location,
            entries: Vec::new(),
            index: BTreeMap::new(),
        }
    }

    /// The entry of exactly that key.
    pub(super) fn get(&self, key: &str) -> Option<&IniEntry> {
        self.entries
            .get(*self.index.get(key)?)
            .map(|item| &item.entry)
    }

    /// Adds an entry whose key is not there yet.
    pub(super) fn push(&mut self, entry: IniEntry, source: Source) {
        self.index.insert(entry.key.clone(), self.entries.len());
        self.entries.push(Entry { entry, source });
    }
}

impl Document {
    /// Adds one file below those before it: a value that is there already stands.
    pub(super) fn add(&mut self, file: IniFile, warnings: &mut Vec<Diagnostic>) {
        for block in file.sections {
            let next = self.sections.len();
            let at = *self.index.entry(block.name.clone()).or_insert(next);
            if at == next {
                self.sections.push(Section::new(block.name, block.location));
            }
            let Some(section) = self.sections.get_mut(at) else {
                continue;
            };
            for entry in block.entries {
                let Some(first) = section.get(&entry.key) else {
                    section.push(entry, Source::Section);
                    continue;
                };
                // Overriding an included file is what the order of files is for.
                if first.key_location.file == entry.key_location.file {
                    let message = format!(
                        "[{}] {} is written again; the value of line {} stands",
                        section.name,
                        quoted(&entry.key),
                        first.key_location.line
                    );
                    warnings.push(Diagnostic::warning(entry.key_location, message));
                }
            }
        }
    }

    /// Fills in `[DEFAULT]`, which then is no section any more; to be called after the last file.
    pub(super) fn apply_defaults(&mut self) {
        let Some(at) = self.index.get(DEFAULT).copied() else {
            return;
        };
        let defaults = self.sections.remove(at).entries;
        self.index = (0..)
            .zip(&self.sections)
            .map(|(at, section)| (section.name.clone(), at))
            .collect();
        for section in &mut self.sections {
            for default in &defaults {
                if section.get(&default.entry.key).is_none() {
                    section.push(default.entry.clone(), Source::Default);
                }
            }
        }
    }

    /// The section of exactly that name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(*self.index.get(name)?)
    }
}

//! Other process managers' files, as a Circus configuration.
//!
//! Each reader gives a [`Stack`]: sections in our words, and a note for everything that could not
//! be carried. Pure: text in, text out.

mod pm2;
mod procfile;
mod supervisor;
mod text;

pub use pm2::import as import_pm2;
pub use procfile::import as import_procfile;
pub use supervisor::import as import_supervisor;
pub use supervisor::included as included_by_supervisor;

use serde::Serialize;

/// What a file becomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stack {
    sections: Vec<Section>,
    notes: Vec<Note>,
}

/// Something that the result does not say, or says differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The file, where it is another one than the one that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line of the file that was read, from 1; 0 where the format has no lines to name.
    pub line: u32,
    /// What it is about: `program "web"`.
    pub about: String,
    /// What is different, and what to do.
    pub text: String,
}

/// A file that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Unreadable {
    /// From 1.
    pub line: u32,
    /// What is wrong.
    pub reason: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Section {
    title: String,
    entries: Vec<(String, String)>,
}

impl Section {
    fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            entries: Vec::new(),
        }
    }

    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.entries.push((key.to_owned(), value.into()));
    }

    fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name == key)
    }
}

impl Stack {
    /// What could not be carried, in the order of the file.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Adds something that could not be carried.
    pub fn note(&mut self, line: u32, about: &str, text: impl Into<String>) {
        self.notes.push(Note {
            file: None,
            line,
            about: about.to_owned(),
            text: text.into(),
        });
    }

    /// Adds what another file of the same manager becomes.
    pub fn append(&mut self, file: &str, other: Self) {
        self.sections.extend(other.sections);
        let notes = other.notes.into_iter();
        self.notes.extend(notes.map(|note| Note {
            file: Some(note.file.unwrap_or_else(|| file.to_owned())),
            ..note
        }));
    }

    /// Adds a section, unless it says nothing. What an INI file cannot hold becomes a note.
    fn push(&mut self, line: u32, mut section: Section) {
        let title = section.title.clone();
        let mut kept = Vec::new();
        for (key, value) in section.entries {
            match text::ini_value(&value) {
                Some(value) => kept.push((key, value)),
                None => self.note(
                    line,
                    &title,
                    format!("{key} cannot be written in an INI file and is left out"),
                ),
            }
        }
        section.entries = kept;
        if !section.entries.is_empty() {
            self.sections.push(section);
        }
    }

    /// The configuration, with the notes as comments before it.
    #[must_use]
    pub fn render(&self, source: &str) -> String {
        let mut out = format!("; Imported from {source} by kingpole.\n");
        for note in &self.notes {
            let file = note.file.as_ref().map(|file| format!("{file}, "));
            let line = (note.line > 0).then(|| format!("line {}, ", note.line));
            let place = [file, line].into_iter().flatten().collect::<String>();
            let text = format!("{place}{}: {}", note.about, note.text);
            out.push_str(&format!("; note: {}\n", text.replace(['\n', '\r'], " ")));
        }
        for section in &self.sections {
            out.push_str(&format!("\n[{}]\n", section.title));
            for (key, value) in &section.entries {
                out.push_str(&format!("{key} = {value}\n"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;

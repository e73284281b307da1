//! Where something was written and what is to be said about it.
//!
//! Knows nothing of what the configuration means: a diagnostic is a place, a weight and a sentence.

use std::fmt;

use serde::Serialize;

use super::limits;

/// A place in a configuration file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Location {
    /// The file as it was named: on the command line, or as an include led to it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Location {
    /// A place in `file`.
    #[must_use]
    pub fn new(file: &str, line: u32, column: u32) -> Self {
        Self {
            file: file.to_owned(),
            line,
            column,
        }
    }
}

/// `file:line:column`, the form that editors jump to.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// How much a diagnostic weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration is used, but not everything that was written has an effect.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The place it is about.
    pub location: Location,
    /// How much it weighs.
    pub severity: Severity,
    /// One sentence that names section and key, without the place.
    pub message: String,
}

impl Diagnostic {
    /// An error at `location`.
    #[must_use]
    pub fn error(location: Location, message: impl AsRef<str>) -> Self {
        Self {
            location,
            severity: Severity::Error,
            message: sentence(message.as_ref()),
        }
    }

    /// A warning at `location`.
    #[must_use]
    pub fn warning(location: Location, message: impl AsRef<str>) -> Self {
        Self {
            location,
            severity: Severity::Warning,
            message: sentence(message.as_ref()),
        }
    }
}

/// The message on one line and of bearable length, whatever a file has for a key.
fn sentence(message: &str) -> String {
    let message = visible(message);
    match message.char_indices().nth(limits::MESSAGE_CHARACTERS) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message,
    }
}

/// The text with control characters spelled out: files must not be able to steer terminals.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// For logs: the sentence first, the place behind it in words.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (line {} of {})",
            self.message, self.location.line, self.location.file
        )
    }
}

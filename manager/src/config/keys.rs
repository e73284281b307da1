//! Every key of every section: its type, default and meaning, and how far it has an effect.
//!
//! The one table that the reader, the "did you mean" and the reference in
//! `docs/configuration.md` share. Knows nothing of values.

mod general;
mod socket;
mod stream;
mod watcher;

pub use general::{ADMIN, CIRCUS};
pub use socket::{PLUGIN, SOCKET};
pub use stream::{STREAM, STREAM_CLASSES};
pub use watcher::WATCHER;

/// How far a key has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As Circus did it.
    Full,
    /// A key that Circus does not have.
    Ours,
    /// Read and kept; what holds instead, for the warning.
    NotYet(&'static str),
    /// Read for the sake of old files, and never anything else; why.
    Ignored(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key, or the part before a `*`.
    pub name: &'static str,
    /// Type of its value, for people.
    pub kind: &'static str,
    /// Default, for people; empty for none.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// How far it has an effect.
    pub support: Support,
}

impl Key {
    /// Whether it stands for `written`.
    #[must_use]
    pub fn is(&self, written: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => written.len() > prefix.len() && written.starts_with(prefix),
            None => self.name == written,
        }
    }
}

/// The key that stands for `written` in a table.
#[must_use]
pub fn find(table: &'static [Key], written: &str) -> Option<&'static Key> {
    table.iter().find(|key| key.is(written))
}

const fn key(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        meaning,
        support: Support::Full,
    }
}

const fn ours(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        support: Support::Ours,
        ..key(name, kind, default, meaning)
    }
}

const fn not_yet(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
    instead: &'static str,
) -> Key {
    Key {
        support: Support::NotYet(instead),
        ..key(name, kind, default, meaning)
    }
}

const fn ignored(name: &'static str, kind: &'static str, why: &'static str) -> Key {
    Key {
        support: Support::Ignored(why),
        ..key(name, kind, "", why)
    }
}

#[cfg(test)]
mod tests;

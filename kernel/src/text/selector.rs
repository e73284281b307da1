//! Which of the things that are held a command is about: `NAME`, `PREFIX*`, `*`, a process id or a
//! file number.

use crate::text::error::TextError;
use crate::text::words::{Word, name_of};

/// One word of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// A name, or the number (process id, file number) of something that is not so named.
    Exact(String),
    /// All names that begin so; empty for all.
    Prefix(String),
}

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything: no word was given, or `*` among them.
    All,
    /// What any of these matches.
    Some(Vec<Pattern>),
}

impl Selection {
    /// From the words after a command.
    ///
    /// # Errors
    /// One of them is not UTF-8.
    pub fn from_words(words: &[Word]) -> Result<Self, TextError> {
        let mut patterns = Vec::with_capacity(words.len());
        for word in words {
            let name = name_of(word)?;
            match name.strip_suffix('*') {
                Some("") => return Ok(Self::All),
                Some(prefix) => patterns.push(Pattern::Prefix(prefix.to_owned())),
                None => patterns.push(Pattern::Exact(name.to_owned())),
            }
        }
        Ok(if patterns.is_empty() {
            Self::All
        } else {
            Self::Some(patterns)
        })
    }

    /// Whether a thing of this name and number is meant. A number counts only where no name is
    /// equal to it, which `is_name` knows.
    pub fn matches(&self, name: &str, number: Option<i32>, is_name: impl Fn(&str) -> bool) -> bool {
        let Self::Some(patterns) = self else {
            return true;
        };
        patterns.iter().any(|pattern| match pattern {
            Pattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Pattern::Exact(wanted) => {
                name == wanted
                    || (number == parse_number(wanted) && !is_name(wanted)) && number.is_some()
            }
        })
    }

    /// The plain names and numbers, each of which `remove` and `watch` insist on.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        let patterns = match self {
            Self::All => &[][..],
            Self::Some(patterns) => patterns.as_slice(),
        };
        patterns.iter().filter_map(|pattern| match pattern {
            Pattern::Exact(name) => Some(name.as_str()),
            Pattern::Prefix(_) => None,
        })
    }
}

/// A process id or file number as a person types it.
#[must_use]
pub fn parse_number(text: &str) -> Option<i32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &[&str]) -> Selection {
        let words: Vec<Word> = words.iter().map(|word| Word::from(*word)).collect();
        Selection::from_words(&words).unwrap()
    }

    fn no_name(_: &str) -> bool {
        false
    }

    #[test]
    fn nothing_and_a_star_mean_everything() {
        assert_eq!(selection(&[]), Selection::All);
        assert_eq!(selection(&["a", "*"]), Selection::All);
        assert!(selection(&["*"]).matches("x", None, no_name));
    }

    #[test]
    fn star_at_the_end_matches_by_prefix_and_elsewhere_is_a_letter() {
        let web = selection(&["web.*", "a*b"]);
        assert!(web.matches("web.1", None, no_name));
        assert!(!web.matches("web", None, no_name));
        assert!(web.matches("a*b", None, no_name));
        assert!(!web.matches("axb", None, no_name));
        assert_eq!(web.required().collect::<Vec<_>>(), ["a*b"]);
    }

    #[test]
    fn number_finds_by_number_unless_something_is_named_so() {
        let number = selection(&["3698"]);
        assert!(number.matches("web", Some(3698), no_name));
        assert!(!number.matches("web", Some(36), no_name));
        assert!(!number.matches("web", None, no_name));
        assert!(!number.matches("web", Some(3698), |name| name == "3698"));
        assert!(number.matches("3698", Some(1), |name| name == "3698"));
        assert!(!selection(&["x"]).matches("web", None, no_name));
    }
}

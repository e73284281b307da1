//! Which names are good: for processes, sockets, leases, values' keys and labels.

use crate::limits::NAME_BYTES_MAX;
use thiserror::Error;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has no characters at all.
    #[error("{what} name is empty")]
    Empty {
        /// What was to be named.
        what: &'static str,
    },
    /// It is longer than [`NAME_BYTES_MAX`].
    #[error("{what} name has {length} bytes; at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// What was to be named.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// It has a control character, which would break every line that shows it.
    #[error("{what} name {name:?} has a control character at byte {at}")]
    ControlCharacter {
        /// What was to be named.
        what: &'static str,
        /// The name as sent.
        name: String,
        /// Where the character is.
        at: usize,
    },
    /// It ends in `*`, which listings take for a wildcard.
    #[error("{what} name {name:?} ends in '*', which stands for a prefix in listings")]
    Wildcard {
        /// What was to be named.
        what: &'static str,
        /// The name as sent.
        name: String,
    },
}

/// Accepts a name of 1 to [`NAME_BYTES_MAX`] bytes of UTF-8 without control characters that does
/// not end in `*`. Spaces and dots are fine.
///
/// # Errors
/// What is wrong with it; `what` ("process", "socket" ...) goes into the text.
pub fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong {
            what,
            length: name.len(),
        });
    }
    if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
        return Err(NameError::ControlCharacter {
            what,
            name: name.to_owned(),
            at,
        });
    }
    if name.ends_with('*') {
        return Err(NameError::Wildcard {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_and_dots_are_good_and_newlines_are_not() {
        assert_eq!(check_name("process", "a b.c/é"), Ok(()));
        assert!(matches!(
            check_name("process", "a\nb"),
            Err(NameError::ControlCharacter { at: 1, .. })
        ));
        assert!(matches!(
            check_name("process", ""),
            Err(NameError::Empty { .. })
        ));
        assert!(matches!(
            check_name("socket", "web*"),
            Err(NameError::Wildcard { .. })
        ));
        let long = "x".repeat(10_000);
        assert!(matches!(
            check_name("process", &long),
            Err(NameError::TooLong { length: 10_000, .. })
        ));
    }
}

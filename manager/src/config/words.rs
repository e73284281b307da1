//! Splitting a command line into words as Python's `shlex.split` does, and quoting them again.
//!
//! Differs from a shell: nothing is expanded, a `#` begins no comment, and a backslash before a
//! line end stands for the line end.

use thiserror::Error;

/// Why a command line cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WordsError {
    /// A quotation mark that is never closed.
    #[error("no closing quotation mark")]
    OpenQuotation,
    /// A backslash at the very end.
    #[error("nothing behind the last backslash")]
    OpenEscape,
}

/// Splits at white space outside of quotation marks.
///
/// # Errors
/// See [`WordsError`].
pub fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    // `None` between words; an empty word exists once a quotation mark has been seen.
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or(WordsError::OpenQuotation)? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or(WordsError::OpenQuotation)? {
                        '"' => break,
                        '\\' => {
                            let next = characters.next().ok_or(WordsError::OpenEscape)?;
                            if !matches!(next, '"' | '\\') {
                                word.push('\\');
                            }
                            word.push(next);
                        }
                        other => word.push(other),
                    }
                }
            }
            '\\' => {
                let next = characters.next().ok_or(WordsError::OpenEscape)?;
                word.get_or_insert_default().push(next);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The word in a form that a shell takes for exactly itself (Python's `shlex.quote`).
#[must_use]
pub fn quote(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "@%_-+=:,./".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\"'\"'"))
}

/// Whether a shell would find anything but plain words in the text.
#[must_use]
pub fn has_shell_syntax(text: &str) -> bool {
    text.contains(['|', '&', ';', '<', '>', '`', '$', '*', '?', '~'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn splits_as_python_s_shlex_does() {
        // Expected values: shlex.split of CPython.
        for (text, words) in [
            ("", vec![]),
            (" a  b\tc\nd\r", vec!["a", "b", "c", "d"]),
            ("a#b #c d", vec!["a#b", "#c", "d"]),
            ("'a b' \"c d\"e", vec!["a b", "c de"]),
            ("'' \"\"", vec!["", ""]),
            (r"a\ b \\ \'", vec!["a b", r"\", "'"]),
            (r#""a\"b\\c\d\$" 'e\f'"#, vec![r#"a"b\c\d\$"#, r"e\f"]),
            ("a\\\nb", vec!["a\nb"]),
            ("x=\"1 2\"'3'4", vec!["x=1 234"]),
            ("a;b|c>d", vec!["a;b|c>d"]),
        ] {
            assert_eq!(
                split(text),
                Ok(words.iter().map(|w| (*w).to_owned()).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn open_ends_are_errors() {
        assert_eq!(split("a 'b"), Err(WordsError::OpenQuotation));
        assert_eq!(split("a \"b"), Err(WordsError::OpenQuotation));
        assert_eq!(split("a \\"), Err(WordsError::OpenEscape));
        assert_eq!(split("\"a\\"), Err(WordsError::OpenEscape));
    }

    #[test]
    fn plain_words_stay_plain_and_others_are_quoted() {
        assert_eq!(quote("/bin/x-1=2"), "/bin/x-1=2");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("it's"), "'it'\"'\"'s'");
    }

    proptest! {
        #[test]
        fn quoted_words_are_split_back_into_themselves(
            words in proptest::collection::vec("[a-z '\"\\\\#$\n]{0,8}", 0..6)
        ) {
            let line: Vec<String> = words.iter().map(|word| quote(word)).collect();
            prop_assert_eq!(split(&line.join(" ")), Ok(words));
        }

        #[test]
        fn any_text_is_split_or_refused(text in "\\PC{0,60}") {
            let _ = split(&text);
        }
    }
}

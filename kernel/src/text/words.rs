//! From a line to words, by Papa's rules.
//!
//! Words are split at single spaces and empty ones vanish. A word that ends in a backslash takes a
//! space in its place and joins the next one, so clients send `\ ` for each space (and for each
//! newline) of an argument. White space around the result is dropped, except where the line ends
//! in a backslash.

use crate::text::error::TextError;
use kingpole_protocol::bytes::ByteString;

/// One word. Names must be UTF-8, arguments and values need not.
pub type Word = ByteString;

/// The words of a line.
///
/// # Errors
/// There are more than `words_max`.
pub fn split_words(line: &[u8], words_max: usize) -> Result<Vec<Word>, TextError> {
    let mut words: Vec<Word> = Vec::new();
    let mut joined: Vec<u8> = Vec::new();
    for piece in line
        .trim_ascii()
        .split(|byte| *byte == b' ')
        .filter(|piece| !piece.is_empty())
    {
        if let Some(front) = piece.strip_suffix(b"\\") {
            joined.extend_from_slice(front);
            joined.push(b' ');
        } else {
            joined.extend_from_slice(piece);
            push(&mut words, Word::from(joined.trim_ascii()), words_max)?;
            joined.clear();
        }
    }
    if !joined.is_empty() {
        push(&mut words, Word::from(joined), words_max)?;
    }
    Ok(words)
}

fn push(words: &mut Vec<Word>, word: Word, words_max: usize) -> Result<(), TextError> {
    if words.len() >= words_max {
        return Err(TextError::TooManyWords { words_max });
    }
    words.push(word);
    Ok(())
}

/// A word that has to be a name.
///
/// # Errors
/// It is not UTF-8.
pub fn name_of(word: &Word) -> Result<&str, TextError> {
    std::str::from_utf8(word).map_err(|_| TextError::NotUtf8 { word: word.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Vec<String> {
        let words = split_words(line.as_bytes(), 100).unwrap();
        words
            .iter()
            .map(|word| word.to_text().into_owned())
            .collect()
    }

    #[test]
    fn empty_words_and_outer_white_space_vanish() {
        assert_eq!(split("  l   p \t\r"), ["l", "p"]);
        assert_eq!(split(" \t\r "), [""; 0]);
    }

    #[test]
    fn backslash_at_the_end_of_a_word_stands_for_a_space() {
        assert_eq!(
            split(r"set a one\ two three"),
            ["set", "a", "one two", "three"]
        );
        assert_eq!(split(r"a\ \ b c"), ["a  b", "c"]);
        assert_eq!(split(r"a\b c"), [r"a\b", "c"]);
        assert_eq!(split(r"a\\ b"), [r"a\ b"]);
    }

    #[test]
    fn joined_words_lose_outer_spaces_but_the_line_end_does_not_cut() {
        assert_eq!(split(r"set a \ lead"), ["set", "a", "lead"]);
        assert_eq!(split(r"set a x\"), ["set", "a", "x "]);
    }

    #[test]
    fn too_many_words_are_refused() {
        assert_eq!(split_words(b"a b c", 3).unwrap().len(), 3);
        let refused = split_words(b"a b c d", 3);
        assert_eq!(refused, Err(TextError::TooManyWords { words_max: 3 }));
    }

    /// What the client package does before sending.
    fn quote(arguments: &[String]) -> String {
        let quoted: Vec<String> = arguments
            .iter()
            .map(|a| a.replace([' ', '\n'], "\\ "))
            .collect();
        quoted.join(" ")
    }

    proptest! {
        #[test]
        fn what_clients_quote_comes_out_again(
            arguments in proptest::collection::vec("[a-z=\"]([a-z \"=$]{0,8}[a-z=])?", 1..8),
        ) {
            prop_assert_eq!(split(&quote(&arguments)), arguments);
        }

        #[test]
        fn any_line_gives_words_without_spaces_at_their_front(line in any::<Vec<u8>>()) {
            for word in split_words(&line, 1000).unwrap() {
                prop_assert!(!word.starts_with(b"  ") || word.ends_with(b" "));
            }
        }
    }
}

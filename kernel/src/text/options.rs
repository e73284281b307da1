//! `name=value` words and the values in them.

use crate::text::error::TextError;
use crate::text::words::{Word, name_of};
use kingpole_protocol::bytes::ByteString;

/// One `name=value` word, quotes dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionWord {
    /// What stands before the first `=`.
    pub name: String,
    /// What stands behind it. May be empty.
    pub value: ByteString,
}

/// The leading words that have a `=`, and the rest. Where a name is given twice the later value
/// counts, in the earlier place.
///
/// # Errors
/// A name is not UTF-8.
pub fn split_options(words: &[Word]) -> Result<(Vec<OptionWord>, &[Word]), TextError> {
    let count = words
        .iter()
        .position(|word| !word.contains(&b'='))
        .unwrap_or(words.len());
    let (front, rest) = words.split_at(count);
    let mut options: Vec<OptionWord> = Vec::with_capacity(count);
    let mut places = std::collections::BTreeMap::new();
    for word in front {
        let (name, value) = split_at_equals(word);
        let name = name_of(&Word::from(name))?.to_owned();
        let value = ByteString::from(unquote(value));
        match places
            .get(&name)
            .and_then(|place: &usize| options.get_mut(*place))
        {
            Some(earlier) => earlier.value = value,
            None => {
                places.insert(name.clone(), options.len());
                options.push(OptionWord { name, value });
            }
        }
    }
    Ok((options, rest))
}

fn split_at_equals(word: &[u8]) -> (&[u8], &[u8]) {
    match word.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (name, rest) = word.split_at(at);
            (name, rest.get(1..).unwrap_or_default())
        }
        None => (word, &[]),
    }
}

/// Clients quote a value that ends in a backslash; anybody may quote.
fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

impl OptionWord {
    /// Its value as a number within bounds.
    ///
    /// # Errors
    /// It is not.
    pub fn number<T: TryFrom<i64>>(&self, wanted: &'static str) -> Result<T, TextError> {
        parse_integer(&self.value)
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.bad(wanted))
    }

    /// Its value as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str, TextError> {
        name_of(&self.value)
    }

    /// Its value as a switch: a number that is not 0, or a word for yes or no.
    ///
    /// # Errors
    /// It is neither.
    pub fn switch(&self) -> Result<bool, TextError> {
        match self.value.to_ascii_lowercase().as_slice() {
            b"true" | b"yes" | b"on" => Ok(true),
            b"false" | b"no" | b"off" | b"" => Ok(false),
            _ => Ok(self.number::<i64>("0 or 1")? != 0),
        }
    }

    /// The refusal of its value.
    #[must_use]
    pub fn bad(&self, wanted: &'static str) -> TextError {
        TextError::BadOption {
            option: self.name.clone(),
            wanted,
            value: self.value.to_text().into_owned(),
        }
    }
}

/// A decimal integer, white space around it allowed.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// A number of bytes: plain, or with `k`, `m` or `g` (powers of 1024).
#[must_use]
pub fn parse_size(text: &[u8]) -> Option<u64> {
    if let Some(number) = parse_integer(text) {
        return u64::try_from(number).ok();
    }
    let (unit, number) = text.split_last()?;
    let factor: u64 = match unit.to_ascii_lowercase() {
        b'k' => 1 << 10,
        b'm' => 1 << 20,
        b'g' => 1 << 30,
        _ => return None,
    };
    u64::try_from(parse_integer(number)?)
        .ok()?
        .checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Word> {
        line.split(' ').map(Word::from).collect()
    }

    #[test]
    fn options_end_at_the_first_word_without_an_equals_sign() {
        let words = words(r#"a=1 env.B="x y" c= d=e=f /bin/sh g=h"#);
        let words: Vec<Word> = [&words[..1], &[Word::from(r#"env.B="x y""#)], &words[3..]].concat();
        let (options, rest) = split_options(&words).unwrap();
        let got: Vec<(&str, &[u8])> = options.iter().map(|o| (&*o.name, &*o.value)).collect();
        let want: Vec<(&str, &[u8])> =
            vec![("a", b"1"), ("env.B", b"x y"), ("c", b""), ("d", b"e=f")];
        assert_eq!(got, want);
        assert_eq!(rest, &[Word::from("/bin/sh"), Word::from("g=h")]);
    }

    #[test]
    fn later_value_of_an_option_counts_in_the_earlier_place() {
        let words = words("a=1 b=2 a=3");
        let (options, _) = split_options(&words).unwrap();
        let got: Vec<(&str, &[u8])> = options.iter().map(|o| (&*o.name, &*o.value)).collect();
        let want: Vec<(&str, &[u8])> = vec![("a", b"3"), ("b", b"2")];
        assert_eq!(got, want);
    }

    #[test]
    fn quotes_are_dropped_only_in_pairs() {
        assert_eq!(unquote(br#""C:\""#), br"C:\");
        assert_eq!(unquote(b"\""), b"\"");
        assert_eq!(unquote(b"\"\""), b"");
        assert_eq!(unquote(b"\"x"), b"\"x");
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(parse_size(b"0"), Some(0));
        assert_eq!(parse_size(b"4k"), Some(4096));
        assert_eq!(parse_size(b"1M"), Some(1 << 20));
        assert_eq!(parse_size(b"2g"), Some(2 << 30));
        for bad in [
            "",
            "x",
            "k",
            "-1",
            "-1k",
            "1t",
            "99999999999999999g",
            "1.5m",
        ] {
            assert_eq!(parse_size(bad.as_bytes()), None, "{bad}");
        }
    }
}

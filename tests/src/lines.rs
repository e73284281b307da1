//! Numbered lines: what a puppet writes, and the judge of the logs they end up in.

use std::fmt::Write;

/// Line `number` of the writer `tag`, newline included. Lengths differ from line to line, so that
/// records and rotations fall on every kind of border.
#[must_use]
pub fn line(tag: &str, number: u64) -> String {
    let filler = usize::try_from(number % 61).unwrap_or(0);
    let mut line = format!("{tag} {number:08} ");
    for at in 0..filler {
        let letter = (number + at as u64) % 26;
        line.push(char::from(b'a' + u8::try_from(letter).unwrap_or(0)));
    }
    let _ = writeln!(line, ".");
    line
}

/// Checks that `content` is exactly the lines `from`, `from + 1` ... of `tag`, each whole, once and
/// in order, and answers the number after the last one.
///
/// # Errors
/// The first line that is not what it should be, with its neighbour.
pub fn check(tag: &str, content: &[u8], from: u64) -> Result<u64, String> {
    let mut number = from;
    let mut rest = content;
    while !rest.is_empty() {
        let expected = line(tag, number);
        match rest.strip_prefix(expected.as_bytes()) {
            Some(left) => rest = left,
            None => {
                let end = rest
                    .iter()
                    .position(|&b| b == b'\n')
                    .map_or(rest.len(), |at| at + 1);
                return Err(format!(
                    "after {} good lines of {tag:?} comes {:?} where {:?} should be (byte {} of {})",
                    number - from,
                    String::from_utf8_lossy(&rest[..end.min(200)]),
                    expected,
                    content.len() - rest.len(),
                    content.len(),
                ));
            }
        }
        number += 1;
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        numbers
            .into_iter()
            .flat_map(|n| line("w", n).into_bytes())
            .collect()
    }

    #[test]
    fn a_whole_log_is_good() {
        assert_eq!(check("w", &text(0..200), 0), Ok(200));
        assert_eq!(check("w", b"", 7), Ok(7));
    }

    #[test]
    fn missing_doubled_swapped_torn_and_foreign_lines_are_found() {
        assert!(check("w", &text((0..9).chain(10..20)), 0).is_err());
        assert!(check("w", &text((0..9).chain(8..20)), 0).is_err());
        assert!(check("w", &text([0, 2, 1]), 0).is_err());
        let whole = text(0..20);
        assert!(check("w", &whole[..whole.len() - 1], 0).is_err());
        assert!(check("w", &whole[1..], 0).is_err());
        assert!(check("v", &whole, 0).is_err());
    }
}

//! Shell patterns as Python's `fnmatch` and `glob` understand them: `*`, `?`, `[seq]`, `[!seq]`.

use std::path::{Path, PathBuf};

/// Whether the whole `name` matches `pattern`; the case of letters matters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<Piece> = pieces(pattern);
    let name: Vec<char> = name.chars().collect();
    // Where to go back to: the piece behind the last star, and the first character it did not eat.
    let mut last_star: Option<(usize, usize)> = None;
    let (mut at_piece, mut at_char) = (0, 0);
    loop {
        let matched = match (pattern.get(at_piece), name.get(at_char)) {
            (None, None) => return true,
            (Some(Piece::Star), _) => {
                last_star = Some((at_piece + 1, at_char));
                at_piece += 1;
                continue;
            }
            (Some(piece), Some(character)) => piece.takes(*character),
            (None, Some(_)) => false,
            // The name is used up; giving a star more of it cannot help.
            (Some(_), None) => return false,
        };
        if matched {
            at_piece += 1;
            at_char += 1;
        } else if let Some((piece, eaten)) = last_star {
            last_star = Some((piece, eaten + 1));
            at_piece = piece;
            at_char = eaten + 1;
        } else {
            return false;
        }
    }
}

/// Whether the text has any character that makes it a pattern.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

enum Piece {
    Star,
    Any,
    One(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Piece {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Star | Self::Any => true,
            Self::One(one) => *one == character,
            Self::Class { negated, ranges } => {
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&character))
                    != *negated
            }
        }
    }
}

fn pieces(pattern: &str) -> Vec<Piece> {
    let mut rest = pattern;
    let mut pieces = Vec::new();
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        let (piece, next) = match first {
            '*' => (Piece::Star, after),
            '?' => (Piece::Any, after),
            '[' => class(after).unwrap_or((Piece::One('['), after)),
            other => (Piece::One(other), after),
        };
        pieces.push(piece);
        rest = next;
    }
    pieces
}

/// A class up to its closing bracket, which may also be the class's first member. Without one the
/// opening bracket stands for itself.
fn class(text: &str) -> Option<(Piece, &str)> {
    let (negated, text) = match text.strip_prefix('!') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (end, _) = text.char_indices().skip(1).find(|(_, c)| *c == ']')?;
    let members: Vec<char> = text[..end].chars().collect();
    let mut ranges = Vec::new();
    let mut rest = members.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = if let ['-', last, after @ ..] = after {
            ranges.push((*first, *last));
            after
        } else {
            ranges.push((*first, *first));
            after
        };
    }
    Some((Piece::Class { negated, ranges }, &text[end + 1..]))
}

/// Paths that match a pattern, sorted. A `*` does not match a name's leading dot, nor a slash.
///
/// `list` gives the names in a directory and nothing for what is none; `exists` tells whether a
/// path is there.
pub fn expand_paths(
    pattern: &str,
    list: &dyn Fn(&Path) -> Vec<String>,
    exists: &dyn Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let (root, relative) = match pattern.strip_prefix('/') {
        Some(relative) => (PathBuf::from("/"), relative),
        None => (PathBuf::new(), pattern),
    };
    let mut found = vec![root];
    for part in relative.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for directory in found {
            if !is_pattern(part) {
                next.push(directory.join(part));
                continue;
            }
            let here = if directory.as_os_str().is_empty() {
                Path::new(".")
            } else {
                directory.as_path()
            };
            let mut names = list(here);
            names.retain(|name| {
                (part.starts_with('.') || !name.starts_with('.')) && matches(part, name)
            });
            names.sort_unstable();
            next.extend(names.into_iter().map(|name| directory.join(name)));
        }
        found = next;
    }
    found.retain(|path| exists(path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_fnmatch_matches() {
        for (pattern, name) in [
            ("*", ""),
            ("worker*", "worker1"),
            ("w?rk[a-f]r", "worker"),
            ("[!a]b", "cb"),
            ("[]]", "]"),
            ("[!]]", "a"),
            ("[a-]", "-"),
            ("a[b", "a[b"),
            ("*a*b*", "xaxxbx"),
            ("h\u{e9}*", "h\u{e9}llo"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("worker", "Worker"),
            ("worker?", "worker"),
            ("[!a]b", "ab"),
            ("[z-a]", "m"),
            ("", "x"),
            ("a*b", "abc"),
            ("[]", "]"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        assert!(!matches(&"*a".repeat(60), &format!("{}b", "a".repeat(200))));
    }

    #[test]
    fn paths_are_found_in_order_and_hidden_files_are_not() {
        let tree = ["a.ini", "b.ini", ".c.ini", "d.txt"];
        let list = |directory: &Path| {
            if directory == Path::new("/etc/x") {
                vec![
                    "b.ini".to_owned(),
                    "a.ini".into(),
                    ".c.ini".into(),
                    "d.txt".into(),
                ]
            } else if directory == Path::new("/etc") {
                vec!["x".to_owned(), "y".into()]
            } else {
                Vec::new()
            }
        };
        let exists = |path: &Path| {
            tree.iter()
                .any(|name| path == Path::new("/etc/x").join(name))
        };
        let found = |pattern: &str| expand_paths(pattern, &list, &exists);
        assert_eq!(
            found("/etc/x/*.ini"),
            [Path::new("/etc/x/a.ini"), Path::new("/etc/x/b.ini")]
        );
        assert_eq!(found("/etc/*/d.txt"), [Path::new("/etc/x/d.txt")]);
        assert_eq!(found("/etc/x/.c*"), [Path::new("/etc/x/.c.ini")]);
        assert_eq!(found("/etc/x/none.ini"), Vec::<PathBuf>::new());
    }
}

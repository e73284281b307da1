//! Patterns for names: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`, always for the whole name, as
//! Python's fnmatch reads them. An unclosed bracket stands for itself.

use super::limits::REGEX_BYTES_MAX;

/// Whether `name` matches `pattern`. Case matters; callers lower both.
#[must_use]
pub(super) fn glob_matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // The usual two-pointer walk: on a mismatch go back to the last star and let it take one more
    // character, so the cost is bounded by the product of both lengths.
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        match step(&pattern[at..], name[position]) {
            Step::Star => {
                star = Some((at + 1, position));
                at += 1;
            }
            Step::Matched(width) => {
                at += width;
                position += 1;
            }
            Step::Mismatch => match star {
                Some((after, taken)) => {
                    at = after;
                    position = taken + 1;
                    star = Some((after, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// A regular expression that the beginning of a name has to match, as Python's `re.match` does.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn regex(pattern: &str) -> Result<regex_lite::Regex, String> {
    regex_lite::RegexBuilder::new(&format!(r"\A(?:{pattern})"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| error.to_string())
}

enum Step {
    Star,
    Matched(usize),
    Mismatch,
}

fn step(pattern: &[char], c: char) -> Step {
    match pattern.first() {
        None => Step::Mismatch,
        Some('*') => Step::Star,
        Some('?') => Step::Matched(1),
        Some('[') => match bracket(pattern) {
            Some((set, width)) if in_set(set, c) => Step::Matched(width),
            Some(_) => Step::Mismatch,
            None if c == '[' => Step::Matched(1),
            None => Step::Mismatch,
        },
        Some(literal) if *literal == c => Step::Matched(1),
        Some(_) => Step::Mismatch,
    }
}

/// The characters between brackets and the width of all; a `]` in first place is one of them.
fn bracket(pattern: &[char]) -> Option<(&[char], usize)> {
    let negated = usize::from(pattern.get(1) == Some(&'!'));
    let search_from = 2 + negated;
    let close = pattern.iter().skip(search_from).position(|c| *c == ']')? + search_from;
    Some((&pattern[1..close], close + 1))
}

fn in_set(set: &[char], c: char) -> bool {
    let (set, expected) = match set.split_first() {
        Some(('!', rest)) => (rest, false),
        Some(_) | None => (set, true),
    };
    let mut found = false;
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == '-' {
            found |= set[at] <= c && c <= set[at + 2];
            at += 3;
        } else {
            found |= set[at] == c;
            at += 1;
        }
    }
    found == expected
}

#[cfg(test)]
mod tests {
    use super::{glob_matches, regex};
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_fnmatch_says() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("web*", "web-1", true),
            ("web*", "my-web", false),
            ("*b*c", "abbbxc", true),
            ("?", "", false),
            ("w[ab]b", "wbb", true),
            ("w[!ab]b", "wbb", false),
            ("w[0-3]", "w2", true),
            ("w[0-3]", "w7", false),
            ("w[]]", "w]", true),
            ("w[", "w[", true),
            ("plain", "plain2", false),
        ] {
            assert_eq!(glob_matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn regular_expressions_are_anchored_at_the_beginning_only() {
        let matches = |pattern: &str, name: &str| regex(pattern).map(|it| it.is_match(name));
        assert_eq!(matches("web", "web-1"), Ok(true));
        assert_eq!(matches("eb", "web"), Ok(false));
        assert_eq!(matches("a|web$", "web"), Ok(true));
        assert_eq!(matches(r"w\w+-\d", "web-1"), Ok(true));
        assert!(regex("(").is_err());
        assert!(regex("a{1000}{1000}").is_err());
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in ".{0,12}", name in ".{0,12}") {
            let _ = glob_matches(&pattern, &name);
        }

        #[test]
        fn a_name_without_special_characters_matches_itself_only(
            name in "[a-z.]{1,8}", other in "[a-z.]{1,8}",
        ) {
            prop_assert!(glob_matches(&name, &name));
            prop_assert_eq!(glob_matches(&name, &other), name == other);
        }
    }
}

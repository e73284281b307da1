//! "Did you mean": the known word that is nearest to one that nobody knows.

use super::limits;

/// The candidate that differs least from `word`, if it differs little enough to be meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wanted: Vec<char> = word.trim().to_lowercase().chars().collect();
    // A long word is no near miss of anything we know, and the table below is quadratic.
    if wanted.is_empty() || wanted.len() > 64 {
        return None;
    }
    let allowed = (wanted.len() / 3).max(1);
    candidates
        .into_iter()
        .take(limits::SUGGESTION_CANDIDATES)
        .map(|candidate| (distance(&wanted, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between the two.
fn distance(word: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.to_lowercase().chars().collect();
    let width = candidate.len() + 1;
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..width).collect();
    for (row, character) in word.iter().enumerate() {
        let mut current = vec![row + 1; width];
        for column in 1..width {
            let other = candidate[column - 1];
            let replaced = last[column - 1] + usize::from(*character != other);
            current[column] = replaced.min(last[column] + 1).min(current[column - 1] + 1);
            let swapped = row > 0
                && column > 1
                && word[row - 1] == other
                && *character == candidate[column - 2];
            if swapped {
                current[column] = current[column].min(before_last[column - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[width - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = [
        "cmd",
        "numprocesses",
        "warmup_delay",
        "max_age",
        "max_retry",
    ];

    #[test]
    fn slips_of_the_finger_are_recognised() {
        for (word, meant) in [
            ("CMD", "cmd"),
            ("  cmd", "cmd"),
            ("cdm", "cmd"),
            ("num_processes", "numprocesses"),
            ("warmupdelay", "warmup_delay"),
            ("max_retries", "max_retry"),
        ] {
            assert_eq!(nearest(word, KEYS), Some(meant), "{word}");
        }
    }

    #[test]
    fn other_words_are_left_alone() {
        for word in ["", "colour", "flapping.window", "x", &"m".repeat(10_000)] {
            assert_eq!(nearest(word, KEYS), None, "{word}");
        }
    }
}

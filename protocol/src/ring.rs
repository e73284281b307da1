//! The file of an output ring, for those who read it in place.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | D (a multiple of 4096) | records, see [`crate::record`]; the one at position p begins at p modulo D, headers do not wrap, data may |
//! | D | 8 | the position of the oldest record that is kept, or [`CLOSED`] |
//! | D + 8 | 8 | the same, every bit inverted |
//! | D + 16 | 4080 | 0 |
//!
//! Whoever writes stores the oldest position before it overwrites what lay in front of it. So a
//! reader copies first and looks at that position afterwards: if it is not beyond where its copy begins,
//! the copy is what was written. It is believed only as long as the session lives in which the place was
//! announced, because a successor may not know that anybody reads.

/// Instead of a position: nothing in this file may be believed (the kernel becomes another program,
/// or the process is forgotten). Where records lie has to be asked anew.
pub const CLOSED: u64 = u64::MAX;

/// Bytes behind the records.
pub const CONTROL_BYTES: u64 = 4096;

/// The two words that say where the oldest record is.
#[must_use]
pub const fn oldest_words(position: u64) -> [u64; 2] {
    [position, !position]
}

/// What the two words say; `None` while they are being written.
#[must_use]
pub fn parse_oldest(words: &[u8; 16]) -> Option<u64> {
    let [position, inverted] = [0, 8].map(|from| {
        let mut word = [0; 8];
        word.copy_from_slice(words.get(from..from + 8).unwrap_or(&[0; 8]));
        u64::from_le_bytes(word)
    });
    (position == !inverted).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_do_not_fit_each_other_say_nothing() {
        let bytes = |words: [u64; 2]| -> [u8; 16] {
            let words = words.map(u64::to_le_bytes).concat();
            words.try_into().unwrap()
        };
        assert_eq!(parse_oldest(&bytes(oldest_words(4096))), Some(4096));
        assert_eq!(parse_oldest(&bytes(oldest_words(CLOSED))), Some(CLOSED));
        // As a file that nobody has written to.
        assert_eq!(parse_oldest(&[0; 16]), None);
        let [new, _] = oldest_words(8192);
        let [_, old] = oldest_words(4096);
        assert_eq!(parse_oldest(&bytes([new, old])), None);
    }
}

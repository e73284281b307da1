//! Check words over what lies in shared memory.
//!
//! They are not needed against SIGKILL (every publication is one store); they are there for a
//! kernel that wrote where it should not before it died. Not cryptographic, frozen with the layout.

/// Starting value; any odd constant does, this one is the 64-bit golden ratio.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed ^ (mixed >> 32)
}

/// The check of a run of words.
#[must_use]
pub fn check_words(words: &[u64]) -> u64 {
    words.iter().fold(SEED, |state, word| mix(state, *word))
}

/// The check of bytes, with `seed` mixed in first.
#[must_use]
pub fn check_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words
        .iter()
        .fold(mix(SEED, seed), |s, w| mix(s, u64::from_le_bytes(*w)));
    let tail = rest
        .iter()
        .fold(1_u64, |tail, byte| (tail << 8) | u64::from(*byte));
    mix(state, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_bit_changes_the_check() {
        let words = [1, 2, 3, u64::MAX];
        let whole = check_words(&words);
        for word in 0..words.len() {
            for bit in 0..64 {
                let mut torn = words;
                torn[word] ^= 1 << bit;
                assert_ne!(check_words(&torn), whole);
            }
        }
    }

    #[test]
    fn length_is_part_of_the_check_of_bytes() {
        assert_ne!(check_bytes(0, &[0]), check_bytes(0, &[0, 0]));
        assert_ne!(check_bytes(0, &[]), check_bytes(0, &[0]));
        assert_ne!(check_bytes(0, &[7; 8]), check_bytes(1, &[7; 8]));
    }
}

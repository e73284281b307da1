//! Bytes that are a function of their offset, so that any piece of a flood can be verified alone.

/// The byte at `offset` of the endless pattern.
#[must_use]
pub fn byte_at(offset: u64) -> u8 {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = word(offset / 8).to_le_bytes();
    [b0, b1, b2, b3, b4, b5, b6, b7][usize::try_from(offset % 8).unwrap_or(0)]
}

/// Fills `into` with the pattern from `offset` on.
pub fn fill(into: &mut [u8], offset: u64) {
    let mut at = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let skip = usize::try_from(at % 8).unwrap_or(0);
        let bytes = word(at / 8).to_le_bytes();
        let count = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&bytes[skip..skip + count]);
        at += count as u64;
        rest = later;
    }
}

/// The first offset at which `bytes`, which should begin at `offset`, differ from the pattern.
#[must_use]
pub fn first_difference(bytes: &[u8], offset: u64) -> Option<u64> {
    let mut expected = vec![0; bytes.len()];
    fill(&mut expected, offset);
    let at = bytes.iter().zip(&expected).position(|(a, b)| a != b)?;
    Some(offset + at as u64)
}

/// The finaliser of splitmix64 (public domain, S. Vigna): neighbouring words share no bytes.
fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_found_good_at_its_own_offset_only() {
        let mut bytes = vec![0; 1000];
        fill(&mut bytes, 12_345);
        assert_eq!(first_difference(&bytes, 12_345), None);
        assert!(first_difference(&bytes, 12_346).is_some());
        assert_eq!(bytes[7], byte_at(12_352));
        bytes[500] ^= 1;
        assert_eq!(first_difference(&bytes, 12_345), Some(12_845));
    }
}

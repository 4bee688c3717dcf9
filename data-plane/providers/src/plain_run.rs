//! The inner loop of reading JSON: how far a string runs on without a byte that needs a look.

/// Bytes that are looked at together.
const WORD: usize = 8;

/// How many bytes at the start of `bytes` are neither a quote, a backslash nor a control character.
///
/// Short runs, as between escapes, are searched word by word; in a long one whole blocks are compared by vector operations.
#[inline]
pub(crate) fn plain_prefix(bytes: &[u8]) -> usize {
    const SHORT: usize = 4;
    let (words, _) = bytes.as_chunks::<WORD>();
    for (index, word) in words.iter().take(SHORT).enumerate() {
        let stops = stops_in_word(u64::from_le_bytes(*word));
        if stops != 0 {
            return index * WORD + (stops.trailing_zeros() / 8) as usize;
        }
    }
    rest_of_run(bytes, words.len().min(SHORT) * WORD)
}

/// The same, of which `at` bytes are known to be plain.
#[inline(never)]
fn rest_of_run(bytes: &[u8], mut at: usize) -> usize {
    const BLOCK: usize = 32;
    while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        let stops = block.iter().fold(0u8, |stops, &byte| stops | u8::from(ends_plain(byte)));
        if stops != 0 {
            break;
        }
        at += BLOCK;
    }
    at + plain_words(&bytes[at..])
}

/// The same, word by word.
fn plain_words(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<WORD>() {
        let stops = stops_in_word(u64::from_le_bytes(*word));
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += WORD;
    }
    at + bytes[at..].iter().take_while(|&&byte| !ends_plain(byte)).count()
}

fn ends_plain(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The high bit of every byte that ends a plain run; only the lowest one set is exact, for borrows travel upwards.
fn stops_in_word(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let control = below(word, 0x20);
    let quote = below(word ^ (ONES * b'"' as u64), 1);
    let backslash = below(word ^ (ONES * b'\\' as u64), 1);
    (control | quote | backslash) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_runs_end_exactly_at_the_first_special_byte() {
        for length in 0..100 {
            for special in [b'"', b'\\', b'\n', 0, 0x1f] {
                let mut bytes = vec![b'x'; length];
                bytes.push(special);
                bytes.extend_from_slice(&[0xff, b'"', 0x7f, 0x80, b'"', 0, 0, 0, 0]);
                assert_eq!(plain_prefix(&bytes), length);
            }
            assert_eq!(plain_prefix(&vec![0xe9; length]), length);
        }
    }
}

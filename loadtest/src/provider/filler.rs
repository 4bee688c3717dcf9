//! The text of ordinary answers: one fixed verse, repeated, one word per token.
//!
//! Some words have two- and three-byte characters, so that a body cut at awkward places is cut inside characters. No
//! word needs escaping in JSON.

use std::sync::LazyLock;

/// The words of one verse; each is a token.
const WORDS: [&str; 16] = [
    "slow", " boats", " carry", " grey", " stone", " past", " the", " café", " while", " 東京", " keeps", " its",
    " lamps", " lit", " –", " until",
];

/// Tokens of the text that is made once.
const PREPARED: usize = 4096;

struct Prepared {
    text: String,
    ends: Vec<usize>,
}

static TEXT: LazyLock<Prepared> = LazyLock::new(|| {
    let mut prepared = Prepared { text: String::new(), ends: vec![0] };
    for token in 0..PREPARED {
        prepared.text.push_str(WORDS[token % WORDS.len()]);
        prepared.ends.push(prepared.text.len());
    }
    prepared
});

/// The word of this token.
pub(crate) fn word(token: u64) -> &'static str {
    WORDS[usize::try_from(token % WORDS.len() as u64).unwrap_or_default()]
}

/// Appends the first `tokens` words.
pub(crate) fn append(out: &mut Vec<u8>, tokens: u64) {
    let mut left = usize::try_from(tokens).unwrap_or(usize::MAX);
    let prepared = &*TEXT;
    while left > 0 {
        let count = left.min(PREPARED);
        out.extend_from_slice(&prepared.text.as_bytes()[..prepared.ends[count]]);
        left -= count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_its_words_in_a_row() {
        for tokens in [0, 1, 17, 4096, 9000] {
            let mut whole = Vec::new();
            append(&mut whole, tokens);
            let pieces: String = (0..tokens).map(word).collect();
            assert_eq!(whole, pieces.into_bytes());
        }
    }

    #[test]
    fn no_word_needs_escaping() {
        for word in WORDS {
            assert_eq!(serde_json::to_string(word).unwrap(), format!("\"{word}\""));
        }
    }
}

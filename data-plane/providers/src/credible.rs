//! What is believed of a provider's counts, and kept of its names: they are written down with every request.

/// Counts above this are taken for nonsense: the largest whole number that every JSON parser agrees on, 2^53.
pub(crate) const MAX_COUNT: u64 = 1 << 53;
/// Most bytes of an answer's id or a model's name that are kept.
const MAX_NAME_BYTES: usize = 128;

/// A name as far as it is kept.
pub(crate) fn brief(name: &str) -> &str {
    name.get(..name.floor_char_boundary(MAX_NAME_BYTES)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(brief("gpt-x"), "gpt-x");
        let long = "é".repeat(MAX_NAME_BYTES);
        assert_eq!(brief(&long), "é".repeat(MAX_NAME_BYTES / 2));
        assert_eq!(brief(&format!("a{long}")).len(), MAX_NAME_BYTES - 1);
    }
}

//! How many bytes a piece of JSON can have when a template shows it to the model.

/// The most bytes, and so tokens, of `json` in a template's own layout: indented, or as types in another notation.
///
/// A layout adds space, or a separator of its own, where an element begins and where a container opens. Each such place gets two
/// more tokens than it has bytes. Counted are all commas and brackets, also those inside strings: that is quick, and only adds.
pub(crate) fn rendered(json: &str) -> u64 {
    // Sums that fit into a byte let a whole block be counted by vector operations.
    const BLOCK: usize = 192;
    let in_block = |block: &[u8]| block.iter().map(|byte| u8::from(matches!(byte, b',' | b'{' | b'['))).sum::<u8>();
    let places: u64 = json.as_bytes().chunks(BLOCK).map(|block| u64::from(in_block(block))).sum();
    (json.len() as u64).saturating_add(places.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Tokens of the layout by which most templates show tools, if every byte and every run of white space is one.
    fn tokens_when_indented(value: &Value) -> u64 {
        let text = serde_json::to_string_pretty(value).unwrap();
        let breaks = text.lines().count() as u64 - 1;
        let indents: u64 = text.lines().map(|line| (line.len() - line.trim_start().len()) as u64).sum();
        let spaces_after_colons = text.matches("\": ").count() as u64;
        // A space after a colon begins a token with the quote that follows it, or with the colon's own.
        text.len() as u64 - breaks - indents - spaces_after_colons + breaks
    }

    #[test]
    fn a_schema_is_not_longer_when_it_is_indented() {
        for json in [
            r#"[1,2,3,4,5,6,7,8,9]"#,
            r#"[[1],[2],[3]]"#,
            r#"{"type":"object","properties":{"a":{"type":"string","enum":["x","y"]}},"required":["a"]}"#,
            r#"[{},[],{"a":[]}]"#,
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert!(tokens_when_indented(&value) <= rendered(json), "{json}");
        }
        assert_eq!(rendered(r#"{"a":[1,2]}"#), 11 + 2 * 3);
        assert_eq!(rendered(&",[{".repeat(1000)), 3000 + 2 * 3000);
    }

    proptest! {
        #[test]
        fn any_list_of_numbers_fits_when_it_is_indented(numbers: Vec<u8>) {
            let value = Value::from(numbers);
            prop_assert!(tokens_when_indented(&value) <= rendered(&value.to_string()));
        }
    }
}

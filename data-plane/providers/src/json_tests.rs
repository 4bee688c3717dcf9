//! The scanner of JSON on texts that parsers disagree about.

use proptest::prelude::*;

use super::*;

fn whole(text: &str) -> Result<Range<usize>, JsonError> {
    let mut cursor = Cursor::new(text);
    let span = cursor.value()?;
    cursor.end()?;
    Ok(span)
}

#[test]
fn grammar_is_checked() {
    for good in
        ["0", "-0.5e+10", "\"\"", "[]", "{}", " [1, {\"a\": [null, true, false]}] ", "\"\\u00e9\\n\\/\"", "\"\\ud800\""]
    {
        assert!(whole(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        " ",
        "01",
        "-",
        "1.",
        "1e",
        ".5",
        "+1",
        "nul",
        "tru",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "\"\n\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"",
        "\"\\",
        "[",
        "{",
        "[}",
        "{]",
        "1 2",
        "\u{feff}1",
        "NaN",
        "'a'",
    ] {
        assert!(whole(bad).is_err(), "{bad}");
    }
}

#[test]
fn nesting_is_refused_beyond_the_limit_without_recursion() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(whole(&nested(128)).is_ok());
    assert_eq!(whole(&nested(200)).unwrap_err().problem, "it is nested deeper than 128 levels");
    assert!(whole(&"[".repeat(1_000_000)).is_err());
}

#[test]
fn positions_are_counted_in_lines_and_characters() {
    assert_eq!(line_and_column("a\né!", 4), (2, 2));
    assert_eq!(line_and_column("", 9), (1, 1));
}

proptest! {
    #[test]
    fn agrees_with_serde_json_on_what_is_json(text in "[\\[\\]{}:,\"\\\\ 0-9a-fnrtulse.eE+\\-\n]{0,24}") {
        let ours = whole(&text).is_ok();
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn the_length_that_a_string_means_is_found_without_decoding_it(text in "\\PC{0,12}", ascii: bool) {
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        let written = if ascii { format!("\"{escaped}\"") } else { serde_json::to_string(&text).unwrap() };
        prop_assert_eq!(Cursor::new(&written).string().unwrap().decoded_len(), text.len());
    }

    #[test]
    fn half_a_surrogate_pair_is_three_bytes(units in prop::collection::vec(0xD7FE_u16..0xE002, 0..6)) {
        let written: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let meant = String::from_utf16_lossy(&units);
        let written = format!("\"{written}\"");
        prop_assert_eq!(Cursor::new(&written).string().unwrap().decoded_len(), meant.len());
    }

    #[test]
    fn any_text_is_survived(text in "\\PC*") {
        prop_assert!(whole(&text).is_ok_and(|span| span.end <= text.len()) || whole(&text).is_err_and(|e| e.at <= text.len()));
        prop_assert!(whole(&serde_json::to_string(&text).unwrap()).is_ok());
    }
}

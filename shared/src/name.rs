//! Names that people give to things: one rule for all of them.
//!
//! A name is shown in lists, logs and entries, where nobody must be able to pass for somebody else. So it holds nothing that cannot be seen or that
//! changes how its neighbours are shown, and where names have to differ they have to look different. It is kept as it was given: what breaks the
//! rule is refused and never repaired.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// Most characters of a name.
pub const MAX_NAME: usize = 100;

/// What is wrong with a name. Its text goes behind the field's name: `name: …`. Nothing of the name is repeated but what cannot be a secret.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Empty, or longer than [`MAX_NAME`] characters.
    #[error("1 to {MAX_NAME} printable characters")]
    Length,
    /// White space at the beginning or the end.
    #[error("must not begin or end with a space")]
    Edge,
    /// A character that cannot be seen or changes how others are shown.
    #[error("holds {0}, which cannot be seen: 1 to {MAX_NAME} printable characters, and no space but the ordinary one")]
    Unseen(CodePoint),
}

/// A character by its number, such as `U+202E`: shown as itself it would do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePoint(pub char);

impl fmt::Display for CodePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "U+{:04X}", u32::from(self.0))
    }
}

/// Checks a name.
///
/// # Errors
/// [`NameError`], of the first thing that is wrong.
pub fn check(name: &str) -> Result<(), NameError> {
    if !(1..=MAX_NAME).contains(&name.chars().count()) {
        return Err(NameError::Length);
    }
    if let Some(unseen) = name.chars().find(|character| is_unseen(*character)) {
        return Err(NameError::Unseen(CodePoint(unseen)));
    }
    if name.starts_with(' ') || name.ends_with(' ') { Err(NameError::Edge) } else { Ok(()) }
}

/// What names that look alike have in common: compatible forms, upper and lower case, and letters of different scripts that are drawn the same are one.
/// It is for comparing only. Follows the skeletons of Unicode Technical Standard 39, with case folded before and after.
#[must_use]
pub fn skeleton(name: &str) -> String {
    let folded: String = name.nfkc().flat_map(char::to_lowercase).collect();
    unicode_security::skeleton(&folded).flat_map(char::to_lowercase).nfkc().collect()
}

/// Controls, white space but the ordinary space, and the ranges of Unicode 17 that are format controls (general category Cf), ignored by default when
/// shown, empty to look at, or for private use.
fn is_unseen(character: char) -> bool {
    if character == ' ' {
        return false;
    }
    if character.is_control() || character.is_whitespace() {
        return true;
    }
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{e000}'..='\u{f8ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_all_languages_are_names() {
        for good in
            ["ci", "my team", "Zürich", "研究室 1", "команда", "فريق", "a-b_c.d/e@f", "🚀", &"ü".repeat(MAX_NAME)]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_refused_by_its_number() {
        for (bad, number) in [
            ("bell\u{7}", "U+0007"),
            ("line\nbreak", "U+000A"),
            ("no\u{a0}break", "U+00A0"),
            ("zero\u{200b}width", "U+200B"),
            ("joined\u{200d}", "U+200D"),
            ("\u{202e}reversed", "U+202E"),
            ("isolated\u{2066}", "U+2066"),
            ("soft\u{ad}hyphen", "U+00AD"),
            ("filled\u{3164}", "U+3164"),
            ("wide\u{3000}space", "U+3000"),
            ("bom\u{feff}", "U+FEFF"),
            ("tagged\u{e0041}", "U+E0041"),
            ("varied\u{fe0f}", "U+FE0F"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(matches!(error, NameError::Unseen(_)) && error.to_string().contains(number), "{error}");
        }
        for bad in [" x", "x ", " "] {
            assert_eq!(check(bad), Err(NameError::Edge), "{bad:?}");
        }
        for bad in ["", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(check(bad), Err(NameError::Length), "{bad:?}");
        }
    }

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        for (one, other) in [
            ("team", "Team"),
            ("team", "TEAM"),
            ("team", "t\u{435}am"),
            ("default", "d\u{435}fault"),
            ("scope", "\u{455}\u{441}\u{43e}\u{440}\u{435}"),
            ("team", "ｔｅａｍ"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{fb01}nance", "finance"),
            ("STRASSE 1", "strasse l"),
        ] {
            assert_eq!(skeleton(one), skeleton(other), "{one} and {other}");
        }
        for (one, other) in [("team", "teams"), ("team 1", "team 2"), ("cafe", "caf\u{e9}"), ("команда", "komanda")]
        {
            assert_ne!(skeleton(one), skeleton(other), "{one} and {other}");
        }
    }

    proptest! {
        #[test]
        fn no_name_holds_what_unicode_calls_control_or_space(name in any::<String>()) {
            if check(&name).is_ok() {
                prop_assert!(!name.chars().any(|it| it.is_control() || it.is_whitespace() && it != ' '));
                prop_assert_eq!(name.trim(), name.as_str());
            }
        }
    }
}

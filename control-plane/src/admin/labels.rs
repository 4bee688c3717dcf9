//! The rule for labels of virtual keys.

use keyforge_shared::name;

use crate::store::key_labels::Labels;

/// Most labels of one key.
pub const MAX_LABELS: usize = 32;
/// Most characters of a label's name.
const MAX_NAME: usize = 63;

/// Every problem of these labels, each behind the field's name. A name is not repeated unless it follows the rule: it may be a secret in the wrong
/// place.
pub(super) fn problems(labels: &Labels) -> Vec<String> {
    let mut problems = Vec::new();
    if labels.len() > MAX_LABELS {
        problems.push(format!("labels: at most {MAX_LABELS} on one key"));
    }
    for (name, value) in labels {
        if !is_name(name) {
            problems.push(format!(
                "labels: a name has 1 to {MAX_NAME} of the characters a-z, 0-9, `.`, `_`, `/` and `-`, and begins with a letter or digit"
            ));
        } else if let Err(error) = name::check(value) {
            problems.push(format!("labels.{name}: {error}"));
        }
    }
    problems
}

/// Whether a label can have this name.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || matches!(byte, b'.' | b'_' | b'/' | b'-');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(inner) && name.bytes().next().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Vec<String> {
        problems(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn labels_have_plain_names_and_values_that_can_be_seen() {
        assert_eq!(of(&[("team", "Forschung"), ("example.org/cost-center", "4711"), ("a_1", "x y")]), [""; 0]);
        for wrong in ["", "Team", "a b", "-a", "é", "a=b", &"a".repeat(64)] {
            let problems = of(&[(wrong, "x")]);
            assert!(problems.len() == 1 && problems[0].starts_with("labels: a name has"), "{wrong}: {problems:?}");
        }
        assert!(of(&[("team", "")])[0].starts_with("labels.team: 1 to 100"));
        assert!(of(&[("team", "\u{202e}")])[0].starts_with("labels.team: holds U+202E"));
        let many: Labels = (0..=MAX_LABELS).map(|number| (format!("n{number}"), "x".to_owned())).collect();
        assert_eq!(problems(&many), ["labels: at most 32 on one key"]);
    }
}

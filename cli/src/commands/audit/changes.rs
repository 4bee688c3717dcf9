//! What an act of administration changed, field by field, out of its entry's detail.

use serde_json::{Map, Value};

/// Longest text that is shown of a value, in characters.
const LONGEST: usize = 60;

/// `field: old → new` for each field that differs between what an entry holds of before and after; nothing when it does not hold both.
pub(super) fn changes(detail: &str) -> Vec<String> {
    let Ok(detail) = serde_json::from_str::<Map<String, Value>>(detail) else { return Vec::new() };
    let part = |name: &str| detail.get(name).and_then(Value::as_object);
    let (Some(before), Some(after)) = (part("before"), part("after")) else { return Vec::new() };
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn compare(path: &str, before: &Map<String, Value>, after: &Map<String, Value>, found: &mut Vec<String>) {
    for (name, new) in after {
        let old = before.get(name).unwrap_or(&Value::Null);
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => compare(&format!("{path}{name}."), old, new, found),
            _ if old != new => found.push(format!("{path}{name}: {} → {}", shown(old), shown(new))),
            _ => {}
        }
    }
    for (name, old) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        found.push(format!("{path}{name}: {} → -", shown(old)));
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_that_changed_is_named_with_both_values() {
        let detail = r#"{"before": {"name": "a", "paused": false, "policy": {"rpm": 5, "tpm": null}, "gone": 1},
            "after": {"name": "b", "paused": false, "policy": {"rpm": 5, "tpm": 90}}}"#;
        assert_eq!(changes(detail), ["name: a → b", "policy.tpm: - → 90", "gone: 1 → -"]);
    }

    #[test]
    fn what_is_no_change_of_anything_shows_nothing() {
        for detail in ["", "nothing changed", "[]", "{}", r#"{"after": {"name": "a"}}"#, r#"{"before": 1, "after": 2}"#]
        {
            assert_eq!(changes(detail), [""; 0], "{detail}");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let detail = format!(r#"{{"before": {{"name": "a"}}, "after": {{"name": "{}"}}}}"#, "b".repeat(500));
        assert_eq!(changes(&detail), [format!("name: a → {}…", "b".repeat(60))]);
    }
}

//! Takes out of Google's messages what names a project: its id after `projects/`, and its number wherever one is announced.

/// What a project's id or number follows, in lower case.
const ANNOUNCED: [&str; 6] = ["projects/", "project_number:", "project=", "project number ", "project #", "project "];
/// Most bytes of a message that are looked at; no more are passed on.
const MAX_BYTES: usize = 4096;
/// What stands for an id that was taken out.
const REDACTED: &str = "[redacted]";

/// The message without projects.
pub(super) fn without_projects(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_BYTES);
    let message = message.get(..end).unwrap_or_default();
    let lower = message.to_ascii_lowercase();
    let mut clean = String::with_capacity(message.len());
    let mut at = 0;
    while at < message.len() {
        let rest = lower.get(at..).unwrap_or_default();
        let announced = ANNOUNCED
            .iter()
            .filter_map(|word| Some((rest.find(word)?, *word)))
            .min_by_key(|(offset, word)| (*offset, std::cmp::Reverse(word.len())));
        let Some((offset, word)) = announced else { break };
        let id_at = at + offset + word.len();
        clean.push_str(message.get(at..id_at).unwrap_or_default());
        let after = message.get(id_at..).unwrap_or_default();
        let length = after
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')))
            .unwrap_or(after.len());
        let id = after.get(..length).unwrap_or_default();
        // After the bare word only a number, or what has a digit, is an id: "project settings" is not.
        if length > 0 && (!word.ends_with(' ') || id.bytes().any(|byte| byte.is_ascii_digit())) {
            clean.push_str(REDACTED);
        } else {
            clean.push_str(id);
        }
        at = id_at + length;
    }
    clean.push_str(message.get(at..).unwrap_or_default());
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn projects_are_not_told() {
        for (message, expected) in [
            (
                "Publisher Model `projects/my-app-1/locations/x` not found",
                "Publisher Model `projects/[redacted]/locations/x` not found",
            ),
            ("for consumer 'project_number:123456'.", "for consumer 'project_number:[redacted]'."),
            ("used in project 123456789 before", "used in project [redacted] before"),
            ("Project my-app-42 has", "Project [redacted] has"),
            ("overview?project=123456&x", "overview?project=[redacted]&x"),
            ("see your project settings", "see your project settings"),
            ("é projects/", "é projects/"),
        ] {
            assert_eq!(without_projects(message), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(\\PC|projects/|project ){0,20}") {
            without_projects(&text);
        }
    }
}

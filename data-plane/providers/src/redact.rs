//! Takes out of a provider's message whatever identifies the account that it was sent for: keys, masked keys, organisation
//! and project ids, e-mail addresses, long tokens.

/// Longest message that is passed on, in characters.
const MAX_CHARS: usize = 1000;
/// What stands for a word that was taken out.
const REDACTED: &str = "[redacted]";
/// Beginnings, in lower case, of keys and account ids.
const PREFIXES: [&str; 22] = [
    "sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "vk_", "gsk_", "xai-", "pplx-", "hf_", "r8_", "nvapi-", "csk-", "aiza",
    "eyj", "ghp_", "akia", "org-", "org_", "proj-", "proj_",
];
/// Letters and digits in a row from which on a word is taken for a token: if it has both, and in any case.
const MIXED_RUN: usize = 20;
const ANY_RUN: usize = 64;

/// The message without secrets and control characters, and not too long.
#[must_use]
pub fn message(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(MAX_CHARS));
    let shown = text.char_indices().nth(MAX_CHARS).map_or(text, |(end, _)| &text[..end]);
    let mut word = String::new();
    for letter in shown.chars() {
        if belongs_to_word(letter) {
            word.push(letter);
            continue;
        }
        flush(&mut word, &mut clean);
        clean.push(if letter.is_control() { ' ' } else { letter });
    }
    flush(&mut word, &mut clean);
    clean
}

fn belongs_to_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '*' | '.' | '+' | '@' | '•' | '…')
}

fn flush(word: &mut String, clean: &mut String) {
    let bare = word.trim_end_matches('.');
    if is_secret(bare) {
        clean.push_str(REDACTED);
        clean.push_str(&word[bare.len()..]);
    } else {
        clean.push_str(word);
    }
    word.clear();
}

fn is_secret(word: &str) -> bool {
    is_address(word) || word.split('@').any(is_key)
}

/// Of a person, or of an account that a service acts as; also without the part before the `@`.
fn is_address(word: &str) -> bool {
    let is_mail = word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    is_mail || word.to_ascii_lowercase().ends_with(".gserviceaccount.com")
}

fn is_key(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let masked = word.contains("**") || word.contains('•');
    masked
        || is_uuid(word)
        || PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        || word.split(|c: char| !c.is_alphanumeric()).any(is_token)
}

/// Organisations of some hosts are named so: five groups of hexadecimal digits.
fn is_uuid(word: &str) -> bool {
    let groups = word.split('-').map(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(group.len()));
    groups.eq([8, 4, 4, 4, 12].map(Some))
}

fn is_token(run: &str) -> bool {
    let length = run.chars().count();
    let mixed = run.bytes().any(|byte| byte.is_ascii_digit()) && run.bytes().any(|byte| byte.is_ascii_alphabetic());
    length >= ANY_RUN || (length >= MIXED_RUN && mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_names_an_account_is_taken_out() {
        for (text, expected) in [
            ("Incorrect API key provided: sk-proj-abc123. You can", "Incorrect API key provided: [redacted]. You can"),
            ("provided: <not-a-r****key>.", "provided: <[redacted]>."),
            ("key sk-ab...wxyz, or", "key [redacted], or"),
            ("in organization org-Ab12Cd on", "in organization [redacted] on"),
            ("project `proj_x1`", "project `[redacted]`"),
            ("?key=AIzaSyD-1234&x", "?key=[redacted]&x"),
            ("Bearer eyJhbGciOi.J9.x", "Bearer [redacted]"),
            ("id 0123456789abcdef0123", "id [redacted]"),
            ("(org: 0f3a9c52-77b1-4e0d-9a6f-1c2d3e4f5a6b, model", "(org: [redacted], model"),
            ("a\nb\tc\u{0}", "a b c "),
            ("for jo.doe+x@example.com.", "for [redacted]."),
            ("account kf-1@acme-7.iam.gserviceaccount.com is", "account [redacted] is"),
            ("(acme-7.iam.gserviceaccount.com)", "([redacted])"),
            ("at @sk-proj-abc", "at [redacted]"),
        ] {
            assert_eq!(message(text), expected);
        }
    }

    #[test]
    fn what_an_agent_needs_stays() {
        for text in [
            "The model `gpt-4o-mini-realtime-preview-2024-12-17` does not exist",
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "see https://platform.openai.com/docs/guides/error-codes/api-errors.",
            "Limit 2000000, Requested 2500013. Please try again in 6m0s.",
            "Änderung… fertig",
            "model claude-3-5-sonnet@20241022 of @acme/tools",
            "tool mcp__github__create_pull_request_review_comment and getCustomerAccountInformationById",
        ] {
            assert_eq!(message(text), text);
        }
        assert_eq!(message(&"é ".repeat(5000)).chars().count(), MAX_CHARS);
    }
}

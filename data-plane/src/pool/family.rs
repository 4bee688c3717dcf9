//! Which models share a limit at their provider.
//!
//! OpenAI counts dated versions of a model together (platform.openai.com, rate limits: "some model families have shared rate limits"); Anthropic counts all
//! models of a class and major version together (docs.anthropic.com, rate limits); Google counts each model. Where a provider counts more widely than this
//! says, a refusal is learned once per family, which costs an attempt and nothing else.

use std::borrow::Cow;

use keyforge_shared::provider::Api;

/// The family of a model, by its upstream name.
#[must_use]
pub fn of(api: Api, model: &str) -> Cow<'_, str> {
    match api {
        Api::Anthropic => anthropic(model),
        Api::OpenAi | Api::Google => Cow::Borrowed(undated(model)),
    }
}

/// `gpt-4o-2024-08-06` is `gpt-4o`, `claude-3-haiku-20240307` is `claude-3-haiku`, `gemini-2.0-flash-001` is `gemini-2.0-flash`.
fn undated(model: &str) -> &str {
    let is_number = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = model.rsplit('-');
    let last: Vec<&str> = parts.by_ref().take(3).collect();
    let cut = match last.as_slice() {
        [day, month, year] if is_number(day, 2) && is_number(month, 2) && is_number(year, 4) => 11,
        [date, ..] if is_number(date, 8) => 9,
        [version, ..] if is_number(version, 3) => 4,
        ["latest", ..] => 7,
        _ => 0,
    };
    match model.len().checked_sub(cut) {
        Some(0) | None => model,
        Some(length) => &model[..length],
    }
}

/// `claude-opus-4-1-20250805` is `claude-opus-4`; names of the older form, `claude-3-5-sonnet`, stay.
fn anthropic(model: &str) -> Cow<'_, str> {
    let model = undated(model);
    let mut parts = model.split('-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("claude"), Some(class), Some(major))
            if class.bytes().all(|byte| byte.is_ascii_alphabetic())
                && major.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Cow::Owned(format!("claude-{class}-{major}"))
        }
        _ => Cow::Borrowed(model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_model_share_its_limit() {
        for (api, model, family) in [
            (Api::OpenAi, "gpt-4o", "gpt-4o"),
            (Api::OpenAi, "gpt-4o-2024-08-06", "gpt-4o"),
            (Api::OpenAi, "gpt-4o-mini", "gpt-4o-mini"),
            (Api::OpenAi, "meta-llama/Llama-3.3-70B", "meta-llama/Llama-3.3-70B"),
            (Api::OpenAi, "", ""),
            (Api::OpenAi, "-2024-08-06", "-2024-08-06"),
            (Api::Anthropic, "claude-opus-4-1-20250805", "claude-opus-4"),
            (Api::Anthropic, "claude-opus-4", "claude-opus-4"),
            (Api::Anthropic, "claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
            (Api::Anthropic, "claude-3-haiku-20240307", "claude-3-haiku"),
            (Api::Google, "gemini-2.0-flash-001", "gemini-2.0-flash"),
            (Api::Google, "gemini-2.5-pro", "gemini-2.5-pro"),
        ] {
            assert_eq!(of(api, model), family, "{model}");
        }
    }
}

//! The most input tokens that a provider can bill for a request, found without a tokenizer.
//!
//! Why the length of the body is an upper bound for text:
//! * Models of this dialect tokenise text as UTF-8 bytes merged into tokens, so no token covers less than one byte.
//! * A JSON string is never shorter than the text it means: a character is written as itself or as a longer escape.
//! * A template wraps each message in a few control tokens and its role's name. JSON wraps it in more bytes than that,
//!   `{"role":"user","content":""},`; for a host that takes less there are a few tokens per message on top. Names, tool calls
//!   and the schemas of tools are shown to the model in a terser notation than JSON.
//! * What a host adds once, a preamble of its own, the answer's opening, the heading of the tools, is covered by constants.
//!   The longest preamble recorded, an undisclosed system prompt, had 680 tokens; OpenAI's own have fewer than ten.
//!
//! Images, sound and files follow no byte count: an image is billed by its pixels, a compressed file by what is in it. For
//! them the model's context window is the bound, for what does not fit is refused, unbilled; some models bill an image at more
//! tokens than it takes of the window, which is added. A model that searches without
//! being asked to has no bound at all, and nothing in the request shows it: the catalogue must know such models.

use crate::openai::request::ChatRequest;

/// What templates add once per request, in tokens.
const ONCE: u64 = 1024;
/// What templates add to a message beyond the bytes of its braces, in tokens.
const PER_MESSAGE: u64 = 4;
/// What templates add once if there are tools, in tokens.
const ONCE_WITH_TOOLS: u64 = 1024;
/// What an image is billed at most on models that bill it at more tokens than it takes of the window, in tokens. The highest published formula is
/// gpt-4o-mini's: 2,833 and 5,667 for each of at most 8 tiles.
const PER_IMAGE: u64 = 2_833 + 8 * 5_667;
/// Extras for which the host feeds the model text of its own, perhaps in several rounds: not even the window bounds those.
const UNBOUNDED_EXTRAS: [&str; 5] = ["web_search_options", "search_parameters", "plugins", "compound_custom", "tools"];

/// An upper bound of billed input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputBound {
    /// At most so many.
    Tokens(u64),
    /// No bound is known, because of this field of the request.
    Unboundable(&'static str),
}

/// The most input tokens that `request` can be billed. `context_tokens` is the model's context window, if known: it also
/// caps the bound of a text, for a prompt that does not fit is refused.
#[must_use]
pub fn input_bound(request: &ChatRequest, context_tokens: Option<u64>) -> InputBound {
    if let Some(extra) = UNBOUNDED_EXTRAS.into_iter().find(|extra| request.billed_extras.contains(extra)) {
        return InputBound::Unboundable(extra);
    }
    if !request.content.is_text() {
        let images = u64::try_from(request.content.image_parts).unwrap_or(u64::MAX).saturating_mul(PER_IMAGE);
        let tokens = |window: u64| InputBound::Tokens(window.saturating_add(images));
        return context_tokens.map_or(InputBound::Unboundable("messages"), tokens);
    }
    let once = if request.tools { ONCE + ONCE_WITH_TOOLS } else { ONCE };
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let messages = count(request.content.messages).saturating_mul(PER_MESSAGE);
    let bytes = count(request.body_len).saturating_add(messages).saturating_add(once);
    InputBound::Tokens(context_tokens.map_or(bytes, |window| window.min(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::request::scan;

    fn bound(body: &str, window: Option<u64>) -> InputBound {
        input_bound(&scan(body.as_bytes()).unwrap(), window)
    }

    #[test]
    fn text_is_bounded_by_its_bytes_and_by_the_window() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        assert_eq!(bound(body, None), InputBound::Tokens(body.len() as u64 + 1028));
        assert_eq!(bound(body, Some(100)), InputBound::Tokens(100));
        let body = r#"{"model":"m","messages":[{}],"tools":[{"type":"function"}]}"#;
        assert_eq!(bound(body, None), InputBound::Tokens(body.len() as u64 + 2052));
    }

    #[test]
    fn media_are_bounded_by_the_window_alone() {
        for part in [
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}"#,
            r#"{"type":"input_audio","input_audio":{"data":"AA","format":"mp3"}}"#,
            r#"{"type":"file","file":{"file_id":"f"}}"#,
            r#"{"type":"video_url","video_url":{}}"#,
        ] {
            let body = format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":[{part}]}}]}}");
            let images = if part.contains("image") { PER_IMAGE } else { 0 };
            assert_eq!(bound(&body, Some(128_000)), InputBound::Tokens(128_000 + images), "{part}");
            assert_eq!(bound(&body, None), InputBound::Unboundable("messages"), "{part}");
        }
    }

    #[test]
    fn what_the_host_adds_has_no_bound() {
        let body = r#"{"model":"m","messages":[{}],"web_search_options":{}}"#;
        assert_eq!(bound(body, Some(128_000)), InputBound::Unboundable("web_search_options"));
        let body = r#"{"model":"m","messages":[{}],"tools":[{"type":"browser_search"}]}"#;
        assert_eq!(bound(body, Some(128_000)), InputBound::Unboundable("tools"));
    }
}

//! The most input tokens that a provider can bill for a request, found without a tokenizer.
//!
//! Why bytes are an upper bound for text:
//! * Models tokenise text as UTF-8 bytes merged into tokens, so no token covers less than one byte.
//! * Content of users, systems and assistants is shown as the string that it means, escapes resolved. Everything else, tools, tool
//!   calls, schemas and fields that are not known, counts with its JSON and what another layout of it could add.
//! * What a host's template writes around all that is covered by [`Framing`](crate::metering::Framing), from recordings and documents.
//!
//! Media follow published formulas where there are any. What has none is bounded by the model's context window, since what does
//! not fit is refused, unbilled. What not even the window bounds is named.

use crate::metering::{DEAREST_PICTURE, Metering};
use crate::openai::content::ContentSummary;
use crate::openai::embeddings::EmbeddingsRequest;
use crate::openai::request::ChatRequest;

/// An upper bound of billed input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputBound {
    /// At most so many.
    Tokens(InputTokens),
    /// No bound is known, because of this field of the request.
    Unboundable(&'static str),
}

/// Most input tokens by what they are billed as. A token is in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputTokens {
    /// Text, pictures, files.
    pub text: u64,
    /// Sound, or what may be sound.
    pub audio: u64,
}

impl InputTokens {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.text.saturating_add(self.audio)
    }
}

/// The most input tokens that `request` can be billed by a host that counts as `metering` says. `context_tokens` is the model's
/// context window, if known: it also caps the bound of a text.
#[must_use]
pub fn input_bound(request: &ChatRequest, metering: &Metering, context_tokens: Option<u64>) -> InputBound {
    if metering.searches {
        return InputBound::Unboundable("model");
    }
    if let Some(extra) = request.billed_extras.first() {
        return InputBound::Unboundable(extra);
    }
    let text = text_tokens(request, metering);
    let text = context_tokens.map_or(text, |window| window.min(text));
    let media = Media::of(&request.content, metering);
    if !media.by_window {
        let tokens = InputTokens { text: text.saturating_add(media.pictures), audio: media.sound };
        return InputBound::Tokens(tokens);
    }
    let Some(window) = context_tokens else { return InputBound::Unboundable("messages") };
    let per_token = if request.content.file_parts > 0 { metering.per_window_token } else { 1 };
    let window = window.saturating_mul(per_token);
    let (text, audio) = if media.may_be_sound { (0, window) } else { (window, media.sound) };
    InputBound::Tokens(InputTokens { text: text.saturating_add(media.pictures), audio })
}

fn text_tokens(request: &ChatRequest, metering: &Metering) -> u64 {
    let framing = &metering.framing;
    let each = |count: usize, tokens: u64| u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(tokens);
    [
        framing.once,
        if request.tools || request.schema { framing.with_tools } else { 0 },
        each(request.content.messages, framing.per_message),
        each(request.content.parts, framing.per_part),
        each(request.content.results, framing.per_result),
        each(request.tool_count, framing.per_tool),
        request.content.text_bytes,
        request.other_bytes,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Tokens that a host adds to a text that is embedded at most: marks of its ends, and what it is for in a few words.
const EMBEDDED: u64 = 16;
/// By how much the most expanding of Unicode's compatibility forms is longer than itself: U+FDFA, three bytes, becomes 18 characters.
const EXPANSION: u64 = 6;

/// The most input tokens that a request for embeddings can be billed. `context_tokens` is the most that the model takes of one text.
///
/// A field that is not OpenAI's may be shown with every text, as a wish of what the vectors are for.
#[must_use]
pub fn embedding_bound(request: &EmbeddingsRequest, metering: &Metering, context_tokens: Option<u64>) -> InputBound {
    let inputs = u64::try_from(request.inputs).unwrap_or(u64::MAX);
    let expanded = if metering.normalises { request.wide_bytes.saturating_mul(EXPANSION - 1) } else { 0 };
    let added = inputs.saturating_mul(request.extra_bytes.saturating_add(EMBEDDED));
    let tokens = [request.text_bytes, expanded, request.tokens, added].into_iter().fold(0, u64::saturating_add);
    let most = context_tokens.map_or(u64::MAX, |window| window.saturating_mul(inputs));
    InputBound::Tokens(InputTokens { text: tokens.min(most), audio: 0 })
}

/// What the media of a request can be billed.
struct Media {
    /// Tokens of pictures, beyond what the window bounds.
    pictures: u64,
    /// Tokens of sound.
    sound: u64,
    /// Whether something has no formula, so that the window is the bound of it all.
    by_window: bool,
    /// Whether that is sound.
    may_be_sound: bool,
}

impl Media {
    fn of(content: &ContentSummary, metering: &Metering) -> Self {
        let (pictures, measured) = pictures(content, metering);
        let (audio_parts, timed) = (content.audio_parts as u64, content.timed_audio_parts as u64);
        let sound = metering.sound.tokens(content.audio_millis, timed).filter(|_| audio_parts == timed);
        let is_untyped = metering.takes_any_medium && content.untyped_parts > 0;
        let may_be_sound = (audio_parts > 0 && sound.is_none()) || is_untyped;
        // What has an unknown type may be anything that fits into the window.
        let by_window = !measured || may_be_sound || content.file_parts > 0 || !content.unknown_parts.is_empty();
        Self { pictures, sound: sound.filter(|_| audio_parts > 0).unwrap_or(0), by_window, may_be_sound }
    }
}

/// The most tokens of all pictures, and whether that is all of it. Without a formula they are bounded by the window, but some models
/// bill a picture at more tokens than it takes of the window: that is added.
fn pictures(content: &ContentSummary, metering: &Metering) -> (u64, bool) {
    let parts = content.image_parts as u64;
    let unseen = parts.saturating_sub(content.pictures.len() as u64);
    // Of more pictures than any host takes, the largest stands for each that was not looked at.
    let tokens = content.pictures.iter().map(|picture| metering.images.tokens(*picture));
    let (mut sum, mut largest) = (0_u64, 0);
    for tokens in tokens {
        let Some(tokens) = tokens else { return (parts.saturating_mul(DEAREST_PICTURE), false) };
        sum = sum.saturating_add(tokens);
        largest = tokens.max(largest);
    }
    let largest = if unseen > 0 { largest.max(DEAREST_PICTURE) } else { largest };
    (sum.saturating_add(unseen.saturating_mul(largest)), unseen == 0)
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;

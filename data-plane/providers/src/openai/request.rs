//! One pass over a chat completions body: is it JSON throughout, what does it ask for, and where do the fields lie that
//! KeyForge reads or changes.
//!
//! The body that the provider reads must mean what was admitted here. Parsers differ on keys given twice (first or last
//! wins) and some match keys without regard to case, so for every field that matters both are refused.

use std::ops::Range;

use super::content::ContentSummary;
use super::echo::echo;
use super::fields::MULTIPLIERS;
use super::scanner::Scanner;
use crate::chat::request::RequestedTier;
use crate::json::line_and_column;
use crate::refusal::RequestError;

/// What a chat completions body asks for. Spans are byte ranges of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatRequest {
    /// The model's name as the client wrote it, escapes resolved. Never empty.
    pub model: String,
    /// Where the model's value lies, quotes included.
    pub model_span: Range<usize>,
    /// Whether the answer is to be an event stream.
    pub stream: bool,
    /// What `stream_options` says, if it is given, be it null.
    pub stream_options: Option<StreamOptions>,
    /// `max_tokens`, unless absent or null.
    pub max_tokens: Option<IntField>,
    /// Where a null `max_tokens` lies.
    pub null_max_tokens: Option<Range<usize>>,
    /// `max_completion_tokens`, unless absent or null.
    pub max_completion_tokens: Option<IntField>,
    /// Where a null `max_completion_tokens` lies.
    pub null_max_completion_tokens: Option<Range<usize>>,
    /// How many choices are wanted: 1 to 128, 1 if not given.
    pub n: u64,
    /// The class of service asked for, unless absent or null.
    pub service_tier: Option<RequestedTier>,
    /// What the messages hold.
    pub content: ContentSummary,
    /// Names of fields in use whose price no count of tokens bounds: searches and plugins are charged per use and feed the model
    /// text that the body does not hold, as do stored prompts and conversations; `models` and routes let the host answer with another
    /// model or at another price; `best_of` and its like multiply the output; `modalities` other than text and sound have other prices; `tools` stands for tools that the host runs itself.
    pub billed_extras: Vec<&'static str>,
    /// The field, `audio` or `modalities`, that asks for a spoken answer, which has a price of its own.
    pub spoken: Option<&'static str>,
    /// Whether the model is offered tools.
    pub tools: bool,
    /// How many tools.
    pub tool_count: usize,
    /// Whether anything is marked as worth keeping in the provider's cache.
    pub cache_marks: bool,
    /// Whether the answer is to fit a schema, which the model is shown.
    pub schema: bool,
    /// Bytes of a `prediction`: tokens of it that the answer does not use are billed as output.
    pub prediction_bytes: u64,
    /// Bytes that a template can show of everything but the messages: tools, schemas, and fields that are not known.
    pub other_bytes: u64,
    /// Length of the body in bytes.
    pub body_len: usize,
    /// Just after the opening brace, where new members can be inserted, each followed by a comma: the object is never empty.
    pub insert_at: usize,
}

impl ChatRequest {
    /// The most output tokens that the client allows per choice: the smaller one if it gives both limits.
    #[must_use]
    pub fn max_output_tokens(&self) -> Option<u64> {
        let limits = [&self.max_tokens, &self.max_completion_tokens];
        limits.into_iter().flatten().map(|field| field.value).min()
    }

    /// The field in use that asks for more answers than `n` says, so that nobody knows how often the limit of one choice is used.
    #[must_use]
    pub fn multiplier(&self) -> Option<&'static str> {
        self.billed_extras.iter().find(|extra| MULTIPLIERS.contains(extra)).copied()
    }

    /// Whether the client itself asked for usage in its stream.
    #[must_use]
    pub fn asks_for_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }
}

/// A positive whole number of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntField {
    /// The number.
    pub value: u64,
    /// Where it lies.
    pub span: Range<usize>,
}

/// What `stream_options` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Where the value lies.
    pub span: Range<usize>,
    /// Whether usage is asked for.
    pub include_usage: bool,
    /// Where the value of `include_usage` lies, if it is given.
    pub include_usage_span: Option<Range<usize>>,
    /// Whether the object has any member; false for null.
    pub has_members: bool,
}

/// The class of service of this name.
pub(super) fn tier_named(name: &str) -> RequestedTier {
    match name {
        "auto" => RequestedTier::Auto,
        "default" => RequestedTier::Default,
        "flex" => RequestedTier::Flex,
        "priority" => RequestedTier::Priority,
        other => RequestedTier::Other(echo(other)),
    }
}

/// Reads a chat completions body in one pass.
///
/// # Errors
/// If the body is not UTF-8 or not JSON in any part, is not an object, lacks `model` or `messages`, gives a field the wrong
/// type or range, or gives one twice or under a name that differs in case only.
pub fn scan(body: &[u8]) -> Result<ChatRequest, RequestError> {
    let text = std::str::from_utf8(body).map_err(|error| RequestError {
        field: None,
        message: format!("the body is not UTF-8 text: byte {} does not belong there", error.valid_up_to()),
    })?;
    let mut scanner = Scanner::new(text);
    scanner.body().map_err(|error| {
        let (line, column) = line_and_column(text, error.at);
        let message = format!("the body is not valid JSON: {} (line {line}, column {column})", error.problem);
        RequestError { field: None, message }
    })?;
    scanner.finish()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

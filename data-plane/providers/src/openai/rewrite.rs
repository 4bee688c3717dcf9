//! What goes upstream: the client's body with the model, the output limit and the wish for usage set, and no other byte changed.

use bytes::Bytes;

use super::request::ChatRequest;
use crate::patch::{Patch, Pieces};

/// Which field a host is known to obey as the limit of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxTokensField {
    /// `max_completion_tokens`, and `max_tokens` as well: counts reasoning, too. OpenAI requires it for its reasoning models.
    #[default]
    Current,
    /// `max_tokens` alone: a host that does not know the other name would pass over it, and there would be no limit.
    Legacy,
}

impl MaxTokensField {
    const fn name(self) -> &'static str {
        match self {
            Self::Current => "max_completion_tokens",
            Self::Legacy => "max_tokens",
        }
    }
}

/// What is to be set in the body.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The provider's name of the model.
    pub upstream_model: &'a str,
    /// The most output tokens per choice; `None` leaves what the client wrote.
    pub max_output_tokens: Option<u64>,
    /// The field that the host obeys.
    pub max_tokens_field: MaxTokensField,
    /// Whether the host takes `stream_options.include_usage`; one that refuses it counts without being asked.
    pub usage_option: bool,
}

/// Rewrites the body that `request` was scanned from. A streaming request asks for usage upstream wherever that is possible; what the
/// client did not ask for is removed again by the stream's meter.
#[must_use]
pub fn rewrite(request: &ChatRequest, body: Bytes, rewrite: Rewrite<'_>) -> Pieces {
    let mut patch = Patch::new();
    if rewrite.upstream_model != request.model {
        // Serialising a string does not fail.
        patch.replace(request.model_span.clone(), serde_json::to_string(rewrite.upstream_model).unwrap_or_default());
    }
    if let Some(limit) = rewrite.max_output_tokens {
        limit_output(&mut patch, request, limit, rewrite.max_tokens_field);
    }
    match (request.stream, rewrite.usage_option) {
        (true, true) => include_usage(&mut patch, request),
        (_, false) => leave_out_options(&mut patch, request),
        (false, true) => {}
    }
    patch.apply(body)
}

/// Sets every limit that the client gave. If none of those is one that the host obeys, makes the null of that field a number,
/// or adds the field. Never adds a key that exists.
fn limit_output(patch: &mut Patch, request: &ChatRequest, limit: u64, field: MaxTokensField) {
    let (current, legacy) = (&request.max_completion_tokens, &request.max_tokens);
    for given in [current, legacy].into_iter().flatten() {
        patch.replace(given.span.clone(), limit.to_string());
    }
    let (is_obeyed, null) = match field {
        MaxTokensField::Current => (current.is_some() || legacy.is_some(), &request.null_max_completion_tokens),
        MaxTokensField::Legacy => (legacy.is_some(), &request.null_max_tokens),
    };
    match null {
        _ if is_obeyed => {}
        Some(span) => patch.replace(span.clone(), limit.to_string()),
        None => patch.insert(request.insert_at, format!("\"{}\":{limit},", field.name())),
    }
}

/// The host refuses what the options may hold, but not that they are there.
fn leave_out_options(patch: &mut Patch, request: &ChatRequest) {
    if let Some(options) = request.stream_options.as_ref().filter(|options| options.has_members) {
        patch.replace(options.span.clone(), &b"{}"[..]);
    }
}

fn include_usage(patch: &mut Patch, request: &ChatRequest) {
    let Some(options) = &request.stream_options else {
        patch.insert(request.insert_at, &b"\"stream_options\":{\"include_usage\":true},"[..]);
        return;
    };
    match &options.include_usage_span {
        Some(_) if options.include_usage => {}
        Some(span) => patch.replace(span.clone(), &b"true"[..]),
        None if options.has_members => {
            patch.insert(options.span.start.saturating_add(1), &b"\"include_usage\":true,"[..]);
        }
        None => patch.replace(options.span.clone(), &b"{\"include_usage\":true}"[..]),
    }
}

//! Writes a request in hub form as a call of `/messages`.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::Number;

use super::model::{Model, Samples};
use super::wire::{Body, Metadata, OutputConfig, OutputFormat};
use super::{messages, thinking, tools};
use crate::chat::ignored::{Ignored, Wish};
use crate::chat::request::{Request, RequestedTier, Sampling};
use crate::refusal::RequestError;
use crate::translate::{Call, Memo, Target};

/// The API's version, which each request names.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
/// The limit of the answer where nobody gives one, in tokens: the API wants one, and every model since Claude 3 can give as many.
const DEFAULT_LIMIT: u64 = 4096;
/// Longest user id that the API takes, in characters. A longer one is left out: cut short it might be another's.
const MAX_USER_CHARS: usize = 256;
/// Least `top_p` beside thinking.
const LEAST_TOP_P: f64 = 0.95;

/// Writes the call.
///
/// # Errors
/// [`RequestError`] naming the field or part that Anthropic has nothing for.
pub(super) fn write(request: &Request<'_>, target: &Target<'_>) -> Result<Call, RequestError> {
    refuse_what_is_lacking(request)?;
    let model = Model::named(target.model);
    let tools = tools::plan(request, &model)?;
    let max_tokens = limit(request, target);
    let thinking = thinking::plan(request, &model, max_tokens, tools.is_forced());
    let conversation = messages::write(&request.turns, thinking.thinks)?;
    let samples = Sampled::of(&request.sampling, thinking.thinking.is_some() && thinking.thinks, model.samples);
    let mut ignored = tools.ignored.and(samples.ignored);
    ignored.note(Wish::Reasoning, thinking.is_ignored);
    ignored.note(Wish::Verbosity, request.wants_length());
    ignored.note(Wish::Detail, request.wants_detail());
    let mut body = Body {
        model: target.model,
        max_tokens,
        system: conversation.system,
        messages: conversation.messages,
        tools: tools.tools,
        tool_choice: tools.choice,
        thinking: thinking.thinking,
        output_config: OutputConfig {
            effort: thinking.effort,
            format: tools.schema.map(|schema| OutputFormat::JsonSchema { schema }),
        },
        temperature: samples.temperature,
        top_p: samples.top_p,
        top_k: samples.top_k,
        stop_sequences: &request.stop,
        metadata: user(request).map(|user_id| Metadata { user_id }),
        service_tier: tier(request)?,
        stream: request.stream,
    };
    body.limit_marks();
    let written = serde_json::to_vec(&body)
        .map_err(|_| RequestError { field: None, message: "the request cannot be written for Anthropic".to_owned() })?;
    let headers = vec![(HeaderName::from_static("anthropic-version"), VERSION)];
    let memo = Memo { json_tool: tools.json_tool, wrapped: tools.wrapped, ..Memo::default() };
    Ok(Call { path: Cow::Borrowed("/messages"), headers, body: Bytes::from(written), memo, ignored })
}

/// The least of what admission, the client and the model allow.
fn limit(request: &Request<'_>, target: &Target<'_>) -> u64 {
    let asked = [target.limit, request.max_output_tokens].into_iter().flatten().min();
    let asked = asked.or(target.model_limit).unwrap_or(DEFAULT_LIMIT);
    asked.min(target.model_limit.unwrap_or(u64::MAX)).max(1)
}

fn user<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    request.user.as_deref().filter(|user| !user.is_empty() && user.chars().count() <= MAX_USER_CHARS)
}

/// Anthropic serves at the account's priority while that lasts, unless told not to.
fn tier(request: &Request<'_>) -> Result<Option<&'static str>, RequestError> {
    match &request.tier {
        None | Some(RequestedTier::Auto | RequestedTier::Priority) => Ok(None),
        Some(RequestedTier::Default) => Ok(Some("standard_only")),
        Some(RequestedTier::Flex | RequestedTier::Other(_)) => {
            Err(refuse("service_tier", "names a class of service that Anthropic does not have"))
        }
    }
}

fn refuse_what_is_lacking(request: &Request<'_>) -> Result<(), RequestError> {
    let is_set = |penalty: &Option<Number>| penalty.as_ref().and_then(Number::as_f64).is_some_and(|value| value != 0.0);
    if request.choices > 1 {
        return Err(refuse("n", "must be 1: Anthropic gives one answer to a request"));
    }
    if request.logprobs.is_some() {
        return Err(refuse("logprobs", "is not offered by Anthropic"));
    }
    if is_set(&request.sampling.frequency_penalty) {
        return Err(refuse("frequency_penalty", "is not offered by Anthropic"));
    }
    if is_set(&request.sampling.presence_penalty) {
        return Err(refuse("presence_penalty", "is not offered by Anthropic"));
    }
    if request.stop.iter().any(|stop| stop.trim().is_empty()) {
        return Err(refuse("stop", "must hold more than white space: Anthropic takes no other stop text"));
    }
    Ok(())
}

fn refuse(field: &'static str, what: &str) -> RequestError {
    RequestError { field: Some(field.to_owned()), message: format!("`{field}` {what}") }
}

/// How the next token is chosen. What is the default anyway is left out, and so is what the model would refuse.
#[derive(Debug, Default)]
struct Sampled<'r> {
    temperature: Option<Number>,
    top_p: Option<&'r Number>,
    top_k: Option<&'r Number>,
    /// What was asked for and is not among them.
    ignored: Ignored,
}

impl<'r> Sampled<'r> {
    fn of(sampling: &'r Sampling, thinks: bool, samples: Samples) -> Self {
        let mut sampled = Self::taken(sampling, thinks, samples);
        let differs = |number: &Option<Number>| number.as_ref().is_some_and(|number| value(number) != 1.0);
        let ignored = &mut sampled.ignored;
        ignored.note(Wish::Seed, sampling.seed.is_some());
        ignored.note(Wish::Temperature, sampled.temperature.is_none() && differs(&sampling.temperature));
        ignored.note(Wish::TopP, sampled.top_p.is_none() && differs(&sampling.top_p));
        ignored.note(Wish::TopK, sampled.top_k.is_none() && sampling.top_k.is_some());
        sampled
    }

    /// Beside thinking the API takes no temperature, no `top_k`, and no low `top_p`.
    fn taken(sampling: &'r Sampling, thinks: bool, samples: Samples) -> Self {
        if samples == Samples::AsItDoes {
            return Self::default();
        }
        let top_p = sampling.top_p.as_ref().filter(|number| value(number) < 1.0);
        if thinks {
            return Self { top_p: top_p.filter(|number| value(number) >= LEAST_TOP_P), ..Self::default() };
        }
        let temperature = sampling.temperature.clone().filter(|number| value(number) < 1.0);
        let top_p = top_p.filter(|_| temperature.is_none() || samples == Samples::Freely);
        Self { temperature, top_p, top_k: sampling.top_k.as_ref(), ..Self::default() }
    }
}

/// A temperature or a `top_p`; 1 is the default of both.
fn value(number: &Number) -> f64 {
    number.as_f64().unwrap_or(1.0)
}

#[cfg(test)]
#[path = "request_tests.rs"]
pub(super) mod tests;

//! Writes a request.
//!
//! Left out, because they change no answer: cache marks (Google caches by itself), the user, the name of a form. Mere wishes
//! are ignored, and that is told: the detail of pictures, names of participants, `verbosity`. `parallel_tool_calls: false` has no
//! counterpart: of several calls only the first is passed on. Everything else that has no counterpart is refused by name.

use std::borrow::Cow;

use serde_json::Number;
use serde_json::value::RawValue;

use super::contents;
use super::model::{self, Generation};
use super::thinking;
use super::tools;
use super::wire::{Generate, GenerationConfig};
use crate::chat::ignored::{Ignored, Wish};
use crate::chat::request::{Format, Request, RequestedTier, Turn};
use crate::form;
use crate::refusal::RequestError;
use crate::translate::{Memo, Target};

/// Most texts at which an answer may stop ("GenerationConfig", Gemini API reference, 2026-10).
const MOST_STOPS: usize = 5;

/// The body of a request, what must be known to read its answer, and what it does not say.
///
/// # Errors
/// [`RequestError`] naming the field or part that Google has nothing for.
pub(super) fn generate<'r>(
    request: &'r Request<'r>,
    target: &Target<'_>,
) -> Result<(Generate<'r>, Memo, Ignored), RequestError> {
    let generation = model::generation(target.model);
    let told = contents::write(&request.turns, generation)?;
    let plan = tools::plan(request, generation)?;
    let mut generation_config = config(request, target)?;
    let mut ignored = ignored(request, generation, generation_config.max_output_tokens);
    if plan.has_native_form {
        let (mime_type, schema, is_lost) = form(&request.format);
        (generation_config.response_mime_type, generation_config.response_json_schema) = (mime_type, schema);
        ignored.note(Wish::FormDescription, is_lost);
    }
    let limit = generation_config.max_output_tokens;
    generation_config.thinking_config = thinking::config(request.reasoning, generation, limit);
    let written = Generate {
        system_instruction: told.system,
        contents: told.contents,
        tools: plan.tools,
        tool_config: plan.config,
        generation_config,
        service_tier: tier(request.tier.as_ref())?,
    };
    Ok((written, plan.memo, ignored))
}

fn ignored(request: &Request<'_>, generation: Generation, limit: Option<u64>) -> Ignored {
    let mut ignored = Ignored::default();
    ignored.note(Wish::Verbosity, request.wants_length());
    ignored.note(Wish::Seed, request.sampling.seed.is_some() && seed(request).is_none());
    ignored.note(Wish::Detail, request.wants_detail());
    let is_named = |turn: &Turn<'_>| turn.name.as_ref().is_some_and(|name| !name.trim().is_empty());
    ignored.note(Wish::ParticipantName, request.turns.iter().any(is_named));
    ignored.note(Wish::Reasoning, thinking::is_ignored(request.reasoning, generation, limit));
    ignored.note(Wish::StrictTool, tools::is_not_held_to_schemas(request, generation));
    ignored
}

fn config<'r>(request: &'r Request<'r>, target: &Target<'_>) -> Result<GenerationConfig<'r>, RequestError> {
    if request.stop.len() > MOST_STOPS {
        return Err(refused("stop", &format!("this provider takes at most {MOST_STOPS} stop texts")));
    }
    if request.stop.iter().any(|stop| stop.is_empty()) {
        return Err(refused("stop", "must not be empty: this provider takes no such stop text"));
    }
    let sampling = &request.sampling;
    let limits = [target.limit, request.max_output_tokens];
    Ok(GenerationConfig {
        // Models that draw or speak do so unless told otherwise, at prices of their own.
        response_modalities: ["TEXT"],
        // As in chat completions, thoughts count towards it.
        max_output_tokens: limits.into_iter().flatten().min(),
        temperature: sampling.temperature.as_ref(),
        top_p: sampling.top_p.as_ref(),
        top_k: sampling.top_k.as_ref(),
        presence_penalty: sampling.presence_penalty.as_ref(),
        frequency_penalty: sampling.frequency_penalty.as_ref(),
        seed: seed(request),
        stop_sequences: &request.stop,
        candidate_count: (request.choices > 1).then_some(request.choices),
        response_logprobs: request.logprobs.map(|_| true),
        logprobs: request.logprobs.map(|logprobs| logprobs.top).filter(|top| *top > 0),
        response_mime_type: None,
        response_json_schema: None,
        thinking_config: None,
    })
}

/// Google's seeds have 32 bits ("GenerationConfig", Gemini API reference, 2026-10); it refuses others.
fn seed<'r>(request: &'r Request<'_>) -> Option<&'r Number> {
    request.sampling.seed.as_ref().filter(|seed| seed.as_i64().is_some_and(|seed| i32::try_from(seed).is_ok()))
}

/// The type of the answer, its schema, and whether there was no place for what it is for.
fn form<'r>(format: &'r Format<'r>) -> (Option<&'static str>, Option<Cow<'r, RawValue>>, bool) {
    const JSON: Option<&str> = Some("application/json");
    match format {
        Format::Text => (None, None, false),
        Format::JsonObject => (JSON, None, false),
        Format::JsonSchema { schema: None, description, .. } => (JSON, None, description.is_some()),
        Format::JsonSchema { schema: Some(schema), description, .. } => {
            let (schema, is_lost) = form::described(Cow::Borrowed(schema), description.as_deref());
            (JSON, Some(schema), is_lost)
        }
    }
}

/// Source: Google, "Flex inference" and "Priority inference" (2026-10).
fn tier(tier: Option<&RequestedTier>) -> Result<Option<&'static str>, RequestError> {
    match tier {
        None | Some(RequestedTier::Auto | RequestedTier::Default) => Ok(None),
        Some(RequestedTier::Flex) => Ok(Some("flex")),
        Some(RequestedTier::Priority) => Ok(Some("priority")),
        Some(RequestedTier::Other(_)) => {
            Err(refused("service_tier", "this provider knows `default`, `flex` and `priority`"))
        }
    }
}

fn refused(field: &str, message: &str) -> RequestError {
    RequestError { field: Some(field.to_owned()), message: format!("{field}: {message}") }
}

//! Reads a chat completions body into the hub form, whole: what is understood nowhere and changes the answer is refused by name.
//!
//! Besides OpenAI's own fields it takes the ones that many gateways have agreed on: `reasoning`, `thinking`, `cache_control`, and the
//! thoughts of earlier answers (see `thoughts`). Of a member given twice the last counts, as with most parsers.

use std::borrow::Cow;
use std::collections::HashSet;

use super::echo::echo;
use super::request::tier_named;
use super::walk::{self, Room, Wrong};
use super::{effort, offer, turns};
use crate::chat::request::{Logprobs, Request, Tool, ToolChoice};
use crate::json::{Cursor, Kind};
use crate::refusal::RequestError;

/// Fields that are left out on the way to another provider, because the answer does not depend on them.
const LEFT_OUT: [&str; 8] = [
    // Labels and storage for the provider's own dashboards and later look-ups.
    "metadata",
    "store",
    // Where the provider's cache may look and how long it keeps: hints of speed and price.
    "prompt_cache_key",
    "prompt_cache_retention",
    // A guess at the answer, which only makes it faster.
    "prediction",
    // OpenRouter's wish for usage, which every answer has.
    "usage",
    // Read where the request was admitted.
    "model",
    "stream_options",
];

/// Fields that say nothing if they have one of these values, and else what no other provider has.
const DEFAULTS: [(&str, &[&str]); 6] = [
    ("modalities", &["[\"text\"]", "[]"]),
    ("logit_bias", &["{}"]),
    ("min_p", &["0", "0.0"]),
    ("top_a", &["0", "0.0"]),
    ("repetition_penalty", &["1", "1.0"]),
    ("include_reasoning", &["true"]),
];

/// Reads a body that [`scan`](super::request::scan) has accepted.
///
/// # Errors
/// [`RequestError`] naming the field that is wrong, or that only a host of OpenAI's API could carry.
pub fn read(body: &[u8]) -> Result<Request<'_>, RequestError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| RequestError { field: None, message: "the body is not UTF-8 text".to_owned() })?;
    let mut cursor = Cursor::new(text);
    let mut reader = Reader::default();
    walk::object(&mut cursor, |name, cursor| reader.field(name, cursor)).map_err(Wrong::into_error)?;
    cursor.end().map_err(|error| Wrong::from(error).into_error())?;
    reader.finish().map_err(Wrong::into_error)
}

#[derive(Default)]
struct Reader<'a> {
    request: Request<'a>,
    room: Room,
    logprobs: bool,
    top_logprobs: u64,
    safety_identifier: Option<Cow<'a, str>>,
    functions: Vec<Tool<'a>>,
    function_call: Option<ToolChoice<'a>>,
    thinking: effort::Asked,
}

impl<'a> Reader<'a> {
    fn field(&mut self, name: &str, cursor: &mut Cursor<'a>) -> Result<(), Wrong> {
        let request = &mut self.request;
        match name {
            "messages" => request.turns = turns::read(cursor, &mut self.room)?,
            "tools" => request.tools = offer::tools(cursor)?,
            "functions" => self.functions = offer::functions(cursor)?,
            "tool_choice" => request.tool_choice = Some(offer::choice(cursor, &mut self.room)?),
            "function_call" => self.function_call = Some(offer::function_call(cursor)?),
            "parallel_tool_calls" => request.parallel_tool_calls = Some(walk::boolean(cursor)?),
            "response_format" => request.format = offer::format(cursor)?,
            "max_tokens" | "max_completion_tokens" => {
                let limit = walk::whole(cursor)?;
                request.max_output_tokens = Some(request.max_output_tokens.map_or(limit, |other| other.min(limit)));
            }
            "stop" => request.stop = stop(cursor, &mut self.room)?,
            "n" => request.choices = walk::whole(cursor)?,
            "logprobs" => self.logprobs = walk::boolean(cursor)?,
            "top_logprobs" => self.top_logprobs = walk::whole(cursor)?,
            "stream" => request.stream = walk::boolean(cursor)?,
            "user" => request.user = Some(walk::text(cursor)?),
            "safety_identifier" => self.safety_identifier = Some(walk::text(cursor)?),
            "verbosity" => request.verbosity = Some(walk::text(cursor)?),
            "service_tier" => request.tier = Some(tier_named(&walk::text(cursor)?)),
            "reasoning_effort" | "reasoning" | "thinking" | "google" | "extra_body" => {
                self.thinking.field(name, cursor)?;
            }
            name if LEFT_OUT.contains(&name) => walk::ignore(cursor)?,
            name => return self.rest(name, cursor),
        }
        Ok(())
    }

    fn rest(&mut self, name: &str, cursor: &mut Cursor<'a>) -> Result<(), Wrong> {
        let sampling = &mut self.request.sampling;
        let slot = match name {
            "temperature" => &mut sampling.temperature,
            "top_p" => &mut sampling.top_p,
            "top_k" => &mut sampling.top_k,
            "frequency_penalty" => &mut sampling.frequency_penalty,
            "presence_penalty" => &mut sampling.presence_penalty,
            "seed" => &mut sampling.seed,
            _ => {
                let defaults = DEFAULTS.iter().find(|(field, _)| *field == name);
                return walk::only(cursor, defaults.map_or(&[], |(_, values)| *values));
            }
        };
        *slot = Some(walk::number(cursor)?);
        Ok(())
    }

    fn finish(self) -> Result<Request<'a>, Wrong> {
        let Self { mut request, logprobs, top_logprobs, safety_identifier, functions, function_call, thinking, .. } =
            self;
        if !functions.is_empty() && !request.tools.is_empty() {
            return Err(Wrong::here("cannot be given together with `tools`").under("functions"));
        }
        request.tools.extend(functions);
        let field = if request.tool_choice.is_some() { "tool_choice" } else { "function_call" };
        request.tool_choice = request.tool_choice.or(function_call);
        can_be_chosen(request.tool_choice.as_ref(), &request.tools).map_err(|wrong| wrong.under(field))?;
        if top_logprobs > 0 && !logprobs {
            return Err(Wrong::here("needs `logprobs` to be true").under("top_logprobs"));
        }
        request.logprobs = logprobs.then_some(Logprobs { top: top_logprobs });
        request.user = safety_identifier.or(request.user);
        request.reasoning = thinking.reasoning();
        Ok(request)
    }
}

/// Whether there are the tools that must or may be called.
fn can_be_chosen(choice: Option<&ToolChoice<'_>>, tools: &[Tool<'_>]) -> Result<(), Wrong> {
    let lacks = |name: &str| Err(Wrong::here(format!("names `{}`, which is not among the tools", echo(name))));
    match choice {
        Some(ToolChoice::Required) if tools.is_empty() => Err(Wrong::here("wants a call, but there are no tools")),
        Some(ToolChoice::Named(name)) if tools.iter().all(|tool| tool.name != *name) => lacks(name),
        Some(ToolChoice::Allowed { names, .. }) => {
            let offered: HashSet<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
            names.iter().find(|name| !offered.contains(name.as_ref())).map_or(Ok(()), |name| lacks(name))
        }
        Some(ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Auto | ToolChoice::None) | None => Ok(()),
    }
}

/// One text or a list of them.
fn stop<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Cow<'a, str>>, Wrong> {
    if cursor.peek()? == Kind::String {
        return Ok(vec![walk::text(cursor)?]);
    }
    let mut texts = Vec::new();
    walk::list(cursor, |cursor| {
        room.take()?;
        texts.push(walk::text(cursor)?);
        Ok(())
    })?;
    Ok(texts)
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
pub(super) mod tests;

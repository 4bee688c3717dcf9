//! Reads a whole answer into the hub form. Texts stay where they are in the body, unless they need unescaping.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::Counts;
use super::{fault, finish, signature};
use crate::chat::request::{Content, Maker, Part, ToolCall};
use crate::chat::response::{Choice, Finish, Response};
use crate::credible::brief;
use crate::form;
use crate::refusal::NotAnAnswer;
use crate::translate::{Memo, Wrapped};

/// Members are looked at one by one: what is not understood of one does not spoil the others.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_details: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// A block of an answer, as far as it is understood.
#[derive(Deserialize)]
pub(super) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thinking: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) signature: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) data: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
}

/// Borrows where it can, which an optional `Cow` does not.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The text, if it is there and not empty.
pub(super) fn filled(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|text| text.0).filter(|text| !text.is_empty())
}

/// Reads the body of a response with a status of success.
pub(super) fn read<'a>(body: &'a [u8], memo: &Memo) -> Result<Response<'a>, NotAnAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnAnswer::Malformed)?;
    if !text.trim_start().starts_with('{') {
        return Err(NotAnAnswer::Malformed);
    }
    let wire: Wire<'a> = serde_json::from_str(text).map_err(|_| NotAnAnswer::Malformed)?;
    let blocks = wire.content.and_then(|content| serde_json::from_str::<Vec<&'a RawValue>>(content.get()).ok());
    let Some(blocks) = blocks else {
        let is_error = wire.error.is_some() || string(wire.kind).is_some_and(|kind| kind == "error");
        return Err(if is_error {
            NotAnAnswer::Refused(Box::new(fault::in_answer(text)))
        } else {
            NotAnAnswer::NoChoices
        });
    };
    let mut reader = Reader { json_tool: memo.json_tool.as_deref(), ..Reader::default() };
    let mut parts: Vec<Part<'a>> = Vec::with_capacity(blocks.len());
    for block in blocks {
        parts.extend(reader.part(block)?);
    }
    if let Some(json) = reader.json {
        // What was said in words besides is not of the form that was asked for.
        parts.retain(|part| !matches!(part.content, Content::Text(_)));
        parts.push(Part::text(match memo.wrapped {
            Wrapped::Not => Cow::Borrowed(json),
            wrapped @ (Wrapped::Value | Wrapped::Text) => Cow::Owned(form::unwrapped(json.to_owned(), wrapped)),
        }));
    } else if memo.json_tool.is_none() && memo.wrapped == Wrapped::Value {
        unwrap(&mut parts);
    }
    let stop_reason = string(wire.stop_reason).unwrap_or(Cow::Borrowed("end_turn"));
    let mut counts = Counts::default();
    if let Some(usage) = wire.usage {
        counts.read(usage.get());
    }
    let usage = counts.usage(!parts.is_empty());
    let finish = finish(&stop_reason, reader.calls_tools);
    if finish == Finish::ContentFilter {
        parts.extend(explanation(wire.stop_details).map(|text| Part::new(Content::Refusal(text))));
    }
    let choice = Choice { index: 0, parts, finish, logprobs: None };
    let Counts { tier, in_region, .. } = counts;
    Ok(Response { id: name(wire.id), model: name(wire.model), choices: vec![choice], usage, tier, in_region })
}

/// Takes the object off an answer, which may come as several texts.
fn unwrap(parts: &mut [Part<'_>]) {
    let mut unwrapper = form::Unwrapper::default();
    for part in parts {
        if let Content::Text(text) = &mut part.content {
            *text = Cow::Owned(unwrapper.feed(text));
        }
    }
}

#[derive(Default)]
struct Reader<'a, 'm> {
    json_tool: Option<&'m str>,
    /// The answer of a function that stands for its form.
    json: Option<&'a str>,
    calls_tools: bool,
}

impl<'a> Reader<'a, '_> {
    /// # Errors
    /// [`NotAnAnswer::Malformed`] for a block of a known type that says what cannot be read, such as half of a character: without it the answer
    /// would be another.
    fn part(&mut self, raw: &'a RawValue) -> Result<Option<Part<'a>>, NotAnAnswer> {
        match serde_json::from_str::<Block<'a>>(raw.get()) {
            Ok(block) => Ok(self.said(raw, block)),
            Err(_) if is_known(raw) => Err(NotAnAnswer::Malformed),
            Err(_) => Ok(Some(native(raw))),
        }
    }

    fn said(&mut self, raw: &'a RawValue, block: Block<'a>) -> Option<Part<'a>> {
        Some(match &*block.kind.0 {
            "text" => return filled(block.text).map(Part::text),
            "tool_use" => return self.call(block),
            "thinking" => {
                let signed = filled(block.signature).map(signature);
                let thought = filled(block.thinking).unwrap_or_default();
                if thought.is_empty() && signed.is_none() {
                    return None;
                }
                Part { signature: signed, ..Part::new(Content::Thinking(thought)) }
            }
            "redacted_thinking" => {
                let data = filled(block.data)?;
                Part { signature: Some(signature(data.clone())), ..Part::new(Content::RedactedThinking(data)) }
            }
            _ => native(raw),
        })
    }

    fn call(&mut self, block: Block<'a>) -> Option<Part<'a>> {
        let name = filled(block.name).unwrap_or_default();
        let arguments = arguments(block.input);
        if self.json_tool == Some(&*name) {
            // A second answer would make one text that is no JSON.
            self.json.get_or_insert(arguments);
            return None;
        }
        self.calls_tools = true;
        Some(Part::new(Content::ToolCall(ToolCall {
            id: filled(block.id).unwrap_or_default(),
            name,
            arguments: Cow::Borrowed(arguments),
        })))
    }
}

/// A block that only Anthropic understands.
fn native(raw: &RawValue) -> Part<'_> {
    Part::new(Content::Native { maker: Maker::Anthropic, block: Cow::Borrowed(raw) })
}

/// Whether the block is of a type that is read.
fn is_known(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, rename = "type")]
        kind: Text<'a>,
    }
    let kind = serde_json::from_str::<Kind<'_>>(raw.get());
    kind.is_ok_and(|kind| matches!(&*kind.kind.0, "text" | "tool_use" | "thinking" | "redacted_thinking"))
}

/// The arguments of a call as JSON text, `{}` for none.
pub(super) fn arguments(input: Option<&RawValue>) -> &str {
    input.map(RawValue::get).filter(|input| *input != "null" && !input.is_empty()).unwrap_or("{}")
}

/// Why a model did not answer, in words for people.
pub(super) fn explanation(details: Option<&RawValue>) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Details<'a> {
        #[serde(borrow)]
        explanation: Option<Text<'a>>,
    }
    filled(serde_json::from_str::<Details<'_>>(details?.get()).ok()?.explanation)
}

fn string(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value?.get()).ok().map(|text| text.0)
}

pub(super) fn name(value: Option<&RawValue>) -> String {
    brief(&string(value).unwrap_or_default()).to_owned()
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;

//! Writes an answer in hub form as a chat completion.
//!
//! Texts are joined to one content, thoughts are shown as `reasoning_content` and kept whole in `reasoning_details`. What only the
//! provider that made it understands, besides thoughts, has no place there and is left out.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::thoughts::{ExtraContent, Places, Written as Detail};
use super::{labels, usage};
use crate::chat::request::{Content, Maker, Part};
use crate::chat::response::{Choice, Response};
use crate::exchange::Stamp;

/// Writes a whole answer. Usage that is not known is not written.
#[must_use]
pub(crate) fn write(answer: &Response<'_>, stamp: &Stamp) -> Bytes {
    let completion = Completion {
        id: labels::id(&answer.id, stamp),
        object: "chat.completion",
        created: stamp.created,
        model: labels::model(&answer.model, stamp),
        choices: answer.choices.iter().map(WrittenChoice::of).collect(),
        usage: answer.usage.as_ref().map(usage::Written::from),
        service_tier: answer.tier.and_then(usage::tier_name),
    };
    // Serialising strings and JSON values does not fail.
    Bytes::from(serde_json::to_vec(&completion).unwrap_or_default())
}

#[derive(Serialize)]
struct Completion<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<WrittenChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<usage::Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

#[derive(Serialize)]
struct WrittenChoice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<&'a RawValue>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

impl<'a> WrittenChoice<'a> {
    fn of(choice: &'a Choice<'_>) -> Self {
        let message = Message::of(&choice.parts);
        let (finish_reason, native_finish_reason) = labels::finish(&choice.finish, !message.tool_calls.is_empty());
        let logprobs = choice.logprobs.as_deref();
        Self { index: choice.index, message, logprobs, finish_reason, native_finish_reason }
    }
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasoning_details: Vec<Detail<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<ExtraContent<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Message<'a> {
    fn of(parts: &'a [Part<'_>]) -> Self {
        let mut message = Self {
            role: "assistant",
            content: None,
            refusal: None,
            reasoning_content: None,
            reasoning_details: Vec::new(),
            tool_calls: Vec::new(),
        };
        let mut places = Places::default();
        for part in parts {
            message.add(part, &mut places);
        }
        if message.refusal.is_none() && message.tool_calls.is_empty() {
            message.content.get_or_insert_default();
        }
        message
    }

    fn add(&mut self, part: &'a Part<'_>, places: &mut Places) {
        match &part.content {
            Content::Text(text) => {
                if !text.is_empty() {
                    places.text();
                    join(&mut self.content, text);
                }
                if let Some(signature) = part.signature.as_ref().filter(|signature| signature.maker == Maker::Google) {
                    self.reasoning_details.push(places.of_text(signature));
                }
            }
            Content::Refusal(text) => {
                places.refusal();
                join(&mut self.refusal, text);
            }
            Content::Thinking(text) => {
                if !text.is_empty() {
                    join(&mut self.reasoning_content, text);
                }
                let detail = places.thinking(text);
                self.reasoning_details.push(match &part.signature {
                    Some(signature) => detail.signed(signature),
                    None => detail,
                });
            }
            Content::RedactedThinking(data) => {
                let maker = part.signature.as_ref().map_or(Maker::Anthropic, |signature| signature.maker);
                self.reasoning_details.push(places.sealed(maker, data));
            }
            Content::ToolCall(call) => {
                places.part();
                let arguments = if call.arguments.is_empty() { "{}" } else { &*call.arguments };
                self.tool_calls.push(Call {
                    id: &call.id,
                    kind: "function",
                    function: Function { name: &call.name, arguments },
                    extra_content: ExtraContent::of(part.signature.as_ref()),
                });
            }
            // No model answers with media or with results through the APIs that are translated.
            Content::Image { .. }
            | Content::Audio { .. }
            | Content::Document { .. }
            | Content::ToolResult(_)
            | Content::Native { .. } => {}
        }
    }
}

fn join(to: &mut Option<String>, text: &str) {
    to.get_or_insert_default().push_str(text);
}

#[cfg(test)]
#[path = "completion_tests.rs"]
pub(in crate::openai) mod tests;

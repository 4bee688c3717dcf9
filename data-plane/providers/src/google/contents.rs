//! A conversation as Google's API writes it.
//!
//! * Leading turns of system and developer are the system instruction; later ones, for which there is no place, are user texts within `<system>` tags.
//! * Turns of one role in a row become one, but results of functions stand alone, as recordings show it.
//! * A part goes back with the signature that it came with, if Google made it. Thoughts of others stay out.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::media;
use super::model::Generation;
use super::wire::{self, Data, FunctionCall, FunctionResponse, Instruction, Object, Piece};
use crate::chat::request::{self as hub, Content, Maker, Role, Signature, ToolResult, Turn};
use crate::refusal::RequestError;

/// What stands for a signature where the model that called a function was another. The third generation refuses a call without
/// any. Source: Google, "Thought signatures", FAQ on history from other models (ai.google.dev/gemini-api/docs/thought-signatures).
const NO_SIGNATURE: &str = "skip_thought_signature_validator";
/// Types that the third generation takes inside a function's result ("Function calling", multimodal responses, 2026-10).
const RESULT_TYPES: [&str; 5] = ["image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"];

/// What is said, and by whom.
#[derive(Debug)]
pub(super) struct Told<'r> {
    pub(super) system: Option<Instruction<'r>>,
    pub(super) contents: Vec<wire::Content<'r>>,
}

/// Writes the turns.
///
/// # Errors
/// [`RequestError`] naming the turn that holds what Google has nothing for.
pub(super) fn write<'r>(turns: &'r [Turn<'r>], generation: Generation) -> Result<Told<'r>, RequestError> {
    let leading = turns.iter().take_while(|turn| matches!(turn.role, Role::System | Role::Developer)).count();
    let (system, others) = turns.split_at(leading);
    let mut writer = Writer { generation, contents: Vec::new(), names: HashMap::new(), attached: Vec::new() };
    for turn in others {
        match turn.role {
            Role::Assistant => writer.model(turn)?,
            Role::User => writer.user(turn)?,
            Role::System | Role::Developer => {
                for part in instructions(turn, ("<system>", "</system>"))? {
                    writer.push("user", part);
                }
            }
        }
    }
    let mut contents = writer.finish();
    let mut parts = Vec::new();
    for turn in system {
        parts.extend(instructions(turn, ("", ""))?);
    }
    // A request of nothing but instructions asks for what they say.
    if contents.is_empty() && !parts.is_empty() {
        contents.push(wire::Content { role: "user", parts: std::mem::take(&mut parts) });
    }
    if contents.is_empty() && !turns.is_empty() {
        let message = "messages: there must be a text that is not empty".to_owned();
        return Err(RequestError { field: Some("messages".to_owned()), message });
    }
    Ok(Told { system: (!parts.is_empty()).then_some(Instruction { parts }), contents })
}

/// What a turn of system or developer says, between `tags`. They go around the turn, not each part: the bound of a part has no room for them.
fn instructions<'r>(turn: &'r Turn<'r>, tags: (&str, &str)) -> Result<Vec<Piece<'r>>, RequestError> {
    let last = turn.parts.len().saturating_sub(1);
    let texts = turn.parts.iter().enumerate().map(|(number, part)| match &part.content {
        Content::Text(text) | Content::Refusal(text) => {
            let (open, close) = (if number == 0 { tags.0 } else { "" }, if number == last { tags.1 } else { "" });
            let is_bare = open.is_empty() && close.is_empty();
            let text = if is_bare { Cow::Borrowed(&**text) } else { Cow::Owned(format!("{open}{text}{close}")) };
            Ok(Data::Text(text).into())
        }
        _ => Err(at(turn, "this provider takes only text as instructions")),
    });
    texts.collect()
}

fn at(turn: &Turn<'_>, message: &str) -> RequestError {
    let field = format!("messages[{}]", turn.at);
    RequestError { message: format!("{field}: {message}"), field: Some(field) }
}

struct Writer<'r> {
    generation: Generation,
    contents: Vec<wire::Content<'r>>,
    /// Functions by the ids of their calls.
    names: HashMap<&'r str, &'r str>,
    /// Media of results, for models that take none inside of them: they follow after the last result.
    attached: Vec<Piece<'r>>,
}

impl<'r> Writer<'r> {
    fn push(&mut self, role: &'static str, piece: Piece<'r>) {
        let is_result = is_result(&piece);
        if !is_result && !self.attached.is_empty() {
            let parts = std::mem::take(&mut self.attached);
            self.contents.push(wire::Content { role: "user", parts });
        }
        match self.contents.last_mut() {
            Some(last) if last.role == role && last.parts.first().is_some_and(is_result_like(is_result)) => {
                last.parts.push(piece);
            }
            _ => self.contents.push(wire::Content { role, parts: vec![piece] }),
        }
    }

    fn finish(mut self) -> Vec<wire::Content<'r>> {
        if !self.attached.is_empty() {
            self.contents.push(wire::Content { role: "user", parts: self.attached });
        }
        self.contents
    }

    fn user(&mut self, turn: &'r Turn<'r>) -> Result<(), RequestError> {
        for part in &turn.parts {
            let data = match &part.content {
                Content::Text(text) | Content::Refusal(text) => Data::Text(Cow::Borrowed(text)),
                Content::ToolResult(result) => {
                    self.result(turn, result)?;
                    continue;
                }
                Content::Image { source, .. } | Content::Audio { source } | Content::Document { source, .. } => {
                    media::data(source).map_err(|problem| at(turn, problem))?
                }
                Content::Thinking(_) | Content::RedactedThinking(_) => continue,
                Content::ToolCall(_) => return Err(at(turn, "only the model calls functions")),
                Content::Native { .. } => return Err(at(turn, "only the model makes parts of a provider's own")),
            };
            self.push("user", data.into());
        }
        Ok(())
    }

    fn model(&mut self, turn: &'r Turn<'r>) -> Result<(), RequestError> {
        for part in &turn.parts {
            let mut thought_signature = part.signature.as_ref().and_then(own);
            let mut thought = false;
            let data = match &part.content {
                // Beside calls, clients send an empty text, which Google may refuse.
                Content::Text(text) if text.is_empty() && thought_signature.is_none() => continue,
                Content::Text(text) | Content::Refusal(text) => Data::Text(Cow::Borrowed(text)),
                Content::ToolCall(call) => {
                    self.names.insert(&call.id, &call.name);
                    if thought_signature.is_none() && self.generation.is_third && self.begins_calls() {
                        thought_signature = Some(NO_SIGNATURE);
                    }
                    let args =
                        object(&call.arguments).map_or(Object::Arguments { arguments: &call.arguments }, Object::Given);
                    Data::FunctionCall(FunctionCall { id: &call.id, name: &call.name, args })
                }
                Content::Thinking(_) if thought_signature.is_none() => continue,
                Content::Thinking(text) => {
                    thought = true;
                    Data::Text(Cow::Borrowed(text))
                }
                Content::RedactedThinking(_) => continue,
                Content::Image { source, .. } | Content::Audio { source } | Content::Document { source, .. } => {
                    media::data(source).map_err(|problem| at(turn, problem))?
                }
                Content::Native { maker: Maker::Google, block } => {
                    self.push("model", Piece::Own(block));
                    continue;
                }
                Content::Native { .. } => {
                    return Err(at(turn, "it holds a part that only another provider understands"));
                }
                Content::ToolResult(_) => return Err(at(turn, "results of functions are not the model's")),
            };
            self.push("model", Piece::Made(wire::Part { data, thought, thought_signature }));
        }
        Ok(())
    }

    /// Whether the model's current turn has no call yet: of several only the first is signed.
    fn begins_calls(&self) -> bool {
        let is_call =
            |piece: &Piece<'_>| matches!(piece, Piece::Made(part) if matches!(part.data, Data::FunctionCall(_)));
        // From the end: the call before this one is near it, the turn's beginning need not be.
        !self.contents.last().is_some_and(|last| last.role == "model" && last.parts.iter().rev().any(is_call))
    }

    fn result(&mut self, turn: &'r Turn<'r>, result: &'r ToolResult<'r>) -> Result<(), RequestError> {
        let name = self.names.get(result.call_id.as_ref()).copied().or(result.name.as_deref());
        let name = name.ok_or_else(|| {
            let field = format!("messages[{}].tool_call_id", turn.at);
            RequestError { message: format!("{field}: no call before it has this id"), field: Some(field) }
        })?;
        let (mut texts, mut parts) = (Vec::new(), Vec::new());
        for part in &result.parts {
            let source = match &part.content {
                Content::Text(text) | Content::Refusal(text) => {
                    texts.push(text.as_ref());
                    continue;
                }
                Content::Image { source, .. } | Content::Audio { source } | Content::Document { source, .. } => source,
                _ => return Err(at(turn, "a function's result holds what this provider has nothing for")),
            };
            let data = media::data(source).map_err(|problem| at(turn, problem))?;
            if self.generation.is_third && fits_into_result(source) {
                parts.push(data);
            } else {
                self.attached.push(data.into());
            }
        }
        let response =
            if texts.is_empty() && !result.parts.is_empty() { Object::Empty {} } else { said(&texts, result.is_error) };
        let response = FunctionResponse { id: &result.call_id, name, response, parts };
        self.push("user", Data::FunctionResponse(response).into());
        Ok(())
    }
}

fn is_result(piece: &Piece<'_>) -> bool {
    matches!(piece, Piece::Made(part) if matches!(part.data, Data::FunctionResponse(_)))
}

fn is_result_like<'r>(wanted: bool) -> impl Fn(&Piece<'r>) -> bool {
    move |piece| is_result(piece) == wanted
}

fn fits_into_result(source: &hub::Source<'_>) -> bool {
    match source {
        hub::Source::Data { media_type, .. } => RESULT_TYPES.contains(&media_type.as_ref()),
        hub::Source::Url(_) => true,
    }
}

fn own<'r>(signature: &'r Signature<'r>) -> Option<&'r str> {
    (signature.maker == Maker::Google).then_some(signature.value.as_ref())
}

/// What a function returned, as the object that Google wants.
fn said<'r>(texts: &[&'r str], is_error: bool) -> Object<'r> {
    let given = if let [only] = texts { object(only) } else { None };
    let text = || if let [only] = texts { Cow::Borrowed(*only) } else { Cow::Owned(texts.join("\n")) };
    match (given, is_error) {
        (Some(error), true) => Object::GivenError { error },
        (Some(given), false) => Object::Given(given),
        (None, true) => Object::Error { error: text() },
        (None, false) => Object::Result { result: text() },
    }
}

/// The text, if it is a JSON object.
fn object(text: &str) -> Option<&RawValue> {
    let is_open = text.trim_ascii_start().starts_with('{');
    if is_open { serde_json::from_str(text).ok() } else { None }
}

//! Writes an answer in hub form as a stream of chat completion chunks, one `data:` event each, and `[DONE]` at the end.
//!
//! What is the same in all chunks is serialised once. A choice opens with its role, an id and a name come once for each call, and
//! usage comes last, if the client asked for it: all as OpenAI does it, since clients put pieces together by that.

use bytes::{BufMut, Bytes, BytesMut};
use keyforge_shared::usage::{ServiceTier, Usage};
use serde::Serialize;
use serde_json::value::RawValue;

use super::thoughts::{ExtraContent, Places, Written as Detail};
use super::{labels, usage};
use crate::chat::event::{Delta, Event};
use crate::chat::request::{MOST_CHOICES, Maker, Signature};
use crate::chat::response::Finish;
use crate::exchange::Stamp;

/// Writes one stream.
pub(crate) struct ChunkWriter {
    stamp: Stamp,
    asks_for_usage: bool,
    /// `data: {…"choices":[`, the same in every chunk.
    head: Vec<u8>,
    choices: Vec<Choice>,
    usage: Option<(Usage, Option<ServiceTier>)>,
    out: BytesMut,
}

/// How far one choice has come.
struct Choice {
    index: u32,
    places: Places,
    last: Last,
    has_calls: bool,
    /// Calls that no arguments have come for.
    bare: Vec<u32>,
}

/// What came last in a choice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Text,
    Thinking,
    Other,
}

impl ChunkWriter {
    /// A writer for a client that asked for usage, or did not.
    #[must_use]
    pub(crate) fn new(stamp: Stamp, asks_for_usage: bool) -> Self {
        let head = head("", "", &stamp);
        Self { stamp, asks_for_usage, head, choices: Vec::new(), usage: None, out: BytesMut::new() }
    }

    /// Writes what an event means.
    pub(crate) fn event(&mut self, event: Event) {
        match event {
            Event::Start { id, model } => self.head = head(&id, &model, &self.stamp),
            Event::Delta { choice, delta } => self.delta(choice, &delta),
            Event::Finish { choice, finish } => self.finish(choice, &finish),
            // Written at the end: what follows may correct it.
            Event::Usage { usage, tier, .. } => self.usage = Some((usage, tier)),
        }
    }

    /// Writes the end.
    pub(crate) fn done(&mut self) {
        if self.asks_for_usage
            && let Some((usage, tier)) = self.usage.take()
        {
            self.out.extend_from_slice(&self.head);
            self.out.extend_from_slice(b"]");
            if let Some(tier) = tier.and_then(usage::tier_name) {
                self.out.extend_from_slice(b",\"service_tier\":");
                append(&mut self.out, &tier);
            }
            self.out.extend_from_slice(b",\"usage\":");
            append(&mut self.out, &usage::Written::from(&usage));
            self.out.extend_from_slice(b"}\n\n");
        }
        self.out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// What was written since the last time.
    #[must_use]
    pub(crate) fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// Where in the list the choice is; `None` if it has not begun.
    fn begun(&self, index: u32) -> Option<usize> {
        self.choices.iter().position(|choice| choice.index == index)
    }

    /// Where in the list the choice is, after its role has been said. `has_text`: whether it begins with text. `None` for one more than any request
    /// can ask for, of which nothing is said.
    fn begin(&mut self, index: u32, has_text: bool) -> Option<usize> {
        if let Some(at) = self.begun(index) {
            return Some(at);
        }
        if self.choices.len() >= MOST_CHOICES {
            return None;
        }
        let content = Some(has_text.then_some(""));
        self.chunk(index, &Piece { role: Some("assistant"), content, refusal: Some(None), ..Piece::default() });
        self.choices.push(Choice {
            index,
            places: Places::default(),
            last: Last::Other,
            has_calls: false,
            bare: Vec::new(),
        });
        self.choices.len().checked_sub(1)
    }

    fn delta(&mut self, index: u32, delta: &Delta) {
        match delta {
            // Nothing to show, but a signature that follows is not that of a thought.
            Delta::Text(text) if text.is_empty() => {
                if let Some(choice) = self.choices.iter_mut().find(|choice| choice.index == index) {
                    choice.last = Last::Text;
                }
                return;
            }
            Delta::Refusal(text) if text.is_empty() => return,
            Delta::Arguments { fragment, .. } if fragment.is_empty() => return,
            _ => {}
        }
        let Some(at) = self.begin(index, matches!(delta, Delta::Text(_) | Delta::Refusal(_))) else { return };
        let Some(choice) = self.choices.get_mut(at) else { return };
        if let Delta::Logprobs(logprobs) = delta {
            let piece = Piece::default();
            return self.write(&WrittenChoice { logprobs: Some(logprobs), ..WrittenChoice::of(index, &piece) });
        }
        let Some(piece) = choice.piece(delta) else { return };
        self.chunk(index, &piece);
    }

    fn finish(&mut self, index: u32, finish: &Finish) {
        let Some(at) = self.begin(index, true) else { return };
        let Some(choice) = self.choices.get_mut(at) else { return };
        let (bare, has_calls) = (std::mem::take(&mut choice.bare), choice.has_calls);
        for call in bare {
            let calls = [Call::arguments(call, "{}")];
            self.chunk(index, &Piece { tool_calls: Some(calls), ..Piece::default() });
        }
        let (finish_reason, native_finish_reason) = labels::finish(finish, has_calls);
        let finish_reason = Some(finish_reason);
        let piece = Piece::default();
        self.write(&WrittenChoice { finish_reason, native_finish_reason, ..WrittenChoice::of(index, &piece) });
    }

    fn chunk(&mut self, index: u32, piece: &Piece<'_>) {
        self.write(&WrittenChoice::of(index, piece));
    }

    fn write(&mut self, choice: &WrittenChoice<'_>) {
        self.out.extend_from_slice(&self.head);
        append(&mut self.out, choice);
        let end: &[u8] = if self.asks_for_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" };
        self.out.extend_from_slice(end);
    }
}

impl Choice {
    /// What the client gets of a piece; `None` if nothing.
    fn piece<'a>(&mut self, delta: &'a Delta) -> Option<Piece<'a>> {
        let (before, mut piece) = (self.last, Piece::default());
        self.last = Last::Other;
        match delta {
            Delta::Text(text) => {
                self.last = Last::Text;
                self.places.text();
                piece.content = Some(Some(text));
            }
            Delta::Refusal(text) => {
                self.places.refusal();
                piece.refusal = Some(Some(text));
            }
            Delta::Thinking(text) => {
                self.last = Last::Thinking;
                piece.reasoning_content = Some(&**text).filter(|text| !text.is_empty());
                let is_more = before == Last::Thinking;
                let detail = if is_more { self.places.more().with_text(text) } else { self.places.thinking(text) };
                piece.reasoning_details = Some([detail]);
            }
            Delta::Signature(signature) => piece.reasoning_details = Some([self.signature(before, signature)]),
            Delta::RedactedThinking(signature) => {
                piece.reasoning_details = Some([self.places.sealed(signature.maker, &signature.value)]);
            }
            Delta::ToolCall { index, id, name, signature } => {
                self.places.part();
                self.has_calls = true;
                self.bare.push(*index);
                piece.tool_calls = Some([Call::first(*index, id, name, signature.as_ref())]);
            }
            Delta::Arguments { index, fragment } => {
                self.bare.retain(|bare| bare != index);
                piece.tool_calls = Some([Call::arguments(*index, fragment)]);
            }
            Delta::Logprobs(_) => return None,
        }
        Some(piece)
    }

    fn signature<'a>(&mut self, before: Last, signature: &'a Signature<'_>) -> Detail<'a> {
        match before {
            Last::Thinking => self.places.more().signed(signature),
            _ if signature.maker == Maker::Google => self.places.of_text(signature),
            // Nobody else signs texts: it is of a thought that is not shown.
            _ => self.places.thinking("").signed(signature),
        }
    }
}

/// The beginning of every chunk.
fn head(id: &str, model: &str, stamp: &Stamp) -> Vec<u8> {
    let names = Names {
        id: labels::id(id, stamp),
        object: "chat.completion.chunk",
        created: stamp.created,
        model: labels::model(model, stamp),
    };
    let mut head = b"data: ".to_vec();
    // Serialising strings and numbers does not fail.
    serde_json::to_writer(&mut head, &names).unwrap_or_default();
    head.pop();
    head.extend_from_slice(b",\"choices\":[");
    head
}

fn append(out: &mut BytesMut, value: &impl Serialize) {
    // Neither does serialising JSON values.
    serde_json::to_writer(out.writer(), value).unwrap_or_default();
}

#[derive(Serialize)]
struct Names<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
}

#[derive(Serialize)]
struct WrittenChoice<'a> {
    index: u32,
    delta: &'a Piece<'a>,
    logprobs: Option<&'a RawValue>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

impl<'a> WrittenChoice<'a> {
    const fn of(index: u32, delta: &'a Piece<'a>) -> Self {
        Self { index, delta, logprobs: None, finish_reason: None, native_finish_reason: None }
    }
}

/// More of a message.
#[derive(Default, Serialize)]
struct Piece<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// `Some(None)` is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_details: Option<[Detail<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[Call<'a>; 1]>,
}

#[derive(Serialize)]
struct Call<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<ExtraContent<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> Call<'a> {
    fn first(index: u32, id: &'a str, name: &'a str, signature: Option<&'a Signature<'_>>) -> Self {
        let function = Function { name: Some(name), arguments: "" };
        Self { index, id: Some(id), kind: Some("function"), function, extra_content: ExtraContent::of(signature) }
    }

    const fn arguments(index: u32, arguments: &'a str) -> Self {
        Self { index, id: None, kind: None, function: Function { name: None, arguments }, extra_content: None }
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;

//! Reads a stream of `/messages` into the hub form, event by event.
//!
//! Pings, citations and events that are not known mean nothing; the blocks of tools that the provider runs itself are passed over, since
//! no request of KeyForge's offers one. The end of the answer is told once, at `message_stop`, with the last usage; or when the provider
//! closes the stream after it has said why the answer ended.

use std::collections::BTreeMap;

use keyforge_shared::usage::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::response::{Block, Text, arguments, explanation, filled, name};
use super::usage::Counts;
use super::{fault, finish, signature};
use crate::chat::event::{Delta, Event};
use crate::chat::response::Finish;
use crate::fault::Fault;
use crate::form;
use crate::sse;
use crate::translate::{Decoder, Memo, Wrapped};

/// Most blocks that are open at a time; more are passed over. The API opens one after the other.
const MOST_OPEN: usize = 256;

/// Reads one stream.
#[derive(Debug, Default)]
pub(super) struct MessageDecoder {
    json_tool: Option<String>,
    /// Takes off what is around the answer, if something is.
    unwrapper: Option<form::Unwrapper>,
    /// What was said in words where a function stands for the form of the answer: it is the answer only if that is never called.
    preamble: String,
    open: BTreeMap<u64, Open>,
    counts: Counts,
    stop_reason: Option<String>,
    /// Why the model did not answer, in words for people.
    explanation: Option<String>,
    calls: u32,
    has_json: bool,
    has_started: bool,
    has_content: bool,
    has_blocks: bool,
    /// Whether the provider has run a tool of its own, which adds to the input.
    has_native: bool,
    has_finished: bool,
    is_done: bool,
}

/// A block that has begun.
#[derive(Debug)]
enum Open {
    /// Text or thought: each piece says which.
    Said,
    /// A call, and what its start said of its arguments for as long as no piece of them has come.
    Call { index: u32, unsaid: Option<String> },
    /// The call that stands for the form of the answer, likewise.
    Json { unsaid: Option<String> },
    /// Not for the client.
    Passed,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    index: Option<u64>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<Piece<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// A `delta`, of a block or of the message.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    stop_details: Option<&'a RawValue>,
}

impl MessageDecoder {
    pub(super) fn new(memo: &Memo) -> Self {
        let unwrapper = (memo.wrapped == Wrapped::Value).then(form::Unwrapper::default);
        Self { json_tool: memo.json_tool.clone(), unwrapper, ..Self::default() }
    }

    fn start(&mut self, message: &Message<'_>, out: &mut Vec<Event>) {
        if let Some(usage) = message.usage {
            self.counts.read(usage.get());
            self.counts.forget_output();
        }
        if !std::mem::replace(&mut self.has_started, true) {
            out.push(Event::Start { id: name(message.id), model: name(message.model) });
        }
    }

    /// What the model says in words.
    fn write(&mut self, text: String, out: &mut Vec<Event>) {
        if self.json_tool.is_none() {
            return self.answer(text, out);
        }
        self.has_content = true;
        self.preamble.push_str(&text);
    }

    /// What the model says that is the answer, or a piece of it.
    fn answer(&mut self, text: String, out: &mut Vec<Event>) {
        let text = match &mut self.unwrapper {
            Some(unwrapper) => unwrapper.feed(&text),
            None => text,
        };
        // What is around an answer is something that was made, too.
        self.has_content = true;
        if !text.is_empty() {
            self.say(Delta::Text(text), out);
        }
    }

    fn say(&mut self, delta: Delta, out: &mut Vec<Event>) {
        self.has_content = true;
        out.push(Event::Delta { choice: 0, delta });
    }

    fn open(&mut self, at: u64, block: &RawValue, out: &mut Vec<Event>) {
        self.has_blocks = true;
        let opened = match serde_json::from_str::<Block<'_>>(block.get()) {
            Ok(block) => self.opened(block, out),
            Err(_) => Open::Passed,
        };
        if let Some(unclosed) = self.open.remove(&at) {
            self.close(unclosed, out);
        }
        if self.open.len() < MOST_OPEN {
            self.open.insert(at, opened);
        }
    }

    fn opened(&mut self, block: Block<'_>, out: &mut Vec<Event>) -> Open {
        match &*block.kind.0 {
            "text" => {
                filled(block.text).into_iter().for_each(|text| self.write(text.into_owned(), out));
                Open::Said
            }
            "thinking" => {
                filled(block.thinking).into_iter().for_each(|text| self.say(Delta::Thinking(text.into_owned()), out));
                let signed = filled(block.signature).into_iter();
                signed.for_each(|value| self.say(Delta::Signature(signature(value.into_owned())), out));
                Open::Said
            }
            "redacted_thinking" => {
                let data = filled(block.data).into_iter();
                data.for_each(|data| self.say(Delta::RedactedThinking(signature(data.into_owned())), out));
                Open::Passed
            }
            "tool_use" => self.called(block, out),
            _ => {
                self.has_native = true;
                Open::Passed
            }
        }
    }

    fn called(&mut self, block: Block<'_>, out: &mut Vec<Event>) -> Open {
        let unsaid = Some(arguments(block.input).to_owned());
        let name = filled(block.name).unwrap_or_default();
        if self.json_tool.as_deref() == Some(&*name) {
            // A second answer would make one text that is no JSON.
            let is_first = !std::mem::replace(&mut self.has_json, true);
            return if is_first { Open::Json { unsaid } } else { Open::Passed };
        }
        let index = self.calls;
        self.calls = self.calls.saturating_add(1);
        let id = filled(block.id).unwrap_or_default().into_owned();
        self.say(Delta::ToolCall { index, id, name: name.into_owned(), signature: None }, out);
        Open::Call { index, unsaid }
    }

    fn piece(&mut self, at: u64, piece: Piece<'_>, out: &mut Vec<Event>) {
        let delta = match (piece.kind.as_ref().map_or("", |kind| &*kind.0), self.open.get_mut(&at)) {
            (_, Some(Open::Passed)) => None,
            ("text_delta", _) => {
                filled(piece.text).into_iter().for_each(|text| self.write(text.into_owned(), out));
                None
            }
            ("thinking_delta", _) => filled(piece.thinking).map(|text| Delta::Thinking(text.into_owned())),
            ("signature_delta", _) => {
                filled(piece.signature).map(|value| Delta::Signature(signature(value.into_owned())))
            }
            ("input_json_delta", Some(Open::Call { index, unsaid })) => filled(piece.partial_json).map(|json| {
                *unsaid = None;
                Delta::Arguments { index: *index, fragment: json.into_owned() }
            }),
            ("input_json_delta", Some(Open::Json { unsaid })) => {
                if let Some(json) = filled(piece.partial_json) {
                    *unsaid = None;
                    self.answer(json.into_owned(), out);
                }
                None
            }
            _ => None,
        };
        if let Some(delta) = delta {
            self.say(delta, out);
        }
    }

    fn close(&mut self, open: Open, out: &mut Vec<Event>) {
        match open {
            Open::Call { index, unsaid: Some(fragment) } => self.say(Delta::Arguments { index, fragment }, out),
            Open::Json { unsaid: Some(json) } => self.answer(json, out),
            Open::Call { .. } | Open::Json { .. } | Open::Said | Open::Passed => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.has_finished, true) {
            return;
        }
        for open in std::mem::take(&mut self.open).into_values() {
            self.close(open, out);
        }
        if !self.has_json && !self.preamble.is_empty() {
            let text = std::mem::take(&mut self.preamble);
            self.say(Delta::Text(text), out);
        }
        let finish = finish(self.stop_reason.as_deref().unwrap_or("end_turn"), self.calls > 0);
        // Words that the model did not make, beside an output of nothing, would make that look like a wrong count.
        let explanation = self.explanation.take().filter(|_| finish == Finish::ContentFilter);
        if let Some(text) = explanation.filter(|_| self.counts.usage(true).is_some()) {
            out.push(Event::Delta { choice: 0, delta: Delta::Refusal(text) });
        }
        out.push(Event::Finish { choice: 0, finish });
        if let Some(usage) = self.counts.usage(self.has_content) {
            out.push(Event::Usage { usage, tier: self.counts.tier, in_region: self.counts.in_region });
        }
    }
}

impl Decoder for MessageDecoder {
    fn event(&mut self, event: &sse::Event, out: &mut Vec<Event>) -> Result<(), Box<Fault>> {
        let data = event.data();
        let text = std::str::from_utf8(&data).map_err(|_| Box::new(fault::unreadable()))?;
        if event.name() == Some("error") {
            return Err(Box::new(fault::in_stream(text)));
        }
        if self.is_done || text.trim().is_empty() {
            return Ok(());
        }
        let wire: Wire<'_> = match serde_json::from_str(text) {
            Ok(wire) => wire,
            // JSON of another form than any event that is known.
            Err(error) if error.is_data() => return Ok(()),
            Err(_) => return Err(Box::new(fault::unreadable())),
        };
        match (&*wire.kind.0, wire.index.unwrap_or(0)) {
            ("error", _) => return Err(Box::new(fault::in_stream(text))),
            ("message_start", _) => wire.message.iter().for_each(|message| self.start(message, out)),
            ("content_block_start", at) => wire.content_block.iter().for_each(|block| self.open(at, block, out)),
            ("content_block_delta", at) => wire.delta.into_iter().for_each(|piece| self.piece(at, piece, out)),
            ("content_block_stop", at) => {
                self.open.remove(&at).into_iter().for_each(|open| self.close(open, out));
            }
            ("message_delta", _) => {
                wire.usage.iter().for_each(|usage| self.counts.read(usage.get()));
                let details = wire.delta.as_ref().and_then(|delta| delta.stop_details);
                self.explanation = explanation(details).map(std::borrow::Cow::into_owned).or(self.explanation.take());
                let said = wire.delta.and_then(|delta| filled(delta.stop_reason));
                self.stop_reason = said.map(std::borrow::Cow::into_owned).or(self.stop_reason.take());
            }
            ("message_stop", _) => {
                self.finish(out);
                self.is_done = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        if self.stop_reason.is_some() {
            self.finish(out);
        }
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn has_made_something(&self) -> bool {
        self.has_content || self.has_blocks
    }

    /// In all recorded streams the first count is the last, except where the provider ran a tool of its own.
    fn input_seen(&self) -> Option<Usage> {
        self.counts.input().filter(|_| !self.has_native)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;

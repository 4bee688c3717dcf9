//! Reads `messages` into turns: every role, calls and their results, and the thoughts that an earlier answer came with.

use std::borrow::Cow;
use std::collections::HashMap;

use super::parts::{self, cache_mark};
use super::thoughts::{self, Detail};
use super::walk::{self, Room, Wrong};
use crate::chat::request::{CacheMark, Content, MAX_FUNCTION_BYTES, Part, Role, Signature, ToolCall, ToolResult, Turn};
use crate::json::{Cursor, Kind};

/// Most messages, as at Anthropic.
const MOST_MESSAGES: usize = 100_000;

/// Members of an earlier answer that clients send back and no model is shown.
const UNSHOWN: [&str; 5] = ["annotations", "citations", "index", "parsed", "provider_specific_fields"];

/// Reads the list of messages. There is one turn for each, but results of tools that follow one another are one turn.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Turn<'a>>, Wrong> {
    let mut reader = Reader::default();
    walk::list(cursor, |cursor| reader.message(cursor, room))?;
    Ok(reader.turns)
}

#[derive(Default)]
struct Reader<'a> {
    turns: Vec<Turn<'a>>,
    /// How many messages have been read.
    count: usize,
    /// The functions of the calls so far, by the calls' ids.
    called: HashMap<Cow<'a, str>, Cow<'a, str>>,
    /// The id that was given to the last `function_call`, which has none.
    unnamed_call: Option<Cow<'a, str>>,
    /// Whether the last turn is one of results.
    is_results: bool,
}

/// A message of which the members have been read, in whatever order they came.
#[derive(Default)]
struct Message<'a> {
    role: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    content: Vec<Part<'a>>,
    refusal: Option<Cow<'a, str>>,
    calls: Vec<Part<'a>>,
    function_call: Option<(Cow<'a, str>, Cow<'a, str>)>,
    call_id: Option<Cow<'a, str>>,
    cache: Option<CacheMark>,
    /// The member's name, and what it says.
    reasoning: Option<(&'static str, Cow<'a, str>)>,
    details: Vec<Detail<'a>>,
    blocks: Vec<Detail<'a>>,
}

impl<'a> Message<'a> {
    fn read(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Self, Wrong> {
        let mut message = Self::default();
        walk::object(cursor, |name, cursor| {
            match name {
                "role" => message.role = Some(walk::text(cursor)?),
                "name" => message.name = Some(walk::text(cursor)?),
                "content" => message.content = parts::content(cursor, room)?,
                "refusal" => message.refusal = Some(walk::text(cursor)?).filter(|text| !text.is_empty()),
                "tool_calls" => message.calls = calls(cursor, room)?,
                "function_call" => message.function_call = Some(function(cursor)?),
                "tool_call_id" => message.call_id = Some(walk::name(cursor)?),
                "cache_control" => message.cache = Some(cache_mark(cursor)?),
                "reasoning_content" => message.reasoning = Some(("reasoning_content", walk::text(cursor)?)),
                "reasoning" => message.reasoning = Some(("reasoning", walk::text(cursor)?)),
                "reasoning_details" => message.details = thoughts::details(cursor, room)?,
                "thinking_blocks" => message.blocks = thoughts::thinking_blocks(cursor, room)?,
                // A wish that the model go on with this very message.
                "prefix" => walk::only(cursor, &["false"])?,
                name if UNSHOWN.contains(&name) => walk::ignore(cursor)?,
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })?;
        Ok(message)
    }

    /// A member that only the assistant's messages have, if one is given and holds something.
    fn assistants_own(&self) -> Option<&'static str> {
        let reasoning = self.reasoning.as_ref().filter(|(_, text)| !text.is_empty()).map(|(name, _)| *name);
        [
            (!self.calls.is_empty()).then_some("tool_calls"),
            self.function_call.is_some().then_some("function_call"),
            self.refusal.is_some().then_some("refusal"),
            reasoning,
            (!self.details.is_empty()).then_some("reasoning_details"),
            (!self.blocks.is_empty()).then_some("thinking_blocks"),
        ]
        .into_iter()
        .flatten()
        .next()
    }

    /// What an assistant said, thought and called.
    fn said(self) -> Vec<Part<'a>> {
        let details = match () {
            () if !self.details.is_empty() => self.details,
            () if !self.blocks.is_empty() => self.blocks,
            () => self.reasoning.map(|(_, text)| thoughts::unsigned(text)).unwrap_or_default(),
        };
        let mut said = self.content;
        said.extend(self.refusal.map(|text| Part::new(Content::Refusal(text))));
        said.extend(self.calls);
        mark(thoughts::weave(details, said), self.cache)
    }
}

/// A mark on a message is one on its last part.
fn mark<'a>(mut parts: Vec<Part<'a>>, cache: Option<CacheMark>) -> Vec<Part<'a>> {
    if let (Some(last), Some(cache)) = (parts.last_mut(), cache) {
        last.cache = Some(cache);
    }
    parts
}

impl<'a> Reader<'a> {
    fn message(&mut self, cursor: &mut Cursor<'a>, room: &mut Room) -> Result<(), Wrong> {
        let at = self.count;
        self.count += 1;
        if at >= MOST_MESSAGES {
            return Err(Wrong::here(format!("is one message more than {MOST_MESSAGES}")));
        }
        let mut message = Message::read(cursor, room)?;
        let role = message.role.take().ok_or_else(|| Wrong::here("is missing").under("role"))?;
        if let Some(own) = message.assistants_own().filter(|_| role != "assistant") {
            return Err(Wrong::here("belongs to messages of the assistant").under(own));
        }
        let role = match &*role {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" => Role::User,
            "assistant" => {
                self.note_calls(&mut message, at);
                let name = message.name.take();
                self.push(Turn { role: Role::Assistant, name, parts: message.said(), at });
                return Ok(());
            }
            "tool" | "function" => return self.result(&role, message, at),
            _ => return Err(Wrong::here("must be system, developer, user, assistant or tool").under("role")),
        };
        let Message { name, content, cache, .. } = message;
        self.push(Turn { role, name, parts: mark(content, cache), at });
        Ok(())
    }

    fn push(&mut self, turn: Turn<'a>) {
        self.is_results = false;
        self.turns.push(turn);
    }

    /// Remembers which function each call is of, and gives the old form of a call an id.
    fn note_calls(&mut self, message: &mut Message<'a>, at: usize) {
        if let Some((name, arguments)) = message.function_call.take() {
            let id: Cow<'a, str> = Cow::Owned(format!("call_{at}"));
            self.unnamed_call = Some(id.clone());
            message.calls.push(Part::new(Content::ToolCall(ToolCall { id, name, arguments })));
        }
        for part in &message.calls {
            if let Content::ToolCall(call) = &part.content {
                self.called.insert(call.id.clone(), call.name.clone());
            }
        }
    }

    fn result(&mut self, role: &str, message: Message<'a>, at: usize) -> Result<(), Wrong> {
        let Message { name, content, call_id, cache, .. } = message;
        let call_id = match call_id {
            Some(id) => id,
            None if role == "tool" => return Err(Wrong::here("is missing").under("tool_call_id")),
            None => self.unnamed_call.clone().ok_or_else(|| Wrong::here("is the result of no call before it"))?,
        };
        if name.as_ref().is_some_and(|name| name.len() > MAX_FUNCTION_BYTES) {
            return Err(Wrong::here(format!("is longer than {MAX_FUNCTION_BYTES} bytes")).under("name"));
        }
        let name = self.called.get(&call_id).cloned().or(name);
        let result = ToolResult { call_id, name, parts: content, is_error: false };
        let part = Part { cache, ..Part::new(Content::ToolResult(result)) };
        match self.turns.last_mut().filter(|_| self.is_results) {
            Some(turn) => turn.parts.push(part),
            None => self.push(Turn { role: Role::User, name: None, parts: vec![part], at }),
        }
        self.is_results = true;
        Ok(())
    }
}

fn calls<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Part<'a>>, Wrong> {
    let mut calls = Vec::new();
    walk::list(cursor, |cursor| {
        room.take()?;
        let (mut id, mut called, mut signature) = (None, None, None);
        walk::object(cursor, |name, cursor| {
            match name {
                "id" => id = Some(walk::name(cursor)?),
                "type" => walk::only(cursor, &["\"function\""])?,
                "function" => called = Some(function(cursor)?),
                "extra_content" => signature = thoughts::extra_content(cursor)?,
                "provider_specific_fields" => signature = signature.take().or(litellm_signature(cursor)?),
                "index" => walk::ignore(cursor)?,
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })?;
        let id = id.ok_or_else(|| Wrong::here("is missing").under("id"))?;
        let (name, arguments) = called.ok_or_else(|| Wrong::here("is missing").under("function"))?;
        calls.push(Part { signature, ..Part::new(Content::ToolCall(ToolCall { id, name, arguments })) });
        Ok(())
    })?;
    Ok(calls)
}

/// A function's name and its arguments, which need not be whole: an answer may have been cut off in them.
fn function<'a>(cursor: &mut Cursor<'a>) -> Result<(Cow<'a, str>, Cow<'a, str>), Wrong> {
    let (mut called, mut arguments) = (None, Cow::Borrowed(""));
    walk::object(cursor, |name, cursor| {
        match name {
            "name" => called = Some(walk::function_name(cursor)?),
            // Some clients send the object itself.
            "arguments" if cursor.peek()? == Kind::Object => arguments = Cow::Borrowed(walk::raw(cursor)?.get()),
            "arguments" => arguments = walk::text(cursor)?,
            "parsed_arguments" => walk::ignore(cursor)?,
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    let called = called.ok_or_else(|| Wrong::here("is missing").under("name"))?;
    let arguments = if arguments.trim().is_empty() { Cow::Borrowed("{}") } else { arguments };
    Ok((called, arguments))
}

/// Google's signature as LiteLLM returns it.
fn litellm_signature<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Signature<'a>>, Wrong> {
    let mut signature = None;
    walk::object(cursor, |name, cursor| {
        if name != "thought_signature" {
            return walk::ignore(cursor);
        }
        let value = walk::text(cursor)?;
        signature = Some(Signature { maker: crate::chat::request::Maker::Google, value });
        Ok(())
    })?;
    Ok(signature)
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;

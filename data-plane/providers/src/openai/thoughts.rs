//! How thoughts and their signatures travel in chat completions, so that an answer that is sent back is the one that was given.
//!
//! `reasoning_details`, a list as OpenRouter has it, holds them without loss. Its order is that of the answer. An entry whose place among
//! the answer's texts and calls does not follow from that says it in its `id`, as `part-N`, N counting all parts from 0. Google's
//! signature of a text is an encrypted entry in the place of the text; that of a call goes with the call, as on Google's own host of this
//! API. `thinking_blocks`, Anthropic's blocks as LiteLLM returns them, are read as well.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use super::walk::{self, Room, Wrong};
use crate::chat::request::{Content, Maker, Part, Signature};
use crate::json::{Cursor, Kind};

/// How an `id` begins that says a place.
const PLACE: &str = "part-";

/// An entry that was read.
#[derive(Debug)]
pub(super) struct Detail<'a> {
    /// How many parts stand before it at least.
    place: usize,
    thought: Thought<'a>,
}

#[derive(Debug)]
enum Thought<'a> {
    /// A part of its own.
    Part(Part<'a>),
    /// The signature of a text.
    OfText(Signature<'a>),
    /// The signature of the call with this id.
    OfCall(Cow<'a, str>, Signature<'a>),
}

impl<'a> Detail<'a> {
    fn first(part: Part<'a>) -> Self {
        Self { place: 0, thought: Thought::Part(part) }
    }
}

/// A thought without a signature, which is wanted back by nobody but does no harm.
pub(super) fn unsigned(text: Cow<'_, str>) -> Vec<Detail<'_>> {
    if text.is_empty() { Vec::new() } else { vec![Detail::first(Part::new(Content::Thinking(text)))] }
}

/// A thought of Anthropic's in pieces; the signature is the last one's.
pub(super) fn blocks<'a>(texts: Vec<Cow<'a, str>>, signature: Option<Cow<'a, str>>) -> Vec<Part<'a>> {
    let mut parts: Vec<_> = texts.into_iter().map(|text| Part::new(Content::Thinking(text))).collect();
    if let (Some(last), Some(value)) = (parts.last_mut(), signature) {
        last.signature = Some(Signature { maker: Maker::Anthropic, value });
    }
    parts
}

/// A thought of Anthropic's that only it can read.
pub(super) fn redacted(data: Cow<'_, str>) -> Part<'_> {
    sealed(Maker::Anthropic, data)
}

fn sealed(maker: Maker, data: Cow<'_, str>) -> Part<'_> {
    let signature = Some(Signature { maker, value: Cow::Borrowed("") });
    Part { content: Content::RedactedThinking(data), cache: None, signature }
}

/// Reads `thinking_blocks`.
pub(super) fn thinking_blocks<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Detail<'a>>, Wrong> {
    let mut details = Vec::new();
    walk::list(cursor, |cursor| {
        room.take()?;
        let (mut text, mut signature, mut data) = (None, None, None);
        walk::object(cursor, |name, cursor| {
            match name {
                "thinking" => text = Some(walk::text(cursor)?),
                "signature" => signature = Some(walk::text(cursor)?),
                "data" => data = Some(walk::text(cursor)?),
                _ => walk::ignore(cursor)?,
            }
            Ok(())
        })?;
        let texts = text.into_iter().collect();
        details.extend(blocks(texts, signature).into_iter().chain(data.map(redacted)).map(Detail::first));
        Ok(())
    })?;
    Ok(details)
}

/// Reads `reasoning_details`. Pieces of one thought, as they come in a stream, may still be apart: same index, no signature between.
pub(super) fn details<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Detail<'a>>, Wrong> {
    let mut details: Vec<Detail<'a>> = Vec::new();
    // The index of the last entry, if more of it may come.
    let mut open = None;
    walk::list(cursor, |cursor| {
        room.take()?;
        let entry = Entry::read(cursor)?;
        let index =
            entry.index.filter(|_| matches!(entry.kind.as_deref(), Some("reasoning.text" | "reasoning.summary")));
        let is_signed = entry.signature.is_some();
        if index.is_some()
            && open == index
            && let Some(last) = details.last_mut()
        {
            entry.append_to(last);
        } else {
            details.extend(entry.detail());
        }
        open = index.filter(|_| !is_signed);
        Ok(())
    })?;
    Ok(details)
}

#[derive(Default)]
struct Entry<'a> {
    kind: Option<Cow<'a, str>>,
    text: Option<Cow<'a, str>>,
    data: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    format: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    index: Option<u64>,
}

impl<'a> Entry<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Wrong> {
        let mut entry = Self::default();
        walk::object(cursor, |name, cursor| {
            match name {
                "type" => entry.kind = Some(walk::text(cursor)?),
                "text" | "summary" => entry.text = Some(walk::text(cursor)?),
                "data" => entry.data = Some(walk::text(cursor)?),
                "signature" => entry.signature = Some(walk::text(cursor)?).filter(|value| !value.is_empty()),
                "format" => entry.format = Some(walk::text(cursor)?),
                "id" if cursor.peek()? == Kind::String => entry.id = Some(walk::text(cursor)?),
                "index" => entry.index = Some(walk::whole(cursor)?),
                _ => walk::ignore(cursor)?,
            }
            Ok(())
        })?;
        Ok(entry)
    }

    /// Who can read it. Without a format it is Anthropic's, whose thoughts were the first to be signed.
    fn maker(&self) -> Option<Maker> {
        match self.format.as_deref() {
            None => Some(Maker::Anthropic),
            Some(format) => FORMATS.iter().find(|(_, name)| *name == format).map(|(maker, _)| *maker),
        }
    }

    fn signature(&mut self) -> Option<Signature<'a>> {
        let maker = self.maker()?;
        self.signature.take().map(|value| Signature { maker, value })
    }

    fn append_to(mut self, last: &mut Detail<'a>) {
        let Thought::Part(Part { content: Content::Thinking(text), signature, .. }) = &mut last.thought else { return };
        if let Some(more) = self.text.take().filter(|more| !more.is_empty()) {
            text.to_mut().push_str(&more);
        }
        *signature = self.signature();
    }

    /// `None`: nothing that anybody wants back.
    fn detail(mut self) -> Option<Detail<'a>> {
        let place = self.id.as_deref().and_then(|id| id.strip_prefix(PLACE)).and_then(|place| place.parse().ok());
        let thought = match self.kind.as_deref() {
            Some("reasoning.text" | "reasoning.summary") => {
                let signature = self.signature();
                let text = self.text.unwrap_or_default();
                Thought::Part(Part { content: Content::Thinking(text), cache: None, signature })
            }
            Some("reasoning.encrypted") => {
                let (maker, data) = (self.maker()?, self.data?);
                match (maker, self.id) {
                    (Maker::Google, Some(id)) if place.is_none() => {
                        Thought::OfCall(id, Signature { maker, value: data })
                    }
                    (Maker::Google, _) => Thought::OfText(Signature { maker, value: data }),
                    (Maker::Anthropic | Maker::OpenAi, _) => Thought::Part(sealed(maker, data)),
                }
            }
            _ => return None,
        };
        Some(Detail { place: place.unwrap_or(0), thought })
    }
}

/// Puts thoughts and signatures back where they were among what was said: texts, then calls.
pub(super) fn weave<'a>(details: Vec<Detail<'a>>, said: Vec<Part<'a>>) -> Vec<Part<'a>> {
    let mut parts = Vec::with_capacity(details.len() + said.len());
    let mut said = VecDeque::from(said);
    let mut of_calls = HashMap::new();
    for Detail { place, thought } in details {
        while parts.len() < place
            && let Some(next) = said.pop_front()
        {
            parts.push(next);
        }
        match thought {
            Thought::Part(part) if matches!(&part.content, Content::Thinking(text) if text.is_empty() && part.signature.is_none()) =>
                {}
            Thought::Part(part) => parts.push(part),
            Thought::OfText(signature) => {
                let is_text =
                    |part: &mut Part<'_>| matches!(part.content, Content::Text(_)) && part.signature.is_none();
                let text = said.pop_front_if(is_text).unwrap_or_else(|| Part::text(""));
                parts.push(Part { signature: Some(signature), ..text });
            }
            Thought::OfCall(id, signature) => {
                of_calls.entry(id).or_insert(signature);
            }
        }
    }
    parts.extend(said);
    // One look-up for each call: there may be as many of both as a body holds.
    for part in &mut parts {
        if of_calls.is_empty() {
            break;
        }
        if let Content::ToolCall(call) = &part.content
            && let Some(signature) = of_calls.remove(&call.id)
        {
            part.signature.get_or_insert(signature);
        }
    }
    parts
}

/// How `format` names the makers.
const FORMATS: [(Maker, &str); 3] = [
    (Maker::Anthropic, "anthropic-claude-v1"),
    (Maker::Google, "google-gemini-v1"),
    (Maker::OpenAi, "openai-responses-v1"),
];

fn format_of(maker: Maker) -> &'static str {
    FORMATS.iter().find(|(known, _)| *known == maker).map_or("unknown", |(_, name)| name)
}

/// An entry to be written, or in a stream a piece of one.
#[derive(Debug, Serialize)]
pub(super) struct Written<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Said once, with the signature: who puts pieces together joins texts of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'static str>,
    /// Which entry, from 0, without gaps.
    index: usize,
}

/// Gives the parts of one answer their places, as they come, and the entries their indexes.
///
/// All texts of an answer become one, which stands where the first of them stood.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    parts: usize,
    entries: usize,
    has_text: bool,
    has_refusal: bool,
    /// Whether the last part is the text, and not signed.
    may_sign_text: bool,
}

impl Places {
    /// Text comes.
    pub(super) fn text(&mut self) {
        if !self.has_text {
            self.part();
            (self.has_text, self.may_sign_text) = (true, true);
        }
    }

    /// Words of refusal come; all of them become one.
    pub(super) fn refusal(&mut self) {
        if !self.has_refusal {
            self.part();
            self.has_refusal = true;
        }
    }

    /// Another part begins; returns its place.
    pub(super) fn part(&mut self) -> usize {
        self.may_sign_text = false;
        self.parts += 1;
        self.parts - 1
    }

    fn entry<'a>(&mut self, kind: &'static str, place: usize) -> Written<'a> {
        let index = self.entries;
        self.entries += 1;
        // Whoever reads the entries in order finds the place by itself if nothing but entries stands before.
        let id = (place != index).then(|| format!("{PLACE}{place}"));
        Written { id, ..Written::of(kind, index) }
    }

    /// A thought begins.
    pub(super) fn thinking<'a>(&mut self, text: &'a str) -> Written<'a> {
        let place = self.part();
        Written { text: Some(text), ..self.entry("reasoning.text", place) }
    }

    /// More of the thought that began last: a text, or its signature.
    pub(super) fn more<'a>(&self) -> Written<'a> {
        Written::of("reasoning.text", self.entries.saturating_sub(1))
    }

    /// A thought that only its maker can read.
    pub(super) fn sealed<'a>(&mut self, maker: Maker, data: &'a str) -> Written<'a> {
        let place = self.part();
        Written { data: Some(data), format: Some(format_of(maker)), ..self.entry("reasoning.encrypted", place) }
    }

    /// The signature of the text that came last; if that is signed already or no text came, of one without letters.
    pub(super) fn of_text<'a>(&mut self, signature: &'a Signature<'_>) -> Written<'a> {
        if !self.may_sign_text {
            self.part();
        }
        self.may_sign_text = false;
        let place = self.parts.saturating_sub(1);
        let entry = self.entry("reasoning.encrypted", place);
        // It always says its place: other ids are those of calls.
        let id = Some(format!("{PLACE}{place}"));
        Written { data: Some(&signature.value), format: Some(format_of(signature.maker)), id, ..entry }
    }
}

impl<'a> Written<'a> {
    const fn of(kind: &'static str, index: usize) -> Self {
        Self { kind, text: None, data: None, signature: None, id: None, format: None, index }
    }

    /// With this text.
    pub(super) fn with_text(self, text: &'a str) -> Self {
        Self { text: Some(text), ..self }
    }

    /// With what its maker wants back.
    pub(super) fn signed(self, signature: &'a Signature<'_>) -> Self {
        Self { signature: Some(&signature.value), format: Some(format_of(signature.maker)), ..self }
    }
}

/// What goes with a call that Google has signed.
#[derive(Debug, Serialize)]
pub(super) struct ExtraContent<'a> {
    google: GoogleExtra<'a>,
}

#[derive(Debug, Serialize)]
struct GoogleExtra<'a> {
    thought_signature: &'a str,
}

impl<'a> ExtraContent<'a> {
    /// `None` if the signature is nobody's whose calls are signed.
    pub(super) fn of(signature: Option<&'a Signature<'_>>) -> Option<Self> {
        let signature = signature.filter(|signature| signature.maker == Maker::Google)?;
        Some(Self { google: GoogleExtra { thought_signature: &signature.value } })
    }
}

/// Reads the `extra_content` of a call.
pub(super) fn extra_content<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Signature<'a>>, Wrong> {
    let mut signature = None;
    walk::object(cursor, |name, cursor| {
        if name != "google" {
            return walk::ignore(cursor);
        }
        walk::object(cursor, |name, cursor| {
            if name != "thought_signature" {
                return walk::ignore(cursor);
            }
            signature = Some(Signature { maker: Maker::Google, value: walk::text(cursor)? });
            Ok(())
        })
    })?;
    Ok(signature)
}

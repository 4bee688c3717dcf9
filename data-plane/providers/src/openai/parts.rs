//! Reads what a message says: a text or a list of parts, with pictures, sound and files by address or in place.

use std::borrow::Cow;
use std::ops::Range;

use super::echo::echo;
use super::thoughts;
use super::walk::{self, Room, Wrong};
use crate::chat::request::{CacheMark, Content, Part, Source};
use crate::json::{Cursor, Kind};

/// Longest type, and longest subtype, of a medium (RFC 6838, section 4.2).
const MAX_TYPE_BYTES: usize = 127;

/// Reads a `content`. Texts that are empty say nothing and are left out.
pub(super) fn content<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Part<'a>>, Wrong> {
    let mut parts = Vec::new();
    if cursor.peek()? == Kind::String {
        push(&mut parts, Part::text(walk::text(cursor)?), room)?;
        return Ok(parts);
    }
    walk::list(cursor, |cursor| {
        // Some hosts take bare strings for text parts.
        if cursor.peek()? == Kind::String {
            return push(&mut parts, Part::text(walk::text(cursor)?), room);
        }
        for part in Draft::read(cursor, room)?.parts()? {
            push(&mut parts, part, room)?;
        }
        Ok(())
    })?;
    Ok(parts)
}

fn push<'a>(parts: &mut Vec<Part<'a>>, part: Part<'a>, room: &mut Room) -> Result<(), Wrong> {
    if matches!(&part.content, Content::Text(text) if text.is_empty()) {
        return Ok(());
    }
    room.take()?;
    parts.push(part);
    Ok(())
}

/// A part of which the members have been read, in whatever order they came.
#[derive(Default)]
struct Draft<'a> {
    kind: Option<Cow<'a, str>>,
    text: Option<Cow<'a, str>>,
    refusal: Option<Cow<'a, str>>,
    image: Option<Content<'a>>,
    audio: Option<Content<'a>>,
    file: Option<Content<'a>>,
    thinking: Vec<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    data: Option<Cow<'a, str>>,
    cache: Option<CacheMark>,
}

impl<'a> Draft<'a> {
    fn read(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Self, Wrong> {
        let mut draft = Self::default();
        walk::object(cursor, |name, cursor| {
            match name {
                "type" => draft.kind = Some(walk::text(cursor)?),
                "text" => draft.text = Some(walk::text(cursor)?),
                "refusal" => draft.refusal = Some(walk::text(cursor)?),
                "image_url" => draft.image = Some(image(cursor)?),
                "input_audio" => draft.audio = Some(audio(cursor)?),
                "file" => draft.file = Some(file(cursor)?),
                "thinking" => draft.thinking = thinking(cursor, room)?,
                "signature" => draft.signature = Some(walk::text(cursor)?),
                "data" => draft.data = Some(walk::text(cursor)?),
                "cache_control" => draft.cache = Some(cache_mark(cursor)?),
                // Where an earlier answer found its words, and Mistral's mark of a finished thought.
                "annotations" | "closed" => walk::ignore(cursor)?,
                // What a part of an unknown type holds matters less than that the type is unknown.
                _ if draft.kind.as_deref().is_some_and(|kind| !TYPES.contains(&kind)) => walk::ignore(cursor)?,
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })?;
        Ok(draft)
    }

    /// The members that are given and hold something.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("text", self.text.as_ref().is_some_and(|text| !text.is_empty())),
            ("refusal", self.refusal.as_ref().is_some_and(|text| !text.is_empty())),
            ("image_url", self.image.is_some()),
            ("input_audio", self.audio.is_some()),
            ("file", self.file.is_some()),
            ("thinking", !self.thinking.is_empty()),
            ("signature", self.signature.is_some()),
            ("data", self.data.is_some()),
        ]
        .into_iter()
        .filter_map(|(member, is_given)| is_given.then_some(member))
    }

    /// The parts that it is: a thought in several pieces is several.
    fn parts(self) -> Result<Vec<Part<'a>>, Wrong> {
        let kind = self.kind.as_deref().unwrap_or(match () {
            () if self.image.is_some() => "image_url",
            () if self.audio.is_some() => "input_audio",
            () if self.file.is_some() => "file",
            () => "text",
        });
        let own: &[&str] = match kind {
            "thinking" => &["thinking", "signature"],
            "redacted_thinking" => &["data"],
            known if TYPES.contains(&known) => &[known],
            other => {
                let problem = format!("`{}` cannot be carried to this provider", echo(other));
                return Err(Wrong::here(problem).under("type"));
            }
        };
        if let Some(foreign) = self.given().find(|member| !own.contains(member)) {
            return Err(Wrong::here(format!("does not belong to a part of the type `{kind}`")).under(foreign));
        }
        let (content, member) = match kind {
            "text" => (self.text.map(Content::Text), "text"),
            "refusal" => (self.refusal.map(Content::Refusal), "refusal"),
            "image_url" => (self.image, "image_url"),
            "input_audio" => (self.audio, "input_audio"),
            "file" => (self.file, "file"),
            "thinking" => return Ok(thoughts::blocks(self.thinking, self.signature)),
            _ => return Ok(self.data.map(thoughts::redacted).into_iter().collect()),
        };
        let content = content.ok_or_else(|| Wrong::here("is missing").under(member))?;
        Ok(vec![Part { content, cache: self.cache, signature: None }])
    }
}

/// The types of part that are read.
const TYPES: [&str; 7] = ["text", "refusal", "image_url", "input_audio", "file", "thinking", "redacted_thinking"];

/// A thought in a list of parts: a text, as Anthropic writes it, or a list of texts, as Mistral does.
fn thinking<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<Vec<Cow<'a, str>>, Wrong> {
    if cursor.peek()? == Kind::String {
        return Ok(vec![walk::text(cursor)?]);
    }
    let mut texts = Vec::new();
    walk::list(cursor, |cursor| {
        walk::object(cursor, |name, cursor| {
            match name {
                "text" => {
                    room.take()?;
                    texts.push(walk::text(cursor)?);
                }
                "type" => walk::only(cursor, &["\"text\""])?,
                _ => walk::ignore(cursor)?,
            }
            Ok(())
        })
    })?;
    Ok(texts)
}

/// `cache_control`, as Anthropic has it and gateways pass it on.
pub(super) fn cache_mark(cursor: &mut Cursor<'_>) -> Result<CacheMark, Wrong> {
    let mut mark = CacheMark::FiveMinutes;
    walk::object(cursor, |name, cursor| {
        match name {
            "type" => walk::only(cursor, &["\"ephemeral\""])?,
            "ttl" => {
                mark = match &*walk::text(cursor)? {
                    "5m" => CacheMark::FiveMinutes,
                    "1h" => CacheMark::OneHour,
                    _ => return Err(Wrong::here("must be 5m or 1h")),
                }
            }
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    Ok(mark)
}

fn image<'a>(cursor: &mut Cursor<'a>) -> Result<Content<'a>, Wrong> {
    let (mut source, mut detail) = (None, None);
    if cursor.peek()? == Kind::String {
        source = Some(seen(walk::text(cursor)?)?);
    } else {
        walk::object(cursor, |name, cursor| {
            match name {
                "url" => source = Some(seen(walk::text(cursor)?)?),
                "detail" => detail = Some(walk::text(cursor)?),
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })?;
    }
    let source = source.ok_or_else(|| Wrong::here("is missing").under("url"))?;
    Ok(Content::Image { source, detail })
}

/// Where a picture is. Sound and films have prices of their own, and are not to pass for something cheaper.
fn seen(url: Cow<'_, str>) -> Result<Source<'_>, Wrong> {
    match located(url)? {
        Source::Data { media_type, .. } if ["audio/", "video/"].iter().any(|kind| begins(&media_type, kind)) => {
            Err(Wrong::here(format!("holds {}, which is no picture", echo(&media_type))))
        }
        source => Ok(source),
    }
}

fn audio<'a>(cursor: &mut Cursor<'a>) -> Result<Content<'a>, Wrong> {
    let (mut data, mut format) = (None, Cow::Borrowed("wav"));
    walk::object(cursor, |name, cursor| {
        match name {
            "data" => data = Some(walk::name(cursor)?),
            "format" => format = walk::name(cursor)?,
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    let data = data.ok_or_else(|| Wrong::here("is missing").under("data"))?;
    if begins(&data, "data:") {
        return located(data).map(|source| Content::Audio { source }).map_err(|wrong| wrong.under("data"));
    }
    let media_type = match &*format {
        "wav" => Cow::Borrowed("audio/wav"),
        "mp3" => Cow::Borrowed("audio/mpeg"),
        other if is_type_name(other) => Cow::Owned(format!("audio/{other}")),
        _ => return Err(Wrong::here("is no name of a format").under("format")),
    };
    Ok(Content::Audio { source: Source::Data { media_type, base64: data } })
}

fn file<'a>(cursor: &mut Cursor<'a>) -> Result<Content<'a>, Wrong> {
    let (mut data, mut name) = (None, None);
    walk::object(cursor, |member, cursor| {
        match member {
            "file_data" => data = Some(walk::name(cursor)?),
            // It would be read with the operator's credential, whoever uploaded it.
            "file_id" => {
                let problem = "names a file uploaded to the provider, which belongs to a credential that others share; send it as data";
                return Err(Wrong::here(problem));
            }
            "filename" => name = Some(walk::text(cursor)?),
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    let data = data.ok_or_else(|| Wrong::here("is missing").under("file_data"))?;
    let source = file_data(data, name.as_deref()).map_err(|wrong| wrong.under("file_data"))?;
    Ok(Content::Document { source, name })
}

/// A URL, or bare base64, whose type then its beginning or the file's name tells.
fn file_data<'a>(data: Cow<'a, str>, name: Option<&str>) -> Result<Source<'a>, Wrong> {
    if ["data:", "http://", "https://"].iter().any(|scheme| begins(&data, scheme)) {
        return located(data);
    }
    let extension = name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension.to_ascii_lowercase());
    let media_type = match extension.as_deref() {
        // How `%PDF-` begins in base64.
        _ if data.starts_with("JVBERi") => "application/pdf",
        Some("pdf") => "application/pdf",
        Some("txt") => "text/plain",
        Some("md") => "text/markdown",
        Some("csv") => "text/csv",
        Some("html" | "htm") => "text/html",
        Some("json") => "application/json",
        _ => return Err(Wrong::here("does not say what it is: write it as `data:TYPE;base64,…`")),
    };
    Ok(Source::Data { media_type: Cow::Borrowed(media_type), base64: data })
}

/// An address to fetch from, or a data URL.
fn located(url: Cow<'_, str>) -> Result<Source<'_>, Wrong> {
    if begins(&url, "http://") || begins(&url, "https://") {
        return Ok(Source::Url(url));
    }
    if !begins(&url, "data:") {
        return Err(Wrong::here("must be a URL that begins with https:, http: or data:"));
    }
    let comma = url.find(',').ok_or_else(|| Wrong::here("is a data URL without data"))?;
    let head = url.get("data:".len()..comma).unwrap_or_default();
    let (media_type, parameters) = head.split_once(';').unwrap_or((head, ""));
    if !parameters.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64")) {
        return Err(Wrong::here("is a data URL that is not in base64"));
    }
    let type_end = "data:".len() + media_type.len();
    if media_type.is_empty() {
        return Err(Wrong::here("is a data URL that does not say its media type"));
    }
    if !media_type.split_once('/').is_some_and(|(kind, name)| is_type_name(kind) && is_type_name(name)) {
        return Err(Wrong::here("is a data URL whose media type is none"));
    }
    let mut media_type = slice(&url, "data:".len()..type_end);
    // Types are the same in any case, but not every provider knows that.
    if media_type.bytes().any(|byte| byte.is_ascii_uppercase()) {
        media_type.to_mut().make_ascii_lowercase();
    }
    Ok(Source::Data { media_type, base64: rest(url, comma + 1) })
}

/// Whether it can be the type or the subtype of a medium (RFC 6838, section 4.2).
fn is_type_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins_well && name.len() <= MAX_TYPE_BYTES && name.bytes().all(fits)
}

fn begins(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// A copy where the text is one itself, else a borrow.
fn slice<'a>(text: &Cow<'a, str>, span: Range<usize>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(span).unwrap_or_default()),
        Cow::Owned(text) => Cow::Owned(text.get(span).unwrap_or_default().to_owned()),
    }
}

fn rest(text: Cow<'_, str>, from: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(from..).unwrap_or_default()),
        Cow::Owned(mut text) => {
            text.drain(..from.min(text.len()));
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;

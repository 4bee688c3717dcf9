//! What the messages of a chat request hold, as far as it matters for what they can cost.
//!
//! The summary errs on the dear side: a part that could be read in two ways counts as both.

use crate::json::{Cursor, JsonError, Kind, Text};
use crate::openai::request::RequestError;
use crate::openai::scanner::echo;

/// Most names of unknown part types that are remembered.
const MAX_UNKNOWN: usize = 8;

/// Counts over all messages of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentSummary {
    /// Messages.
    pub messages: usize,
    /// Parts that are images.
    pub image_parts: usize,
    /// Parts that are sound, and references to an earlier spoken answer.
    pub audio_parts: usize,
    /// Parts that are files.
    pub file_parts: usize,
    /// Whether a part names its content by URL or id, so that the body says nothing of its size.
    pub has_remote: bool,
    /// Types of parts that are none of the above and not text: up to 8 names of up to 40 characters.
    pub unknown_parts: Vec<String>,
}

impl ContentSummary {
    /// Whether there is nothing but text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.image_parts == 0 && self.audio_parts == 0 && self.file_parts == 0 && self.unknown_parts.is_empty()
    }

    fn unknown(&mut self, name: &str) {
        let name = echo(name);
        if self.unknown_parts.len() < MAX_UNKNOWN && !self.unknown_parts.contains(&name) {
            self.unknown_parts.push(name);
        }
    }
}

/// What one part has been seen to be.
#[derive(Default)]
struct Part {
    typed: bool,
    image: bool,
    audio: bool,
    file: bool,
}

/// Reads the list of messages that the cursor stands before. The inner error: a message is not an object.
pub(super) fn summarise(cursor: &mut Cursor<'_>) -> Result<Result<ContentSummary, RequestError>, JsonError> {
    let mut summary = ContentSummary::default();
    let mut problem = None;
    let mut messages = cursor.enter();
    while cursor.element(&mut messages)? {
        if cursor.peek()? == Kind::Object {
            message(cursor, &mut summary)?;
        } else {
            let field = format!("messages[{}]", summary.messages);
            let span = cursor.value()?;
            let message = format!("`{field}` must be an object, got {}", echo(cursor.slice(span)));
            problem.get_or_insert(RequestError { field: Some(field), message });
        }
        summary.messages += 1;
    }
    Ok(problem.map_or(Ok(summary), Err))
}

fn message(cursor: &mut Cursor<'_>, summary: &mut ContentSummary) -> Result<(), JsonError> {
    let mut members = cursor.enter();
    while let Some(key) = cursor.key(&mut members)? {
        if key.is("content") {
            content(cursor, summary)?;
            continue;
        }
        // `audio: {"id": …}` puts an earlier spoken answer into the prompt.
        if key.is("audio") && cursor.peek()? != Kind::Null {
            summary.audio_parts += 1;
            summary.has_remote = true;
        }
        cursor.skip()?;
    }
    Ok(())
}

fn content(cursor: &mut Cursor<'_>, summary: &mut ContentSummary) -> Result<(), JsonError> {
    match cursor.peek()? {
        Kind::String | Kind::Null => return cursor.skip(),
        Kind::Array => {}
        Kind::Object | Kind::Number | Kind::Bool(_) => {
            summary.unknown("content that is neither text nor a list");
            return cursor.skip();
        }
    }
    let mut parts = cursor.enter();
    while cursor.element(&mut parts)? {
        match cursor.peek()? {
            Kind::Object => part(cursor, summary)?,
            // Some hosts take bare strings for text parts.
            Kind::String => cursor.skip()?,
            Kind::Array | Kind::Number | Kind::Bool(_) | Kind::Null => {
                summary.unknown("a part that is not an object");
                cursor.skip()?;
            }
        }
    }
    Ok(())
}

fn part(cursor: &mut Cursor<'_>, summary: &mut ContentSummary) -> Result<(), JsonError> {
    let mut part = Part::default();
    let mut members = cursor.enter();
    while let Some(key) = cursor.key(&mut members)? {
        if key.is("type") && cursor.peek()? == Kind::String {
            part.typed = true;
            part_type(cursor.string()?, &mut part, summary);
            continue;
        }
        let media = [("image_url", &mut part.image), ("input_audio", &mut part.audio), ("file", &mut part.file)];
        match media.into_iter().find(|(name, _)| key.is(name)) {
            Some((_, seen)) => {
                *seen = true;
                summary.has_remote |= is_remote(cursor)?;
            }
            None => cursor.skip()?,
        }
    }
    if !(part.typed || part.image || part.audio || part.file) {
        summary.unknown("a part without a type");
    }
    summary.image_parts += usize::from(part.image);
    summary.audio_parts += usize::from(part.audio);
    summary.file_parts += usize::from(part.file);
    Ok(())
}

fn part_type(name: Text<'_>, part: &mut Part, summary: &mut ContentSummary) {
    match name.decode().as_deref() {
        Some("text" | "refusal") => {}
        Some("image_url") => part.image = true,
        Some("input_audio") => part.audio = true,
        Some("file") => part.file = true,
        Some(other) => summary.unknown(other),
        None => summary.unknown("a type that is not Unicode text"),
    }
}

/// Whether a media value, a URL or an object that holds one, points outside the body.
fn is_remote(cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
    match cursor.peek()? {
        Kind::String => Ok(!cursor.string()?.raw().starts_with("data:")),
        Kind::Object => {
            let mut remote = false;
            let mut members = cursor.enter();
            while let Some(key) = cursor.key(&mut members)? {
                if key.is("url") && cursor.peek()? == Kind::String {
                    remote |= !cursor.string()?.raw().starts_with("data:");
                } else {
                    remote |= key.is("file_id") && cursor.peek()? != Kind::Null;
                    cursor.skip()?;
                }
            }
            Ok(remote)
        }
        Kind::Array | Kind::Number | Kind::Bool(_) | Kind::Null => cursor.value().map(|_| false),
    }
}

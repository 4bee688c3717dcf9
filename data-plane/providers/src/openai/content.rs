//! What the messages of a chat request hold, as far as it matters for what they can cost.
//!
//! The summary errs on the dear side: a part that could be read in two ways counts as both.

use crate::json::{Cursor, JsonError, Kind, Text};
use crate::openai::echo::echo;
use crate::picture::{self, Size};
use crate::refusal::RequestError;
use crate::{sound, tally};

/// Most names of unknown part types that are remembered.
const MAX_UNKNOWN: usize = 8;
/// Most pictures of which size and detail are remembered; hosts take at most 500.
const MAX_PICTURES: usize = 512;
/// How many bytes of a data URL are looked at for its media type.
const MAX_TYPE_BYTES: usize = 64;
/// The member that marks a part, a message or a tool.
pub(super) const CACHE_MARK: &str = "cache_control";
/// Roles whose content templates show as it is. That of others, such as a tool's result, may be shown as a JSON string.
const PLAIN_ROLES: [&str; 4] = ["user", "system", "assistant", "developer"];

/// Counts over all messages of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentSummary {
    /// Messages.
    pub messages: usize,
    /// Parts of contents that are lists.
    pub parts: usize,
    /// Bytes of all that a template can show of the messages but media: texts, names of roles, tool calls, unknown members.
    pub text_bytes: u64,
    /// Parts that are images.
    pub image_parts: usize,
    /// What is known of the first 512 of them; each part has at most one.
    pub pictures: Vec<Picture>,
    /// Parts that are sound, and references to an earlier spoken answer.
    pub audio_parts: usize,
    /// Those of them whose length is known.
    pub timed_audio_parts: usize,
    /// How long those are together at most, in milliseconds.
    pub audio_millis: u64,
    /// Parts that are files.
    pub file_parts: usize,
    /// Pictures and files of which the body does not say, by their media type, that they are no sound.
    pub untyped_parts: usize,
    /// Results of functions.
    pub results: usize,
    /// Whether anything is marked as worth keeping in the provider's cache.
    pub cache_marks: bool,
    /// Whether a part names its content by URL or id, so that the body says nothing of its size.
    pub has_remote: bool,
    /// Types of parts that are none of the above and not text: up to 8 names of up to 40 characters.
    pub unknown_parts: Vec<String>,
}

/// What is known of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its size, if the body holds the picture and says it.
    pub size: Option<Size>,
    /// Whether low detail was asked for.
    pub is_low_detail: bool,
    /// Bytes of its value in the body.
    pub value_bytes: u64,
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

/// Bytes of text, as meant and as written.
#[derive(Clone, Copy, Default)]
struct Bytes {
    meant: u64,
    written: u64,
}

impl Bytes {
    fn add(&mut self, text: Text<'_>) {
        self.meant = self.meant.saturating_add(text.decoded_len() as u64);
        self.written = self.written.saturating_add(text.raw().len() as u64);
    }

    /// A value that is not a text: shown as JSON, if at all.
    fn add_json(&mut self, json: &str) {
        let bytes = tally::rendered(json);
        self.meant = self.meant.saturating_add(bytes);
        self.written = self.written.saturating_add(bytes);
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
    let (mut bytes, mut shown_plainly) = (Bytes::default(), None);
    let mut members = cursor.enter();
    while let Some(key) = cursor.key(&mut members)? {
        let kind = cursor.peek()?;
        if key.is("content") {
            content(cursor, summary, &mut bytes)?;
        } else if key.is("role") && kind == Kind::String {
            let role = cursor.string()?;
            summary.results += usize::from(role.is("tool") || role.is("function"));
            let is_plain = PLAIN_ROLES.iter().any(|plain| role.is(plain));
            shown_plainly = Some(is_plain && shown_plainly != Some(false));
            bytes.add(role);
        } else if kind == Kind::Null {
            cursor.skip()?;
        } else {
            // `audio: {"id": …}` puts an earlier spoken answer into the prompt.
            if key.is("audio") {
                summary.audio_parts += 1;
                summary.has_remote = true;
            }
            summary.cache_marks |= key.is(CACHE_MARK);
            let span = cursor.value()?;
            bytes.add(key);
            bytes.add_json(cursor.slice(span));
        }
    }
    let bytes = if shown_plainly == Some(true) { bytes.meant } else { bytes.written };
    summary.text_bytes = summary.text_bytes.saturating_add(bytes);
    Ok(())
}

fn content(cursor: &mut Cursor<'_>, summary: &mut ContentSummary, bytes: &mut Bytes) -> Result<(), JsonError> {
    match cursor.peek()? {
        Kind::String => {
            bytes.add(cursor.string()?);
            return Ok(());
        }
        Kind::Null => return cursor.skip(),
        Kind::Array => {}
        Kind::Object | Kind::Number | Kind::Bool(_) => {
            summary.unknown("content that is neither text nor a list");
            let span = cursor.value()?;
            bytes.add_json(cursor.slice(span));
            return Ok(());
        }
    }
    let mut parts = cursor.enter();
    while cursor.element(&mut parts)? {
        summary.parts += 1;
        match cursor.peek()? {
            Kind::Object => part(cursor, summary, bytes)?,
            // Some hosts take bare strings for text parts.
            Kind::String => bytes.add(cursor.string()?),
            Kind::Array | Kind::Number | Kind::Bool(_) | Kind::Null => {
                summary.unknown("a part that is not an object");
                let span = cursor.value()?;
                bytes.add_json(cursor.slice(span));
            }
        }
    }
    Ok(())
}

fn part(cursor: &mut Cursor<'_>, summary: &mut ContentSummary, bytes: &mut Bytes) -> Result<(), JsonError> {
    let mut part = Part::default();
    let mut media = Media::default();
    let mut members = cursor.enter();
    while let Some(key) = cursor.key(&mut members)? {
        let kind = cursor.peek()?;
        if key.is("type") && kind == Kind::String {
            part.typed = true;
            part_type(cursor.string()?, &mut part, summary);
        } else if kind == Kind::String && (key.is("text") || key.is("refusal")) {
            bytes.add(cursor.string()?);
        } else if key.is("image_url") {
            part.image = true;
            media.read(cursor)?;
        } else if key.is("input_audio") {
            part.audio = true;
            media.read(cursor)?;
        } else if key.is("file") {
            part.file = true;
            media.read(cursor)?;
        } else {
            summary.cache_marks |= kind != Kind::Null && key.is(CACHE_MARK);
            let span = cursor.value()?;
            bytes.add_json(cursor.slice(span));
        }
    }
    if !(part.typed || part.image || part.audio || part.file) {
        summary.unknown("a part without a type");
    }
    summary.has_remote |= media.is_remote;
    if part.image {
        summary.image_parts += 1;
        if summary.pictures.len() < MAX_PICTURES {
            summary.pictures.push(media.picture());
        }
    }
    if part.audio {
        summary.audio_parts += 1;
        if let Some(millis) = media.millis() {
            summary.timed_audio_parts += 1;
            summary.audio_millis = summary.audio_millis.saturating_add(millis);
        }
    }
    summary.file_parts += usize::from(part.file);
    summary.untyped_parts += usize::from((part.image || part.file) && !media.is_silent());
    Ok(())
}

fn part_type(name: Text<'_>, part: &mut Part, summary: &mut ContentSummary) {
    match name.decode().as_deref() {
        // Reasoning of an earlier answer, as Mistral's models write it, is text.
        Some("text" | "refusal" | "thinking") => {}
        Some("image_url") => part.image = true,
        Some("input_audio") => part.audio = true,
        Some("file") => part.file = true,
        Some(other) => summary.unknown(other),
        None => summary.unknown("a type that is not Unicode text"),
    }
}

/// The value of a media part: a URL, or an object that holds one or the content itself.
#[derive(Default)]
struct Media<'a> {
    /// The text that holds or names the content. Empty if there is none.
    content: &'a str,
    format: &'a str,
    is_low_detail: bool,
    is_remote: bool,
    value_bytes: u64,
    /// Whether something was given twice, so that it is not known which the host takes.
    is_ambiguous: bool,
}

impl<'a> Media<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        self.is_ambiguous |= self.value_bytes > 0;
        let kind = cursor.peek()?;
        let start = cursor.at();
        match kind {
            Kind::String => self.url(cursor.string()?),
            Kind::Object => self.members(cursor)?,
            Kind::Array | Kind::Number | Kind::Bool(_) | Kind::Null => cursor.skip()?,
        }
        self.value_bytes = self.value_bytes.saturating_add((cursor.at() - start) as u64);
        Ok(())
    }

    fn members(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        let mut detail = None;
        let mut members = cursor.enter();
        while let Some(key) = cursor.key(&mut members)? {
            let kind = cursor.peek()?;
            if (key.is("url") || key.is("file_data")) && kind == Kind::String {
                self.url(cursor.string()?);
            } else if key.is("data") && kind == Kind::String {
                self.content(cursor.string()?);
            } else if key.is("format") && kind == Kind::String {
                self.is_ambiguous |= !self.format.is_empty();
                self.format = cursor.string()?.raw();
            } else if key.is("detail") {
                self.is_ambiguous |= detail.is_some();
                detail = Some(kind == Kind::String && cursor.clone().string()?.is("low"));
                cursor.skip()?;
            } else {
                self.is_remote |= key.is("file_id") && kind != Kind::Null;
                cursor.skip()?;
            }
        }
        self.is_low_detail = detail == Some(true);
        Ok(())
    }

    fn url(&mut self, url: Text<'a>) {
        self.is_remote |= !url.raw().starts_with("data:");
        self.content(url);
    }

    fn content(&mut self, content: Text<'a>) {
        self.is_ambiguous |= !self.content.is_empty();
        self.content = content.raw();
    }

    fn picture(&self) -> Picture {
        let is_known = !self.is_ambiguous;
        Picture {
            size: if is_known { picture::size_in_data_url(self.content) } else { None },
            is_low_detail: is_known && self.is_low_detail,
            value_bytes: self.value_bytes,
        }
    }

    /// Whether its media type is that of a picture or a document. Bare base64 is sent as a document only.
    fn is_silent(&self) -> bool {
        const SILENT: [&str; 4] = ["image/", "text/", "application/pdf", "application/json"];
        let head = self.content.get(..self.content.len().min(MAX_TYPE_BYTES)).unwrap_or_default();
        let is_typed = head.strip_prefix("data:").is_some_and(|media_type| {
            let media_type = media_type.replace("\\/", "/");
            SILENT.iter().any(|silent| media_type.starts_with(silent))
        });
        let is_bare = !self.content.is_empty() && memchr::memchr2(b':', b'\\', self.content.as_bytes()).is_none();
        !self.is_ambiguous && (is_typed || is_bare)
    }

    fn millis(&self) -> Option<u64> {
        if self.is_ambiguous { None } else { sound::most_millis(self.format, self.content) }
    }
}

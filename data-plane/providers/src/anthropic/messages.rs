//! The conversation as `system` and `messages`, by the API's rules.
//!
//! * What systems and developers say before anybody else is the system prompt. What they say later stays where it is said, within
//!   `<system>` tags in the user's turn: only some models take a system's turn there, and moving it to the front would change both what
//!   it refers to and the part of the prompt that is cached.
//! * Turns of one side that follow each other are one; results of tools come first in a turn, thoughts too.
//! * A participant's name, which no turn can carry, is a text before what it says.
//! * The API refuses texts without a letter: they are left out, and so are turns in which nothing is left.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::thinking::is_own_thought;
use super::wire::{Author, Block, CacheControl, Input, Message, Source};
use crate::chat::request::{self as hub, Content, Maker, Part, Role, ToolCall, ToolResult, Turn};
use crate::refusal::RequestError;

/// Stands for the user where the assistant is the first to speak, which the API does not take.
const OPENING: &str = "(The conversation begins with the assistant.)";
/// Longest tool id that is passed on as it is.
const MAX_ID_BYTES: usize = 128;

/// A conversation as the API takes it.
#[derive(Debug, Default)]
pub(super) struct Conversation<'r> {
    pub(super) system: Vec<Block<'r>>,
    pub(super) messages: Vec<Message<'r>>,
}

/// Writes the turns. `thinks`: whether earlier thoughts are wanted.
pub(super) fn write<'r>(turns: &'r [Turn<'r>], thinks: bool) -> Result<Conversation<'r>, RequestError> {
    let mut conversation = Conversation::default();
    for turn in turns {
        conversation.turn(turn, thinks)?;
    }
    conversation.finish()
}

impl<'r> Conversation<'r> {
    fn turn(&mut self, turn: &'r Turn<'r>, thinks: bool) -> Result<(), RequestError> {
        let mut blocks = Vec::with_capacity(turn.parts.len());
        match turn.role {
            Role::System | Role::Developer => {
                let leads = self.messages.is_empty();
                // Tags go around the turn, not each part: the bound of a part has no room for them.
                let last = turn.parts.len().saturating_sub(1);
                for (at, part) in turn.parts.iter().enumerate() {
                    let text = said(turn, part)?;
                    let open = if at == 0 && !leads { "<system>" } else { "" };
                    let close = if at == last && !leads { "</system>" } else { "" };
                    let is_bare = open.is_empty() && close.is_empty();
                    let text = if is_bare { Cow::Borrowed(text) } else { Cow::Owned(format!("{open}{text}{close}")) };
                    blocks.extend(text_block(text, part));
                }
                if leads {
                    self.system.append(&mut blocks);
                }
                self.push(Author::User, blocks);
            }
            Role::User => {
                let name = turn.name.as_deref().filter(|name| !name.trim().is_empty());
                if turn.parts.iter().any(|part| !matches!(part.content, Content::ToolResult(_))) {
                    blocks.extend(name.map(|name| Block::text(format!("{name}:"))));
                }
                for part in &turn.parts {
                    blocks.extend(self.user(turn, part)?);
                }
                self.push(Author::User, blocks);
            }
            Role::Assistant => {
                for part in &turn.parts {
                    blocks.extend(assistant(turn, part, thinks)?);
                }
                self.push(Author::Assistant, blocks);
            }
        }
        Ok(())
    }

    fn push(&mut self, role: Author, content: Vec<Block<'r>>) {
        match self.messages.last_mut() {
            _ if content.is_empty() => {}
            Some(last) if last.role == role => last.content.extend(content),
            _ => self.messages.push(Message { role, content }),
        }
    }

    fn user(&mut self, turn: &Turn<'_>, part: &'r Part<'r>) -> Result<Option<Block<'r>>, RequestError> {
        match &part.content {
            Content::ToolResult(result) => self.result(turn, result, mark(part)).map(Some),
            Content::Native { maker: Maker::Anthropic, block } => Ok(Some(Block::Native(block))),
            Content::Native { .. } | Content::Thinking(_) | Content::RedactedThinking(_) => Ok(None),
            _ => self.shown(turn, part),
        }
    }

    /// What both a user and a tool can show.
    fn shown(&mut self, turn: &Turn<'_>, part: &'r Part<'r>) -> Result<Option<Block<'r>>, RequestError> {
        let cache_control = mark(part);
        match &part.content {
            Content::Text(text) | Content::Refusal(text) => Ok(text_block(Cow::Borrowed(text), part)),
            Content::Image { source, .. } if is_picture(source) => {
                let source = self.source(source, image_type);
                Ok(Some(Block::Image { source, cache_control }))
            }
            Content::Image { source, .. } => {
                if !is_pdf(source) {
                    return Err(refuse(
                        turn,
                        "holds an `image_url` that is neither picture nor PDF; send files as `file`",
                    ));
                }
                let source = self.document(turn, source)?;
                Ok(source.map(|source| Block::Document { source, title: None, cache_control }))
            }
            Content::Document { source, name } => {
                let Some(source) = self.document(turn, source)? else { return Ok(None) };
                let title = name.as_deref().filter(|name| !name.trim().is_empty());
                Ok(Some(Block::Document { source, title, cache_control }))
            }
            Content::Audio { .. } => Err(refuse(turn, "holds audio, which Anthropic's models do not take")),
            _ => Err(refuse(turn, "holds a part that does not belong into this role")),
        }
    }

    fn result(
        &mut self,
        turn: &Turn<'_>,
        result: &'r ToolResult<'r>,
        cache_control: Option<CacheControl>,
    ) -> Result<Block<'r>, RequestError> {
        let mut content = Vec::with_capacity(result.parts.len());
        for part in &result.parts {
            content.extend(self.shown(turn, part)?);
        }
        Ok(Block::ToolResult {
            tool_use_id: tool_id(&result.call_id),
            content,
            is_error: result.is_error,
            cache_control,
        })
    }

    fn document(&mut self, turn: &Turn<'_>, source: &'r hub::Source<'r>) -> Result<Option<Source<'r>>, RequestError> {
        let hub::Source::Data { media_type, base64 } = source else {
            return Ok(Some(self.source(source, |media_type| media_type)));
        };
        let bare = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if is_pdf(source) {
            return Ok(Some(Source::Base64 { media_type: "application/pdf", data: base64 }));
        }
        if !bare.starts_with("text/") && bare != "application/json" {
            return Err(refuse(
                turn,
                "holds a file that is neither PDF nor text, which Anthropic's models do not take",
            ));
        }
        let text = STANDARD.decode(base64.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let data = text.ok_or_else(|| refuse(turn, "holds a file of text that is not UTF-8 in base64"))?;
        Ok((!data.trim().is_empty()).then_some(Source::Text { media_type: "text/plain", data }))
    }

    fn source(&mut self, source: &'r hub::Source<'r>, media_type_of: fn(&'r str) -> &'r str) -> Source<'r> {
        match source {
            hub::Source::Url(url) => Source::Url { url },
            hub::Source::Data { media_type, base64 } => {
                Source::Base64 { media_type: media_type_of(media_type), data: base64 }
            }
        }
    }

    /// Puts blocks into the order that the API wants, and sees to it that the user speaks first.
    fn finish(mut self) -> Result<Self, RequestError> {
        for message in &mut self.messages {
            match message.role {
                Author::User => message.content.sort_by_key(|block| !matches!(block, Block::ToolResult { .. })),
                // Thoughts among other blocks are where the model put them, unless something else comes first.
                Author::Assistant if message.content.first().is_some_and(Block::is_thinking) => {}
                Author::Assistant => message.content.sort_by_key(|block| !block.is_thinking()),
            }
        }
        self.trim_end();
        if self.messages.is_empty() {
            self.messages.push(Message { role: Author::User, content: std::mem::take(&mut self.system) });
        }
        let first = self.messages.first();
        if first.is_none_or(|first| first.content.is_empty()) {
            let message = "`messages` must hold a text that is not empty".to_owned();
            return Err(RequestError { field: Some("messages".to_owned()), message });
        }
        if first.is_some_and(|first| first.role == Author::Assistant) {
            self.messages.insert(0, Message { role: Author::User, content: vec![Block::text(OPENING)] });
        }
        Ok(self)
    }

    /// The API refuses white space at the end of the words that an answer is to go on from.
    fn trim_end(&mut self) {
        let Some(Message { role: Author::Assistant, content }) = self.messages.last_mut() else { return };
        if let Some(Block::Text { text, .. }) = content.last_mut() {
            let length = text.trim_end().len();
            match text {
                Cow::Borrowed(text) => *text = &text[..length],
                Cow::Owned(text) => text.truncate(length),
            }
        }
    }
}

fn assistant<'r>(turn: &Turn<'_>, part: &'r Part<'r>, thinks: bool) -> Result<Option<Block<'r>>, RequestError> {
    Ok(match &part.content {
        Content::Text(text) | Content::Refusal(text) => text_block(Cow::Borrowed(text), part),
        Content::ToolCall(call) => Some(Block::ToolUse {
            id: tool_id(&call.id),
            name: &call.name,
            input: input(call),
            cache_control: mark(part),
        }),
        _ if is_own_thought(part) && !thinks => None,
        Content::Thinking(thinking) if is_own_thought(part) => {
            part.signature.as_ref().map(|own| Block::Thinking { thinking, signature: &own.value })
        }
        Content::RedactedThinking(data) if is_own_thought(part) => Some(Block::RedactedThinking { data }),
        Content::Native { maker: Maker::Anthropic, block } => Some(Block::Native(block)),
        // What others thought and did is for them alone.
        Content::Thinking(_) | Content::RedactedThinking(_) | Content::Native { .. } => None,
        Content::Image { .. } | Content::Audio { .. } | Content::Document { .. } | Content::ToolResult(_) => {
            return Err(refuse(turn, "holds a part that Anthropic's models take from users alone"));
        }
    })
}

fn said<'r>(turn: &Turn<'_>, part: &'r Part<'r>) -> Result<&'r str, RequestError> {
    match &part.content {
        Content::Text(text) => Ok(text),
        _ => Err(refuse(turn, "holds something other than text, which Anthropic's models take from users alone")),
    }
}

fn text_block<'r>(text: Cow<'r, str>, part: &Part<'_>) -> Option<Block<'r>> {
    (!text.trim().is_empty()).then(|| Block::Text { text, cache_control: mark(part) })
}

fn mark(part: &Part<'_>) -> Option<CacheControl> {
    part.cache.map(Into::into)
}

fn input<'r>(call: &'r ToolCall<'r>) -> Input<'r> {
    match serde_json::from_str::<&RawValue>(&call.arguments) {
        Ok(object) if object.get().starts_with('{') => Input::Object(object),
        _ => Input::Unparsed { unparsed_arguments: &call.arguments },
    }
}

/// The API takes letters, digits, `_` and `-`. Another id gets a name made of it, the same for the call and its result.
fn tool_id(id: &str) -> Cow<'_, str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(fits) {
        return Cow::Borrowed(id);
    }
    // FNV-1a, 64 bits.
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Cow::Owned(format!("call_{hash:016x}"))
}

/// Whether it can be a picture: what is at an address is for the provider to see.
fn is_picture(source: &hub::Source<'_>) -> bool {
    match source {
        hub::Source::Url(_) => true,
        hub::Source::Data { media_type, .. } => {
            media_type.get(.."image/".len()).is_some_and(|kind| kind.eq_ignore_ascii_case("image/"))
        }
    }
}

fn is_pdf(source: &hub::Source<'_>) -> bool {
    matches!(source, hub::Source::Data { media_type, .. } if media_type.trim().eq_ignore_ascii_case("application/pdf"))
}

fn image_type(media_type: &str) -> &str {
    if media_type.eq_ignore_ascii_case("image/jpg") { "image/jpeg" } else { media_type }
}

fn refuse(turn: &Turn<'_>, what: &str) -> RequestError {
    let field = format!("messages[{}]", turn.at);
    RequestError { message: format!("`{field}` {what}"), field: Some(field) }
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
